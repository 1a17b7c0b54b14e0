//! A rule in plain words, as YAML, and as paths with values: for people who read it and for the difference between two
//! sets. It goes by what was written, and must not know how rules are evaluated.

use std::collections::BTreeMap;

use super::{
    exception::Exception,
    match_parse::Purpose,
    rule::{Rule, Severity},
    shape::{Measure, Sum, Tier},
};
use crate::{
    event::RecordKind,
    yaml::{Entry, Node, Value, format_duration, format_size},
};

impl Rule {
    /// The lines of its lines: `64 MiB or 1 % of the asset over 10m: high`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.sums.iter().flat_map(|sum| sum.tiers.iter().map(|tier| line(self, sum, tier))).collect()
    }

    /// What must hold, one line for each condition, nested by two spaces.
    #[must_use]
    pub fn conditions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(node) = child(&self.written, "match") {
            describe(node, Purpose::Alert, 0, &mut lines);
        }
        if let Some(steps) = child(&self.written, "sequence").and_then(|node| child(node, "steps"))
            && let Value::List(steps) = &steps.value
        {
            for (at, step) in steps.iter().enumerate() {
                let on = child(step, "on").map_or_else(|| self.on.as_str().to_owned(), scalar);
                lines.push(format!("step {}, an event of kind {on}:", at + 1));
                if let Some(node) = child(step, "match") {
                    describe(node, Purpose::Alert, 1, &mut lines);
                }
            }
        }
        lines
    }

    /// What makes its matches shadow, as in [`Rule::conditions`].
    #[must_use]
    pub fn shadow_conditions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(node) = child(&self.written, "shadow_if") {
            describe(node, Purpose::Silence, 0, &mut lines);
        }
        lines
    }

    /// The highest severity that any of its lines has.
    #[must_use]
    pub fn highest_severity(&self) -> Severity {
        let severities = self.sums.iter().flat_map(|sum| sum.tiers.iter().map(|tier| tier.severity));
        severities.max().unwrap_or(self.facts.severity)
    }

    /// Names of the fields of the alert's identity.
    #[must_use]
    pub fn identity(&self) -> Vec<&'static str> {
        self.group_by.iter().map(|field| field.name).collect()
    }

    /// How many of its tests expect it to fire, and how many do not.
    #[must_use]
    pub fn test_counts(&self) -> (usize, usize) {
        let fires =
            |test: &&super::testing::RuleTest| test.expect.iter().any(|one| one.rule == self.facts.id);
        let positive = self.tests.iter().filter(fires).count();
        (positive, self.tests.len() - positive)
    }

    /// As YAML, with the overrides in place.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        write_node(&self.written, 0, &mut text);
        text
    }

    /// Each value with its path, such as `aggregate.tiers.0.gte`.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, String> {
        let mut paths = BTreeMap::new();
        flatten(&self.written, String::new(), &mut paths);
        paths
    }
}

impl Exception {
    /// What must hold for it; see [`Rule::conditions`].
    #[must_use]
    pub fn conditions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        describe(&self.written, Purpose::Silence, 0, &mut lines);
        lines
    }

    /// Each value of its match with its path.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, String> {
        let mut paths = BTreeMap::new();
        flatten(&self.written, "match".to_owned(), &mut paths);
        paths.insert("rules".to_owned(), self.facts.rules.join(", "));
        paths.insert("expires".to_owned(), self.facts.expires.to_string());
        paths
    }
}

fn line(rule: &Rule, sum: &Sum, tier: &Tier) -> String {
    let by: Vec<&str> = sum.by.iter().map(|field| field.name).collect();
    let severity = tier.severity.as_str();
    let over = format_duration(sum.over);
    let name = sum.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let what = match sum.measure {
        Measure::Bytes(word) => {
            let share = percent(tier.share);
            let line = match (tier.least, tier.share > 0.0) {
                (least, false) => format_size(least),
                (0, true) => format!("{share} of the asset"),
                (floor, true) => format!("{share} of the asset, and at least {}", format_size(floor)),
            };
            format!("{line} ({word})")
        }
        // A rule that fires at once.
        Measure::Count if sum.name.is_none() && child(&rule.written, "aggregate").is_none() => {
            return format!("the first event of each {}: {severity}", by.join(", "));
        }
        Measure::Count => format!("{} events", tier.least),
        Measure::Distinct(field) => format!("{} different {}", tier.least, field.name),
    };
    format!("{name}{what} within {over} for each {}: {severity}", by.join(", "))
}

