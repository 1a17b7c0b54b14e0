//! Kernel structures as far as we read them: thin handles over addresses, one method for each field.
//!
//! All reads go through `bpf_probe_read_kernel`, so that a stale pointer is an error and never a fault. Offsets come from
//! `agent_ebpf::fields`. This file must not know what the values are used for.

use agent_ebpf::{HolderKey, ObjectKey, fields::*};
use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task},
};

use crate::maps::OVERLAY_WRAPS;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const FMODE_WRITE: u32 = 2;
/// `thread_info.status`: this system call came through the 32-bit entry.
const TS_COMPAT: u32 = 2;
/// `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

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

#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) u64);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: always returns the running task.
        Self(unsafe { bpf_get_current_task() })
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> Option<u32> {
        field(self.0, &TASK_TGID)
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> Option<u32> {
        field(self.0, &TASK_PID)
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Option<Self> {
        pointer(self.0, &TASK_GROUP_LEADER).map(Self)
    }

    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        pointer(self.0, &TASK_REAL_PARENT).map(Self)
    }

    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        field::<u32>(self.0, &TASK_FLAGS).is_none_or(|flags| flags & PF_KTHREAD != 0)
    }

    #[inline(always)]
    pub(crate) fn is_compat(self) -> bool {
        field::<u32>(self.0, &TASK_STATUS).is_some_and(|status| status & TS_COMPAT != 0)
    }

    /// The process image that this task runs.
    #[inline(always)]
    pub(crate) fn holder_key(self) -> Option<HolderKey> {
        let leader = self.leader()?;
        Some(HolderKey {
            tgid: self.tgid()?,
            exec: field::<u32>(leader.0, &TASK_SELF_EXEC_ID)?,
            start: field(leader.0, &TASK_START_BOOTTIME)?,
        })
    }

    #[inline(always)]
    pub(crate) fn uid(self) -> Option<u32> {
        field(pointer(self.0, &TASK_REAL_CRED)?, &CRED_UID)
    }

    #[inline(always)]
    pub(crate) fn login_uid(self) -> u32 {
        field(self.0, &TASK_LOGINUID).unwrap_or(u32::MAX)
    }

    #[inline(always)]
    pub(crate) fn mm(self) -> Option<Mm> {
        pointer(self.0, &TASK_MM).map(Mm)
    }

    /// Threads of its group that still run; read in `sched_process_exit`, which counts this one out before.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> Option<u32> {
        field(pointer(self.0, &TASK_SIGNAL)?, &SIGNAL_LIVE)
    }

    /// Address of its descriptor table, for comparison only.
    #[inline(always)]
    pub(crate) fn files(self) -> Option<u64> {
        pointer(self.0, &TASK_FILES)
    }

    /// Size of its descriptor table.
    #[inline(always)]
    pub(crate) fn descriptors(self) -> Option<u32> {
        field(pointer(pointer(self.0, &TASK_FILES)?, &FILES_FDT)?, &FDTABLE_MAX_FDS)
    }

    /// The open file behind a descriptor.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> Option<File> {
        let table = pointer(pointer(self.0, &TASK_FILES)?, &FILES_FDT)?;
        if descriptor >= field::<u32>(table, &FDTABLE_MAX_FDS)? {
            return None;
        }
        let array = pointer(table, &FDTABLE_FD)?;
        // SAFETY: the helper checks the address.
        let file =
            unsafe { bpf_probe_read_kernel((array + u64::from(descriptor) * 8) as *const u64) }.ok()?;
        if file == 0 { None } else { Some(File(file)) }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Mm(pub(crate) u64);

impl Mm {
    #[inline(always)]
    pub(crate) fn exe(self) -> Option<File> {
        pointer(self.0, &MM_EXE_FILE).map(File)
    }

    /// (address, length) of the argument strings.
    #[inline(always)]
    pub(crate) fn arguments(self) -> Option<(u64, u64)> {
        let start: u64 = field(self.0, &MM_ARG_START)?;
        let end: u64 = field(self.0, &MM_ARG_END)?;
        Some((start, end.saturating_sub(start)))
    }

    /// Bytes of arguments and environment: what an exec can carry over in memory.
    #[inline(always)]
    pub(crate) fn carried_bytes(self) -> Option<u64> {
        let start: u64 = field(self.0, &MM_ENV_START)?;
        let end: u64 = field(self.0, &MM_ENV_END)?;
        Some(self.arguments()?.1 + end.saturating_sub(start))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) u64);

impl File {
    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        pointer(self.0, &FILE_INODE).map(Inode)
    }

    #[inline(always)]
    pub(crate) fn dentry(self) -> Option<Dentry> {
        pointer(self.0, &FILE_DENTRY).map(Dentry)
    }

    #[inline(always)]
    pub(crate) fn is_writable(self) -> bool {
        field::<u32>(self.0, &FILE_MODE).is_none_or(|mode| mode & FMODE_WRITE != 0)
    }

    /// The file below an overlayfs file, itself otherwise: bytes are those of the file that stores them.
    #[inline(always)]
    pub(crate) fn backing(self) -> Self {
        // Twice: an overlay can lie on an overlay, and no deeper.
        let below = self.overlay_real().unwrap_or(self);
        below.overlay_real().unwrap_or(below)
    }

    #[inline(always)]
    fn overlay_real(self) -> Option<Self> {
        if self.inode()?.magic()? != OVERLAYFS_MAGIC {
            return None;
        }
        let private = pointer(self.0, &FILE_PRIVATE_DATA)?;
        if OVL_FILE_REAL.load() != ABSENT {
            return pointer(private, &OVL_FILE_REAL).map(Self);
        }
        // The types of a module are not in the kernel's BTF.
        if OVERLAY_WRAPS.load() == 0 {
            return Some(Self(private));
        }
        // SAFETY: the helper checks the address.
        match unsafe { bpf_probe_read_kernel(private as *const u64) } {
            Ok(0) | Err(_) => None,
            Ok(real) => Some(Self(real)),
        }
    }

    /// The socket behind it; only for an inode of kind `S_IFSOCK`.
    #[inline(always)]
    pub(crate) fn socket(self) -> Option<Sock> {
        pointer(pointer(self.0, &FILE_PRIVATE_DATA)?, &SOCKET_SK).map(Sock)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) u64);

