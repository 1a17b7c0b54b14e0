//! The engine fed with records: what the tests share.

mod findings;
mod kept;
mod sequences;
mod sums;

use super::*;
use crate::{
    event::{ActKind, SinkKind},
    rules::fixtures::{record, rule_set},
};

const MIB: u64 = 1 << 20;
const RULE: &str = "    match: {sink.kind: file}
    aggregate:
      sum: bound
      by: [asset.name, sink.device]
      over: 32s
      tiers: [{gte: 1MiB, severity: low}, {gte: 4MiB, severity: high}, {gte_share: 0.5, floor: 8MiB, severity: critical}]
    group_by: [asset.name, sink.device]
";

fn flow(second: u64, device: &str, tgid: u32, bytes: u64) -> Record {
    let mut record = record(RecordKind::Flow, |draft| {
        draft.sink_kind = Some(SinkKind::File);
        draft.sink.device = Some(device.to_owned());
        draft.asset.bytes = 20 * MIB;
        draft.process.pid = tgid;
    });
    record.at = BootNs(second * 1_000_000_000);
    record.bytes = bytes;
    record
}

fn observe(engine: &mut Engine, record: &Record) -> Option<Match> {
    let mut matches = Vec::new();
    engine.observe(record, &mut matches);
    assert!(matches.len() <= 1);
    matches.pop()
}

fn expire(engine: &mut Engine, second: u64) -> Vec<Resolved> {
    let mut resolved = Vec::new();
    engine.expire(BootNs(second * 1_000_000_000), &mut resolved);
    resolved
}

const BUDGETS: &str = "    match: {sink.kind: file}
    budgets:
      - {name: minute, sum: bound, by: [asset.name], over: 1m, gte: 4MiB, severity: low}
      - {name: month, sum: bound, by: [asset.name], over: 30d, gte_share: 0.5, floor: 1MiB, severity: critical}
    group_by: [asset.name]
";

/// `at` in seconds, and what the match showed.
fn seen(engine: &mut Engine, records: &[Record]) -> Vec<Option<(Severity, u64, bool)>> {
    records
        .iter()
        .map(|record| {
            observe(engine, record).map(|found| (found.severity, found.crossed.value, found.repeated))
        })
        .collect()
}

fn act(second: u64, kind: ActKind, pid: u32) -> Record {
    let mut act = record(RecordKind::Act, |draft| {
        draft.act = Some(kind);
        draft.process.pid = pid;
        draft.asset.bytes = 20 * MIB;
    });
    (act.at, act.bytes) = (BootNs(second * 1_000_000_000), 5 * MIB);
    act
}
