//! The words that every part of the agent shares (DESIGN §1): who holds, what was taken, where it went.
//!
//! Plain data only. This file must not know how facts are gathered (`sensor`, `host`) nor what is concluded from them
//! (`ledger`, `rules`, `alerts`).

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

/// Nanoseconds since boot (`CLOCK_BOOTTIME`): the only clock that windows and budgets use, for it cannot be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootNs(pub u64);

/// A process image, never the pid alone: thread group id, the start of its leader (`task_struct.start_boottime`), and the
/// count of its execs (`task_struct.self_exec_id`), because memory does not outlive an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HolderId {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Count of execs; copied at a fork, so that it starts anywhere.
    pub exec: u32,
    /// Start of the thread group leader, ns since boot.
    pub start: BootNs,
}

impl HolderId {
    /// The host itself, where no process can be named.
    pub const HOST: Self = Self { tgid: 0, exec: 0, start: BootNs(0) };
}

/// A kernel identity of a file, directory, pipe or socket: never a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// `super_block.s_dev` in the kernel's own encoding (12 bits major, 20 bits minor).
    pub dev: Dev,
    /// `inode.i_ino`.
    pub ino: u64,
    /// `inode.i_generation`; 0 where the filesystem has none.
    pub generation: u32,
}

/// A device number in the kernel's own encoding (`MKDEV`: major << 20 | minor). Prints as `8:16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(pub u32);

impl Dev {
    /// From a `major:minor` pair as `/proc/self/mountinfo` and sysfs print it.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self(major << 20 | (minor & 0xf_ffff))
    }

    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 >> 20
    }

    #[must_use]
    pub const fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

/// Index of a configured asset, in the order of the configuration; below [`agent_ebpf::MAX_ASSETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetId(pub u8);

/// A set of assets, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetSet(pub u64);

impl AssetSet {
    #[must_use]
    pub const fn contains(self, asset: AssetId) -> bool {
        self.0 >> (asset.0 as u32 & 63) & 1 == 1
    }

    pub fn iter(self) -> impl Iterator<Item = AssetId> {
        (0..64).map(AssetId).filter(move |&asset| self.contains(asset))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AssetKind {
    Weights,
    Associated,
}

impl AssetKind {
    /// Every value.
    pub const ALL: [Self; 2] = [Self::Weights, Self::Associated];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Associated => "associated",
        }
    }
}

/// What the rest of the agent needs to know of an asset. Replaced as a whole when its size changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    pub id: AssetId,
    pub name: String,
    pub kind: AssetKind,
    /// Total size of its files in bytes.
    pub bytes: u64,
    /// Bytes that were ever in it, as far as the ledger knows: where files were replaced or cut, whoever took what was there
    /// still has it. No bound of what was taken is larger.
    pub most: u64,
    /// Whether a reader list is configured (without one WB-0004 only learns).
    pub has_readers: bool,
}

impl Asset {
    /// Stands where an act touched no asset: the host itself. Its name is empty and its size 0.
    #[must_use]
    pub const fn host() -> Self {
        Self {
            id: AssetId(u8::MAX),
            name: String::new(),
            kind: AssetKind::Associated,
            bytes: 0,
            most: 0,
            has_readers: false,
        }
    }
}

/// Where a holder got bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// One of the asset's own files.
    Asset(AssetId),
    /// A file, pipe or socket that another holder wrote into.
    Carrier(ObjectId),
    /// The process that it was forked from.
    Parent(HolderId),
    /// A process whose memory it reached into, or that wrote into its.
    Reached(HolderId),
}

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

/// Whether a sink is registered (DESIGN §1). What nobody listed is `Uncontrolled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    Controlled,
    Uncontrolled,
    Memory,
    Process,
    Unmetered,
}

