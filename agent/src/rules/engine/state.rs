//! What is remembered for one rule: its windows, how far its sequence came, and its findings. It must not know other
//! rules.

use std::{collections::HashMap, sync::Arc, time::Duration};

use foldhash::fast::RandomState;

use super::{Crossed, Match, Resolved, group::Group, key::Key, progress::Progress, rows::prints};
use crate::{
    event::{BootNs, Record},
    rules::{
        exception::Exception,
        field::Field,
        rule::{Mode, Rule, Severity},
        shape::Sum,
    },
};

/// Most groups of one sum. Beyond them the group with the smallest sum makes room.
pub(super) const MAX_GROUPS: usize = 1024;
/// Most identities of one rule that are matching at once. Beyond them the one that was still for longest is resolved.
const MAX_FINDINGS: usize = 4096;
/// Identities of one rule from which on it floods: further ones are told as one, each asset apart.
pub(super) const FLOOD: usize = 256;
/// What stands for the values of an identity that was folded.
pub(super) const OTHERS: &str = "(others)";

/// By key. Its hash is quick and has a random seed; at most a few thousand keys are kept, so that whoever finds some that
/// collide gains little.
pub(super) type ByKey<T> = HashMap<Key, T, RandomState>;

#[derive(Debug)]
pub(super) struct State {
    /// For each sum of the rule, its groups.
    pub(super) sums: Vec<ByKey<Box<Group>>>,
    progress: Progress,
    findings: ByKey<Finding>,
}

/// An identity that somebody was told of.
#[derive(Debug, Default)]
struct Finding {
    /// The groups that are above their line, by the place of their sum.
    matching: Vec<(usize, Key)>,
    /// The highest severity that was told, and when.
    told: Option<(Severity, BootNs)>,
    last_at: BootNs,
    /// Matches of identities that were folded into this one.
    folded: u64,
}

/// Memory that is used again for every record, and what all rules count together.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    key: Key,
    identity: Key,
    pub(super) resolved: Vec<Resolved>,
    pub(super) evicted: u64,
}

/// The sum of a record that reached most.
struct Reached {
    sum: usize,
    severity: Severity,
    value: u64,
    line: u64,
}

impl State {
    pub(super) fn new(rule: &Rule) -> Self {
        Self {
            sums: rule.sums.iter().map(|_| ByKey::default()).collect(),
            progress: Progress::default(),
            findings: ByKey::default(),
        }
    }

    /// Counts a record and pushes a match if any sum is at or above its lowest line after it.
    pub(super) fn observe(
        &mut self,
        rule: &Rule,
        record: &Record,
        scratch: &mut Scratch,
        matches: &mut Vec<Match>,
    ) {
        if !rule.matcher.matches(record) {
            return;
        }
        if let Some(sequence) = &rule.sequence
            && !self.progress.advance(sequence, record, &mut scratch.key, &mut scratch.evicted)
        {
            return;
        }
        let exception = rule.exception_for(record);
        scratch.identity.write(exception, &rule.group_by, record);
        if self.findings.len() >= FLOOD && !self.findings.contains_key(&scratch.identity) {
            fold(&rule.group_by, &mut scratch.identity);
        }
        // It had fallen below every line, and is only open because it was told lately.
        let had_fallen =
            self.findings.get(&scratch.identity).is_some_and(|finding| finding.matching.is_empty());
        let mut most: Option<Reached> = None;
        for (at, sum) in rule.sums.iter().enumerate() {
            let Some((severity, value, line)) = self.count(at, sum, exception, record, scratch) else {
                continue;
            };
            self.attach(at, rule, record.at, scratch);
            if most.as_ref().is_none_or(|most| (severity, value) > (most.severity, most.value)) {
                most = Some(Reached { sum: at, severity, value, line });
            }
        }
        if let Some(most) = most {
            matches.extend(self.found(rule, exception, record, &most, had_fallen, scratch));
        }
    }

    /// Adds a record to its group of one sum. What it reached, and its value and line, if it did.
    fn count(
        &mut self,
        at: usize,
        sum: &Sum,
        exception: Option<&Arc<Exception>>,
        record: &Record,
        scratch: &mut Scratch,
    ) -> Option<(Severity, u64, u64)> {
        scratch.key.write(exception, &sum.by, record);
        if !self.sums[at].contains_key(&scratch.key) {
            self.make_group(at, sum, record, scratch);
        }
        let group = self.sums[at].get_mut(&scratch.key)?;
        group.add(sum, record);
        let value = group.value(record.at);
        // A sum that fell below its line since the last match stays marked: `expire` resolves it.
        let (severity, line) = sum.reached(value, &group.asset)?;
        group.is_matching = true;
        Some((severity, value, line))
    }

