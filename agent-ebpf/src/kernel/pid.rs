//! From a process's number, its directory in procfs or a pidfd to its task.
//!
//! `struct pid` holds the first thread of each of its uses in a list; a pid namespace keeps its `struct pid`s in an IDR, which
//! is an xarray (`include/linux/pid.h`, `include/linux/xarray.h`, both since 4.20 as read here). This file must not know why
//! somebody asks.

use agent_ebpf::fields::*;

use super::{File, Inode, Mm, PROC_MAGIC, Task, field, pointer, read};
use crate::maps::PROPAGATION_FLOOR;

/// pidfds since 6.9; before they were anonymous inodes.
const PIDFS_MAGIC: u64 = 0x5049_4446;
/// `struct upid`: the number, padding, the namespace.
const UPID_BYTES: u64 = 16;
/// `XA_CHUNK_SIZE`, and levels that cover `PID_MAX_LIMIT`.
const SLOTS: u64 = 64;
const LEVELS: u32 = 5;

/// A `struct pid`.
#[derive(Clone, Copy)]
struct Pid(u64);

impl Pid {
    /// The thread that it is the number of.
    #[inline(always)]
    fn task(self) -> Option<Task> {
        // The first list is PIDTYPE_PID's.
        let first: u64 = read(self.0 + u64::from(PID_TASKS.load()));
        if first == 0 { None } else { Some(Task(first - u64::from(TASK_PID_LINKS.load()))) }
    }
}

impl Task {
    /// The thread that this one means when it says `number`.
    #[inline(always)]
    pub(crate) fn find(self, number: u32) -> Option<Self> {
        let own = pointer(self.0, &TASK_THREAD_PID)?;
        let level: u32 = field(own, &PID_LEVEL)?;
        let numbers = own + u64::from(PID_NUMBERS.load());
        let namespace = pointer(numbers + u64::from(level) * UPID_BYTES, &UPID_NS)?;
        let mut entry = pointer(namespace, &PIDNS_PIDS)?;
        let mut above = u8::MAX;
        for _ in 0..LEVELS {
            // Inner nodes are tagged; what is not one is a `struct pid`.
            if entry & 3 != 2 {
                break;
            }
            let node = entry - 2;
            let shift: u8 = field(node, &XA_SHIFT)?;
            let slot = u64::from(number) >> (shift & 31);
            // The topmost node says how large numbers are; one that is not below its parent is being freed.
            if shift >= above || (above == u8::MAX && slot >= SLOTS) {
                return None;
            }
            entry = slot_of(node, slot & (SLOTS - 1))?;
            above = shift;
        }
        if entry & 3 == 0 { Pid(entry).task() } else { None }
    }

    /// Whether its process has ended, though nobody may have waited for it yet.
    #[inline(always)]
    pub(crate) fn has_ended(self) -> bool {
        self.live_threads() == Some(0)
    }

    /// Whether its process was ended by a signal that wrote a core dump.
    #[inline(always)]
    pub(crate) fn dumped_core(self) -> bool {
        const DUMPED: u32 = 0x80;
        pointer(self.0, &TASK_SIGNAL)
            .and_then(|signal| field::<u32>(signal, &SIGNAL_EXIT_CODE))
            .is_some_and(|code| code & DUMPED != 0)
    }
}

#[inline(always)]
fn slot_of(node: u64, slot: u64) -> Option<u64> {
    match read(node + u64::from(XA_SLOTS.load()) + slot * 8) {
        0 => None,
        entry => Some(entry),
    }
}

impl Inode {
    /// The thread whose directory in procfs an inode lies in.
    #[inline(always)]
    fn proc_task(self) -> Option<Task> {
        if self.magic()? != PROC_MAGIC {
            return None;
        }
        let holder = self.0 - u64::from(PROC_INODE.load());
        Pid(pointer(holder, &PROC_PID)?).task()
    }
}

/// Whether a name of four bytes is the start of one of the files that show arguments and environment.
#[inline(always)]
const fn is_text(name: u32) -> bool {
    name == u32::from_ne_bytes(*b"envi") || name == u32::from_ne_bytes(*b"cmdl")
}

impl Task {
    /// Whether what it shows as its arguments and environment is more than the propagation floor.
    #[inline(always)]
    fn shows_more(self) -> bool {
        self.mm().and_then(Mm::carried_bytes).is_some_and(|bytes| bytes >= PROPAGATION_FLOOR.load())
    }
}

impl File {
    /// Whether this file is `/proc/PID/mem` of a process, which may have ended; or its `environ` or `cmdline`, where they show more
    /// than texts: a process can have them show any of its memory (`PR_SET_MM`).
    #[inline(always)]
    pub(crate) fn is_memory(self) -> bool {
        self.memory().is_some()
    }

    /// The thread whose memory this file is; only for a file that is one. `None` when it has ended and was waited for.
    #[inline(always)]
    pub(crate) fn memory_of(self) -> Option<Task> {
        self.memory()?.proc_task()
    }

    /// Whether it is `environ` or `cmdline` of a process, whatever that shows there now.
    #[inline(always)]
    pub(crate) fn is_text(self) -> bool {
        self.shown().is_some_and(|(_, name)| is_text(name))
    }

    /// As [`File::memory_of`], of [`File::is_text`] too.
    #[inline(always)]
    pub(crate) fn shown_of(self) -> Option<Task> {
        self.shown()?.0.proc_task()
    }

    /// A file of procfs, with the start of its name.
    #[inline(always)]
    fn shown(self) -> Option<(Inode, u32)> {
        let inode = self.inode()?;
        if inode.magic()? != PROC_MAGIC {
            return None;
        }
        // Short names are padded within the dentry.
        Some((inode, read(self.dentry()?.name()?)))
    }

    #[inline(always)]
    fn memory(self) -> Option<Inode> {
        let (inode, name) = self.shown()?;
        if name == u32::from_ne_bytes(*b"mem\0") || (is_text(name) && inode.proc_task()?.shows_more()) {
            Some(inode)
        } else {
            None
        }
    }

    /// The thread that a pidfd stands for; only for a file that is one.
    #[inline(always)]
    pub(crate) fn pidfd_task(self) -> Option<Task> {
        let inode = self.inode()?;
        if inode.magic()? == PIDFS_MAGIC {
            return Pid(pointer(inode.0, &INODE_PRIVATE)?).task();
        }
        Pid(pointer(self.0, &FILE_PRIVATE_DATA)?).task()
    }
}
