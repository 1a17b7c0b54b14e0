//! The registry of protected files (measure 12.3(a)): which file of which asset lies where, since when, in what format
//! and under what encryption.
//!
//! It answers from what it read last; [`Registry::rescan`] reads again and says what changed. This file must not know of
//! holders or flows.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Problem, Severity,
    control::Classifier,
    format::{Extent, Recognised},
};
use crate::{
    config::Config,
    event::{Asset, AssetId, Dev},
};

mod changes;
mod store;
#[cfg(test)]
mod tests;
mod walk;

pub use changes::{Change, ChangeKind};
pub use store::{STORE, StoreError};
pub use walk::Progress;

/// Files that a registry may have. More are refused: each costs memory here and in the kernel's map.
pub const MAX_FILES: usize = 1_000_000;

/// The kernel's identity of a file, as far as user space can learn it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// `super_block.s_dev`, from the mount table.
    pub dev: Dev,
    pub ino: u64,
    /// `inode.i_generation`; `None` where the filesystem does not tell it (NFS, FUSE, overlay, vfat).
    pub generation: Option<u32>,
}

/// One protected file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub asset: AssetId,
    /// The path at which it was found; of several hard links the first in alphabetical order.
    pub path: Box<Path>,
    pub object: Object,
    /// Bytes.
    pub size: u64,
    pub format: Recognised,
    /// Seconds precision.
    pub first_seen: Timestamp,
    /// Nanoseconds since the epoch.
    pub mtime: i64,
    /// Nanoseconds since the epoch. A user can set `mtime` back, but not this.
    ctime: i64,
    /// Encrypted by the filesystem itself, file by file.
    fscrypt: bool,
    /// Index into [`Registry::filesystems`].
    filesystem: u32,
}

/// A directory whose files are protected, those that appear later included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub asset: AssetId,
    pub path: Box<Path>,
    pub object: Object,
}

/// A filesystem that stores protected files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    pub dev: Dev,
    pub fstype: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// As in [`super::sysfs::Devices::encryption`].
    pub encryption: &'static str,
}

/// All protected files.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// In alphabetical order of asset and path.
    files: Vec<Entry>,
    directories: Vec<Directory>,
    filesystems: Vec<Filesystem>,
}

