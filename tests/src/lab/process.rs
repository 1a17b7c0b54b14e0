//! Processes of the lab: started, waited for, and known well enough to be compared with what the agent says of them.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ring::digest;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    guard::{Undo, Undoing, ends_with_the_lab},
    wait_for,
};

/// What is true of a process; `None` is «not known to the lab, so not compared».
#[derive(Clone, Debug)]
pub struct Identity {
    pub pid: Option<u32>,
    /// Symbolic links resolved.
    pub exe: PathBuf,
    /// Arguments joined by spaces.
    pub cmdline: Option<String>,
    pub uid: u32,
    /// The start lies between these, ns since boot.
    pub started: Option<(u64, u64)>,
    /// Its ancestors' pids, parent first, to pid 1; at least these must be the tail of what the agent says.
    pub ancestry: Vec<u32>,
}

/// A process that the lab started.
#[derive(Debug)]
pub struct Running {
    pub identity: Identity,
    child: Child,
    kill: Option<Undoing>,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts `command`. It is killed when this is dropped, and when the lab's process dies.
    ///
    /// # Errors
    /// When the program is not there or cannot be executed.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_os_string();
        let path = Path::new(&program);
        let exe = if path.components().count() > 1 {
            path.canonicalize().ok()
        } else {
            super::which(&program.to_string_lossy())
        };
        let exe = exe.with_context(|| format!("{} is not installed", program.display()))?;
        let cmdline = std::iter::once(program.as_os_str())
            .chain(command.get_args())
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ends_with_the_lab(command);
        let before = boot_ns();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", exe.display()))?;
        let after = boot_ns();
        let kill = Undoing::new(Undo::Kill(child.id()));
        let own = std::process::id();
        let mut ancestry = vec![own];
        ancestry.extend(ancestors(own));
        let identity = Identity {
            pid: Some(child.id()),
            exe,
            cmdline: Some(cmdline),
            uid: rustix::process::getuid().as_raw(),
            started: Some((before, after)),
            ancestry,
        };
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { identity, child, kill: Some(kill), stdin, stdout })
    }

    /// Waits until it has printed a line: the line, without its end.
    ///
    /// # Errors
    /// When it ends instead, or says nothing for 30 s.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().context("its output was already taken")?;
        if stdout.buffer().is_empty() {
            let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
            let mut pipe = [PollFd::new(stdout.get_ref(), PollFlags::IN)];
            let ready = poll(&mut pipe, Some(&limit)).context("cannot wait for what the process prints")?;
            ensure!(ready > 0, "the process said nothing for 30 s");
        }
        stdout.read_line(&mut line).context("cannot read what the process prints")?;
        ensure!(line.ends_with('\n'), "the process ended instead of printing a line: {}", self.stderr());
        Ok(line.trim_end().to_owned())
    }

    /// Sends it a line: it goes on.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is already closed")?;
        stdin.write_all(b"go\n").context("the process does not listen")
    }

    /// Sends it a line of its own.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is already closed")?;
        writeln!(stdin, "{line}").context("the process does not listen")
    }

    /// Waits until its standard error has said `words`.
    ///
    /// # Errors
    /// When it ends or 30 s pass before.
    pub fn wait_for_stderr(&mut self, words: &str) -> Result<()> {
        let stderr = self.child.stderr.as_mut().context("its errors were already taken")?;
        let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
        let mut said = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&said).contains(words) {
            let ready = poll(&mut [PollFd::new(stderr, PollFlags::IN)], Some(&limit));
            ensure!(ready.context("cannot wait for its errors")? > 0, "the process said nothing for 30 s");
            ensure!(stderr.read(&mut byte).context("cannot read its errors")? == 1, "it ended instead");
            said.push(byte[0]);
        }
        Ok(())
    }

    /// Closes its input and waits until it ends.
    ///
    /// # Errors
    /// When it fails, with its stderr, or when `limit` has passed.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        drop(self.stdin.take());
        // What it prints fits into the pipe (64 KiB) for everything that the lab runs, so reading can wait.
        let status = wait_for(limit, || self.child.try_wait().transpose())
            .with_context(|| format!("{} still runs after {limit:?}", self.identity.exe.display()))?
            .context("cannot wait for the process")?;
        if let Some(kill) = self.kill.take() {
            kill.done();
        }
        let mut text = Vec::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_end(&mut text).context("cannot read what the process printed")?;
        }
        let stderr = self.stderr();
        Ok(Finished {
            identity: self.identity.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&text).into_owned(),
            stderr,
        })
    }

    fn stderr(&mut self) -> String {
        let mut text = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // Already dead or about to be: what it said is shown as far as it can be read.
            let _ = stderr.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.kill.take().is_some() {
            // `take` dropped the registration, which killed it; reap it, so that its pid is not kept.
            let _ = self.child.wait();
        }
    }
}

