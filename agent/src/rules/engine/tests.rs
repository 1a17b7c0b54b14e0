//! Sums that are exact, identities that resolve once, and floods that reset nothing.

use proptest::prelude::*;

use super::{
    state::{FLOOD, MAX_GROUPS, OTHERS},
    *,
};
use crate::{
    event::{ActKind, Asset, SinkKind},
    rules::fixtures::{TODAY, record, rule_set},
    yaml::render,
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

#[test]
fn every_record_above_the_line_carries_the_exact_sum() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    assert!(observe(&mut engine, &flow(100, "8:16", 1, MIB - 1)).is_none());
    let found = observe(&mut engine, &flow(101, "8:16", 2, 1)).expect("the first line");
    assert_eq!((found.severity, found.mode, found.bound_bytes), (Severity::Low, Mode::Alert, MIB));
    assert_eq!(found.group, [("asset.name", "llm".to_owned()), ("sink.device", "8:16".to_owned())]);
    assert_eq!((found.first_at, found.last_at), (BootNs(100_000_000_000), BootNs(101_000_000_000)));
    assert_eq!(found.record.holder.tgid, 2);
    let top: Vec<(u32, u64)> =
        found.contributors.top.iter().map(|(holder, _, sum)| (holder.tgid, *sum)).collect();
    assert_eq!((found.contributors.count, top), (2, vec![(1, MIB - 1), (2, 1)]));
    let found = observe(&mut engine, &flow(102, "8:16", 1, 5)).expect("still above");
    assert_eq!(found.bound_bytes, MIB + 5);
    let found = observe(&mut engine, &flow(103, "8:16", 1, 7 * MIB)).expect("the second line");
    assert_eq!(found.severity, Severity::High);
    let found = observe(&mut engine, &flow(104, "8:16", 1, 50 * MIB)).expect("the third line");
    assert_eq!((found.severity, found.bound_bytes, found.share), (Severity::Critical, 20 * MIB, 1.0));
    assert!(observe(&mut engine, &flow(104, "8:32", 1, 5)).is_none(), "another device is another group");
}

#[test]
fn budgets_say_how_much_of_them_is_used_up() {
    let rule = "    match: {sink.kind: file}
    budgets:
      - {name: short, sum: bound, by: [asset.name], over: 32s, gte: 4MiB, severity: medium}
      - {name: long, sum: bound, by: [asset.name], over: 320s, gte_share: 0.5, floor: 2MiB, severity: high}
    group_by: [asset.name]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    assert_eq!(engine.budgets(BootNs(0), 9), (vec![], 0), "nothing is open");
    observe(&mut engine, &flow(100, "8:16", 1, MIB));
    observe(&mut engine, &flow(101, "8:32", 2, 2 * MIB));
    let at = |second: u64| BootNs(second * 1_000_000_000);
    let (budgets, count) = engine.budgets(at(102), 9);
    let told: Vec<_> = budgets
        .iter()
        .map(|one| (one.name.as_str(), one.sum, one.line, one.severity, one.is_reached))
        .collect();
    let short = ("short", 3 * MIB, 4 * MIB, Severity::Medium, false);
    // Half of 20 MiB.
    let long = ("long", 3 * MIB, 10 * MIB, Severity::High, false);
    assert_eq!((told, count), (vec![short, long], 2), "what is used up most comes first");
    assert_eq!(budgets[0].group, [("asset.name", "llm".to_owned())]);
    let (budgets, count) = engine.budgets(at(102), 1);
    assert_eq!((budgets.len(), count), (1, 2), "the rest is counted");
    let (budgets, count) = engine.budgets(at(150), 9);
    assert_eq!((budgets[0].name.as_str(), count), ("long", 1), "a window that is over is not open");
    observe(&mut engine, &flow(150, "8:16", 1, 5 * MIB)).expect("the line of the short one");
    let (budgets, _) = engine.budgets(at(150), 1);
    assert_eq!((budgets[0].name.as_str(), budgets[0].is_reached), ("short", true));
}

