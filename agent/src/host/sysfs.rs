//! What `/sys` and `/dev` tell of a device: its name, whether it is removable, what lies beneath it, whether that is
//! encrypted, and the UUID of the filesystem on it.
//!
//! Only what can be known is said: a disk that encrypts itself, or a hypervisor that does, is not visible from here.
//! This file must not know what is controlled.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

use super::{ioctl, mounts::Mount, read_fact, read_limited, superblock};
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
}

impl Default for Devices {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
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
    pub const fn below(sys: PathBuf, dev: PathBuf) -> Self {
        Self { sys, dev }
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

    /// What encrypts the filesystem of `mount`: `luks2`, `luks1`, `dm-crypt` (another dm-crypt format), `partial` (some
    /// of its disks), `none` (nothing that this kernel does), `memory` (no medium), or `unknown` (network, FUSE, a loop
    /// device, and everything else whose bytes this kernel hands to somebody else).
    #[must_use]
    pub fn encryption(&self, mount: &Mount) -> &'static str {
        if matches!(mount.fstype.as_str(), "tmpfs" | "ramfs" | "hugetlbfs" | "devtmpfs") {
            return "memory";
        }
        let Some(dev) = self.backing(mount) else { return "unknown" };
        let mut devices = vec![dev];
        if mount.fstype == "btrfs" {
            // One filesystem on many devices; the mount source names only one of them.
            devices.extend(self.btrfs_devices(dev));
        }
        let mut layers = BTreeSet::new();
        for dev in devices {
            self.layers(&self.link(DeviceType::Block, dev), DEPTH, &mut layers);
        }
        match layers.iter().copied().collect::<Vec<_>>()[..] {
            [layer] => layer,
            [] => "unknown",
            _ if layers.contains("unknown") => "unknown",
            _ if layers.contains("none") => "partial",
            _ => "dm-crypt",
        }
    }

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
        let facts = fs::metadata(self.dev.join(name)).ok()?;
        facts.file_type().is_block_device().then(|| of_rdev(facts.rdev()))
    }

    pub(super) fn link(&self, kind: DeviceType, dev: Dev) -> PathBuf {
        self.sys.join("dev").join(kind.directory()).join(dev.to_string())
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
    fn open(&self, dev: Dev) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let node: OwnedFd = openat(CWD, self.path(DeviceType::Block, dev)?, flags, Mode::empty()).ok()?;
        let file = File::from(node);
        let facts = file.metadata().ok()?;
        (facts.file_type().is_block_device() && of_rdev(facts.rdev()) == dev).then_some(file)
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

    fn layers(&self, device: &Path, depth: usize, layers: &mut BTreeSet<&'static str>) {
        let Ok(directory) = fs::canonicalize(device) else {
            layers.insert("unknown");
            return;
        };
        let uuid = read_fact(&whole_disk(&directory).join("dm/uuid")).unwrap_or_default();
        if let Some(layer) = crypt_layer(&uuid) {
            layers.insert(layer);
            return;
        }
        let slaves = slaves(&directory);
        let name = whole_disk(&directory).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let elsewhere = ["loop", "nbd", "rbd", "drbd", "zd", "ram"].iter().any(|word| {
            name.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        if elsewhere || (depth == 0 && !slaves.is_empty()) {
            layers.insert("unknown");
        } else if slaves.is_empty() {
            layers.insert("none");
        } else {
            for slave in slaves {
                self.layers(&slave, depth - 1, layers);
            }
        }
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

/// `CRYPT-VERITY` and `CRYPT-INTEGRITY` guard integrity and encrypt nothing.
fn crypt_layer(dm_uuid: &str) -> Option<&'static str> {
    let kind = dm_uuid.strip_prefix("CRYPT-")?.split('-').next()?;
    match kind {
        "LUKS2" => Some("luks2"),
        "LUKS1" => Some("luks1"),
        "VERITY" | "INTEGRITY" | "SUBDEV" => None,
        _ => Some("dm-crypt"),
    }
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

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::{super::mounts::MountTable, *};

    /// A tree in the shape of `/sys`, for devices that this machine cannot have.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let sys = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(sys.0.path().join("dev/block")).unwrap();
            sys
        }

        fn devices(&self) -> Devices {
            Devices::below(self.0.path().to_owned(), "/dev".into())
        }

        fn add(&self, number: &str, path: &str, files: &[(&str, &str)], slaves: &[&str]) {
            let directory = self.0.path().join("devices").join(path);
            fs::create_dir_all(directory.join("dm")).unwrap();
            for (name, content) in files {
                fs::write(directory.join(name), content).unwrap();
            }
            if !files.iter().any(|(name, _)| *name == "partition") {
                fs::create_dir_all(directory.join("slaves")).unwrap();
            }
            for slave in slaves {
                let name = Path::new(slave).file_name().unwrap();
                symlink(self.0.path().join("devices").join(slave), directory.join("slaves").join(name))
                    .unwrap();
            }
            symlink(directory, self.0.path().join("dev/block").join(number)).unwrap();
        }
    }

    impl Sys {
        fn write(&self, path: &str, text: &str) {
            let file = self.0.path().join("devices").join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    fn mount(dev: Dev, fstype: &str) -> Mount {
        Mount {
            id: 1,
            parent: 0,
            dev,
            root: "/".into(),
            point: "/models".into(),
            fstype: fstype.to_owned(),
            source: "/dev/x".to_owned(),
            super_options: String::new(),
            visible: true,
        }
    }

    fn sys() -> Sys {
        let sys = Sys::new();
        sys.add("8:0", "pci0/ata1/sda", &[("removable", "0\n")], &[]);
        sys.add("8:1", "pci0/ata1/sda/sda1", &[("partition", "1\n")], &[]);
        sys.add("8:16", "pci0/usb2/2-1/sdb", &[("removable", "0\n")], &[]);
        sys.add("8:17", "pci0/usb2/2-1/sdb/sdb1", &[("partition", "1\n")], &[]);
        sys.add("8:32", "pci0/scsi/sdc", &[("removable", "1\n")], &[]);
        sys.add("8:33", "pci0/scsi/sdc/sdc1", &[("partition", "1\n")], &[]);
        let luks = [("dm/uuid", "CRYPT-LUKS2-aabb-root\n"), ("removable", "0\n")];
        sys.add("253:0", "virtual/dm-0", &luks, &["pci0/ata1/sda/sda1"]);
        sys.add("253:1", "virtual/dm-1", &[("dm/uuid", "LVM-xyz\n")], &["virtual/dm-0"]);
        let both = &["virtual/dm-0", "pci0/scsi/sdc/sdc1"];
        sys.add("253:2", "virtual/dm-2", &[("dm/uuid", "LVM-abc\n")], both);
        sys.add("253:3", "virtual/dm-3", &[("dm/uuid", "CRYPT-VERITY-aa-b\n")], &["pci0/ata1/sda"]);
        sys.add("7:0", "virtual/loop0", &[("removable", "0\n")], &[]);
        sys
    }

    #[test]
    fn removable_is_seen_through_partitions_mappers_and_buses() {
        let sys = sys();
        let removable = |major, minor| sys.devices().removable(Dev::new(major, minor));
        assert_eq!(removable(8, 0), Some(false));
        assert_eq!(removable(8, 1), Some(false));
        assert_eq!(removable(8, 17), Some(true), "usb without the flag");
        assert_eq!(removable(8, 33), Some(true), "the flag is the disk's");
        assert_eq!(removable(253, 1), Some(false));
        assert_eq!(removable(253, 2), Some(true), "one removable disk is enough");
        assert_eq!(removable(0, 45), None);
    }

    #[test]
    fn the_serial_number_is_the_disks() {
        let sys = sys();
        sys.add(
            "8:48",
            "pci0/usb2/2-2/2-2:1.0/host3/target3/3:0:0:0/block/sdd",
            &[("removable", "1\n")],
            &[],
        );
        sys.add(
            "8:49",
            "pci0/usb2/2-2/2-2:1.0/host3/target3/3:0:0:0/block/sdd/sdd1",
            &[("partition", "1\n")],
            &[],
        );
        sys.write("pci0/usb2/2-2/serial", "S6Z2NF0W512345\n");
        sys.write("pci0/ata1/sda/device/vpd_pg80", "\0\u{1}\0\u{4}WD42");
        sys.write("pci0/scsi/sdc/serial", "\u{1b}[31m\n");
        let serial = |major, minor| sys.devices().serial(Dev::new(major, minor));
        assert_eq!(serial(8, 49).as_deref(), Some("S6Z2NF0W512345"));
        assert_eq!(serial(8, 1).as_deref(), Some("WD42"));
        assert_eq!(serial(253, 1).as_deref(), Some("WD42"), "below the mappers");
        assert_eq!(serial(253, 2), None, "two disks");
        assert_eq!(serial(8, 33), None, "what is no serial number");
        assert_eq!(serial(7, 0), None);
    }

    #[test]
    fn the_encryption_layer_is_found_below_other_mappers() {
        let sys = sys();
        let encryption =
            |major, minor, fstype| sys.devices().encryption(&mount(Dev::new(major, minor), fstype));
        assert_eq!(encryption(8, 1, "ext4"), "none");
        assert_eq!(encryption(253, 0, "ext4"), "luks2");
        assert_eq!(encryption(253, 1, "xfs"), "luks2");
        assert_eq!(encryption(253, 2, "xfs"), "partial");
        assert_eq!(encryption(253, 3, "ext4"), "none", "verity encrypts nothing");
        assert_eq!(encryption(7, 0, "ext4"), "unknown", "a loop device stores elsewhere");
        assert_eq!(encryption(0, 45, "nfs4"), "unknown");
        assert_eq!(encryption(0, 45, "tmpfs"), "memory");
    }

    /// Formats a small image, mounts it through a loop device, and asks; skipped where that cannot be done.
    fn mounted(tool: &str, arguments: &[&str], ask: impl FnOnce(&MountTable, &Path)) {
        let scratch = tempfile::tempdir().unwrap();
        let (image, point) = (scratch.path().join("image"), scratch.path().join("point"));
        fs::create_dir(&point).unwrap();
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let run = |tool: &str, arguments: &[&str], paths: &[&Path]| {
            Command::new(tool)
                .args(arguments)
                .args(paths)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if !run(tool, arguments, &[&image]) || !run("mount", &["-o", "loop"], &[&image, &point]) {
            eprintln!("skipped: needs {tool}, root, and a loop device");
            return;
        }
        let table = MountTable::read();
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask(&table.unwrap(), &point)));
        assert!(run("umount", &[], &[&point]));
        if let Err(panic) = asked {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn real_filesystems_on_a_loop_device_are_known() {
        const UUID: &str = "3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f";
        let cases: [(&str, &[&str], &str); 4] = [
            ("mkfs.ext4", &["-q", "-U", UUID], UUID),
            ("mkfs.xfs", &["-q", "-m", "uuid=3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f"], UUID),
            ("mkfs.btrfs", &["-q", "-U", UUID], UUID),
            ("mkfs.vfat", &["-i", "1234ABCD"], "1234-abcd"),
        ];
        for (tool, arguments, uuid) in cases {
            mounted(tool, arguments, |table, point| {
                let devices = Devices::default();
                let mount = table.at(point).unwrap();
                let backing = devices.backing(mount).unwrap();
                assert_eq!(backing.major(), 7, "{tool}");
                assert_eq!(devices.uuid(mount).as_deref(), Some(uuid), "{tool}");
                assert_eq!(devices.removable(backing), Some(false), "{tool}");
                assert_eq!(devices.encryption(mount), "unknown", "{tool}");
                // Without the kernel's help: through the device.
                let file = devices.open(backing).unwrap();
                assert_eq!(superblock::read(&file).unwrap().uuid, uuid, "{tool}");
            });
        }
    }

    #[test]
    fn names_come_from_the_kernel() {
        let devices = Devices::default();
        assert_eq!(devices.path(DeviceType::Char, Dev::new(1, 3)), Some("/dev/null".into()));
        assert_eq!(devices.path(DeviceType::Char, Dev::new(4000, 3)), None);
        let sys = Sys::new();
        sys.add("8:0", "sda", &[("uevent", "MAJOR=8\nDEVNAME=../etc/passwd\n")], &[]);
        assert_eq!(sys.devices().path(DeviceType::Block, Dev::new(8, 0)), None);
    }
}
