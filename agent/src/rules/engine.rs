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
#[derive(Clone, Debug)]
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
    /// Indexes of the rules for each event kind; rules that are off are in neither.
    on_flow: Vec<usize>,
    on_take: Vec<usize>,
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
        let on = |kind: RecordKind| {
            let all = rules.rules().iter().enumerate();
            all.filter(|(_, rule)| rule.on == kind && rule.facts.mode != Mode::Off)
                .map(|(at, _)| at)
                .collect()
        };
        Self {
            on_flow: on(RecordKind::Flow),
            on_take: on(RecordKind::Take),
            groups: rules.rules().iter().map(|_| HashMap::new()).collect(),
            key: Vec::new(),
            resolved: Vec::new(),
            evicted: 0,
            rules,
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
        let indexes = match record.kind {
            RecordKind::Flow => &self.on_flow,
            RecordKind::Take => &self.on_take,
        };
        for &index in indexes {
            let rule = &self.rules.rules()[index];
            if !rule.matcher.matches(record) {
                continue;
            }
            write_key(rule, record, &mut self.key);
            let groups = &mut self.groups[index];
            if !groups.contains_key(self.key.as_slice()) {
                let group = if groups.len() < MAX_GROUPS {
                    Group::new(Window::new(rule.aggregate.over), record)
                } else {
                    self.evicted += 1;
                    replace_smallest(rule, groups, record, &mut self.resolved)
                };
                groups.insert(self.key.clone(), group);
            }
            let Some(group) = groups.get_mut(self.key.as_slice()) else { continue };
            self.evicted += group.add(rule, record);
            let bound_bytes = group.bound(record.at);
            group.is_matching = false;
            if let Some(severity) = rule.aggregate.severity(bound_bytes, &group.asset) {
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
                if group.is_matching && rule.aggregate.severity(bound, &group.asset).is_none() {
                    group.is_matching = false;
                    resolved.push(Resolved { rule: rule.facts.clone(), group: identity(rule, key), at: now });
                }
                !group.window.is_empty()
            });
        }
    }
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
    let Some((key, old)) = taken else { return Group::new(Window::new(rule.aggregate.over), record) };
    if old.is_matching {
        resolved.push(Resolved { rule: rule.facts.clone(), group: identity(rule, &key), at: record.at });
    }
    Group::new(old.window, record)
}

/// Writes the values of the rule's `by` fields; an absent one is empty.
fn write_key(rule: &Rule, record: &Record, key: &mut Vec<String>) {
    key.resize_with(rule.aggregate.by.len(), String::new);
    for (field, text) in rule.aggregate.by.iter().zip(key) {
        text.clear();
        if let Some(value) = (field.get)(record) {
            value.write_to(text);
        }
    }
}

fn identity(rule: &Rule, key: &[String]) -> Vec<(&'static str, String)> {
    rule.aggregate.by.iter().zip(key).map(|(field, text)| (field.name, text.clone())).collect()
}

fn share(bound: u64, asset_bytes: u64) -> f64 {
    if asset_bytes == 0 { 1.0 } else { bound as f64 / asset_bytes as f64 }
}

impl Group {
    fn new(window: Window, record: &Record) -> Self {
        Self {
            window,
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
            (self.first_at, self.forgotten) = (record.at, 0);
            self.contributors.clear();
        }
        self.window.add(record.at, record.bytes);
        self.asset.clone_from(&record.asset);
        self.first_at = self.first_at.min(record.at);
        self.last_at = self.last_at.max(record.at);
        if let Some(known) = self.contributors.iter_mut().find(|known| known.holder == record.holder) {
            known.window.add(record.at, record.bytes);
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
        let mut window = Window::new(rule.aggregate.over);
        window.add(record.at, record.bytes);
        self.contributors.push(Contributor {
            holder: record.holder,
            process: record.process.clone(),
            window,
        });
        made_room
    }

    /// The window's sum, at most the asset's size where that is known.
    fn bound(&mut self, now: BootNs) -> u64 {
        let sum = self.window.sum(now);
        if self.asset.bytes == 0 { sum } else { sum.min(self.asset.bytes) }
    }

    fn contributors(&mut self, now: BootNs) -> Contributors {
        self.contributors.retain_mut(|known| known.window.sum(now) > 0);
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
