//! What the sensor says: the rows and facts of the ABI, checked, in owned types.
//!
//! Numbers and names only; whose process it is in words and whether a sink is controlled is for `pipeline` to find out.

use agent_ebpf as abi;

use crate::event::{AssetId, AssetSet, BootNs, Dev, HolderId, Loss, Mark, ObjectId, Proto, SinkKey, Source};

/// One statement. Byte counts are cumulative and never fall.
#[derive(Clone, Debug)]
pub enum Reading {
    Process(Box<ProcessReading>),
    /// A protected file that was not registered: created, renamed or linked into a protected place.
    Object {
        asset: AssetId,
        object: ObjectId,
        size: u64,
        path: FsPath,
    },
    SinkPath {
        sink: SinkKey,
        magic: u64,
        path: FsPath,
    },
    /// `inherited` bytes can have come over from `parent`.
    Holder {
        holder: HolderId,
        parent: Option<HolderId>,
        inherited: u64,
        at: BootNs,
    },
    Take {
        holder: HolderId,
        source: Source,
        bytes: u64,
        at: BootNs,
    },
    Flow {
        holder: HolderId,
        sink: SinkKey,
        magic: u64,
        assets: AssetSet,
        bytes: u64,
        at: BootNs,
    },
    /// `holder` did something that matters by itself; `number` is a device or an address family, by kind.
    Act {
        holder: HolderId,
        victim: Option<HolderId>,
        act: SensedAct,
        assets: AssetSet,
        at: BootNs,
    },
    /// The image is gone (exit or exec), and all its rows were read.
    Exit {
        holder: HolderId,
        at: BootNs,
    },
    Loss(Loss),
}

impl Reading {
    /// What the row of a holder says.
    pub(super) fn held(key: &abi::HolderKey, value: &abi::HolderValue) -> Self {
        let parent = (value.parent.tgid != 0).then(|| holder(&value.parent));
        let holder = holder(key);
        Self::Holder { holder, parent, inherited: value.inherited, at: BootNs(value.since) }
    }

    /// What the row of a take says, with `bytes` in place of its own.
    pub(super) fn taken(key: &abi::TakeKey, bytes: u64, value: &abi::TakeValue) -> Self {
        let (holder, source) = (holder(&key.holder), source(&key.source));
        Self::Take { holder, source, bytes, at: BootNs(value.last) }
    }

    /// What the row of a flow says, with `bytes` in place of its own.
    pub(super) fn put(key: &abi::FlowKey, bytes: u64, value: &abi::FlowValue) -> Self {
        Self::Flow {
            holder: holder(&key.holder),
            sink: sink(&key.sink),
            magic: value.magic,
            assets: AssetSet(key.assets),
            bytes,
            at: BootNs(value.last),
        }
    }

    /// When a row grew last; rows of holders come first, because the others are theirs.
    pub(super) const fn moved_at(&self) -> BootNs {
        match self {
            Self::Take { at, .. } | Self::Flow { at, .. } => *at,
            _ => BootNs(0),
        }
    }
}

/// What was done, as the kernel side names it; in the words of people it is an `event::Act`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SensedAct {
    Ptrace,
    ProcessVmRead,
    ProcessVmWrite,
    ProcMem,
    ProcFd,
    PidfdGetfd,
    CoreDump,
    RawBlock(Dev),
    RawChar(Dev),
    /// The file below a block device; the device is that of its filesystem.
    RawImage(Dev),
    Loop(Dev),
    Nbd(Dev),
    /// A table was loaded into the device mapper: which devices there are must be looked at anew.
    Mapper,
    /// The address family.
    Socket(u32),
    Device(Dev),
    /// A process has a GPU open that a holder has open.
    GpuShared(Dev),
}

