//! Where the maps and links of one agent are pinned, so that the kernel weighs on while no agent runs: a directory of its own
//! below `weighbridge/` of the BPF filesystem, and the lock of who works with it.
//!
//! Knows directories and names. It must not know what the maps hold.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

use ring::digest;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, flock, open, unlinkat};
use thiserror::Error;

/// Below the BPF filesystem: one directory for each agent.
const TOP: &str = "weighbridge";
/// Entries of a directory that are looked at: an agent pins some thirty.
const MOST_ENTRIES: usize = 4096;

/// Why the pins cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    #[error(
        "no BPF filesystem is mounted, and without one nothing can weigh on while the agent is away: mount -t bpf bpf \
         /sys/fs/bpf, or set pin: false"
    )]
    NoFilesystem,
    #[error(
        "cannot {what} {}: {source}; make {} for the agent's user (`install -d -m 0700 -o USER`), or set pin: false",
        path.display(), top.display()
    )]
    Io { what: &'static str, path: PathBuf, top: PathBuf, source: io::Error },
    #[error(
        "{} belongs to user {owner} with mode {mode:04o}, who could forge what was weighed: remove it, or chown it to the \
         agent's user and chmod 0700", path.display()
    )]
    Unsafe { path: PathBuf, mode: u32, owner: u32 },
    #[error("another agent works with the pins in {}: stop it first", .0.display())]
    Locked(PathBuf),
    #[error("cannot pin {what} in {}: {source:#}", path.display())]
    Pin { what: String, path: PathBuf, source: anyhow::Error },
}

/// The directory of one agent's pins; locked for as long as this lives.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    lock: OwnedFd,
}

impl Pins {
    /// Makes and locks the directory for the agent with this state directory, below the BPF filesystem at `bpffs`.
    ///
    /// # Errors
    ///
    /// When it cannot be made, when others could write it, and when another agent works with it.
    pub fn open(bpffs: &Path, state_dir: &Path) -> Result<Self, PinError> {
        let top = bpffs.join(TOP);
        let path = top.join(name(state_dir));
        for directory in [&top, &path] {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PinError::Io {
                        what: "make",
                        path: directory.clone(),
                        top: top.clone(),
                        source,
                    });
                }
                _ => check(directory, &top)?,
            }
        }
        Self::lock(path, &top)
    }

    /// The directory, when an earlier agent left one that this one may go on with.
    ///
    /// # Errors
    ///
    /// As [`Pins::open`].
    pub fn find(bpffs: &Path, state_dir: &Path) -> Result<Option<Self>, PinError> {
        let top = bpffs.join(TOP);
        let path = top.join(name(state_dir));
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        check(&top, &top)?;
        check(&path, &top)?;
        Self::lock(path, &top).map(Some)
    }

    /// What agents left below this BPF filesystem, to be removed: of the one with this state directory, or of all. Root removes
    /// what belongs to an agent's own user too.
    ///
    /// # Errors
    ///
    /// When one cannot be opened, and when an agent works with it.
    pub fn left(bpffs: &Path, state_dir: Option<&Path>) -> Result<Vec<Self>, PinError> {
        let top = bpffs.join(TOP);
        if fs::symlink_metadata(&top).is_err() {
            return Ok(Vec::new());
        }
        if let Some(state_dir) = state_dir {
            let path = top.join(name(state_dir));
            let is_there = fs::symlink_metadata(&path).is_ok();
            return if is_there { Self::lock(path, &top).map(|pins| vec![pins]) } else { Ok(Vec::new()) };
        }
        let failed = |source| PinError::Io { what: "list", path: top.clone(), top: top.clone(), source };
        fs::read_dir(&top)
            .map_err(failed)?
            .take(MOST_ENTRIES)
            .map(|entry| Self::lock(entry.map_err(failed)?.path(), &top))
            .collect()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the map or link `name` is pinned. A BPF filesystem allows no dots in names.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.place(name)).is_ok()
    }

    /// Removes everything below the directory and itself; returns the names of what was pinned. Nothing weighs on that is held
    /// by no process.
    ///
    /// # Errors
    ///
    /// When something cannot be removed; what was removed by then stays so.
    pub fn remove(self) -> Result<Vec<String>, PinError> {
        let removed = self.clear()?;
        let top = self.path.parent().unwrap_or(&self.path).to_owned();
        fs::remove_dir(&self.path).map_err(|source| PinError::Io {
            what: "remove",
            path: self.path.clone(),
            top: top.clone(),
            source,
        })?;
        // Not empty when other agents have theirs there, and not ours to remove when an administrator made it for us.
        let _ = fs::remove_dir(&top);
        Ok(removed)
    }

    /// Removes every pin and keeps the directory. By its descriptor, for whoever owns the directory could put another in its
    /// place meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Pins::remove`].
    pub(super) fn clear(&self) -> Result<Vec<String>, PinError> {
        let top = self.path.parent().unwrap_or(&self.path);
        let failed = |what, name: &str, error: rustix::io::Errno| PinError::Io {
            what,
            path: self.path.join(name),
            top: top.to_owned(),
            source: error.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.lock).map_err(|error| failed("list", "", error))?.take(MOST_ENTRIES)
        {
            let entry = entry.map_err(|error| failed("list", "", error))?;
            names.extend(
                entry
                    .file_name()
                    .to_str()
                    .ok()
                    .filter(|name| !matches!(*name, "." | ".."))
                    .map(str::to_owned),
            );
        }
        // Links first: what is not attached cannot count into a map that is gone.
        names.sort_by_key(|name| !name.starts_with(LINK));
        for name in &names {
            unlinkat(&self.lock, name.as_str(), AtFlags::empty())
                .map_err(|error| failed("remove", name, error))?;
        }
        Ok(names)
    }

    fn lock(path: PathBuf, top: &Path) -> Result<Self, PinError> {
        let failed = |what, error: rustix::io::Errno| PinError::Io {
            what,
            path: path.clone(),
            top: top.to_owned(),
            source: error.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::empty()).map_err(|error| failed("open", error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Locked(path)),
            Err(error) => Err(failed("lock", error)),
        }
    }
}

