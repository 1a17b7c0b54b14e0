//! A process took bytes out of an asset or a carrier.

use super::{carrier, channel, hold, is_agent, now, object, reach, row, space, store};
use crate::{
    kernel::{File, PROC_MAGIC, Sock, Task},
    maps::{PROPAGATION_FLOOR, STORED_SCRATCH, TAKES, add, add_shared, lose, mark, shared},
};
use agent_ebpf::{
    CANARY_SET, DEV_ASSET, FLOORS, HolderKey, HolderValue, LOSS_HOLDERS_FULL, LOSS_TAKES_FULL, MARK_HOLDER,
    MARK_WATCHED, OBJECT_FILE, OBJECT_STORE, OVERFLOW, ObjectKey, ObjectValue, SHARED_SMALL, TakeKey,
    TakeValue,
};

/// What [`flow_take`] answers when the process is no holder of what it took from: nobody spreads the canary.
const NOT_HOLDING: u64 = CANARY_SET;

/// Sums beyond this say no more, and must not wrap.
const ENOUGH: u64 = 1 << 62;

/// `task` read `bytes` from `file`; nothing happens unless it is protected or a carrier.
#[inline(always)]
pub(crate) fn on_take(task: Task, file: File, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let assets = flow_assets(file.0);
    let spreads = if assets == 0 && !object::was_of(PROC_MAGIC) {
        0
    } else if assets == 0 {
        reach::flow_read_memory(task.0, file.0, bytes) | flow_take_stored(task.0, bytes)
    } else {
        let mut spreads = flow_take(task.0, file.0, bytes);
        if spreads == NOT_HOLDING {
            spreads = if become_holder(task, assets) { flow_take(task.0, file.0, bytes) } else { 0 };
            if spreads == NOT_HOLDING {
                lose(LOSS_HOLDERS_FULL, 1);
            }
        }
        // VERIFIER: what a store gives is left by the first for the second, so that it is not on the stack of both («combined
        // stack size»).
        spreads & !NOT_HOLDING | flow_take_stored(task.0, bytes)
    };
    carrier::adopt(task, spreads);
    // Both are charged where both can have given the bytes: a carrier with little in it must not hide its class.
    let assets = flow_class_assets(file.0);
    if assets != 0 && become_holder(task, assets) {
        carrier::adopt(task, flow_take_class(task.0, file.0, bytes));
    }
    space::settle(task);
}

