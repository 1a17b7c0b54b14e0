//! What encrypts a filesystem, as far as this kernel does it: a disk that encrypts itself, or a hypervisor that does, is not
//! visible from here.

use std::{collections::BTreeSet, fs, path::Path};

use super::{DEPTH, DeviceType, Devices, slaves, whole_disk};
use crate::host::{mounts::Mount, read_fact};

impl Devices {
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
