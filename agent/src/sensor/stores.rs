//! Telling the kernel which devices and images store assets, and which devices are channels.

use std::path::Path;

use agent_ebpf::{self as abi, acts};

use super::{
    Sensor, SensorError,
    maps::{Raw, absent_is_fine, row},
};
use crate::event::{AssetSet, Dev};

/// Steps of a walk over the stores.
const WALK: usize = 1 << 15;

const NOTHING: abi::ObjectKey = abi::ObjectKey { dev: 0, generation: 0, ino: 0 };

/// A device that stores assets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreDevice {
    Block(Dev),
    Char(Dev),
}

impl StoreDevice {
    const fn key(self) -> u64 {
        match self {
            Self::Block(dev) => acts::store_of_block(dev.0),
            Self::Char(dev) => acts::store_of_char(dev.0),
        }
    }
}

impl Sensor {
    /// Whoever opens `device` does so below the file system, and takes of `assets` what he reads. `mirrors`: whoever reads a
    /// file of a filesystem on it, too.
    ///
    /// # Errors
    ///
    /// When the map is full or cannot be written.
    pub fn add_store(
        &mut self,
        device: StoreDevice,
        assets: AssetSet,
        mirrors: bool,
    ) -> Result<(), SensorError> {
        let flags = if mirrors { acts::STORE_MIRROR } else { 0 };
        let value = acts::StoreValue { assets: assets.0, backing: NOTHING, flags, reserved: 0 };
        self.maps.stores.insert(device.key(), Raw(value), 0)?;
        self.note_mirrors(mirrors)
    }

    /// The same for the file below a loop device.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or the kernel does not report what was opened.
    pub fn add_image(&mut self, path: &Path, assets: AssetSet) -> Result<(), SensorError> {
        let key = self.identify_below(path)?.key;
        // A file of an asset stays one.
        if row(&self.maps.objects, key)?.is_some_and(|Raw(object)| object.kind == abi::OBJECT_FILE) {
            return Ok(());
        }
        let value = abi::ObjectValue {
            assets: assets.0,
            kind: abi::OBJECT_STORE,
            asset: 0,
            seen: 0,
            held: 0,
            fed: 0,
        };
        Ok(self.maps.objects.insert(Raw(key), Raw(value), 0)?)
    }

    /// A loop device that shows the file at `path` was there first; returns whether that is an asset's, an image below one,
    /// or a copy.
    ///
    /// # Errors
    ///
    /// As [`Sensor::add_image`].
    pub fn add_loop(&mut self, device: Dev, path: &Path) -> Result<bool, SensorError> {
        let key = self.identify_below(path)?.key;
        let Some(Raw(object)) = row(&self.maps.objects, key)? else { return Ok(false) };
        let shows = matches!(object.kind, abi::OBJECT_FILE | abi::OBJECT_STORE | abi::OBJECT_CARRIER);
        if shows {
            let value = acts::StoreValue {
                assets: object.assets,
                backing: key,
                flags: acts::STORE_MIRROR,
                reserved: 0,
            };
            self.maps.stores.insert(acts::store_of_block(device.0), Raw(value), 0)?;
            self.note_mirrors(true)?;
        }
        Ok(shows)
    }

    /// Forgets the devices of which `is_gone` says so: their numbers may be another's by now. A number without a device is of a
    /// filesystem in a file, which the kernel side looks after.
    ///
    /// # Errors
    ///
    /// When the map cannot be used.
    pub fn forget_stores(&mut self, is_gone: impl Fn(Dev) -> bool) -> Result<(), SensorError> {
        let stores: Vec<u64> = self.maps.stores.keys().take(WALK).flatten().collect();
        for key in stores {
            if u32::try_from(key).is_ok_and(|number| number >> 20 != 0 && is_gone(Dev(number))) {
                absent_is_fine(self.maps.stores.remove(&key))?;
            }
        }
        Ok(())
    }

    /// A holder that has `device` open moves bytes unseen.
    ///
    /// # Errors
    ///
    /// When the map is full or cannot be written.
    pub fn add_channel(&mut self, device: Dev) -> Result<(), SensorError> {
        Ok(self.maps.channels.insert(device.0, acts::CHANNEL_UNSEEN, 0)?)
    }

    /// Who has `device`, the node of a GPU, open is noted from now on.
    ///
    /// # Errors
    ///
    /// When the map is full or cannot be written.
    pub fn add_gpu(&mut self, device: Dev) -> Result<(), SensorError> {
        self.maps.channels.insert(device.0, acts::CHANNEL_GPU, 0)?;
        self.maps.set_shared(abi::SHARED_GPUS, 1)
    }

    /// Finds who has a device open that became a store just now.
    ///
    /// # Errors
    ///
    /// When the iterator cannot run.
    pub fn scan_stores(&mut self) -> Result<(), SensorError> {
        self.iterate("scan_files")
    }

    fn note_mirrors(&mut self, mirrors: bool) -> Result<(), SensorError> {
        if mirrors { self.maps.set_shared(abi::SHARED_MIRRORS, 1) } else { Ok(()) }
    }
}
