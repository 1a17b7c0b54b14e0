//! A rule after it was read and checked. It must not know YAML nor how its sums are kept.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{field::Field, matcher::Matcher, testing::RuleTest};
use crate::{
    event::{Asset, Record, RecordKind},
    yaml::{Source, Span},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// Every value, lowest first.
    pub const ALL: [Self; 5] = [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What becomes of a rule's matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Alert,
    /// Written down and sent nowhere.
    Shadow,
    /// Never evaluated.
    Off,
}

impl Mode {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Alert, Self::Shadow, Self::Off];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }
}

/// How far a rule can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Experimental,
    Test,
    Stable,
    Deprecated,
}

impl Status {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Experimental, Self::Test, Self::Stable, Self::Deprecated];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Experimental => "experimental",
            Self::Test => "test",
            Self::Stable => "stable",
            Self::Deprecated => "deprecated",
        }
    }
}

/// What an alert says of its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleFacts {
    pub id: String,
    pub revision: u32,
    pub title: String,
    /// The rule's own; a match carries the one of the tier that it reached.
    pub severity: Severity,
    pub status: Status,
    pub mode: Mode,
    pub owner: String,
    pub runbook: String,
    pub tags: Vec<String>,
    /// Shortest time between two alerts of one identity at one severity; `None` when every one counts.
    #[serde(skip)]
    pub suppress: Option<Duration>,
}

impl RuleFacts {
    /// The ATT&CK techniques of the tags in their order, as `T1052.001`; tags of other kinds are left out.
    pub fn techniques(&self) -> impl Iterator<Item = String> {
        self.tags.iter().filter_map(|tag| {
            let id = tag.strip_prefix("attack.t")?;
            let (base, sub) = id.split_once('.').map_or((id, None), |(base, sub)| (base, Some(sub)));
            let digits =
                |text: &str, count: usize| text.len() == count && text.bytes().all(|c| c.is_ascii_digit());
            let fits = digits(base, 4) && sub.is_none_or(|sub| digits(sub, 3));
            fits.then(|| format!("T{id}"))
        })
    }
}

/// A rule that can be evaluated.
#[derive(Debug)]
pub struct Rule {
    pub facts: Arc<RuleFacts>,
    /// The event kind that it looks at.
    pub on: RecordKind,
    pub(crate) matcher: Matcher,
    /// While this holds, the rule's matches are shadow.
    pub(crate) shadow_if: Option<Matcher>,
    /// `None` for a rule that fires at once.
    pub(crate) aggregate: Option<Aggregate>,
    /// The alert's identity.
    pub(crate) group_by: Vec<&'static Field>,
    pub(crate) tests: Vec<RuleTest>,
    /// Where its id stands.
    pub(crate) source: Arc<Source>,
    pub(crate) span: Span,
}

/// How long a rule without an aggregate keeps a finding open that nothing adds to, unless it has a `suppress`.
const AT_ONCE_OVER: Duration = Duration::from_secs(600);

impl Rule {
    /// The length of its window.
    pub(crate) fn over(&self) -> Duration {
        match &self.aggregate {
            Some(aggregate) => aggregate.over,
            None => self.facts.suppress.unwrap_or(AT_ONCE_OVER),
        }
    }

    /// The severity that a group with this sum has reached, while anything is in its window.
    pub(crate) fn severity(&self, sum: u64, asset: &Asset) -> Option<Severity> {
        match &self.aggregate {
            Some(aggregate) => aggregate.severity(sum, asset),
            None => Some(self.facts.severity),
        }
    }

    /// What a match of this record would be: alert or shadow.
    pub(crate) fn mode_of(&self, record: &Record) -> Mode {
        match &self.shadow_if {
            Some(shadow_if) if shadow_if.matches(record) => Mode::Shadow,
            _ => self.facts.mode,
        }
    }
}

/// A sum of bytes per group over a sliding window, and the lines that it can cross.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// One sum for each combination of these.
    pub(crate) by: Vec<&'static Field>,
    pub(crate) over: Duration,
    /// At least one, severities rising.
    pub(crate) tiers: Vec<Tier>,
}

/// A line: `max(share × asset, bytes)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tier {
    pub(crate) bytes: u64,
    pub(crate) share: f64,
    pub(crate) severity: Severity,
}

impl Tier {
    /// The bytes from which on it is reached. While the asset's size is not known, a share is no line at all and only the
    /// floor counts, which errs towards alerting.
    pub(crate) fn line(&self, asset: &Asset) -> u64 {
        // Exact up to 2^53 bytes, which is 8 PiB.
        let share = (self.share * asset.bytes as f64).ceil() as u64;
        share.max(self.bytes).max(1)
    }
}

impl Aggregate {
    /// The severity that a sum has reached.
    pub(crate) fn severity(&self, sum: u64, asset: &Asset) -> Option<Severity> {
        self.tiers.iter().filter(|tier| sum >= tier.line(asset)).map(|tier| tier.severity).max()
    }
}
