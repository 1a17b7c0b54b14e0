//! What is wrong is said clearly, with the place and the remedy, ends with the documented exit code (DESIGN §4), and leaves
//! nothing half-started.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tests::lab::{
    agent::Config,
    process::{Finished, Running},
};

use crate::world::{PATIENCE, Scene, Test, World, skip};

pub(crate) const TESTS: &[Test] = &[
    ("unknown_key", unknown_key),
    ("misspelt_key_in_an_asset", misspelt_key_in_an_asset),
    ("not_yaml", not_yaml),
    ("missing_configuration", missing_configuration),
    ("everything_wrong_is_said_at_once", everything_wrong_is_said_at_once),
    ("missing_asset_path", missing_asset_path),
    ("asset_on_an_uncontrolled_filesystem", asset_on_an_uncontrolled_filesystem),
    ("malformed_rule", malformed_rule),
    ("unknown_key_in_a_rule", unknown_key_in_a_rule),
    ("missing_rules", missing_rules),
    ("rules_that_everybody_can_write", rules_that_everybody_can_write),
    ("credentials_that_cannot_be_used", credentials_that_cannot_be_used),
    ("state_directory_that_takes_no_writes", state_directory_that_takes_no_writes),
    ("listening_to_the_network_is_warned_of", listening_to_the_network_is_warned_of),
    ("every_invalid_file_is_refused", every_invalid_file_is_refused),
    ("rules_of_every_kind_of_command", rules_of_every_kind_of_command),
    ("alert_file_not_writable", alert_file_not_writable),
    ("port_in_use", port_in_use),
    ("second_instance", second_instance),
    ("not_root", not_root),
    ("usage", usage),
    ("help", help),
    ("check_of_a_good_configuration", check_of_a_good_configuration),
];

/// Configuration or rules invalid.
const INVALID: i32 = 3;
/// Kernel, permissions or surroundings unfit.
const UNFIT: i32 = 4;
const USAGE: i32 = 2;

fn unknown_key(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml() + "colour: blue\n";
    let line = text.lines().count();
    let said = refused(&scene, &text, INVALID);
    said.names("colour");
    said.names_place(&scene.work.join("weighbridge.yaml"), line, 1);
}

fn misspelt_key_in_an_asset(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml().replacen("    paths:", "    path:", 1);
    let line = text.lines().position(|line| line.starts_with("    path:")).expect("the key is there") + 1;
    let said = refused(&scene, &text, INVALID);
    // The remedy is the word that was meant.
    said.names("paths");
    said.names_place(&scene.work.join("weighbridge.yaml"), line, 5);
}

fn not_yaml(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    refused(&scene, "schema: [1\nassets: }\n", INVALID).names("weighbridge.yaml");
}

fn missing_configuration(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    let said = Said(finish(&scene, &[Path::new("run"), Path::new("--config"), &file]));
    said.code(INVALID);
    said.names("weighbridge.yaml");
}

fn everything_wrong_is_said_at_once(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml() + "colour: blue\nshape: round\n";
    let said = refused(&scene, &text, INVALID);
    said.names("colour");
    said.names("shape");
}

fn missing_asset_path(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let missing = scene.controlled.join("not-there");
    scene.config = scene.config.clone().asset("third", &missing);
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names(&missing.to_string_lossy());
    said.names_line_of(&scene, "not-there");
}

fn asset_on_an_uncontrolled_filesystem(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let place = scene.uncontrolled.join("model");
    fs::create_dir(&place).expect("a folder can be made");
    scene.config = scene.config.clone().asset("third", &place);
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names(&place.to_string_lossy());
    said.names("controlled");
    said.names_line_of(&scene, &place.to_string_lossy());
}

fn malformed_rule(w: &mut World) {
    let scene = bad_rule(w, "schema: 1\npack: mine\nrules:\n  - id: [\n");
    refused(&scene, &scene.config.to_yaml(), INVALID).names("mine.yaml");
}

