//! Whether a sink is controlled: the operator's list against the mount table, addresses and devices.
//!
//! What nobody listed is uncontrolled. This file names sinks in the words of people and must not know of holders,
//! bytes or rules.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Problem,
    mounts::{Mount, MountTable},
    sysfs::{DeviceType, Devices},
};
use crate::{
    config::{Controlled, FilesystemSelector, Placed},
    event::{Control, Dev, Proto, Remote, Sink, SinkKind},
};

/// Filesystems by `super_block.s_magic`. The name is used where no mount tells a better one; the flag says that files
/// live in memory only (they may be swapped out, which `doctor` warns of).
const MAGICS: &[(u32, &str, bool)] = &[
    (0x0102_1994, "tmpfs", true),
    (0x8584_58f6, "ramfs", true),
    (0x9584_58f6, "hugetlbfs", true),
    (0x5345_434d, "secretmem", true),
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x4d44, "vfat", false),
    (0x2011_bab0, "exfat", false),
    (0x7366_746e, "ntfs3", false),
    (0xf2f5_2010, "f2fs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0x9660, "iso9660", false),
    (0x1501_3346, "udf", false),
    (0x7371_7368, "squashfs", false),
    (0xe0f5_e1e2, "erofs", false),
    (0x794c_7630, "overlay", false),
    (0x6573_5546, "fuse", false),
    (0x6969, "nfs", false),
    (0xff53_4d42, "cifs", false),
    (0xfe53_4d42, "smb3", false),
    (0x0102_1997, "9p", false),
    (0x00c3_6400, "ceph", false),
    (0x0bd0_0bd0, "lustre", false),
    (0x5346_414f, "afs", false),
    (0x0116_1970, "gfs2", false),
    (0x7461_636f, "ocfs2", false),
    (0x9fa0, "proc", false),
    (0x6265_6572, "sysfs", false),
    (0x6462_6720, "debugfs", false),
    (0x7472_6163, "tracefs", false),
    (0x6367_7270, "cgroup2", false),
    (0xcafe_4a11, "bpf", false),
    (0x1cd1, "devpts", false),
];

/// Filesystems whose mount source names a server or a share; a `source` selector looks at these only. Elsewhere the
/// source is free text of whoever mounted it.
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "virtiofs",
    "wekafs",
];

/// `/dev/null`, `/dev/zero` and `/dev/full`: the numbers are fixed in the kernel's `mem` driver, which owns all of
/// major 1, so that no other driver can claim them.
const VANISHING: [Dev; 3] = [Dev::new(1, 3), Dev::new(1, 5), Dev::new(1, 7)];

/// Answers what a sink is. Replace its mount table with [`Classifier::refresh`] whenever mounts change.
#[derive(Clone, Debug)]
pub struct Classifier {
    selectors: Vec<Bound>,
    networks: Vec<IpNet>,
    devices: Devices,
    table: Arc<MountTable>,
    filesystems: HashMap<Dev, Filesystem>,
    /// The problems of the last refresh, so that each is told once for as long as it lasts.
    told: Vec<Problem>,
}

/// A selector and the filesystem that it named first.
///
/// Control belongs to that filesystem. Otherwise, whoever mounts a stick over `/models` would have made it controlled.
#[derive(Clone, Debug)]
struct Bound {
    selector: Placed<FilesystemSelector>,
    first: Option<(Dev, Identity)>,
}

/// What must stay the same when a filesystem is mounted again. An adversary with root can forge the UUID of a fixed
/// disk; that is a limit of every list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    fstype: String,
    /// The UUID, or the mount source where there is none.
    name: String,
    removable: Option<bool>,
}

#[derive(Clone, Debug, Default)]
struct Filesystem {
    controlled: bool,
    removable: Option<bool>,
    serial: Option<String>,
}

impl Classifier {
    /// Also says which selectors name nothing now, or more than the operator may think.
    #[must_use]
    pub fn new(controlled: &Controlled, table: Arc<MountTable>, devices: Devices) -> (Self, Vec<Problem>) {
        let selectors =
            controlled.filesystems.iter().map(|s| Bound { selector: s.clone(), first: None }).collect();
        let networks = controlled.networks.clone();
        let mut new = Self {
            selectors,
            networks,
            devices,
            table: Arc::default(),
            filesystems: HashMap::new(),
            told: Vec::new(),
        };
        let problems = new.refresh(table);
        (new, problems)
    }

