//! Where the alert log may lie: in a directory that nobody else can write to, and never behind a symbolic link.
//!
//! Everything is done relative to the opened directory, so that what was checked is what is used.

use super::*;

/// Why an alert log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("alert log {path} has no file name: name a file such as /var/log/weighbridge/alerts.ndjson", path = path.display())]
    NoName { path: PathBuf },
    #[error("directory {dir} for alert log {path} does not exist: create it, owned by root", dir = dir.display(), path = path.display())]
    NoDirectory { path: PathBuf, dir: PathBuf },
    #[error("directory {dir} of alert log {path} is writable by everyone: run `chmod o-w {dir}` or log elsewhere", dir = dir.display(), path = path.display())]
    WorldWritable { path: PathBuf, dir: PathBuf },
    #[error("directory {dir} of alert log {path} belongs to user {uid}, who could replace the log: `chown root {dir}` or log elsewhere", dir = dir.display(), path = path.display())]
    ForeignDirectory { path: PathBuf, dir: PathBuf, uid: u32 },
    #[error("alert log {path} is a symbolic link: name the file itself", path = path.display())]
    Link { path: PathBuf },
    #[error("alert log {path} is not a regular file: name a file", path = path.display())]
    NotAFile { path: PathBuf },
    #[error("alert log {path} can be written by others than its owner: run `chmod 600 {path}`", path = path.display())]
    Writable { path: PathBuf },
    #[error("alert log {path} belongs to user {uid}: `chown root {path}` or move it away", path = path.display())]
    ForeignFile { path: PathBuf, uid: u32 },
    #[error("alert log {path} is locked, another agent writes to it: stop that one or give this one another file", path = path.display())]
    Locked { path: PathBuf },
    #[error("no right to write in {dir} for alert log {path}: run as root, or list the directory in ReadWritePaths= of the unit", dir = dir.display(), path = path.display())]
    NotPermitted { path: PathBuf, dir: PathBuf },
    #[error("cannot {doing} alert log {path}: {source}", path = path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl FileError {
    /// Whose directory or file it is, where that is what stands against it: the agent's own, when the agent runs as that user.
    #[must_use]
    pub const fn foreign(&self) -> Option<u32> {
        match self {
            Self::ForeignDirectory { uid, .. } | Self::ForeignFile { uid, .. } => Some(*uid),
            _ => None,
        }
    }

    /// A disk that is full or broken can be mended while the agent runs; a place that is wrong cannot.
    pub(super) fn may_pass(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EIO))
    }
}

/// Whether an alert log could be opened there; changes nothing.
///
/// # Errors
/// What stands against it, with the remedy.
pub fn check(path: &Path) -> Result<(), FileError> {
    let (dir, _) = split(path)?;
    if !dir.exists() {
        // `open` creates the last directory, so the one above is what counts.
        let above = dir.parent().filter(|above| above.exists());
        let above =
            above.ok_or_else(|| FileError::NoDirectory { path: path.to_owned(), dir: dir.to_owned() })?;
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        check_directories(path, above)?;
        return writable(path, above);
    }
    check_directories(path, dir)?;
    writable(path, dir)?;
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => check_file(path, &stat),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(io_error("look at", path, error)),
    }
}

/// An opened directory and the names of the log in it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    dir: OwnedFd,
    name: PathBuf,
}

