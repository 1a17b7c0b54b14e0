//! System calls that use a channel without a descriptor: System V messages and semaphores, kernel keys, extended attributes, symbolic
//! links, the lengths of POSIX messages.
//!
//! Misses: descriptions of keys as `/proc/keys` shows them, and names of attributes.

use super::syscall::Call;
use crate::flow::{
    channel::{LARGEST_ATTRIBUTE, LONGEST_TEXT, class, on_put, on_take},
    map, overlay, put,
};
use crate::maps::NAME_SCRATCH;
use agent_ebpf::{
    CLASS_ATTRIBUTES, CLASS_SEMAPHORES, DEV_KEY, DEV_MESSAGES, NAME_BYTES, ObjectKey, syscalls,
};
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;

/// Most that a key holds whose length is not told: a key of type `big_key`.
const LARGEST_KEY: u64 = 1 << 20;
/// `KEY_SPEC_REQKEY_AUTH_KEY`: what the helper that is to make a key was told, by the name that it has for each of them.
const AUTHORISATION: u64 = -7_i64 as u64;

const SHM_RDONLY: u64 = 0o10_000;

/// A call returned whose kind [is a channel's](syscalls::is_channel). One that failed while it copied can have moved all that it was
/// asked to.
#[inline(never)]
pub(super) fn channelled(call: &Call, kind: u8) {
    let failed = (call.result as i64) < 0;
    let moved = |asked: u64| if failed || call.result > asked { asked } else { call.result };
    if kind == syscalls::ATTRIBUTE_SET_OPEN
        && !failed
        && let Some(file) = call.task.file(call.argument(0) as u32)
    {
        overlay::on_change(call.task, file);
    }
    match kind {
        syscalls::MESSAGE_SEND if !failed => {
            on_put(call.task, &messages(call, call.argument(0)), call.argument(2));
        }
        syscalls::MESSAGE_RECEIVE => {
            on_take(call.task, &messages(call, call.argument(0)), moved(call.argument(2)));
        }
        syscalls::QUEUE_SEND if !failed => {
            if let Some(file) = call.file(call.argument(0)) {
                put::on_put(call.task, file, call.argument(2));
            }
        }
        syscalls::ATTRIBUTE_SET | syscalls::ATTRIBUTE_SET_OPEN if !failed => {
            let bytes = call.argument(3);
            on_put(call.task, &class(CLASS_ATTRIBUTES), bytes);
            described(call, kind, bytes);
        }
        syscalls::ATTRIBUTE_GET => on_take(call.task, &class(CLASS_ATTRIBUTES), moved(call.argument(3))),
        // The length lies in user memory.
        syscalls::ATTRIBUTE_SET_AT if !failed => {
            on_put(call.task, &class(CLASS_ATTRIBUTES), LARGEST_ATTRIBUTE);
            put::on_put_unknown(call.task, LARGEST_ATTRIBUTE);
        }
        syscalls::ATTRIBUTE_GET_AT => on_take(call.task, &class(CLASS_ATTRIBUTES), moved(LARGEST_ATTRIBUTE)),
        syscalls::KEY_ADD if !failed => on_put(call.task, &key(call.result), call.argument(3)),
        syscalls::KEY_CONTROL => controlled(call, failed),
        // Whether there was such a key in the end or not: a helper of user space was asked, and told of it.
        syscalls::KEY_REQUEST => on_put(call.task, &key(AUTHORISATION), length(call, call.argument(2))),
        syscalls::LINK if !failed => stored(call, length(call, call.argument(0))),
        syscalls::SEMAPHORES => semaphores(call, call.argument(2), failed),
        syscalls::IPC => multiplexed(call, failed),
        _ => {}
    }
}

/// An attribute is stored where its file is, and goes where that goes. Which file a path named is not told.
#[inline(always)]
fn described(call: &Call, kind: u8, bytes: u64) {
    match if kind == syscalls::ATTRIBUTE_SET_OPEN { call.file(call.argument(0)) } else { None } {
        Some(file) => put::on_describe(call.task, file, bytes),
        None => stored(call, bytes),
    }
}

