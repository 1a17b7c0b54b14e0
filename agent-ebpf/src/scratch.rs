//! Memory of a running program's own, for what is too large for its stack or must pass between global functions. It must not
//! know what is kept in it.
//!
//! Programs on tracepoints run with preemption off and do not nest, so that each CPU needs one row for them. Iterators run in
//! the thread that reads them and can be preempted (`bpf_iter_run_prog` only keeps them on their CPU), so that they have a
//! second one: the agent runs them in one thread, one after the other.

use agent_ebpf::SHARED_SCANNER;
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, maps::PerCpuArray};

use crate::maps::{set_shared, shared};

const ROWS: u32 = 2;

/// Two rows for each CPU. What nobody writes stays zero.
#[repr(transparent)]
pub(crate) struct Scratch<T>(PerCpuArray<T>);

impl<T> Scratch<T> {
    pub(crate) const fn new() -> Self {
        Self(PerCpuArray::with_max_entries(ROWS, 0))
    }

    /// The row of the program that runs.
    #[inline(always)]
    pub(crate) fn row(&self) -> Option<*mut T> {
        self.0.get_ptr_mut(u32::from(is_scanning()))
    }
}

/// Says that the thread that runs reads an iterator. Whatever else it does later may use the same row, for it is not in the
/// iterator then.
#[inline(always)]
pub(crate) fn scan() {
    if !is_scanning() {
        set_shared(SHARED_SCANNER, bpf_get_current_pid_tgid());
    }
}

#[inline(always)]
fn is_scanning() -> bool {
    shared(SHARED_SCANNER) == bpf_get_current_pid_tgid()
}
