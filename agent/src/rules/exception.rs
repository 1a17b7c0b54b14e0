//! Reasons to stay silent that are data and not rules: who owns one, why, until when. It must not know how rules are
//! evaluated.

use std::sync::Arc;

use jiff::civil::Date;
use serde::{Serialize, Serializer};

use super::{matcher::Matcher, testing::RuleTest};
use crate::yaml::{Node, Source, Span};

/// What an alert says of the exception that kept it from being sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExceptionFacts {
    pub id: String,
    /// Ids of the rules that it silences.
    pub rules: Vec<String>,
    pub owner: String,
    pub reason: String,
    /// The last day on which it holds, in UTC.
    #[serde(serialize_with = "display")]
    pub expires: Date,
    pub ticket: Option<String>,
}

/// An exception that can be evaluated.
#[derive(Debug)]
pub struct Exception {
    pub facts: Arc<ExceptionFacts>,
    pub(crate) matcher: Matcher,
    /// Its match as it was written.
    pub(crate) written: Node,
    pub(crate) tests: Arc<[RuleTest]>,
    pub(crate) source: Arc<Source>,
    pub(crate) span: Span,
}

/// Writes a date as people write it.
pub(super) fn display<S: Serializer>(date: &Date, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(date)
}
