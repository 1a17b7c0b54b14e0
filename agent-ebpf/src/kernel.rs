//! Kernel structures as far as we read them: thin handles over addresses, one method for each field.
//!
//! All reads go through [`read`], so that a stale pointer reads as 0 and never faults. Offsets come from
//! `agent_ebpf::fields`. This file must not know what the values are used for.

mod file;
mod inode;
mod memory;
mod packet;
mod pid;
mod socket;
mod superblock;
mod task;
mod uring;

use core::mem::{MaybeUninit, transmute};

use agent_ebpf::fields::*;
use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

pub(crate) use file::File;
pub(crate) use inode::{Dentry, Inode, Known, Layers};
pub(crate) use memory::{Mm, Vma};
pub(crate) use packet::mapped;
pub(crate) use socket::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, Packet, Sock};
pub(crate) use superblock::{Link, Superblock};
pub(crate) use task::{Task, ThreadLink};
pub(crate) use uring::{UringRequest, UringRing};

use crate::maps::READS_DIRECTLY;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;

/// The type to which [`read`] casts: of `void`, every offset and size can be loaded.
const VOID: u64 = 0;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
pub(crate) const TMPFS_MAGIC: u64 = 0x0102_1994;
pub(crate) const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
pub(crate) const PIPEFS_MAGIC: u64 = 0x5049_5045;
pub(crate) const MQUEUE_MAGIC: u64 = 0x1980_0202;
pub(crate) const PROC_MAGIC: u64 = 0x9fa0;
pub(crate) const XFS_MAGIC: u64 = 0x5846_5342;
pub(crate) const BTRFS_MAGIC: u64 = 0x9123_683e;
pub(crate) const EROFS_MAGIC: u64 = 0xe0f5_e1e2;

/// What is read in one word.
pub(crate) trait Word: Copy {
    /// Out of the lower bytes.
    fn of(word: u64) -> Self;
}

impl Word for u8 {
    #[inline(always)]
    fn of(word: u64) -> Self {
        word as Self
    }
}

impl Word for u16 {
    #[inline(always)]
    fn of(word: u64) -> Self {
        word as Self
    }
}

impl Word for u32 {
    #[inline(always)]
    fn of(word: u64) -> Self {
        word as Self
    }
}

impl Word for i32 {
    #[inline(always)]
    fn of(word: u64) -> Self {
        word as Self
    }
}

impl Word for u64 {
    #[inline(always)]
    fn of(word: u64) -> Self {
        word
    }
}

/// A value in the kernel's memory: 0 where nothing is mapped, and at addresses of user space.
///
/// Where the kernel knows `bpf_rdonly_cast` to `void` (6.17), it is one load of the program's own instead of a call that takes ten
/// times as long.
// VERIFIER: no `Option`: what stands beside `None` is in no register on some paths, and is moved all the same («R1 !read_ok»).
#[inline(always)]
pub(crate) fn read<T: Word>(address: u64) -> T {
    if READS_DIRECTLY.load() != 0 {
        // SAFETY: the loader makes a call of the kernel's function out of this number; it returns its argument, from which the
        // verifier lets us load: what cannot be read is 0 (`BPF_PROBE_MEM`).
        return unsafe {
            let rdonly_cast: extern "C" fn(u64, u64) -> *const T = transmute(RDONLY_CAST as usize);
            *rdonly_cast(address, VOID)
        };
    }
    let mut word = MaybeUninit::<u64>::uninit();
    // SAFETY: the helper checks the address, and fills what it is given: with zeros where it cannot read. What of the word it is not
    // given is cut off.
    T::of(unsafe {
        bpf_probe_read_kernel(word.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        word.assume_init()
    })
}

/// `None` of a field that this kernel does not have.
#[inline(always)]
fn field<T: Word>(base: u64, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT { None } else { Some(read(base + u64::from(offset))) }
}

#[inline(always)]
fn pointer(base: u64, offset: &Global<u32>) -> Option<u64> {
    match field::<u64>(base, offset) {
        Some(0) | None => None,
        found => found,
    }
}

/// Kernel objects are at least 32 bytes apart, so that these bits tell those of 128 GiB apart.
#[inline(always)]
const fn fold(address: u64) -> u32 {
    (address >> 5) as u32
}

/// The descriptor that an exec opened for an interpreter (`binfmt_misc`); 0 where there is none.
#[inline(always)]
pub(crate) fn exec_descriptor(bprm: u64) -> Option<u32> {
    field(bprm, &BPRM_EXECFD)
}