    fn make_group(&mut self, at: usize, sum: &Sum, record: &Record, scratch: &mut Scratch) {
        let new = || Box::new(Group::new(sum, &record.asset, record.at));
        let group = if self.sums[at].len() < MAX_GROUPS {
            new()
        } else {
            scratch.evicted += 1;
            self.take_smallest(at, record).unwrap_or_else(new)
        };
        self.sums[at].insert(scratch.key.clone(), group);
    }

    /// Takes the group with the smallest value out and gives its window to the group of this record. Whoever floods the
    /// rule with groups thus raises sums and never resets one: the sum of the newcomer can be too large, but not too
    /// small.
    fn take_smallest(&mut self, at: usize, record: &Record) -> Option<Box<Group>> {
        let smallest = self.sums[at].iter_mut().map(|(key, group)| (group.value(record.at), key)).min();
        let key = smallest.map(|(_, key)| key.clone())?;
        let mut group = self.sums[at].remove(&key)?;
        if group.is_matching {
            self.detach(at, &key);
        }
        group.hand_to(record);
        Some(group)
    }

    /// Notes that the identity in `scratch` stands on the group of a sum, whose key is there too.
    fn attach(&mut self, at: usize, rule: &Rule, now: BootNs, scratch: &mut Scratch) {
        if !self.findings.contains_key(&scratch.identity) {
            if self.findings.len() >= MAX_FINDINGS {
                scratch.evicted += 1;
                self.resolve_stillest(rule, now, &mut scratch.resolved);
            }
            self.findings.insert(scratch.identity.clone(), Finding::default());
        }
        if let Some(finding) = self.findings.get_mut(&scratch.identity)
            && !finding.matching.iter().any(|(sum, key)| *sum == at && *key == scratch.key)
        {
            finding.matching.push((at, scratch.key.clone()));
        }
    }

    fn resolve_stillest(&mut self, rule: &Rule, now: BootNs, resolved: &mut Vec<Resolved>) {
        let stillest =
            self.findings.iter().min_by_key(|(_, finding)| finding.last_at).map(|(key, _)| key.clone());
        if let Some(key) = stillest
            && self.findings.remove(&key).is_some()
        {
            resolved.push(resolution(rule, &key, now));
        }
    }

    fn found(
        &mut self,
        rule: &Rule,
        exception: Option<&Arc<Exception>>,
        record: &Record,
        most: &Reached,
        had_fallen: bool,
        scratch: &mut Scratch,
    ) -> Option<Match> {
        let finding = self.findings.get_mut(&scratch.identity)?;
        finding.last_at = record.at;
        finding.folded += u64::from(scratch.identity.values().any(|value| value == OTHERS));
        let folded = finding.folded;
        let is_raised = finding.told.is_none_or(|(severity, _)| most.severity > severity);
        if is_raised {
            finding.told = Some((most.severity, record.at));
        }
        let sum = &rule.sums[most.sum];
        scratch.key.write(exception, &sum.by, record);
        let group = self.sums[most.sum].get_mut(&scratch.key)?;
        let bound_bytes = group.bound(record.at);
        Some(Match {
            rule: Arc::clone(&rule.facts),
            severity: most.severity,
            mode: if exception.is_some() { Mode::Shadow } else { rule.mode_of(record) },
            exception: exception.map(|exception| Arc::clone(&exception.facts)),
            repeated: had_fallen && !is_raised,
            folded,
            group: labels(&rule.group_by, &scratch.identity),
            bound_bytes,
            share: share(bound_bytes, group.asset.bytes),
            crossed: Crossed {
                budget: sum.name.clone(),
                measure: sum.measure.as_str(),
                value: most.value,
                line: most.line,
                over: sum.over,
            },
            record: record.clone(),
            contributors: group.contributors(record.at),
            first_at: group.first_at,
            last_at: group.last_at,
        })
    }

    /// Forgets what has left the windows, and resolves the identities that stand on no group any more: at once, or when
    /// the rule's `suppress` since they were last told is over.
    pub(super) fn expire(&mut self, rule: &Rule, now: BootNs, resolved: &mut Vec<Resolved>) {
        let mut fallen = Vec::new();
        for (at, (sum, groups)) in rule.sums.iter().zip(&mut self.sums).enumerate() {
            groups.retain(|key, group| {
                let value = group.value(now);
                if group.is_matching && sum.reached(value, &group.asset).is_none() {
                    group.is_matching = false;
                    fallen.push((at, key.clone()));
                }
                !group.is_over(now)
            });
        }
        for (at, key) in fallen {
            self.detach(at, &key);
        }
        if let Some(sequence) = &rule.sequence {
            self.progress.expire(sequence, now);
        }
        let quiet = rule.facts.suppress.unwrap_or(Duration::ZERO);
        let quiet = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        self.findings.retain(|key, finding| {
            let told_at = finding.told.map_or(0, |(_, at)| at.0);
            let stays = !finding.matching.is_empty() || now.0 < told_at.saturating_add(quiet);
            if !stays {
                resolved.push(resolution(rule, key, now));
            }
            stays
        });
    }