#[test]
fn a_group_resolves_once_and_can_match_again() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    observe(&mut engine, &flow(100, "8:16", 1, 2 * MIB)).expect("a match");
    assert_eq!(expire(&mut engine, 132), []);
    let resolved = expire(&mut engine, 133);
    assert_eq!(resolved.len(), 1);
    assert_eq!(resolved[0].at, BootNs(133_000_000_000));
    assert_eq!(resolved[0].group[1], ("sink.device", "8:16".to_owned()));
    assert_eq!(engine.group_count(), 0);
    assert_eq!(expire(&mut engine, 134), []);
    let found = observe(&mut engine, &flow(140, "8:16", 1, 2 * MIB)).expect("a match again");
    assert_eq!(found.first_at, BootNs(140_000_000_000));
}

#[test]
fn a_group_that_falls_below_its_line_between_two_records_still_resolves() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    observe(&mut engine, &flow(100, "8:16", 1, 2 * MIB)).expect("a match");
    assert!(observe(&mut engine, &flow(200, "8:16", 1, 1)).is_none());
    assert_eq!(expire(&mut engine, 201).len(), 1);
    assert_eq!(expire(&mut engine, 202), []);
}

#[test]
fn an_asset_whose_size_is_not_known_alerts_by_bytes() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    let mut record = flow(100, "8:16", 1, 9 * MIB);
    record.asset = Arc::new(Asset { bytes: 0, ..(*record.asset).clone() });
    let found = observe(&mut engine, &record).expect("a match");
    assert_eq!((found.severity, found.bound_bytes, found.share), (Severity::Critical, 9 * MIB, 1.0));
}

#[test]
fn contributors_are_counted_beyond_those_that_are_named() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    let found =
        (1..=40).map(|tgid| observe(&mut engine, &flow(100, "8:16", tgid, u64::from(tgid) * 100_000)));
    let contributors = found.last().flatten().expect("a match").contributors;
    assert_eq!(contributors.count, 40);
    let top: Vec<u32> = contributors.top.iter().map(|(holder, _, _)| holder.tgid).collect();
    assert_eq!(top, [40, 39, 38, 37, 36, 35, 34, 33]);
    // Those that are not named keep their bytes in the sum.
    assert_eq!(engine.evicted(), 0);
}

#[test]
fn modes() {
    let shadow = Engine::new(rule_set("shadow", RULE));
    let learning = format!("    shadow_if: {{asset.has_readers: false}}\n{RULE}");
    let off = Engine::new(rule_set("off", RULE));
    let learning = Engine::new(rule_set("alert", &learning));
    let mode = |mut engine: Engine, has_readers| {
        let mut record = flow(100, "8:16", 1, 2 * MIB);
        record.asset = Arc::new(Asset { has_readers, ..(*record.asset).clone() });
        observe(&mut engine, &record).map(|found| found.mode)
    };
    assert_eq!(mode(shadow, true), Some(Mode::Shadow));
    assert_eq!(mode(off, true), None);
    assert_eq!(mode(learning, false), Some(Mode::Shadow));
    let learning = format!("    shadow_if: {{asset.has_readers: false}}\n{RULE}");
    assert_eq!(mode(Engine::new(rule_set("alert", &learning)), true), Some(Mode::Alert));
}

#[test]
fn a_flood_of_groups_resets_no_sum() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    for n in 0..3000_u32 {
        observe(&mut engine, &flow(100, &format!("9:{n}"), 1, 300_000));
        // Little by little, always the smallest: without inheritance this group would be thrown out each time.
        let found = observe(&mut engine, &flow(100, "8:16", 1, 1000));
        assert!(found.is_some() || u64::from(n + 1) * 1000 < MIB);
    }
    assert_eq!(engine.group_count(), MAX_GROUPS);
    assert!(engine.evicted() > 0);
}