/// `task` received `bytes` from `sock`; nothing happens unless it is a carrier, or of a class that is one.
#[inline(always)]
pub(crate) fn on_receive(task: Task, sock: Sock, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let assets = flow_assets_of(sock.0);
    if assets != 0 && become_holder(task, assets) {
        carrier::adopt(task, flow_receive(task.0, sock.0, bytes));
    }
    if let Some(class) = channel::class_of(sock) {
        channel::on_take(task, &class, bytes);
    }
    space::settle(task);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_assets_of(sock: u64) -> u64 {
    match object::source_of(Sock(sock)) {
        Some((_, object)) => object.assets,
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_receive(task: u64, sock: u64, bytes: u64) -> u64 {
    match object::source_of(Sock(sock)) {
        Some((key, object)) => take(Task(task), key, object, bytes),
        _ => 0,
    }
}

/// Makes `task`'s process a holder, unless it is our own.
// VERIFIER: before the take and not by it, so that neither is on the other's stack («combined stack size»).
#[inline(always)]
pub(crate) fn become_holder(task: Task, assets: u64) -> bool {
    if is_agent(task, task.tgid().unwrap_or(0)) {
        return false;
    }
    hold::become_holder(task, assets);
    true
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_assets(file: u64) -> u64 {
    match object::source(File(file)) {
        Some((_, object)) => object.assets,
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_class_assets(file: u64) -> u64 {
    match object::source_class(File(file)) {
        Some((_, object)) => object.assets,
        None => 0,
    }
}

/// Counts a take from what the last search found. A process that is no holder of it yet is made one first: most are.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take(task: u64, file: u64, bytes: u64) -> u64 {
    let (task, file) = (Task(task), File(file));
    stored(0);
    let Some((key, object)) = object::source_again(file) else { return 0 };
    let Some((holder, row)) = hold::held(task) else { return NOT_HOLDING };
    // SAFETY: the row stays valid until the program ends.
    if unsafe { (*row).assets } & object.assets != object.assets || is_agent(task, holder.tgid) {
        return NOT_HOLDING;
    }
    if object.kind == OBJECT_STORE {
        store::read(task, file, object.assets);
        stored(object.assets);
        return 0;
    }
    // Again: marks are set without a lock, and one can be lost.
    if holder.tgid != OVERFLOW.tgid {
        mark(holder.tgid, MARK_HOLDER | MARK_WATCHED);
    }
    take_of(holder, row, key, object, bytes)
}

/// Leaves the assets of the store that was read from for [`flow_take_stored`].
#[inline(always)]
pub(super) fn stored(assets: u64) {
    if let Some(scratch) = STORED_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe { *scratch = assets };
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take_stored(task: u64, bytes: u64) -> u64 {
    // SAFETY: a row of this program's alone, written by `flow_take`.
    match STORED_SCRATCH.row().map(|assets| unsafe { *assets }) {
        Some(assets) if assets != 0 => store::flow_take_store(task, assets, bytes),
        _ => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take_class(task: u64, file: u64, bytes: u64) -> u64 {
    match object::source_class(File(file)) {
        Some((key, object)) => take(Task(task), key, object, bytes),
        _ => 0,
    }
}

/// Counts a take of a process that holds already; returns the assets that it spreads from now on, see [`hold::spread`].
#[inline(always)]
pub(crate) fn take(task: Task, key: ObjectKey, object: ObjectValue, bytes: u64) -> u64 {
    match hold::held(task) {
        Some((holder, row)) => take_of(holder, row, key, object, bytes),
        None => {
            lose(LOSS_HOLDERS_FULL, 1);
            0
        }
    }
}

#[inline(always)]
fn take_of(holder: HolderKey, row: *mut HolderValue, key: ObjectKey, object: ObjectValue, bytes: u64) -> u64 {
    let source = if object.kind == OBJECT_FILE {
        ObjectKey { dev: DEV_ASSET, generation: 0, ino: u64::from(object.asset) }
    } else {
        key
    };
    // SAFETY: the row stays valid until the program ends.
    unsafe { taken(&TakeKey { holder, source }, row, object.assets, bytes, object.kind == OBJECT_FILE) }
}

/// Counts a take of a holder of `assets`. Returns the assets that it spreads from now on: at once when the bytes are an asset's
/// own, else from the propagation floor on.
///
/// # Safety
///
/// `row` is the live row of the key's holder in `HOLDERS`.
#[inline(always)]
pub(crate) unsafe fn taken(
    key: &TakeKey,
    row: *mut HolderValue,
    assets: u64,
    bytes: u64,
    is_asset: bool,
) -> u64 {
    // SAFETY: the caller's.
    let spreads = unsafe {
        if (*row).taken < ENOUGH {
            add(&raw mut (*row).taken, bytes);
        }
        if is_asset || (*row).taken >= PROPAGATION_FLOOR.load() || is_too_much(bytes) {
            hold::spread(row, assets & !CANARY_SET)
        } else {
            0
        }
    };
    // SAFETY: the caller's.
    unsafe {
        if !count(key, bytes) {
            add(&raw mut (*row).taken_beyond, bytes);
        }
        hold::moved(&key.holder, row);
    }
    spreads
}

/// Whether small portions came to so much on this host that each of them spreads.
#[inline(always)]
fn is_too_much(bytes: u64) -> bool {
    add_shared(SHARED_SMALL, bytes);
    shared(SHARED_SMALL) >= PROPAGATION_FLOOR.load() * FLOORS
}

/// Whether there was room.
#[inline(always)]
fn count(key: &TakeKey, bytes: u64) -> bool {
    let known = TAKES.get_ptr_mut(key);
    let is_new = known.is_none() && TAKES.insert(key, &TakeValue { bytes: 0, last: 0 }, 1).is_ok();
    if is_new {
        row::take(key);
    }
    let Some(row) = known.or_else(|| TAKES.get_ptr_mut(key)) else {
        lose(LOSS_TAKES_FULL, bytes);
        return false;
    };
    // SAFETY: the row stays valid until the program ends; `last` is a hint, torn by nobody on 64-bit machines.
    unsafe {
        if (*row).bytes < ENOUGH {
            add(&raw mut (*row).bytes, bytes);
        }
        (*row).last = now();
    }
    true
}