    /// Takes a new mount table. A listed mount point that shows another filesystem than at first is a problem, and that
    /// filesystem is not controlled. Returns what is new; a problem that lasts is told once.
    pub fn refresh(&mut self, table: Arc<MountTable>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut filesystems: HashMap<Dev, Filesystem> = HashMap::new();
        for mount in table.entries() {
            filesystems.entry(mount.dev).or_insert_with(|| {
                let backing = self.devices.backing(mount);
                Filesystem {
                    controlled: false,
                    removable: backing.and_then(|dev| self.devices.removable(dev)),
                    serial: backing.and_then(|dev| self.devices.serial(dev)),
                }
            });
        }
        let by_uuid = |bound: &Bound| matches!(bound.selector.value, FilesystemSelector::Uuid(_));
        let uuids = if self.selectors.iter().any(by_uuid) {
            filesystems
                .keys()
                .filter_map(|&dev| Some((dev, self.devices.uuid(table.by_dev(dev)?)?)))
                .collect()
        } else {
            HashMap::new()
        };
        for bound in &mut self.selectors {
            let identity = |mount: &Mount| Identity {
                fstype: mount.fstype.clone(),
                name: self.devices.uuid(mount).unwrap_or_else(|| mount.source.clone()),
                removable: filesystems[&mount.dev].removable,
            };
            for dev in bound.bind(&table, &uuids, identity, &mut problems) {
                filesystems.entry(dev).or_default().controlled = true;
            }
        }
        self.table = table;
        self.filesystems = filesystems;
        let new = problems.iter().filter(|problem| !self.told.contains(problem)).cloned().collect();
        self.told = problems;
        new
    }

    #[must_use]
    pub const fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Whether the filesystem is on the operator's list.
    #[must_use]
    pub fn controls(&self, dev: Dev) -> bool {
        self.filesystems.get(&dev).is_some_and(|filesystem| filesystem.controlled)
    }

    /// A regular file (memfd and tmpfs included). `fs_magic` is `super_block.s_magic`; `fs_relative_path` is the path
    /// inside the filesystem. Where no mount of this namespace shows the file, `path` is the one inside the filesystem
    /// and `mount` is `None`.
    #[must_use]
    pub fn file(&self, dev: Dev, fs_magic: u32, fs_relative_path: Option<&str>) -> Sink {
        let magic = MAGICS.iter().find(|(magic, ..)| *magic == fs_magic);
        let control = if self.controls(dev) {
            Control::Controlled
        } else if magic.is_some_and(|(.., memory)| *memory) {
            Control::Memory
        } else {
            // A filesystem that is in no mount table (detached, or of another mount namespace) ends here too.
            Control::Uncontrolled
        };
        let located = fs_relative_path.and_then(|path| self.table.locate(dev, path));
        let (mount, path) = match located {
            Some((mount, path)) => (Some(mount), Some(path)),
            None => (None, fs_relative_path.map(ToOwned::to_owned)),
        };
        let fstype = mount
            .or_else(|| self.table.by_dev(dev))
            .map(|mount| mount.fstype.clone())
            .or_else(|| magic.map(|(_, name, _)| (*name).to_owned()));
        let (removable, device_serial) = match self.filesystems.get(&dev) {
            Some(filesystem) => (filesystem.removable, filesystem.serial.clone()),
            None if dev.major() != 0 => (self.devices.removable(dev), self.devices.serial(dev)),
            None => (None, None),
        };
        Sink {
            path,
            device: Some(dev.to_string()),
            fstype,
            mount: mount.map(|mount| mount.point.to_string_lossy().into_owned()),
            removable,
            device_serial,
            ..sink(SinkKind::File, control)
        }
    }

    /// A network peer. An unspecified address is a peer that nobody knows. So is a loopback one that comes here: where both
    /// ends of a loopback connection are known (TCP) it is followed as a process; what is not (UDP) ends here, and somebody
    /// may carry it on.
    #[must_use]
    pub fn peer(&self, ip: IpAddr, port: u16, proto: Proto) -> Sink {
        let ip = ip.to_canonical();
        if proto == Proto::Netlink {
            return process("netlink");
        }
        // 0.0.0.0 is what a hook reports that could not see the peer, so a list that contains it must not match.
        let routed = !matches!(proto, Proto::Vsock | Proto::Packet | Proto::Other(_));
        let listed = routed
            && !ip.is_unspecified()
            && !ip.is_loopback()
            && self.networks.iter().any(|network| network.contains(&ip));
        let control = if listed { Control::Controlled } else { Control::Uncontrolled };
        let peer = format!("{}/{}", SocketAddr::new(ip, port), proto.as_str());
        Sink { peer: Some(peer), ..sink(SinkKind::Peer, control) }
    }

