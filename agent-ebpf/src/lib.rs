//! The ABI that both sides share: keys and values of the maps, facts in the ring, numbers with a meaning.
//!
//! Plain integers only, with explicit padding: user space checks the length and the range of all it reads and never
//! turns bytes into an enum, a `bool` or an `Option`. This file must not know how either side works.
#![no_std]

/// Raise it when what the maps hold changes its meaning and no size tells: pinned maps of another number are not adopted.
pub const ABI: u32 = 2;

pub mod acts;
pub mod egress;
mod facts;
pub mod fields;
pub mod layers;
mod losses;
mod memory;
pub mod requests;
mod shared;
pub mod syscalls;
pub mod tamper;

pub use self::{facts::*, losses::*, memory::*, shared::*};

/// Bits of a set of assets. Each stands for all assets that have it as their mark, and the last for the canary alone.
pub const ASSET_MARKS: u32 = 63;
/// All bits of a set: the marks of assets, and the canary's.
pub const SET_BITS: u32 = ASSET_MARKS + 1;
/// The set that holds the canary alone. It proves what its own process puts, and goes no further: else everybody who happens to get a
/// socket where one of its own was would hold it.
pub const CANARY_SET: u64 = 1 << ASSET_MARKS;
/// Most assets that one agent can protect. The first 63 have a mark each; of more than that up to 16 share one.
pub const MAX_ASSETS: usize = 16 * ASSET_MARKS as usize;
/// The asset that the canary file stands for: bytes that are moved to prove that the hooks fire. Its mark is the last bit, and no
/// configured asset's.
pub const CANARY_ASSET: u32 = 1023;
/// With a mark added to it: some asset of that mark, where it is not known which. Counts for each of them.
pub const ANY_ASSET: u32 = 1024;
/// With a mark added to it: assets of that mark of which the holder has mapped something, for that grew.
pub const GROWN_ASSET: u32 = 2048;

/// The mark of an asset: its bit in a set. Whoever moves one of several that share it is taken for one who could move them all,
/// until user space looks which he took.
#[inline(always)]
#[must_use]
pub const fn asset_mark(asset: u32) -> u32 {
    // Of ids from `MAX_ASSETS` on, which are ours, the low bits are the mark.
    if asset < MAX_ASSETS as u32 { asset % ASSET_MARKS } else { asset % SET_BITS }
}

/// Bytes of a path buffer: components leaf first, each ended by a NUL.
pub const PATH_BYTES: usize = 512;
/// Longest component of a path, with its NUL (`NAME_MAX` + 1).
pub const NAME_BYTES: usize = 256;
/// Bytes kept of a command line.
pub const ARGV_BYTES: usize = 512;

/// A kernel identity: (`super_block.s_dev`, `inode.i_ino`, `inode.i_generation`).
///
/// `dev` values from [`DEV_ASSET`] up are ours: they name what has no inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    pub dev: u32,
    pub generation: u32,
    pub ino: u64,
}

/// `dev` of a source that is an asset; `ino` is its index, or some asset's of a mark ([`ANY_ASSET`], [`GROWN_ASSET`]).
pub const DEV_ASSET: u32 = 0xffff_fff0;
/// `dev` of a Unix socket: `ino` is the address of the receiving `struct sock`, which a reader knows too.
pub const DEV_UNIX: u32 = 0xffff_fff1;
/// `dev` of one direction of a loopback connection; `ino` hashes the sender's addresses, `generation` holds its ports.
pub const DEV_LOOPBACK: u32 = 0xffff_fff2;
/// `dev` of datagrams to one UDP port of this host; `ino` is the port.
pub const DEV_UDP: u32 = 0xffff_fff3;
/// `dev` of a System V message queue: `ino` is its id, `generation` stands for its namespace.
pub const DEV_MESSAGES: u32 = 0xffff_fff4;
/// `dev` of a kernel key: `ino` is its serial.
pub const DEV_KEY: u32 = 0xffff_fff5;
/// `dev` of a pseudo terminal: `ino` is the lower of the addresses of its two `struct tty_struct`.
pub const DEV_TERMINAL: u32 = 0xffff_fff6;
/// `dev` of one direction of a vsock connection within this host; `ino` holds its ports.
pub const DEV_VSOCK: u32 = 0xffff_fff7;
/// `dev` of a System V shared memory segment: `ino` is its id, `generation` stands for its namespace.
pub const DEV_SEGMENT: u32 = 0xffff_fff8;
/// `dev` of all the memory that a process shares with the children that it forks: `ino` is its start, `generation` its id.
pub const DEV_FAMILY: u32 = 0xffff_fff9;
/// `dev` of all channels of one class together, where which one a call used is not told; `ino` is one of the `CLASS_`.
pub const DEV_CLASS: u32 = 0xffff_fffa;
/// `dev` of a BPF map: `ino` is the address of its `struct bpf_map`. Of other memory of the kernel's that processes map by an
/// anonymous inode `generation` is [`NO_MAP`], and `ino` the address of what is behind that.
pub const DEV_BPF: u32 = 0xffff_fffb;
pub const NO_MAP: u32 = 1;
/// `dev` of what was sent through one socket, as it comes back out of that: `ino` is the address of its `struct sock`.
pub const DEV_SENT: u32 = 0xffff_fffc;
/// `dev` of what holders answer through `/dev/fuse`, of all connections together; `ino` is 0.
pub const DEV_FUSE: u32 = 0xffff_fffe;

