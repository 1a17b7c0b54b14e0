//! The exception that somebody may want to write after reading an alert: as narrow as the alert allows, with what only a
//! person can know left open.

use std::collections::BTreeMap;

use crate::{
    alerts::Told,
    event::{Record, RecordKind},
    rules::{FIELDS, FieldValue},
};

/// Longest value that is offered.
const LONGEST: usize = 256;

/// What tells this doer and this place from others, hardest to claim first. Of `who` and of `place` the first that is known is
/// taken; of an act, all that is known.
const WHO: [&str; 3] = ["process.executable_sha256", "service.unit", "process.executable"];
const PLACE: [&str; 4] = ["sink.device_serial", "sink.address", "sink.device", "sink.channel"];
const ACT: [&str; 3] = ["act.kind", "act.target", "victim.executable"];

/// YAML with `owner`, `reason` and `expires` to be filled in, and a test of the alert as it was; `None` when the alert tells the doer apart by nothing that an
/// exception may rest on.
pub(super) fn stanza(told: &Told, record: &Record) -> Option<String> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    let mut take = |name: &'static str| match value_of(record, name) {
        Some(value) => {
            fields.push((name, value));
            true
        }
        None => false,
    };
    take("asset.name");
    let who = WHO.into_iter().find(|name| take(name));
    if who == Some("process.executable_sha256") {
        // For whoever reads it: the hash says what runs, the path what it is called.
        take("process.executable");
    }
    let place = PLACE.into_iter().find(|name| take(name));
    ACT.into_iter().for_each(|name| {
        take(name);
    });
    if who.is_none() && place.is_none() {
        return None;
    }
    let mut text = format!(
        "schema: 1\npack: site\nexceptions:\n  - id: {}\n    rules: [{}]\n    match:\n",
        quoted(&id(told)),
        quoted(&told.detail().rule)
    );
    for (name, value) in &fields {
        text += &format!("      {name}: {value}\n");
    }
    if !matches!(who, Some("process.executable_sha256" | "service.unit")) && place.is_none() {
        text +=
            "      # A path alone: whoever can write there is exempted too. Add where the bytes may go.\n";
    }
    text += "    owner:      # who answers for it, such as storage-oncall@example.org\n";
    text += "    reason:     # why it is wanted, in words that last a year, with the ticket\n";
    text += "    expires:    # the last day, such as 2027-03-01; at most 366 days from now\n";
    text += &test(told, record, &fields).unwrap_or_default();
    Some(text)
}

/// A test that shows what the exception covers: the alert's sum in one event. `None` where it was no sum of bytes.
fn test(told: &Told, record: &Record, fields: &[(&str, String)]) -> Option<String> {
    let detail = told.detail();
    let crossed = detail.crossed.as_ref();
    let (amount, bytes) = match record.kind {
        RecordKind::Act => ("", 0),
        _ if crossed.is_some_and(|line| ["count", "distinct"].contains(&line.measure.as_str())) => {
            return None;
        }
        RecordKind::Flow => ("bound", crossed?.value),
        RecordKind::Take => ("taken", crossed?.value),
        RecordKind::Egress => ("egress", crossed?.value),
    };
    // What stands below each part of an event.
    let mut parts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        // An event has no address but a peer, of which it is a part.
        let known = if *name == "sink.address" {
            ("sink.peer", value_of(record, "sink.peer")?)
        } else {
            (*name, value.clone())
        };
        let (part, rest) = known.0.split_once('.')?;
        parts.entry(part).or_default().push(format!("{rest}: {}", known.1));
    }
    if !detail.asset.is_empty() {
        parts.entry("asset").or_default().push(format!("bytes: {}B", detail.asset_bytes));
    }
    if let (Some(sink), false) = (&record.sink, record.kind == RecordKind::Act) {
        let known = parts.entry("sink").or_default();
        known.push(format!("control: {}", sink.control.as_str()));
        if record.kind == RecordKind::Flow {
            known.push(format!("kind: {}", sink.kind.as_str()));
        }
    }
    let parts: Vec<String> =
        parts.into_iter().map(|(part, known)| format!("{part}: {{{}}}", known.join(", "))).collect();
    let amount = if amount.is_empty() { String::new() } else { format!(", {amount}: {bytes}B") };
    Some(format!(
        "    tests:\n      - name: what was seen is covered\n        events:\n          - {{at: 0s, {}{amount}}}\n        expect:\n          \
         - {{rule: {}, severity: {}, exception: {}}}\n",
        parts.join(", "),
        quoted(&detail.rule),
        detail.severity.as_str(),
        quoted(&id(told)),
    ))
}

fn id(told: &Told) -> String {
    format!("EX-{}", short(told.finding()))
}

