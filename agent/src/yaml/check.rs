//! Reads values out of a [`Node`] and collects what is wrong with them, so that one run reports everything. It must not
//! know which keys there are: whoever asks for a key thereby makes it known.

use std::{sync::Arc, time::Duration};

use super::{
    Diagnostic, Entry, MAX_DIAGNOSTICS, Node, Source, Span, Value, Weight, parse_duration, parse_size,
    suggest,
};

/// What was found wrong with one file so far.
pub struct Check {
    source: Arc<Source>,
    faults: Vec<Diagnostic>,
    /// Faults that were not kept.
    more: usize,
}

impl Check {
    #[must_use]
    pub const fn new(source: Arc<Source>) -> Self {
        Self { source, faults: Vec::new(), more: 0 }
    }

    #[must_use]
    pub const fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Whether anything was found wrong that a file cannot be used with.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.more > 0 || self.faults.iter().any(|fault| fault.weight == Weight::Error)
    }

    /// Everything that was found wrong, in the order of the file.
    #[must_use]
    pub fn into_faults(mut self) -> Vec<Diagnostic> {
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        if self.more > 0 {
            let message = format!("{} more errors are not shown", self.more);
            self.faults.push(Diagnostic::of_file(self.source.file.clone(), message));
        }
        self.faults
    }

    pub fn push(&mut self, fault: Diagnostic) {
        if self.faults.len() < MAX_DIAGNOSTICS {
            self.faults.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub fn error(&mut self, at: Span, message: impl Into<String>, help: impl Into<String>) {
        let fault = Diagnostic::at(&self.source, at, message).help(help);
        self.push(fault);
    }

    /// The scalar's text. `what` names the thing in errors.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        if node.is_null() {
            self.error(node.span, format!("{what} is empty"), "write a value or remove the key");
            return None;
        }
        match &node.value {
            Value::Scalar { text, .. } if !text.trim().is_empty() => Some(text),
            Value::Scalar { .. } => {
                self.error(node.span, format!("{what} is empty"), "write a value or remove the key");
                None
            }
            Value::List(_) | Value::Map(_) => {
                self.error(node.span, format!("{what} is {}", kind(node)), "write one value");
                None
            }
        }
    }

    /// A whole number between `low` and `high`.
    pub fn number(&mut self, node: &Node, what: &str, low: u64, high: u64) -> Option<u64> {
        let text = self.text(node, what)?;
        match text.parse() {
            Ok(number) if (low..=high).contains(&number) => Some(number),
            _ => {
                let help = format!("write a whole number from {low} to {high}");
                self.error(node.span, format!("{what} is `{text}`"), help);
                None
            }
        }
    }

    pub fn bool(&mut self, node: &Node, what: &str) -> Option<bool> {
        self.choice(node, what, &[("true", true), ("false", false)])
    }

    /// Bytes, from `64MiB`.
    pub fn size(&mut self, node: &Node, what: &str) -> Option<u64> {
        let text = self.text(node, what)?;
        parse_size(text).map_err(|error| self.reject(node, what, &error)).ok()
    }

    /// A duration, from `10m`.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.text(node, what)?;
        parse_duration(text).map_err(|error| self.reject(node, what, &error)).ok()
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.error(node.span, format!("{what} is `{text}`"), suggest(text, &known));
        }
        found
    }

    /// The items of a list that has some.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) if items.is_empty() => {
                self.error(node.span, format!("{what} is an empty list"), "add an item or remove the key");
                None
            }
            Value::List(items) => Some(items),
            Value::Scalar { .. } | Value::Map(_) => {
                self.error(node.span, format!("{what} is {}", kind(node)), "write a list: `[…]`");
                None
            }
        }
    }

    /// The keys of a map, to be asked for one by one; call [`Fields::done`] afterwards.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { what, span: node.span, entries, asked: Vec::new() }),
            Value::Scalar { .. } | Value::List(_) => {
                self.error(node.span, format!("{what} is {}", kind(node)), "write a map: `key: value`");
                None
            }
        }
    }

    fn reject(&mut self, node: &Node, what: &str, error: &str) {
        // The unit parsers end with the remedy after a colon.
        match error.split_once(": ") {
            Some((wrong, remedy)) => self.error(node.span, format!("{what}: {wrong}"), remedy),
            None => self.error(node.span, format!("{what}: {error}"), "write a smaller one"),
        }
    }
}

/// What a node is, in words.
const fn kind(node: &Node) -> &'static str {
    match node.value {
        Value::Scalar { .. } => "one value",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

/// The entries of a map while they are read.
pub struct Fields<'n> {
    what: &'static str,
    span: Span,
    entries: &'n [Entry],
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Where the map starts.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.span
    }

    /// The value of a key that may be absent.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.asked.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of a key that must be there.
    pub fn need(&mut self, check: &mut Check, key: &'static str) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            check.error(self.span, format!("{} has no `{key}`", self.what), format!("add `{key}: …`"));
        }
        found
    }

    /// Refuses a key that the grammar has and this agent has not.
    pub fn not_built(&mut self, check: &mut Check, key: &'static str, remedy: &str) {
        self.asked.push(key);
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            check.error(entry.key_span, format!("`{key}` is not built yet"), remedy);
        }
    }

    /// Whether every key that is there was asked for.
    #[must_use]
    pub fn all_asked(&self) -> bool {
        self.entries.iter().all(|entry| self.asked.contains(&entry.key.as_str()))
    }

    /// Reports the keys that nobody asked for.
    pub fn done(self, check: &mut Check) {
        for entry in self.entries {
            if !self.asked.contains(&entry.key.as_str()) {
                let message = format!("unknown key `{}` in {}", entry.key, self.what);
                check.error(entry.key_span, message, suggest(&entry.key, &self.asked));
            }
        }
    }
}
