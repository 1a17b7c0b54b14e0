//! The rules, records and recording that the engine is measured with. They must not know what is measured.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use weighbridge::{
    event::{
        Asset, AssetId, AssetKind, AssetSet, BootNs, Control, Dev, Event, HolderId, ObjectId, Process, Proto,
        Record, RecordKind, Sink, SinkKey, SinkKind, Source,
    },
    recording::{Header, Writer},
    rules::RuleSet,
    yaml,
};

use crate::{KINDS_OF_RECORDS, SECOND, TODAY};

/// What is measured with, made once.
pub(crate) struct Inputs {
    pub(crate) records: Vec<Record>,
    pub(crate) times: u64,
    pub(crate) core: Arc<RuleSet>,
    pub(crate) by_asset: Arc<RuleSet>,
    pub(crate) by_network: Arc<RuleSet>,
    pub(crate) by_prefix: Arc<RuleSet>,
    pub(crate) by_glob: Arc<RuleSet>,
    pub(crate) by_regex: Arc<RuleSet>,
    pub(crate) by_ending: Arc<RuleSet>,
    pub(crate) thousand: Vec<(PathBuf, String)>,
    pub(crate) recording: Vec<u8>,
    pub(crate) statements: u64,
}

impl Inputs {
    pub(crate) fn make(times: u64) -> Result<Self> {
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

pub(crate) fn rule_set(sources: &[(PathBuf, String)]) -> Result<RuleSet> {
    RuleSet::parse(sources, TODAY).map_err(|faults| anyhow!(yaml::render(&faults, false)))
}

/// Rules for flows; `body` writes each from its `match` on.
pub(crate) fn pack(numbers: std::ops::Range<usize>, body: impl Fn(usize) -> String) -> String {
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

pub(crate) fn asset(n: usize) -> Arc<Asset> {
    Arc::new(Asset {
        id: AssetId(u16::try_from(n % 50).unwrap_or(0)),
        name: format!("model-{n}"),
        kind: AssetKind::Weights,
        bytes: 141_000_000_000,
        most: 141_000_000_000,
        has_readers: true,
    })
}

pub(crate) fn process(pid: u32) -> Process {
    Process {
        pid,
        exe: format!("/usr/bin/server{}", pid % 8),
        cmdline: "server --model /models/llm".to_owned(),
        unit: Some("server.service".to_owned()),
        ..Process::host()
    }
}

pub(crate) fn record(
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
                listed: [AssetId(0)].into_iter().collect(),
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
