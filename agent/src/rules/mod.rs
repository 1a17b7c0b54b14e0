//! Rules: parse → check → compile → evaluate (`RULES.md` has the grammar, of which this is a subset; what is not built
//! yet is refused with its place).
//!
//! It knows [`Record`](crate::event::Record)s and YAML files. It must not know sensors, alerts, clocks or sinks: time is
//! what the records say.

mod engine;
mod field;
#[cfg(test)]
mod fixtures;
mod match_parse;
mod matcher;
mod parse;
mod rule;
mod set;
mod testing;
mod window;

pub use engine::{Contributors, Engine, Match, Resolved};
pub use field::{FIELDS, Field, FieldType, FieldValue};
pub use rule::{Mode, Rule, RuleFacts, Severity, Status};
pub use set::RuleSet;
pub use testing::{TestOutcome, run_tests};

use crate::event::RecordKind;

/// The words of `on:`.
const KINDS: [(&str, RecordKind); 2] = [("flow", RecordKind::Flow), ("take", RecordKind::Take)];

fn kind_word(kind: RecordKind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(word, _)| word)
}
