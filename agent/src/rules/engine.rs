//! Evaluates rules: one record in, the matches it makes out. It must not know alerts: every record that leaves a sum at
//! or above a line is reported with the exact sum, and who is told how often is decided elsewhere.

use std::{collections::HashMap, sync::Arc};

use super::{
    RuleSet,
    rule::{Mode, Rule, RuleFacts, Severity},
    window::Window,
};
use crate::event::{Asset, BootNs, HolderId, Process, Record, RecordKind};

/// Most groups of one rule. Beyond them the group with the smallest sum makes room.
const MAX_GROUPS: usize = 1024;
/// Most contributors of one group that are told apart. Beyond them the one with the smallest sum makes room.
const MAX_CONTRIBUTORS: usize = 16;
/// Most contributors that a match names.
const TOP_CONTRIBUTORS: usize = 8;

/// One record left the sum of one rule at or above its lowest line.
#[derive(Clone, Debug)]
pub struct Match {
    pub rule: Arc<RuleFacts>,
    /// Of the highest line that the sum has reached now.
    pub severity: Severity,
    /// Alert or shadow, never off.
    pub mode: Mode,
    /// The alert's identity: the rule's `group_by` fields and their values, empty when absent.
    pub group: Vec<(&'static str, String)>,
    /// The window's sum, at most the asset's size: the value that crossed the line.
    pub bound_bytes: u64,
    /// `bound_bytes` as a share of the asset's size; 1 while the size is not known.
    pub share: f64,
    /// The record that moved the sum.
    pub record: Record,
    pub contributors: Contributors,
    /// First record of the group since its window was last empty.
    pub first_at: BootNs,
    pub last_at: BootNs,
}

/// Who moved the bytes of a sum.
#[derive(Clone, Debug, Default)]
pub struct Contributors {
    /// How many there are; one that was forgotten for lack of room and came back counts again.
    pub count: u64,
    /// The largest, largest first, with their bytes within the window.
    pub top: Vec<(HolderId, Arc<Process>, u64)>,
}

/// The sum of a group that had matched fell below the rule's lowest line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub rule: Arc<RuleFacts>,
    /// As in [`Match::group`].
    pub group: Vec<(&'static str, String)>,
    pub at: BootNs,
}

/// Evaluates a rule set. The only clock is what records and [`Engine::expire`] say.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
    /// Indexes of the rules for each event kind, by its place in [`RecordKind::ALL`]; rules that are off are in none.
    by_kind: [Vec<usize>; RecordKind::ALL.len()],
    /// The groups of each rule, by the values of its fields.
    groups: Vec<HashMap<Vec<String>, Group>>,
    /// The group's values while it is looked for; kept to reuse its memory.
    key: Vec<String>,
    /// Of groups that had to make room; handed out by the next [`Engine::expire`].
    resolved: Vec<Resolved>,
    evicted: u64,
}

#[derive(Debug)]
struct Group {
    window: Window,
    /// Of acts, whose bytes are no growth: the most that one of them reached.
    largest: u64,
    contributors: Vec<Contributor>,
    /// Contributors that had to make room.
    forgotten: u64,
    asset: Arc<Asset>,
    first_at: BootNs,
    last_at: BootNs,
    /// Whether its sum is at or above the lowest line, as far as anybody was told.
    is_matching: bool,
}

#[derive(Debug)]
struct Contributor {
    holder: HolderId,
    process: Arc<Process>,
    window: Window,
}

