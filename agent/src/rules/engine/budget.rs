//! How far the budgets of the rules are used up, for who looks on. It must not know who looks, and changes nothing.

use std::time::Duration;

use super::{Engine, State};
use crate::{
    event::BootNs,
    rules::{rule::Severity, shape::Sum},
};

/// One window of one budget that anything is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    pub rule: String,
    /// Name of the budget in its rule.
    pub name: String,
    /// Id of the exception that what is in it falls under.
    pub exception: Option<String>,
    /// The fields that it is kept by, and their values, empty when absent.
    pub group: Vec<(&'static str, String)>,
    pub over: Duration,
    /// `bound`, `taken`, `bytes`, `count` or `distinct`.
    pub measure: &'static str,
    /// Bytes, or a number of events or values.
    pub sum: u64,
    /// The lowest line that is not reached, or the highest.
    pub line: u64,
    /// Of that line.
    pub severity: Severity,
    pub is_reached: bool,
}

impl Budget {
    /// The sum as a share of the line.
    #[must_use]
    pub fn share(&self) -> f64 {
        // A line is at least 1.
        self.sum as f64 / self.line.max(1) as f64
    }
}

impl Engine {
    /// The budgets that are used up most, most first, at most so many; and how many windows there are. What has left a window
    /// since the last [`Engine::expire`] does not count.
    pub fn budgets(&mut self, now: BootNs, most: usize) -> (Vec<Budget>, usize) {
        let mut all = Vec::new();
        for (rule, state) in self.rules.rules().iter().zip(&mut self.states) {
            let State { sums, .. } = state;
            for (sum, groups) in rule.sums.iter().zip(sums) {
                let Some(name) = &sum.name else { continue };
                for (key, group) in groups {
                    let value = group.value(now);
                    let Some((line, severity, is_reached)) = next_line(sum, value, &group.asset) else {
                        continue;
                    };
                    if value == 0 {
                        continue;
                    }
                    all.push(Budget {
                        rule: rule.facts.id.clone(),
                        name: name.clone(),
                        exception: key.exception().map(str::to_owned),
                        group: sum
                            .by
                            .iter()
                            .map(|field| field.name)
                            .zip(key.values().map(str::to_owned))
                            .collect(),
                        over: sum.over,
                        measure: sum.measure.as_str(),
                        sum: value,
                        line,
                        severity,
                        is_reached,
                    });
                }
            }
        }
        let count = all.len();
        all.sort_by(|a, b| {
            b.share()
                .total_cmp(&a.share())
                .then_with(|| (&a.rule, a.over, &a.group).cmp(&(&b.rule, b.over, &b.group)))
        });
        all.truncate(most);
        (all, count)
    }
}

/// Where the lowest line lies that a value has not reached, else the highest.
fn next_line(sum: &Sum, value: u64, asset: &crate::event::Asset) -> Option<(u64, Severity, bool)> {
    let lines = || sum.tiers.iter().map(|tier| (tier.line(asset), tier.severity));
    let ahead = lines().filter(|(line, _)| *line > value).min();
    ahead
        .map(|(line, severity)| (line, severity, false))
        .or_else(|| lines().max().map(|(line, severity)| (line, severity, true)))
}
