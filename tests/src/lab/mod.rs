//! The lab itself: namespaces of its own and a scratch directory, so that nothing it does can reach the host.
//!
//! The network namespace keeps its traffic and addresses to itself; the mount namespace keeps its volumes to itself, and
//! the kernel takes both down with the process, even after SIGKILL.

pub mod agent;
pub mod alert;
pub mod alertmanager;
pub mod fleet;
pub mod guard;
pub mod hook;
mod http;
pub mod json_schema;
pub mod metrics;
mod namespace;
pub mod outside;
pub mod process;
pub mod prometheus;
pub mod recording;
mod service;
pub mod volume;
pub mod weights;

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use self::guard::{Undo, Undoing};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Where agents pin what outlives them.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Scratch directories are `PREFIX`, the pid of their owner, `-`, its start time.
const PREFIX: &str = "weighbridge-lab-";

/// A place to work in; everything is taken back when it is dropped.
#[derive(Debug)]
pub struct Lab {
    scratch: PathBuf,
    _remove: Undoing,
}

impl Lab {
    /// Moves the calling process into a mount and a network namespace of its own, catches signals, removes what a killed
    /// earlier lab left behind and makes a scratch directory. Call it once, before the process has a second thread:
    /// threads that run already would stay outside.
    ///
    /// # Errors
    /// When not root, when another thread runs already, or when the kernel refuses a namespace.
    pub fn enter() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the lab makes volumes and namespaces: run it as root");
        // A thread that was joined may still be on its way out.
        let alone = wait_for(Duration::from_secs(2), || {
            fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1).then_some(())
        });
        ensure!(alone.is_some(), "the lab must be entered before a second thread starts");
        // SAFETY: the process has one thread; it gets its own namespaces and loses none of its memory or descriptors.
        if unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error())
                .context("the kernel refuses a mount and a network namespace: run as root outside of a restricted container");
        }
        // Without this the new volumes would show up in the host's mount table where that is shared, as systemd does.
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .context("cannot make the mount namespace private")?;
        // What agents pin is the lab's own and goes with it; the host's BPF filesystem is not touched.
        if Path::new(BPFFS).is_dir() {
            run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
        }
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        guard::catch_signals()?;

        let base = std::env::temp_dir();
        remove_leftovers(&base);
        let own = std::process::id();
        let start = process::start_ticks(own).context("cannot read this process's own start time")?;
        let scratch = base.join(format!("{PREFIX}{own}-{start}"));
        fs::create_dir(&scratch).context("cannot make the scratch directory")?;
        let remove = Undoing::new(Undo::Remove(scratch.clone()));
        // Others may pass through: a test runs the agent as nobody.
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))
            .context("cannot open the scratch directory to others")?;
        let scratch = scratch.canonicalize().context("cannot resolve the scratch directory")?;
        Ok(Self { scratch, _remove: remove })
    }

    /// The directory that everything is kept in. Absolute, without symbolic links.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// Runs a set-up command to its end.
///
/// # Errors
/// When it cannot be started or fails; with its stderr.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        bail!("{program} failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The path that a command name resolves to, symbolic links resolved; `None` when `PATH` does not have it.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .filter(|path| executable(path))
        .find_map(|path| path.canonicalize().ok())
}

/// Asks `condition` again and again until it says something or the deadline has passed.
pub fn wait_for<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn executable(path: &Path) -> bool {
    let Ok(text) = CString::new(path.as_os_str().as_bytes()) else { return false };
    rustix::fs::access(&text, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// A lab that was killed with SIGKILL leaves its images. Those of a living process are another lab's: not touched.
fn remove_leftovers(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let Some((pid, start)) = owner.split_once('-') else { continue };
        let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { continue };
        if process::start_ticks(pid) == Some(start) {
            continue;
        }
        eprintln!("lab: removing what an earlier run left behind: {}", entry.path().display());
        drop(Undoing::new(Undo::Remove(entry.path())));
    }
}
