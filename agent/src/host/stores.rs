//! What lies below the filesystems of assets: their disks, partitions and mappings, the nodes that reach those disks by other
//! commands, and image files; and what was set up beside them since.
//!
//! From sysfs. This file must not know who may open any of it, nor how that is noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    mounts::MountTable,
    read_fact,
    sysfs::{DeviceType, Devices, of_rdev},
};
use crate::event::{AssetList, Dev};

/// Devices of one host that are followed; more is not a sane host.
const MOST: usize = 4096;
/// Image files on image files.
const DEPTH: usize = 8;

/// Everything whose bytes are the bytes of assets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    pub blocks: BTreeMap<Dev, AssetList>,
    /// SCSI generic, BSG and NVMe nodes of the same disks.
    pub chars: BTreeMap<Dev, AssetList>,
    /// Files below loop devices.
    pub images: BTreeMap<PathBuf, AssetList>,
}

impl Stores {
    /// What stores the filesystems `of`, by their `s_dev`.
    #[must_use]
    pub fn below(devices: &Devices, table: &MountTable, of: &BTreeMap<Dev, AssetList>) -> Self {
        let mut stores = Self::default();
        for (&dev, assets) in of {
            stores.filesystem(devices, table, dev, assets, DEPTH);
        }
        stores
    }

    fn filesystem(
        &mut self,
        devices: &Devices,
        table: &MountTable,
        dev: Dev,
        assets: &AssetList,
        depth: usize,
    ) {
        let Some(mount) = table.by_dev(dev) else { return };
        for disk in devices.all_backing(mount) {
            let mut open = devices.above(disk);
            open.push(disk);
            while let Some(disk) = open.pop() {
                if self.blocks.len() >= MOST || !self.add(disk, assets) {
                    continue;
                }
                self.nodes(devices, disk, assets);
                open.extend(devices.beneath(disk));
                let Some(image) = devices.loop_backing(disk) else { continue };
                if self.images.insert(image.clone(), assets.clone()).as_ref() != Some(assets)
                    && depth > 0
                    && let Some(mount) = table.of_path(&image)
                {
                    self.filesystem(devices, table, mount.dev, assets, depth - 1);
                }
            }
        }
    }

    /// Whether that is news.
    fn add(&mut self, disk: Dev, assets: &AssetList) -> bool {
        let known = self.blocks.entry(disk).or_default();
        let joined = known.joined(assets);
        let is_new = joined != *known;
        *known = joined;
        is_new
    }

    fn nodes(&mut self, devices: &Devices, disk: Dev, assets: &AssetList) {
        for node in devices.command_nodes(disk) {
            let known = self.chars.entry(node).or_default();
            *known = known.joined(assets);
        }
    }

    /// Block devices that are none of these and are made of one of them, with the assets that they can show: snapshots and
    /// other mappings; of a disk with several volumes also its other volumes.
    #[must_use]
    pub fn beside(&self, devices: &Devices) -> BTreeMap<Dev, AssetList> {
        let mut beside = BTreeMap::new();
        for dev in devices.all_blocks() {
            if self.blocks.contains_key(&dev) {
                continue;
            }
            let shown = devices
                .slaves_of(dev)
                .iter()
                .filter_map(|slave| self.blocks.get(slave))
                .fold(AssetList::default(), |all, assets| all.joined(assets));
            if !shown.is_empty() {
                beside.insert(dev, shown);
            }
        }
        beside
    }
}

impl Devices {
    /// The block devices of a filesystem: several for btrfs.
    fn all_backing(&self, mount: &super::mounts::Mount) -> Vec<Dev> {
        let Some(dev) = self.backing(mount) else { return Vec::new() };
        let mut devices = if mount.fstype == "btrfs" { self.btrfs_devices(dev) } else { Vec::new() };
        if !devices.contains(&dev) {
            devices.push(dev);
        }
        devices
    }

    /// What `dev` is made of: its disk, its slaves.
    fn beneath(&self, dev: Dev) -> Vec<Dev> {
        let mut beneath = self.slaves_of(dev);
        beneath.extend(self.directory(dev).and_then(|directory| {
            directory.join("partition").exists().then(|| number_in(directory.parent()?)).flatten()
        }));
        beneath
    }

