//! `cargo xtask check`: everything that needs no kernel and no root. CI runs this and `cargo xtask test`, nothing else.
//!
//! Each step says what it ran; a step that cannot run here is listed as skipped, with its reason, at the end.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Result;

use crate::{deny, setup, shell, test, toolchain, tree};

/// How one step ended.
enum Outcome {
    Passed,
    Failed,
    Skipped(&'static str),
}

/// A step: its name and what runs it.
type Step = (&'static str, fn() -> Result<Outcome>);

/// Runs every step, also after one has failed, and fails when one did.
pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure()?;
    const STEPS: [Step; 9] = [
        ("format", format),
        ("clippy", clippy),
        ("clippy of the eBPF programs", clippy_ebpf),
        ("rule tests", rules),
        ("what files say", tree),
        ("systemd unit", unit),
        ("licences, bans and sources", declared),
        ("the same by cargo-deny", by_cargo_deny),
        ("advisories", advisories),
    ];
    let mut report = Vec::new();
    let mut failed = false;
    for (name, step) in STEPS {
        let outcome = step().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Outcome::Failed
        });
        failed |= matches!(outcome, Outcome::Failed);
        report.push(match outcome {
            Outcome::Passed => format!("passed   {name}"),
            Outcome::Failed => format!("failed   {name}"),
            Outcome::Skipped(reason) => format!("skipped  {name}: {reason}"),
        });
    }
    println!("{}", report.join("\n"));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn format() -> Result<Outcome> {
    let mut command = shell::cargo();
    command.args(["fmt", "--all", "--check"]);
    // A workspace of their own, which is not built here; what they call is among the agent's tests.
    let mut targets = shell::cargo();
    targets.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]);
    let formatted = shell::aloud(command)?;
    Ok(if shell::aloud(targets)? && formatted { Outcome::Passed } else { Outcome::Failed })
}

fn clippy() -> Result<Outcome> {
    let mut command = shell::cargo();
    command.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    ran(command)
}

/// With the compiler that builds them: Rust 1.95 has no core for BPF to check against.
fn clippy_ebpf() -> Result<Outcome> {
    let target_dir = shell::target_dir()?.join("ebpf");
    let mut command = toolchain::find()?.cargo("clippy", &shell::root().join("agent-ebpf"), &target_dir);
    // Not just any cargo-clippy in PATH: rustup's would call another compiler.
    if !Path::new(command.get_program()).with_file_name("cargo-clippy").is_file() {
        return Ok(Outcome::Skipped("the eBPF compiler has no clippy (Debian: rust-web-clippy)"));
    }
    command.args(["--", "-D", "warnings"]);
    ran(command)
}

/// The rules' embedded tests run among the tests of the agent's module `rules`. None at all would prove nothing.
fn rules() -> Result<Outcome> {
    let tally = test::cargo_test(["-p", "weighbridge", "--lib", "rules::"])?;
    Ok(if tally.failed.is_empty() && tally.passed > 0 { Outcome::Passed } else { Outcome::Failed })
}

fn tree() -> Result<Outcome> {
    let complaints = tree::complaints()?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { Outcome::Passed } else { Outcome::Failed })
}

/// The unit's exposure, as systemd itself scores it, must stay below 3.0 of 10.
fn unit() -> Result<Outcome> {
    let Some(analyze) = shell::which("systemd-analyze") else {
        return Ok(Outcome::Skipped("systemd-analyze is not installed"));
    };
    let mut command = Command::new(analyze);
    command.args(["security", "--offline=true", "--threshold=30", "--no-pager"]);
    command.arg(shell::root().join("deploy/weighbridge.service")).stdout(std::process::Stdio::null());
    ran(command)
}

/// What the dependencies declare of themselves, which needs no further tool.
fn declared() -> Result<Outcome> {
    let complaints = deny::complaints()?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { Outcome::Passed } else { Outcome::Failed })
}

/// What the dependencies are, from the lock file alone.
fn by_cargo_deny() -> Result<Outcome> {
    if !has_deny() {
        return Ok(Outcome::Skipped(NO_DENY));
    }
    let mut command = shell::cargo();
    command.args(["deny", "--locked", "check", "bans", "licenses", "sources"]);
    ran(command)
}

/// What is known against them, from a database that must be fetched.
fn advisories() -> Result<Outcome> {
    if !has_deny() {
        return Ok(Outcome::Skipped(NO_DENY));
    }
    let mut fetch = shell::cargo();
    fetch.args(["deny", "fetch", "db"]);
    if !fetch.output().is_ok_and(|output| output.status.success()) {
        return Ok(Outcome::Skipped("the advisory database cannot be fetched from here"));
    }
    let mut command = shell::cargo();
    command.args(["deny", "--locked", "check", "--disable-fetch", "advisories"]);
    ran(command)
}

const NO_DENY: &str = "cargo-deny is not installed (`cargo xtask setup --tools`, which takes long)";

fn has_deny() -> bool {
    setup::cargo_has("deny")
}

fn ran(command: Command) -> Result<Outcome> {
    Ok(if shell::aloud(command)? { Outcome::Passed } else { Outcome::Failed })
}