impl Control {
    /// Every value, in the order in which metrics create their children.
    pub const ALL: [Self; 5] =
        [Self::Controlled, Self::Uncontrolled, Self::Memory, Self::Process, Self::Unmetered];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Controlled => "controlled",
            Self::Uncontrolled => "uncontrolled",
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Unmetered => "unmetered",
        }
    }
}

/// The kinds of `unmapped.weighbridge.sink.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    File,
    BlockDevice,
    CharDevice,
    Terminal,
    Peer,
    Process,
    Unmetered,
}

impl SinkKind {
    /// Every value.
    pub const ALL: [Self; 7] = [
        Self::File,
        Self::BlockDevice,
        Self::CharDevice,
        Self::Terminal,
        Self::Peer,
        Self::Process,
        Self::Unmetered,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::BlockDevice => "block_device",
            Self::CharDevice => "char_device",
            Self::Terminal => "terminal",
            Self::Peer => "peer",
            Self::Process => "process",
            Self::Unmetered => "unmetered",
        }
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

/// Who moved bytes. Serialises as the alert's `process`; `None` is «not known».
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// ns since boot.
    pub start: u64,
    /// Path of the executable as the kernel named it when it was executed; empty when not known.
    pub exe: String,
    /// Lower-case hex; `None` when the file was gone or no longer the one that was executed, [`Process::NO_HASH`] when it never
    /// lay in a directory and is gone.
    pub exe_sha256: Option<String>,
    /// Arguments joined by spaces, as executed (later changes to argv do not show).
    pub cmdline: String,
    pub uid: u32,
    /// Login uid (`loginuid`); `None` when never set.
    pub auid: Option<u32>,
    /// Path below the cgroup2 mount.
    pub cgroup: Option<String>,
    /// Container id, from the cgroup path.
    pub container: Option<String>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// Parent first, to pid 1.
    pub ancestry: Vec<Ancestor>,
}

impl Process {
    /// Stands in the place of a hash where nothing is left that could be hashed: a program that ran out of `memfd_create`.
    pub const NO_HASH: &str = "unavailable";

    /// The hash, where there is one.
    #[must_use]
    pub fn hash(&self) -> Option<&str> {
        self.exe_sha256.as_deref().filter(|hash| *hash != Self::NO_HASH)
    }

    /// The host itself, where no process can be named. Its pid is 0, and alerts leave it out.
    #[must_use]
    pub const fn host() -> Self {
        Self {
            pid: 0,
            start: 0,
            exe: String::new(),
            exe_sha256: None,
            cmdline: String::new(),
            uid: 0,
            auid: None,
            cgroup: None,
            container: None,
            unit: None,
            ancestry: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub pid: u32,
    pub exe: String,
    pub cmdline: String,
}

/// What was lost so far, by stage; the sum since the agent started. Empty when nothing was.
pub type Loss = BTreeMap<&'static str, u64>;

/// Bytes that a holder took itself, and in all.
pub type Took = (u64, u64);

/// What the ledger concluded and cannot conclude again once the rows that it rests on are forgotten; `None` for what it has
/// forgotten itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conclusions {
    /// Bytes of an asset that a holder took itself, and in all.
    pub taken: Vec<(HolderId, AssetId, Option<Took>)>,
    /// Bytes of an asset that a carrier can hold.
    pub caps: Vec<(ObjectId, AssetId, Option<u64>)>,
}

impl Conclusions {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.caps.is_empty()
    }
}

