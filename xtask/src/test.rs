//! `cargo xtask test`: builds, runs every test there is, and adds them up into one closing line.
//!
//! Unit and documentation tests come from cargo, live ones from the end-to-end runner of the crate `tests`. This file runs
//! and counts; what a test does and when it must be skipped is the tests' own business, with one exception: see
//! [`doctor`].

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    UNFIT, build, dist,
    libtest::{Reader, Tally},
    setup, shell,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Runs the chore. The last line on stdout is `N passed, N failed, N skipped`, whatever happened before it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_for_tests()?;
    let filter = args.filter.as_deref();
    let mut tally = Tally::default();

    match build::release()? {
        Some(binary) => {
            unit(filter, &mut tally)?;
            doctor(&binary, &mut tally)?;
            end_to_end(&binary, filter, &mut tally)?;
        }
        None => tally.failed.push("the release build".to_owned()),
    }

    println!("{}", summary(&tally));
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Unit and documentation tests of every crate; the embedded tests of the rules are among the agent's.
fn unit(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    add(tally, cargo_test(["--workspace", "--no-fail-fast"].into_iter().chain(filter))?);
    Ok(())
}

/// `cargo test` with `arguments`: shows what it prints and counts it.
pub(crate) fn cargo_test<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Tally> {
    let mut command = shell::cargo();
    command.args(["test", "--locked"]).args(arguments).stdout(Stdio::piped());
    // What an earlier run skipped must never count.
    let skipped = shell::target_dir()?.join("skipped");
    remove(&skipped)?;
    command.env("WEIGHBRIDGE_SKIPPED", &skipped);
    eprintln!("$ {}", shell::line(&command));
    let mut child = command.spawn().context("cannot start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        reader.line(&line);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    let mut tally = reader.finish();
    match fs::read_to_string(&skipped) {
        Ok(text) => tally.say_skipped(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => bail!("cannot read {}: {error}", skipped.display()),
    }
    // A crate that does not compile has no result line.
    if !status.success() && tally.failed.is_empty() {
        tally.failed.push(format!("cargo test, with {status}"));
    }
    Ok(tally)
}

/// One test of its own: where the kernel gives eBPF tracing to this user, `weighbridge doctor` must find that our programs
/// load. Without it a program that the verifier refuses would turn every live test into a silent skip.
fn doctor(binary: &Path, tally: &mut Tally) -> Result<()> {
    const NAME: &str = "doctor: our programs load where the kernel takes eBPF";
    let refusal = kernel_refusal();
    let output = Command::new(binary)
        .arg("doctor")
        .output()
        .with_context(|| format!("cannot start {} doctor", binary.display()))?;
    match (output.status.success(), refusal) {
        (true, _) => tally.passed += 1,
        (false, Some(reason)) if output.status.code() == Some(UNFIT.into()) => {
            tally.skipped.push((NAME.to_owned(), reason));
        }
        (false, _) => {
            eprintln!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            tally.failed.push(format!("{NAME}: it ended with {}", output.status));
        }
    }
    Ok(())
}

/// Why this kernel, for this user, takes no tracing program at all; `None` when it takes the smallest one and has BTF.
fn kernel_refusal() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF at /sys/kernel/btf/vmlinux".to_owned());
    }
    /// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out for zeros.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
    }
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
    // r0 = 0; exit
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let license = c"GPL";
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_RAW_TRACEPOINT,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    // SAFETY: the attributes and what they point to live until the call returns, and their size is given.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<ProgLoad>()) };
    if program < 0 {
        let error = std::io::Error::last_os_error();
        return Some(format!("the kernel takes no tracing program from this user: {error}"));
    }
    // SAFETY: the kernel has just given this descriptor, and nothing else knows it.
    unsafe { libc::close(program as libc::c_int) };
    None
}

/// What a run of the live tests left.
pub(crate) struct Live {
    succeeded: bool,
    path: PathBuf,
    /// One JSON object per test; `None` when the runner wrote none.
    pub(crate) report: Option<String>,
}

/// Runs the live tests whose name contains one of the filters, or all.
pub(crate) fn live(binary: &Path, filters: &[&str]) -> Result<Live> {
    let report = shell::target_dir()?.join("e2e-report.ndjson");
    // The report of an earlier run must never count.
    remove(&report)?;
    let mut command = shell::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "-p", "tests", "--bin", "e2e", "--"]);
    command.arg("--agent").arg(binary).arg("--report").arg(&report);
    // Where a package cannot be made its test is skipped, and says so.
    match dist::make(binary, &shell::target_dir()?.join("package")) {
        Ok(made) => {
            command.arg("--package").arg(made.package);
        }
        Err(error) => eprintln!("warning: no package to test: {error:#}"),
    }
    command.args(filters);
    let succeeded = shell::aloud(command)?;
    Ok(Live { succeeded, report: fs::read_to_string(&report).ok(), path: report })
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", file.display())
        }
        _ => Ok(()),
    }
}