/// Unix datagrams whose call named the receiver.
pub const CLASS_UNIX_DATAGRAMS: u64 = 1;
/// Extended attributes of files.
pub const CLASS_ATTRIBUTES: u64 = 2;
/// Values of System V semaphores.
pub const CLASS_SEMAPHORES: u64 = 3;
/// What holders send through the network stack, as those see it who listen to devices (`AF_PACKET`) or to all of a protocol
/// (raw sockets).
pub const CLASS_PACKETS: u64 = 4;
/// What holders send to addresses behind devices without hardware, as it is read out of those that a process serves
/// (`/dev/net/tun`).
pub const CLASS_TUNNELS: u64 = 5;
/// Shared memory of which only the slot is known; the slot is added to it.
pub const CLASS_MEMORY: u64 = 1 << 16;
/// Netlink messages; the protocol is added to it.
pub const CLASS_NETLINK: u64 = 256;

/// `dev` of a device that stores assets; `ino` is its [`acts::store_of_block`] or [`acts::store_of_char`].
pub const DEV_STORE: u32 = 0xffff_ffef;

/// What an object is to us.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectValue {
    /// Set of assets, by their marks. A protected file or directory has exactly one.
    pub assets: u64,
    /// One of the `OBJECT_` constants.
    pub kind: u32,
    /// Index of the asset of a protected file or directory. Of a carrier that an earlier agent knew, the epoch of the scan that
    /// charges who has it open already; of others 0.
    pub asset: u32,
    /// Epoch of the last scan in which some process had a carrier open.
    pub seen: u32,
    /// Epoch of the last scan in which a process that spreads could write into it.
    pub held: u32,
    /// Bytes that such processes put into a carrier.
    pub fed: u64,
}

/// A file of an asset.
pub const OBJECT_FILE: u32 = 1;
/// A directory: everything below it belongs to the asset.
pub const OBJECT_DIRECTORY: u32 = 2;
/// A directory of which only the names in `NAMES` are protected.
pub const OBJECT_NAMED: u32 = 3;
/// A file that a holder wrote into.
pub const OBJECT_CARRIER: u32 = 4;
/// A pipe, socket or loopback connection that a holder wrote into.
pub const OBJECT_STREAM: u32 = 5;
/// A Unix socket through which descriptors of protected files may come: who receives from it is watched.
pub const OBJECT_PATHWAY: u32 = 6;
/// A carrier that no descriptor stands for: a message queue, a key, a class.
pub const OBJECT_CHANNEL: u32 = 7;
/// What stores whole filesystems with assets: a disk, or the image file below one. A read from it takes of each of its assets.
pub const OBJECT_STORE: u32 = 0;

/// A protected name in an [`OBJECT_NAMED`] directory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameKey {
    pub directory: ObjectKey,
    /// The name, filled up with NULs.
    pub name: [u8; NAME_BYTES],
}

