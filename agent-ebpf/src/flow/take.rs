//! A process took bytes out of an asset or a carrier.

use super::{carrier, hold, is_agent, now, object, row, space};
use crate::{
    kernel::{File, Sock, Task},
    maps::{PROPAGATION_FLOOR, TAKES, add, lose},
};
use agent_ebpf::{
    DEV_ASSET, LOSS_HOLDERS_FULL, LOSS_TAKES_FULL, OBJECT_FILE, ObjectKey, ObjectValue, TakeKey, TakeValue,
};

/// `task` read `bytes` from `file`; nothing happens unless it is protected or a carrier.
#[inline(always)]
pub(crate) fn on_take(task: Task, file: File, bytes: u64) {
    carrier::adopt(task, flow_take(task.0, file.0, bytes));
    space::settle(task);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take(task: u64, file: u64, bytes: u64) -> u64 {
    match object::source(File(file)) {
        Some((key, object)) if bytes != 0 => take(Task(task), key, object, bytes),
        _ => 0,
    }
}

/// `task` received `bytes` from `sock`; nothing happens unless it is a carrier.
#[inline(always)]
pub(crate) fn on_receive(task: Task, sock: Sock, bytes: u64) {
    carrier::adopt(task, flow_receive(task.0, sock.0, bytes));
    space::settle(task);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_receive(task: u64, sock: u64, bytes: u64) -> u64 {
    match object::source_of(Sock(sock)) {
        Some((key, object)) if bytes != 0 => take(Task(task), key, object, bytes),
        _ => 0,
    }
}

/// Counts a take and returns the assets that the process spreads from now on, see [`hold::spread`].
#[inline(always)]
pub(crate) fn take(task: Task, key: ObjectKey, object: ObjectValue, bytes: u64) -> u64 {
    if is_agent(task, task.tgid().unwrap_or(0)) {
        return 0;
    }
    let Some((holder, row)) = hold::hold(task, object.assets) else {
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
        add(&raw mut (*row).taken, bytes);
        if object.kind == OBJECT_FILE || (*row).taken >= PROPAGATION_FLOOR.load() {
            hold::spread(row, object.assets)
        } else {
            0
        }
    };
    count(&TakeKey { holder, source }, bytes);
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    spreads
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
            add(&raw mut (*row).bytes, bytes);
            (*row).last = now();
        }
    }
}
