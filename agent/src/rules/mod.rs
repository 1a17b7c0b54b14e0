//! Rules: parse → check → compile → evaluate (`RULES.md` has the grammar, of which this is a subset; what is not built
//! yet is refused with its place).
//!
//! It knows [`Record`](crate::event::Record)s and YAML files. It must not know sensors, alerts, clocks or sinks: time is
//! what the records say.

mod assemble;
mod engine;
mod exception;
pub mod explain;
mod field;
#[cfg(test)]
pub(crate) mod fixtures;
mod match_parse;
mod matcher;
mod parse;
mod peer;
pub mod reference;
mod rule;
mod rule_parse;
pub(crate) mod saved;
mod set;
mod shape;
mod shape_parse;
mod table;
mod testing;
mod tuning;
mod weigh;
mod window;

pub use engine::{Budget, Contributors, Crossed, Engine, Match, Places, Resolved, Row};
pub use exception::{Exception, ExceptionFacts};
pub use field::{Field, FieldType, FieldValue};
pub(crate) use peer::peer_address;
pub use rule::{Mode, Rule, RuleFacts, Severity, Status};
pub use saved::TimeLine;
pub use set::RuleSet;
pub use table::FIELDS;
pub use testing::{TestOutcome, run_tests};
pub(crate) use tuning::suggest_id;
pub use weigh::Weighed;
pub(crate) use window::Window;