/// A process image: an exec makes a new one, because memory does not outlive it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HolderKey {
    pub tgid: u32,
    /// `task_struct.self_exec_id`, cut to 32 bits.
    pub exec: u32,
    /// `task_struct.start_boottime` of the thread group leader, ns since boot.
    pub start: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderValue {
    /// Assets that it opened, took from or inherited.
    pub assets: u64,
    /// Bytes taken from all sources together, the inherited ones included.
    pub taken: u64,
    /// The image that it came from by fork or exec; zero when none.
    pub parent: HolderKey,
    /// Bytes that can have come over from `parent`: all it had taken at a fork; at an exec its arguments and environment at
    /// most.
    pub inherited: u64,
    /// When it became a holder, ns since boot.
    pub since: u64,
    /// When it exited or was replaced by an exec, ns since boot; 0 while it runs.
    pub ended: u64,
    /// Not 0 when what it can write into are carriers: it opened an asset, or took as much as the propagation floor.
    pub spreads: u64,
    /// [`SHARED_LOOK`] when user space was last told that rows of this holder grew.
    pub told: u64,
    /// Bytes taken that found no room in `TAKES`, or of files that found none in `OBJECTS`: of any of `assets`.
    pub taken_beyond: u64,
    /// Bytes put into files, devices and processes that found no room in `FLOWS`, or into carriers that found none in
    /// `OBJECTS`, so that who reads them is not followed: they count as gone.
    pub put_beyond: u64,
    /// The same for peers.
    pub sent_beyond: u64,
    /// Assets of which it has mapped a file, or what stores one: only those can come to it by a mapping that grows.
    pub mapped: u64,
}

/// Stands for all processes that found no room in `HOLDERS`: what they take and put is summed in this one row, which user
/// space makes at the start.
pub const OVERFLOW: HolderKey = HolderKey { tgid: 0, exec: 1, start: 0 };

/// Added to `taken_beyond` for a file of an asset whose reads will not be counted: more than any file has.
pub const ALL_OF_IT: u64 = 1 << 50;

/// (source → holder).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TakeKey {
    pub holder: HolderKey,
    /// An asset ([`DEV_ASSET`]) or a carrier.
    pub source: ObjectKey,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeValue {
    pub bytes: u64,
    /// ns since boot of the newest.
    pub last: u64,
}

/// A destination. Unused bytes are zero, because it is part of a key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SinkKey {
    /// One of the `SINK_` constants.
    pub kind: u8,
    /// IP protocol; 0 when there is none.
    pub protocol: u8,
    /// Peer's port in host order.
    pub port: u16,
    /// Filesystem of a file; own number of a device; address family of a peer.
    pub dev: u32,
    pub generation: u32,
    pub reserved: u32,
    /// Inode number (first 8 bytes, native order) or address (IPv4 in the first 4 bytes, IPv6, vsock cid).
    pub id: [u8; 16],
}

pub const SINK_FILE: u8 = 1;
pub const SINK_BLOCK: u8 = 2;
pub const SINK_CHAR: u8 = 3;
pub const SINK_PEER: u8 = 4;
/// Pipe, FIFO, Unix socket or loopback connection: the id and dev are those of the carrier.
pub const SINK_PROCESS: u8 = 5;
/// Something that the sensor cannot name.
pub const SINK_OTHER: u8 = 6;

/// (holder → sink) while the holder held exactly `assets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub holder: HolderKey,
    /// [`ALL_ASSETS`] for a writable shared mapping, which counts for whatever its owner ever holds.
    pub assets: u64,
    pub sink: SinkKey,
}

pub const ALL_ASSETS: u64 = u64::MAX;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    pub bytes: u64,
    /// ns since boot of the newest.
    pub last: u64,
    /// `super_block.s_magic` of a file's filesystem.
    pub magic: u64,
}

/// Identity of an open file, left for the agent when it opens one itself: user space cannot learn `s_dev` and the
/// generation otherwise (`stat` invents device numbers on btrfs and overlayfs).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub key: ObjectKey,
    pub size: u64,
    pub magic: u64,
    pub mode: u32,
    /// Counts up, so that an old answer is never taken for a new one.
    pub serial: u32,
}

/// Descriptors of the agent whose identity can be asked for.
pub const IDENTITIES: u32 = 4096;

