//! The memory of a process: its address space and the mappings in it.

use agent_ebpf::fields::*;

use super::{File, Task, field, pointer};

#[derive(Clone, Copy)]
pub(crate) struct Mm(pub(crate) u64);

impl Mm {
    /// Some task of the process that it belongs to.
    #[inline(always)]
    pub(crate) fn owner(self) -> Option<Task> {
        pointer(self.0, &MM_OWNER).map(Task)
    }

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
