//! A rule after it was read and checked. It must not know YAML nor how its sums are kept.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    exception::Exception,
    field::Field,
    matcher::Matcher,
    shape::{Sequence, Sum},
    testing::RuleTest,
};
use crate::{
    event::{Record, RecordKind},
    yaml::{Node, Source, Span},
};

words! {
    /// Lowest first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Severity {
        Informational = "informational",
        Low = "low",
        Medium = "medium",
        High = "high",
        Critical = "critical",
    }
}

words! {
    /// What becomes of a rule's matches.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Mode {
        Alert = "alert",
        /// Written down and sent nowhere.
        Shadow = "shadow",
        /// Never evaluated.
        Off = "off",
    }
}

words! {
    /// How far a rule can be trusted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Status {
        Experimental = "experimental",
        Test = "test",
        Stable = "stable",
        Deprecated = "deprecated",
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
#[derive(Clone, Debug)]
pub struct Rule {
    pub facts: Arc<RuleFacts>,
    /// The event kind that it looks at; of a sequence, that of its last step.
    pub on: RecordKind,
    pub(crate) matcher: Arc<Matcher>,
    /// While this holds, the rule's matches are shadow.
    pub(crate) shadow_if: Option<Arc<Matcher>>,
    /// At least one. What a match shows is the one that reached the highest severity.
    pub(crate) sums: Arc<[Sum]>,
    /// Only what completes it is measured.
    pub(crate) sequence: Option<Arc<Sequence>>,
    /// The alert's identity.
    pub(crate) group_by: Vec<&'static Field>,
    /// Those that name this rule and have not expired.
    pub(crate) exceptions: Vec<Arc<Exception>>,
    pub(crate) tests: Arc<[RuleTest]>,
    /// As it was written, with the overrides in place.
    pub(crate) written: Arc<Node>,
    /// Where its id stands.
    pub(crate) source: Arc<Source>,
    pub(crate) span: Span,
}

impl Rule {
    /// What a match of this record would be: alert or shadow.
    pub(crate) fn mode_of(&self, record: &Record) -> Mode {
        match &self.shadow_if {
            Some(shadow_if) if shadow_if.matches(record) => Mode::Shadow,
            _ => self.facts.mode,
        }
    }

    /// Whether it ever looks at events of a kind.
    pub(crate) fn looks_at(&self, kind: RecordKind) -> bool {
        match &self.sequence {
            Some(sequence) => sequence.steps.iter().any(|step| step.on == kind),
            None => self.on == kind,
        }
    }

    /// The exception that covers a record.
    pub(crate) fn exception_for(&self, record: &Record) -> Option<&Arc<Exception>> {
        self.exceptions.iter().find(|exception| exception.matcher.matches(record))
    }
}