impl Place {
    /// Checks the way to the log, creates its directory if only that is missing, and opens it.
    pub(super) fn prepare(path: &Path) -> Result<Self, FileError> {
        check(path)?;
        let (dir, name) = split(path)?;
        if !dir.exists() {
            rustix::fs::mkdir(dir, Mode::from_raw_mode(0o750))
                .map_err(|error| io_error("create the directory of", path, error))?;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|error| io_error("open the directory of", path, error))?;
        let stat =
            rustix::fs::fstat(&opened).map_err(|error| io_error("look at the directory of", path, error))?;
        check_directory(path, dir, &stat, true)?;
        Ok(Self { path: path.to_owned(), dir: opened, name: name.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the log for appending and locks it.
    pub(super) fn open_log(&self) -> Result<File, FileError> {
        let file = self.open_append(&self.name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(FileError::Locked { path: self.path.clone() }),
            Err(error) => Err(io_error("lock", &self.path, error)),
        }
    }

    /// Opens the log's name with `suffix` added for appending, such as `.damaged`.
    pub(super) fn open_beside(&self, suffix: &str) -> Result<File, FileError> {
        self.open_append(&self.beside(suffix))
    }

    /// Opens the log's name with `suffix` added for reading, if there is such a file and it is safe.
    pub(super) fn read_beside(&self, suffix: &str) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.dir, self.beside(suffix), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        check_file(&self.path, &stat).ok()?;
        Some(File::from(file))
    }

    /// Renames the log to its name with `suffix` added, never over another file.
    pub(super) fn move_aside(&self, suffix: &str) -> rustix::io::Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.dir, &self.name, &self.dir, self.beside(suffix), flags)
    }

    pub(super) fn stat_log(&self) -> rustix::io::Result<Stat> {
        rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    pub(super) fn io(&self, doing: &'static str, source: io::Error) -> FileError {
        FileError::Io { doing, path: self.path.clone(), source }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.name.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }

    fn open_append(&self, name: &Path) -> Result<File, FileError> {
        // NONBLOCK so that a FIFO of that name cannot hang us; it means nothing for the regular file it has to be.
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file,
            Err(rustix::io::Errno::LOOP) => return Err(FileError::Link { path: self.path.clone() }),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO) => {
                return Err(FileError::NotAFile { path: self.path.clone() });
            }
            Err(error) => return Err(io_error("open", &self.path, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| io_error("look at", &self.path, error))?;
        check_file(&self.path, &stat)?;
        Ok(File::from(file))
    }
}

fn split(path: &Path) -> Result<(&Path, &Path), FileError> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            Ok((dir, Path::new(name)))
        }
        _ => Err(FileError::NoName { path: path.to_owned() }),
    }
}

/// Checks a directory and all above it, after links are resolved.
fn check_directories(path: &Path, dir: &Path) -> Result<(), FileError> {
    let real = dir.canonicalize().map_err(|source| FileError::Io {
        doing: "resolve the directory of",
        path: path.to_owned(),
        source,
    })?;
    for (depth, above) in real.ancestors().enumerate() {
        let stat = rustix::fs::stat(above).map_err(|error| io_error("look at what is above", path, error))?;
        check_directory(path, above, &stat, depth == 0)?;
    }
    Ok(())
}

/// `own`: the log's own directory, where even the sticky bit does not help: anybody could put the next file there first.
fn check_directory(path: &Path, dir: &Path, stat: &Stat, own: bool) -> Result<(), FileError> {
    let (path, dir) = (path.to_owned(), dir.to_owned());
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(FileError::NoDirectory { path, dir });
    }
    let sticky = stat.st_mode & 0o1000 != 0;
    if stat.st_mode & 0o002 != 0 && (own || !sticky) {
        return Err(FileError::WorldWritable { path, dir });
    }
    if !is_ours(stat.st_uid) {
        return Err(FileError::ForeignDirectory { path, dir, uid: stat.st_uid });
    }
    Ok(())
}

fn check_file(path: &Path, stat: &Stat) -> Result<(), FileError> {
    let path = path.to_owned();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(FileError::Link { path }),
        _ => return Err(FileError::NotAFile { path }),
    }
    if !is_ours(stat.st_uid) {
        return Err(FileError::ForeignFile { path, uid: stat.st_uid });
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(FileError::Writable { path });
    }
    Ok(())
}

/// Root's, or our own for an agent that replays without root.
fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn writable(path: &Path, dir: &Path) -> Result<(), FileError> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::accessat(CWD, dir, access, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS | rustix::io::Errno::PERM) => {
            Err(FileError::NotPermitted { path: path.to_owned(), dir: dir.to_owned() })
        }
        Err(error) => Err(io_error("look at the directory of", path, error)),
    }
}

fn io_error(doing: &'static str, path: &Path, error: rustix::io::Errno) -> FileError {
    FileError::Io { doing, path: path.to_owned(), source: error.into() }
}