#[test]
fn the_smallest_sum_makes_room_the_newcomer_takes_it_over_and_each_is_counted() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    let groups = u64::try_from(MAX_GROUPS).expect("it fits");
    for n in 1..=groups {
        assert!(observe(&mut engine, &flow(100, &format!("9:{n}"), 1, n * 1000)).is_none());
    }
    assert_eq!((engine.group_count(), engine.evicted()), (MAX_GROUPS, 0));
    for n in 1..=500 {
        // Each takes the place of the one before, which is the smallest now, and its 1000 bytes.
        assert!(observe(&mut engine, &flow(100, &format!("8:{n}"), 1, 1)).is_none());
        assert_eq!((engine.group_count(), engine.evicted()), (MAX_GROUPS, n));
        let smallest = engine.export().iter().map(|row| row.bytes[0].1).min();
        assert_eq!(smallest, Some((1000 + n).min(2000)));
    }
    // All that the flood did to the others: nothing.
    let found = observe(&mut engine, &flow(100, &format!("9:{groups}"), 1, MIB - groups * 1000));
    assert_eq!(found.expect("the exact line").bound_bytes, MIB);
}

#[test]
fn a_flood_of_sequences_ends_none_that_came_further() {
    let rule = "    match: {asset.name: llm}
    sequence:
      by: [process.pid]
      over: 1h
      steps: [{match: {sink.device: '1:1'}}, {match: {sink.device: '1:2'}}, {match: {sink.device: '1:3'}}]
    group_by: [asset.name]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    for device in ["1:1", "1:2"] {
        assert!(observe(&mut engine, &flow(100, device, 7, 1)).is_none());
    }
    for pid in 1000..7000 {
        assert!(observe(&mut engine, &flow(101, "1:1", pid, 1)).is_none());
    }
    assert_eq!(engine.evicted(), 6001 - 4096);
    observe(&mut engine, &flow(102, "1:3", 7, 1)).expect("the last step of the one that came furthest");
}

#[test]
fn a_reload_keeps_sums_and_resolves_what_is_gone() {
    let mut engine = Engine::new(rule_set("alert", RULE));
    observe(&mut engine, &flow(100, "8:16", 1, 2 * MIB)).expect("a match");
    engine.replace_rules(rule_set("alert", &RULE.replace("gte: 4MiB", "gte: 3MiB")), BootNs(0));
    let found = observe(&mut engine, &flow(101, "8:16", 1, MIB)).expect("a match");
    assert_eq!((found.severity, found.bound_bytes), (Severity::High, 3 * MIB));
    engine.replace_rules(rule_set("off", RULE), BootNs(7));
    let resolved = expire(&mut engine, 102);
    assert_eq!(resolved.len(), 1);
    assert_eq!(resolved[0].at, BootNs(7));
}

/// `at` in seconds, and what the match showed.
fn seen(engine: &mut Engine, records: &[Record]) -> Vec<Option<(Severity, u64, bool)>> {
    records
        .iter()
        .map(|record| {
            observe(engine, record).map(|found| (found.severity, found.crossed.value, found.repeated))
        })
        .collect()
}

const BUDGETS: &str = "    match: {sink.kind: file}
    budgets:
      - {name: minute, sum: bound, by: [asset.name], over: 1m, gte: 4MiB, severity: low}
      - {name: month, sum: bound, by: [asset.name], over: 30d, gte_share: 0.5, floor: 1MiB, severity: critical}
    group_by: [asset.name]
";

