//! YAML as operators write it: read from a file that nobody else can change, parsed into a tree in which every value
//! knows its place, checked so that everything that is wrong is reported at once.
//!
//! This is the only module that names the YAML library. It must not know what a configuration or a rule is.
//!
//! We walk the parser's events (of `serde-saphyr`) instead of deserialising into types, because serde stops at the
//! first error, guesses a type for plain scalars (a digest such as `9e2` would become a float, `off` a boolean), and
//! cannot say where a value stood once it is read.

mod check;
#[cfg(test)]
pub(crate) mod corpus;
mod diagnostic;
mod file;
mod tree;
mod units;

pub use check::{Check, Fields};
pub use diagnostic::{Diagnostic, Weight, render, suggest};
pub use file::{check_directory, read};
pub use tree::{Entry, Node, Source, Span, Value, parse};
pub use units::{format_duration, format_size, parse_duration, parse_size};

/// Most bytes in one file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most nodes (maps, lists, keys and scalars) in one file.
pub const MAX_NODES: usize = 50_000;
/// Deepest nesting of maps and lists.
pub const MAX_DEPTH: usize = 24;
/// Most diagnostics that are kept of one file; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 100;
