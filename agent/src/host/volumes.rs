//! Filesystems by their UUID: a device number is another's after a reboot, or once a disk was pulled out and put in again.
//!
//! This file must not know what is looked for on them.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::PathBuf,
    sync::Arc,
};

use super::{
    mounts::{Mount, MountTable},
    sysfs::{self, Devices},
};
use crate::event::Dev;

/// Device numbers that are remembered; when it is full those of what is not mounted go.
const REMEMBERED: usize = 4096;

/// A filesystem that outlives a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub dev: Dev,
    /// Lower case.
    pub uuid: Arc<str>,
    pub fstype: String,
    is_mounted: bool,
}

/// Every filesystem with a UUID that is mounted in the agent's namespace, or was.
#[derive(Debug, Default)]
pub struct Volumes {
    table: Arc<MountTable>,
    known: HashMap<Dev, Volume>,
    /// A filesystem did not say which one it is, so that others may be unknown too.
    unanswered: bool,
}

impl Volumes {
    /// Looks at the mounts again. Returns the filesystems that were not mounted, or not under that number, the last time.
    pub fn refresh(&mut self, devices: &Devices, table: &Arc<MountTable>) -> Vec<Volume> {
        self.table = Arc::clone(table);
        let mounted: HashSet<Dev> = table.entries().iter().map(|mount| mount.dev).collect();
        for volume in self.known.values_mut() {
            volume.is_mounted &= mounted.contains(&volume.dev);
        }
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, volume| volume.is_mounted);
        }
        let mut new = Vec::new();
        for dev in mounted {
            let Some(mount) = table.by_dev(dev) else { continue };
            // The number can be another filesystem's by now.
            let known = self.known.get(&dev);
            let Some(uuid) = devices.uuid(mount) else {
                // One that is covered by another mount may not tell any more.
                if known.is_some_and(|known| !known.is_mounted || known.fstype != mount.fstype) {
                    self.known.remove(&dev);
                }
                continue;
            };
            if known.is_some_and(|known| known.is_mounted && *known.uuid == *uuid) {
                continue;
            }
            let fstype = mount.fstype.clone();
            let volume = Volume { dev, uuid: uuid.into(), fstype, is_mounted: true };
            new.push(volume.clone());
            self.known.insert(dev, volume);
        }
        self.unanswered = devices.is_asked();
        new
    }

    /// Whether to look again although no mount changed.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// The filesystem that has this number, or had it last.
    #[must_use]
    pub fn of(&self, dev: Dev) -> Option<&Volume> {
        self.known.get(&dev)
    }

    /// The numbers that the filesystem has now: several where it was cloned.
    pub fn devs_of<'a>(&'a self, uuid: &'a str) -> impl Iterator<Item = Dev> + 'a {
        let mounted = self.known.values().filter(move |volume| volume.is_mounted && *volume.uuid == *uuid);
        mounted.map(|volume| volume.dev)
    }

    /// One of them, always the same.
    #[must_use]
    pub fn dev_of(&self, uuid: &str) -> Option<Dev> {
        self.devs_of(uuid).min_by_key(|dev| dev.0)
    }

    /// The question that opens the directory that shows most of a filesystem, to find files by; `None` when it is not mounted where we see
    /// it. To ask it waits for the filesystem, and for what lies on the way there.
    pub fn root(&self, dev: Dev) -> impl FnOnce() -> Option<File> + Send + 'static {
        let mut mounts: Vec<Mount> = self.table.all_of(dev).filter(|mount| mount.visible).cloned().collect();
        mounts.sort_by_key(|mount| mount.root.as_os_str().len());
        move || mounts.iter().find_map(sysfs::root_of)
    }

    /// The question whether a filesystem of which `root` is open answers for what it says is gone, see [`Devices::vouch`]. To ask it
    /// waits for the disk, however long that takes. `None` when it does not by what is known already.
    #[must_use]
    pub fn vouches(
        &self,
        devices: &Devices,
        dev: Dev,
        root: &File,
    ) -> Option<impl FnOnce() -> bool + Send + 'static> {
        let volume = self.known.get(&dev).filter(|volume| volume.is_mounted)?;
        let mounts: Vec<Mount> = self.table.all_of(dev).filter(|mount| mount.visible).cloned().collect();
        let (devices, uuid, root) = (devices.clone(), Arc::clone(&volume.uuid), root.try_clone().ok()?);
        Some(move || {
            let mount = mounts.iter().find(|mount| sysfs::is_on(&root, mount));
            mount.is_some_and(|mount| devices.vouch(mount, &root, &uuid))
        })
    }

    /// Where a path of the filesystem is seen.
    #[must_use]
    pub fn locate(&self, dev: Dev, fs_relative: &str) -> Option<PathBuf> {
        let (mount, path) = self.table.locate(dev, fs_relative)?;
        mount.visible.then(|| path.into())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_root_filesystem_of_this_host_is_known_until_its_number_is_anothers() {
        let table = Arc::new(MountTable::read().unwrap());
        let Some(root) = table.entries().iter().find(|mount| Devices::default().uuid(mount).is_some()) else {
            crate::skipping::skipped("no filesystem here has a UUID that can be read");
            return;
        };
        let mut volumes = Volumes::default();
        let new = volumes.refresh(&Devices::default(), &table);
        let volume = new.iter().find(|volume| volume.dev == root.dev).unwrap();
        assert_eq!(volumes.of(root.dev), Some(volume));
        assert_eq!(volumes.refresh(&Devices::default(), &table), []);
        // Unmounted: known still, and no longer under a number.
        volumes.refresh(&Devices::default(), &Arc::default());
        assert_eq!(volumes.of(root.dev).map(|known| &known.uuid), Some(&volume.uuid));
        assert_eq!(volumes.dev_of(&volume.uuid), None);
        assert!(volumes.root(root.dev)().is_none());
        let again = volumes.refresh(&Devices::default(), &table);
        assert!(again.contains(volume), "it came back");
    }

    /// A filesystem answers for what is gone while its disk is there, and not once that is not: the kernel says the same then of
    /// each of its files.
    #[test]
    fn a_disk_that_is_gone_answers_for_nothing() {
        let run = |tool: &str, arguments: &[&str]| {
            Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        for (fstype, megabytes) in [("ext4", 16), ("xfs", 320), ("btrfs", 128)] {
            let scratch = tempfile::tempdir().unwrap();
            let (image, point) = (scratch.path().join("image"), scratch.path().join("point"));
            std::fs::create_dir(&point).unwrap();
            File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
            let [disk, at] = [&image, &point].map(|path| path.to_str().unwrap());
            if !run(&format!("mkfs.{fstype}"), &["-q", disk])
                || !run("mount", &["-t", fstype, "-o", "loop", disk, at])
            {
                crate::skipping::skipped(format_args!("needs mkfs.{fstype}, root, and a loop device"));
                continue;
            }
            let result = std::panic::catch_unwind(|| {
                let table = Arc::new(MountTable::read().unwrap());
                let mount = table.at(&point).unwrap().clone();
                let mut volumes = Volumes::default();
                volumes.refresh(&Devices::default(), &table);
                let root = volumes.root(mount.dev)().unwrap();
                let vouch =
                    || volumes.vouches(&Devices::default(), mount.dev, &root).is_some_and(|ask| ask());
                assert!(vouch(), "{fstype}");
                let uuid = volumes.of(mount.dev).unwrap().uuid.to_string();
                assert!(!Devices::default().vouch(&mount, &root, "0123-4567"), "{fstype} is not {uuid}");
                File::options().write(true).open(&image).unwrap().set_len(0).unwrap();
                assert!(!vouch(), "{fstype} without its disk");
            });
            assert!(run("umount", &[at]));
            result.unwrap();
        }
    }
}