#[test]
fn budgets_are_windows_of_one_finding() {
    let mut engine = Engine::new(rule_set("alert", BUDGETS));
    let day = 86_400;
    let found = observe(&mut engine, &flow(0, "8:16", 1, 5 * MIB)).expect("the minute's line");
    assert_eq!((found.severity, found.crossed.budget.as_deref()), (Severity::Low, Some("minute")));
    assert_eq!(observe(&mut engine, &flow(day, "8:16", 2, 3 * MIB)).map(|found| found.severity), None);
    let found = observe(&mut engine, &flow(2 * day, "8:32", 3, 3 * MIB)).expect("the month's line");
    assert_eq!(found.crossed.budget.as_deref(), Some("month"));
    assert_eq!(
        (found.severity, found.bound_bytes, found.crossed.line),
        (Severity::Critical, 11 * MIB, 10 * MIB)
    );
    assert_eq!(found.contributors.count, 3);
    // The minute is long over, the month is not.
    assert_eq!(expire(&mut engine, 20 * day), []);
    assert_eq!(expire(&mut engine, 40 * day).len(), 1);
}

#[test]
fn an_identity_can_be_finer_than_its_sum() {
    let rule = "    match: {sink.kind: file}
    aggregate: {sum: bound, by: [asset.name], over: 32s, tiers: [{gte: 2MiB, severity: low}]}
    group_by: [asset.name, sink.device]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    assert!(observe(&mut engine, &flow(0, "8:16", 1, MIB)).is_none());
    let found = observe(&mut engine, &flow(0, "8:32", 1, MIB)).expect("together they cross it");
    assert_eq!((found.group[1].1.as_str(), found.bound_bytes), ("8:32", 2 * MIB));
    let found = observe(&mut engine, &flow(0, "8:16", 1, MIB)).expect("a second finding");
    assert_eq!((found.group[1].1.as_str(), found.bound_bytes), ("8:16", 3 * MIB));
    assert_eq!(expire(&mut engine, 40).len(), 2);
}

#[test]
fn suppress_keeps_a_finding_open_and_a_higher_line_breaks_through() {
    let mut engine = Engine::new(rule_set("alert", &format!("{RULE}    suppress: 10m\n")));
    observe(&mut engine, &flow(100, "8:16", 1, 2 * MIB)).expect("a match");
    assert_eq!(expire(&mut engine, 200), [], "below every line, and told lately");
    let again = seen(&mut engine, &[flow(300, "8:16", 1, 2 * MIB), flow(301, "8:16", 1, 9 * MIB)]);
    assert_eq!(again, [Some((Severity::Low, 2 * MIB, true)), Some((Severity::Critical, 11 * MIB, false))]);
    assert_eq!(expire(&mut engine, 850), [], "the higher line was told at 301");
    assert_eq!(expire(&mut engine, 902).len(), 1);
    let fresh = seen(&mut engine, &[flow(903, "8:16", 1, 2 * MIB)]);
    assert_eq!(fresh, [Some((Severity::Low, 2 * MIB, false))]);
}

#[test]
fn a_rule_that_floods_is_told_as_one_and_nothing_is_dropped() {
    let rule = "    match: {sink.kind: file}
    aggregate: {sum: bound, by: [asset.name, sink.device], over: 1h, tiers: [{gte: 1B, severity: low}, {gte: 8MiB, severity: high}]}
    group_by: [asset.name, sink.device]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    let devices =
        |from: usize, to: usize| (from..to).map(|n| flow(100, &format!("9:{n}"), 1, MIB)).collect::<Vec<_>>();
    for record in devices(0, FLOOD) {
        let found = observe(&mut engine, &record).expect("a finding of its own");
        assert_eq!((found.group[1].1 != OTHERS, found.folded), (true, 0));
    }
    for (before, record) in devices(FLOOD, FLOOD + 10).iter().enumerate() {
        let found = observe(&mut engine, record).expect("it is told");
        assert_eq!((found.group[1].1.as_str(), found.folded), (OTHERS, before as u64 + 1));
        assert_eq!(found.group[0].1, "llm");
    }
    let found = observe(&mut engine, &flow(101, "9:3", 1, MIB)).expect("one that was known stays apart");
    assert_eq!(found.folded, 0);
    let found = observe(&mut engine, &flow(101, "9:260", 1, 9 * MIB)).expect("a higher line breaks through");
    assert_eq!(
        (found.severity, found.group[1].1.as_str(), found.bound_bytes),
        (Severity::High, OTHERS, 10 * MIB)
    );
    assert_eq!(expire(&mut engine, 9000).len(), FLOOD + 1);
}