/// Something was stored in a directory or a file that a path named. As little as a name holds is not counted, and neither are names: a
/// backup sets labels and makes links by the thousand.
#[inline(always)]
fn stored(call: &Call, bytes: u64) {
    if bytes >= NAME_BYTES as u64 {
        put::on_put_unknown(call.task, bytes);
    }
}

/// Bytes of a text in user memory; of a longer one as many as it can have, and of one that somebody else can have changed since the
/// kernel read it.
#[inline(always)]
fn length(call: &Call, text: u64) -> u64 {
    let Some(scratch) = NAME_SCRATCH.row() else { return LONGEST_TEXT };
    if text == 0 {
        return 0;
    }
    if call.may_have_changed() {
        return LONGEST_TEXT;
    }
    // SAFETY: a row of this program's alone, which takes so many bytes; the helper checks the address.
    let read = unsafe {
        bpf_probe_read_user_str((&raw mut (*scratch).name).cast(), NAME_BYTES as u32, text as *const _)
    };
    if read >= 0 && (read as usize) < NAME_BYTES { read as u64 } else { LONGEST_TEXT }
}

/// keyctl(operation, key, …).
#[inline(always)]
fn controlled(call: &Call, failed: bool) {
    const UPDATE: u64 = 2;
    const DESCRIBE: u64 = 6;
    const READ: u64 = 11;
    const INSTANTIATE: u64 = 12;
    const INSTANTIATE_IOV: u64 = 20;
    let key = key(call.argument(1));
    match call.argument(0) {
        UPDATE | INSTANTIATE if !failed => on_put(call.task, &key, call.argument(3)),
        INSTANTIATE_IOV if !failed => on_put(call.task, &key, LARGEST_KEY),
        // It returns the length of the key, and copies nothing when there is no room for it.
        DESCRIBE | READ if failed || call.result <= call.argument(3) => {
            on_take(call.task, &key, if failed { call.argument(3) } else { call.result });
        }
        _ => {}
    }
}

/// semctl(id, number, command, …): of all semaphores of a set at once. How many there are is not told.
#[inline(always)]
fn semaphores(call: &Call, command: u64, failed: bool) {
    const GETALL: u64 = 13;
    const SETALL: u64 = 17;
    /// Two bytes for each of as many as a set has unless `kernel.sem` says otherwise (`SEMMSL`).
    const LARGEST_SET: u64 = 64_000;
    match command & 0xff {
        SETALL if !failed => on_put(call.task, &class(CLASS_SEMAPHORES), LARGEST_SET),
        GETALL => on_take(call.task, &class(CLASS_SEMAPHORES), LARGEST_SET),
        _ => {}
    }
}

/// The call of i386 for all of System V (`sys_ipc`).
#[inline(always)]
fn multiplexed(call: &Call, failed: bool) {
    const SEMCTL: u64 = 3;
    const MSGSND: u64 = 11;
    const MSGRCV: u64 = 12;
    const SHMAT: u64 = 21;
    let queue = messages(call, call.argument(1));
    match call.argument(0) & 0xffff {
        SEMCTL => semaphores(call, call.argument(3), failed),
        MSGSND if !failed => on_put(call.task, &queue, call.argument(2)),
        MSGRCV => on_take(call.task, &queue, call.argument(2)),
        SHMAT if !failed => map::on_attach(call.task, call.argument(1), call.argument(2) & SHM_RDONLY == 0),
        _ => {}
    }
}

/// shmat(id, address, flags).
#[inline(always)]
pub(super) fn attached(call: &Call) {
    map::on_attach(call.task, call.argument(0), call.argument(2) & SHM_RDONLY == 0);
}

#[inline(always)]
fn messages(call: &Call, id: u64) -> ObjectKey {
    ObjectKey { dev: DEV_MESSAGES, generation: call.task.ipc_namespace(), ino: id & 0xffff_ffff }
}

#[inline(always)]
const fn key(serial: u64) -> ObjectKey {
    ObjectKey { dev: DEV_KEY, generation: 0, ino: serial & 0xffff_ffff }
}