    /// Whether all of `to` is listed.
    #[must_use]
    pub fn remote(&self, to: Remote) -> Control {
        let wanted = match to {
            Remote::Address(ip) => Ok(IpNet::from(ip.to_canonical())),
            Remote::Network(ip, prefix) => IpNet::new(ip, prefix).map(|network| network.trunc()),
            Remote::Unread => return Control::Uncontrolled,
            Remote::Unattributed => return Control::Unmetered,
        };
        match wanted {
            Ok(wanted) if self.networks.iter().any(|network| network.contains(&wanted)) => {
                Control::Controlled
            }
            _ => Control::Uncontrolled,
        }
    }

    /// A block device written directly. Uncontrolled even when it stores a controlled filesystem: raw writes go where
    /// no filesystem keeps account of them.
    #[must_use]
    pub fn block_device(&self, dev: Dev) -> Sink {
        Sink {
            removable: self.devices.removable(dev),
            device_serial: self.devices.serial(dev),
            ..self.device(SinkKind::BlockDevice, DeviceType::Block, dev, Control::Uncontrolled)
        }
    }

    /// A character device. Bytes written to `/dev/null` and its kin vanish: they are in no place from which they could
    /// leave, so they count as memory; otherwise every `cat model > /dev/null` that warms a cache would be an incident.
    #[must_use]
    pub fn char_device(&self, dev: Dev) -> Sink {
        let control = if VANISHING.contains(&dev) { Control::Memory } else { Control::Uncontrolled };
        self.device(SinkKind::CharDevice, DeviceType::Char, dev, control)
    }

    /// A terminal: what is shown has left (ssh, a serial console, a screen with a camera before it).
    #[must_use]
    pub fn terminal(&self, dev: Dev) -> Sink {
        let mut sink = self.device(SinkKind::Terminal, DeviceType::Char, dev, Control::Uncontrolled);
        if dev.major() == 136 {
            // Unix98 pseudo-terminals are in no sysfs class; the minor is the number in the devpts of their container.
            sink.path = Some(format!("/dev/pts/{}", dev.minor()));
        }
        sink
    }

    fn device(&self, kind: SinkKind, class: DeviceType, dev: Dev, control: Control) -> Sink {
        Sink {
            path: self.devices.path(class, dev).map(|path| path.to_string_lossy().into_owned()),
            device: Some(dev.to_string()),
            ..sink(kind, control)
        }
    }
}

/// A pipe, FIFO, Unix socket or other channel to a process of this host.
#[must_use]
pub fn process(channel: &str) -> Sink {
    Sink { channel: Some(channel.to_owned()), ..sink(SinkKind::Process, Control::Process) }
}

/// A channel whose bytes cannot be counted (`rdma`, `xdp`, …).
#[must_use]
pub fn unmetered(channel: &str) -> Sink {
    Sink { channel: Some(channel.to_owned()), ..sink(SinkKind::Unmetered, Control::Unmetered) }
}

const fn sink(kind: SinkKind, control: Control) -> Sink {
    Sink::new(kind, control)
}