#[test]
fn events_and_distinct_values_are_counted() {
    let rule = |measure: &str| {
        rule_set(
            "alert",
            &format!(
                "    match: {{sink.kind: file}}
    aggregate: {{{measure}, by: [asset.name], over: 32s, tiers: [{{gte: 3, severity: low}}]}}
    group_by: [asset.name]
"
            ),
        )
    };
    let flows = ["8:16", "8:32", "8:16", "8:48"].map(|device| flow(0, device, 1, 1));
    let mut count = Engine::new(rule("count: events"));
    assert_eq!(
        seen(&mut count, &flows),
        [None, None, Some((Severity::Low, 3, false)), Some((Severity::Low, 4, false))]
    );
    let mut distinct = Engine::new(rule("distinct: sink.device"));
    assert_eq!(seen(&mut distinct, &flows), [None, None, None, Some((Severity::Low, 3, false))]);
    let found = observe(&mut distinct, &flow(1, "8:16", 1, 7)).expect("a match");
    assert_eq!((found.bound_bytes, found.crossed.measure), (11, "distinct"));
    assert_eq!(seen(&mut distinct, &[flow(60, "8:16", 1, 1)]), [None]);
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

#[test]
fn a_sequence_fires_for_its_steps_in_order_within_its_time() {
    let rule = "    sequence:
      by: [process.pid]
      over: 1m
      steps:
        - {on: act, match: {act.kind: ptrace}}
        - {on: act, match: {act.kind: [ptrace, proc_mem]}}
        - {match: {sink.kind: file}}
    group_by: [asset.name, process.pid]
";
    let mut engine = Engine::new(rule_set("alert", rule));
    let steps = [
        flow(0, "8:16", 7, MIB),
        act(1, ActKind::Ptrace, 7),
        // One event is one step, and another process is another sequence.
        flow(2, "8:16", 7, MIB),
        act(3, ActKind::ProcMem, 8),
        flow(4, "8:16", 7, MIB),
        act(5, ActKind::ProcMem, 7),
    ];
    assert_eq!(seen(&mut engine, &steps), [None; 6]);
    assert!(observe(&mut engine, &flow(6, "8:16", 8, MIB)).is_none());
    let found = observe(&mut engine, &flow(61, "8:16", 7, MIB)).expect("the last step");
    assert_eq!((found.severity, found.bound_bytes), (Severity::Low, MIB));
    assert!(observe(&mut engine, &flow(62, "8:16", 7, MIB)).is_none(), "too long after the first");
    let later = [act(63, ActKind::Ptrace, 7), act(64, ActKind::Ptrace, 7), flow(65, "8:16", 7, MIB)];
    assert!(seen(&mut engine, &later)[2].is_some());
    let _ = expire(&mut engine, 3600);
    assert_eq!(engine.group_count(), 0);
}

#[test]
fn what_is_excepted_counts_apart_and_fires_in_silence() {
    let rule = format!(
        "{RULE}exceptions:
  - id: EX-1
    rules: [TEST-0001]
    match: {{service.unit: backup.service, sink.device|not: '8:32'}}
    owner: storage
    reason: The weekly backup goes there
    expires: 2026-12-15
"
    );
    let by_backup = |second, device: &str, bytes| {
        let mut record = flow(second, device, 1, bytes);
        let backup = Process { unit: Some("backup.service".to_owned()), ..Process::clone(&record.process) };
        record.process = Arc::new(backup);
        record
    };
    let mut engine = Engine::new(rule_set("alert", &rule));
    let found = observe(&mut engine, &by_backup(0, "8:16", 8 * MIB)).expect("it is written down");
    let id = found.exception.as_ref().map(|exception| exception.id.as_str());
    assert_eq!((found.mode, id, found.bound_bytes), (Mode::Shadow, Some("EX-1"), 8 * MIB));
    // Bytes that are excepted bring nobody else nearer to a line.
    assert!(observe(&mut engine, &flow(1, "8:16", 2, MIB - 1)).is_none());
    let found = observe(&mut engine, &by_backup(2, "8:32", 2 * MIB)).expect("not there");
    assert_eq!((found.mode, found.exception), (Mode::Alert, None));
    let mut nowhere = by_backup(3, "8:16", 2 * MIB);
    nowhere.sink =
        Some(Arc::new(crate::event::Sink { device: None, ..(**nowhere.sink.as_ref().expect("it")).clone() }));
    let found = observe(&mut engine, &nowhere).expect("a place that is not known is not exempted");
    assert_eq!(found.exception, None);
    let mut resolved = expire(&mut engine, 100);
    resolved.sort_by_key(|one| one.exception.clone());
    let ids: Vec<Option<&str>> = resolved.iter().map(|one| one.exception.as_deref()).collect();
    assert_eq!(ids, [None, None, Some("EX-1")]);
}

#[test]
fn an_exception_that_expired_holds_no_more() {
    let text = format!(
        "schema: 1
pack: test
rules:
  - id: TEST-0001
    revision: 1
    title: A rule
    severity: low
    status: test
    mode: alert
    owner: soc
    runbook: none
    on: flow
{RULE}exceptions:
  - {{id: EX-1, rules: [TEST-0001], match: {{service.unit: b.service}}, owner: o, reason: A reason it has, expires: 2026-11-22}}
"
    );
    let read = |day| {
        RuleSet::parse(&[("t".into(), text.clone())], day)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false)))
    };
    let set = read(TODAY);
    assert_eq!(set.rules()[0].exceptions.len(), 1, "the last day is one of its days");
    assert!(set.renewed(TODAY).is_none());
    let tomorrow = TODAY.tomorrow().expect("there is one");
    let renewed = set.renewed(tomorrow).expect("a change").expect("it is right");
    assert_eq!((renewed.rules()[0].exceptions.len(), renewed.exceptions().len()), (0, 1));
    assert_eq!(renewed.digest(), set.digest());
    assert!(renewed.warnings().iter().any(|warning| warning.message.contains("expired on 2026-11-22")));
    assert!(renewed.renewed(tomorrow.tomorrow().expect("there is one")).is_none());
}

