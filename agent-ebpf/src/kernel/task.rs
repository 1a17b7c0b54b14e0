//! Tasks: a process, its threads and its table of descriptors.

use agent_ebpf::{HolderKey, fields::*};
use aya_ebpf::helpers::generated::bpf_get_current_task;

use super::{File, Mm, field, fold, pointer, read};

/// `thread_info.status`: this system call came through the 32-bit entry.
const TS_COMPAT: u32 = 2;
/// `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

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

    /// Whether it ever made a ring of io_uring, or submitted to one.
    #[inline(always)]
    pub(crate) fn has_requests(self) -> bool {
        pointer(self.0, &TASK_IO_URING).is_some_and(|requests| requests != 0)
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

    /// When its process started, ns since boot.
    #[inline(always)]
    pub(crate) fn start(self) -> Option<u64> {
        field(self.leader()?.0, &TASK_START_BOOTTIME)
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

    /// Threads of its group that still run; in `sched_process_exit` this one is counted out already.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> Option<u32> {
        field(pointer(self.0, &TASK_SIGNAL)?, &SIGNAL_LIVE)
    }

    /// Address of its kernel stack.
    #[inline(always)]
    pub(crate) fn stack(self) -> Option<u64> {
        pointer(self.0, &TASK_STACK)
    }

    /// The first link of the list of its process's threads.
    #[inline(always)]
    pub(crate) fn threads(self) -> Option<ThreadLink> {
        let signal = pointer(self.0, &TASK_SIGNAL)?;
        let head = signal + u64::from(SIGNAL_THREADS.load());
        Some(ThreadLink { head, at: head })
    }

    /// Address of its descriptor table, for comparison only.
    #[inline(always)]
    pub(crate) fn files(self) -> Option<u64> {
        pointer(self.0, &TASK_FILES)
    }

    /// Whether another process has its descriptor table too. A thread on its way out counts as one.
    #[inline(always)]
    pub(crate) fn shares_files(self) -> bool {
        match (pointer(self.0, &TASK_FILES), self.live_threads()) {
            (Some(files), Some(threads)) => {
                field::<u32>(files, &FILES_COUNT).is_none_or(|users| users > threads)
            }
            _ => false,
        }
    }

    /// Whether another process has its memory too. Threads are counted out before they let go of it, so that this errs only
    /// towards sharing.
    #[inline(always)]
    pub(crate) fn shares_memory(self) -> bool {
        match (self.mm(), self.live_threads()) {
            (Some(mm), Some(threads)) => field::<u32>(mm.0, &MM_USERS).is_none_or(|users| users > threads),
            _ => false,
        }
    }

    /// Stands for its namespace of System V objects: 32 bits of the address.
    #[inline(always)]
    pub(crate) fn ipc_namespace(self) -> u32 {
        match pointer(self.0, &TASK_NSPROXY) {
            Some(proxy) => fold(pointer(proxy, &NSPROXY_IPC).unwrap_or(0)),
            None => 0,
        }
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
        let file = read(array + u64::from(descriptor) * 8);
        if file == 0 { None } else { Some(File(file)) }
    }
}

/// A place in the list of a process's threads (`signal_struct.thread_head`).
#[derive(Clone, Copy)]
pub(crate) struct ThreadLink {
    pub(crate) head: u64,
    pub(crate) at: u64,
}

impl ThreadLink {
    /// The next thread; `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Task> {
        // `next` is the first member of a `struct list_head`.
        self.at = read(self.at);
        if self.at == self.head || self.at == 0 {
            return None;
        }
        Some(Task(self.at - u64::from(TASK_THREAD_NODE.load())))
    }
}
