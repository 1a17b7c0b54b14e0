//! The UUID of a mounted filesystem.

use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::{DeviceType, Devices, of_rdev};
use crate::{
    event::Dev,
    host::{ioctl, mounts::Mount, superblock},
};

impl Devices {
    /// The UUID of the mounted filesystem, lower case: from the filesystem itself where the kernel can tell, else from
    /// `/dev/disk/by-uuid`, else from the superblock on its device. `None` for filesystems without a block device or of a
    /// type we do not parse.
    #[must_use]
    pub fn uuid(&self, mount: &Mount) -> Option<String> {
        let dev = self.backing(mount)?;
        // A FUSE filesystem can sit on a block device too; opening its root would wait for its server.
        if mount.fstype.starts_with("fuse") {
            return None;
        }
        uuid_by_kernel(mount).or_else(|| self.uuid_by_link(dev)).or_else(|| {
            let block = superblock::read(&self.open(dev)?)?;
            // The remains of an older filesystem are not what is mounted.
            let same = block.fstype == mount.fstype
                || (block.fstype == "ext4" && matches!(mount.fstype.as_str(), "ext2" | "ext3"))
                || (block.fstype == "vfat" && mount.fstype == "msdos");
            same.then_some(block.uuid)
        })
    }

    fn uuid_by_link(&self, dev: Dev) -> Option<String> {
        for entry in fs::read_dir(self.dev.join("disk/by-uuid")).ok()?.flatten() {
            let Ok(facts) = fs::metadata(entry.path()) else { continue };
            if facts.file_type().is_block_device() && of_rdev(facts.rdev()) == dev {
                return Some(entry.file_name().to_string_lossy().to_lowercase());
            }
        }
        None
    }

    /// Opens a block device for reading, having made sure that the node is that device.
    pub(super) fn open(&self, dev: Dev) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let node: OwnedFd = openat(CWD, self.path(DeviceType::Block, dev)?, flags, Mode::empty()).ok()?;
        let file = File::from(node);
        let facts = file.metadata().ok()?;
        (facts.file_type().is_block_device() && of_rdev(facts.rdev()) == dev).then_some(file)
    }
}

fn uuid_by_kernel(mount: &Mount) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let root = File::from(openat(CWD, &mount.point, flags, Mode::empty()).ok()?);
    // The mount point may lead to another mount by now.
    let facts = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if facts.stx_mask & StatxFlags::MNT_ID.bits() == 0 || facts.stx_mnt_id != mount.id {
        return None;
    }
    superblock::uuid(ioctl::filesystem_uuid(&root)?)
}