#[test]
fn windows_go_on_after_a_restart_and_after_a_reboot() {
    let day = 86_400;
    let mut before = Engine::new(rule_set("alert", BUDGETS));
    observe(&mut before, &flow(10 * day, "8:16", 1, 3 * MIB));
    observe(&mut before, &flow(15 * day, "8:16", 1, 3 * MIB));
    let rows = before.export();
    let text = serde_json::to_string(&rows).expect("rows are plain");
    let rows: Vec<Row> = serde_json::from_str(&text).expect("rows come back");
    let at = |days: u64| BootNs(days * day * 1_000_000_000);

    let mut restarted = Engine::new(rule_set("alert", BUDGETS));
    assert_eq!(restarted.import(rows.clone(), 0, at(16)), 0);
    let mut again = restarted.export();
    let mut as_before = rows.clone();
    for rows in [&mut again, &mut as_before] {
        // What has left the minute's window meanwhile.
        rows.retain(|row| row.sum.contains("2592000000ms"));
    }
    assert_eq!(again, as_before, "the same windows, not shifted ones");
    let found = observe(&mut restarted, &flow(16 * day, "8:16", 1, 4 * MIB)).expect("the month's line");
    assert_eq!((found.severity, found.bound_bytes), (Severity::Critical, 10 * MIB));

    // Rebooted on day 20 of the old boot; 3 days later the first six still count.
    let mut rebooted = Engine::new(rule_set("alert", BUDGETS));
    let shift = -i64::try_from(20 * day * 1_000_000_000).expect("it fits");
    assert_eq!(rebooted.import(rows.clone(), shift, at(0)), 0);
    let found = observe(&mut rebooted, &flow(3 * day, "8:16", 1, 4 * MIB)).expect("the month's line");
    assert_eq!(found.bound_bytes, 10 * MIB);
    // On day 41 of the old clock the first three have left, a bucket late at most.
    assert!(observe(&mut rebooted, &flow(23 * day, "8:16", 1, 1)).is_none());

    let mut other = Engine::new(rule_set("alert", RULE));
    assert_eq!(other.import(rows.clone(), 0, at(16)), 2, "it measures otherwise");
    let mut twice = Engine::new(rule_set("alert", BUDGETS));
    assert_eq!(twice.import([rows.clone(), rows].concat(), 0, at(16)), 2, "nothing counts twice");
}

