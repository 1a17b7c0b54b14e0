//! What goes on after a reload, a restart and a reboot.

use super::*;

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

#[test]
fn windows_go_on_after_a_restart_and_after_a_reboot() {
    let day = 86_400;
    let mut before = Engine::new(rule_set("alert", BUDGETS));
    observe(&mut before, &flow(10 * day, "8:16", 1, 3 * MIB));
    observe(&mut before, &flow(15 * day, "8:16", 1, 3 * MIB));
    let rows: Vec<_> = before.export().collect();
    let text = serde_json::to_string(&rows).expect("rows are plain");
    let rows: Vec<Row> = serde_json::from_str(&text).expect("rows come back");
    let at = |days: u64| BootNs(days * day * 1_000_000_000);

    let mut restarted = Engine::new(rule_set("alert", BUDGETS));
    assert_eq!(restarted.import(rows.clone(), 0, at(16)), 0);
    let mut again: Vec<_> = restarted.export().collect();
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
    let mut rows: Vec<_> = engine.export().collect();
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
    let rows: Vec<_> = before.export().collect();
    let mut restarted = Engine::new(rule_set("alert", rule));
    assert_eq!(restarted.import(rows, 0, BootNs(101_000_000_000)), 0);
    restarted.replace_rules(rule_set("alert", rule), BootNs(101_000_000_000));
    let found = observe(&mut restarted, &flow(101, "8:16", 1, MIB)).expect("the first line");
    assert_eq!((found.severity, found.bound_bytes), (Severity::Low, 2 * MIB));
    let found = observe(&mut restarted, &flow(102, "8:16", 1, 6 * MIB)).expect("the second line");
    assert_eq!((found.severity, found.bound_bytes), (Severity::High, 8 * MIB));
}
