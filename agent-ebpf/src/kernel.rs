//! Kernel structures as far as we read them: thin handles over addresses, one method for each field.
//!
//! All reads go through `bpf_probe_read_kernel`, so that a stale pointer is an error and never a fault. Offsets come from
//! `agent_ebpf::fields`. This file must not know what the values are used for.

mod file;
mod inode;
mod memory;
mod pid;
mod socket;
mod task;
mod uring;

use agent_ebpf::fields::*;
use aya_ebpf::{Global, helpers::bpf_probe_read_kernel};

pub(crate) use file::File;
pub(crate) use inode::{Dentry, Inode, Known, Layers};
pub(crate) use memory::{Mm, Vma};
pub(crate) use socket::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, Packet, Sock};
pub(crate) use task::{Task, ThreadLink};
pub(crate) use uring::{UringRequest, UringRing};

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
pub(crate) const TMPFS_MAGIC: u64 = 0x0102_1994;
pub(crate) const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
pub(crate) const PIPEFS_MAGIC: u64 = 0x5049_5045;
pub(crate) const MQUEUE_MAGIC: u64 = 0x1980_0202;
pub(crate) const PROC_MAGIC: u64 = 0x9fa0;
pub(crate) const XFS_MAGIC: u64 = 0x5846_5342;
pub(crate) const BTRFS_MAGIC: u64 = 0x9123_683e;
pub(crate) const EROFS_MAGIC: u64 = 0xe0f5_e1e2;

#[inline(always)]
fn field<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and copies; T is an integer.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
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
