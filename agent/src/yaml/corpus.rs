//! The corpus of invalid files under `tests/invalid`: each must be refused, in words that a snapshot holds. It must not
//! know what makes a file invalid.

use std::path::{Path, PathBuf};

use super::{Diagnostic, render};

/// Runs `faults_of` on every file of `tests/invalid/<kind>` and compares the report with the snapshot beside it.
pub(crate) fn check(kind: &str, faults_of: impl Fn(&Path) -> Option<Vec<Diagnostic>>) {
    // Cargo runs tests in the package's directory; a relative name keeps the checkout's place out of the snapshots.
    let directory = PathBuf::from("../tests/invalid").join(kind);
    let mut files: Vec<PathBuf> = directory
        .read_dir()
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(std::env::current_dir().expect("a directory").join(&directory));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for file in files {
            let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8").to_owned();
            let faults = faults_of(&file).unwrap_or_else(|| panic!("{} was accepted", file.display()));
            for fault in &faults {
                assert!(fault.line > 0 && fault.column > 0, "{name}: a fault without its place: {fault}");
            }
            insta::assert_snapshot!(name, render(&faults, false));
        }
    });
}
