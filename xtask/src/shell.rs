//! Runs other programs for the chores: aloud, or with progress and the last lines kept for the error.
//!
//! It knows no chore. Programs are started directly, never through a shell.

use std::{
    collections::VecDeque,
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// How often a long step says that it is alive.
const PROGRESS: Duration = Duration::from_secs(15);
/// How much of a failed step's output its error shows.
const LAST_LINES: usize = 20;

/// The cargo that started xtask, at the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo leaves what it builds: `CARGO_TARGET_DIR` or a cargo configuration may move it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed with {}", output.status);
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(dir.into())
}

/// Whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The path of `program` in PATH or where administrators' tools live, which is not in every user's PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Says the command, runs it with this process's own output, and tells whether it succeeded.
pub(crate) fn aloud(mut command: Command) -> Result<bool> {
    let line = line(&command);
    eprintln!("$ {line}");
    Ok(command.status().with_context(|| format!("cannot start `{line}`"))?.success())
}

/// Runs a long step without its chatter: a line of progress now and then, and the last lines in the error when it fails.
pub(crate) fn quietly(what: &str, mut command: Command) -> Result<()> {
    let shown = line(&command);
    eprintln!("{what}\n  $ {shown}");
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot copy a pipe's end")?)
        .stderr(writer);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{shown}`"))?;
    // The command keeps the pipe's writing end; without it the reader sees the end when the child is gone.
    drop(command);

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut last = VecDeque::new();
    let mut next = started + PROGRESS;
    loop {
        match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() >= next {
            let newest = last.back().map_or("", |line: &String| line.trim());
            eprintln!("  … {} s: {newest}", started.elapsed().as_secs());
            next += PROGRESS;
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() {
        let last: Vec<String> = last.into();
        bail!("`{shown}` failed with {status}; its last lines:\n  {}", last.join("\n  "));
    }
    eprintln!("  done in {} s", started.elapsed().as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_step_that_fails_shows_its_last_lines() {
        let mut command = Command::new("seq");
        command.args(["1", "30"]);
        quietly("counting", command).unwrap();

        let mut command = Command::new("cat");
        command.arg("/no/such/file");
        let error = quietly("reading", command).unwrap_err().to_string();
        assert!(error.starts_with("`cat /no/such/file` failed with exit status: 1"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["clippy", "--workspace"]);
        assert_eq!(line(&command), "cargo clippy --workspace");
    }
}
