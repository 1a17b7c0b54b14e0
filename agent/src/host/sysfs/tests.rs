//! Devices that this machine cannot have, from trees in the shape of `/sys`; and real filesystems on loop devices.

use std::{fs::File, os::unix::fs::symlink, process::Command};

use super::*;
use crate::host::{mounts::MountTable, superblock};

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
            symlink(self.0.path().join("devices").join(slave), directory.join("slaves").join(name)).unwrap();
        }
        symlink(directory, self.0.path().join("dev/block").join(number)).unwrap();
    }

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
    sys.add("8:48", "pci0/usb2/2-2/2-2:1.0/host3/target3/3:0:0:0/block/sdd", &[("removable", "1\n")], &[]);
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
    let encryption = |major, minor, fstype| sys.devices().encryption(&mount(Dev::new(major, minor), fstype));
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
        Command::new(tool).args(arguments).args(paths).output().is_ok_and(|output| output.status.success())
    };
    if !run(tool, arguments, &[&image]) || !run("mount", &["-o", "loop"], &[&image, &point]) {
        crate::skipping::skipped(format_args!("needs {tool}, root, and a loop device"));
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
fn udev_tells_where_there_are_no_nodes() {
    let sys = Sys::new();
    fs::create_dir(sys.0.path().join("udev")).unwrap();
    let devices = Devices::below(sys.0.path().to_owned(), sys.0.path().join("dev"));
    let told = |text: &str| {
        fs::write(sys.0.path().join("udev/b8:1"), text).unwrap();
        devices.uuid(&mount(Dev::new(8, 1), "xfs"))
    };
    let uuid = "E:ID_FS_UUID=3F1C2D4E-5a6b\n";
    assert_eq!(told(&format!("S:x\nE:ID_FS_TYPE=xfs\n{uuid}")).as_deref(), Some("3f1c2d4e-5a6b"));
    assert_eq!(told(&format!("E:ID_FS_TYPE=ext4\n{uuid}")), None, "of an older filesystem");
    assert_eq!(told("E:ID_FS_TYPE=xfs\nE:ID_FS_UUID=../../x\n"), None);
    assert_eq!(told(uuid), None);
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
