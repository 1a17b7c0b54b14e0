//! What really happened, put through the built-in rules: the recordings in `tests/replay`, which `cargo xtask
//! record-fixtures` makes. The demo's thefts are found, with what they moved; of the benign tests nothing is heard.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

use clap::Parser as _;

use super::*;
use crate::{
    pipeline::today,
    recording::{Change, Reader, Replayed, compare, replay},
    rules::{Mode, RuleSet, Severity},
};

const DEMO: &str = "../tests/replay/demo.wbrec";
const BENIGN: &str = "../tests/replay/benign";
const RULES: &str = "../rules";
/// A line that is higher for peers, and a rule of the site's own that is lower for everything.
const CHANGE: &str = "
schema: 1
pack: site
overrides:
  - rule: WB-0002
    set: {aggregate.tiers.0.gte: 64MiB}
    owner: soc@example.org
    reason: What would be missed with a higher line
    expires: SOON
rules:
  - id: SITE-0001
    revision: 1
    title: Any 20 MiB of the demo's model
    severity: low
    status: test
    mode: alert
    owner: soc@example.org
    runbook: none
    on: flow
    match: {asset.name: llm-demo, sink.control: uncontrolled}
    aggregate: {sum: bound, by: [asset.name], over: 10m, tiers: [{gte: 20MiB, severity: low}]}
    group_by: [asset.name]
";

fn rules(paths: &[&Path]) -> Arc<RuleSet> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let set = RuleSet::load(&paths, today());
    Arc::new(set.unwrap_or_else(|faults| panic!("{}", yaml::render(&faults, false))))
}

fn put_through(recording: &Path, rules: &Arc<RuleSet>) -> Replayed {
    let mut reader = Reader::open(recording).unwrap_or_else(|error| panic!("{error}"));
    let done = replay(&mut reader, rules);
    assert_eq!(done.damage, None, "{}", recording.display());
    assert_ne!(done.statements, 0, "{}", recording.display());
    done
}

/// Every recording of a benign test.
fn benign() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(BENIGN).expect("recordings").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// One line for each finding, as far as it went: rule, severity, mode, asset, bound, where to. Not by whom: names are hidden.
fn told(done: &Replayed) -> String {
    let mut newest = BTreeMap::new();
    for alert in &done.alerts {
        let matched = &alert.matched;
        newest.insert((&matched.rule.id, &matched.group), matched);
    }
    let mut lines: Vec<String> = newest
        .into_values()
        .map(|matched| {
            let sink = matched.record.sink.as_ref();
            let to = sink.map_or("-", |sink| sink.kind.as_str());
            let (rule, severity, asset) =
                (&matched.rule.id, matched.severity.as_str(), &matched.record.asset.name);
            let mode = matched.mode.as_str();
            format!("{rule} {severity} {mode} {asset} {} {to}", matched.bound_bytes)
        })
        .collect();
    lines.sort();
    lines.into_iter().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{line}");
        all
    })
}

#[test]
fn the_thefts_of_the_demo_are_found() {
    insta::assert_snapshot!(told(&put_through(Path::new(DEMO), &rules(&[Path::new(RULES)]))));
}

#[test]
fn the_benign_tests_are_silent() {
    let (rules, files) = (rules(&[Path::new(RULES)]), benign());
    assert!(files.len() >= 20, "{} recordings", files.len());
    let mut moved = 0;
    for file in files {
        let done = put_through(&file, &rules);
        moved += done.records;
        let heard: Vec<_> = done
            .findings()
            .into_iter()
            .filter(|found| found.mode == Mode::Alert && found.severity >= Severity::Medium)
            .collect();
        assert_eq!(heard, [], "{}", file.display());
    }
    // Silent because of the rules, not because nothing was recorded.
    assert!(moved > 100, "{moved} records");
}

#[test]
fn a_change_of_the_rules_is_judged_on_the_demo() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let site = folder.path().join("site.yaml");
    let soon = today().checked_add(jiff::Span::new().days(30)).expect("a day").to_string();
    fs::write(&site, CHANGE.replace("SOON", &soon)).expect("a file");
    let (demo, core) = (Path::new(DEMO), Path::new(RULES));
    let before = put_through(demo, &rules(&[core]));
    let after = put_through(demo, &rules(&[core, &site]));
    let changes: Vec<(&str, String, Severity)> = compare(&before, &after)
        .into_iter()
        .map(|change| match change {
            Change::Appears(now) => ("appears", now.rule, now.severity),
            Change::Vanishes(was) => ("vanishes", was.rule, was.severity),
            Change::Becomes(was, now) => panic!("{was:?} becomes {now:?}"),
        })
        .collect();
    let expected = [
        ("vanishes", "WB-0002".to_owned(), Severity::High),
        ("appears", "SITE-0001".to_owned(), Severity::Low),
    ];
    assert_eq!(changes, expected);

    // The command says so with its exit code.
    let site = site.to_string_lossy();
    let command = |rules: &[&str]| {
        let words = ["weighbridge", "replay", DEMO, "--baseline", RULES, "--rules"];
        run_command(&Cli::try_parse_from(words.iter().chain(rules)).expect("a command"))
    };
    assert_eq!((command(&[RULES, &site]), command(&[RULES])), (FOUND, OK));
}

/// No path, no host: a recording in the tree is everybody's to read.
#[test]
fn the_recordings_name_no_machine() {
    for file in benign().into_iter().chain([PathBuf::from(DEMO)]) {
        let mut reader = Reader::open(&file).unwrap_or_else(|error| panic!("{error}"));
        let header = reader.header().clone();
        assert!(header.hidden && header.host.is_empty(), "{}: {header:?}", file.display());
        assert!(header.kernel.chars().all(|one| one.is_ascii_digit() || one == '.'), "{header:?}");
        for statement in reader.by_ref() {
            let said = format!("{:?}", statement.event);
            assert!(!said.contains("\"/") && !said.contains(" /"), "{}: {said}", file.display());
        }
    }
}
