//! Values: exact within their window, and never too small, whoever floods them.

use proptest::prelude::*;

use super::*;
use crate::{event::Asset, rules::engine::state::MAX_GROUPS};

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
        let smallest = engine.export().map(|row| row.bytes[0].1).min();
        assert_eq!(smallest, Some((1000 + n).min(2000)));
    }
    // All that the flood did to the others: nothing.
    let found = observe(&mut engine, &flow(100, &format!("9:{groups}"), 1, MIB - groups * 1000));
    assert_eq!(found.expect("the exact line").bound_bytes, MIB);
}

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
