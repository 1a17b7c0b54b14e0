//! What the rule engine costs, without a kernel and without rights: one line of JSON for each figure, which
//! `cargo xtask bench` puts into its table.
//!
//! Every round measures every figure once, in an order that turns round, so that a change of the machine's mood hits all of
//! them. Times are those of the processor, for the engine is one thread that waits for nothing. It must not judge: on a shared host a time is no test.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use jiff::civil::{Date, date};
use serde_json::json;
use weighbridge::{
    event::{
        Asset, AssetId, AssetKind, AssetSet, BootNs, Control, Dev, Event, HolderId, ObjectId, Process, Proto,
        Record, RecordKind, Sink, SinkKey, SinkKind, Source,
    },
    recording::{Header, Reader, Writer, replay},
    rules::{Engine, RuleSet},
    yaml,
};

const TODAY: Date = date(2026, 11, 22);
const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;
/// Different records that are put through again and again, so that they stay in the processor's cache as those of a drain do.
const KINDS_OF_RECORDS: u64 = 1024;
const WINDOWS: usize = 100_000;
/// Below the most that one sum keeps.
const WINDOWS_OF_A_RULE: usize = 1000;

struct Figure {
    name: &'static str,
    unit: &'static str,
    asked: &'static str,
    measure: fn(&Inputs) -> Result<f64>,
    values: Vec<f64>,
}

/// What is measured with, made once.
struct Inputs {
    records: Vec<Record>,
    times: u64,
    core: Arc<RuleSet>,
    by_asset: Arc<RuleSet>,
    by_network: Arc<RuleSet>,
    by_prefix: Arc<RuleSet>,
    by_glob: Arc<RuleSet>,
    by_regex: Arc<RuleSet>,
    by_ending: Arc<RuleSet>,
    thousand: Vec<(PathBuf, String)>,
    recording: Vec<u8>,
    statements: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["windows", buckets] => buckets.parse().map_err(anyhow::Error::from).and_then(fill_windows),
        // For a profiler.
        ["--only", name] => all(1, true, name),
        ["--quick"] => all(3, true, ""),
        [] => all(9, false, ""),
        _ => Err(anyhow!("usage: engine [--quick | --only PART-OF-A-NAME]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn all(rounds: usize, quick: bool, only: &str) -> Result<()> {
    let inputs = Inputs::make(if quick { 100_000 } else { 1_000_000 })?;
    let figure = |name, unit, asked, measure| Figure { name, unit, asked, measure, values: Vec::new() };
    let mut figures = [
        figure(
            "replay, built-in rules",
            "M records/s",
            "at least 1.5",
            replayed as fn(&Inputs) -> Result<f64>,
        ),
        figure("engine, built-in rules, a record", "ns", "", |with| observed(with, &with.core)),
        figure("engine, 500 rules, a record", "ns", "at most 3000", |with| observed(with, &with.by_asset)),
        figure("engine, 500 rules by network, a record", "ns", "at most 3000", |with| {
            observed(with, &with.by_network)
        }),
        figure("engine, 500 rules by prefix, a record", "ns", "at most 3000", |with| {
            observed(with, &with.by_prefix)
        }),
        figure("engine, 500 rules by glob, a record", "ns", "at most 3000", |with| {
            observed(with, &with.by_glob)
        }),
        figure("engine, 500 rules by regular expression, a record", "ns", "at most 3000", |with| {
            observed(with, &with.by_regex)
        }),
        figure("engine, 500 rules by ending, a record", "ns", "at most 3000", |with| {
            observed(with, &with.by_ending)
        }),
        figure("compile 1,000 rules", "ms", "under 100", compiled),
        figure("100,000 windows of one record", "MiB", "at most 64", |_| windows(1)),
        figure("100,000 windows that are full", "MiB", "at most 64", |_| windows(33)),
    ];
    fn wanted<'f>(
        figures: &'f mut [Figure; 11],
        only: &str,
    ) -> impl DoubleEndedIterator<Item = &'f mut Figure> {
        figures.iter_mut().filter(move |figure| figure.name.contains(only))
    }
    for round in 0..rounds {
        eprintln!("engine, round {} of {rounds}", round + 1);
        let measure = |figure: &mut Figure| -> Result<()> {
            let value =
                (figure.measure)(&inputs).with_context(|| format!("cannot measure `{}`", figure.name))?;
            figure.values.push(value);
            Ok(())
        };
        if round % 2 == 0 {
            wanted(&mut figures, only).try_for_each(measure)?;
        } else {
            wanted(&mut figures, only).rev().try_for_each(measure)?;
        }
    }
    for figure in wanted(&mut figures, only) {
        println!(
            "{}",
            json!({"name": figure.name, "unit": figure.unit, "asked": figure.asked, "values": figure.values})
        );
    }
    Ok(())
}