impl Engine {
    #[must_use]
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self {
            by_kind: RecordKind::ALL.map(|kind| indexes(&rules, kind)),
            groups: rules.rules().iter().map(|_| HashMap::new()).collect(),
            key: Vec::new(),
            resolved: Vec::new(),
            evicted: 0,
            rules,
        }
    }

    /// Puts another set in force. A rule that sums the same keeps its sums, so that a reload does not forget what has
    /// left already; the matches of a rule that is gone, or sums otherwise now, are resolved by the next
    /// [`Engine::expire`].
    pub fn replace_rules(&mut self, rules: Arc<RuleSet>, now: BootNs) {
        let old = std::mem::replace(self, Self::new(rules));
        self.evicted = old.evicted;
        self.resolved = old.resolved;
        for (before, groups) in old.rules.rules().iter().zip(old.groups) {
            let mut new = self.rules.rules().iter();
            match new.position(|after| sums_the_same(before, after)) {
                Some(index) => self.groups[index] = groups,
                None => {
                    let matching = groups.iter().filter(|(_, group)| group.is_matching);
                    self.resolved.extend(matching.map(|(key, _)| Resolved {
                        rule: before.facts.clone(),
                        group: identity(before, key),
                        at: now,
                    }));
                }
            }
        }
    }

    #[must_use]
    pub const fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Groups and contributors that had to make room for others since the start. The bytes of a group are not lost by
    /// it: the group that takes its place starts with its sum.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Groups that are kept now, of all rules.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.iter().map(HashMap::len).sum()
    }

    /// Counts a record and pushes a match for every rule whose sum is at or above its lowest line after it.
    pub fn observe(&mut self, record: &Record, matches: &mut Vec<Match>) {
        for &index in &self.by_kind[record.kind as usize] {
            let rule = &self.rules.rules()[index];
            if !rule.matcher.matches(record) {
                continue;
            }
            write_key(rule, record, &mut self.key);
            let groups = &mut self.groups[index];
            if !groups.contains_key(self.key.as_slice()) {
                let group = if groups.len() < MAX_GROUPS {
                    Group::new(Window::new(rule.over()), record)
                } else {
                    self.evicted += 1;
                    replace_smallest(rule, groups, record, &mut self.resolved)
                };
                groups.insert(self.key.clone(), group);
            }
            let Some(group) = groups.get_mut(self.key.as_slice()) else { continue };
            self.evicted += group.add(rule, record);
            let bound_bytes = group.bound(record.at);
            // A sum that fell below its line since the last match stays marked: `expire` resolves it.
            if let Some(severity) = rule.severity(bound_bytes, &group.asset) {
                group.is_matching = true;
                matches.push(Match {
                    rule: rule.facts.clone(),
                    severity,
                    mode: rule.mode_of(record),
                    group: identity(rule, &self.key),
                    bound_bytes,
                    share: share(bound_bytes, group.asset.bytes),
                    record: record.clone(),
                    contributors: group.contributors(record.at),
                    first_at: group.first_at,
                    last_at: group.last_at,
                });
            }
        }
    }

    /// Forgets what has left the windows and pushes the groups that had matched and no longer do.
    pub fn expire(&mut self, now: BootNs, resolved: &mut Vec<Resolved>) {
        resolved.append(&mut self.resolved);
        for (rule, groups) in self.rules.rules().iter().zip(&mut self.groups) {
            groups.retain(|key, group| {
                let bound = group.bound(now);
                let has_reached = !group.window.is_empty() && rule.severity(bound, &group.asset).is_some();
                if group.is_matching && !has_reached {
                    group.is_matching = false;
                    resolved.push(Resolved { rule: rule.facts.clone(), group: identity(rule, key), at: now });
                }
                !group.window.is_empty()
            });
        }
    }
}

/// The indexes of the rules that look at a kind of event.
fn indexes(rules: &RuleSet, kind: RecordKind) -> Vec<usize> {
    let all = rules.rules().iter().enumerate();
    all.filter(|(_, rule)| rule.on == kind && rule.facts.mode != Mode::Off).map(|(index, _)| index).collect()
}

/// Whether the groups of one rule are those of another. What it matches and its lines may have changed: the sums were
/// right when they were made, and bytes that left do not come back.
fn sums_the_same(before: &Rule, after: &Rule) -> bool {
    let names = |rule: &Rule| rule.group_by.iter().map(|field| field.name).collect::<Vec<_>>();
    before.facts.id == after.facts.id
        && before.on == after.on
        && after.facts.mode != Mode::Off
        && before.over() == after.over()
        && before.aggregate.is_some() == after.aggregate.is_some()
        && names(before) == names(after)
}

