//! The UUID of a mounted filesystem.

use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    sync::PoisonError,
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::{DeviceType, Devices, REMEMBERED, of_rdev};
use crate::{
    event::Dev,
    host::{ioctl, mounts::Mount, read_fact, superblock},
};

impl Devices {
    /// The UUID of the mounted filesystem, lower case: from the filesystem itself where the kernel can tell, else from
    /// `/dev/disk/by-uuid`, else from the superblock on its device, else from what udev read there. `None` for filesystems without
    /// a block device or of a type we do not parse. One that does not answer ([`Self::is_asked`]) is what the same mount was before.
    #[must_use]
    pub fn uuid(&self, mount: &Mount) -> Option<String> {
        let (key, asked) = ((mount.id, mount.dev), self.ask_uuid(mount));
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(uuid) = asked else { return answered.get(&key).cloned().flatten() };
        if answered.len() >= REMEMBERED {
            answered.clear();
        }
        answered.insert(key, uuid.clone());
        uuid
    }

    /// What it says now; the outer `None` when it does not answer.
    pub(super) fn ask_uuid(&self, mount: &Mount) -> Option<Option<String>> {
        // A FUSE filesystem can sit on a block device too; opening its root would wait for its server.
        if self.backing(mount).is_none() || mount.fstype.starts_with("fuse") {
            return Some(None);
        }
        let (devices, mount) = (self.clone(), mount.clone());
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        // What lies on the way to its mount point can be anything.
        patience.ask(mount.dev, move || devices.read_uuid(&mount))
    }

    /// Whether a filesystem was asked for its UUID and has not answered yet. Until it has, others may not be asked either.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).waits()
    }

    fn read_uuid(&self, mount: &Mount) -> Option<String> {
        let dev = self.backing(mount)?;
        let by_superblock = || {
            let block = superblock::read(&self.open(dev)?)?;
            is_same(block.fstype, &mount.fstype).then_some(block.uuid)
        };
        uuid_by_kernel(mount)
            .or_else(|| self.uuid_by_link(dev))
            .or_else(by_superblock)
            .or_else(|| self.uuid_by_udev(dev, &mount.fstype))
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

    /// From udev's database, `b8:1`: lines such as `E:ID_FS_UUID=…`.
    fn uuid_by_udev(&self, dev: Dev, fstype: &str) -> Option<String> {
        let facts = read_fact(&self.udev.join(format!("b{dev}")))?;
        let value = |key: &str| facts.lines().find_map(|line| line.strip_prefix(key));
        let uuid = value("E:ID_FS_UUID=").filter(|uuid| (1..=64).contains(&uuid.len()))?;
        let is_plain = uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        (is_plain && is_same(value("E:ID_FS_TYPE=")?, fstype)).then(|| uuid.to_lowercase())
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

/// What is mounted, opened for reading; `None` when its mount point leads elsewhere by now.
pub(in crate::host) fn root_of(mount: &Mount) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let root = File::from(openat(CWD, &mount.point, flags, Mode::empty()).ok()?);
    is_on(&root, mount).then_some(root)
}

/// Whether a file was opened on this mount.
pub(in crate::host) fn is_on(file: &File, mount: &Mount) -> bool {
    statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .is_ok_and(|facts| facts.stx_mask & StatxFlags::MNT_ID.bits() != 0 && facts.stx_mnt_id == mount.id)
}

fn uuid_by_kernel(mount: &Mount) -> Option<String> {
    superblock::uuid(ioctl::filesystem_uuid(&root_of(mount)?)?)
}

/// Whether what a superblock says of its kind is what is mounted: the remains of an older filesystem are not.
pub(super) fn is_same(stored: &str, mounted: &str) -> bool {
    stored == mounted
        || (matches!(stored, "ext4" | "ext3" | "ext2") && matches!(mounted, "ext2" | "ext3" | "ext4"))
        || (stored == "vfat" && mounted == "msdos")
}