/// Millions of records a second through the reading of a recording, the ledger, the built-in rules and the alerts.
fn replayed(with: &Inputs) -> Result<f64> {
    let mut reader = Reader::new(with.recording.as_slice(), Path::new("recording"))?;
    let start = used();
    let done = replay(&mut reader, &with.core);
    let took = (used() - start).as_secs_f64();
    ensure!(done.damage.is_none() && done.statements == with.statements, "the recording was not read whole");
    Ok(done.records as f64 / took / 1e6)
}

/// Nanoseconds of one record in the engine alone; windows pass with the records' own time.
fn observed(with: &Inputs, rules: &Arc<RuleSet>) -> Result<f64> {
    let mut engine = Engine::new(Arc::clone(rules));
    let (mut matches, mut resolved) = (Vec::new(), Vec::new());
    let mut records = with.records.clone();
    let rounds = with.times / KINDS_OF_RECORDS;
    let start = used();
    for round in 0..rounds {
        for record in &mut records {
            record.at = BootNs((100 + round) * SECOND);
            engine.observe(record, &mut matches);
        }
        matches.clear();
        engine.expire(BootNs((100 + round) * SECOND), &mut resolved);
        resolved.clear();
    }
    Ok((used() - start).as_nanos() as f64 / (rounds * KINDS_OF_RECORDS) as f64)
}

/// What this thread used of the processor.
fn used() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // Neither is ever negative.
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn compiled(with: &Inputs) -> Result<f64> {
    let start = used();
    let rules = Arc::new(rule_set(&with.thousand)?);
    let engine = Engine::new(Arc::clone(&rules));
    let took = (used() - start).as_secs_f64() * 1e3;
    ensure!(engine.rules().rules().len() == 1000, "not all rules were read");
    Ok(took)
}

/// What the windows add to the resident memory of a process of their own.
fn windows(buckets: u64) -> Result<f64> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let done =
        Command::new(me).args(["windows", &buckets.to_string()]).output().context("cannot start it again")?;
    ensure!(done.status.success(), "it failed: {}", String::from_utf8_lossy(&done.stderr));
    let bytes: u64 = String::from_utf8_lossy(&done.stdout).trim().parse().context("it printed no number")?;
    Ok(bytes as f64 / MIB as f64)
}

/// The other side of [`windows`]: fills them, and prints the bytes.
fn fill_windows(buckets: u64) -> Result<()> {
    let rules = WINDOWS / WINDOWS_OF_A_RULE;
    let texts = [(
        PathBuf::from("windows.yaml"),
        pack(0..rules, |n| {
            format!(
                "    match: {{sink.kind: file, asset.name: model-{n}}}
    aggregate: {{sum: bound, by: [asset.name, sink.device], over: 33s, tiers: [{{gte: 1TiB, severity: low}}]}}
    group_by: [asset.name, sink.device]
"
            )
        }),
    )];
    let mut engine = Engine::new(Arc::new(rule_set(&texts)?));
    let assets: Vec<Arc<Asset>> = (0..rules).map(asset).collect();
    let devices: Vec<Arc<Sink>> = (0..WINDOWS_OF_A_RULE)
        .map(|n| {
            Arc::new(Sink {
                device: Some(format!("8:{n}")),
                ..Sink::new(SinkKind::File, Control::Uncontrolled)
            })
        })
        .collect();
    let process = Arc::new(process(1));
    let mut matches = Vec::new();
    let before = resident()?;
    for second in 0..buckets {
        for asset in &assets {
            for sink in &devices {
                let record =
                    record(RecordKind::Flow, 100 + second, asset, &process, Some(Arc::clone(sink)), 1000);
                engine.observe(&record, &mut matches);
            }
        }
    }
    let after = resident()?;
    ensure!(
        engine.group_count() == WINDOWS && engine.evicted() == 0,
        "there are {} windows",
        engine.group_count()
    );
    println!("{}", after.saturating_sub(before));
    Ok(())
}

fn resident() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("no number of pages")?.parse()?;
    Ok(pages * 4096)
}