/// Takes the group with the smallest sum out and gives its window to the group of this record. Whoever floods the rule
/// with groups thus raises sums and never resets one: the sum of the newcomer can be too large, but not too small.
fn replace_smallest(
    rule: &Rule,
    groups: &mut HashMap<Vec<String>, Group>,
    record: &Record,
    resolved: &mut Vec<Resolved>,
) -> Group {
    let smallest = groups.iter_mut().map(|(key, group)| (group.window.sum(record.at), key)).min();
    let taken = smallest.map(|(_, key)| key.clone()).and_then(|key| groups.remove_entry(&key));
    let Some((key, old)) = taken else { return Group::new(Window::new(rule.over()), record) };
    if old.is_matching {
        resolved.push(Resolved { rule: rule.facts.clone(), group: identity(rule, &key), at: record.at });
    }
    Group::new(old.window, record)
}

/// Writes the values of the rule's `by` fields; an absent one is empty.
fn write_key(rule: &Rule, record: &Record, key: &mut Vec<String>) {
    key.resize_with(rule.group_by.len(), String::new);
    for (field, text) in rule.group_by.iter().zip(key) {
        text.clear();
        if let Some(value) = (field.get)(record) {
            value.write_to(text);
        }
    }
}

fn identity(rule: &Rule, key: &[String]) -> Vec<(&'static str, String)> {
    rule.group_by.iter().zip(key).map(|(field, text)| (field.name, text.clone())).collect()
}

fn share(bound: u64, asset_bytes: u64) -> f64 {
    if asset_bytes == 0 { 1.0 } else { bound as f64 / asset_bytes as f64 }
}

impl Group {
    fn new(window: Window, record: &Record) -> Self {
        Self {
            window,
            largest: 0,
            contributors: Vec::new(),
            forgotten: 0,
            asset: record.asset.clone(),
            first_at: record.at,
            last_at: record.at,
            is_matching: false,
        }
    }

    /// Counts a record; returns how many contributors had to make room.
    fn add(&mut self, rule: &Rule, record: &Record) -> u64 {
        // A window that ran empty unseen starts anew, as if `expire` had come in between.
        self.window.sum(record.at);
        if self.window.is_empty() {
            (self.first_at, self.forgotten, self.largest) = (record.at, 0, 0);
            self.contributors.clear();
        }
        // An empty entry keeps the window from being empty.
        let growth = if record.kind == RecordKind::Act { 0 } else { record.bytes };
        self.largest = self.largest.max(record.bytes - growth);
        self.window.add(record.at, growth);
        self.asset.clone_from(&record.asset);
        self.first_at = self.first_at.min(record.at);
        self.last_at = self.last_at.max(record.at);
        if let Some(known) = self.contributors.iter_mut().find(|known| known.holder == record.holder) {
            known.window.add(record.at, growth);
            known.process.clone_from(&record.process);
            return 0;
        }
        let mut made_room = 0;
        if self.contributors.len() >= MAX_CONTRIBUTORS {
            let sums = self.contributors.iter_mut().enumerate();
            let smallest = sums.map(|(at, known)| (known.window.sum(record.at), at)).min();
            if let Some((sum, at)) = smallest {
                self.contributors.swap_remove(at);
                made_room = u64::from(sum > 0);
                self.forgotten += made_room;
            }
        }
        let mut window = Window::new(rule.over());
        window.add(record.at, growth);
        self.contributors.push(Contributor {
            holder: record.holder,
            process: record.process.clone(),
            window,
        });
        made_room
    }

    /// The window's sum, at most the asset's size where that is known.
    fn bound(&mut self, now: BootNs) -> u64 {
        let sum = self.window.sum(now).max(self.largest);
        if self.asset.bytes == 0 { sum } else { sum.min(self.asset.bytes) }
    }

    fn contributors(&mut self, now: BootNs) -> Contributors {
        self.contributors.retain_mut(|known| {
            known.window.sum(now);
            !known.window.is_empty()
        });
        let mut top: Vec<_> = self
            .contributors
            .iter_mut()
            .map(|known| (known.holder, known.process.clone(), known.window.sum(now)))
            .collect();
        top.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(&b.0)));
        let count = self.forgotten + top.len() as u64;
        top.truncate(TOP_CONTRIBUTORS);
        Contributors { count, top }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::SinkKind,
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
        assert_eq!(engine.evicted(), 24);
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
}