/// What the names of links start with.
pub(super) const LINK: &str = "link_";

/// One agent, one state directory, one directory of pins.
fn name(state_dir: &Path) -> String {
    let real = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let hash = digest::digest(&digest::SHA256, real.as_os_str().as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Only root and our own user may have made it, and nobody else may write it: the mount itself can be writable for all.
fn check(path: &Path, top: &Path) -> Result<(), PinError> {
    let facts = fs::symlink_metadata(path).map_err(|source| PinError::Io {
        what: "examine",
        path: path.to_owned(),
        top: top.to_owned(),
        source,
    })?;
    let (mode, owner) = (facts.mode() & 0o7777, facts.uid());
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !facts.is_dir() || !is_ours || mode & 0o022 != 0 {
        return Err(PinError::Unsafe { path: path.to_owned(), mode, owner });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_agent_at_a_time_works_with_the_pins() {
        let bpffs = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        assert!(Pins::find(bpffs.path(), state.path()).unwrap().is_none());
        let pins = Pins::open(bpffs.path(), state.path()).unwrap();
        assert!(matches!(Pins::open(bpffs.path(), state.path()), Err(PinError::Locked(_))));
        assert!(matches!(Pins::left(bpffs.path(), None), Err(PinError::Locked(_))));
        let other = tempfile::tempdir().unwrap();
        let others = Pins::open(bpffs.path(), other.path()).unwrap();
        assert_ne!(pins.path(), others.path());
        fs::write(pins.place("FLOWS"), "").unwrap();
        fs::write(pins.place("link_sys_exit"), "").unwrap();
        assert_eq!(pins.remove().unwrap(), ["link_sys_exit", "FLOWS"]);
        assert!(others.path().exists());
        others.remove().unwrap();
        assert!(!bpffs.path().join(TOP).exists());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let bpffs = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        drop(Pins::open(bpffs.path(), state.path()).unwrap());
        fs::set_permissions(bpffs.path().join(TOP), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Pins::open(bpffs.path(), state.path()), Err(PinError::Unsafe { mode: 0o777, .. })));
        fs::remove_dir_all(bpffs.path().join(TOP)).unwrap();
        std::os::unix::fs::symlink("/", bpffs.path().join(TOP)).unwrap();
        assert!(matches!(Pins::open(bpffs.path(), state.path()), Err(PinError::Unsafe { .. })));
    }
}
