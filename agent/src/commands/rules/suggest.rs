//! `rules suggest`: what recordings speak for, as YAML that somebody can take over line by line. It applies nothing.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{FOUND, OK, Output, print, recording::open};
use crate::{
    alerts::{human_bytes, printable},
    recording::{Damage, Evidence, Proposal, Suggester, Suggestion, Who},
};

/// Gathers from recordings and prints what speaks for what.
pub(super) fn suggest(files: &[PathBuf], output: Output) -> u8 {
    let mut suggester = Suggester::default();
    let mut damaged: Vec<(PathBuf, Damage)> = Vec::new();
    for file in files {
        let mut reader = match open(file) {
            Ok(reader) => reader,
            Err(code) => return code,
        };
        suggester.read(&mut reader);
        if let Some(damage) = reader.damage() {
            damaged.push((file.clone(), damage.clone()));
        }
    }
    let suggestions = suggester.suggestions();
    let mut notes = Vec::new();
    if suggester.hidden > 0 {
        notes.push(format!(
            "in {} of the recordings names are hidden: no reader can be proposed from them",
            suggester.hidden
        ));
    }
    if suggester.dropped > 0 {
        notes.push(format!("{} records more than can be told apart were left out", suggester.dropped));
    }
    notes
        .extend(damaged.iter().map(|(file, damage)| format!("the recording {} is {damage}", file.display())));
    match output {
        Output::Json => {
            let all: Vec<Value> = suggestions.iter().map(to_json).collect();
            print(&format!("{}\n", json!({"schema": 1, "suggestions": all, "notes": notes})));
        }
        Output::Text => print(&yaml(&suggestions, &notes)),
    }
    if damaged.is_empty() { OK } else { FOUND }
}

fn to_json(suggestion: &Suggestion) -> Value {
    let mut value = match &suggestion.what {
        Proposal::Reader { asset, who: Who::Exe(exe) } => {
            json!({"kind": "reader", "asset": asset, "exe": exe})
        }
        Proposal::Reader { asset, who: Who::Unit(unit) } => {
            json!({"kind": "reader", "asset": asset, "unit": unit})
        }
        Proposal::Network(network) => json!({"kind": "network", "network": network.to_string()}),
        Proposal::Budget { asset, seen, lines } => json!({"kind": "budget", "asset": asset,
            "seen": {"hour": seen[0], "day": seen[1]}, "lines": {"hour": lines[0], "day": lines[1]}}),
    };
    let evidence = &suggestion.evidence;
    value["evidence"] = json!({"times": evidence.times, "bytes": evidence.bytes, "first": evidence.first_ms,
        "last": evidence.last_ms, "processes": evidence.processes, "users": evidence.users});
    value["warning"] = json!(suggestion.warning);
    value
}

/// Two documents: what goes into the configuration, and a file of rules; warnings and evidence are comments in both.
fn yaml(suggestions: &[Suggestion], notes: &[String]) -> String {
    let (warned, proposed): (Vec<_>, Vec<_>) = suggestions.iter().partition(|one| one.warning.is_some());
    let mut out = String::from(
        "# Proposals from recordings, applied to nothing. Whatever was recorded is proposed, also what a thief did: know each\n\
         # line before you take it over.\n",
    );
    for note in notes {
        out += &format!("# Note: {}\n", printable(note));
    }
    for one in &warned {
        out += &format!(
            "# WARNING, not proposed: {}: {}\n",
            named(&one.what),
            printable(one.warning.as_deref().unwrap_or_default())
        );
        out += &format!("#   {}\n", seen(&one.evidence));
    }
    out += &configuration(&proposed);
    out += &rules(&proposed);
    out
}

