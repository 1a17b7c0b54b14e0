//! `weighbridge explain`: what an alert means, for somebody who was woken by it. The way of the bytes, who moved them, which
//! value crossed which line, why no exception held, and the exception that could be written.
//!
//! It reads a log that somebody may have written to, and rules that may be newer than the alert; it says both.

mod stanza;
mod text;
mod tree;

use std::{
    io::{self, Read as _},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{
    INVALID, OK, Output, UNFIT, USAGE, fail,
    log::{LONGEST_LINE, complain, lines},
    print,
    rules::{RulesFrom, load_paths},
};
use crate::{
    alerts::{Told, printable},
    config::{Config, SinkConfig},
    event::{AssetKind, Record, RecordKind},
    pipeline::Failure,
    rules::{Exception, Rule, RuleSet, Weighed},
};

/// Most lines of one finding that are told one by one.
const MOST_STEPS: usize = 20;

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

type Found = (Told, Vec<Told>, usize);

fn read_one() -> Result<Found, (u8, String)> {
    let mut line = String::new();
    let read = io::stdin().lock().take(LONGEST_LINE).read_to_string(&mut line);
    read.map_err(|error| (UNFIT, format!("cannot read standard input: {error}")))?;
    let told = Told::read(&line).or_else(|| Told::read(line.lines().next()?));
    told.map(|told| (told, Vec::new(), 1))
        .ok_or_else(|| (INVALID, "standard input has no line of an alert log: give one".to_owned()))
}

/// The alert, and the steps of its finding.
fn find(alert: &str, logs: &[PathBuf], config: Option<&Config>) -> Result<Found, (u8, String)> {
    let configured = config.and_then(|config| {
        config.sinks.iter().find_map(|sink| match sink {
            SinkConfig::File { path } => Some(path.value.clone()),
            _ => None,
        })
    });
    let logs = if logs.is_empty() { configured.into_iter().collect() } else { logs.to_vec() };
    if logs.is_empty() {
        return Err((USAGE, "no alert log is configured: give one with --log".to_owned()));
    }
    let seq: Option<u64> = alert.parse().ok();
    let is_it = |told: &Told| match seq {
        Some(seq) => told.seq() == seq,
        None => told.finding() == alert || told.uid() == alert,
    };
    let mut found: Option<Told> = None;
    each(&logs, alert, |told| {
        if is_it(&told) && found.as_ref().is_none_or(|known| known.seq() <= told.seq()) {
            found = Some(told);
        }
    })?;
    let shown = logs.iter().map(|log| log.display().to_string()).collect::<Vec<_>>().join(", ");
    let told = found.ok_or_else(|| {
        let alert = printable(alert);
        (USAGE, format!("no alert {alert} in {shown}: give the uid of a finding, or the number of a line, as `log show` prints it"))
    })?;
    let (mut steps, mut count) = (Vec::<Told>::new(), 0);
    each(&logs, told.finding(), |step| {
        if step.finding() != told.finding() {
            return;
        }
        count += 1;
        let rose = steps.last().is_none_or(|last| {
            (step.detail().severity, step.activity_id == CLOSE)
                != (last.detail().severity, last.activity_id == CLOSE)
        });
        if rose && steps.len() < MOST_STEPS {
            steps.push(step);
        }
    })?;
    Ok((told, steps, count))
}

/// OCSF's activity of a line that closes a finding.
const CLOSE: u64 = 3;

/// Gives each alert of the logs whose line has a text in it.
fn each(logs: &[PathBuf], with: &str, mut take: impl FnMut(Told)) -> Result<(), (u8, String)> {
    for log in logs {
        let read = lines(log, |line| {
            if line.contains(with)
                && let Some(told) = Told::read(line)
            {
                take(told);
            }
            true
        });
        read.map_err(|error| (UNFIT, format!("cannot read {}: {error}", log.display())))?;
    }
    Ok(())
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

    #[test]
    fn a_finding_is_found_by_its_uid_a_line_by_its_number_and_the_way_it_went_is_told() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = folder.path().join("alerts.ndjson");
        let other = line(|one| one["finding_info"]["uid"] = "wb-0001-other".into());
        let at = |seq: u64, activity: u64, severity: &str, mib: u64| {
            line(|one| {
                one["activity_id"] = activity.into();
                let ours = &mut one["unmapped"]["weighbridge"];
                (ours["chain"]["seq"], ours["severity"], ours["bound_bytes"]) =
                    (seq.into(), severity.into(), (mib << 20).into());
            })
        };
        let lines =
            [at(2, 1, "medium", 1), at(3, 2, "medium", 2), at(4, 2, "high", 16), at(5, 3, "high", 20)];
        std::fs::write(&log, format!("{other}not an alert\n{}", lines.concat())).expect("write");
        let logs = [log];
        let uid = Told::read(EXAMPLE).expect("an alert").finding().to_owned();
        let (told, steps, count) = find(&uid, &logs, None).unwrap_or_else(|(_, why)| panic!("{why}"));
        assert_eq!((told.seq(), count), (5, 4));
        let steps: Vec<u64> = steps.iter().map(Told::seq).collect();
        assert_eq!(steps, [2, 4, 5]);
        let (told, ..) = find("3", &logs, None).unwrap_or_else(|(_, why)| panic!("{why}"));
        assert_eq!(told.detail().bound_bytes, 2 << 20);
        assert_eq!(find("wb-0001-none", &logs, None).err().map(|(code, _)| code), Some(USAGE));
        assert_eq!(find("3", &[folder.path().join("none")], None).err().map(|(code, _)| code), Some(UNFIT));
        assert_eq!(find("3", &[], None).err().map(|(code, _)| code), Some(USAGE));
    }
}
