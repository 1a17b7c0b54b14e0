//! Telling the kernel what is protected, by identities that the kernel itself reported.
//!
//! `stat` does not know `super_block.s_dev` (btrfs, overlayfs) or the generation, so the agent opens each file and the hook
//! notes what it opened.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent_ebpf as abi;
use aya::maps::MapError;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{Sensor, SensorError, maps::Raw, reading};
use crate::{
    event::{AssetId, ObjectId},
    host::patience::Patience,
};

/// By the filesystems on the way to a path.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// What a path protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// This file.
    File,
    /// This file, whose name can be a link by now: that is not followed.
    Appeared,
    /// All below this directory, now and later.
    Directory,
}

impl Sensor {
    /// Protects `path` for `asset` and returns its identity.
    ///
    /// A file is protected by its inode; [`Sensor::protect_name`] keeps whatever replaces it protected.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or the kernel does not report what was opened.
    pub fn protect(
        &mut self,
        asset: AssetId,
        path: &Path,
        protection: Protection,
    ) -> Result<ObjectId, SensorError> {
        let (kind, flags) = match protection {
            Protection::File => (abi::OBJECT_FILE, OFlags::empty()),
            Protection::Appeared => (abi::OBJECT_FILE, OFlags::NOFOLLOW),
            Protection::Directory => (abi::OBJECT_DIRECTORY, OFlags::DIRECTORY),
        };
        let identity = self.identify(path, flags)?;
        self.insert(&identity, asset, kind)?;
        Ok(reading::object(&identity.key))
    }

    /// Protects whatever file is called `path` in its directory, now or later.
    ///
    /// # Errors
    ///
    /// As [`Sensor::protect`]; also a name longer than the kernel allows.
    pub fn protect_name(&mut self, asset: AssetId, path: &Path) -> Result<(), SensorError> {
        let directory = path.parent().unwrap_or_else(|| Path::new("/"));
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        let identity = self.identify(directory, OFlags::DIRECTORY)?;
        let mut key = abi::NameKey { directory: identity.key, name: [0; abi::NAME_BYTES] };
        let Some(room) = key.name.get_mut(..name.len()).filter(|_| name.len() < abi::NAME_BYTES) else {
            return Err(SensorError::NoIdentity(path.display().to_string()));
        };
        room.copy_from_slice(name);
        self.maps.names.insert(Raw(key), u32::from(asset.0), 0)?;
        // A directory that is protected as a whole stays so.
        if self.maps.objects.get(&Raw(identity.key), 0).is_err() {
            self.insert(&identity, asset, abi::OBJECT_NAMED)?;
        }
        Ok(())
    }

    /// From now on a path that does not answer is an error: at the start it is waited for, for what is not protected then is not weighed.
    pub(super) fn wait_no_longer(&mut self) {
        let patient = || Some(Mutex::new(Patience::new(ANSWERED_WITHIN)));
        (self.opener, self.opener_below) = (patient(), patient());
    }

    /// Kernel identity of `path`, without reading it.
    pub(super) fn identify(&self, path: &Path, flags: OFlags) -> Result<abi::Identity, SensorError> {
        self.identity_of(&self.open(path, flags)?, path)
    }

    /// The same of what lies below assets.
    pub(super) fn identify_below(&self, path: &Path) -> Result<abi::Identity, SensorError> {
        self.identity_of(&open(self.opener_below.as_ref(), path, OFlags::empty())?, path)
    }

    /// Opens `path` to name it only. Any thread of the agent's may: the kernel tells of the process.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SensorError> {
        open(self.opener.as_ref(), path, flags)
    }

    pub(super) fn identity_of(&self, file: &OwnedFd, path: &Path) -> Result<abi::Identity, SensorError> {
        let missing = || SensorError::NoIdentity(path.display().to_string());
        let descriptor = u32::try_from(file.as_raw_fd()).map_err(|_| missing())?;
        let Raw(identity) = self.maps.identities.get(&descriptor, 0).map_err(|_| missing())?;
        // An answer of an earlier open under the same number would name another inode. What the kernel knows of it must do: whoever
        // serves the filesystem may not answer.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let facts = rustix::fs::statx(file, "", flags, StatxFlags::INO).map_err(|error| {
            SensorError::File { what: "cannot stat", path: path.display().to_string(), error: error.into() }
        })?;
        if identity.serial == 0 || identity.key.ino != facts.stx_ino {
            return Err(missing());
        }
        Ok(identity)
    }

    pub(super) fn insert(
        &mut self,
        identity: &abi::Identity,
        asset: AssetId,
        kind: u32,
    ) -> Result<(), SensorError> {
        let index = u32::from(asset.0);
        let value = abi::ObjectValue {
            assets: 1 << abi::asset_mark(index),
            kind,
            asset: index,
            seen: 0,
            held: 0,
            fed: 0,
        };
        self.maps.objects.insert(Raw(identity.key), Raw(value), 0)?;
        let stored = match self.maps.devices.get(&identity.key.dev, 0) {
            Ok(stored) => stored,
            Err(MapError::KeyNotFound) => 0,
            Err(error) => return Err(error.into()),
        };
        self.maps.devices.insert(identity.key.dev, stored | value.assets, 0)?;
        Ok(())
    }
}

/// What does not answer is an error, unless it is waited for: see [`Sensor::wait_no_longer`].
fn open(
    opener: Option<&Mutex<Patience<PathBuf>>>,
    path: &Path,
    flags: OFlags,
) -> Result<OwnedFd, SensorError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    let opened = match opener {
        None => rustix::fs::open(path, flags, Mode::empty()),
        Some(opener) => {
            let whom = path.to_owned();
            let mut opener = opener.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = opener.ask(path.to_owned(), move || rustix::fs::open(&whom, flags, Mode::empty()));
            asked.unwrap_or(Err(rustix::io::Errno::TIMEDOUT))
        }
    };
    opened.map_err(|error| SensorError::File {
        what: "cannot open",
        path: path.display().to_string(),
        error: error.into(),
    })
}
