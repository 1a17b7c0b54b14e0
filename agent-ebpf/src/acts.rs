//! The ABI of acts: what matters by itself, what one process took out of another, and which devices store assets.
//!
//! As the rest of the ABI: plain integers only, checked by user space. It must not know which rule an act belongs to.

use crate::{HolderKey, ObjectKey};

/// An act, once for each actor, victim and thing that it was done to: however often it is repeated, it is one row, so that
/// a flood of them loses none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActKey {
    pub actor: HolderKey,
    /// Whom the actor reached into; all zero when there is no second process.
    pub victim: HolderKey,
    /// One of the `ACT_` constants.
    pub kind: u32,
    /// A device number or an address family, by kind.
    pub number: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActValue {
    /// Assets that it touched.
    pub assets: u64,
    /// How often.
    pub count: u64,
    /// ns since boot.
    pub first: u64,
    pub last: u64,
}

/// One process traces another.
pub const ACT_PTRACE: u32 = 1;
/// `process_vm_readv`.
pub const ACT_VM_READ: u32 = 2;
/// `process_vm_writev`.
pub const ACT_VM_WRITE: u32 = 3;
/// `/proc/PID/mem` was opened, read or written.
pub const ACT_PROC_MEM: u32 = 4;
/// A file was opened by way of another process: `/proc/PID/{fd,map_files,root,cwd}`.
pub const ACT_PROC_FD: u32 = 5;
pub const ACT_PIDFD_GETFD: u32 = 6;
/// The kernel wrote a holder's memory into a core dump; the actor is the one that was dumped.
pub const ACT_CORE_DUMP: u32 = 7;
/// A block device that stores an asset was opened; `number` is the device.
pub const ACT_RAW_BLOCK: u32 = 16;
/// A character device that reaches such a disk (SCSI generic, NVMe) was opened; `number` is the device.
pub const ACT_RAW_CHAR: u32 = 17;
/// The file below such a block device was opened; `number` is its filesystem.
pub const ACT_RAW_IMAGE: u32 = 18;
/// A loop device was set up over an asset or a copy; `number` is the device.
pub const ACT_LOOP: u32 = 19;
/// A network block device was given a socket that carries an asset; `number` is the device.
pub const ACT_NBD: u32 = 20;
/// A table was loaded into the device mapper; user space looks whether it maps a disk that stores an asset.
pub const ACT_MAPPER: u32 = 21;
/// A holder has a socket of a family whose bytes are not counted; `number` is the family.
pub const ACT_SOCKET: u32 = 32;
/// A holder has a character device open that moves bytes unseen; `number` is the device.
pub const ACT_DEVICE: u32 = 33;

/// A process has a GPU open that a holder has open, at least for a while at the same time; `number` is the device. User space
/// concludes it from `GPU_USERS`: the kernel side makes no row of this kind.
pub const ACT_GPU_SHARED: u32 = 34;

/// Values of `CHANNELS`: its bytes are not counted; it is a GPU's.
pub const CHANNEL_UNSEEN: u32 = 1;
pub const CHANNEL_GPU: u32 = 2;

/// A process image that has, or had, a node of a GPU open, in `GPU_USERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GpuKey {
    pub user: HolderKey,
    /// The node's number, or [`ANY_NODE`] for the row of the image itself.
    pub device: u32,
    pub reserved: u32,
}

/// Stands for all nodes of an image: no device has this number.
pub const ANY_NODE: u32 = 0;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuValue {
    /// When it was first seen open, ns since boot.
    pub first: u64,
    /// Of the row of the image: when it ended, ns since boot; 0 while it runs.
    pub ended: u64,
    /// Epoch of the last scan that saw it open.
    pub seen: u64,
}

/// What came out of a process's memory into another's, other than by a fork or an exec.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReachKey {
    pub to: HolderKey,
    pub from: HolderKey,
}

/// A device that stores assets, in `STORES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreValue {
    pub assets: u64,
    /// The object that the device shows byte by byte, when that is one of ours; else all zero.
    pub backing: ObjectKey,
    /// [`STORE_MIRROR`] or 0.
    pub flags: u32,
    pub reserved: u32,
}

/// A filesystem on it shows assets under identities that are not registered: all of its files count.
pub const STORE_MIRROR: u32 = 1;

/// Key of a block device in `STORES`.
#[must_use]
pub const fn store_of_block(device: u32) -> u64 {
    device as u64
}

/// Key of a character device in `STORES`.
#[must_use]
pub const fn store_of_char(device: u32) -> u64 {
    1 << 32 | device as u64
}

/// Minor number that stands for all of a major in `CHANNELS`.
pub const ANY_MINOR: u32 = 0xf_ffff;
