//! A compiled `match:`: yes or no for a record. It must not know how it was written nor what follows from it.

use std::{net::IpAddr, ops::RangeInclusive};

use globset::GlobSet;
use ipnet::IpNet;
use regex::RegexSet;

use super::field::{Field, FieldValue};
use crate::event::{Record, RecordKind};

/// Conditions that must all hold.
#[derive(Debug, Default)]
pub(crate) struct Matcher(pub(super) Vec<Condition>);

#[derive(Debug)]
pub(super) enum Condition {
    Field { field: &'static Field, test: Test, negated: bool, when_absent: bool },
    Any(Vec<Matcher>),
    All(Vec<Matcher>),
    None(Vec<Matcher>),
}

#[derive(Debug)]
pub(super) enum Test {
    Text(Vec<String>),
    Number(Vec<u64>),
    Flag(Vec<bool>),
    Address(Vec<IpAddr>),
    Contains(Vec<String>),
    StartsWith(Vec<String>),
    EndsWith(Vec<String>),
    Glob(Globs),
    Regex(RegexSet),
    Network(Vec<IpNet>),
    Within(RangeInclusive<u64>),
    Exists(bool),
}

/// Globs, compiled and as regular expressions over bytes.
#[derive(Debug)]
pub(super) struct Globs {
    pub(super) set: GlobSet,
    pub(super) patterns: Vec<String>,
}

impl Matcher {
    /// Whether every condition holds. Allocates nothing.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        self.0.iter().all(|condition| Self::one(condition, record))
    }

    /// Whether one condition holds.
    pub(super) fn one(condition: &Condition, record: &Record) -> bool {
        match condition {
            Condition::Field { field, test, negated, when_absent } => match ((field.get)(record), test) {
                (value, Test::Exists(wanted)) => value.is_some() == *wanted,
                (Some(value), test) => test.holds(value) != *negated,
                (None, _) => *when_absent,
            },
            Condition::Any(matchers) => matchers.iter().any(|matcher| matcher.matches(record)),
            Condition::All(matchers) => matchers.iter().all(|matcher| matcher.matches(record)),
            Condition::None(matchers) => !matchers.iter().any(|matcher| matcher.matches(record)),
        }
    }
}

/// How hard it is to claim what an exception rests on, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trust {
    /// It says nothing that must hold.
    Nothing,
    /// Which asset, which kind of place: many at once.
    Broad,
    /// A name that anybody can give himself.
    Name,
    /// A path that somebody may be able to write to, or a user that somebody may become.
    Path,
    /// What the kernel or the hardware says.
    Fact,
}

impl Matcher {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The strongest thing that must hold.
    pub(crate) fn trust(&self) -> Trust {
        let of_each = self.0.iter().map(|condition| match condition {
            Condition::Field { negated: true, .. } | Condition::Field { test: Test::Exists(_), .. } => {
                Trust::Nothing
            }
            Condition::Field { field, .. } => trust(field.name),
            Condition::Any(matchers) => matchers.iter().map(Self::trust).min().unwrap_or(Trust::Nothing),
            Condition::All(matchers) => matchers.iter().map(Self::trust).max().unwrap_or(Trust::Nothing),
            Condition::None(_) => Trust::Nothing,
        });
        of_each.max().unwrap_or(Trust::Nothing)
    }

    /// A field that must have a value and that events of a kind do not have.
    pub(crate) fn never_on(&self, kind: RecordKind) -> Option<&'static str> {
        self.0.iter().find_map(|condition| match condition {
            Condition::Field { when_absent: true, .. }
            | Condition::Field { test: Test::Exists(false), .. } => None,
            Condition::Field { field, .. } => (!field.on.contains(&kind)).then_some(field.name),
            Condition::All(matchers) => matchers.iter().find_map(|matcher| matcher.never_on(kind)),
            Condition::Any(matchers) => {
                let never: Option<Vec<_>> = matchers.iter().map(|matcher| matcher.never_on(kind)).collect();
                never?.into_iter().next()
            }
            Condition::None(_) => None,
        })
    }
}