impl Registry {
    /// Reads the assets' paths. `known` is what an earlier run stored ([`Registry::load`]): first-seen times come from
    /// there, and files that did not change since are not opened. The second value are warnings.
    ///
    /// # Errors
    /// Everything that is wrong, warnings included, when one of it is an error.
    pub fn scan(
        config: &Config,
        classifier: &Classifier,
        known: &Self,
        now: Timestamp,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (registry, problems) = walk::walk(config, classifier, known, now, &Progress::default());
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            return Err(problems);
        }
        Ok((registry, problems))
    }

    /// Reads the assets' paths again and says what changed. What went wrong is in the second value; the registry then
    /// holds all that could be read, for an agent that runs goes on.
    pub fn rescan(
        &mut self,
        config: &Config,
        classifier: &Classifier,
        now: Timestamp,
    ) -> (Vec<Change>, Vec<Problem>) {
        let (new, changes, problems) = self.renewed(config, classifier, now, &Progress::default());
        *self = new;
        (changes, problems)
    }

    /// The same as a registry of its own, for who cannot wait for the filesystems: `progress` says how far it has come.
    #[must_use]
    pub fn renewed(
        &self,
        config: &Config,
        classifier: &Classifier,
        now: Timestamp,
        progress: &Progress,
    ) -> (Self, Vec<Change>, Vec<Problem>) {
        let (mut new, problems) = walk::walk(config, classifier, self, now, progress);
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            self.keep_unseen(&mut new);
        }
        let changes = changes::between(self, &new);
        (new, changes, problems)
    }

    /// Keeps what a walk that failed did not come to, as long as it is there: otherwise a million empty files beside the
    /// weights would take the weights out of the registry.
    fn keep_unseen(&self, new: &mut Self) {
        let seen: HashSet<&Path> = new.files.iter().map(|entry| &*entry.path).collect();
        let unseen = |entry: &&Entry| {
            !seen.contains(&*entry.path)
                && fs::symlink_metadata(&entry.path).is_ok_and(|facts| facts.ino() == entry.object.ino)
        };
        let kept: Vec<&Entry> = self.files.iter().filter(unseen).collect();
        for entry in kept {
            let filesystem = self.filesystem(entry).map_or(u32::MAX, |filesystem| new.index_of(filesystem));
            new.files.push(Entry { filesystem, ..entry.clone() });
        }
        new.sort();
    }

    fn sort(&mut self) {
        self.files.sort_unstable_by(|a, b| (a.asset, &a.path).cmp(&(b.asset, &b.path)));
    }

    fn index_of(&mut self, filesystem: &Filesystem) -> u32 {
        let known = self.filesystems.iter().position(|known| known.dev == filesystem.dev);
        let index = known.unwrap_or_else(|| {
            self.filesystems.push(filesystem.clone());
            self.filesystems.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Bytes of each asset in files that are not what they were when `earlier` was stored: another file of that name, or written to
    /// since. Device numbers do not count: a reboot makes them others.
    #[must_use]
    pub fn renewed_since(&self, earlier: &Self) -> HashMap<AssetId, u64> {
        let known: HashMap<(AssetId, &Path), &Entry> =
            earlier.files.iter().map(|entry| ((entry.asset, &*entry.path), entry)).collect();
        let mut renewed = HashMap::new();
        for entry in &self.files {
            if known.get(&(entry.asset, &*entry.path)).is_some_and(|before| entry.differs(before)) {
                *renewed.entry(entry.asset).or_insert(0) += entry.size;
            }
        }
        renewed
    }

    /// In alphabetical order of asset and path.
    #[must_use]
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// The assets' directories and all below them, for a watch on what appears in them.
    #[must_use]
    pub fn directories(&self) -> &[Directory] {
        &self.directories
    }

    #[must_use]
    pub fn filesystems(&self) -> &[Filesystem] {
        &self.filesystems
    }

    /// The filesystem that stores a file of this registry; `None` for an entry that was loaded and not yet scanned.
    #[must_use]
    pub fn filesystem(&self, entry: &Entry) -> Option<&Filesystem> {
        self.filesystems.get(entry.filesystem as usize)
    }

    /// `fscrypt`, or what [`Filesystem::encryption`] says.
    #[must_use]
    pub fn encryption(&self, entry: &Entry) -> &'static str {
        match self.filesystem(entry).map_or("unknown", |filesystem| filesystem.encryption) {
            "none" | "unknown" if entry.fscrypt => "fscrypt",
            layer => layer,
        }
    }

    /// The configured assets with their present sizes, in the order of the configuration.
    #[must_use]
    pub fn assets(&self, config: &Config) -> Vec<Asset> {
        let mut bytes: HashMap<AssetId, u64> = HashMap::new();
        for entry in &self.files {
            let sum = bytes.entry(entry.asset).or_default();
            *sum = sum.saturating_add(entry.size);
        }
        (0_u16..)
            .zip(&config.assets)
            .map(|(index, asset)| Asset {
                id: AssetId(index),
                name: asset.name.clone(),
                kind: asset.kind,
                bytes: bytes.get(&AssetId(index)).copied().unwrap_or_default(),
                most: 0,
                has_readers: !asset.readers.is_empty(),
            })
            .collect()
    }
}

impl Entry {
    /// Whether it is another file, or another content, than that of an earlier boot.
    fn differs(&self, before: &Self) -> bool {
        let other =
            self.object.generation.zip(before.object.generation).is_some_and(|(now, then)| now != then);
        other || (self.size, self.mtime) != (before.size, before.mtime)
    }

    /// Whether the file is the same and nothing touched it since, so that it need not be read.
    fn untouched(&self, ino: u64, size: u64, mtime: i64, ctime: i64) -> bool {
        (self.object.ino, self.size, self.mtime, self.ctime) == (ino, size, mtime, ctime)
            // A copy under way is looked at until it is whole.
            && self.format.extent != Extent::Truncated
    }
}
