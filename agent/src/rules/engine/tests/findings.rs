//! What is told of, when it is told again, and when it resolves.

use super::*;
use crate::{
    event::Asset,
    rules::{
        engine::state::{FLOOD, OTHERS},
        fixtures::TODAY,
    },
    yaml::render,
};

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