fn trust(field: &str) -> Trust {
    match field.rsplit('.').next().unwrap_or_default() {
        "command_line" => Trust::Name,
        "name" if field.starts_with("process.") || field.starts_with("victim.") => Trust::Name,
        "executable" | "path" | "id" | "audit_id" | "target"
            if !field.contains("container.") && !field.contains("cgroup.") =>
        {
            Trust::Path
        }
        "control" | "kind" | "class" | "fstype" | "removable" | "channel" | "listed" | "registered"
        | "bytes" => Trust::Broad,
        _ if field.starts_with("asset.") => Trust::Broad,
        _ => Trust::Fact,
    }
}

impl Test {
    /// Whether a text must fit a pattern.
    pub(super) const fn is_pattern(&self) -> bool {
        matches!(
            self,
            Self::Contains(_) | Self::StartsWith(_) | Self::EndsWith(_) | Self::Glob(_) | Self::Regex(_)
        )
    }

    /// The patterns as regular expressions over bytes, one of which every text that holds fits.
    pub(super) fn patterns(&self) -> Vec<String> {
        let each = |parts: &[String], before: &str, after: &str| {
            parts.iter().map(|part| format!("{before}{}{after}", regex::escape(part))).collect()
        };
        match self {
            Self::Contains(parts) => each(parts, "", ""),
            Self::StartsWith(parts) => each(parts, r"\A", ""),
            Self::EndsWith(parts) => each(parts, "", r"\z"),
            Self::Glob(globs) => globs.patterns.clone(),
            Self::Regex(regexes) => regexes.patterns().to_vec(),
            _ => Vec::new(),
        }
    }