/// What belongs into the configuration.
fn configuration(proposed: &[&Suggestion]) -> String {
    let mut out =
        String::from("\n# Into the configuration, at the asset of that name and below `controlled`:\n");
    let mut assets = String::new();
    let mut last = None;
    for one in proposed {
        let Proposal::Reader { asset, who } = &one.what else { continue };
        if last != Some(asset) {
            assets += &format!("  - name: {}\n    readers:\n", quoted(asset));
            last = Some(asset);
        }
        let entry = match who {
            Who::Exe(exe) => format!("{{exe: {}}}", quoted(exe)),
            Who::Unit(unit) => format!("{{unit: {}}}", quoted(unit)),
        };
        assets += &format!("      # {}\n      - {entry}\n", seen(&one.evidence));
    }
    let mut networks = String::new();
    for one in proposed {
        let Proposal::Network(network) = &one.what else { continue };
        networks += &format!("    # {}\n    - {}\n", seen(&one.evidence), quoted(&network.to_string()));
    }
    if !assets.is_empty() {
        out += &format!("assets:\n{assets}");
    }
    if !networks.is_empty() {
        out += &format!("controlled:\n  networks:\n{networks}");
    }
    if assets.is_empty() && networks.is_empty() {
        out += "# nothing\n";
    }
    out
}

/// Rules of the site, in shadow: they stand beside the built-in ones and let nothing pass that those would not.
fn rules(proposed: &[&Suggestion]) -> String {
    let budgets: Vec<_> = proposed
        .iter()
        .filter_map(|one| match &one.what {
            Proposal::Budget { asset, seen, lines } => Some((asset, seen, lines, &one.evidence)),
            _ => None,
        })
        .collect();
    let mut out = String::from(
        "---\n# A file of rules. Name an owner, and set `mode: alert` once it stayed silent for long enough:\n",
    );
    if budgets.is_empty() {
        return out + "# nothing\n";
    }
    out += "schema: 1\npack: suggested\nrules:\n";
    for (nth, (asset, most, lines, evidence)) in budgets.iter().enumerate() {
        out += &format!(
            "  # {}; at most {} within an hour and {} within a day\n",
            seen(evidence),
            human_bytes(most[0]),
            human_bytes(most[1])
        );
        out += &format!(
            "  - id: SUGG-{:04}
    revision: 1
    title: More of an asset left than was seen while it was recorded
    severity: medium
    status: experimental
    mode: shadow
    owner: to be named
    runbook: docs/runbooks/WB-0003.md
    tags: [attack.t1030]
    on: flow
    match:
      asset.name: {}
      sink.control|not_in: [controlled, memory, process]
    budgets:
      - {{name: hour, sum: bound, by: [asset.name], over: 1h, gte: {}B, severity: low}}
      - {{name: day, sum: bound, by: [asset.name], over: 24h, gte: {}B, severity: medium}}
    group_by: [asset.name]
    suppress: 6h
",
            nth + 1,
            quoted(asset),
            lines[0],
            lines[1]
        );
    }
    out
}

fn named(what: &Proposal) -> String {
    match what {
        Proposal::Reader { asset, who: Who::Exe(exe) } => {
            format!("{} as a reader of {}", printable(exe), printable(asset))
        }
        Proposal::Reader { asset, who: Who::Unit(unit) } => {
            format!("{} as a reader of {}", printable(unit), printable(asset))
        }
        Proposal::Network(network) => format!("{network} as a controlled network"),
        Proposal::Budget { asset, .. } => format!("a budget for {}", printable(asset)),
    }
}

/// `3 processes, 141.0 GiB, 2026-11-22T05:43:55Z to …, by /usr/bin/vllm, users 1000`.
fn seen(evidence: &Evidence) -> String {
    let time = |ms: i64| {
        let second = ms.div_euclid(1000);
        Timestamp::from_second(second).map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
    };
    let by: Vec<String> = evidence.processes.iter().map(|exe| printable(exe)).collect();
    let users: Vec<String> = evidence.users.iter().map(u32::to_string).collect();
    let s = if evidence.times == 1 { "" } else { "es" };
    format!(
        "{} process{s}, {}, {} to {}, by {}, users {}",
        evidence.times,
        human_bytes(evidence.bytes),
        time(evidence.first_ms),
        time(evidence.last_ms),
        by.join(" "),
        users.join(" ")
    )
}