/// `None`: no kind that this agent knows.
pub(super) const fn act(kind: u32, number: u32) -> Option<SensedAct> {
    use abi::acts;
    let device = Dev(number);
    Some(match kind {
        acts::ACT_PTRACE => SensedAct::Ptrace,
        acts::ACT_VM_READ => SensedAct::ProcessVmRead,
        acts::ACT_VM_WRITE => SensedAct::ProcessVmWrite,
        acts::ACT_PROC_MEM => SensedAct::ProcMem,
        acts::ACT_PROC_FD => SensedAct::ProcFd,
        acts::ACT_PIDFD_GETFD => SensedAct::PidfdGetfd,
        acts::ACT_CORE_DUMP => SensedAct::CoreDump,
        acts::ACT_RAW_BLOCK => SensedAct::RawBlock(device),
        acts::ACT_RAW_CHAR => SensedAct::RawChar(device),
        acts::ACT_RAW_IMAGE => SensedAct::RawImage(device),
        acts::ACT_LOOP => SensedAct::Loop(device),
        acts::ACT_NBD => SensedAct::Nbd(device),
        acts::ACT_MAPPER => SensedAct::Mapper,
        acts::ACT_SOCKET => SensedAct::Socket(number),
        acts::ACT_DEVICE => SensedAct::Device(device),
        _ => return None,
    })
}

/// Identity of a process image as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessReading {
    pub holder: HolderId,
    pub parent_tgid: u32,
    pub uid: u32,
    pub auid: Option<u32>,
    /// Id in the cgroup2 hierarchy; 0 when not known.
    pub cgroup: u64,
    pub exe: Option<ObjectId>,
    pub exe_path: FsPath,
    /// Joined by spaces.
    pub cmdline: String,
}

/// A path from the root of its filesystem, without the mount point: `/llm/model.safetensors`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsPath {
    pub text: String,
    /// The front is missing.
    pub cut: bool,
}

impl FsPath {
    /// From components leaf first, each ended by a NUL. Bytes that are not UTF-8 show as U+FFFD.
    pub(super) fn parse(raw: &[u8], truncated: bool) -> Self {
        let mut text = String::new();
        let components: Vec<&[u8]> = raw.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
        for component in components.iter().rev() {
            text.push('/');
            text.push_str(&String::from_utf8_lossy(component));
        }
        Self { text, cut: truncated }
    }
}

pub(super) fn holder(key: &abi::HolderKey) -> HolderId {
    HolderId { tgid: key.tgid, exec: key.exec, start: BootNs(key.start) }
}

pub(super) const fn holder_key(holder: &HolderId) -> abi::HolderKey {
    abi::HolderKey { tgid: holder.tgid, exec: holder.exec, start: holder.start.0 }
}

pub(super) const fn object(key: &abi::ObjectKey) -> ObjectId {
    ObjectId { dev: Dev(key.dev), ino: key.ino, generation: key.generation }
}

pub(super) const fn object_key(object: &ObjectId) -> abi::ObjectKey {
    abi::ObjectKey { dev: object.dev.0, generation: object.generation, ino: object.ino }
}

pub(super) fn source(key: &abi::ObjectKey) -> Source {
    const ANY: u16 = abi::ANY_ASSET as u16;
    const GROWN: u16 = abi::GROWN_ASSET as u16;
    const MARKS: u16 = abi::SET_BITS as u16;
    match (key.dev, u16::try_from(key.ino)) {
        (abi::DEV_ASSET, Ok(asset @ 0..ANY)) => Source::Asset(AssetId(asset)),
        (abi::DEV_ASSET, Ok(any)) if any - ANY < MARKS => Source::Mark(Mark((any - ANY) as u8)),
        (abi::DEV_ASSET, Ok(grown @ GROWN..)) if grown - GROWN < MARKS => {
            Source::Grown(Mark((grown - GROWN) as u8))
        }
        _ => Source::Carrier(object(key)),
    }
}