/// `0.05 %`, without trailing zeros.
fn percent(share: f64) -> String {
    let text = format!("{:.6}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn describe(node: &Node, purpose: Purpose, depth: usize, lines: &mut Vec<String>) {
    let Value::Map(entries) = &node.value else { return };
    let indent = "  ".repeat(depth);
    for entry in entries {
        let (header, inner) = match entry.key.as_str() {
            "any" => ("one of these holds:", purpose),
            "all" => ("all of these hold:", purpose),
            "none" => ("none of these holds:", purpose.inverse()),
            _ => {
                lines.push(format!("{indent}{}", condition(entry, purpose)));
                continue;
            }
        };
        lines.push(format!("{indent}{header}"));
        if let Value::List(items) = &entry.value.value {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    lines.push(format!("{indent}  or"));
                }
                describe(item, inner, depth + 1, lines);
            }
        }
    }
}

fn condition(entry: &Entry, purpose: Purpose) -> String {
    let (field, modifier) = entry.key.split_once('|').unwrap_or((&entry.key, ""));
    let value = match &entry.value.value {
        Value::List(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
        _ => scalar(&entry.value),
    };
    let is_list = matches!(&entry.value.value, Value::List(items) if items.len() > 1);
    let one_of = |words: &str| if is_list { format!("{words} one of") } else { words.to_owned() };
    let words = match modifier {
        "" | "in" => one_of("is"),
        "not" | "not_in" if is_list => "is none of".to_owned(),
        "not" | "not_in" => "is not".to_owned(),
        "contains" => one_of("contains"),
        "startswith" => one_of("starts with"),
        "endswith" => one_of("ends with"),
        "glob" => one_of("fits the glob"),
        "re" => one_of("fits the regular expression"),
        "cidr" => one_of("is in the network"),
        "not_cidr" => one_of("is not in the network"),
        "gt" => "is more than".to_owned(),
        "gte" => "is at least".to_owned(),
        "lt" => "is less than".to_owned(),
        "lte" => "is at most".to_owned(),
        _ => {
            let known = if value == "true" { "known" } else { "not known" };
            return format!("{field} is {known}");
        }
    };
    let holds_when_absent = modifier.starts_with("not") && purpose == Purpose::Alert;
    let absent = if holds_when_absent { "holds too" } else { "does not hold" };
    format!("{field} {words} {value} ({absent} when it is not known)")
}

fn child<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}

fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn flatten(node: &Node, path: String, paths: &mut BTreeMap<String, String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match &node.value {
        Value::Scalar { text, .. } => {
            paths.insert(path, text.clone());
        }
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(item, below(&at.to_string()), paths);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                flatten(&entry.value, below(&entry.key), paths);
            }
        }
    }
}

/// Blocks outside, one line for what has no maps inside.
fn write_node(node: &Node, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                text.push_str(&indent);
                text.push_str(&quoted(&entry.key, false));
                write_value(&entry.value, depth, text);
            }
        }
        Value::List(items) => {
            for item in items {
                text.push_str(&indent);
                text.push_str("- ");
                text.push_str(&inline(item));
                text.push('\n');
            }
        }
        Value::Scalar { .. } => {
            text.push_str(&indent);
            text.push_str(&inline(node));
            text.push('\n');
        }
    }
}

fn write_value(node: &Node, depth: usize, text: &mut String) {
    let is_flat = match &node.value {
        Value::Scalar { .. } => true,
        Value::List(items) => items.iter().all(|item| matches!(item.value, Value::Scalar { .. })),
        Value::Map(_) => false,
    };
    if is_flat {
        text.push_str(": ");
        text.push_str(&inline(node));
        text.push('\n');
    } else {
        text.push_str(":\n");
        write_node(node, depth + 1, text);
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, quoted: was_quoted } => quoted(text, *was_quoted),
        Value::List(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries = entries
                .iter()
                .map(|entry| format!("{}: {}", quoted(&entry.key, false), inline(&entry.value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Plain where it was written so and can be anywhere; JSON strings are YAML too.
fn quoted(text: &str, was_quoted: bool) -> String {
    let is_plain = !text.is_empty()
        && !was_quoted
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || " ./_-$|+<>=".contains(c) || (c == ':' && !text.contains(": ")))
        && !text.starts_with([' ', '-', '=', '>', '|', ':'])
        && !text.ends_with([' ', ':']);
    if is_plain { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() }
}

/// The words of the event kinds.
#[must_use]
pub fn kind_words(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Flow => "a bound grows",
        RecordKind::Take => "a holder takes bytes",
        RecordKind::Act => "somebody does something that matters by itself",
        RecordKind::Egress => "the host as a whole sends bytes to an address",
    }
}
