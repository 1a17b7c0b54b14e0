//! Where bytes go: as the kernel names it, and in the words of people.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Dev, ObjectId};

/// Where bytes went, as the kernel names it. [`Sink`] is the same thing in the words of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SinkKey {
    /// A regular file (memfd and tmpfs included).
    File(ObjectId),
    BlockDevice(Dev),
    CharDevice(Dev),
    Terminal(Dev),
    Peer {
        ip: IpAddr,
        port: u16,
        proto: Proto,
    },
    /// A pipe, FIFO or Unix socket: bytes stay on this host until the other end moves them.
    Process(ObjectId),
    /// A channel that carries bytes which cannot be counted, or that the sensor cannot name.
    Unmetered,
}

impl SinkKey {
    /// Files and devices that found no room to be told apart.
    pub const FILE_BEYOND: Self = Self::File(ObjectId { dev: Dev(0), ino: 0, generation: 0 });
    /// Peers that found no room to be told apart.
    pub const PEER_BEYOND: Self =
        Self::Peer { ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0, proto: Proto::Other(0) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    Tcp,
    Udp,
    Icmp,
    Raw,
    Sctp,
    Vsock,
    Packet,
    Netlink,
    /// Any other: the address family in the high byte, the IP protocol in the low one.
    Other(u16),
}

impl Proto {
    /// The word after the slash in `203.0.113.9:443/tcp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Raw => "raw",
            Self::Sctp => "sctp",
            Self::Vsock => "vsock",
            Self::Packet => "packet",
            Self::Netlink => "netlink",
            Self::Other(_) => "other",
        }
    }
}

words! {
    /// Whether a sink is registered (DESIGN §1). What nobody listed is `Uncontrolled`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Control {
        Controlled = "controlled",
        Uncontrolled = "uncontrolled",
        Memory = "memory",
        Process = "process",
        Unmetered = "unmetered",
    }
}

words! {
    /// The kinds of `unmapped.weighbridge.sink.kind`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum SinkKind {
        File = "file",
        BlockDevice = "block_device",
        CharDevice = "char_device",
        Terminal = "terminal",
        Peer = "peer",
        Process = "process",
        Unmetered = "unmetered",
    }
}

/// A destination in the words of people; `None` is «does not apply or is not known». Serialises as the alert's `sink`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    pub kind: SinkKind,
    pub control: Control,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `major:minor` of the filesystem's or the device's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fstype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removable: Option<bool>,
    /// Serial number that the disk behind it states of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_serial: Option<String>,
    /// Whether the file is in the registry of protected files; `None` for what is no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered: Option<bool>,
    /// `203.0.113.9:443/tcp`, `[2001:db8::1]:443/udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// For kind `process` and `unmetered`: `pipe`, `unix`, `loopback`, `rdma`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

impl Sink {
    /// Whether what goes there is off this host, or can be carried away.
    #[must_use]
    pub fn leaves_the_host(&self) -> bool {
        match self.kind {
            SinkKind::Peer | SinkKind::Unmetered => true,
            SinkKind::File | SinkKind::BlockDevice => self.removable == Some(true),
            SinkKind::CharDevice | SinkKind::Terminal | SinkKind::Process => false,
        }
    }

    /// A sink of which nothing else is known.
    #[must_use]
    pub const fn new(kind: SinkKind, control: Control) -> Self {
        Self {
            kind,
            control,
            path: None,
            device: None,
            fstype: None,
            mount: None,
            removable: None,
            device_serial: None,
            registered: None,
            peer: None,
            channel: None,
        }
    }
}

/// Where the host sent something, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    Address(IpAddr),
    /// Some addresses with these leading bits: there were too many to tell them apart.
    Network(IpAddr, u8),
    /// Packets whose address could not be read.
    Unread,
    /// Bytes that network interfaces sent and that no packet of a socket explains.
    Unattributed,
}
