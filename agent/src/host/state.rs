//! The state directory: its permissions, the lock of the one running agent, and files that are replaced as a whole.
//!
//! What is kept in it is its users' business.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a directory: give state_dir another path", .0.display())]
    NotADirectory(PathBuf),
    #[error(
        "{} can be written by {who} (mode {mode:04o}, owner {owner}), who could forge the agent's state: chown it to \
         root and chmod go-w", path.display()
    )]
    Unsafe { path: PathBuf, who: &'static str, mode: u32, owner: u32 },
    #[error(
        "another agent{} holds {}: stop it (`systemctl stop weighbridge`), or give this one its own state_dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display()
    )]
    Locked { path: PathBuf, pid: Option<u32> },
}

/// A process that was killed holds its lock until the last of its threads is gone.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Holds the boot id while an agent runs.
const RUNNING: &str = "running";

/// A state directory that only the agent's user can write.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Held for as long as the agent runs; the kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// Creates the directory (mode 0700, parents 0755) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or when it or a directory above it can be written by somebody else.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |what| move |source| StateError::Io { what, path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(failed("create the parent of"))?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create")(error));
            }
            _ => {}
        }
        let facts = fs::symlink_metadata(path).map_err(failed("examine"))?;
        if !facts.is_dir() {
            return Err(StateError::NotADirectory(path.to_owned()));
        }
        refuse_writable(path, &facts, false)?;
        // Whoever can rename a directory above can put another in its place; the sticky bit prevents that.
        let real = fs::canonicalize(path).map_err(failed("resolve"))?;
        for above in real.ancestors().skip(1) {
            let facts = fs::metadata(above).map_err(failed("examine what is above"))?;
            refuse_writable(above, &facts, true)?;
        }
        Ok(Self { path: real })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock of the one running agent, and writes our pid into it.
    ///
    /// # Errors
    /// [`StateError::Locked`], with the pid of who holds it, when another agent runs.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.path.join("lock");
        let failed = |what| {
            let path = path.clone();
            move |source| StateError::Io { what, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(failed("open"))?;
        match within(LOCK_PATIENCE, || flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // What cannot be read leaves the pid out of the message; that it is locked stays true.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(StateError::Locked { path, pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(failed("lock")(error.into())),
        }
        file.set_len(0).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Lock { _file: file })
    }

    /// Replaces the file `name` by what `write` writes, as a whole or not at all, also when the power fails.
    ///
    /// # Errors
    /// Those of writing; the old file is then still there.
    pub fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut io::BufWriter<&File>) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let path = self.path.join(name);
        let next = self.path.join(format!("{name}.next"));
        let failed = |what| {
            let path = path.clone();
            move |source| StateError::Io { what, path, source }
        };
        // A rest of a write that was cut short. It is removed rather than opened, so that no link is ever followed.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&next)
            .map_err(failed("replace"))?;
        let written = (|| {
            let mut buffer = io::BufWriter::new(&file);
            write(&mut buffer)?;
            buffer.flush()?;
            drop(buffer);
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(failed("replace"))
    }

    /// Notes that the agent runs now. Returns how the last one ended, unless it did in the orderly way ([`StateDir::end_run`]).
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn begin_run(&self) -> Result<Option<&'static str>, StateError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let before = match self.read(RUNNING, 1024) {
            Ok(None) => None,
            Ok(Some(last)) if last == boot.as_bytes() => Some("the last agent was killed"),
            // What is there and cannot be understood was not written by an agent that ended well.
            Ok(Some(_)) | Err(_) => Some("the host went down while the last agent ran"),
        };
        self.replace(RUNNING, |file| file.write_all(boot.as_bytes()))?;
        Ok(before)
    }

    /// The agent ends in the orderly way.
    ///
    /// # Errors
    /// When the note of its start cannot be removed.
    pub fn end_run(&self) -> Result<(), StateError> {
        let path = self.path.join(RUNNING);
        fs::remove_file(&path).map_err(|source| StateError::Io { what: "remove", path, source })
    }

    /// Reads the file `name`; `None` when there is none.
    ///
    /// # Errors
    /// Those of reading, and when it has more than `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        match super::read_limited(&path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { what: "read", path, source }),
        }
    }
}

fn refuse_writable(path: &Path, facts: &fs::Metadata, sticky_is_fine: bool) -> Result<(), StateError> {
    let (mode, owner) = (facts.mode() & 0o7777, facts.uid());
    let who = if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        "its owner"
    } else if sticky_is_fine && mode & 0o1000 != 0 {
        return Ok(());
    } else if mode & 0o002 != 0 {
        "everybody"
    } else if mode & 0o020 != 0 && facts.gid() != 0 {
        "its group"
    } else {
        return Ok(());
    };
    Err(StateError::Unsafe { path: path.to_owned(), who, mode, owner })
}

/// Tries again while `lock` would block. There is no call that waits for a lock and gives up.
fn within(patience: Duration, lock: impl Fn() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match lock() {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(10))
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_end_that_was_not_orderly_is_told_of() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(&scratch.path().join("state")).unwrap();
        assert_eq!(state.begin_run().unwrap(), None);
        assert_eq!(state.begin_run().unwrap(), Some("the last agent was killed"));
        state.end_run().unwrap();
        assert_eq!(state.begin_run().unwrap(), None);
        fs::write(state.path().join(RUNNING), "another boot").unwrap();
        assert_eq!(state.begin_run().unwrap(), Some("the host went down while the last agent ran"));
    }

    #[test]
    fn it_is_made_for_the_agent_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(state.path()).unwrap().mode() & 0o777, 0o700);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let open = |name: &str| StateDir::open(&scratch.path().join(name)).unwrap_err();
        fs::create_dir(scratch.path().join("open")).unwrap();
        fs::set_permissions(scratch.path().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open("open"), StateError::Unsafe { who: "everybody", mode: 0o777, .. }));
        assert!(matches!(open("open/below"), StateError::Unsafe { who: "everybody", .. }));
        std::os::unix::fs::symlink("/var", scratch.path().join("link")).unwrap();
        assert!(matches!(open("link"), StateError::NotADirectory(_)));
        let error = StateError::Unsafe { path: "/s".into(), who: "everybody", mode: 0o777, owner: 0 };
        insta::assert_snapshot!(error, @"/s can be written by everybody (mode 0777, owner 0), who could forge the agent's state: chown it to root and chmod go-w");
    }

    #[test]
    fn the_second_agent_is_told_who_is_first() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        let lock = state.lock().unwrap();
        // Another open file description in the same process is locked out like another process.
        let Err(StateError::Locked { pid, .. }) = state.lock() else { panic!("locked twice") };
        assert_eq!(pid, Some(std::process::id()));
        drop(lock);
        state.lock().unwrap();
        let error = StateError::Locked { path: "/s/lock".into(), pid: Some(7) };
        insta::assert_snapshot!(error, @"another agent (pid 7) holds /s/lock: stop it (`systemctl stop weighbridge`), or give this one its own state_dir");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let scratch = tempfile::tempdir().unwrap();
        let state = StateDir::open(scratch.path()).unwrap();
        assert_eq!(state.read("x", 10).unwrap(), None);
        state.replace("x", |file| file.write_all(b"old")).unwrap();
        state.replace("x", |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(state.read("x", 10).unwrap().unwrap(), b"old");
        state.replace("x", |file| file.write_all(b"new")).unwrap();
        assert_eq!(state.read("x", 10).unwrap().unwrap(), b"new");
        assert!(state.read("x", 2).is_err());
    }
}
