//! Telling the kernel of files that an earlier agent knew for carriers, and finding who has them open already.

use std::{os::fd::OwnedFd, path::Path};

use agent_ebpf as abi;
use aya::maps::MapError;

use super::{
    Sensor, SensorError,
    maps::{Raw, absent_is_fine, row},
    reading,
};
use crate::event::{AssetSet, ObjectId};

impl Sensor {
    /// From now on who reads `object` takes of `assets`, of which it holds `bytes`. Returns whether there was room; what is an
    /// asset's own file stays one. [`Sensor::find_users`] comes next, or [`Sensor::scan_existing`] at the start.
    ///
    /// # Errors
    ///
    /// When a map cannot be used.
    pub fn recall_carrier(
        &mut self,
        object: ObjectId,
        assets: AssetSet,
        bytes: u64,
    ) -> Result<bool, SensorError> {
        let key = reading::object_key(&object);
        let epoch = self.recalling()?;
        let fresh = abi::ObjectValue {
            assets: assets.0,
            kind: abi::OBJECT_CARRIER,
            asset: epoch,
            seen: epoch,
            held: epoch,
            fed: bytes,
        };
        // Most are new: one call for each, and what the kernel side makes of it meanwhile is not written over.
        let made = match self.maps.objects.insert(Raw(key), Raw(fresh), NEW_ONLY) {
            Err(error) if number_of(&error) == Some(libc::EEXIST) => {
                let known = row(&self.maps.objects, key)?.map_or(fresh, |Raw(known)| known);
                if known.kind < abi::OBJECT_CARRIER || known.assets & assets.0 == assets.0 {
                    return Ok(true);
                }
                let (assets, fed) = (known.assets | assets.0, known.fed.max(bytes));
                self.maps.objects.insert(Raw(key), Raw(abi::ObjectValue { assets, fed, ..fresh }), 0)
            }
            made => made,
        };
        match made {
            Ok(()) => {}
            Err(error) if matches!(number_of(&error), Some(libc::E2BIG | libc::ENOMEM)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.carriers.entry(key).or_insert_with(|| epoch.into());
        Ok(true)
    }

    /// The epoch of what is recalled until the next scan. From the first one on, until that scan has marked who has any of them open,
    /// every process's reads are looked up.
    fn recalling(&mut self) -> Result<u32, SensorError> {
        if let Some(epoch) = self.recalled {
            return Ok(epoch);
        }
        // 0 would be a scan that charges everybody.
        let epoch = self.maps.shared(abi::SHARED_EPOCH)?.max(1);
        self.maps.set_shared(abi::SHARED_EPOCH, epoch)?;
        let made = self.maps.shared(abi::SHARED_CARRIERS)?;
        self.maps.set_shared(abi::SHARED_CARRIERS, made + 1)?;
        Ok(*self.recalled.insert(epoch as u32))
    }

    /// Finds who has open or mapped what was recalled since the last scan: what he read of it before is not known, so that it can
    /// be all.
    ///
    /// # Errors
    ///
    /// When an iterator cannot run.
    pub fn find_users(&mut self) -> Result<(), SensorError> {
        if self.recalled.take().is_none() {
            return Ok(());
        }
        self.maps.set_shared(abi::SHARED_CHARGED, CHARGES_NO_ASSET)?;
        self.iterate("scan_files")?;
        if self.maps_can_be_scanned() {
            self.iterate("scan_mappings")?;
        }
        self.maps.set_shared(abi::SHARED_CHARGED, 0)
    }

    /// The file is gone: its number can only come back with another generation.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn forget_carrier(&mut self, object: ObjectId) -> Result<(), SensorError> {
        let key = reading::object_key(&object);
        if row(&self.maps.objects, key)?.is_some_and(|Raw(known)| known.kind == abi::OBJECT_CARRIER) {
            self.carriers.remove(&key);
            absent_is_fine(self.maps.objects.remove(&Raw(key)))?;
        }
        Ok(())
    }

    /// The kernel's identity of a file that the agent has just opened.
    ///
    /// # Errors
    ///
    /// When the kernel did not report it.
    pub fn identify_file(&self, file: &OwnedFd, path: &Path) -> Result<ObjectId, SensorError> {
        Ok(reading::object(&self.identity_of(file, path)?.key))
    }
}

/// A scan that charges somebody for what he has open charges nobody for an asset's own files: no configured asset has this mark.
pub(super) const CHARGES_NO_ASSET: u64 = 1 << abi::ASSET_MARKS;

/// `BPF_NOEXIST`.
const NEW_ONLY: u64 = 1;

/// The kernel's number of what went wrong.
fn number_of(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
