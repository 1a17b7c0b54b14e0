//! How far the sequence of one rule came, for each combination of its `by` values. It must not know what is counted once one is
//! complete.

use super::{key::Key, state::ByKey};
use crate::{
    event::{BootNs, Record},
    rules::shape::Sequence,
};

/// Most combinations of one sequence's `by` values. Beyond them the one that came least far makes room.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// For each combination of the values and each step but the last: when the latest run that came so far began.
    runs: ByKey<Vec<Option<BootNs>>>,
}

impl Progress {
    /// Whether a record completes the sequence. For every step the latest start of a run that came so far is kept: a run
    /// that began later lasts longer, so no other run of the same values can complete when that one does not.
    /// `key` is memory that is used again; `evicted` counts who made room.
    pub(super) fn advance(
        &mut self,
        sequence: &Sequence,
        record: &Record,
        key: &mut Key,
        evicted: &mut u64,
    ) -> bool {
        let last = sequence.steps.len() - 1;
        let holds = |at: usize| {
            let step = &sequence.steps[at];
            step.on == record.kind && step.matcher.matches(record)
        };
        if !(0..=last).any(holds) {
            return false;
        }
        key.write(None, &sequence.by, record);
        let mut completed = false;
        // From the last step down, so that one record never takes two steps.
        for at in (0..=last).rev().filter(|at| holds(*at)) {
            let began = match at.checked_sub(1) {
                None => Some(record.at),
                Some(before) => self.runs.get(key).and_then(|runs| runs[before]),
            };
            let Some(began) = began.filter(|began| is_in_time(sequence, *began, record.at)) else {
                continue;
            };
            if at == last {
                completed = true;
                continue;
            }
            if !self.runs.contains_key(key) {
                if self.runs.len() >= MOST {
                    *evicted += 1;
                    self.forget_least();
                }
                self.runs.insert(key.clone(), vec![None; last]);
            }
            if let Some(runs) = self.runs.get_mut(key) {
                runs[at] = runs[at].max(Some(began));
            }
        }
        completed
    }

    /// Whoever starts many sequences must not end one that is nearly complete.
    fn forget_least(&mut self) {
        let far =
            |runs: &Vec<Option<BootNs>>| (runs.iter().rposition(Option::is_some), runs.iter().max().copied());
        let least = self.runs.iter().min_by_key(|(_, runs)| far(runs)).map(|(key, _)| key.clone());
        if let Some(key) = least {
            self.runs.remove(&key);
        }
    }

    /// Forgets the runs that can no longer be complete in time.
    pub(super) fn expire(&mut self, sequence: &Sequence, now: BootNs) {
        let runs_on = |began: &Option<BootNs>| began.is_some_and(|began| is_in_time(sequence, began, now));
        self.runs.retain(|_, runs| runs.iter().any(runs_on));
    }
}

fn is_in_time(sequence: &Sequence, began: BootNs, now: BootNs) -> bool {
    let over = u64::try_from(sequence.over.as_nanos()).unwrap_or(u64::MAX);
    now.0.saturating_sub(began.0) <= over
}