    /// Goes on with a finding of an earlier engine.
    pub(super) fn reopen(&mut self, rule: &Rule, matched: &Match, now: BootNs) {
        let exception = matched.exception.as_ref().map_or("", |exception| &exception.id);
        let values = matched.group.iter().map(|(_, value)| value.as_str());
        let key = Key::of(std::iter::once(exception).chain(values));
        let mut matching = Vec::new();
        for (at, (sum, groups)) in rule.sums.iter().zip(&mut self.sums).enumerate() {
            let is_same =
                sum.by.iter().map(|field| field.name).eq(rule.group_by.iter().map(|field| field.name));
            if let Some(group) = groups.get_mut(&key).filter(|_| is_same) {
                let value = group.value(now);
                group.is_matching = sum.reached(value, &group.asset).is_some();
                if group.is_matching {
                    matching.push((at, key.clone()));
                }
            }
        }
        if self.findings.len() < MAX_FINDINGS {
            let told = Some((matched.severity, matched.last_at));
            self.findings
                .insert(key, Finding { matching, told, last_at: matched.last_at, folded: matched.folded });
        }
    }

    fn detach(&mut self, at: usize, group: &Key) {
        for finding in self.findings.values_mut() {
            finding.matching.retain(|(sum, key)| *sum != at || key != group);
        }
    }

    /// Takes over what another version of the rule remembers: the windows that measure the same, and the findings that
    /// stand on them. Gives the others back as resolved.
    pub(super) fn inherit(
        &mut self,
        rule: &Rule,
        before: &Rule,
        old: Self,
        now: BootNs,
        out: &mut Vec<Resolved>,
    ) {
        let measured = prints(rule);
        let mut places = Vec::new();
        for (print, groups) in prints(before).into_iter().zip(old.sums) {
            let place = measured.iter().position(|known| *known == print);
            if let Some(place) = place {
                self.sums[place] = groups;
            }
            places.push(place);
        }
        let names = |rule: &Rule| rule.group_by.iter().map(|field| field.name).collect::<Vec<_>>();
        let is_same_identity = names(rule) == names(before);
        for (key, mut finding) in old.findings {
            finding.matching = finding
                .matching
                .into_iter()
                .filter_map(|(sum, group)| Some((places.get(sum).copied().flatten()?, group)))
                .collect();
            if is_same_identity && !finding.matching.is_empty() {
                self.findings.insert(key, finding);
            } else {
                out.push(resolution(before, &key, now));
            }
        }
        let steps =
            |rule: &Rule| rule.sequence.as_ref().map(|sequence| (sequence.by.len(), sequence.steps.len()));
        if steps(rule) == steps(before) {
            self.progress = old.progress;
        }
    }

    /// Everything that is open, as resolved.
    pub(super) fn resolve_all(self, rule: &Rule, now: BootNs, out: &mut Vec<Resolved>) {
        out.extend(self.findings.keys().map(|key| resolution(rule, key, now)));
    }

    pub(super) fn group_count(&self) -> usize {
        self.sums.iter().map(ByKey::len).sum()
    }
}

fn resolution(rule: &Rule, key: &Key, at: BootNs) -> Resolved {
    Resolved {
        rule: Arc::clone(&rule.facts),
        exception: key.exception().map(str::to_owned),
        group: labels(&rule.group_by, key),
        at,
    }
}

/// Makes one identity of many: only the exception and the asset stay apart.
fn fold(fields: &[&'static Field], identity: &mut Key) {
    let values = fields.iter().zip(identity.values());
    let folded = values.map(|(field, value)| if field.name == "asset.name" { value } else { OTHERS });
    *identity = Key::of(identity.parts().take(1).chain(folded));
}

fn labels(fields: &[&'static Field], key: &Key) -> Vec<(&'static str, String)> {
    fields.iter().zip(key.values()).map(|(field, text)| (field.name, text.to_owned())).collect()
}

fn share(bound: u64, asset_bytes: u64) -> f64 {
    if asset_bytes == 0 { 1.0 } else { bound as f64 / asset_bytes as f64 }
}
