//! Whether a mounted filesystem still answers for what is on its disks. This file must not know why somebody asks.
//!
//! The kernel says of an inode that it cannot read the same as of one that is gone: `do_handle_to_path` (`fs/fhandle.c`) makes ESTALE
//! of every error but ENOMEM. A disk that was pulled out while it is mounted so seems to have lost all its files.

use std::{
    fs::{self, File},
    path::Path,
};

use rustix::fs::Dir;

use super::{DEPTH, DeviceType, Devices, slaves, uuid::is_same, whole_disk};
use crate::host::{ioctl, mounts::Mount, read_fact, superblock};

impl Devices {
    /// Whether `root`, opened on `mount`, is of the filesystem `uuid` (lower case), its directory can be read, its disks are there
    /// and at work, and the filesystem met no error. Where the device can be opened it must bear that filesystem too, read past
    /// its cache; a loop device then answers from the cache of what holds its file. When in doubt it is not.
    #[must_use]
    pub fn vouch(&self, mount: &Mount, root: &File, uuid: &str) -> bool {
        let by_kernel = ioctl::filesystem_uuid(root).and_then(superblock::uuid);
        // What it said before vouches for nothing.
        let is_it = by_kernel.or_else(|| self.ask_uuid(mount).flatten()).as_deref() == Some(uuid);
        // In this order: to read from a mapping that is suspended waits until it is resumed.
        is_it && self.disks_work(mount) && can_be_read(root) && self.device_bears(mount, uuid)
    }

    fn disks_work(&self, mount: &Mount) -> bool {
        let Some(dev) = self.backing(mount) else { return false };
        let Some(disks) = self.disks(dev) else { return false };
        let Ok(directory) = fs::canonicalize(self.link(DeviceType::Block, dev)) else { return false };
        if is_suspended(&directory, DEPTH) {
            return false;
        }
        // SCSI says `running`, NVMe `live`; other drivers say nothing.
        let works = |disk: &Path| {
            read_fact(&whole_disk(disk).join("device/state"))
                .is_none_or(|state| matches!(state.trim(), "running" | "live"))
        };
        let name = self.path(DeviceType::Block, dev);
        let errors = name.as_deref().and_then(Path::file_name).and_then(|name| {
            // Only ext4 tells; of the others a part that cannot be read goes unnoticed.
            read_fact(&self.sys().join("fs/ext4").join(name).join("errors_count"))
        });
        disks.iter().all(|disk| works(disk)) && errors.is_none_or(|errors| errors.trim() == "0")
    }

    fn device_bears(&self, mount: &Mount, uuid: &str) -> bool {
        let Some(dev) = self.backing(mount) else { return false };
        // Where the agent sees no devices (`PrivateDevices=`), what sysfs says must do.
        let Some(device) = self.open(dev) else { return true };
        match superblock::read_direct(&device) {
            Ok(Some(block)) => is_same(block.fstype, &mount.fstype) && block.uuid == uuid,
            // F2FS is none that we parse.
            Ok(None) => mount.fstype == "f2fs",
            Err(_) => false,
        }
    }
}

/// Whether a mapping, or one below it, does nothing until it is resumed (`dmsetup suspend`).
fn is_suspended(device: &Path, depth: usize) -> bool {
    read_fact(&device.join("dm/suspended")).is_some_and(|suspended| suspended.trim() == "1")
        || depth > 0 && slaves(device).iter().any(|below| is_suspended(below, depth - 1))
}

/// A filesystem that the kernel has shut down does not even list its files.
fn can_be_read(root: &File) -> bool {
    Dir::read_from(root).is_ok_and(|mut entries| entries.next().is_some_and(|entry| entry.is_ok()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_mapping_is_suspended_when_one_below_it_is() {
        let sys = tempfile::tempdir().unwrap();
        let (upper, lower) = (sys.path().join("dm-1"), sys.path().join("dm-0"));
        for (device, suspended) in [(&upper, "0\n"), (&lower, "1\n")] {
            fs::create_dir_all(device.join("dm")).unwrap();
            fs::create_dir_all(device.join("slaves")).unwrap();
            fs::write(device.join("dm/suspended"), suspended).unwrap();
        }
        assert!(is_suspended(&lower, 1) && !is_suspended(&upper, 1));
        symlink(&lower, upper.join("slaves/dm-0")).unwrap();
        assert!(is_suspended(&upper, 1));
    }
}
