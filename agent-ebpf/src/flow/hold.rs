//! Becoming a holder.

use super::{now, process, row, wake};
use crate::{
    kernel::Task,
    maps::{HOLDERS, join, lose, mark, shared},
};
use agent_ebpf::{
    HolderKey, HolderValue, LOSS_HOLDERS_FULL, LOSS_READ_FAILED, MARK_HOLDER, MARK_WATCHED, SHARED_LOOK,
};

const NO_PARENT: HolderKey = HolderKey { tgid: 0, exec: 0, start: 0 };
/// `BPF_NOEXIST`: another thread that was first wins, with what it counted.
const NOT_THERE: u64 = 1;

/// Makes `task`'s process a holder of `assets` and returns its row.
///
/// Opening is enough, with nothing taken yet: then the bytes that one call both takes and puts (sendfile) are counted
/// whichever of the two is seen first.
#[inline(always)]
pub(crate) fn hold(task: Task, assets: u64) -> Option<(HolderKey, *mut HolderValue)> {
    flow_hold(task.0, assets);
    held(task)
}

/// As [`hold`], for who needs no row.
#[inline(always)]
pub(crate) fn become_holder(task: Task, assets: u64) {
    flow_hold(task.0, assets);
}

// VERIFIER: a function of its own, so that its row on the stack is gone before carriers are made («combined stack size of 5
// calls is 624. Too large»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_hold(task: u64, assets: u64) -> u32 {
    let task = Task(task);
    let Some(key) = task.holder_key() else {
        lose(LOSS_READ_FAILED, 1);
        return 0;
    };
    if let Some(row) = HOLDERS.get_ptr_mut(&key) {
        // SAFETY: a row of a map that is not preallocated stays valid until the program ends.
        unsafe {
            if (*row).assets & assets != assets {
                join(&raw mut (*row).assets, assets);
            }
        }
        // Again: marks are set without a lock, and one can be lost.
        mark(key.tgid, MARK_HOLDER | MARK_WATCHED);
        return 0;
    }
    let value = HolderValue {
        assets,
        parent: NO_PARENT,
        taken: 0,
        inherited: 0,
        since: now(),
        ended: 0,
        spreads: 0,
        told: 0,
    };
    insert(&key, &value);
    mark(key.tgid, MARK_HOLDER | MARK_WATCHED);
    process::report(task);
    row::holder(&key);
    0
}

/// From now on what the process can write into are carriers. Returns the assets of which the caller has to make them: 0
/// when that was done before.
///
/// # Safety
///
/// `row` is a live row of `HOLDERS`.
#[inline(always)]
pub(crate) unsafe fn spread(row: *mut HolderValue, assets: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        if (*row).spreads & assets == assets {
            return 0;
        }
        join(&raw mut (*row).spreads, assets);
    }
    assets
}

/// As [`spread`], for `task`'s process if it is a holder.
#[inline(always)]
pub(crate) fn spread_of(task: Task, assets: u64) -> u64 {
    match held(task) {
        // SAFETY: the row stays valid until the program ends.
        Some((_, row)) => unsafe { spread(row, assets) },
        None => 0,
    }
}

/// Assets of which all that `task`'s process can write into are carriers.
#[inline(always)]
pub(crate) fn spreads(task: Task) -> u64 {
    flow_spreads(task.0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_spreads(task: u64) -> u64 {
    match held(Task(task)) {
        // SAFETY: the row stays valid until the program ends.
        Some((_, row)) => unsafe { (*row).spreads },
        None => 0,
    }
}

/// Says that a row of this holder grew, after it did: once for each look of user space, which counts its looks between
/// reading what it was told and reading the rows.
///
/// # Safety
///
/// `row` is the live row of `key` in `HOLDERS`.
#[inline(always)]
pub(crate) unsafe fn moved(key: &HolderKey, row: *mut HolderValue) {
    let look = shared(SHARED_LOOK);
    // SAFETY: the caller's. Two CPUs that both see it differ send two facts, which does no harm.
    unsafe {
        if core::ptr::read_volatile(&raw const (*row).told) != look {
            core::ptr::write_volatile(&raw mut (*row).told, look);
            row::holder(key);
        }
    }
    wake();
}

/// The row of `task`'s process if it is a holder.
#[inline(always)]
pub(crate) fn held(task: Task) -> Option<(HolderKey, *mut HolderValue)> {
    let key = task.holder_key()?;
    Some((key, HOLDERS.get_ptr_mut(&key)?))
}

/// Makes `child` a holder of all that `parent` holds, with at most `inherited` of its bytes.
#[inline(always)]
pub(crate) fn inherit(parent: &HolderKey, child: &HolderKey, row: &HolderValue, inherited: u64) {
    let value = HolderValue {
        assets: row.assets,
        taken: inherited,
        parent: *parent,
        inherited,
        since: now(),
        ended: 0,
        spreads: row.spreads,
        told: 0,
    };
    insert(child, &value);
}

#[inline(always)]
fn insert(key: &HolderKey, value: &HolderValue) {
    // -EEXIST is another thread's success.
    if let Err(error) = HOLDERS.insert(key, value, NOT_THERE)
        && error != -17
    {
        lose(LOSS_HOLDERS_FULL, 1);
    }
}