/// The live tests. Their runner knows what cannot run here and why, root or not.
fn end_to_end(binary: &Path, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let live = live(binary, filter.as_slice())?;
    let counted = match &live.report {
        Some(text) => read_report(text).with_context(|| format!("cannot use {}", live.path.display()))?,
        None => Tally { failed: vec!["the end-to-end runner left no report".to_owned()], ..Tally::default() },
    };
    if !live.succeeded && counted.failed.is_empty() {
        tally.failed.push("the end-to-end runner itself".to_owned());
    }
    add(tally, counted);
    Ok(())
}

/// One JSON object per test: `{"name": …, "outcome": "passed|failed|skipped", "reason": …, "first": …, "seconds": …}`, where
/// `first` is what a test failed with before it was repeated.
fn read_report(text: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    for (number, line) in text.lines().enumerate() {
        let place = || format!("line {} of the end-to-end report", number + 1);
        let test: serde_json::Value = serde_json::from_str(line).with_context(place)?;
        let word = |key: &str| test[key].as_str().map(str::to_owned);
        let name = word("name").with_context(place).context("no name")?;
        let reason = word("reason").filter(|reason| !reason.is_empty());
        match (word("outcome").as_deref(), reason) {
            (Some("passed"), _) => {
                tally.passed += 1;
                if let Some(first) = word("first").filter(|first| !first.is_empty()) {
                    tally.repeated.push((name, first));
                }
            }
            (Some("failed"), _) => tally.failed.push(name),
            (Some("skipped"), Some(reason)) => tally.skipped.push((name, reason)),
            // A skip that says no reason hides something.
            (Some("skipped"), None) => tally.failed.push(format!("{name}: skipped without a reason")),
            (outcome, _) => tally.failed.push(format!("{name}: outcome {outcome:?} is not known")),
        }
    }
    Ok(tally)
}

fn add(tally: &mut Tally, more: Tally) {
    tally.passed += more.passed;
    tally.failed.extend(more.failed);
    tally.skipped.extend(more.skipped);
    tally.repeated.extend(more.repeated);
}

/// The skipped with their reasons, what passed only when it was repeated, the failed by name, and the closing line.
fn summary(tally: &Tally) -> String {
    let mut text = String::new();
    let explained = |rows: &[(String, String)]| {
        rows.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>()
    };
    for (title, rows) in [
        ("skipped", explained(&tally.skipped)),
        ("passed at the second attempt", explained(&tally.repeated)),
        ("failed", tally.failed.clone()),
    ] {
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            rows.iter().for_each(|row| text.push_str(&format!("  {row}\n")));
        }
    }
    let (passed, failed, skipped) = (tally.passed, tally.failed.len(), tally.skipped.len());
    text.push_str(&format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_added_up_and_a_skip_must_say_why() {
        let tally = read_report(
            r#"{"name": "techniques::cp", "outcome": "passed", "seconds": 1.5}
{"name": "techniques::rsync", "outcome": "skipped", "reason": "needs rsync", "seconds": 0}
{"name": "benign::load", "outcome": "failed", "reason": "one alert", "seconds": 2}
{"name": "life::grow", "outcome": "skipped", "reason": "", "seconds": 0}
{"name": "life::odd", "outcome": "vanished"}
{"name": "life::busy", "outcome": "passed", "first": "one alert", "seconds": 2}
"#,
        )
        .unwrap();
        assert_eq!(
            tally,
            Tally {
                passed: 2,
                failed: vec![
                    "benign::load".to_owned(),
                    "life::grow: skipped without a reason".to_owned(),
                    "life::odd: outcome Some(\"vanished\") is not known".to_owned(),
                ],
                skipped: vec![("techniques::rsync".to_owned(), "needs rsync".to_owned())],
                repeated: vec![("life::busy".to_owned(), "one alert".to_owned())],
            }
        );
    }

    #[test]
    fn a_torn_report_is_an_error_with_its_line() {
        let error = read_report("{\"name\": \"a\", \"outcome\": \"passed\"}\n{\"name\":").unwrap_err();
        assert_eq!(error.to_string(), "line 2 of the end-to-end report");
    }

    #[test]
    fn the_closing_line_stands_alone() {
        let tally = Tally {
            passed: 3,
            failed: vec!["x".to_owned()],
            skipped: vec![("y".to_owned(), "needs z".to_owned())],
            repeated: vec![("v".to_owned(), "w".to_owned())],
        };
        assert_eq!(
            summary(&tally),
            "\nskipped:\n  y: needs z\n\npassed at the second attempt:\n  v: w\n\nfailed:\n  x\n\n3 passed, 1 failed, 1 skipped"
        );
        assert_eq!(summary(&Tally::default()), "\n0 passed, 0 failed, 0 skipped");
    }
}