#[test]
fn a_hostile_store_harms_nothing() {
    let mut engine = Engine::new(rule_set("alert", BUDGETS));
    observe(&mut engine, &flow(10, "8:16", 1, 3 * MIB));
    let mut rows = engine.export();
    for row in &mut rows {
        row.bytes = vec![(i64::MAX, u64::MAX), (i64::MIN, u64::MAX), (0, u64::MAX)];
        (row.first_at, row.last_at, row.largest) = (u64::MAX, u64::MAX, u64::MAX);
    }
    rows.push(Row { key: vec![String::new(); 9], ..rows[0].clone() });
    let mut engine = Engine::new(rule_set("alert", BUDGETS));
    assert_eq!(engine.import(rows, i64::MIN, BootNs(5)), 1);
    let _ = observe(&mut engine, &flow(20, "8:16", 1, 1));
    let _ = expire(&mut engine, 21);
}

proptest! {
    #[test]
    fn sums_are_never_below_the_truth(
        steps in prop::collection::vec((0u64..3, 0u32..6, 0u32..40, 1u64..2_000_000), 1..150),
    ) {
        let mut engine = Engine::new(rule_set("alert", &RULE.replace("gte: 1MiB", "gte: 1B")));
        let (mut now, mut added) = (100, Vec::new());
        for (step, device, tgid, bytes) in steps {
            now += step;
            let found = observe(&mut engine, &flow(now, &device.to_string(), tgid, bytes)).expect("one byte is enough");
            added.push((now, device, bytes));
            let within = |length: u64| -> u64 {
                added.iter().filter(|(at, of, _)| *of == device && at + length > now).map(|(_, _, bytes)| bytes).sum()
            };
            prop_assert!(found.bound_bytes >= within(32).min(20 * MIB));
            prop_assert!(found.bound_bytes <= within(33).min(20 * MIB));
        }
    }
}

/// Two lines of one window are two budgets: the first of them forgot its window at a restart.
#[test]
fn budgets_that_measure_the_same_keep_a_window_each() {
    let rule = "    match: {sink.kind: file}
    budgets:
      - {name: some, sum: bound, by: [asset.name], over: 24h, gte: 2MiB, severity: low}
      - {name: much, sum: bound, by: [asset.name], over: 24h, gte: 8MiB, severity: high}
    group_by: [asset.name]
";
    let mut before = Engine::new(rule_set("alert", rule));
    observe(&mut before, &flow(100, "8:16", 1, MIB));
    let rows = before.export();
    let mut restarted = Engine::new(rule_set("alert", rule));
    assert_eq!(restarted.import(rows, 0, BootNs(101_000_000_000)), 0);
    restarted.replace_rules(rule_set("alert", rule), BootNs(101_000_000_000));
    let found = observe(&mut restarted, &flow(101, "8:16", 1, MIB)).expect("the first line");
    assert_eq!((found.severity, found.bound_bytes), (Severity::Low, 2 * MIB));
    let found = observe(&mut restarted, &flow(102, "8:16", 1, 6 * MIB)).expect("the second line");
    assert_eq!((found.severity, found.bound_bytes), (Severity::High, 8 * MIB));
}
