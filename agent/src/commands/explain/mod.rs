//! `weighbridge explain`: what an alert means, for somebody who was woken by it. The way of the bytes, who moved them, which
//! value crossed which line, why no exception held, and the exception that could be written.
//!
//! It reads a log that somebody may have written to, and rules that may be newer than the alert; it says both.

mod find;
mod stanza;
mod text;
mod tree;

use std::path::PathBuf;

use serde_json::{Value, json};

use self::find::{find, read_one};
use super::{
    OK, Output, fail,
    log::complain,
    print,
    rules::{RulesFrom, load_paths},
};
use crate::{
    alerts::{Told, printable},
    event::{AssetKind, Record, RecordKind},
    pipeline::Failure,
    rules::{Exception, Rule, RuleSet, Weighed},
};

/// All that is known of one alert.
struct Explained {
    told: Told,
    /// How the finding went: every line at which its severity rose, its first and its last. Empty for a single line.
    steps: Vec<Told>,
    /// Lines of the finding.
    count: usize,
    record: Record,
    rules: Option<RuleSet>,
    /// What is not known, for people.
    notes: Vec<String>,
}

/// An exception that names the rule, held against the alert.
struct Considered<'r> {
    exception: &'r Exception,
    in_force: bool,
    covers: bool,
    conditions: Vec<Weighed>,
}

/// Explains the alert that `alert` names: the uid of a finding or of a line, a line's number, or `-` for a line on standard
/// input.
pub(super) fn explain(alert: &str, logs: &[PathBuf], from: &RulesFrom, output: Output, colour: bool) -> u8 {
    // On an analyst's machine there is none, and an alert has much to say without it.
    let config = crate::config::load(&from.config).ok();
    let found = if alert == "-" { read_one() } else { find(alert, logs, config.as_ref()) };
    let (told, steps, count) = match found {
        Ok(found) => found,
        Err((code, message)) => return complain(code, &message),
    };
    let mut notes = Vec::new();
    let rules = match load_paths(&from.paths, &from.config) {
        Ok(rules) => Some(rules),
        // What was asked for must be right.
        Err(failure) if !from.paths.is_empty() || !matches!(failure, Failure::Invalid { .. }) => {
            return fail(&failure, output);
        }
        Err(_) => {
            notes.push(
                "the rules were not found, so no exception was considered: give --rules or --config"
                    .to_owned(),
            );
            None
        }
    };
    let detail = told.detail();
    let rule = rules.as_ref().and_then(|rules| rule_of(rules, &detail.rule));
    if let Some(rules) = &rules {
        if rule.is_none() {
            notes.push(format!("these rules have no {}", printable(&detail.rule)));
        }
        if rules.digest() != detail.rules_digest {
            notes.push(
                "the alert was raised by another set of rules than the one that is shown here".to_owned(),
            );
        }
    }
    let asset = config.iter().flat_map(|config| &config.assets).find(|asset| asset.name == detail.asset);
    if asset.is_none() && !detail.asset.is_empty() {
        notes.push(
            "the asset is in no configuration here: its kind is taken for weights, without a reader list"
                .to_owned(),
        );
    }
    let kind = asset.map_or(AssetKind::Weights, |asset| asset.kind);
    let on = rule.map_or_else(|| guess(&told), |rule| rule.on);
    let record = told.record(on, kind, asset.is_some_and(|asset| !asset.readers.is_empty()));
    let explained = Explained { told, steps, count, record, rules, notes };
    match output {
        Output::Json => print(&format!("{}\n", explained.json())),
        Output::Text => print(&text::render(&explained, colour)),
    }
    OK
}

fn rule_of<'r>(rules: &'r RuleSet, id: &str) -> Option<&'r Rule> {
    rules.rules().iter().map(|rule| &**rule).find(|rule| rule.facts.id == id)
}

