//! What rules cost, from samples: one record of [`EVERY`] is timed rule by rule. It must not know what rules do.

use std::time::{Duration, Instant};

use crate::rules::RuleSet;

/// A prime, so that records that come in a pattern are not always the same ones that are timed.
const EVERY: u32 = 61;

/// By the place of a rule in its set.
#[derive(Debug, Default)]
pub(super) struct Costs {
    until: u32,
    /// Of timed records only.
    timed: Vec<Duration>,
    /// How much of it was taken.
    taken: Vec<Duration>,
}

impl Costs {
    pub(super) fn new(rules: usize) -> Self {
        let none = || vec![Duration::ZERO; rules];
        Self { until: EVERY, timed: none(), taken: none() }
    }

    /// Whether this record is one of those that are timed.
    pub(super) const fn is_due(&mut self) -> bool {
        self.until -= 1;
        if self.until == 0 {
            self.until = EVERY;
        }
        self.until == EVERY
    }

    pub(super) fn time(&mut self, rule: usize, judge: impl FnOnce()) {
        let start = Instant::now();
        judge();
        self.timed[rule] += start.elapsed();
    }

    /// An estimate for all records.
    pub(super) fn all(&self) -> impl Iterator<Item = Duration> {
        self.timed.iter().map(|timed| *timed * EVERY)
    }

    /// What was not taken yet.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Duration> {
        self.timed
            .iter()
            .zip(&mut self.taken)
            .map(|(timed, taken)| (*timed - std::mem::replace(taken, *timed)) * EVERY)
    }

    /// Goes on where the rules of the same ids were.
    pub(super) fn inherit(&mut self, rules: &RuleSet, before: &RuleSet, old: Self) {
        for (at, rule) in rules.rules().iter().enumerate() {
            let known = before.rules().iter().position(|known| known.facts.id == rule.facts.id);
            if let Some(known) = known {
                (self.timed[at], self.taken[at]) = (old.timed[known], old.taken[known]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_of_many_is_timed_and_nothing_is_told_twice() {
        let mut costs = Costs::new(2);
        let due = (0..EVERY * 10).filter(|_| costs.is_due()).count();
        assert_eq!(due, 10);
        costs.time(1, || std::hint::black_box(()));
        let all: Vec<Duration> = costs.all().collect();
        assert_eq!(all[0], Duration::ZERO);
        assert_eq!(costs.take().collect::<Vec<_>>(), all);
        assert_eq!(costs.take().collect::<Vec<_>>(), [Duration::ZERO; 2]);
        assert_eq!(costs.all().collect::<Vec<_>>(), all);
    }
}
