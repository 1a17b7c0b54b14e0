//! Evaluates rules: one record in, the matches it makes out. It must not know alerts: every record that leaves a sum at
//! or above a line is reported with the exact value, and how that is written is decided elsewhere.

mod budget;
mod cost;
mod group;
mod index;
mod key;
mod progress;
mod rows;
mod state;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub use self::{
    budget::Budget,
    rows::{Places, Row},
};
use self::{
    cost::Costs,
    index::{Candidates, Index},
    state::{Scratch, State},
};
use super::{
    RuleSet,
    exception::ExceptionFacts,
    rule::{Mode, RuleFacts, Severity},
};
use crate::event::{BootNs, HolderId, Process, Record, RecordKind};

/// One record left a sum of one rule at or above its lowest line.
#[derive(Clone, Debug)]
pub struct Match {
    pub rule: Arc<RuleFacts>,
    /// Of the highest line that any of the rule's sums has reached now.
    pub severity: Severity,
    /// Alert or shadow, never off. An excepted match is shadow.
    pub mode: Mode,
    /// What keeps it from being sent.
    pub exception: Option<Arc<ExceptionFacts>>,
    /// The identity had fallen below every line since it was last told at this severity, and the rule's `suppress` is not
    /// over: it is the same finding still.
    pub repeated: bool,
    /// How many matches of other identities were folded into this one because the rule floods; 0 unless it does.
    pub folded: u64,
    /// The alert's identity: the rule's `group_by` fields and their values, empty when absent.
    pub group: Vec<(&'static str, String)>,
    /// The bytes of the window, at most the asset's size.
    pub bound_bytes: u64,
    /// `bound_bytes` as a share of the asset's size; 1 while the size is not known.
    pub share: f64,
    pub crossed: Crossed,
    /// The record that moved the sum.
    pub record: Record,
    pub contributors: Contributors,
    /// First record of the group since its window was last empty.
    pub first_at: BootNs,
    pub last_at: BootNs,
}

/// Which value crossed which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossed {
    /// Name of the budget; `None` for an aggregate and a rule that fires at once.
    pub budget: Option<String>,
    /// `bound`, `taken`, `bytes`, `count` or `distinct`.
    pub measure: &'static str,
    /// Bytes, or a number of events or values.
    pub value: u64,
    pub line: u64,
    /// Length of the window.
    pub over: Duration,
}

/// Who moved the bytes of a sum.
#[derive(Clone, Debug, Default)]
pub struct Contributors {
    /// How many there are; one that was forgotten for lack of room and came back counts again.
    pub count: u64,
    /// The largest, largest first, with their bytes within the window.
    pub top: Vec<(HolderId, Arc<Process>, u64)>,
}

/// An identity that had matched stands on no sum above its lowest line any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub rule: Arc<RuleFacts>,
    /// Id of the exception that covered it.
    pub exception: Option<String>,
    /// As in [`Match::group`].
    pub group: Vec<(&'static str, String)>,
    pub at: BootNs,
}

/// Evaluates a rule set. The only clock is what records and [`Engine::expire`] say; what rules cost is measured beside it and
/// decides nothing.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
    /// For each event kind, by its place in [`RecordKind::ALL`]; rules that are off are in none.
    by_kind: [Index; RecordKind::ALL.len()],
    candidates: Candidates,
    /// For each rule.
    states: Vec<State>,
    scratch: Scratch,
    costs: Costs,
}