/// A request of io_uring under way: its ring and what it is called there. The kernel names an event that finds no room in its
/// queue by nothing else.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Address of the `struct io_ring_ctx`.
    pub ring: u64,
    pub user_data: u64,
}

/// All requests of one name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestValue {
    /// How many are under way.
    pub count: u64,
    /// One of the `REQUEST_` constants, [`REQUEST_MIXED`] where they differ.
    pub kind: u64,
    /// Address of the `struct file` that bytes come from or go to; 0 where it is not known or differs.
    pub file: u64,
    /// Of a splice, the `struct file` that bytes come from.
    pub input: u64,
    /// The `struct task_struct` that submitted it.
    pub task: u64,
}

/// Takes bytes from its file.
pub const REQUEST_TAKE: u64 = 1;
/// Puts bytes into its file.
pub const REQUEST_PUT: u64 = 2;
/// Moves bytes from one file into another.
pub const REQUEST_THROUGH: u64 = 3;
/// Several of one name, which are not all of one kind or of one file.
pub const REQUEST_MIXED: u64 = 4;

/// Memory that several processes share: what they took together. Keyed by the address of its `struct mm_struct`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceValue {
    /// Processes that are noted as sharing it; the row goes with the last.
    pub members: u64,
    pub assets: u64,
    /// Bytes that its processes took.
    pub taken: u64,
    pub spreads: u64,
    /// Who took last.
    pub taker: HolderKey,
}

/// A process that shares its memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharerValue {
    /// Address of the `struct mm_struct`.
    pub memory: u64,
    /// Bytes of [`SpaceValue::taken`] that it took itself.
    pub counted: u64,
    /// Bytes of its [`HolderValue::taken`] that the others took.
    pub brought: u64,
}

/// An address of either family; those of IPv4 as the mapped ones of IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub bytes: [u8; 16],
}

/// What a holder sent into a connection whose other end is not known to be on this host, before that acknowledged anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingValue {
    /// Who sent last; of no process where nothing was sent yet.
    pub holder: HolderKey,
    /// Assets that it held.
    pub assets: u64,
    /// Assets that it spreads.
    pub spreads: u64,
    pub bytes: u64,
    /// Of these, its own since another sent.
    pub own: u64,
}

/// What holders sent through the sockets whose addresses share a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentValue {
    /// Address of the `struct sock`; [`ANY_SOCKET`] where there were several.
    pub sock: u64,
    pub assets: u64,
    pub bytes: u64,
    /// Who sent last.
    pub holder: HolderKey,
    /// Not 0 once somebody else sent than who did first.
    pub several: u64,
    /// Not 0 once something waited in one of them for what would be sent after it.
    pub corked: u64,
}

pub const ANY_SOCKET: u64 = u64::MAX;
/// Slots of [`SentValue`], a power of two.
pub const SENT_SLOTS: u32 = 1 << 14;

/// Nanoseconds of a clock tick as `/proc` counts them (`USER_HZ` is 100 on every architecture but alpha and ia64).
pub const TICK_NS: u64 = 10_000_000;

/// So many propagation floors may be handed over unfollowed on the whole host, in portions below the floor each.
pub const FLOORS: u64 = 16;

/// More than any asset: what a process can load from a carrier that it has mapped, and store into one, again and again.
pub const UNCOUNTED: u64 = 1 << 44;

/// Bits of a process in `MARKS`, indexed by its thread group id.
pub const MARK_WATCHED: u8 = 1;
pub const MARK_HOLDER: u8 = 2;
/// Has memory that other processes may have mapped too.
pub const MARK_MAPPED: u8 = 4;
/// Descriptors can come to it without a call of its own: it shares its table with another process, or one of its threads has
/// a table of its own, or a request of io_uring opens and does not tell. It stays watched.
pub const MARK_SHARED: u8 = 8;
/// May share its memory with another process (`clone(CLONE_VM)`, `vfork`).
pub const MARK_SPACE: u8 = 16;
/// One of its threads replaced or closed a descriptor that a call of another was using.
pub const MARK_RACED: u8 = 32;
/// Counted under [`OVERFLOW`] for as long as it lives.
pub const MARK_OVERFLOW: u8 = 64;
/// `PID_MAX_LIMIT` of 64-bit kernels, so that no two live processes share a mark.
pub const MARKS: usize = 1 << 22;
