//! Acts: something that matters by itself, whatever bytes moved. Counted in a map, for a ring can be flooded.

use agent_ebpf::{
    HolderKey, LOSS_ACTS_FULL, SHARED_ACTS,
    acts::{ACT_CORE_DUMP, ActValue},
};

use super::{hold, now, wake};
use crate::{
    kernel::Task,
    maps::{ACT_SCRATCH, ACTS, PROPAGATION_FLOOR, SHARED, add, join, lose},
};

const NOBODY: HolderKey = HolderKey { tgid: 0, exec: 0, start: 0 };

/// `actor` did `kind` to `number`, which touched `assets`.
#[inline(always)]
pub(crate) fn note(actor: Task, kind: u32, number: u32, assets: u64) {
    flow_act(actor.0, 0, kind, number, assets);
}

/// `actor` reached into `victim`, which holds `assets`.
#[inline(always)]
pub(crate) fn note_against(actor: Task, victim: Task, kind: u32, assets: u64) {
    flow_act(actor.0, victim.0, kind, 0, assets);
}

/// Makes user space walk the rows.
#[inline(always)]
pub(crate) fn changed() {
    if let Some(changes) = SHARED.get_ptr_mut(SHARED_ACTS) {
        // SAFETY: a word of an array map.
        unsafe { add(changes, 1) };
    }
}

/// The kernel has written the memory of `task`, a holder, into a core dump: an act unless it holds no more than a line that it read
/// from another holder, or than the arguments that it was executed with.
#[inline(always)]
pub(crate) fn dumped(task: Task) {
    let Some((key, row)) = hold::held(task) else { return };
    // SAFETY: the row stays valid until the program ends.
    let (assets, taken, before) = unsafe { ((*row).spreads, (*row).taken, (*row).parent.tgid) };
    if assets != 0 && (before != key.tgid || taken >= PROPAGATION_FLOOR.load()) {
        note_against(task, task, ACT_CORE_DUMP, assets);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_act(actor: u64, victim: u64, kind: u32, number: u32, assets: u64) -> u32 {
    let Some(key) = ACT_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    let key = unsafe {
        (*key).actor = Task(actor).holder_key().unwrap_or(NOBODY);
        (*key).victim = match victim {
            0 => NOBODY,
            victim => Task(victim).holder_key().unwrap_or(NOBODY),
        };
        (*key).kind = kind;
        (*key).number = number;
        &*key
    };
    let now = now();
    if ACTS.get_ptr(key).is_none() {
        if ACTS.insert(key, &ActValue { assets, count: 0, first: now, last: now }, 1).is_ok() {
            changed();
        } else if ACTS.get_ptr(key).is_none() {
            lose(LOSS_ACTS_FULL, 1);
            return 0;
        }
    }
    if let Some(row) = ACTS.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends; `last` is a hint.
        unsafe {
            add(&raw mut (*row).count, 1);
            (*row).last = now;
            if (*row).assets & assets != assets {
                join(&raw mut (*row).assets, assets);
                changed();
            }
        }
    }
    wake();
    0
}
