//! The flow engine: what an open, a take and a put mean, whichever hook saw them.
//!
//! Hooks translate their arguments into these few calls; nothing here knows which system call or function it was.
//!
//! VERIFIER: the frames of a chain of calls have 512 bytes together («combined stack size of 7 calls is 616. Too large»), and
//! only kernels from 6.13 on give some programs a stack of their own. So the functions that are not inlined call no large
//! one in turn: they return what is left to do, and the inlined `on_…` that called them does it.

pub(crate) mod act;
pub(crate) mod carrier;
pub(crate) mod channel;
pub(crate) mod gpu;
pub(crate) mod hold;
pub(crate) mod layers;
pub(crate) mod looped;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod neighbour;
pub(crate) mod noted;
pub(crate) mod object;
pub(crate) mod open;
pub(crate) mod overlay;
pub(crate) mod overlays;
pub(crate) mod path;
pub(crate) mod process;
pub(crate) mod put;
pub(crate) mod race;
pub(crate) mod reach;
pub(crate) mod returned;
pub(crate) mod row;
pub(crate) mod send;
pub(crate) mod space;
pub(crate) mod store;
pub(crate) mod take;
pub(crate) mod tamper;
pub(crate) mod unmetered;
pub(crate) mod uring;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::{
    kernel::Task,
    maps::{FACTS, SHARED, lose, shared},
};
use agent_ebpf::{
    FACT_WAKE, LOSS_RING_FULL, SHARED_AGENT, SHARED_AGENT_START, SHARED_ASLEEP, TICK_NS, WakeFact,
};

/// `BPF_RB_FORCE_WAKEUP`: facts that wake nobody may lie before this one, and then the kernel would not wake for it either.
const FORCE_WAKEUP: u64 = 2;

/// ns since boot.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Whether `task`'s process, with the id `tgid`, is the agent itself.
#[inline(always)]
pub(crate) fn is_agent(task: Task, tgid: u32) -> bool {
    shared(SHARED_AGENT) == u64::from(tgid)
        && match task.start() {
            Some(start) => start / TICK_NS == shared(SHARED_AGENT_START),
            None => false,
        }
}

/// Wakes user space if it sleeps. Called after the counter grew, so that whoever drains after this sees the bytes.
#[inline(always)]
pub(crate) fn wake() {
    if let Some(asleep) = SHARED.get_ptr_mut(SHARED_ASLEEP) {
        // SAFETY: a word of an array map. Two CPUs that both see it set send two facts, which does no harm.
        unsafe {
            if core::ptr::read_volatile(asleep) != 0 {
                core::ptr::write_volatile(asleep, 0);
                let fact = WakeFact { fact: FACT_WAKE, reserved: 0, at: now() };
                if FACTS.output::<WakeFact>(&fact, FORCE_WAKEUP).is_err() {
                    // A full ring wakes the reader by itself.
                    lose(LOSS_RING_FULL, 1);
                }
            }
        }
    }
}