/// JSON strings are YAML too.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        event::{
            Asset, AssetId, AssetKind, AssetList, AssetSet, BootNs, Control, Dev, Event, HolderId, ObjectId,
            Process, Proto, Sink, SinkKey, SinkKind, Source,
        },
        recording::{Header, Reader, Writer, fixtures::header},
        rules::RuleSet,
    };

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Who takes an asset of 10 GiB, in which unit, and what goes where.
    type Told<'t> = (&'t str, Option<&'t str>, &'t [(&'t str, u64)]);

    fn suggested(hidden: bool, told: &[Told<'_>]) -> (Vec<Suggestion>, Suggester) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let header = Header { hidden, ..header() };
        let mut writer = Writer::create(&path, &header).unwrap();
        let mut write =
            |event: Event, second: u64| writer.write(BootNs(second * 1_000_000_000), &event).unwrap();
        let asset = Asset {
            id: AssetId(0),
            name: "llm".to_owned(),
            kind: AssetKind::Weights,
            bytes: 10 * GIB,
            most: 10 * GIB,
            has_readers: false,
        };
        write(Event::Asset(Arc::new(asset)), 1);
        for (nth, (exe, unit, flows)) in told.iter().enumerate() {
            let at = BootNs((nth as u64 + 1) * 1_000_000_000);
            let second = nth as u64 + 1;
            let holder = HolderId { tgid: 100 + nth as u32, exec: 0, start: at };
            let process = Process {
                pid: holder.tgid,
                exe: (*exe).to_owned(),
                uid: 1000,
                unit: unit.map(str::to_owned),
                cgroup: unit.map(|unit| format!("/system.slice/{unit}")),
                ..Process::host()
            };
            write(Event::Process { holder, process: Arc::new(process) }, second);
            let source = Source::Asset(AssetId(0));
            write(Event::Take { holder, source, bytes: 5 * GIB, listed: AssetList::default(), at }, second);
            for (to, bytes) in *flows {
                let (key, sink) = if let Ok(ip) = to.parse() {
                    let sink = Sink {
                        peer: Some(format!("{to}:443/tcp")),
                        ..Sink::new(SinkKind::Peer, Control::Uncontrolled)
                    };
                    (SinkKey::Peer { ip, port: 443, proto: Proto::Tcp }, sink)
                } else {
                    let object = ObjectId { dev: Dev::new(8, 16), ino: 1, generation: 0 };
                    (SinkKey::File(object), Sink::new(SinkKind::File, Control::Uncontrolled))
                };
                write(Event::Sink { key, sink: Arc::new(sink) }, second);
                write(Event::Flow { holder, sink: key, assets: AssetSet(1), bytes: *bytes, at }, second);
            }
        }
        writer.flush().unwrap();
        let mut suggester = Suggester::default();
        suggester.read(&mut Reader::open(&path).unwrap());
        (suggester.suggestions(), suggester)
    }

    #[test]
    fn what_is_proposed_is_accepted_and_what_could_hide_a_theft_is_a_warning() {
        let (suggestions, _) = suggested(
            false,
            &[
                ("/opt/vllm", None, &[("10.20.3.4", MIB), ("10.20.3.9", MIB), ("198.51.100.7", 2 * MIB)]),
                ("/usr/bin/python3.12", Some("eval.service"), &[]),
                ("/usr/bin/cp", None, &[("file", 3 * GIB)]),
                ("/opt/sync", None, &[("10.30.0.1", GIB)]),
            ],
        );
        let text = yaml(&suggestions, &[]);
        insta::assert_snapshot!(text, @r##"
        # Proposals from recordings, applied to nothing. Whatever was recorded is proposed, also what a thief did: know each
        # line before you take it over.
        # WARNING, not proposed: /opt/sync as a reader of llm: it also moved 1073741824 bytes to places that are not controlled, which can be the model
        #   1 process, 5.0 GiB, 2026-11-22T03:10:04Z to 2026-11-22T03:10:04Z, by /opt/sync, users 1000
        # WARNING, not proposed: /usr/bin/cp as a reader of llm: it also moved 3221225472 bytes to places that are not controlled, which can be the model
        #   1 process, 5.0 GiB, 2026-11-22T03:10:03Z to 2026-11-22T03:10:03Z, by /usr/bin/cp, users 1000
        # WARNING, not proposed: 10.30.0.1/32 as a controlled network: 1073741824 bytes of llm went there, which can be the model: list it only if you know it as yours
        #   1 process, 1.0 GiB, 2026-11-22T03:10:04Z to 2026-11-22T03:10:04Z, by /opt/sync, users 1000
        # WARNING, not proposed: a budget for llm: a budget with room for what was seen would let 8598323200 bytes pass, which can be the model
        #   3 processes, 4.0 GiB, 2026-11-22T03:10:01Z to 2026-11-22T03:10:04Z, by /opt/sync /opt/vllm /usr/bin/cp, users 1000

        # Into the configuration, at the asset of that name and below `controlled`:
        assets:
          - name: "llm"
            readers:
              # 1 process, 5.0 GiB, 2026-11-22T03:10:01Z to 2026-11-22T03:10:01Z, by /opt/vllm, users 1000
              - {exe: "/opt/vllm"}
              # 1 process, 5.0 GiB, 2026-11-22T03:10:02Z to 2026-11-22T03:10:02Z, by /usr/bin/python3.12, users 1000
              - {unit: "eval.service"}
        controlled:
          networks:
            # 1 process, 2.0 MiB, 2026-11-22T03:10:01Z to 2026-11-22T03:10:01Z, by /opt/vllm, users 1000
            - "10.20.3.0/28"
        ---
        # A file of rules. Name an owner, and set `mode: alert` once it stayed silent for long enough:
        # nothing
        "##);
        let (configuration, rules) = text.split_once("---\n").expect("two documents");
        let config = format!(
            "schema: 1\n{}",
            configuration
                .replace("    readers:", "    kind: weights\n    paths: [/models/llm]\n    readers:")
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.yaml");
        std::fs::write(&file, config).unwrap();
        let config = crate::config::load(&file)
            .unwrap_or_else(|faults| panic!("{}", crate::yaml::render(&faults, false)));
        assert_eq!(config.assets[0].readers.len(), 2);
        assert_eq!(config.controlled.networks, ["10.20.3.0/28".parse().unwrap()]);
        // The budget would let a model pass here, so that there are no rules; the next test has one.
        assert!(RuleSet::parse(&[("r".into(), rules.to_owned())], jiff::civil::date(2026, 11, 22)).is_err());
    }

    #[test]
    fn a_budget_is_a_rule_that_loads() {
        let (suggestions, _) = suggested(false, &[("/opt/vllm", None, &[("198.51.100.7", 2 * MIB)])]);
        let text = yaml(&suggestions, &[]);
        let (_, rules) = text.split_once("---\n").expect("two documents");
        let set = RuleSet::parse(&[("r".into(), rules.to_owned())], jiff::civil::date(2026, 11, 22))
            .unwrap_or_else(|faults| panic!("{}", crate::yaml::render(&faults, false)));
        assert_eq!(set.rules()[0].lines().len(), 2);
        assert!(set.warnings().is_empty());
    }

    #[test]
    fn hidden_names_and_hostile_names_are_never_proposed() {
        let (suggestions, suggester) = suggested(true, &[("hidden:12", None, &[])]);
        assert_eq!((suggestions, suggester.hidden), (vec![], 1));
        let (suggestions, _) = suggested(
            false,
            &[("/opt/a\n- {exe: /bin/sh}", None, &[]), ("/tmp/vllm", None, &[]), ("/opt/\"x\" #", None, &[])],
        );
        let text = yaml(&suggestions, &[]);
        assert_eq!(suggestions.iter().filter(|one| one.warning.is_some()).count(), 2);
        assert!(text.lines().all(|line| !line.starts_with("- ")), "{text}");
        let entries: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("{exe:"))
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(entries, ["      - {exe: \"/opt/\\\"x\\\" #\"}"]);
    }
}