    fn holds(&self, value: FieldValue<'_>) -> bool {
        match (self, value) {
            (Self::Text(texts), FieldValue::Text(value)) => texts.iter().any(|text| text == value),
            (Self::Contains(parts), FieldValue::Text(value)) => {
                parts.iter().any(|part| value.contains(part.as_str()))
            }
            (Self::StartsWith(parts), FieldValue::Text(value)) => {
                parts.iter().any(|part| value.starts_with(part.as_str()))
            }
            (Self::EndsWith(parts), FieldValue::Text(value)) => {
                parts.iter().any(|part| value.ends_with(part.as_str()))
            }
            (Self::Glob(globs), FieldValue::Text(value)) => globs.set.is_match(value),
            (Self::Regex(regexes), FieldValue::Text(value)) => regexes.is_match(value),
            (Self::Number(numbers), FieldValue::Number(value)) => numbers.contains(&value),
            (Self::Within(range), FieldValue::Number(value)) => range.contains(&value),
            (Self::Flag(flags), FieldValue::Flag(value)) => flags.contains(&value),
            (Self::Address(addresses), FieldValue::Address(value)) => addresses.contains(&value),
            (Self::Network(networks), FieldValue::Address(value)) => {
                networks.iter().any(|network| network.contains(&value))
            }
            // The type of the field decided the test when the rule was read.
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        event::{Control, RecordKind, SinkKind},
        rules::{Engine, fixtures},
    };

    /// Whether a rule with this match fires for this record.
    fn matches(text: &str, write: impl FnOnce(&mut super::super::field::Draft)) -> bool {
        let body = format!(
            "    match: {text}
    aggregate: {{sum: bound, by: [asset.name], over: 1m, tiers: [{{gte: 1B, severity: low}}]}}
    group_by: [asset.name]
"
        );
        let mut found = Vec::new();
        let mut engine = Engine::new(fixtures::rule_set("alert", &body));
        engine.observe(&fixtures::record(RecordKind::Flow, write), &mut found);
        !found.is_empty()
    }

    #[test]
    fn every_modifier() {
        for (text, wanted) in [
            ("{sink.kind: file}", true),
            ("{sink.kind: [peer, file]}", true),
            ("{sink.kind: peer}", false),
            ("{sink.kind|not: peer}", true),
            ("{sink.kind|not_in: [peer, file]}", false),
            ("{sink.kind|in: [peer]}", false),
            ("{sink.path|contains: usb}", true),
            ("{sink.path|contains: [nfs, usb]}", true),
            ("{sink.path|startswith: /media}", true),
            ("{sink.path|startswith: media}", false),
            ("{sink.path|endswith: [.gz, .zst]}", true),
            ("{sink.path|glob: /media/*/w.zst}", true),
            ("{sink.path|glob: /media/*}", false),
            ("{sink.path|glob: /media/**}", true),
            ("{sink.path|re: 'w\\.zst$'}", true),
            ("{sink.path|re: '^w'}", false),
            ("{sink.address: 203.0.113.9}", true),
            ("{sink.address|cidr: [10.0.0.0/8, 203.0.113.0/24]}", true),
            ("{sink.address|not_cidr: 203.0.113.0/24}", false),
            ("{sink.address|not_cidr: 10.0.0.0/8}", true),
            ("{sink.removable: true}", true),
            ("{sink.removable|not: true}", false),
            ("{user.id: [0, 1000]}", true),
            ("{user.id|gt: 1000}", false),
            ("{user.id|gte: 1000}", true),
            ("{user.id|lt: 1000}", false),
            ("{user.id|lte: 1000}", true),
            ("{user.id|gt: 18446744073709551615}", false),
            ("{user.id|lt: 0}", false),
            ("{asset.bytes|gt: 1GB}", true),
            ("{sink.path|exists: true}", true),
            ("{sink.path|exists: false}", false),
            ("{sink.kind: file, user.id: 1}", false),
            ("{any: [{user.id: 1}, {sink.kind: file}]}", true),
            ("{all: [{user.id: 1}, {sink.kind: file}]}", false),
            ("{none: [{user.id: 1}, {sink.kind: peer}]}", true),
            ("{none: [{user.id: 1000}]}", false),
            ("{sink.kind: file, any: [{none: [{user.id: 1}]}]}", true),
        ] {
            let found = matches(text, |draft| {
                draft.sink_kind = Some(SinkKind::File);
                draft.sink_control = Some(Control::Uncontrolled);
                draft.sink.path = Some("/media/usb/w.zst".to_owned());
                draft.sink.peer = Some("203.0.113.9:443/tcp".to_owned());
                draft.sink.removable = Some(true);
                draft.process.uid = 1000;
                draft.asset.bytes = 2_000_000_000;
            });
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn an_absent_field_fails_towards_alerting() {
        for (text, wanted) in [
            ("{sink.path: /a}", false),
            ("{sink.path|contains: a}", false),
            ("{sink.path|not: /a}", true),
            ("{sink.control|not_in: [controlled]}", true),
            ("{sink.address|not_cidr: 10.0.0.0/8}", true),
            ("{sink.address|cidr: 10.0.0.0/8}", false),
            ("{user.audit_id|lt: 1000}", false),
            ("{sink.path|exists: false}", true),
            // Within `none` a match is a reason to stay silent, so there the negated one is false.
            ("{none: [{sink.path: /a}]}", true),
            ("{none: [{sink.path|not: /a}]}", true),
            ("{none: [{none: [{sink.path|not: /a}]}]}", true),
            ("{process.executable|not: /usr/bin/cp}", true),
        ] {
            assert_eq!(matches(text, |_| {}), wanted, "{text}");
        }
    }

    #[test]
    fn a_list_by_name_stands_for_its_values() {
        let body = "    match: {sink.fstype|in: [$usb_fs, ntfs]}
    aggregate: {sum: bound, by: [asset.name], over: 1m, tiers: [{gte: 1B, severity: low}]}
    group_by: [asset.name]
lists: {usb_fs: [vfat, exfat]}
";
        for (fstype, wanted) in [("exfat", true), ("ntfs", true), ("xfs", false)] {
            let mut found = Vec::new();
            let record = fixtures::record(RecordKind::Flow, |draft| {
                draft.sink_kind = Some(SinkKind::File);
                draft.sink.fstype = Some(fstype.to_owned());
            });
            Engine::new(fixtures::rule_set("alert", body)).observe(&record, &mut found);
            assert_eq!(!found.is_empty(), wanted, "{fstype}");
        }
    }
}