    /// What is made of `dev`: its partitions and the mappings over it, and what is made of those.
    fn above(&self, dev: Dev) -> Vec<Dev> {
        let mut found = BTreeSet::new();
        let mut open = vec![dev];
        while let Some(dev) = open.pop() {
            let Some(directory) = self.directory(dev) else { continue };
            let holders = directories(&directory.join("holders"));
            let partitions =
                directories(&directory).into_iter().filter(|part| part.join("partition").exists());
            for above in holders.into_iter().chain(partitions).filter_map(|part| number_in(&part)) {
                if found.len() < MOST && found.insert(above) {
                    open.push(above);
                }
            }
        }
        found.into_iter().collect()
    }

    fn slaves_of(&self, dev: Dev) -> Vec<Dev> {
        let Some(directory) = self.directory(dev) else { return Vec::new() };
        directories(&directory.join("slaves")).iter().filter_map(|slave| number_in(slave)).collect()
    }

    /// Every block device, partitions excepted.
    fn all_blocks(&self) -> Vec<Dev> {
        directories(&self.sys().join("block")).iter().take(MOST).filter_map(|disk| number_in(disk)).collect()
    }

    /// Loop devices that show a file, and which.
    #[must_use]
    pub fn loops(&self) -> Vec<(Dev, PathBuf)> {
        self.all_blocks().into_iter().filter_map(|dev| Some((dev, self.loop_backing(dev)?))).collect()
    }

    fn loop_backing(&self, dev: Dev) -> Option<PathBuf> {
        let path = read_fact(&self.directory(dev)?.join("loop/backing_file"))?;
        (!path.is_empty()).then(|| path.into())
    }

    /// Character devices that pass commands to the disk `dev`.
    fn command_nodes(&self, dev: Dev) -> Vec<Dev> {
        let Some(directory) = self.directory(dev) else { return Vec::new() };
        let device = directory.join("device");
        let mut found = Vec::new();
        for class in ["scsi_generic", "bsg", "nvme-generic"] {
            found.extend(directories(&device.join(class)).iter().filter_map(|node| number_in(node)));
        }
        // The NVMe controller itself, and the generic nodes of its namespaces (`ng0n1`).
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("nvme") {
            found.extend(number_in(&device));
            let is_generic = |path: &PathBuf| {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ng"))
            };
            found.extend(
                directories(&device)
                    .iter()
                    .filter(|path| is_generic(path))
                    .filter_map(|node| number_in(node)),
            );
        }
        found
    }

    fn directory(&self, dev: Dev) -> Option<PathBuf> {
        fs::canonicalize(self.link(DeviceType::Block, dev)).ok()
    }
}

/// The block device that a path names.
#[must_use]
pub fn block_device_at(path: &Path) -> Option<Dev> {
    let facts = fs::metadata(path).ok()?;
    facts.file_type().is_block_device().then(|| of_rdev(facts.rdev()))
}

/// The directories in `place`, links followed.
fn directories(place: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(place) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect()
}

