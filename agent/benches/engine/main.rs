//! What the rule engine costs, without a kernel and without rights: one line of JSON for each figure, which
//! `cargo xtask bench` puts into its table.
//!
//! Every round measures every figure once, in an order that turns round, so that a change of the machine's mood hits all of
//! them. Times are those of the processor, for the engine is one thread that waits for nothing. It must not judge: on a shared host a time is no test.

mod inputs;

use std::{
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
    event::{Asset, BootNs, Control, RecordKind, Sink, SinkKind},
    recording::{Reader, replay},
    rules::{Engine, RuleSet},
};

use self::inputs::{Inputs, asset, pack, process, record, rule_set};

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