impl Engine {
    #[must_use]
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self {
            by_kind: RecordKind::ALL.map(|kind| Index::new(&rules, kind)),
            candidates: Candidates::default(),
            states: rules.rules().iter().map(|rule| State::new(rule)).collect(),
            scratch: Scratch::default(),
            costs: Costs::new(rules.rules().len()),
            rules,
        }
    }

    /// Puts another set in force. A sum that measures the same keeps its windows, so that a reload does not forget what
    /// has left already; the matches of a rule that is gone, or measures otherwise now, are resolved by the next
    /// [`Engine::expire`].
    pub fn replace_rules(&mut self, rules: Arc<RuleSet>, now: BootNs) {
        let old = std::mem::replace(self, Self::new(rules));
        self.scratch = old.scratch;
        self.costs.inherit(&self.rules, &old.rules, old.costs);
        for (before, state) in old.rules.rules().iter().zip(old.states) {
            let is_heir =
                |after: &Arc<super::Rule>| after.facts.id == before.facts.id && after.facts.mode != Mode::Off;
            match self.rules.rules().iter().position(is_heir) {
                Some(index) => {
                    let rule = &self.rules.rules()[index];
                    self.states[index].inherit(rule, before, state, now, &mut self.scratch.resolved);
                }
                None => state.resolve_all(before, now, &mut self.scratch.resolved),
            }
        }
    }

    #[must_use]
    pub const fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Groups, contributors and findings that had to make room for others since the start. The bytes of a group are not
    /// lost by it: the group that takes its place starts with its sum.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.scratch.evicted
    }

    /// Groups that are kept now, of all rules.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.states.iter().map(State::group_count).sum()
    }

    /// Counts a record and pushes a match for every rule that has a sum at or above its lowest line after it. Allocates
    /// nothing for a rule that does not match.
    pub fn observe(&mut self, record: &Record, matches: &mut Vec<Match>) {
        self.by_kind[record.kind as usize].candidates(record, &mut self.candidates);
        let is_timed = self.costs.is_due();
        for index in self.candidates.iter() {
            let mut judge =
                || self.states[index].observe(&self.rules.rules()[index], record, &mut self.scratch, matches);
            if is_timed { self.costs.time(index, judge) } else { judge() }
        }
    }

    /// What each rule has cost since it was first loaded: an estimate from samples, without what the choice of rules for a
    /// record costs all of them together.
    pub fn costs(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.rules.rules().iter().zip(self.costs.all()).map(|(rule, cost)| (rule.facts.id.as_str(), cost))
    }

    /// The same, as far as it was not taken yet.
    pub fn take_costs(&mut self, mut take: impl FnMut(&str, Duration)) {
        for (rule, cost) in self.rules.rules().iter().zip(self.costs.take()) {
            take(&rule.facts.id, cost);
        }
    }

    /// Forgets what has left the windows and pushes the identities that had matched and no longer do.
    pub fn expire(&mut self, now: BootNs, resolved: &mut Vec<Resolved>) {
        resolved.append(&mut self.scratch.resolved);
        for (rule, state) in self.rules.rules().iter().zip(&mut self.states) {
            state.expire(rule, now, resolved);
        }
    }

    /// What all windows hold, as plain rows, for a store that outlives this process.
    pub fn export(&self) -> impl Iterator<Item = Row> {
        rows::export(&self.rules, &self.states)
    }

    /// Puts rows of [`Engine::export`] back; call it before the first record. `shift_ns` is added to their times: 0 when they
    /// were made since this boot, else the wall clock at that boot minus the wall clock at this one. Returns how many
    /// rows were not taken: their rule is gone, measures otherwise now, or has no room.
    pub fn import(&mut self, rows: Vec<Row>, shift_ns: i64, now: BootNs) -> u64 {
        rows::import(&self.rules, &mut self.states, rows, shift_ns, now)
    }

    /// Where the values of a field stand in the keys of rows: for whoever keeps them under another name than they have now.
    #[must_use]
    pub fn places(&self, field: &str) -> Places {
        rows::places(&self.rules, field)
    }

    /// Remembers that somebody was told of a match by an earlier engine, after [`Engine::import`]: it is resolved when its sums
    /// fall, or, where its group is not that of a sum, when its `suppress` is over.
    pub fn reopen(&mut self, matched: &Match, now: BootNs) {
        let rules = self.rules.rules().iter().zip(&mut self.states);
        for (rule, state) in rules.filter(|(rule, _)| rule.facts.id == matched.rule.id) {
            state.reopen(rule, matched, now);
        }
    }
}
