//! io_uring: requests and the rings that they come by.

use agent_ebpf::fields::*;

use super::{File, Mm, Task, field, pointer, read};

/// A request of io_uring (`struct io_kiocb`).
#[derive(Clone, Copy)]
pub(crate) struct UringRequest(pub(crate) u64);

impl UringRequest {
    /// The file that it works on, once that is looked up.
    #[inline(always)]
    pub(crate) fn file(self) -> Option<File> {
        pointer(self.0, &URING_FILE).map(File)
    }

    #[inline(always)]
    pub(crate) fn opcode(self) -> Option<u8> {
        field(self.0, &URING_OPCODE)
    }

    /// The lower half of its flags: the first byte is that of the submission (`IOSQE_…`), the others the kernel's own.
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        field(self.0, &URING_FLAGS).unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn ring(self) -> Option<UringRing> {
        pointer(self.0, &URING_RING).map(UringRing)
    }

    #[inline(always)]
    pub(crate) fn user_data(self) -> u64 {
        field(self.0, &URING_USER_DATA).unwrap_or(0)
    }

    /// Descriptor or slot that it was submitted with; what stands there is its result once it completed.
    #[inline(always)]
    pub(crate) fn descriptor(self) -> Option<u32> {
        field(self.0, &URING_FD)
    }

    /// Its result, once it completed.
    #[inline(always)]
    pub(crate) fn result(self) -> Option<i32> {
        field(self.0, &URING_RES)
    }

    /// Who submitted it. Whoever completes it can be another process, or a worker of the kernel.
    #[inline(always)]
    pub(crate) fn task(self) -> Option<Task> {
        if URING_TCTX.load() == ABSENT {
            return pointer(self.0, &URING_TASK).map(Task);
        }
        pointer(pointer(self.0, &URING_TCTX)?, &TCTX_TASK).map(Task)
    }

    /// Of a read or write: the length, or the number of vectors.
    #[inline(always)]
    pub(crate) fn rw_length(self) -> Option<u32> {
        field(self.0, &RW_LEN)
    }

    /// Of a read or write of vectors: their length, where the kernel has them already.
    #[inline(always)]
    pub(crate) fn rw_count(self) -> Option<u64> {
        field(pointer(self.0, &URING_ASYNC_DATA)?, &RW_COUNT)
    }

    #[inline(always)]
    pub(crate) fn splice_length(self) -> Option<u64> {
        field(self.0, &SPLICE_LEN)
    }

    /// Descriptor or slot that a splice takes from.
    #[inline(always)]
    pub(crate) fn splice_input(self) -> Option<u32> {
        field(self.0, &SPLICE_FD_IN)
    }

    #[inline(always)]
    pub(crate) fn splice_flags(self) -> u32 {
        field(self.0, &SPLICE_FLAGS).unwrap_or(0)
    }

    /// Of an open: the slot that the file goes into, counted from 1; 0 for a descriptor.
    #[inline(always)]
    pub(crate) fn open_slot(self) -> u32 {
        field(self.0, &OPEN_SLOT).unwrap_or(0)
    }
}

/// A ring (`struct io_ring_ctx`).
#[derive(Clone, Copy)]
pub(crate) struct UringRing(pub(crate) u64);

impl UringRing {
    /// The file in a slot of its table.
    #[inline(always)]
    pub(crate) fn file(self, slot: u32) -> Option<File> {
        /// The lower bits of a slot are flags (`FFS_MASK`).
        const ADDRESS: u64 = !7;
        let found = if RING_NODES.load() == ABSENT {
            // Before 6.13 the slots themselves stand in the table.
            if slot >= field::<u32>(self.0, &RING_OLD_FILES)? {
                return None;
            }
            let table = pointer(self.0, &RING_OLD_TABLE)?;
            read(table + u64::from(slot) * 8)
        } else {
            if slot >= field::<u32>(self.0, &RING_FILES)? {
                return None;
            }
            let table = pointer(self.0, &RING_NODES)?;
            let node = read(table + u64::from(slot) * 8);
            field::<u64>(node, &NODE_FILE)?
        };
        if found & ADDRESS == 0 { None } else { Some(File(found & ADDRESS)) }
    }

    /// The memory of whoever made the ring.
    #[inline(always)]
    pub(crate) fn memory(self) -> Option<Mm> {
        pointer(self.0, &RING_MM).map(Mm)
    }
}