/// One statement of the sensor. Byte counts are cumulative and never fall: applying one twice changes nothing.
#[derive(Clone, Debug)]
pub enum Event {
    /// Identity of a holder; comes before its first `Take` or `Flow`, and again after an exec.
    Process { holder: HolderId, process: Arc<Process> },
    /// A sink resolved; comes before its first `Flow`, and again when its control or its path changed.
    Sink { key: SinkKey, sink: Arc<Sink> },
    /// An asset registered, or its size changed.
    Asset(Arc<Asset>),
    /// `holder` has taken `bytes` in all from `source` (for a parent: what the parent had taken at the fork).
    /// `listed`: the assets on whose reader list the holder is, whatever the source.
    Take { holder: HolderId, source: Source, bytes: u64, listed: AssetSet, at: BootNs },
    /// `holder` has put `bytes` in all into `sink` while it held exactly `assets`.
    Flow { holder: HolderId, sink: SinkKey, assets: AssetSet, bytes: u64, at: BootNs },
    /// `holder` did something that matters by itself, whatever bytes moved; `assets` are those that it touched.
    Act { holder: HolderId, act: Act, assets: AssetSet, at: BootNs },
    /// This host has sent `bytes` more, whoever sent them; control says whether the place is a listed one. The only count that
    /// is a growth: applied twice, it counts twice.
    Egress { to: Remote, control: Control, bytes: u64, at: BootNs },
    /// The process is gone and all its bytes were reported.
    Exit { holder: HolderId, at: BootNs },
    /// Something was lost.
    Loss(Loss),
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

/// An act: no bytes are counted, that it happened is what rules want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub kind: ActKind,
    /// Whose memory or descriptors were reached into; `None` where there is no second process.
    pub victim: Option<HolderId>,
    /// What it was done to, in the words of people: a device, a path, a channel.
    pub target: Option<String>,
}

/// What was done. A new one is one row of [`ACTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActKind {
    Ptrace,
    ProcessVmRead,
    ProcessVmWrite,
    ProcMem,
    ProcFd,
    PidfdGetfd,
    CoreDump,
    RawDevice,
    LoopSetup,
    NbdSetup,
    Snapshot,
    Packet,
    Xdp,
    Rdma,
    Vfio,
    GpuDirect,
    GpuShared,
    Tunnel,
    RawMemory,
    RawSocket,
    Signalled,
    Ended,
    Stopped,
    LinksTouched,
    PinsTouched,
    MapsTouched,
    FilesChanged,
    ClockSet,
    HookSilent,
    Lost,
    Restarted,
    RulesRefused,
}

/// Which family of rules an act belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActClass {
    /// Another process reached into a holder (WB-0006).
    Reach,
    /// Below the filesystem that stores an asset (WB-0005).
    Below,
    /// A channel whose bytes cannot be counted was opened by a holder (WB-0008).
    Channel,
    /// A GPU that a holder has open was opened by another process: for rules of one's own.
    Gpu,
    /// Against the agent, or a loss that it noticed (WB-0010).
    Tamper,
}

impl ActClass {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::Below => "below",
            Self::Channel => "channel",
            Self::Gpu => "gpu",
            Self::Tamper => "tamper",
        }
    }
}

