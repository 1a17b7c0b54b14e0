//! Whether a sink is controlled: the operator's list against the mount table, addresses and devices.
//!
//! What nobody listed is uncontrolled. This module names sinks in the words of people and must not know of holders,
//! bytes or rules. `listed` follows the filesystems of the list, `magic` names those that no mount tells of.

mod listed;
mod magic;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use self::listed::{Identity, Listed};
use super::{
    Problem,
    mounts::{Mount, MountTable},
    sysfs::{DeviceType, Devices},
};
use crate::{
    config::Controlled,
    event::{Control, Dev, Proto, Remote, Sink, SinkKind},
};

/// `/dev/null`, `/dev/zero` and `/dev/full`: the numbers are fixed in the kernel's `mem` driver, which owns all of
/// major 1, so that no other driver can claim them.
const VANISHING: [Dev; 3] = [Dev::new(1, 3), Dev::new(1, 5), Dev::new(1, 7)];

/// Answers what a sink is. Replace its mount table with [`Classifier::refresh`] whenever mounts change.
#[derive(Clone, Debug)]
pub struct Classifier {
    listed: Vec<Listed>,
    networks: Vec<IpNet>,
    devices: Devices,
    table: Arc<MountTable>,
    filesystems: HashMap<Dev, Filesystem>,
    /// The problems of the last refresh, so that each is told once for as long as it lasts.
    told: Vec<Problem>,
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
        let mut new = Self {
            listed: controlled.filesystems.iter().map(Listed::new).collect(),
            networks: controlled.networks.clone(),
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
        let uuids = if self.listed.iter().any(Listed::is_by_uuid) {
            filesystems
                .keys()
                .filter_map(|&dev| Some((dev, self.devices.uuid(table.by_dev(dev)?)?)))
                .collect()
        } else {
            HashMap::new()
        };
        for listed in &mut self.listed {
            let identity = |mount: &Mount| Identity {
                fstype: mount.fstype.clone(),
                name: self.devices.uuid(mount).unwrap_or_else(|| mount.source.clone()),
                removable: filesystems[&mount.dev].removable,
            };
            for dev in listed.resolve(&table, &uuids, identity, &mut problems) {
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
        let kind = magic::kind(fs_magic);
        let control = if self.controls(dev) {
            Control::Controlled
        } else if kind.is_some_and(|kind| kind.is_memory) {
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
            .or_else(|| kind.map(|kind| kind.name.to_owned()));
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
        // And what a raw socket sends goes where its own header says, which is not read.
        let routed =
            !matches!(proto, Proto::Vsock | Proto::Packet | Proto::Icmp | Proto::Raw | Proto::Other(_));
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
