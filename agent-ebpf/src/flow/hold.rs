//! Becoming a holder.

use super::{is_agent, now, process, row, wake};
use crate::{
    kernel::Task,
    maps::{HOLDER_SCRATCH, HOLDERS, add, join, lose, mark, marks, set_marks, shared},
};
use agent_ebpf::{
    HolderKey, HolderValue, LOSS_HOLDERS_FULL, LOSS_READ_FAILED, MARK_HOLDER, MARK_OVERFLOW, MARK_WATCHED,
    OVERFLOW, SHARED_AGENT, SHARED_LOOK,
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
    if marks(key.tgid) & MARK_OVERFLOW != 0 {
        overflow(key.tgid, assets, 0, 0);
        return 0;
    }
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
    // Before there is a row, which user space can meet in a walk: then it knows whose it is.
    process::report(task);
    insert(&key, &NO_PARENT, assets, 0, 0);
    mark(key.tgid, MARK_HOLDER | MARK_WATCHED);
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

/// The assets that `task`'s process holds; 0 if it is no holder.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_assets_held(task: u64) -> u64 {
    match held(Task(task)) {
        // SAFETY: the row stays valid until the program ends.
        Some((_, row)) => unsafe { (*row).assets },
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

/// Whether the current process, a holder with the id `tgid`, is the agent: it holds nothing any more. Whoever starts it can be a holder
/// while an earlier agent's programs weigh, and what the agent would then write (its log, its state) would be carriers.
#[inline(always)]
pub(crate) fn absolves(tgid: u32) -> bool {
    shared(SHARED_AGENT) == u64::from(tgid) && flow_absolve(tgid) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_absolve(tgid: u32) -> u32 {
    let task = Task::current();
    if !is_agent(task, tgid) {
        return 0;
    }
    set_marks(tgid, marks(tgid) & !(MARK_HOLDER | MARK_WATCHED));
    if let Some(key) = task.holder_key() {
        let _ = HOLDERS.remove(&key);
    }
    1
}

/// The row that `task`'s process is counted in, if it is a holder.
#[inline(always)]
pub(crate) fn held(task: Task) -> Option<(HolderKey, *mut HolderValue)> {
    let mut key = task.holder_key()?;
    if marks(key.tgid) & MARK_OVERFLOW != 0 {
        key = OVERFLOW;
    }
    Some((key, HOLDERS.get_ptr_mut(&key)?))
}

/// Makes `child` a holder of all that `parent` holds, with at most `inherited` of its bytes.
#[inline(always)]
pub(crate) fn inherit(parent: &HolderKey, child: &HolderKey, row: &HolderValue, inherited: u64) {
    inherit_of(parent, child, row.assets, row.spreads, inherited);
}

/// The same, of these assets.
#[inline(always)]
pub(crate) fn inherit_of(parent: &HolderKey, child: &HolderKey, assets: u64, spreads: u64, inherited: u64) {
    insert(child, parent, assets, inherited, spreads);
}

/// Makes a row. Its value is put together outside of the stack, which deeper calls need.
#[inline(always)]
fn insert(key: &HolderKey, parent: &HolderKey, assets: u64, inherited: u64, spreads: u64) {
    if marks(key.tgid) & MARK_OVERFLOW != 0 {
        overflow(key.tgid, assets, inherited, spreads);
        return;
    }
    let Some(value) = HOLDER_SCRATCH.row() else { return };
    // SAFETY: a row of this program's alone. What is not written here stays zero for ever.
    let inserted = unsafe {
        (*value).assets = assets;
        (*value).taken = inherited;
        (*value).parent.tgid = parent.tgid;
        (*value).parent.exec = parent.exec;
        (*value).parent.start = parent.start;
        (*value).inherited = inherited;
        (*value).since = now();
        (*value).spreads = spreads;
        HOLDERS.insert(key, &*value, NOT_THERE)
    };
    // -EEXIST is another thread's success.
    if let Err(error) = inserted
        && error != -17
    {
        lose(LOSS_HOLDERS_FULL, 1);
        overflow(key.tgid, assets, inherited, spreads);
    }
}

/// From now on the process `tgid` is counted in the row that all share who found no room.
#[inline(always)]
fn overflow(tgid: u32, assets: u64, inherited: u64, spreads: u64) {
    mark(tgid, MARK_OVERFLOW | MARK_HOLDER | MARK_WATCHED);
    if let Some(row) = HOLDERS.get_ptr_mut(&OVERFLOW) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            join(&raw mut (*row).assets, assets);
            join(&raw mut (*row).spreads, spreads);
            add(&raw mut (*row).taken, inherited);
            add(&raw mut (*row).taken_beyond, inherited);
            moved(&OVERFLOW, row);
        }
    }
}

/// Counts what `holder` put somewhere that has no row. A process without a row, whose mapping will count once it holds
/// something, shares the row of all who found no room.
#[inline(always)]
pub(crate) fn put_beyond(holder: &HolderKey, is_peer: bool, bytes: u64) {
    let mut key = holder;
    if HOLDERS.get_ptr(key).is_none() {
        overflow(holder.tgid, 0, 0, 0);
        key = &OVERFLOW;
    }
    if let Some(row) = HOLDERS.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            if is_peer {
                add(&raw mut (*row).sent_beyond, bytes);
            } else {
                add(&raw mut (*row).put_beyond, bytes);
            }
            moved(key, row);
        }
    }
}

/// The same for the running process, and a carrier that has no row.
#[inline(always)]
pub(crate) fn feed_beyond(bytes: u64) {
    flow_feed_beyond(bytes);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_feed_beyond(bytes: u64) -> u32 {
    if let Some((key, row)) = held(Task::current()) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            add(&raw mut (*row).put_beyond, bytes);
            moved(&key, row);
        }
    }
    0
}
