//! What `/sys` and `/dev` tell of a device: its name, whether it is removable, what lies beneath it; `encryption` says whether
//! that is encrypted, `uuid` which filesystem is on it, `alive` whether it can be read. It must not know what is controlled.

mod alive;
mod encryption;
#[cfg(test)]
mod tests;
mod uuid;

pub(super) use self::uuid::{is_on, root_of};

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{mounts::Mount, patience::Patience, read_fact, read_limited};
use crate::event::Dev;

/// Levels of device mapper, md and partitions that are followed; more is not a sane host.
const DEPTH: usize = 16;

/// Directories of sysfs that may stand between a partition and the device that states a serial number: partition, disk,
/// `block`, and for USB the target, the host, the interface and the device.
const SERIAL_ABOVE: usize = 9;

/// Where to look. Another root is for tests, which lay out devices that the test machine does not have.
#[derive(Clone, Debug)]
pub struct Devices {
    sys: PathBuf,
    dev: PathBuf,
    /// What udev knows of devices: all that is left where `/dev` shows none of them (`PrivateDevices=`).
    udev: PathBuf,
    /// For mounts that do not answer; all clones share it.
    patience: Arc<Mutex<Patience<Dev>>>,
    /// What each mount answered the last time, by its id and device; all clones share it.
    answered: Answered,
}

type Answered = Arc<Mutex<HashMap<(u64, Dev), Option<String>>>>;

/// Mounts whose answer is remembered; beyond it all are asked anew.
const REMEMBERED: usize = 4096;

/// By one mounted filesystem, and what its mount point lies on.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

fn patient() -> Arc<Mutex<Patience<Dev>>> {
    Arc::new(Mutex::new(Patience::new(ANSWERED_WITHIN)))
}

impl Default for Devices {
    fn default() -> Self {
        let patience = patient();
        let (udev, answered) = ("/run/udev/data".into(), Answered::default());
        Self { sys: "/sys".into(), dev: "/dev".into(), udev, patience, answered }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceType {
    Block,
    Char,
}

impl DeviceType {
    const fn directory(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Char => "char",
        }
    }
}

impl Devices {
    /// Devices below other roots than `/sys` and `/dev`.
    #[must_use]
    pub fn below(sys: PathBuf, dev: PathBuf) -> Self {
        let udev = sys.join("udev");
        Self { sys, dev, udev, patience: patient(), answered: Answered::default() }
    }

    pub(super) fn sys(&self) -> &Path {
        &self.sys
    }

    /// The path of the device node, from `DEVNAME` in the device's uevent.
    #[must_use]
    pub fn path(&self, kind: DeviceType, dev: Dev) -> Option<PathBuf> {
        let uevent = read_fact(&self.link(kind, dev).join("uevent"))?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        // The kernel's own name; a driver that puts `..` into it does not get to name another file.
        let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        (plain && !name.is_empty()).then(|| self.dev.join(name))
    }

    /// Whether a block device can be pulled out: its `removable` flag or its disk's, or a USB bus on the way to it.
    /// `None` when the kernel does not know the device (filesystems without one, or a device that is gone).
    #[must_use]
    pub fn removable(&self, dev: Dev) -> Option<bool> {
        let mut answer = None;
        for disk in self.disks(dev)? {
            // A partition has no flag of its own: the disk above it has.
            let flag = read_fact(&disk.join("removable"))
                .or_else(|| read_fact(&disk.parent()?.join("removable")))
                .map(|flag| flag.trim() == "1");
            let usb = disk.components().any(|part| is_usb(&part.as_os_str().to_string_lossy()));
            if usb || flag == Some(true) {
                return Some(true);
            }
            answer = answer.or(flag);
        }
        answer
    }

    /// The serial number that the disk below a block device states of itself (USB, NVMe, virtio, SCSI), through partitions
    /// and mappers. `None` when there is none, or several disks.
    #[must_use]
    pub fn serial(&self, dev: Dev) -> Option<String> {
        let disks = self.disks(dev)?;
        let [disk] = disks.as_slice() else { return None };
        // From the partition up to its disk, the disk's controller and its bus.
        let bus = disk.ancestors().take(SERIAL_ABOVE).take_while(|above| above.starts_with(&self.sys));
        let stated = bus.filter_map(|above| {
            read_fact(&above.join("serial")).or_else(|| scsi_serial(&above.join("device/vpd_pg80")))
        });
        stated.map(|text| text.trim().to_owned()).find(|text| is_serial(text))
    }