/// A process that ended.
#[derive(Debug)]
pub struct Finished {
    pub identity: Identity,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// # Errors
    /// Unless it exited with 0; with its stderr.
    pub fn success(self) -> Result<Identity> {
        if self.code != Some(0) {
            bail!(
                "{} ended with {:?} (signal {:?}): {}",
                self.identity.cmdline.as_deref().unwrap_or("the process"),
                self.code,
                self.signal,
                self.stderr
            );
        }
        Ok(self.identity)
    }
}

/// The pids above `pid`, parent first, to 1; empty when it is gone.
#[must_use]
pub fn ancestors(pid: u32) -> Vec<u32> {
    std::iter::successors(parent(pid), |&pid| parent(pid)).take_while(|&pid| pid != 0).collect()
}

/// Start of a process in clock ticks since boot; `None` when there is none.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    stat(pid, 19)
}

/// User and system time that a process has used, in clock ticks.
#[must_use]
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(stat(pid, 11)? + stat(pid, 12)?)
}

/// Resident memory of a process in bytes.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// From now on [`most_resident`] counts anew.
///
/// # Errors
/// When the process is gone or another user's.
pub fn forget_most_resident(pid: u32) -> Result<()> {
    // 5: the peak of the resident set (proc(5)).
    fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak of the resident set")
}

/// The most that it ever was.
#[must_use]
pub fn most_resident(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(kib.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Lower-case hex of a file's SHA-256.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok(hex(context.finish().as_ref()));
        }
        context.update(&buffer[..n]);
    }
}

/// Nanoseconds since boot, the agent's own clock.
#[must_use]
pub fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1).and_then(|ppid| u32::try_from(ppid).ok())
}

/// A number from `/proc/PID/stat`, counted from the field behind the command's closing bracket (the state is 0).
fn stat(pid: u32, field: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may itself contain brackets and spaces: only the last bracket ends it.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_ancestors_up_to_pid_1() {
        let chain = ancestors(std::process::id());
        assert_eq!(chain.first().copied(), Some(std::os::unix::process::parent_id()));
        assert_eq!(chain.last().copied(), Some(1));
    }

    #[test]
    fn a_process_has_one_start() {
        let own = std::process::id();
        assert_eq!(start_ticks(own), start_ticks(own));
        assert_eq!(start_ticks(u32::MAX), None);
    }

    #[test]
    fn hashes_as_sha256sum_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_running_process_is_talked_to() {
        let mut running =
            Running::start(Command::new("sh").args(["-c", "echo hello; read x; echo $x"])).unwrap();
        assert_eq!(running.line().unwrap(), "hello");
        running.go().unwrap();
        assert_eq!(running.line().unwrap(), "go");
        running.finish(Duration::from_secs(5)).unwrap().success().unwrap();
    }

    #[test]
    fn a_failure_carries_stderr() {
        let running = Running::start(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap();
        let finished = running.finish(Duration::from_secs(5)).unwrap();
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(3), "why"));
    }
}