/// The value of a field as YAML; `None` when it is not known, or of a kind that no exception should name.
fn value_of(record: &Record, name: &str) -> Option<String> {
    let field = FIELDS.iter().find(|field| field.name == name && field.on.contains(&record.kind))?;
    let text = match (field.get)(record)? {
        FieldValue::Text(text) => text.to_owned(),
        FieldValue::Address(address) => address.to_string(),
        FieldValue::Number(_) | FieldValue::Flag(_) => return None,
    };
    // U+FFFD stands where bytes were lost: such a value never comes again.
    let odd = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    // A blank one is refused as if it were not there.
    let is_blank = text.trim().is_empty();
    (text.len() <= LONGEST && !text.contains(odd) && !is_blank).then(|| quoted(&text))
}

/// In double quotes, as JSON and YAML agree; also what turns the direction of writing is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Escapes of YAML, of four or eight digits.
            c if c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ' => out.push(c),
            c if u32::from(c) <= 0xffff => out += &format!("\\u{:04x}", u32::from(c)),
            c => out += &format!("\\U{:08x}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// The front of a finding's uid, with nothing in it that an id cannot have.
fn short(uid: &str) -> String {
    uid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(24).collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{AssetKind, RecordKind},
        rules::{RuleSet, run_tests},
        yaml::render,
    };

    const EXAMPLE: &str = include_str!("../../alerts/example.json");

    fn core_with(stanza: &str) -> Result<RuleSet, String> {
        let core = std::fs::read_to_string("../rules/core.yaml").expect("the built-in rules");
        let sources = [("core.yaml".into(), core), ("site.yaml".into(), stanza.to_owned())];
        RuleSet::parse(&sources, date(2026, 11, 22)).map_err(|faults| render(&faults, false))
    }

    fn filled(stanza: &str) -> String {
        stanza
            .replace("owner: ", "owner: soc@example.org ")
            .replace("reason: ", "reason: The weekly backup, CHG-8812 ")
            .replace("expires: ", "expires: 2027-03-01 ")
    }

    #[test]
    fn once_filled_in_it_passes_the_lint_and_covers_the_alert_and_nothing_else() {
        let told = Told::read(EXAMPLE).expect("an alert");
        let mut record = told.record(RecordKind::Flow, AssetKind::Weights, false);
        let stanza = stanza(&told, &record).expect("it tells the doer apart");
        insta::assert_snapshot!(stanza, @r##"
        schema: 1
        pack: site
        exceptions:
          - id: "EX-wb-0001-46b6afef06f55e71"
            rules: ["WB-0001"]
            match:
              asset.name: "llm-70b"
              process.executable_sha256: "9f2c"
              process.executable: "/usr/bin/rsync"
              sink.device: "8:16"
            owner:      # who answers for it, such as storage-oncall@example.org
            reason:     # why it is wanted, in words that last a year, with the ticket
            expires:    # the last day, such as 2027-03-01; at most 366 days from now
            tests:
              - name: what was seen is covered
                events:
                  - {at: 0s, asset: {name: "llm-70b", bytes: 141107412992B}, process: {executable_sha256: "9f2c", executable: "/usr/bin/rsync"}, sink: {device: "8:16", control: uncontrolled, kind: file}, bound: 209715200B}
                expect:
                  - {rule: "WB-0001", severity: high, exception: "EX-wb-0001-46b6afef06f55e71"}
        "##);
        assert!(core_with(&stanza).is_err(), "what is left open must be filled in");
        let set = core_with(&filled(&stanza)).unwrap_or_else(|faults| panic!("{faults}"));
        let warnings: Vec<&str> = set.warnings().iter().map(|one| one.message.as_str()).collect();
        assert_eq!(warnings, [""; 0]);
        let failures: Vec<_> = run_tests(&set).into_iter().filter_map(|test| test.failure).collect();
        assert!(failures.is_empty(), "{failures:?}");
        let rule = set.rules().iter().find(|rule| rule.facts.id == "WB-0001").expect("the rule");
        assert!(rule.exceptions[0].covers(&record));
        record.process = std::sync::Arc::new(crate::event::Process {
            exe_sha256: Some("00".to_owned()),
            ..record.process.as_ref().clone()
        });
        assert!(!rule.exceptions[0].covers(&record));
    }

    proptest! {
        /// Whatever a process calls itself, the stanza says that and nothing more.
        #[test]
        fn hostile_names_stay_values(exe in "\\PC{1,40}|[\"'\\\\:{}\\[\\]#&*!|>\n\u{1b}\u{202e}a-z ]{1,40}") {
            let told = Told::read(EXAMPLE).expect("an alert");
            let mut record = told.record(RecordKind::Flow, AssetKind::Weights, false);
            record.process = std::sync::Arc::new(crate::event::Process {
                exe: exe.clone(),
                exe_sha256: None,
                unit: None,
                ..record.process.as_ref().clone()
            });
            let stanza = stanza(&told, &record).expect("the device tells it apart");
            prop_assert!(!stanza.contains(|c: char| c.is_control() && c != '\n'));
            let set = core_with(&filled(&stanza)).map_err(TestCaseError::fail)?;
            let rule = set.rules().iter().find(|rule| rule.facts.id == "WB-0001").expect("the rule");
            prop_assert!(rule.exceptions[0].covers(&record));
        }
    }
}
