//! What a rule measures: sums, counts and distinct values over sliding windows, the lines that they can cross, and ordered
//! steps. It must not know YAML nor how windows are kept.

use std::{fmt::Write as _, time::Duration};

use super::{field::Field, matcher::Matcher, rule::Severity};
use crate::event::{Asset, RecordKind};

/// How long a rule that fires at once keeps a finding open that nothing adds to, unless it has a `suppress`.
pub(crate) const AT_ONCE_OVER: Duration = Duration::from_secs(600);

/// One window for each combination of `by`, and its lines: an `aggregate`, or one of the `budgets`. A rule that fires at
/// once has one too, which counts events and whose line is the first.
#[derive(Debug)]
pub(crate) struct Sum {
    /// Of a budget.
    pub(crate) name: Option<String>,
    pub(crate) measure: Measure,
    pub(crate) by: Vec<&'static Field>,
    pub(crate) over: Duration,
    /// At least one, severities rising.
    pub(crate) tiers: Vec<Tier>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// Bytes, under the word that the event kind has for them.
    Bytes(&'static str),
    /// Events.
    Count,
    /// Different values of a field.
    Distinct(&'static Field),
}

impl Measure {
    /// The word of the grammar.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bytes(word) => word,
            Self::Count => "count",
            Self::Distinct(_) => "distinct",
        }
    }
}

/// A line: `max(share × asset, least)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tier {
    /// Bytes, or a number of events or values.
    pub(crate) least: u64,
    pub(crate) share: f64,
    pub(crate) severity: Severity,
}

impl Tier {
    /// From where on it is reached. While the asset's size is not known, a share is no line at all and only the floor
    /// counts, which errs towards alerting.
    pub(crate) fn line(&self, asset: &Asset) -> u64 {
        // Exact up to 2^53 bytes, which is 8 PiB.
        let share = (self.share * asset.bytes as f64).ceil() as u64;
        share.max(self.least).max(1)
    }
}

impl Sum {
    /// Fires with the first event: what a rule without `aggregate` and `budgets` does.
    pub(crate) fn at_once(by: Vec<&'static Field>, over: Option<Duration>, severity: Severity) -> Self {
        let tiers = vec![Tier { least: 1, share: 0.0, severity }];
        Self { name: None, measure: Measure::Count, by, over: over.unwrap_or(AT_ONCE_OVER), tiers }
    }

    /// The severest line that a value has reached, with where it lies.
    pub(crate) fn reached(&self, value: u64, asset: &Asset) -> Option<(Severity, u64)> {
        let lines = self.tiers.iter().map(|tier| (tier.severity, tier.line(asset)));
        lines.filter(|(_, line)| value >= *line).max()
    }

    /// What is measured, in words that change when the values of its windows would be others: `flow bound by asset.name
    /// over 3600000ms`.
    pub(crate) fn fingerprint(&self, on: RecordKind) -> String {
        let mut text = format!("{} {}", on.as_str(), self.measure.as_str());
        // Writing into a String cannot fail.
        if let Measure::Distinct(field) = self.measure {
            let _ = write!(text, " {}", field.name);
        }
        let by: Vec<&str> = self.by.iter().map(|field| field.name).collect();
        let _ = write!(text, " by {} over {}ms", by.join(","), self.over.as_millis());
        text
    }
}

/// Steps that must come one after the other for the same values of `by`, all within `over`.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) by: Vec<&'static Field>,
    pub(crate) over: Duration,
    /// At least two.
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) on: RecordKind,
    pub(crate) matcher: Matcher,
}
