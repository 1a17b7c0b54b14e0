//! `cargo xtask fuzz`: coverage-guided fuzzing of everything that reads what others wrote, with libFuzzer and the stable
//! compiler. What is found lies below `target/fuzz`; the seeds are in `fuzz/corpus`.
//!
//! LLVM's coverage counters are plain code generation flags, so no nightly compiler is needed; its address sanitizer is not to be
//! had that way, and Rust needs it least.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::{UNFIT, setup, shell};

/// What can be fuzzed, and the longest input that is tried.
const TARGETS: [(&str, u32); 5] =
    [("rules", 8192), ("config", 4096), ("recording", 8192), ("facts", 4096), ("log", 16_384)];

/// Only with `--target` do they stay away from build scripts, which have no fuzzer to link to.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fuzz; everything, one after the other, when nothing is named
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
    target: Option<String>,
    /// How long each is fuzzed
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
}

/// How one target went.
struct Ran {
    name: &'static str,
    executions: u64,
    /// Counters that were hit, and inputs that were kept for it.
    coverage: u64,
    corpus: u64,
    crashed: bool,
}

/// Runs the chore; fails when an input made a target fail.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure()?;
    if shell::which("c++").is_none() {
        eprintln!("error: libFuzzer is C++ and no compiler is here: install the package g++");
        return Ok(ExitCode::from(UNFIT));
    }
    let place = shell::target_dir()?.join("fuzz");
    let mut build = shell::cargo();
    // Not `--locked`: who changes the agent's dependencies need not know of this lock file, which cargo then mends.
    build.args(["build", "--release", "--target", TRIPLE, "--manifest-path", "fuzz/Cargo.toml"]);
    build.arg("--target-dir").arg(&place).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    if !shell::aloud(build)? {
        return Ok(ExitCode::FAILURE);
    }
    let wanted = |name: &str| args.target.as_deref().is_none_or(|target| target == name);
    let mut all = Vec::new();
    for (name, longest) in TARGETS.into_iter().filter(|(name, _)| wanted(name)) {
        all.push(fuzz(&place, name, longest, args.seconds)?);
    }
    println!("{:<10} {:>12} {:>9} {:>7}  found", "target", "executions", "coverage", "corpus");
    for one in &all {
        let found = if one.crashed { "an input that fails, see above" } else { "nothing" };
        println!("{:<10} {:>12} {:>9} {:>7}  {found}", one.name, one.executions, one.coverage, one.corpus);
    }
    Ok(if all.iter().any(|one| one.crashed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn fuzz(place: &Path, name: &'static str, longest: u32, seconds: u32) -> Result<Ran> {
    let (corpus, artifacts) = (place.join("corpus").join(name), place.join("artifacts").join(name));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let seeds = shell::root().join("fuzz/corpus").join(name);
    let binary: PathBuf = place.join(TRIPLE).join("release").join(name);
    let mut command = Command::new(binary);
    command.args([&corpus, &seeds]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={longest}"));
    command.args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    let dictionary = shell::root().join("fuzz/words").join(name);
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    eprintln!("$ {}", shell::line(&command));
    let done = command.output().with_context(|| format!("cannot start the target {name}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        let last: Vec<&str> = said.lines().rev().take(40).collect();
        last.into_iter().rev().for_each(|line| eprintln!("{line}"));
    }
    let ran = read(name, &said, !done.status.success());
    ensure!(ran.crashed || ran.executions > 0, "the target {name} ran nothing: {said}");
    Ok(ran)
}

/// What libFuzzer says at the end.
fn read(name: &'static str, said: &str, crashed: bool) -> Ran {
    let after = |text: &str, word: &str| {
        let rest = text.rsplit_once(word)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let number = |word: &str| after(said, word).unwrap_or(0);
    Ran {
        name,
        executions: number("stat::number_of_executed_units:"),
        coverage: number(" cov: "),
        corpus: number(" corp: "),
        crashed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_numbers_are_read() {
        let said = "#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 40Mb\n#70\tDONE   cov: 512 ft: 900 corp: 44/3Kb lim: 4096\n\
                    stat::number_of_executed_units: 123456\nstat::peak_rss_mb: 60\n";
        let ran = read("rules", said, false);
        assert_eq!((ran.executions, ran.coverage, ran.corpus), (123_456, 512, 44));
        assert_eq!(read("rules", "", true).executions, 0);
    }

    #[test]
    fn every_target_has_seeds_and_a_program() {
        for (name, _) in TARGETS {
            let root = shell::root().join("fuzz");
            assert!(
                root.join("corpus").join(name).read_dir().is_ok_and(|mut seeds| seeds.next().is_some()),
                "{name}"
            );
            assert!(root.join("targets").join(format!("{name}.rs")).is_file(), "{name}");
        }
    }
}
