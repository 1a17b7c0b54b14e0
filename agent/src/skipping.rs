//! What a test says that cannot run where it is. Rust's test harness has no word for it once a test runs, and would count it as
//! passed: so it is written down, and `cargo xtask test` counts it as skipped. It must not know any test.

use std::{fmt, fs::OpenOptions, io::Write as _, thread};

/// Names the file that what was skipped is appended to, a line each: the test, a tab, the reason.
const FILE: &str = "WEIGHBRIDGE_SKIPPED";

/// Says that the test that runs, or a part of it, cannot run here; it must then return, or leave that part out.
///
/// # Panics
///
/// When it cannot be written down: nobody would know of it.
pub(crate) fn skipped(reason: impl fmt::Display) {
    let thread = thread::current();
    let line = format!("{}\t{reason}\n", thread.name().unwrap_or("a test without a name"));
    eprint!("skipped: {line}");
    if let Some(file) = std::env::var_os(FILE) {
        // One write: other tests append to it at the same time.
        OpenOptions::new().append(true).create(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
    }
}
