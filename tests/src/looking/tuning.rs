//! From an alert to an exception, from a recording to lists, what an analyst does with the commands, on what a
//! running agent really wrote. (docs/tuning.md word for word is a test of the agent's commands.)

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tests::lab::alert::Alert;

use super::{command, copy, ran, record};
use crate::{
    life::reload::{reload, site, soon, started},
    world::{ALERT_WITHIN, ASSET, Scene, World},
};

/// The binary with these words and paths, and how it ended.
fn told(scene: &Scene<'_>, words: &[&str], paths: &[&Path], code: i32) -> Output {
    let output = ran(Command::new(&scene.world.binary).args(words).args(paths).current_dir(&scene.work));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?} {paths:?}: {said}");
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn wait_for_alert(scene: &mut Scene<'_>, condition: impl Fn(&Alert) -> bool) -> Alert {
    let found =
        scene.agent().wait(ALERT_WITHIN, |alerts| alerts.iter().rev().find(|a| condition(a)).cloned());
    found.unwrap_or_else(|error| panic!("{error:#}")).expect("the alert comes")
}

/// The built-in rules beside the site's folder.
fn core() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("rules")
}

/// What `explain` offers is filled in, holds what it should by lint, test, replay and reload, and is named by the next alert.
pub(super) fn an_alert_becomes_an_exception(w: &mut World) {
    let mut scene = started(w);
    let recording = record(&scene);
    let bytes = copy(&scene);
    let alert = wait_for_alert(&mut scene, |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    let file = recording.stop().expect("a recording");

    let explain = |what: &str| ran(&mut command(&scene, &["explain", what, "-o", "json"]));
    let explained = json(&explain(alert.uid()));
    assert_eq!(
        (explained["rule"].as_str(), explained["finding"].as_str()),
        (Some("WB-0001"), Some(alert.uid()))
    );
    assert_eq!(explained["bound_bytes"].as_u64(), Some(bytes));
    assert!(explained["steps"][0]["bound_bytes"].as_u64() <= Some(bytes));
    let edges = explained["lineage"].as_array().expect("edges");
    assert_eq!(edges.first().map(|edge| &edge["from"]["name"]), Some(&Value::from(ASSET)));
    let copied = scene.uncontrolled.join("w");
    assert_eq!(edges.last().and_then(|edge| edge["to"]["name"].as_str()), copied.to_str());
    assert!(explained["crossed"]["line"].as_u64() <= explained["crossed"]["value"].as_u64());
    assert_eq!(explained["exceptions"], Value::Array(vec![]));
    // Rules and asset are those of the configuration, so that nothing is in doubt.
    assert_eq!(explained["notes"], Value::Array(vec![]));
    let seq = alert.number("/chain/seq").expect("a number").to_string();
    assert_eq!(json(&explain(&seq))["seq"].as_u64(), alert.number("/chain/seq"));
    let mut one = command(&scene, &["explain", "-", "-o", "json"]);
    let line = scene.work.join("line");
    fs::write(&line, alert.0.to_string()).expect("a line can be written");
    one.stdin(Stdio::from(fs::File::open(&line).expect("the line")));
    let one = one.output().expect("the binary runs");
    assert_eq!(json(&one)["finding"].as_str(), Some(alert.uid()));

    let stanza = explained["stanza"].as_str().expect("an exception is offered");
    let filled = stanza
        .lines()
        .map(|line| match line.trim_start().split(':').next() {
            Some("owner") => "    owner: lab@example.org\n".to_owned(),
            Some("reason") => "    reason: The weekly copy of the lab\n".to_owned(),
            Some("expires") => format!("    expires: {}\n", soon()),
            _ => format!("{line}\n"),
        })
        .collect::<String>();
    fs::write(site(&scene), filled).expect("a rule file can be written");
    let rules = scene.config.rules[0].clone();
    let linted = json(&told(&scene, &["rules", "lint", "--strict"], &[&rules], 0));
    assert_eq!(linted["faults"], Value::Array(vec![]));
    told(&scene, &["rules", "test"], &[&rules], 0);
    let paths = [&file, Path::new("--rules"), &rules, Path::new("--baseline"), &core()];
    let changes = json(&told(&scene, &["replay", "-o", "json"], &paths, 1));
    let changes = changes["changes"].as_array().expect("changes");
    let of_rule: Vec<_> = changes.iter().filter(|change| change["after"]["rule"] == "WB-0001").collect();
    assert_eq!(of_rule.len(), 1, "{changes:?}");
    assert_eq!(
        (&of_rule[0]["before"]["mode"], &of_rule[0]["after"]["mode"]),
        (&"alert".into(), &"shadow".into())
    );

    reload(&mut scene, "accepted");
    let (source, again) = (scene.model.files[0].clone(), scene.uncontrolled.join("again"));
    scene.run(Command::new("cp").arg(&source).arg(&again));
    let excepted = wait_for_alert(&mut scene, |alert| {
        alert.rule() == "WB-0001" && alert.text("/mode") == "shadow" && alert.bound() >= bytes
    });
    let explained = json(&ran(&mut command(&scene, &["explain", excepted.uid(), "-o", "json"])));
    assert_eq!(explained["excepted_by"], explained["exceptions"][0]["exception"]["id"]);
    assert_eq!(explained["exceptions"][0]["applies"], true);

    let listed = ran(&mut command(&scene, &["rules", "list", "--live", "-o", "json"]));
    assert_eq!(listed.status.code(), Some(0), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = json(&listed);
    let rules = listed["rules"].as_array().expect("rules");
    assert!(rules.len() >= 11 && rules.iter().all(|rule| rule["seconds"].is_f64()), "{rules:?}");
    assert!(listed["exceptions"][0]["days_left"].as_i64().is_some_and(|days| (18..=20).contains(&days)));
    scene.stop();
}

/// What `rules suggest` proposes goes into the configuration and into a file of rules as it is printed.
pub(super) fn proposals_are_taken_over(w: &mut World) {
    let mut scene = w.scene();
    let recording = record(&scene);
    let source = scene.model.files[0].clone();
    let to = scene.uncontrolled.join("part");
    // A program with a name of its own. What it does is small; what `cp` does could be the model.
    let mut reader = scene.mover("read", "write", &source, &to.to_string_lossy());
    scene.run(reader.args(["--bytes", "1048576"]));
    copy(&scene);
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001");
    let file = recording.stop().expect("a recording");
    scene.stop();

    let suggested = json(&told(&scene, &["rules", "suggest", "-o", "json"], &[&file], 0));
    let suggested = suggested["suggestions"].as_array().expect("suggestions");
    let own = std::env::current_exe().expect("a process knows its executable");
    let of = |exe: &str| {
        suggested.iter().find(|one| one["kind"] == "reader" && one["asset"] == ASSET && one["exe"] == exe)
    };
    let ours = of(&own.to_string_lossy()).unwrap_or_else(|| panic!("no reader: {suggested:?}"));
    assert_eq!(ours["evidence"]["times"].as_u64(), Some(1));
    assert!(ours["evidence"]["bytes"].as_u64() >= Some(1 << 20));
    let cp = tests::lab::which("cp").and_then(|cp| cp.canonicalize().ok()).expect("cp");
    assert!(of(&cp.to_string_lossy()).is_some_and(|cp| cp["warning"].is_string()), "{suggested:?}");

    let text = String::from_utf8(told(&scene, &["rules", "suggest", "-o", "text"], &[&file], 0).stdout);
    let text = text.expect("text");
    let (configuration, rules) = text.split_once("\n---\n").expect("two documents");
    let readers = configuration.lines().filter(|line| line.trim_start().starts_with("- {exe: "));
    let readers: Vec<&str> = readers.map(str::trim).collect();
    if ours["warning"].is_null() {
        assert_eq!(readers.len(), 1, "{text}");
        scene.config.assets.retain(|asset| asset.name == ASSET);
        let listed = format!("    readers:\n      {}\n", readers[0]);
        check(&scene, &scene.config.to_yaml().replace("controlled:\n", &format!("{listed}controlled:\n")));
    }
    if !rules.contains("# nothing") {
        let file = scene.work.join("proposed-rules.yaml");
        fs::write(&file, rules).expect("a rule file can be written");
        told(&scene, &["rules", "lint", "--strict"], &[&file], 0);
    }
}

fn check(scene: &Scene<'_>, text: &str) {
    let file = scene.work.join("proposed.yaml");
    fs::write(&file, text).expect("a configuration can be written");
    told(scene, &["check", "--config"], &[&file], 0);
}
