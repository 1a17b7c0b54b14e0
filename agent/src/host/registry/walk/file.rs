//! One file that was found: its entry in the registry, read from the file itself or known from an earlier scan. It must not know
//! how it was come upon.

use std::{
    collections::{HashMap, hash_map},
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxAttributes, openat, statx};

use super::{
    super::{Entry, Filesystem, Object, Registry},
    Told, WANTED, Walk,
};
use crate::{
    event::{AssetId, Dev},
    host::{
        Severity,
        format::{self, Recognised},
        ioctl::generation,
        mounts::Mount,
    },
};

/// `s_dev`, `st_dev` and the inode number. `st_dev` is part of it because btrfs uses one inode number in several
/// subvolumes.
pub(super) type FileKey = (Dev, u64, u64);

/// What an earlier scan knew.
pub(super) struct Known<'a> {
    by_path: HashMap<&'a Path, &'a Entry>,
    by_content: HashMap<(u64, u64, i64), &'a Entry>,
}

impl<'a> Known<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        let files = || registry.files.iter();
        Self {
            by_path: files().map(|entry| (&*entry.path, entry)).collect(),
            by_content: files().map(|e| ((e.object.ino, e.size, e.mtime), e)).collect(),
        }
    }
}

impl Walk<'_> {
    /// `facts` are those of `name` in the directory `at`.
    pub(super) fn file(
        &mut self,
        told: &mut Told<'_>,
        at: impl AsFd,
        name: &OsStr,
        path: &Path,
        facts: &Statx,
        mount: &Mount,
    ) {
        match self.entry(told.asset, at, name, path, facts, mount) {
            Ok(Some((entry, key))) => self.register(told, entry, key),
            // Gone, or no longer a file, since its directory was read.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable(told, path, error),
        }
    }

    fn entry(
        &mut self,
        asset: AssetId,
        at: impl AsFd,
        name: &OsStr,
        path: &Path,
        facts: &Statx,
        mount: &Mount,
    ) -> io::Result<Option<(Entry, FileKey)>> {
        let before = self.known.by_path.get(path).filter(|entry| entry.object.ino == facts.stx_ino);
        let size_and_times =
            |facts: &Statx| (facts.stx_size, nanoseconds(facts.stx_mtime), nanoseconds(facts.stx_ctime));
        let (size, mtime, ctime) = size_and_times(facts);
        let first_seen = before
            .or_else(|| self.known.by_content.get(&(facts.stx_ino, size, mtime)))
            .map_or(self.now, |entry| entry.first_seen);
        let (facts, generation, format) = match before {
            Some(before) if before.untouched(facts.stx_ino, size, mtime, ctime) => {
                (*facts, before.object.generation, before.format)
            }
            _ => {
                let flags =
                    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
                let file = File::from(openat(at, name, flags, Mode::empty())?);
                let opened = statx(&file, "", AtFlags::EMPTY_PATH, WANTED)?;
                let regular = FileType::from_raw_mode(opened.stx_mode.into()) == FileType::RegularFile;
                // Something else took its place since the directory was read; the next scan sees it.
                if !regular || opened.stx_mnt_id != facts.stx_mnt_id {
                    return Ok(None);
                }
                let generation = generation(&file, &mount.fstype, opened.stx_ino);
                (opened, generation, recognise(&file, opened.stx_size)?)
            }
        };
        let (size, mtime, ctime) = size_and_times(&facts);
        let st_dev = rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor);
        let entry = Entry {
            asset,
            path: path.into(),
            object: Object { dev: mount.dev, ino: facts.stx_ino, generation },
            size,
            format,
            first_seen,
            mtime,
            ctime,
            fscrypt: facts.stx_attributes.contains(StatxAttributes::ENCRYPTED),
            filesystem: self.filesystem(mount),
        };
        Ok(Some((entry, (mount.dev, st_dev, facts.stx_ino))))
    }

    fn register(&mut self, told: &mut Told<'_>, entry: Entry, key: FileKey) {
        match self.found.entry(key) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(self.registry.files.len());
                self.registry.files.push(entry);
            }
            hash_map::Entry::Occupied(occupied) => {
                let first = &mut self.registry.files[*occupied.get()];
                if first.asset != entry.asset {
                    let text = format!(
                        "asset {}: {} is also in asset {} as {}: a file belongs to one asset, take it out of the other",
                        self.config.assets[usize::from(entry.asset.0)].name,
                        entry.path.display(),
                        self.config.assets[usize::from(first.asset.0)].name,
                        first.path.display()
                    );
                    self.tell(told, Severity::Error, text);
                } else if entry.path < first.path {
                    // The order of directories is chance; the registry must not depend on it.
                    *first = entry;
                }
            }
        }
    }

    fn filesystem(&mut self, mount: &Mount) -> u32 {
        let known = self.registry.filesystems.iter().position(|filesystem| filesystem.dev == mount.dev);
        if let Some(index) = known.and_then(|index| u32::try_from(index).ok()) {
            return index;
        }
        self.registry.index_of(&Filesystem {
            dev: mount.dev,
            fstype: mount.fstype.clone(),
            mount: mount.point.clone(),
            encryption: self.classifier.devices().encryption(mount),
        })
    }
}

fn recognise(mut file: &File, size: u64) -> io::Result<Recognised> {
    let mut head = Vec::with_capacity(format::HEAD.min(usize::try_from(size).unwrap_or(usize::MAX)));
    (&mut file).take(format::HEAD as u64).read_to_end(&mut head)?;
    Ok(format::recognise(&head, size))
}

fn nanoseconds(time: rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.into())
}