/// The event kind of an alert whose rule is not known.
fn guess(told: &Told) -> RecordKind {
    match told.detail() {
        detail if detail.act().is_some() => RecordKind::Act,
        detail if detail.process.is_none() => RecordKind::Egress,
        detail if detail.sink.is_some() => RecordKind::Flow,
        _ => RecordKind::Take,
    }
}

impl Explained {
    fn rule(&self) -> Option<&Rule> {
        rule_of(self.rules.as_ref()?, &self.told.detail().rule)
    }

    /// Every exception that names the rule, those that expired too.
    fn considered(&self) -> Vec<Considered<'_>> {
        let Some(rules) = &self.rules else { return Vec::new() };
        let rule = &self.told.detail().rule;
        let named = rules.exceptions().iter().filter(|exception| exception.facts.rules.contains(rule));
        named
            .map(|exception| Considered {
                exception,
                in_force: rules.holds(exception.facts.expires),
                covers: exception.covers(&self.record),
                conditions: exception.weigh(&self.record),
            })
            .collect()
    }

    fn json(&self) -> Value {
        let (told, detail) = (&self.told, self.told.detail());
        let exceptions: Vec<Value> = self
            .considered()
            .iter()
            .map(|one| {
                let conditions: Vec<Value> = one
                    .conditions
                    .iter()
                    .map(|weighed| {
                        let (field, value) = weighed.found.clone().unzip();
                        json!({"condition": weighed.condition, "holds": weighed.holds, "field": field, "value": value.flatten()})
                    })
                    .collect();
                json!({"exception": *one.exception.facts, "in_force": one.in_force, "covers": one.covers,
                    "applies": one.in_force && one.covers, "conditions": conditions})
            })
            .collect();
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| {
                json!({"seq": step.seq(), "time": step.time, "activity": step.activity_id,
                    "severity": step.detail().severity, "bound_bytes": step.detail().bound_bytes})
            })
            .collect();
        json!({
            "schema": 1,
            "finding": told.finding(),
            "seq": told.seq(),
            "time": told.time,
            "host": told.host(),
            "rule": detail.rule,
            "title": told.title(),
            "severity": detail.severity,
            "mode": detail.mode,
            "message": told.message,
            "lines": self.count,
            "steps": steps,
            "lineage": detail.lineage,
            "process": detail.process,
            "victim": detail.victim,
            "sink": detail.sink,
            "crossed": detail.crossed.as_ref().map(|line| json!({"budget": line.budget, "measure": line.measure,
                "value": line.value, "line": line.line, "over_seconds": line.over_seconds})),
            "bound_bytes": detail.bound_bytes,
            "share": detail.share,
            "loss": told.loss().collect::<std::collections::BTreeMap<_, _>>(),
            "rule_lines": self.rule().map(Rule::lines),
            "excepted_by": detail.exception.as_ref().map(|one| &one.id),
            "exceptions": exceptions,
            "runbook": told.runbook(),
            "stanza": stanza::stanza(told, &self.record),
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../alerts/example.json");
    const SITE: &str = "schema: 1
pack: site
exceptions:
  - id: EX-1
    rules: [WB-0001]
    match: {service.unit: backup.service, sink.device_serial: S6Z2}
    owner: storage@example.org
    reason: The weekly backup
    expires: 2027-01-20
  - id: EX-2
    rules: [WB-0001, WB-0002]
    match: {process.executable: /usr/bin/rsync, asset.name: llm-70b}
    owner: storage@example.org
    reason: It was allowed once
    expires: 2026-11-01
";

    /// One line of a log, with other values in some places.
    fn line(change: impl FnOnce(&mut Value)) -> String {
        let mut line: Value = serde_json::from_str(EXAMPLE).expect("json");
        change(&mut line);
        format!("{line}\n")
    }

    fn explained(line: &str) -> Explained {
        let core = std::fs::read_to_string("../rules/core.yaml").expect("the built-in rules");
        let sources = [("core.yaml".into(), core), ("site.yaml".into(), SITE.to_owned())];
        let rules = RuleSet::parse(&sources, jiff::civil::date(2026, 11, 22)).expect("they are right");
        let told = Told::read(line).expect("an alert");
        let record = told.record(RecordKind::Flow, AssetKind::Weights, false);
        Explained { told, steps: Vec::new(), count: 1, record, rules: Some(rules), notes: Vec::new() }
    }

    #[test]
    fn an_alert_is_told_from_the_asset_to_the_exception_that_could_be_written() {
        insta::assert_snapshot!(text::render(&explained(EXAMPLE), false), @r##"
        high  WB-0001  Weights copied to a device that is not controlled
        finding wb-0001-46b6afef06f55e71977910f87003539d, line 1, 2026-11-22T03:14:00Z on gpu-017

        What happened
          up to 200.0 MiB (209715200 bytes, 0.15 %) of llm-70b written to uncontrolled file /mnt/usb/model (exfat on 8:16, removable), by /usr/bin/rsync (pid 48213)

        The way of the bytes
          asset llm-70b
          └─ 200.0 MiB ─▶ process rsync (pid 48213)
             └─ 200.0 MiB ─▶ file /mnt/usb/model
          to uncontrolled file /mnt/usb/model (exfat on 8:16, removable)

        Who
          /usr/bin/rsync (pid 48213)
          command  rsync -a /models/llm-70b /mnt/usb
          sha256   9f2c
          user     1004, login 1004
          unit     cron.service
          cgroup   /system.slice/cron.service
          below    /bin/bash (pid 48102)
                   /sbin/init (pid 1)

        Which line
          bound 200.0 MiB (209715200 bytes) reached 1.0 MiB (1048576 bytes) within 600 s: high
          at most 0.15 % of llm-70b (131.4 GiB)
          the rule has 1MiB (bound) within 10m for each asset.name, sink.device: medium
          the rule has 16MiB (bound) within 10m for each asset.name, sink.device: high
          the rule has 1 % of the asset, and at least 16MiB (bound) within 10m for each asset.name, sink.device: critical

        Exceptions
          EX-1 does not apply:
            it asks that service.unit is backup.service (does not hold when it is not known); service.unit is cron.service
            it asks that sink.device_serial is S6Z2 (does not hold when it is not known); sink.device_serial is not known
          EX-2 would apply, but expired on 2026-11-01

        Runbook
          docs/runbooks/WB-0001.md

        If this is wanted, fill in and put into a file of rules
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
        let json = explained(EXAMPLE).json();
        let applies: Vec<_> = (0..2).map(|at| json["exceptions"][at]["applies"].as_bool()).collect();
        assert_eq!(applies, [Some(false), Some(false)]);
        let found = &json["exceptions"][0]["conditions"][0];
        assert_eq!((found["holds"].as_bool(), found["value"].as_str()), (Some(false), Some("cron.service")));
        assert_eq!(json["exceptions"][1]["covers"], true);
        assert_eq!(json["crossed"]["line"], 1 << 20);
    }

    /// Every text of the line replaced by one that clears the screen, changes its title and turns the writing round.
    #[test]
    fn a_hostile_log_cannot_drive_the_terminal() {
        fn spoil(value: &mut Value) {
            const FORM: [&str; 9] =
                ["kind", "control", "type", "severity", "mode", "rule", "uid", "hash", "mac"];
            match value {
                Value::String(text) => *text = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}\u{9b}31m".to_owned(),
                Value::Array(items) => items.iter_mut().for_each(spoil),
                Value::Object(map) => {
                    map.iter_mut()
                        .filter(|(key, _)| !FORM.contains(&key.as_str()))
                        .for_each(|(_, value)| spoil(value));
                }
                _ => {}
            }
        }
        let hostile = line(spoil);
        let shown = text::render(&explained(&hostile), false);
        assert!(shown.contains("2J"));
        assert!(!shown.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{shown:?}");
    }
}
