//! Command lines.

use std::path::Path;

use super::{Said, USAGE, finish};
use crate::world::World;

pub(super) fn usage(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    for arguments in [&["fly"][..], &["run", "--colour"], &[]] {
        let paths: Vec<&Path> = arguments.iter().map(Path::new).collect();
        Said(finish(&scene, &paths)).code(USAGE);
    }
}

pub(super) fn help(w: &mut World) {
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