/// The kernel's own numbers of `TTYAUX_MAJOR`, `TTY_MAJOR` and the Unix98 pty masters and slaves (`devices.txt`).
const TERMINAL_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// What is not one of the known kinds is a sink that cannot be named, which is never controlled.
pub(super) fn sink(key: &abi::SinkKey) -> SinkKey {
    let ino = u64::from_ne_bytes([
        key.id[0], key.id[1], key.id[2], key.id[3], key.id[4], key.id[5], key.id[6], key.id[7],
    ]);
    let object = ObjectId { dev: Dev(key.dev), ino, generation: key.generation };
    match key.kind {
        abi::SINK_FILE => SinkKey::File(object),
        abi::SINK_PROCESS => SinkKey::Process(object),
        abi::SINK_BLOCK => SinkKey::BlockDevice(Dev(key.dev)),
        abi::SINK_CHAR => {
            let dev = Dev(key.dev);
            if matches!(dev.major(), 4 | 5) || TERMINAL_MAJORS.contains(&dev.major()) {
                SinkKey::Terminal(dev)
            } else {
                SinkKey::CharDevice(dev)
            }
        }
        abi::SINK_PEER => peer(key),
        _ => SinkKey::Unmetered,
    }
}

fn peer(key: &abi::SinkKey) -> SinkKey {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    const AF_PACKET: u32 = 17;
    const AF_VSOCK: u32 = 40;
    let v4 = std::net::Ipv4Addr::new(key.id[0], key.id[1], key.id[2], key.id[3]);
    let (ip, proto) = match key.dev {
        AF_INET => (v4.into(), ip_proto(key.protocol)),
        AF_INET6 => (std::net::Ipv6Addr::from(key.id).to_canonical(), ip_proto(key.protocol)),
        AF_VSOCK => (v4.into(), Proto::Vsock),
        AF_PACKET => (v4.into(), Proto::Packet),
        family => (v4.into(), Proto::Other((family as u16) << 8 | u16::from(key.protocol))),
    };
    SinkKey::Peer { ip, port: key.port, proto }
}

const fn ip_proto(protocol: u8) -> Proto {
    match protocol {
        1 | 58 => Proto::Icmp,
        6 => Proto::Tcp,
        17 | 136 => Proto::Udp,
        132 => Proto::Sctp,
        255 => Proto::Raw,
        other => Proto::Other(other as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_turned_round() {
        let path = FsPath::parse(b"model.safetensors\0llm\0models\0", false);
        assert_eq!(path.text, "/models/llm/model.safetensors");
        assert_eq!(FsPath::parse(b"", false).text, "");
    }

    #[test]
    fn a_mapped_address_is_the_address() {
        let mut id = [0; 16];
        id[10] = 0xff;
        id[11] = 0xff;
        id[12..].copy_from_slice(&[203, 0, 113, 9]);
        let key = abi::SinkKey {
            kind: abi::SINK_PEER,
            protocol: 6,
            port: 443,
            dev: 10,
            generation: 0,
            reserved: 0,
            id,
        };
        assert_eq!(
            sink(&key),
            SinkKey::Peer {
                ip: std::net::Ipv4Addr::new(203, 0, 113, 9).into(),
                port: 443,
                proto: Proto::Tcp
            }
        );
    }

    #[test]
    fn an_asset_and_some_asset_of_a_mark_are_told_apart() {
        let of = |ino| source(&abi::ObjectKey { dev: abi::DEV_ASSET, generation: 0, ino });
        assert_eq!(of(63), Source::Asset(AssetId(63)));
        assert_eq!(of(1023), Source::Asset(AssetId(1023)));
        assert_eq!(of(1024), Source::Mark(Mark(0)));
        assert_eq!(of(1024 + 63), Source::Mark(Mark(63)));
        assert_eq!(of(2048 + 62), Source::Grown(Mark(62)));
        for unknown in [1024 + 64, 2047, 2048 + 64, u64::from(u16::MAX) + 1, u64::MAX] {
            assert!(matches!(of(unknown), Source::Carrier(_)), "{unknown}");
        }
    }

    #[test]
    fn an_unknown_kind_is_never_a_named_sink() {
        let key =
            abi::SinkKey { kind: 200, protocol: 0, port: 0, dev: 0, generation: 0, reserved: 0, id: [0; 16] };
        assert_eq!(sink(&key), SinkKey::Unmetered);
    }
}
