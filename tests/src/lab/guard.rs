//! Undoing what the lab did, on every way out: return, panic, SIGINT, SIGTERM, SIGHUP.
//!
//! Every change to the machine is registered as an [`Undo`] and held as an [`Undoing`]: dropping that runs it, and a
//! signal runs all that are still held, newest first. SIGKILL cannot be caught: the lab therefore works in namespaces
//! of its own, which the kernel takes down with the process, and removes leftover scratch directories at its next start.

use std::{
    io,
    os::{
        fd::{IntoRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
};

/// One change to the machine, as what takes it back.
#[derive(Debug)]
pub enum Undo {
    /// SIGKILL for a process that the lab started and did not yet wait for.
    Kill(u32),
    /// Detach a mount; its loop device was set up to vanish with it.
    Unmount(PathBuf),
    /// Remove a directory and everything below it.
    Remove(PathBuf),
}

/// A change that stands; dropping it takes it back.
#[derive(Debug)]
#[must_use = "dropping it takes the change back at once"]
pub struct Undoing {
    id: u64,
}

struct Registry {
    next: u64,
    held: Vec<(u64, Undo)>,
    /// A signal came: the process is about to end and nothing new may be set up.
    closed: bool,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { next: 0, held: Vec::new(), closed: false });
static WAKE: AtomicI32 = AtomicI32::new(-1);

impl Undoing {
    /// Registers `undo`. When a signal has already started the clean-up, this never returns.
    pub fn new(undo: Undo) -> Self {
        let mut registry = open_registry();
        let id = registry.next;
        registry.next += 1;
        registry.held.push((id, undo));
        Self { id }
    }

    /// Forgets it without running it: the change is already gone (a process that was waited for).
    pub fn done(self) {
        open_registry().take(self.id);
    }
}

/// Has the kernel kill what `command` starts when the thread that started it ends, however that comes about.
pub(super) fn ends_with_the_lab(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        })
    };
}

impl Drop for Undoing {
    fn drop(&mut self) {
        // The lock is kept while it runs: the clean-up thread must not end the process in the middle of it.
        let mut registry = open_registry();
        if let Some(undo) = registry.take(self.id) {
            undo.run();
        }
    }
}

impl Registry {
    fn take(&mut self, id: u64) -> Option<Undo> {
        let at = self.held.iter().position(|(held, _)| *held == id)?;
        Some(self.held.remove(at).1)
    }
}

impl Undo {
    /// A failure is reported and not returned: whatever else is registered must still be undone.
    fn run(&self) {
        let outcome = match self {
            Self::Kill(pid) => kill(*pid),
            Self::Unmount(at) => unmount(at, UnmountFlags::DETACH).map_err(io::Error::from),
            Self::Remove(path) => remove(path),
        };
        if let Err(error) = outcome {
            eprintln!("lab: cannot undo {self:?}: {error}");
        }
    }
}

/// Catches SIGINT, SIGTERM and SIGHUP from now on: everything registered is undone and the process exits with
/// 128 + the signal's number. Call it once, before anything is registered.
///
/// # Errors
/// When the kernel refuses the pipe or a handler.
pub fn catch_signals() -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context("cannot make the pipe that wakes the clean-up")?;
    WAKE.store(writer.into_raw_fd(), Ordering::SeqCst);
    thread::Builder::new()
        .name("clean-up".into())
        .spawn(move || clean_up_when_woken(&reader))
        .context("cannot start the clean-up thread")?;
    let handler: extern "C" fn(libc::c_int) = on_signal;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `on_signal` only calls write(2), which is async-signal-safe, and reads an atomic.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error()).context(format!("cannot catch signal {signal}"));
        }
    }
    Ok(())
}

extern "C" fn on_signal(signal: libc::c_int) {
    // A signal's number is below 65; the byte tells the thread which one came.
    let byte = signal.unsigned_abs().to_le_bytes()[0];
    // SAFETY: the pointer is valid for one byte; the descriptor stays open for the life of the process. A failure
    // cannot be reported from here, and the only one possible is a full pipe, which has already woken the thread.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
}

fn clean_up_when_woken(reader: &OwnedFd) {
    let mut byte = [0_u8; 1];
    while rustix::io::read(reader, &mut byte) == Err(rustix::io::Errno::INTR) {}
    eprintln!("lab: interrupted, cleaning up");
    let held = {
        let mut registry = lock();
        registry.closed = true;
        std::mem::take(&mut registry.held)
    };
    for (_, undo) in held.iter().rev() {
        undo.run();
    }
    // Not `std::process::exit`: other threads still run and must not see destructors of statics.
    // SAFETY: ends the process; there is nothing left that would have to be flushed but stderr, which is unbuffered.
    unsafe { libc::_exit(128 + i32::from(byte[0])) }
}

/// The registry, or, when a signal came, never: the clean-up thread is at work and ends the process when it is done. A main
/// thread that went on could end it earlier.
fn open_registry() -> MutexGuard<'static, Registry> {
    let registry = lock();
    if !registry.closed {
        return registry;
    }
    drop(registry);
    loop {
        thread::park();
    }
}

/// A panic while the lock was held leaves the list as it was: going on is right, for the list is what cleans up.
fn lock() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a directory of the lab and everything below it; one that is not there is fine. What is mounted below is
/// detached first, and as long as anything is left nothing is removed: a removal that followed a bind mount would
/// delete the files of whatever was bound.
///
/// # Errors
/// When something stays mounted below it, or a file cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    for mount in mounts_below(path)?.iter().rev() {
        unmount(mount, UnmountFlags::DETACH)?;
    }
    if let Some(mount) = mounts_below(path)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Mount points at or below a path, in the order in which they were mounted. The lab's own names need no unescaping, and an
/// escaped name of someone else's below a lab's directory still starts with it.
fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(path))
        .collect())
}
