//! Rules that change while the agent runs (SIGHUP): wrong ones change nothing, right ones lose nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{KIB, MIB, metrics, process, wait_for, which};

use crate::{
    expect::Expected,
    world::{ALERT_WITHIN, ASSET, Scene, World},
};

pub(super) fn wrong_rules_change_nothing(w: &mut World) {
    let mut scene = started(w);
    fs::write(site(&scene), "schema: 1\npack: site\nrulez: []\n").expect("a rule file can be written");
    reload(&mut scene, "refused");
    let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(metrics::sum(&samples, "weighbridge_rules_last_reload_successful", &[]), Some(0.0));
    let said = wait_for(ALERT_WITHIN, || scene.agent().stderr().contains("rulez").then_some(()));
    assert!(said.is_some(), "the log does not say what is wrong: {}", scene.agent().stderr());
    // The old set is in force.
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    scene.wait_for("WB-0010 for the rules", |alert| {
        alert.rule() == "WB-0010" && alert.text("/act/kind") == "rules_refused"
    });
    scene.expect_beside_changes(&expected);
}

/// Wrong files of rules, of each kind of fault some: each is refused, and the set stays the one that it was. A reload takes two
/// seconds, so that it is every tenth file of the corpus; `WEIGHBRIDGE_EVERY_FILE=1` tries them all.
pub(super) fn no_wrong_file_is_taken_over(w: &mut World) {
    let mut scene = started(w);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("invalid/rules");
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus).expect("the corpus").flatten().map(|one| one.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml"));
    files.sort();
    assert!(files.len() >= 100, "the corpus has only {} files", files.len());
    if std::env::var_os("WEIGHBRIDGE_EVERY_FILE").is_none() {
        files = files.into_iter().step_by(10).collect();
    }
    let set = set_in_force(&mut scene);
    for (nth, file) in files.iter().enumerate() {
        let text = fs::read(file).expect("it can be read");
        let text = match String::from_utf8(text) {
            // What an exception says must not have expired by the time that this runs.
            Ok(text) => text.replace("2026-12-15", &soon()).into_bytes(),
            Err(bytes) => bytes.into_bytes(),
        };
        fs::write(site(&scene), text).expect("a rule file can be written");
        reload_nth(&mut scene, "refused", nth + 1, &file.display().to_string());
        assert_eq!(set_in_force(&mut scene), set, "{}", file.display());
    }
    fs::remove_file(site(&scene)).expect("our own file");
    reload(&mut scene, "accepted");
    assert_eq!(set_in_force(&mut scene), set);
    scene.stop();
}

/// The digest of the rules, as `status` says it.
fn set_in_force(scene: &mut Scene<'_>) -> String {
    let config = scene.work.join("weighbridge.yaml");
    let mut status = Command::new(&scene.world.binary);
    let output =
        status.args(["status", "-o", "json", "--config"]).arg(config).output().expect("the binary runs");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["rules_digest"].as_str().expect("a digest").to_owned()
}

/// What was weighed before a reload counts after it: two parts, each below the line, are above it together.
pub(super) fn a_reload_keeps_what_was_weighed(w: &mut World) {
    let mut scene = started(w);
    part(&scene, "a", 512 * KIB);
    scene.mark();
    let rules = "schema: 1\npack: site\noverrides:\n  - {rule: WB-0001, set: {title: Something else}, owner: lab, \
                 reason: To see a reload, expires: EXPIRES}\n";
    fs::write(site(&scene), rules.replace("EXPIRES", &soon())).expect("a rule file can be written");
    reload(&mut scene, "accepted");
    let dd = part(&scene, "b", MIB);
    let copy = scene.uncontrolled.join("b");
    let expected = [Expected::copy(&scene, &dd, &copy, MIB + 512 * KIB)];
    scene.expect_beside_changes(&expected);
}

pub(super) fn an_exception_is_written_and_sent_nowhere(w: &mut World) {
    let mut scene = started(w);
    let cp = which("cp").expect("cp");
    let hash = process::sha256(&cp).unwrap_or_else(|error| panic!("{error:#}"));
    let rules = format!(
        "schema: 1\npack: site\nexceptions:\n  - id: EX-1\n    rules: [WB-0001, WB-0003]\n    match: {{process.executable_sha256: \
         {hash}, asset.name: {ASSET}}}\n    owner: lab\n    reason: To see an exception\n    expires: {}\n",
        soon()
    );
    fs::write(site(&scene), rules).expect("a rule file can be written");
    reload(&mut scene, "accepted");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    let exact = scene.agent().wait(ALERT_WITHIN, |alerts| {
        let excepted = alerts.iter().filter(|alert| alert.text("/exception/id") == "EX-1");
        excepted.into_iter().find(|alert| alert.bound() == bytes && alert.rule() == "WB-0001").cloned()
    });
    let alert =
        exact.unwrap_or_else(|error| panic!("{error:#}")).expect("the excepted match is written down");
    assert_eq!((alert.text("/mode"), alert.0["status_id"].as_u64()), ("shadow", Some(3)));
    let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
    let excepted = [("rule_id", "WB-0001"), ("outcome", "excepted")];
    assert!(metrics::sum(&samples, "weighbridge_rule_matches_total", &excepted) > Some(0.0));
    scene.mark();
    scene.expect_beside_changes(&[]);
}

/// An agent whose rules are copies in a directory of the scene's own.
pub(crate) fn started(w: &mut World) -> Scene<'_> {
    let mut scene = w.prepare();
    let folder = scene.work.join("rules.d");
    fs::create_dir(&folder).expect("a folder can be made");
    for entry in fs::read_dir(&scene.config.rules[0]).expect("the rules are there").flatten() {
        if entry.path().extension().is_some_and(|end| end == "yaml") {
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("a rule file can be copied");
        }
    }
    scene.config.rules = vec![folder];
    scene.start();
    scene
}

pub(crate) fn site(scene: &Scene<'_>) -> PathBuf {
    scene.work.join("rules.d/site.yaml")
}

/// Sends SIGHUP and waits until the metric says what came of it.
pub(crate) fn reload(scene: &mut Scene<'_>, outcome: &str) {
    reload_nth(scene, outcome, 1, "the rules");
}

/// The same for the reload that is the nth with this outcome.
fn reload_nth(scene: &mut Scene<'_>, outcome: &str, nth: usize, what: &str) {
    let pid = scene.agent().pid().to_string();
    scene.run(Command::new("kill").args(["-HUP", &pid]));
    let listen = scene.config.listen;
    let waited = scene.agent().wait(ALERT_WITHIN, |_| {
        let samples = tests::lab::agent::samples(listen).ok()?;
        let reloads = metrics::sum(&samples, "weighbridge_rules_reloads_total", &[("outcome", outcome)]);
        (reloads >= Some(nth as f64)).then_some(())
    });
    waited
        .unwrap_or_else(|error| panic!("{error:#}"))
        .unwrap_or_else(|| panic!("{what}: no reload was {outcome}"));
}

/// Copies the first bytes of the model.
fn part(scene: &Scene<'_>, name: &str, bytes: u64) -> process::Identity {
    let input = format!("if={}", scene.model.files[0].display());
    let output = format!("of={}", scene.uncontrolled.join(name).display());
    let count = format!("count={bytes}");
    scene.run(Command::new("dd").args([&input, &output, "bs=64K", "iflag=count_bytes", &count]))
}

/// A day that is not over and not far away.
pub(crate) fn soon() -> String {
    let output =
        Command::new("date").args(["-u", "-d", "+20 days", "+%F"]).output().expect("date can be run");
    String::from_utf8(output.stdout).expect("a date is text").trim().to_owned()
}
