//! A process took bytes out of an asset or a carrier.

use super::{carrier, channel, hold, is_agent, now, object, row, space};
use crate::{
    kernel::{File, Sock, Task},
    maps::{PROPAGATION_FLOOR, TAKES, add, add_shared, lose, shared},
};
use agent_ebpf::{
    CANARY_ASSET, DEV_ASSET, FLOORS, LOSS_HOLDERS_FULL, LOSS_TAKES_FULL, OBJECT_FILE, ObjectKey, ObjectValue,
    SHARED_SMALL, TakeKey, TakeValue,
};

/// The canary proves what its own process puts. It goes no further: else everybody who happens to get a socket where one of its own
/// was would hold it.
const CANARY: u64 = 1 << CANARY_ASSET;

/// Sums beyond this say no more, and must not wrap.
const ENOUGH: u64 = 1 << 62;

/// `task` read `bytes` from `file`; nothing happens unless it is protected or a carrier.
#[inline(always)]
pub(crate) fn on_take(task: Task, file: File, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let assets = flow_assets(file.0);
    if assets != 0 && become_holder(task, assets) {
        carrier::adopt(task, flow_take(task.0, file.0, bytes));
    }
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

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take(task: u64, file: u64, bytes: u64) -> u64 {
    match object::source(File(file)) {
        Some((key, object)) => take(Task(task), key, object, bytes),
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
    let Some((holder, row)) = hold::held(task) else {
        lose(LOSS_HOLDERS_FULL, bytes);
        return 0;
    };
    let source = if object.kind == OBJECT_FILE {
        ObjectKey { dev: DEV_ASSET, generation: 0, ino: u64::from(object.asset) }
    } else {
        key
    };
    // SAFETY: the row stays valid until the program ends.
    let spreads = unsafe {
        if (*row).taken < ENOUGH {
            add(&raw mut (*row).taken, bytes);
        }
        if object.kind == OBJECT_FILE || (*row).taken >= PROPAGATION_FLOOR.load() || is_too_much(bytes) {
            hold::spread(row, object.assets & !CANARY)
        } else {
            0
        }
    };
    count(&TakeKey { holder, source }, bytes);
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    spreads
}

/// Whether small portions came to so much on this host that each of them spreads.
#[inline(always)]
fn is_too_much(bytes: u64) -> bool {
    add_shared(SHARED_SMALL, bytes);
    shared(SHARED_SMALL) >= PROPAGATION_FLOOR.load() * FLOORS
}

#[inline(always)]
fn count(key: &TakeKey, bytes: u64) {
    if TAKES.get_ptr(key).is_none() {
        if TAKES.insert(key, &TakeValue { bytes: 0, last: 0 }, 1).is_ok() {
            row::take(key);
        } else if TAKES.get_ptr(key).is_none() {
            lose(LOSS_TAKES_FULL, bytes);
            return;
        }
    }
    if let Some(row) = TAKES.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends; `last` is a hint, torn by nobody on 64-bit machines.
        unsafe {
            if (*row).bytes < ENOUGH {
                add(&raw mut (*row).bytes, bytes);
            }
            (*row).last = now();
        }
    }
}