impl Inode {
    #[inline(always)]
    pub(crate) fn kind(self) -> Option<u32> {
        field::<u16>(self.0, &INODE_MODE).map(|mode| u32::from(mode) & S_IFMT)
    }

    #[inline(always)]
    pub(crate) fn key(self) -> Option<ObjectKey> {
        Some(ObjectKey {
            dev: field(pointer(self.0, &INODE_SB)?, &SB_DEV)?,
            generation: field(self.0, &INODE_GENERATION)?,
            ino: field(self.0, &INODE_INO)?,
        })
    }

    #[inline(always)]
    pub(crate) fn magic(self) -> Option<u64> {
        field(pointer(self.0, &INODE_SB)?, &SB_MAGIC)
    }

    #[inline(always)]
    pub(crate) fn rdev(self) -> Option<u32> {
        field(self.0, &INODE_RDEV)
    }

    #[inline(always)]
    pub(crate) fn size(self) -> u64 {
        field(self.0, &INODE_SIZE).unwrap_or(0)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Dentry(pub(crate) u64);

impl Dentry {
    /// `None` at the root of its filesystem.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        let parent = pointer(self.0, &DENTRY_PARENT)?;
        if parent == self.0 { None } else { Some(Self(parent)) }
    }

    #[inline(always)]
    pub(crate) fn name(self) -> Option<u64> {
        pointer(self.0, &DENTRY_NAME)
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        pointer(self.0, &DENTRY_INODE).map(Inode)
    }
}

pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const AF_NETLINK: u16 = 16;
pub(crate) const AF_VSOCK: u16 = 40;

#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) u64);

impl Sock {
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        field(self.0, &SOCK_FAMILY)
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u8 {
        field::<u16>(self.0, &SOCK_PROTOCOL).unwrap_or(0) as u8
    }

    /// A datagram socket; one whose type cannot be read counts as one.
    #[inline(always)]
    pub(crate) fn is_datagram(self) -> bool {
        const SOCK_DGRAM: u16 = 2;
        field::<u16>(self.0, &SOCK_TYPE).is_none_or(|kind| kind == SOCK_DGRAM)
    }

    /// Peer's port, host order.
    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        field::<u16>(self.0, &SOCK_DPORT).map_or(0, u16::from_be)
    }

    #[inline(always)]
    pub(crate) fn own_port(self) -> u16 {
        field(self.0, &SOCK_SPORT).unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn peer_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_DADDR)
    }

    #[inline(always)]
    pub(crate) fn own_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_SADDR)
    }

    #[inline(always)]
    pub(crate) fn peer_v6(self) -> Option<[u8; 16]> {
        field(self.0, &SOCK_V6_DADDR)
    }

    #[inline(always)]
    pub(crate) fn own_v6(self) -> Option<[u8; 16]> {
        field(self.0, &SOCK_V6_SADDR)
    }

    #[inline(always)]
    pub(crate) fn unix_peer(self) -> Option<Self> {
        pointer(self.0, &UNIX_PEER).map(Self)
    }

    /// (context id, port) of a vsock peer.
    #[inline(always)]
    pub(crate) fn vsock_peer(self) -> Option<(u32, u32)> {
        Some((field(self.0, &VSOCK_CID)?, field(self.0, &VSOCK_PORT)?))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Vma(pub(crate) u64);

impl Vma {
    #[inline(always)]
    pub(crate) fn file(self) -> Option<File> {
        pointer(self.0, &VMA_FILE).map(File)
    }

    #[inline(always)]
    pub(crate) fn bytes(self) -> Option<u64> {
        let start: u64 = field(self.0, &VMA_START)?;
        Some(field::<u64>(self.0, &VMA_END)?.saturating_sub(start))
    }

    /// Shared, so that stores reach the file.
    #[inline(always)]
    pub(crate) fn is_shared(self) -> bool {
        const VM_SHARED: u64 = 8;
        field::<u64>(self.0, &VMA_FLAGS).is_none_or(|flags| flags & VM_SHARED != 0)
    }
}

/// A request of io_uring.
#[derive(Clone, Copy)]
pub(crate) struct UringRequest(pub(crate) u64);

impl UringRequest {
    #[inline(always)]
    pub(crate) fn file(self) -> Option<File> {
        pointer(self.0, &URING_FILE).map(File)
    }

    #[inline(always)]
    pub(crate) fn opcode(self) -> Option<u8> {
        field(self.0, &URING_OPCODE)
    }
}

/// Result of a completed request.
#[inline(always)]
pub(crate) fn uring_result(cqe: u64) -> Option<i32> {
    field(cqe, &CQE_RES)
}