/// Every act: the word that rules use, and its class.
pub const ACTS: [(ActKind, &str, ActClass); 32] = [
    (ActKind::Ptrace, "ptrace", ActClass::Reach),
    (ActKind::ProcessVmRead, "process_vm_readv", ActClass::Reach),
    (ActKind::ProcessVmWrite, "process_vm_writev", ActClass::Reach),
    (ActKind::ProcMem, "proc_mem", ActClass::Reach),
    (ActKind::ProcFd, "proc_fd", ActClass::Reach),
    (ActKind::PidfdGetfd, "pidfd_getfd", ActClass::Reach),
    (ActKind::CoreDump, "core_dump", ActClass::Reach),
    (ActKind::RawDevice, "raw_device", ActClass::Below),
    (ActKind::LoopSetup, "loop_setup", ActClass::Below),
    (ActKind::NbdSetup, "nbd_setup", ActClass::Below),
    (ActKind::Snapshot, "snapshot", ActClass::Below),
    (ActKind::Packet, "af_packet", ActClass::Channel),
    (ActKind::Xdp, "af_xdp", ActClass::Channel),
    (ActKind::Rdma, "rdma", ActClass::Channel),
    (ActKind::Vfio, "vfio", ActClass::Channel),
    (ActKind::GpuDirect, "gpu_direct", ActClass::Channel),
    (ActKind::GpuShared, "gpu_shared", ActClass::Gpu),
    (ActKind::Tunnel, "tunnel", ActClass::Channel),
    (ActKind::RawMemory, "raw_memory", ActClass::Channel),
    (ActKind::RawSocket, "raw_socket", ActClass::Channel),
    (ActKind::Signalled, "signalled", ActClass::Tamper),
    (ActKind::Ended, "ended", ActClass::Tamper),
    (ActKind::Stopped, "stopped", ActClass::Tamper),
    (ActKind::LinksTouched, "links_touched", ActClass::Tamper),
    (ActKind::PinsTouched, "pins_touched", ActClass::Tamper),
    (ActKind::MapsTouched, "maps_touched", ActClass::Tamper),
    (ActKind::FilesChanged, "files_changed", ActClass::Tamper),
    (ActKind::ClockSet, "clock_set", ActClass::Tamper),
    (ActKind::HookSilent, "hook_silent", ActClass::Tamper),
    (ActKind::Lost, "lost", ActClass::Tamper),
    (ActKind::Restarted, "restarted", ActClass::Tamper),
    (ActKind::RulesRefused, "rules_refused", ActClass::Tamper),
];

impl ActKind {
    /// The word that rules use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ACTS.iter().find(|(kind, ..)| *kind == self).map_or("unknown", |(_, word, _)| word)
    }

    #[must_use]
    pub fn class(self) -> ActClass {
        ACTS.iter().find(|(kind, ..)| *kind == self).map_or(ActClass::Tamper, |(.., class)| *class)
    }
}

/// What rules see: the growth of one bound, an act, or the growth of what the host sent. One asset each; several assets
/// in one flow give one record each.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: RecordKind,
    pub at: BootNs,
    pub asset: Arc<Asset>,
    pub holder: HolderId,
    pub process: Arc<Process>,
    /// Where to; `None` for a take and for an act.
    pub sink: Option<Arc<Sink>>,
    /// Growth, in bytes, of the flow's bound (kind flow), of what the holder took (kind take) or of what the host sent
    /// (kind egress); for an act what the process that was reached into had taken.
    pub bytes: u64,
    /// What was done (kind act), and to whom.
    pub act: Option<Act>,
    pub victim: Option<Arc<Process>>,
    /// Whether the process is on the asset's reader list.
    pub listed: bool,
    /// Edges from asset to sink, in order.
    pub lineage: Arc<Vec<Edge>>,
}

/// The event kinds of the rule grammar's `on:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordKind {
    Flow,
    Take,
    /// Something that matters by itself ([`Act`]).
    Act,
    /// What the whole host sent to addresses that are not controlled, with no holder: one record for each asset.
    Egress,
}

impl RecordKind {
    /// Every value, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Flow, Self::Take, Self::Act, Self::Egress];

    /// The word of `on:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Take => "take",
            Self::Act => "act",
            Self::Egress => "egress",
        }
    }
}

/// One step from asset to sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub from: Node,
    pub to: Node,
    pub bytes: u64,
}

/// An end of an [`Edge`]. `kind` is one of `asset process file pipe unix shm peer device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl<'d> Deserialize<'d> for Node {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        const KINDS: [&str; 8] = ["asset", "process", "file", "pipe", "unix", "shm", "peer", "device"];
        #[derive(Deserialize)]
        struct Written {
            #[serde(rename = "type")]
            kind: String,
            name: String,
            pid: Option<u32>,
        }
        let Written { kind, name, pid } = Written::deserialize(from)?;
        match KINDS.into_iter().find(|known| *known == kind) {
            Some(kind) => Ok(Self { kind, name, pid }),
            None => Err(serde::de::Error::unknown_variant(&kind, &KINDS)),
        }
    }
}