impl Bound {
    /// The filesystems that the selector makes controlled now.
    fn bind(
        &mut self,
        table: &MountTable,
        uuids: &HashMap<Dev, String>,
        identity: impl Fn(&Mount) -> Identity,
        problems: &mut Vec<Problem>,
    ) -> Vec<Dev> {
        let placed = &self.selector;
        let starting = self.first.is_none();
        let mut named: Vec<&Mount> = match &placed.value {
            FilesystemSelector::Mount(point) => table.at(point).into_iter().collect(),
            FilesystemSelector::Uuid(uuid) => table
                .entries()
                .iter()
                .filter(|mount| uuids.get(&mount.dev).is_some_and(|found| found.eq_ignore_ascii_case(uuid)))
                .collect(),
            FilesystemSelector::Source(source) => table
                .entries()
                .iter()
                .filter(|mount| mount.source == *source && is_network(&mount.fstype))
                .collect(),
        };
        // The first one keeps its right for as long as it is mounted anywhere, even when it is covered.
        let held = self.first.as_ref().and_then(|(dev, known)| {
            let mount = table.by_dev(*dev)?;
            (identity(mount) == *known).then_some(*dev)
        });
        named.sort_by_key(|mount| (Some(mount.dev) != held, mount.id));
        named.dedup_by_key(|mount| mount.dev);
        let mut devs: Vec<Dev> = held.into_iter().collect();
        let name = placed.value.describe();
        for mount in named {
            if devs.contains(&mount.dev) {
                continue;
            }
            // Several exports of one server may share a source; every other selector names one filesystem only.
            let several = matches!(placed.value, FilesystemSelector::Source(_));
            let found = identity(mount);
            let same = self.first.as_ref().is_none_or(|(_, known)| *known == found);
            if same && (devs.is_empty() || several) {
                self.first.get_or_insert((mount.dev, found)).0 = mount.dev;
                devs.push(mount.dev);
                continue;
            }
            let point = mount.point.display();
            problems.push(Problem::warning(
                placed,
                format!(
                    "{name} now also names another filesystem ({} {} on {}, mounted at {point}), which stays \
                     uncontrolled: unmount it, or restart the agent if it is meant",
                    mount.fstype, mount.source, mount.dev
                ),
            ));
        }
        if starting {
            problems.extend(self.surprises(table, &devs));
        }
        devs
    }

    /// What the operator should know when a selector is first used.
    fn surprises(&self, table: &MountTable, devs: &[Dev]) -> Vec<Problem> {
        let name = self.selector.value.describe();
        let mut problems = Vec::new();
        if devs.is_empty() {
            let text = format!(
                "{name} names no mounted filesystem, so nothing is controlled by this line: mount it, or correct the \
                 line"
            );
            problems.push(Problem::warning(&self.selector, text));
        }
        for mount in devs.iter().filter_map(|&dev| table.by_dev(dev)) {
            if mount.fstype.starts_with("fuse") {
                let text = format!(
                    "{name} is a {} mount, whose bytes go wherever its server puts them: list it only if you control \
                     that server",
                    mount.fstype
                );
                problems.push(Problem::warning(&self.selector, text));
            }
        }
        if let FilesystemSelector::Mount(point) = &self.selector.value
            && let Some(mount) = table.at(point).filter(|mount| devs.contains(&mount.dev))
            && mount.root != std::path::Path::new("/")
        {
            let others: Vec<String> = table
                .all_of(mount.dev)
                .filter(|other| other.id != mount.id)
                .take(3)
                .map(|other| other.point.display().to_string())
                .collect();
            if !others.is_empty() {
                let text = format!(
                    "{name} shows only {} of its filesystem; all of it is controlled, also at {}: give the weights a \
                     filesystem of their own",
                    mount.root.display(),
                    others.join(", ")
                );
                problems.push(Problem::warning(&self.selector, text));
            }
        }
        problems
    }
}

impl FilesystemSelector {
    fn describe(&self) -> String {
        match self {
            Self::Mount(point) => format!("mount {}", point.display()),
            Self::Uuid(uuid) => format!("uuid {uuid}"),
            Self::Source(source) => format!("source {source}"),
        }
    }
}