fn number_in(directory: &Path) -> Option<Dev> {
    super::sysfs::parse_number(&read_fact(&directory.join("dev"))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::event::AssetId;

    /// A tree in the shape of `/sys`, for devices that this machine cannot have.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let sys = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(sys.0.path().join("dev/block")).unwrap();
            fs::create_dir_all(sys.0.path().join("block")).unwrap();
            sys
        }

        fn devices(&self) -> Devices {
            Devices::below(self.0.path().to_owned(), "/dev".into())
        }

        fn add(&self, number: &str, path: &str, slaves: &[&str]) {
            let directory = self.0.path().join("devices").join(path);
            let name = directory.file_name().unwrap().to_owned();
            for part in ["slaves", "holders"] {
                fs::create_dir_all(directory.join(part)).unwrap();
            }
            fs::write(directory.join("dev"), format!("{number}\n")).unwrap();
            for slave in slaves {
                let slave = self.0.path().join("devices").join(slave);
                symlink(&slave, directory.join("slaves").join(slave.file_name().unwrap())).unwrap();
                symlink(&directory, slave.join("holders").join(&name)).unwrap();
            }
            symlink(&directory, self.0.path().join("dev/block").join(number)).unwrap();
            if path.split('/').count() == 2 {
                symlink(&directory, self.0.path().join("block").join(name)).unwrap();
            } else {
                fs::write(directory.join("partition"), "1\n").unwrap();
            }
        }

        fn node(&self, path: &str, number: &str) {
            let directory = self.0.path().join("devices").join(path);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("dev"), number).unwrap();
        }
    }

    fn one() -> AssetList {
        [AssetId(0)].into_iter().collect()
    }

    /// sda with sda1 and sda2; LVM over sda2 with the volume that stores the asset (dm-0) and another one (dm-1).
    fn host() -> Sys {
        let sys = Sys::new();
        sys.add("8:0", "ata/sda", &[]);
        sys.add("8:1", "ata/sda/sda1", &[]);
        sys.add("8:2", "ata/sda/sda2", &[]);
        sys.add("253:0", "virtual/dm-0", &["ata/sda/sda2"]);
        sys.add("253:1", "virtual/dm-1", &["ata/sda/sda2"]);
        sys.node("ata/sda/device/scsi_generic/sg0", "21:0");
        sys
    }

    fn table(dev: &str, fstype: &str) -> MountTable {
        MountTable::parse(format!("27 1 {dev} / /models rw - {fstype} /dev/x rw\n").as_bytes()).unwrap()
    }

    fn below(sys: &Sys, dev: Dev, text: &str) -> Stores {
        Stores::below(&sys.devices(), &table(text, "ext4"), &BTreeMap::from([(dev, one())]))
    }

    fn numbers(of: &BTreeMap<Dev, AssetList>) -> Vec<String> {
        of.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_logical_volume_lies_on_its_partition_and_disk() {
        let stores = below(&host(), Dev::new(253, 0), "253:0");
        assert_eq!(numbers(&stores.blocks), ["8:0", "8:2", "253:0"], "not sda1, not the other volume");
        assert_eq!(numbers(&stores.chars), ["21:0"]);
    }

    #[test]
    fn what_is_made_of_the_device_itself_counts() {
        let sys = host();
        sys.add("253:7", "virtual/dm-7", &["virtual/dm-0"]);
        sys.add("9:0", "virtual/md0", &["virtual/dm-7"]);
        let stores = below(&sys, Dev::new(253, 0), "253:0");
        assert_eq!(numbers(&stores.blocks), ["8:0", "8:2", "9:0", "253:0", "253:7"]);
    }

    #[test]
    fn a_mapping_that_comes_later_is_told_from_those_that_were_there() {
        let sys = host();
        let stores = below(&sys, Dev::new(253, 0), "253:0");
        let before = stores.beside(&sys.devices());
        assert_eq!(numbers(&before), ["253:1"]);
        sys.add("253:9", "virtual/dm-9", &["ata/sda/sda2"]);
        let after = stores.beside(&sys.devices());
        assert_eq!(numbers(&after), ["253:1", "253:9"]);
        assert_eq!(after[&Dev::new(253, 9)], one());
    }

    #[test]
    fn nvme_has_nodes_for_commands() {
        let sys = Sys::new();
        sys.add("259:0", "nvme0/nvme0n1", &[]);
        sys.node("nvme0/nvme0n1/device", "242:0");
        sys.node("nvme0/nvme0n1/device/ng0n1", "241:0");
        let stores = below(&sys, Dev::new(259, 0), "259:0");
        assert_eq!(numbers(&stores.chars), ["241:0", "242:0"]);
    }

    #[test]
    fn a_filesystem_without_a_device_has_nothing_below() {
        let stores = Stores::below(
            &Sys::new().devices(),
            &table("0:45", "tmpfs"),
            &BTreeMap::from([(Dev::new(0, 45), one())]),
        );
        assert_eq!(stores, Stores::default());
    }
}
