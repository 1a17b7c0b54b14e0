//! Memory that several processes share (`clone(CLONE_VM)`, `vfork`): what one of them took, each can put.
//!
//! Who shares is noted when the clone is made, and for older processes by the scan at the start. A process that takes adds to
//! the row of its memory; one that puts looks there first and inherits what the others took. This file must not know which
//! call takes or puts.

use agent_ebpf::{
    HolderKey, LOSS_SPACES_FULL, MARK_HOLDER, MARK_SPACE, MARK_WATCHED, SHARED_SPACES, SharerValue,
    SpaceValue,
};

use super::{carrier, hold, process, row, wake};
use crate::{
    kernel::{Mm, Task},
    maps::{HOLDERS, SHARED, SHARERS, SPACES, add, join, lose, mark, marks, set_marks, shared},
};

const NOBODY: HolderKey = HolderKey { tgid: 0, exec: 0, start: 0 };
/// `BPF_NOEXIST`.
const NOT_THERE: u64 = 1;

/// `tgid` shares `memory` with another process from now on; of what it holds, `brought` bytes are the other's.
#[inline(always)]
pub(crate) fn share(tgid: u32, memory: Mm, brought: u64) {
    flow_share_space(tgid, memory.0, brought);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_share_space(tgid: u32, memory: u64, brought: u64) -> u32 {
    let row = SpaceValue { members: 0, assets: 0, taken: 0, spreads: 0, taker: NOBODY };
    // It is there already when others share it.
    let _ = SPACES.insert(&memory, &row, NOT_THERE);
    if SHARERS.insert(&tgid, &SharerValue { memory, counted: 0, brought }, NOT_THERE).is_ok() {
        match SPACES.get_ptr_mut(&memory) {
            // SAFETY: the row stays valid until the program ends.
            Some(row) => unsafe { add(&raw mut (*row).members, 1) },
            None => lose(LOSS_SPACES_FULL, 1),
        }
    } else if SHARERS.get_ptr(&tgid).is_none() {
        lose(LOSS_SPACES_FULL, 1);
    }
    mark(tgid, MARK_SPACE);
    0
}

/// The process leaves the memory that it was noted for: it executes another program, or ends.
#[inline(always)]
pub(crate) fn leave(tgid: u32) {
    flow_leave(tgid);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_leave(tgid: u32) -> u32 {
    let Some(sharer) = SHARERS.get_ptr(&tgid) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let memory = unsafe { (*sharer).memory };
    if SHARERS.remove(&tgid).is_err() {
        return 0;
    }
    if let Some(row) = SPACES.get_ptr_mut(&memory) {
        // SAFETY: the row stays valid until the program ends. Adding all ones subtracts one.
        let left = unsafe {
            add(&raw mut (*row).members, u64::MAX);
            core::ptr::read_volatile(&raw const (*row).members)
        };
        if left == 0 {
            let _ = SPACES.remove(&memory);
        }
    }
    0
}

/// Adds what `task`'s process took since the last time, if it shares its memory.
#[inline(always)]
pub(crate) fn settle(task: Task) {
    flow_settle(task.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_settle(task: u64) -> u32 {
    let task = Task(task);
    let Some(tgid) = task.tgid() else { return 0 };
    if marks(tgid) & MARK_SPACE == 0 {
        return 0;
    }
    let Some((key, holder)) = hold::held(task) else { return 0 };
    let Some(sharer) = SHARERS.get_ptr_mut(&tgid) else { return 0 };
    // SAFETY: the rows stay valid until the program ends. Two threads at once can add the same bytes twice, never lose any.
    unsafe {
        let Some(row) = SPACES.get_ptr_mut(&(*sharer).memory) else { return 0 };
        let own = (*holder).taken.saturating_sub((*sharer).brought);
        if own > (*sharer).counted {
            add(&raw mut (*row).taken, own - (*sharer).counted);
            core::ptr::write_volatile(&raw mut (*sharer).counted, own);
            (*row).taker = key;
            join(&raw mut (*row).spreads, (*holder).spreads);
            join(&raw mut (*row).assets, (*holder).assets);
        }
    }
    if let Some(word) = SHARED.get_ptr_mut(SHARED_SPACES) {
        // SAFETY: a word of an array map.
        unsafe { core::ptr::write_volatile(word, 1) };
    }
    0
}

/// Whether `marks` are those of a process that may put what another took.
#[inline(always)]
pub(crate) fn may_bring(marks: u8) -> bool {
    marks & MARK_SPACE != 0 && shared(SHARED_SPACES) != 0
}

/// Makes `task`'s process a holder of what others took into the memory that it shares. Returns its marks.
// Not inlined: its frame would be on the stack of all that the caller calls.
#[inline(never)]
pub(crate) fn bring(task: Task, tgid: u32) -> u8 {
    carrier::adopt(task, flow_bring(task.0, tgid));
    marks(tgid)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_bring(task: u64, tgid: u32) -> u64 {
    let task = Task(task);
    if !task.shares_memory() {
        set_marks(tgid, marks(tgid) & !MARK_SPACE);
        // Looked at again: whoever clones now counts as a user first and is marked then, so that either his mark comes after
        // ours or we see him.
        if task.shares_memory() {
            mark(tgid, MARK_SPACE);
        }
    }
    // What was taken before the others left is still there.
    bring_from_space(task, tgid).unwrap_or(0)
}

#[inline(always)]
fn bring_from_space(task: Task, tgid: u32) -> Option<u64> {
    let sharer = SHARERS.get_ptr_mut(&tgid)?;
    // SAFETY: the rows stay valid until the program ends.
    unsafe {
        let row = SPACES.get_ptr(&(*sharer).memory)?;
        let others = (*row).taken.saturating_sub((*sharer).counted);
        let before = (*sharer).brought;
        if others <= before {
            return None;
        }
        core::ptr::write_volatile(&raw mut (*sharer).brought, others);
        inherit(task, &(*row).taker, (*row).assets, (*row).spreads, others - before)
    }
}

/// Makes `task`'s process a holder of `assets` that inherits `more` bytes from `source`. Returns the assets that it spreads from
/// now on.
#[inline(always)]
fn inherit(task: Task, source: &HolderKey, assets: u64, spreads: u64, more: u64) -> Option<u64> {
    let key = task.holder_key()?;
    let Some(own) = HOLDERS.get_ptr_mut(&key) else {
        process::report(task);
        hold::inherit_of(source, &key, assets, spreads, more);
        mark(key.tgid, MARK_HOLDER | MARK_WATCHED);
        row::holder(&key);
        wake();
        return Some(spreads);
    };
    // SAFETY: the row stays valid until the program ends.
    unsafe {
        (*own).parent = *source;
        add(&raw mut (*own).inherited, more);
        add(&raw mut (*own).taken, more);
        join(&raw mut (*own).assets, assets);
        hold::moved(&key, own);
        Some(hold::spread(own, spreads))
    }
}

/// `to` can put what `from` holds: it works on a ring of io_uring that `from` made, whose registered buffers are its memory.
#[inline(always)]
pub(crate) fn lend(from: Task, to: Task) {
    carrier::adopt(to, flow_lend(from.0, to.0));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_lend(from: u64, to: u64) -> u64 {
    let Some((source, row)) = hold::held(Task(from)) else { return 0 };
    let to = Task(to);
    let before = match hold::held(to) {
        // SAFETY: the row stays valid until the program ends.
        Some((_, own)) => unsafe { (*own).inherited },
        None => 0,
    };
    // SAFETY: the row stays valid until the program ends.
    let (assets, spreads, taken) = unsafe { ((*row).assets, (*row).spreads, (*row).taken) };
    if taken <= before {
        return 0;
    }
    inherit(to, &source, assets, spreads, taken - before).unwrap_or(0)
}
