//! What appears in the assets' directories by another way than by being opened there: renamed or linked into them. It says where;
//! what is done about it is not its business.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::registry::Directory;
use crate::event::AssetId;

/// Room for some hundred events of the longest names (`NAME_MAX`).
const BUFFER: usize = 64 * 1024;

/// Watches directories by `inotify(7)`.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: OwnedFd,
    /// By watch descriptor.
    folders: HashMap<i32, (AssetId, PathBuf)>,
    /// Whether the kernel's limit of watches was told of.
    is_full: bool,
}

/// What appeared since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Appeared {
    /// Files, links to files and whatever else is no directory.
    pub files: Vec<(AssetId, PathBuf)>,
    /// Something came that has to be looked for: directories, or more than the kernel kept.
    pub more: bool,
}

/// Watches directories for a [`FolderWatch`].
#[derive(Debug)]
pub struct Watcher(OwnedFd);

/// What a [`Watcher`] watches.
#[derive(Debug, Default)]
pub struct Watched {
    folders: Vec<(i32, (AssetId, PathBuf))>,
    /// The first that cannot be watched.
    failed: Option<(PathBuf, io::Error)>,
}

impl Watcher {
    /// Waits for the filesystems that the directories lie on.
    #[must_use]
    pub fn watch(&self, directories: &[Directory]) -> Watched {
        let mut watched = Watched::default();
        for Directory { asset, path, .. } in directories {
            let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
            match inotify::add_watch(&self.0, &**path, flags) {
                Ok(watch) => watched.folders.push((watch, (*asset, path.to_path_buf()))),
                Err(error) if watched.failed.is_none() => {
                    watched.failed = Some((path.to_path_buf(), error.into()));
                }
                Err(_) => {}
            }
        }
        watched
    }
}

impl FolderWatch {
    /// # Errors
    ///
    /// When the kernel gives no more instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, folders: HashMap::new(), is_full: false })
    }

    /// Watches these directories too. One that cannot be watched is looked at when the registry is.
    pub fn follow(&mut self, directories: &[Directory]) {
        match self.watcher().map(|watcher| watcher.watch(directories)) {
            Ok(watched) => self.take(watched),
            Err(error) => self.cannot(&error, Path::new("/")),
        }
    }

    /// What can do the first half of [`Self::follow`] elsewhere, for it waits for the filesystems.
    ///
    /// # Errors
    ///
    /// When there is no room for another descriptor.
    pub fn watcher(&self) -> io::Result<Watcher> {
        Ok(Watcher(self.inotify.try_clone()?))
    }

    /// The second half.
    pub fn take(&mut self, watched: Watched) {
        self.folders.extend(watched.folders);
        if let Some((path, error)) = watched.failed {
            self.cannot(&error, &path);
        }
    }

    fn cannot(&mut self, error: &io::Error, path: &Path) {
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(
                %error,
                path = %path.display(),
                "a directory is not watched: what is renamed into it is found within a minute (fs.inotify.max_user_watches)"
            );
        }
    }

    /// Does not block.
    pub fn appeared(&mut self) -> Appeared {
        let mut appeared = Appeared::default();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => break,
                // Looking for itself misses nothing.
                Err(_) => {
                    appeared.more = true;
                    break;
                }
            };
            let (flags, folder) = (event.events(), self.folders.get(&event.wd()));
            if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
            } else if flags.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::ISDIR) {
                appeared.more = true;
            } else if let (Some((asset, folder)), Some(name)) = (folder, event.file_name()) {
                appeared.files.push((*asset, within(folder, name.to_bytes())));
            } else if folder.is_none() {
                // Of a directory that a watcher watches and nobody told us of yet.
                appeared.more = true;
            }
        }
        appeared
    }
}

impl AsFd for FolderWatch {
    /// Readable when something appeared.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn within(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{event::Dev, host::registry::Object};

    #[test]
    fn what_is_renamed_or_linked_into_a_directory_appears() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in"), place.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("a"), b"a").unwrap();
        fs::write(outside.join("b"), b"b").unwrap();
        let mut watch = FolderWatch::new().unwrap();
        let object = Object { dev: Dev(0), ino: 0, generation: None };
        watch.follow(&[Directory { asset: AssetId(3), path: inside.as_path().into(), object }]);
        assert_eq!(watch.appeared(), Appeared::default());
        fs::rename(outside.join("a"), inside.join("x")).unwrap();
        fs::hard_link(outside.join("b"), inside.join("y")).unwrap();
        let files = vec![(AssetId(3), inside.join("x")), (AssetId(3), inside.join("y"))];
        assert_eq!(watch.appeared(), Appeared { files, more: false });
        fs::rename(&outside, inside.join("all")).unwrap();
        assert_eq!(watch.appeared(), Appeared { files: Vec::new(), more: true });
        fs::remove_dir_all(&inside).unwrap();
        assert_eq!(watch.appeared(), Appeared::default());
    }
}
