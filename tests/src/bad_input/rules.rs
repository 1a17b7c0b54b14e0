//! Rules, and the commands that read them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use super::{INVALID, USAGE, outcome, refused};
use crate::world::{Scene, World};

pub(super) fn malformed_rule(w: &mut World) {
    let scene = bad_rule(w, "schema: 1\npack: mine\nrules:\n  - id: [\n");
    refused(&scene, &scene.config.to_yaml(), INVALID).names("mine.yaml");
}

pub(super) fn unknown_key_in_a_rule(w: &mut World) {
    let scene = bad_rule(w, "schema: 1\npack: mine\nrulez: []\n");
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names_place(&scene.work.join("rules.d/mine.yaml"), 3, 1);
}

pub(super) fn missing_rules(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    scene.config.rules = vec![scene.work.join("no-rules.d")];
    refused(&scene, &scene.config.to_yaml(), INVALID).names("no-rules.d");
}

/// Whoever can write a rule could switch it off: the directory and the file are each refused.
pub(super) fn rules_that_everybody_can_write(w: &mut World) {
    let scene = bad_rule(w, "schema: 1\npack: mine\nrules: []\n");
    let text = scene.config.to_yaml();
    let folder = scene.work.join("rules.d");
    for (path, before, open) in [(folder.clone(), 0o755, 0o777), (folder.join("mine.yaml"), 0o644, 0o666)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).expect("a mode can be set");
        let said = refused(&scene, &text, INVALID);
        said.names(&path.to_string_lossy());
        said.names("everyone");
        fs::set_permissions(&path, fs::Permissions::from_mode(before)).expect("a mode can be set");
    }
}

/// `weighbridge rules …` on the built-in rules and on wrong ones: exit codes, and JSON off a terminal.
pub(super) fn rules_of_every_kind_of_command(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let rules = scene.config.rules[0].clone();
    let wrong = Path::new(env!("CARGO_MANIFEST_DIR")).join("invalid/rules/unknown-key.yaml");
    let failing = Path::new(env!("CARGO_MANIFEST_DIR")).join("invalid/rules/test-fails.yaml");
    let run = |words: &[&str], paths: &[&Path]| {
        // The schema is more than a pipe holds, so what it prints is read while it runs.
        outcome(Command::new(&scene.world.binary).arg("rules").args(words).args(paths))
    };
    let json = |output: &Output| {
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for (words, paths, code) in [
        (&["lint"][..], &[rules.as_path()][..], 0),
        (&["lint"], &[&wrong], INVALID),
        (&["lint", "--sarif"], &[&wrong], INVALID),
        (&["test"], &[&rules], 0),
        (&["test"], &[&failing], 1),
        (&["list"], &[&rules], 0),
        (&["coverage"], &[&rules], 0),
        (&["fields"], &[], 0),
        (&["schema"], &[], 0),
        (&["diff"], &[&rules, &rules], 0),
        (&["diff"], &[&rules, &failing], 1),
        (&["show", "WB-0001", "--rules"], &[&rules], 0),
        (&["explain", "WB-0003", "--rules"], &[&rules], 0),
    ] {
        let output = run(words, paths);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
        json(&output);
    }
    let output = run(&["explain", "WB-0033", "--rules"], &[&rules]);
    assert_eq!(output.status.code(), Some(USAGE));
    assert!(said(&output).contains("WB-0003"), "no suggestion: {}", said(&output));
    let output = run(&["lint", "-o", "text"], &[&wrong]);
    assert!(said(&output).contains("unknown-key.yaml:") && !said(&output).contains('\x1b'));
}

/// A scene whose configuration also names a directory with this one rule file.
fn bad_rule<'w>(w: &'w mut World, text: &str) -> Scene<'w> {
    let mut scene = w.prepare_without_ebpf();
    let folder = scene.work.join("rules.d");
    fs::create_dir(&folder).expect("a folder can be made");
    fs::write(folder.join("mine.yaml"), text).expect("a rule file can be written");
    scene.config.rules.push(folder);
    scene
}
