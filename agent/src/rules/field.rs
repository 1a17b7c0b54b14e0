//! What a field of a rule is: its name, its type, how to read it from a record and how to write it into the event of a
//! rule's test. Which fields there are stands in `table`.
//!
//! It must not know how rules are written or evaluated.

use std::{fmt::Write as _, net::IpAddr};

use super::table::FIELDS;
use crate::event::{
    ActKind, Asset, AssetId, AssetKind, Control, Process, Record, RecordKind, Sink, SinkKind,
};

/// A fact that a rule can match, group by or show.
#[derive(Debug)]
pub struct Field {
    /// As rules write it.
    pub name: &'static str,
    pub kind: FieldType,
    /// The event kinds that have it.
    pub on: &'static [RecordKind],
    /// One line for people.
    pub doc: &'static str,
    /// `None` when it does not apply or is not known.
    pub get: Get,
    /// Writes it into the event of a rule's test; `None` for what follows from another field.
    pub(crate) set: Option<Set>,
}

/// Reads a field from a record.
pub(super) type Get = fn(&Record) -> Option<FieldValue<'_>>;
/// Writes a field into the event of a rule's test.
pub(super) type Set = fn(&mut Draft, FieldValue<'_>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    Number,
    /// Bytes; written with a unit.
    Size,
    /// `true` or `false`.
    Flag,
    /// An IP address.
    Address,
}

impl FieldType {
    /// With its article, for errors and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Word(_) => "a word",
            Self::Number => "a number",
            Self::Size => "a size",
            Self::Flag => "a flag",
            Self::Address => "an address",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'r> {
    /// Never empty: an empty text is an absent one.
    Text(&'r str),
    Number(u64),
    Flag(bool),
    Address(IpAddr),
}

impl<'r> FieldValue<'r> {
    pub(super) fn text(text: &'r str) -> Option<Self> {
        (!text.is_empty()).then_some(Self::Text(text))
    }

    /// Appends it to `text` as people write it.
    pub(crate) fn write_to(self, text: &mut String) {
        match self {
            FieldValue::Text(value) => text.push_str(value),
            // Writing into a String cannot fail.
            FieldValue::Number(value) => {
                let _ = write!(text, "{value}");
            }
            FieldValue::Flag(value) => {
                let _ = write!(text, "{value}");
            }
            FieldValue::Address(value) => {
                let _ = write!(text, "{value}");
            }
        }
    }

    pub(super) fn to_text(self) -> String {
        let mut text = String::new();
        self.write_to(&mut text);
        text
    }

    pub(super) const fn to_number(self) -> u64 {
        if let FieldValue::Number(number) = self { number } else { 0 }
    }

    pub(super) fn to_u32(self) -> u32 {
        u32::try_from(self.to_number()).unwrap_or(u32::MAX)
    }

    pub(super) const fn to_flag(self) -> bool {
        matches!(self, FieldValue::Flag(true))
    }
}

/// The event of a rule's test while it is written.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) asset: Asset,
    pub(crate) sink_kind: Option<SinkKind>,
    pub(crate) sink_control: Option<Control>,
    /// The rest of the sink; its kind and control stand above.
    pub(crate) sink: Sink,
    pub(crate) process: Process,
    pub(crate) listed: bool,
    pub(crate) act: Option<ActKind>,
    pub(crate) act_target: Option<String>,
    pub(crate) victim: Option<Process>,
}

impl Draft {
    pub(crate) fn new() -> Self {
        Self {
            asset: Asset {
                id: AssetId(0),
                name: String::new(),
                kind: AssetKind::Weights,
                bytes: 0,
                most: 0,
                has_readers: false,
            },
            sink_kind: None,
            sink_control: None,
            sink: Sink::new(SinkKind::File, Control::Uncontrolled),
            process: nobody(1),
            listed: false,
            act: None,
            act_target: None,
            victim: None,
        }
    }
    /// The process that was reached into, to write its fields.
    pub(super) fn victim(&mut self) -> &mut Process {
        self.victim.get_or_insert_with(|| nobody(2))
    }
}

/// A process of which nothing but its id is known.
fn nobody(pid: u32) -> Process {
    Process { pid, ..Process::host() }
}

/// The field of that name.
pub(crate) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
    }
}