    /// The block device of a mounted filesystem. `s_dev` itself, or for btrfs, whose `s_dev` is anonymous, the device
    /// that its driver names as the source.
    #[must_use]
    pub fn backing(&self, mount: &Mount) -> Option<Dev> {
        if mount.dev.major() != 0 {
            return Some(mount.dev);
        }
        // Only where the driver itself writes the source; elsewhere it is whatever the mounter said.
        if !matches!(mount.fstype.as_str(), "btrfs" | "bcachefs") {
            return None;
        }
        let name = Path::new(&mount.source).strip_prefix("/dev").ok()?;
        if let Ok(facts) = fs::metadata(self.dev.join(name)) {
            return facts.file_type().is_block_device().then(|| of_rdev(facts.rdev()));
        }
        // Where the agent sees no devices (`PrivateDevices=`).
        let plain = name.components().count() == 1;
        plain
            .then(|| parse_number(&read_fact(&self.sys.join("class/block").join(name).join("dev"))?))
            .flatten()
    }

    pub(super) fn link(&self, kind: DeviceType, dev: Dev) -> PathBuf {
        self.sys.join("dev").join(kind.directory()).join(dev.to_string())
    }

    /// Whether sysfs shows a device.
    #[must_use]
    pub fn knows(&self, kind: DeviceType, dev: Dev) -> bool {
        self.link(kind, dev).exists()
    }

    /// The real directories in sysfs of the lowest devices under `dev`: through partitions and all slaves.
    fn disks(&self, dev: Dev) -> Option<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![(fs::canonicalize(self.link(DeviceType::Block, dev)).ok()?, DEPTH)];
        while let Some((directory, depth)) = open.pop() {
            let slaves = slaves(&directory);
            if slaves.is_empty() || depth == 0 {
                found.push(directory);
            } else {
                open.extend(slaves.into_iter().map(|slave| (slave, depth - 1)));
            }
        }
        Some(found)
    }

    pub(super) fn btrfs_devices(&self, dev: Dev) -> Vec<Dev> {
        let Some(name) = self.path(DeviceType::Block, dev) else { return Vec::new() };
        let Some(name) = name.file_name().map(ToOwned::to_owned) else { return Vec::new() };
        let Ok(filesystems) = fs::read_dir(self.sys.join("fs/btrfs")) else { return Vec::new() };
        for filesystem in filesystems.flatten() {
            let devices = filesystem.path().join("devices");
            if devices.join(&name).exists() {
                let Ok(entries) = fs::read_dir(devices) else { return Vec::new() };
                return entries
                    .flatten()
                    .filter_map(|entry| parse_number(&read_fact(&entry.path().join("dev"))?))
                    .collect();
            }
        }
        Vec::new()
    }
}

/// The device number in the kernel's encoding, from what `stat` returns.
#[must_use]
pub fn of_rdev(rdev: u64) -> Dev {
    Dev::new(rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// The directory of the disk that a partition lies on, or the device's own.
fn whole_disk(directory: &Path) -> &Path {
    match directory.parent() {
        Some(disk) if directory.join("partition").exists() => disk,
        _ => directory,
    }
}

fn slaves(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(whole_disk(directory).join("slaves")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect()
}

/// `usb1`, `usb2`, …: the root hubs' directories.
fn is_usb(part: &str) -> bool {
    part.strip_prefix("usb").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) fn parse_number(text: &str) -> Option<Dev> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(Dev::new(major.parse().ok()?, minor.parse().ok()?))
}

/// The unit serial number page of a SCSI disk: a header of four bytes, and text.
fn scsi_serial(page: &Path) -> Option<String> {
    let bytes = read_limited(page, 1 << 10).ok()?;
    Some(String::from_utf8_lossy(bytes.get(4..)?).into_owned())
}

/// What can stand in a rule: a device that states anything else has no serial number.
fn is_serial(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
}
