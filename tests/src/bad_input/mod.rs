//! What is wrong is said clearly, with the place and the remedy, ends with the documented exit code (DESIGN §4), and leaves
//! nothing half-started.

mod config;
mod host;
mod listener;
mod rules;
mod words;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use tests::lab::{
    agent::Config,
    process::{Finished, Running},
};

use crate::world::{PATIENCE, Scene, Test, skip};

pub(crate) const TESTS: &[Test] = &[
    ("unknown_key", config::unknown_key),
    ("misspelt_key_in_an_asset", config::misspelt_key_in_an_asset),
    ("not_yaml", config::not_yaml),
    ("missing_configuration", config::missing_configuration),
    ("everything_wrong_is_said_at_once", config::everything_wrong_is_said_at_once),
    ("missing_asset_path", config::missing_asset_path),
    ("asset_on_an_uncontrolled_filesystem", config::asset_on_an_uncontrolled_filesystem),
    ("asset_file_that_cannot_be_read", config::asset_file_that_cannot_be_read),
    ("malformed_rule", rules::malformed_rule),
    ("unknown_key_in_a_rule", rules::unknown_key_in_a_rule),
    ("missing_rules", rules::missing_rules),
    ("rules_that_everybody_can_write", rules::rules_that_everybody_can_write),
    ("credentials_that_cannot_be_used", config::credentials_that_cannot_be_used),
    ("state_directory_that_takes_no_writes", host::state_directory_that_takes_no_writes),
    ("listening_to_the_network_is_warned_of", config::listening_to_the_network_is_warned_of),
    ("every_invalid_file_is_refused", config::every_invalid_file_is_refused),
    ("rules_of_every_kind_of_command", rules::rules_of_every_kind_of_command),
    ("alert_file_not_writable", config::alert_file_not_writable),
    ("port_in_use", host::port_in_use),
    ("second_instance", host::second_instance),
    ("listener_that_is_pestered", listener::pestered),
    ("not_root", host::not_root),
    ("ebpf_refused", host::ebpf_refused),
    ("no_btf", host::no_btf),
    ("rights_missing", host::rights_missing),
    ("usage", words::usage),
    ("help", words::help),
    ("check_of_a_good_configuration", config::check_of_a_good_configuration),
];

/// Configuration or rules invalid.
const INVALID: i32 = 3;
/// Kernel, permissions or surroundings unfit.
const UNFIT: i32 = 4;
const USAGE: i32 = 2;

fn outcome(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"))
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

pub(crate) fn copy_rules(scene: &Scene<'_>, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    let Ok(entries) = fs::read_dir(&scene.config.rules[0]) else { skip("there are no rules yet") };
    for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "yaml")) {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a rule file can be copied");
    }
}