fn is_network(fstype: &str) -> bool {
    NETWORK.contains(&fstype) || fstype == "fuse" || fstype.starts_with("fuse.")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
27 1 8:1 / / rw - ext4 /dev/sda1 rw
30 27 8:16 / /models rw - xfs /dev/sdb rw
31 27 8:16 /a /srv/a rw - xfs /dev/sdb rw
32 27 0:50 / /nas rw - nfs4 filer:/weights rw
33 27 0:51 / /scratch rw - tmpfs filer:/weights rw
34 27 0:52 / /ssh rw - fuse.sshfs me@there: rw
35 27 0:53 / /ctr/merged rw - overlay overlay rw
36 27 8:32 /data /bind rw - ext4 /dev/sdc rw
37 27 8:32 / /whole rw - ext4 /dev/sdc rw
";
    const OVER: &str = "40 30 8:48 / /models rw - vfat /dev/sdd1 rw\n";

    fn table(text: &str) -> Arc<MountTable> {
        Arc::new(MountTable::parse(text.as_bytes()).unwrap())
    }

    fn classifier(filesystems: &[FilesystemSelector]) -> (Classifier, Vec<Problem>) {
        let filesystems =
            filesystems.iter().map(|s| Placed { value: s.clone(), line: 7, column: 5 }).collect();
        let networks = ["10.20.0.0/16", "2001:db8::/32", "0.0.0.0/8"].map(|n| n.parse().unwrap()).into();
        let nowhere = Devices::below("/nonexistent".into(), "/nonexistent".into());
        Classifier::new(&Controlled { filesystems, networks }, table(TABLE), nowhere)
    }

    fn mount(point: &str) -> FilesystemSelector {
        FilesystemSelector::Mount(point.into())
    }

    fn texts(problems: &[Problem]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn control_belongs_to_the_filesystem() {
        let (classifier, problems) = classifier(&[mount("/models")]);
        assert_eq!(problems, []);
        let sink = classifier.file(Dev::new(8, 16), 0x5846_5342, Some("/a/x"));
        assert_eq!(sink.control, Control::Controlled);
        assert_eq!(sink.path.as_deref(), Some("/srv/a/x"));
        assert_eq!((sink.mount.as_deref(), sink.fstype.as_deref()), (Some("/srv/a"), Some("xfs")));
        assert_eq!(sink.device.as_deref(), Some("8:16"));
        assert_eq!(classifier.file(Dev::new(8, 1), 0xef53, Some("/etc/x")).control, Control::Uncontrolled);
        assert_eq!(classifier.file(Dev::new(0, 53), 0x794c_7630, None).control, Control::Uncontrolled);
        assert_eq!(classifier.block_device(Dev::new(8, 16)).control, Control::Uncontrolled);
    }

    #[test]
    fn memory_is_told_by_magic_unless_listed() {
        let (none, _) = classifier(&[]);
        let memfd = none.file(Dev::new(0, 1), 0x0102_1994, Some("/memfd:x"));
        assert_eq!(
            (memfd.control, memfd.mount, memfd.fstype.as_deref()),
            (Control::Memory, None, Some("tmpfs"))
        );
        assert_eq!(memfd.path.as_deref(), Some("/memfd:x"));
        assert_eq!(none.file(Dev::new(0, 9), 0x9584_58f6, None).control, Control::Memory);
        let (listed, _) = classifier(&[mount("/scratch")]);
        assert_eq!(listed.file(Dev::new(0, 51), 0x0102_1994, Some("/x")).control, Control::Controlled);
    }

    #[test]
    fn a_filesystem_of_nobody_is_uncontrolled() {
        let (classifier, _) = classifier(&[mount("/models")]);
        let sink = classifier.file(Dev::new(8, 99), 0x4d44, Some("/x"));
        assert_eq!((sink.control, sink.fstype.as_deref()), (Control::Uncontrolled, Some("vfat")));
    }

    #[test]
    fn sources_name_network_filesystems_only() {
        let (classifier, problems) = classifier(&[
            FilesystemSelector::Source("filer:/weights".to_owned()),
            FilesystemSelector::Source("me@there:".to_owned()),
        ]);
        assert!(classifier.controls(Dev::new(0, 50)));
        assert!(!classifier.controls(Dev::new(0, 51)), "a tmpfs can call its source anything");
        assert!(classifier.controls(Dev::new(0, 52)));
        insta::assert_snapshot!(texts(&problems), @"7:5: warning: source me@there: is a fuse.sshfs mount, whose bytes go wherever its server puts them: list it only if you control that server");
    }

    #[test]
    fn surprises_are_said_at_the_start() {
        let (_, problems) = classifier(&[mount("/bind"), mount("/nothing")]);
        insta::assert_snapshot!(texts(&problems), @r"
        7:5: warning: mount /bind shows only /data of its filesystem; all of it is controlled, also at /whole: give the weights a filesystem of their own
        7:5: warning: mount /nothing names no mounted filesystem, so nothing is controlled by this line: mount it, or correct the line
        ");
    }

    #[test]
    fn a_stick_mounted_over_a_listed_point_is_not_controlled() {
        let (mut classifier, _) = classifier(&[mount("/models")]);
        let problems = classifier.refresh(table(&format!("{TABLE}{OVER}")));
        assert!(classifier.controls(Dev::new(8, 16)) && !classifier.controls(Dev::new(8, 48)));
        insta::assert_snapshot!(texts(&problems), @"7:5: warning: mount /models now also names another filesystem (vfat /dev/sdd1 on 8:48, mounted at /models), which stays uncontrolled: unmount it, or restart the agent if it is meant");
        // Unmounting the real one first does not help.
        let without: String =
            TABLE.lines().filter(|l| !l.contains("8:16")).map(|l| format!("{l}\n")).collect();
        let problems =
            classifier.refresh(table(&format!("{without}41 27 8:48 / /models rw - vfat /dev/sdd1 rw\n")));
        assert!(!classifier.controls(Dev::new(8, 48)));
        assert_eq!(problems, [], "told already");
        // The real one comes back.
        assert_eq!(classifier.refresh(table(TABLE)), []);
        assert!(classifier.controls(Dev::new(8, 16)));
    }

    #[test]
    fn the_root_filesystem_of_this_host_is_found_by_its_uuid() {
        let table = Arc::new(MountTable::read().unwrap());
        let root = table.at(std::path::Path::new("/")).unwrap().clone();
        let Some(uuid) = Devices::default().uuid(&root) else {
            eprintln!("skipped: the root filesystem has no UUID that can be read");
            return;
        };
        let selector = Placed { value: FilesystemSelector::Uuid(uuid), line: 1, column: 1 };
        let controlled = Controlled { filesystems: vec![selector], networks: Vec::new() };
        let (classifier, _) = Classifier::new(&controlled, table, Devices::default());
        assert!(classifier.controls(root.dev));
    }

    #[test]
    fn peers_are_unmapped_and_nobody_lists_loopback() {
        let (classifier, _) = classifier(&[]);
        let peer = |ip: &str, proto| {
            let sink = classifier.peer(ip.parse().unwrap(), 443, proto);
            (sink.control, sink.peer.or(sink.channel).unwrap())
        };
        let text = |control, text: &str| (control, text.to_owned());
        assert_eq!(peer("203.0.113.9", Proto::Tcp), text(Control::Uncontrolled, "203.0.113.9:443/tcp"));
        assert_eq!(peer("::ffff:10.20.1.1", Proto::Tcp), text(Control::Controlled, "10.20.1.1:443/tcp"));
        assert_eq!(peer("2001:db8::1", Proto::Udp), text(Control::Controlled, "[2001:db8::1]:443/udp"));
        assert_eq!(peer("2001:db9::1", Proto::Udp), text(Control::Uncontrolled, "[2001:db9::1]:443/udp"));
        assert_eq!(peer("127.8.9.1", Proto::Udp), text(Control::Uncontrolled, "127.8.9.1:443/udp"));
        assert_eq!(peer("::1", Proto::Udp), text(Control::Uncontrolled, "[::1]:443/udp"));
        assert_eq!(peer("::ffff:127.0.0.1", Proto::Udp), text(Control::Uncontrolled, "127.0.0.1:443/udp"));
        assert_eq!(peer("10.20.1.1", Proto::Vsock), text(Control::Uncontrolled, "10.20.1.1:443/vsock"));
        assert_eq!(peer("0.0.0.0", Proto::Udp), text(Control::Uncontrolled, "0.0.0.0:443/udp"));
        assert_eq!(peer("::", Proto::Raw), text(Control::Uncontrolled, "[::]:443/raw"));
    }

    #[test]
    fn devices_have_names_and_null_swallows() {
        let (classifier, _) = Classifier::new(&Controlled::default(), Arc::default(), Devices::default());
        let null = classifier.char_device(Dev::new(1, 3));
        assert_eq!((null.control, null.path.as_deref()), (Control::Memory, Some("/dev/null")));
        assert_eq!(classifier.char_device(Dev::new(10, 229)).control, Control::Uncontrolled);
        let pty = classifier.terminal(Dev::new(136, 7));
        assert_eq!((pty.control, pty.path.as_deref()), (Control::Uncontrolled, Some("/dev/pts/7")));
    }

    proptest! {
        #[test]
        fn what_nobody_listed_is_never_controlled(dev in any::<u32>(), magic in any::<u32>(), ip in any::<u32>()) {
            let (classifier, _) = Classifier::new(&Controlled::default(), table(TABLE), Devices::default());
            prop_assert!(classifier.file(Dev(dev), magic, None).control != Control::Controlled);
            prop_assert!(classifier.peer(IpAddr::from(ip.to_be_bytes()), 1, Proto::Tcp).control != Control::Controlled);
        }
    }
}
