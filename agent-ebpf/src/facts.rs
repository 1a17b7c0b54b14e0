//! The ABI of the ring: each record begins with a word that says which fact it is. As the rest of the ABI: plain integers only,
//! checked by user space. It must not know who sends them.

use super::{ARGV_BYTES, HolderKey, NAME_BYTES, ObjectKey, PATH_BYTES, SinkKey};

/// Size of the ring of facts; a power of two.
pub const FACTS_BYTES: u32 = 1 << 22;

/// First word of every fact in the ring.
pub const FACT_PROCESS: u32 = 1;
pub const FACT_OBJECT: u32 = 2;
pub const FACT_SINK: u32 = 3;
pub const FACT_WAKE: u32 = 4;
pub const FACT_ROW: u32 = 5;

/// A path as the kernel walks it: components leaf first, each ended by a NUL, up to the root of the filesystem.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawPath {
    /// Bytes used.
    pub len: u32,
    /// Not 0 when the walk stopped before the root.
    pub truncated: u32,
    pub bytes: [u8; PATH_BYTES],
    /// Room for the last component, so that the verifier can bound its write.
    pub spare: [u8; NAME_BYTES],
}

/// Who a process is: at exec, or when the agent started. Sent once for each holder and each of its ancestors.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessFact {
    pub fact: u32,
    pub uid: u32,
    /// `u32::MAX` when never set.
    pub auid: u32,
    pub parent_tgid: u32,
    pub key: HolderKey,
    pub cgroup: u64,
    pub exe: ObjectKey,
    /// [`SENT`], [`UNSENT`], or 0 while nobody needed it.
    pub reported: u32,
    /// Bytes of `argv` used.
    pub argv_len: u32,
    pub exe_path: RawPath,
    pub argv: [u8; ARGV_BYTES],
}

/// Values of [`ProcessFact::reported`]: user space was told.
pub const SENT: u32 = 1;
/// It should have been, and the ring was full.
pub const UNSENT: u32 = 2;

/// A protected file that user space has not registered (`OBJECT_FILE`), found by a name or a directory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ObjectFact {
    pub fact: u32,
    pub asset: u32,
    pub key: ObjectKey,
    pub size: u64,
    pub path: RawPath,
}

/// The first flow into a sink that has a path, or a carrier made by it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SinkFact {
    pub fact: u32,
    /// [`SENT`], in a row of `SINKS` that user space knows; 0 in the ring, and in a row that is there because that was full.
    pub reported: u32,
    pub sink: SinkKey,
    pub magic: u64,
    pub path: RawPath,
}

/// Bytes move again while user space sleeps.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WakeFact {
    pub fact: u32,
    pub reserved: u32,
    pub at: u64,
}

/// A map has a new row; of a holder also: its rows grew. User space looks up what it was told of, and walks the maps only
/// after a fact was lost: to walk a hash map costs as much as it has buckets, however few rows there are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RowFact {
    pub fact: u32,
    /// One of the `ROW_` constants; it says which of the rest have a meaning.
    pub map: u32,
    pub holder: HolderKey,
    /// Source of a take, or the carrier.
    pub object: ObjectKey,
    /// Of a flow, with `sink`.
    pub assets: u64,
    pub sink: SinkKey,
}

pub const ROW_HOLDER: u32 = 1;
pub const ROW_TAKE: u32 = 2;
pub const ROW_FLOW: u32 = 3;
pub const ROW_CARRIER: u32 = 4;