fn unknown_key_in_a_rule(w: &mut World) {
    let scene = bad_rule(w, "schema: 1\npack: mine\nrulez: []\n");
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names_place(&scene.work.join("rules.d/mine.yaml"), 3, 1);
}

fn missing_rules(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    scene.config.rules = vec![scene.work.join("no-rules.d")];
    refused(&scene, &scene.config.to_yaml(), INVALID).names("no-rules.d");
}

/// Whoever can write a rule could switch it off: the directory and the file are each refused.
fn rules_that_everybody_can_write(w: &mut World) {
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

/// One that is missing, is no file, is empty, or that others can read: named before anything starts.
fn credentials_that_cannot_be_used(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let token = scene.work.join("token");
    let sink = format!(
        "{{type: alertmanager, urls: ['http://127.0.0.1:9'], bearer_token: {{file: {}}}}}",
        token.display()
    );
    scene.config.sinks = vec![serde_json::Value::Null];
    let text = scene.config.to_yaml().replace("  - null", &format!("  - {sink}"));
    let names_it = |what: &str| {
        let said = refused(&scene, &text, INVALID);
        said.names(&token.to_string_lossy());
        assert!(!said.0.stderr.contains("hunter2"), "{what}: the secret is shown");
    };
    names_it("missing");
    fs::create_dir(&token).expect("a folder can be made");
    names_it("a folder");
    fs::remove_dir(&token).expect("it can be removed");
    for (what, content, mode) in [
        ("empty", "\n", 0o600),
        ("everybody's to read", "hunter2", 0o644),
        ("everybody's to write", "hunter2", 0o622),
    ] {
        fs::write(&token, content).expect("a token can be written");
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        names_it(what);
    }
}

fn state_directory_that_takes_no_writes(w: &mut World) {
    let mut scene = w.prepare();
    let state = scene.config.state_dir.clone();
    scene.mount(&["-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs"].map(AsRef::as_ref), &state).expect("a mount");
    let said = run(&scene, &scene.config.to_yaml());
    said.code(UNFIT);
    said.names(&state.to_string_lossy());
    nothing_started(&scene.config);
}

/// It is allowed, for a scrape comes from elsewhere; that it goes in the clear is said.
fn listening_to_the_network_is_warned_of(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    scene.config.listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let said = Said(finish(&scene, &[Path::new("check"), Path::new("--config"), &file]));
    said.code(0);
    let listen = scene.config.listen.to_string();
    assert!(
        said.0.stdout.contains(&listen) || said.0.stderr.contains(&listen),
        "nothing is said of {listen}:\n{}\n{}",
        said.0.stdout,
        said.0.stderr
    );
}

/// The corpus of invalid files: each ends with exit code 3 and says a line and a column. (What it says is held by snapshots
/// in the agent's own tests.)
fn every_invalid_file_is_refused(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("invalid");
    let soon = String::from_utf8(outcome(Command::new("date").args(["-u", "-d", "+20 days", "+%F"])).stdout);
    let soon = soon.expect("a date is text").trim().to_owned();
    let mut refused = 0;
    for entry in fs::read_dir(corpus.join("rules")).expect("the corpus is there").flatten() {
        let file = entry.path();
        if file.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        // What an exception says must not have expired by the time that this runs.
        let text = fs::read_to_string(&file).expect("it can be read").replace("2026-12-15", &soon);
        let copy = scene.work.join(entry.file_name());
        fs::write(&copy, text).expect("a rule file can be written");
        scene.config.rules = vec![copy];
        refused_with_place(&scene, &scene.config.to_yaml(), &file);
        refused += 1;
    }
    for entry in fs::read_dir(corpus.join("config")).expect("the corpus is there").flatten() {
        let file = entry.path();
        if file.extension().is_some_and(|end| end == "yaml") {
            let text = fs::read_to_string(&file).expect("it can be read");
            refused_with_place(&scene, &text, &file);
            refused += 1;
        }
    }
    assert!(refused >= 100, "the corpus has only {refused} files");
}

fn refused_with_place(scene: &Scene<'_>, text: &str, file: &Path) {
    let config = scene.work.join("weighbridge.yaml");
    fs::write(&config, text).expect("a configuration can be written");
    let words = ["check", "-o", "json", "--config"].map(Path::new);
    let said = finish(scene, &[&words[..], &[&config]].concat());
    assert_eq!(said.code, Some(INVALID), "{}: {}", file.display(), said.stderr);
    let report: serde_json::Value = serde_json::from_str(&said.stderr).expect("faults are JSON");
    let faults = report["faults"].as_array().expect("a list of faults");
    let has_place =
        |fault: &serde_json::Value| fault["line"].as_u64() > Some(0) && fault["column"].as_u64() > Some(0);
    assert!(faults.iter().any(has_place), "{}: no fault has a place: {}", file.display(), said.stderr);
}

/// `weighbridge rules …` on the built-in rules and on wrong ones: exit codes, and JSON off a terminal.
fn rules_of_every_kind_of_command(w: &mut World) {
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

fn outcome(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"))
}

/// Root may write everywhere but into what is no directory.
fn alert_file_not_writable(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let file = scene.work.join("a-file");
    fs::write(&file, "").expect("a file can be made");
    scene.config.alerts = file.join("alerts.ndjson");
    refused(&scene, &scene.config.to_yaml(), INVALID).names("alerts.ndjson");
}

fn port_in_use(w: &mut World) {
    let scene = w.prepare();
    let taken = TcpListener::bind(scene.config.listen).expect("the port is free");
    let text = scene.config.to_yaml();
    let said = run(&scene, &text);
    drop(taken);
    said.code(UNFIT);
    said.names(&scene.config.listen.to_string());
    nothing_started(&scene.config);
}

fn second_instance(w: &mut World) {
    let mut scene = w.scene();
    let mut config = scene.config.clone();
    config.listen = Config::new(&scene.work, scene.world.controlled.path()).expect("a free port").listen;
    let said = run(&scene, &config.to_yaml());
    said.code(UNFIT);
    said.names(&scene.agent().pid().to_string());
    // The first one did not suffer. Its configuration was written over for the second, which it says.
    scene.expect_beside_changes(&[]);
}

fn not_root(w: &mut World) {
    World::needs("setpriv");
    let mut scene = w.prepare_without_ebpf();
    // Its own copy: the build's directory may lie where nobody else may look.
    let binary = scene.work.join("weighbridge");
    fs::copy(&scene.world.binary, &binary).expect("the binary can be copied");
    let own = scene.work.join("own");
    fs::create_dir(&own).expect("a folder can be made");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("a mode can be set");
    scene.config.state_dir = own.join("state");
    scene.config.alerts = own.join("alerts.ndjson");
    let rules = scene.work.join("rules.d");
    copy_rules(&scene, &rules);
    scene.config.rules = vec![rules];
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(binary).arg("run").arg("--config").arg(file);
    let said = Said(end(scene.spawn(&mut command)));
    said.code(UNFIT);
    said.names("root");
    nothing_started(&scene.config);
}

fn usage(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    for arguments in [&["fly"][..], &["run", "--colour"], &[]] {
        let paths: Vec<&Path> = arguments.iter().map(Path::new).collect();
        Said(finish(&scene, &paths)).code(USAGE);
    }
}

fn help(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let rules = ["lint", "test", "list", "show", "fields", "schema", "coverage", "diff", "explain"];
    let rules = rules.map(|command| format!("rules {command}"));
    for command in ["", "run", "check", "doctor", "inventory", "unload", "rules"]
        .into_iter()
        .chain(rules.iter().map(String::as_str))
    {
        let words: Vec<&Path> = command.split_whitespace().chain(["--help"]).map(Path::new).collect();
        let finished = finish(&scene, &words);
        assert_eq!(finished.code, Some(0), "{command} --help: {}", finished.stderr);
        assert!(finished.stdout.to_lowercase().contains("example"), "{command} --help shows no example");
        assert!(!finished.stdout.contains('\x1b'), "{command} --help is coloured off a terminal");
    }
}

fn check_of_a_good_configuration(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let said = Said(finish(&scene, &[Path::new("check"), Path::new("--config"), &file]));
    said.code(0);
    nothing_started(&scene.config);
}

/// What a run of the binary ended with.
struct Said(Finished);

impl Said {
    fn code(&self, wanted: i32) {
        assert_eq!(self.0.code, Some(wanted), "exit code; it said:\n{}", self.0.stderr);
    }

    fn names(&self, word: &str) {
        assert!(self.0.stderr.contains(word), "{word:?} is not named in:\n{}", self.0.stderr);
    }

    /// `FILE:LINE:COLUMN` stands somewhere in what it said.
    fn names_place(&self, file: &Path, line: usize, column: usize) {
        self.names(&format!("{}:{line}:{column}", file.display()));
    }

    /// The line of the configuration that contains `text` is named.
    fn names_line_of(&self, scene: &Scene<'_>, text: &str) {
        let yaml = scene.config.to_yaml();
        let line =
            yaml.lines().position(|line| line.contains(text)).expect("the text is in the configuration") + 1;
        self.names(&format!("{}:{line}:", scene.work.join("weighbridge.yaml").display()));
    }
}

/// Neither `run` nor `check` accepts it, and nothing was started. For programs the faults are JSON, each with its place.
fn refused(scene: &Scene<'_>, text: &str, code: i32) -> Said {
    let said = run(scene, text);
    said.code(code);
    nothing_started(&scene.config);
    let file = scene.work.join("weighbridge.yaml");
    let words = ["check", "-o", "json", "--config"].map(Path::new);
    let checked = Said(finish(scene, &[&words[..], &[&file]].concat()));
    checked.code(code);
    let report: serde_json::Value = serde_json::from_str(&checked.0.stderr).expect("faults are JSON");
    let faults = report["faults"].as_array().expect("a list of faults");
    assert!(!faults.is_empty(), "no fault is listed");
    for fault in faults {
        assert!(fault["message"].as_str().is_some_and(|message| !message.is_empty()), "{fault}");
        // 0 where a file as a whole is meant.
        assert!(fault["line"].is_u64() && fault["column"].is_u64() && fault["file"].is_string(), "{fault}");
    }
    said
}

fn run(scene: &Scene<'_>, text: &str) -> Said {
    let file = scene.work.join("weighbridge.yaml");
    fs::write(&file, text).expect("a configuration can be written");
    Said(finish(scene, &[Path::new("run"), Path::new("--config"), &file]))
}

fn finish(scene: &Scene<'_>, arguments: &[&Path]) -> Finished {
    end(scene.spawn(Command::new(&scene.world.binary).args(arguments)))
}

fn end(running: Running) -> Finished {
    running
        .finish(PATIENCE)
        .unwrap_or_else(|error| panic!("the agent goes on although it should not: {error:#}"))
}

/// No alert file with anything in it, no port, no pins.
fn nothing_started(config: &Config) {
    let written = fs::metadata(&config.alerts).map_or(0, |file| file.len());
    assert_eq!(written, 0, "something was written to the alert file");
    assert!(TcpListener::bind(config.listen).is_ok(), "the port is still taken");
    assert!(!Path::new("/sys/fs/bpf/weighbridge").exists(), "pins are left behind");
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

pub(crate) fn copy_rules(scene: &Scene<'_>, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    let Ok(entries) = fs::read_dir(&scene.config.rules[0]) else { skip("there are no rules yet") };
    for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "yaml")) {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a rule file can be copied");
    }
}