impl Inputs {
    fn make(times: u64) -> Result<Self> {
        let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
        let core = RuleSet::load(&[core], TODAY).map_err(|faults| anyhow!(yaml::render(&faults, false)))?;
        let by_asset = pack(0..500, |n| {
            format!("    match:
      asset.name: model-{}
      sink.kind: [peer, file]
      sink.control|not_in: [controlled, memory, process]
      process.executable|not_in: [/usr/bin/job{n}, /usr/bin/backup{n}]
    aggregate: {{sum: bound, by: [asset.name, sink.address], over: 10m, tiers: [{{gte: 100GiB, severity: high}}]}}
    group_by: [asset.name, sink.address]
", n % 50)
        });
        let by_network = pack(0..500, |n| {
            format!("    match:
      sink.address|cidr: 198.{}.{}.0/24
      sink.control|not_in: [controlled, memory, process]
    aggregate: {{sum: bound, by: [asset.name, sink.address], over: 10m, tiers: [{{gte: 100GiB, severity: high}}]}}
    group_by: [asset.name, sink.address]
", 18 + n / 256, n % 256)
        });
        // One condition each, on the program.
        let by_program = |name: &str, condition: fn(usize) -> String| {
            let text = pack(0..500, |n| {
                format!(
                    "    match: {{process.executable|{}}}
    aggregate: {{sum: bound, by: [asset.name, sink.address], over: 10m, tiers: [{{gte: 100GiB, severity: high}}]}}
    group_by: [asset.name, sink.address]
",
                    condition(n)
                )
            });
            rule_set(&[(name.into(), text)]).map(Arc::new)
        };
        let thousand = (0..4).map(|part| {
            let text = pack(part * 250..(part + 1) * 250, |n| format!("    match:
      asset.name: model-{}
      sink.kind: [peer, file]
      sink.control|not_in: [controlled, memory, process]
      sink.address|not_cidr: [10.{}.0.0/16, 192.0.2.0/24]
      process.executable|glob: /opt/job{n}/**
    aggregate: {{sum: bound, by: [asset.name, sink.address], over: 10m, tiers: [{{gte: 1MiB, severity: low}}, {{gte_share: 0.01, floor: 16MiB, severity: high}}]}}
    group_by: [asset.name, sink.address]
    suppress: 15m
", n % 50, n % 256));
            (PathBuf::from(format!("part{part}.yaml")), text)
        });
        let recording = recording(times)?;
        Ok(Self {
            records: records(),
            times,
            core: Arc::new(core),
            by_asset: Arc::new(rule_set(&[("by_asset.yaml".into(), by_asset)])?),
            by_prefix: by_program("by_prefix.yaml", |n| format!("startswith: /usr/bin/job{n}/"))?,
            by_glob: by_program("by_glob.yaml", |n| format!("glob: '/usr/*/job{n}/**'"))?,
            by_regex: by_program("by_regex.yaml", |n| format!("re: '/job{n}(-[0-9.]+)?$'"))?,
            by_ending: by_program("by_ending.yaml", |n| format!("endswith: /job{n}"))?,
            by_network: Arc::new(rule_set(&[("by_network.yaml".into(), by_network)])?),
            thousand: thousand.collect(),
            statements: recording.1,
            recording: recording.0,
        })
    }
}

fn rule_set(sources: &[(PathBuf, String)]) -> Result<RuleSet> {
    RuleSet::parse(sources, TODAY).map_err(|faults| anyhow!(yaml::render(&faults, false)))
}

/// Rules for flows; `body` writes each from its `match` on.
fn pack(numbers: std::ops::Range<usize>, body: impl Fn(usize) -> String) -> String {
    let mut text = String::from("schema: 1\npack: bench\nrules:\n");
    for n in numbers {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - id: BENCH-{n:04}
    revision: 1
    title: A rule of the bench
    severity: low
    status: test
    mode: alert
    owner: bench
    runbook: none
    on: flow
{}",
            body(n)
        );
    }
    text
}

fn asset(n: usize) -> Arc<Asset> {
    Arc::new(Asset {
        id: AssetId(u8::try_from(n % 50).unwrap_or(0)),
        name: format!("model-{n}"),
        kind: AssetKind::Weights,
        bytes: 141_000_000_000,
        most: 141_000_000_000,
        has_readers: true,
    })
}

fn process(pid: u32) -> Process {
    Process {
        pid,
        exe: format!("/usr/bin/server{}", pid % 8),
        cmdline: "server --model /models/llm".to_owned(),
        unit: Some("server.service".to_owned()),
        ..Process::host()
    }
}

fn record(
    kind: RecordKind,
    second: u64,
    asset: &Arc<Asset>,
    process: &Arc<Process>,
    sink: Option<Arc<Sink>>,
    bytes: u64,
) -> Record {
    Record {
        kind,
        at: BootNs(second * SECOND),
        asset: Arc::clone(asset),
        holder: HolderId { tgid: process.pid, exec: 0, start: BootNs(1) },
        process: Arc::clone(process),
        sink,
        bytes,
        act: None,
        victim: None,
        listed: true,
        lineage: Arc::new(Vec::new()),
    }
}

/// What a busy server makes: half of it stays in memory and pipes, a quarter goes to controlled places, an eighth is answers to
/// 64 clients that count in windows and cross no line, an eighth is reads.
fn sinks() -> Vec<(SinkKey, Sink)> {
    let object = |ino| ObjectId { dev: Dev::new(0, 24), ino, generation: 0 };
    let peer = |n: u8, control| {
        let ip = std::net::Ipv4Addr::new(198, 51, 100, n);
        let key = SinkKey::Peer { ip: ip.into(), port: 443, proto: Proto::Tcp };
        (key, Sink { peer: Some(format!("{ip}:443/tcp")), ..Sink::new(SinkKind::Peer, control) })
    };
    (0..64)
        .map(|n| match n % 8 {
            0..4 => (
                SinkKey::Process(object(n)),
                Sink { channel: Some("unix".to_owned()), ..Sink::new(SinkKind::Process, Control::Process) },
            ),
            4 | 5 => (
                SinkKey::File(object(n)),
                Sink {
                    path: Some(format!("/models/cache/{n}")),
                    device: Some("8:1".to_owned()),
                    registered: Some(true),
                    ..Sink::new(SinkKind::File, Control::Controlled)
                },
            ),
            6 => peer(n as u8, Control::Controlled),
            _ => peer(n as u8, Control::Uncontrolled),
        })
        .collect()
}

fn records() -> Vec<Record> {
    let assets: Vec<Arc<Asset>> = (0..4).map(asset).collect();
    let processes: Vec<Arc<Process>> = (1..=16).map(|pid| Arc::new(process(pid))).collect();
    let sinks: Vec<Arc<Sink>> = sinks().into_iter().map(|(_, sink)| Arc::new(sink)).collect();
    (0..KINDS_OF_RECORDS as usize)
        .map(|n| {
            let (asset, process) = (&assets[n / 7 % 4], &processes[n / 3 % 16]);
            if n % 9 == 0 {
                return record(RecordKind::Take, 100, asset, process, None, 4096);
            }
            record(RecordKind::Flow, 100, asset, process, Some(Arc::clone(&sinks[n % 64])), 50)
        })
        .collect()
}

/// As bytes, with the number of its statements: sixteen processes that hold a model whole and move it on in small writes.
fn recording(flows: u64) -> Result<(Vec<u8>, u64)> {
    let folder = tempfile::tempdir().context("cannot make a scratch folder")?;
    let path = folder.path().join("recording");
    let header = Header {
        agent: "0.1.0".to_owned(),
        host: "bench".to_owned(),
        kernel: "6.18".to_owned(),
        sensor: "syscall".to_owned(),
        boot_wall_ms: 0,
        propagation_floor: 64 << 10,
        hidden: false,
    };
    let mut writer = Writer::create(&path, &header)?;
    let start = BootNs(100 * SECOND);
    let holders: Vec<HolderId> = (1..=16).map(|tgid| HolderId { tgid, exec: 0, start: BootNs(1) }).collect();
    let sinks = sinks();
    writer.write(start, &Event::Asset(asset(0)))?;
    for (key, sink) in &sinks {
        writer.write(start, &Event::Sink { key: *key, sink: Arc::new(sink.clone()) })?;
    }
    for holder in &holders {
        let process = Arc::new(process(holder.tgid));
        writer.write(start, &Event::Process { holder: *holder, process })?;
        writer.write(
            start,
            &Event::Take {
                holder: *holder,
                source: Source::Asset(AssetId(0)),
                bytes: 141_000_000_000,
                listed: AssetSet(1),
                at: start,
            },
        )?;
    }
    let mut moved = vec![0_u64; holders.len() * sinks.len()];
    for n in 0..flows {
        let (holder, sink) = (n as usize / 3 % holders.len(), n as usize % sinks.len());
        let bytes = &mut moved[holder * sinks.len() + sink];
        *bytes += 50;
        let at = BootNs(100 * SECOND + n * 10_000);
        let event = Event::Flow {
            holder: holders[holder],
            sink: sinks[sink].0,
            assets: AssetSet(1),
            bytes: *bytes,
            at,
        };
        writer.write(at, &event)?;
    }
    writer.flush()?;
    let (_, statements) = writer.size();
    Ok((fs::read(&path).context("cannot read the recording back")?, statements))
}
