//! System calls that use a channel without a descriptor: System V messages and semaphores, kernel keys, extended attributes, symbolic
//! links, the lengths of POSIX messages.
//!
//! Numbers are those of `arch/x86/entry/syscalls/syscall_{64,32}.tbl`. Misses: descriptions of keys as `/proc/keys` shows
//! them, and names of attributes.

use super::syscall::Call;
use crate::flow::{
    channel::{LARGEST_ATTRIBUTE, LONGEST_TEXT, class, on_put, on_take},
    map, overlay, put,
};
use crate::maps::NAME_SCRATCH;
use agent_ebpf::{
    CLASS_ATTRIBUTES, CLASS_SEMAPHORES, DEV_KEY, DEV_MESSAGES, MARK_MAPPED, MARK_SPACE, NAME_BYTES, ObjectKey,
};
use aya_ebpf::helpers::generated::bpf_probe_read_user_str;

/// Most that a key holds whose length is not told: a key of type `big_key`.
const LARGEST_KEY: u64 = 1 << 20;
/// `KEY_SPEC_REQKEY_AUTH_KEY`: what the helper that is to make a key was told, by the name that it has for each of them.
const AUTHORISATION: u64 = -7_i64 as u64;

const FSETXATTR: usize = 190;
const FSETXATTR_32: usize = 228;

const SHM_RDONLY: u64 = 0o10_000;

/// What the numbers of either ABI mean.
#[derive(Clone, Copy)]
enum Use {
    MessageSend,
    MessageReceive,
    QueueSend,
    AttributeSet,
    AttributeGet,
    AttributeSetAt,
    AttributeGetAt,
    KeyAdd,
    KeyControl,
    KeyRequest,
    Link,
    LinkAt,
    SemaphoreControl,
    /// ipc(call, first, second, third, pointer): 32-bit only.
    Ipc,
}

#[inline(always)]
fn meaning(number: usize, compat: bool) -> Option<Use> {
    Some(match (compat, number) {
        (false, 69) | (true, 400) => Use::MessageSend,
        (false, 70) | (true, 401) => Use::MessageReceive,
        (false, 242) | (true, 279 | 418) => Use::QueueSend,
        (false, 188..=190) | (true, 226..=228) => Use::AttributeSet,
        (false, 191..=193) | (true, 229..=231) => Use::AttributeGet,
        (_, 463) => Use::AttributeSetAt,
        (_, 464) => Use::AttributeGetAt,
        (false, 248) | (true, 286) => Use::KeyAdd,
        (false, 250) | (true, 288) => Use::KeyControl,
        (false, 249) | (true, 287) => Use::KeyRequest,
        (false, 88) | (true, 83) => Use::Link,
        (false, 266) | (true, 304) => Use::LinkAt,
        (false, 66) | (true, 394) => Use::SemaphoreControl,
        (true, 117) => Use::Ipc,
        _ => return None,
    })
}

/// A call of kind `CHANNEL` returned. One that failed while it copied can have moved all that it was asked to.
#[inline(never)]
pub(super) fn channelled(call: &Call, number: usize) {
    let Some(meaning) = meaning(number, call.compat) else { return };
    let failed = (call.result as i64) < 0;
    let moved = |asked: u64| if failed || call.result > asked { asked } else { call.result };
    if let Use::AttributeSet = meaning
        && !failed
        && number == if call.compat { FSETXATTR_32 } else { FSETXATTR }
        && let Some(file) = call.task.file(call.argument(0) as u32)
    {
        overlay::on_change(call.task, file);
    }
    match meaning {
        Use::MessageSend if !failed => on_put(call.task, &messages(call, call.argument(0)), call.argument(2)),
        Use::MessageReceive => on_take(call.task, &messages(call, call.argument(0)), moved(call.argument(2))),
        Use::QueueSend if !failed => {
            if let Some(file) = call.file(call.argument(0)) {
                put::on_put(call.task, file, call.argument(2));
            }
        }
        Use::AttributeSet if !failed => {
            let bytes = call.argument(3);
            on_put(call.task, &class(CLASS_ATTRIBUTES), bytes);
            described(call, number, bytes);
        }
        Use::AttributeGet => on_take(call.task, &class(CLASS_ATTRIBUTES), moved(call.argument(3))),
        // The length lies in user memory.
        Use::AttributeSetAt if !failed => {
            on_put(call.task, &class(CLASS_ATTRIBUTES), LARGEST_ATTRIBUTE);
            put::on_put_unknown(call.task, LARGEST_ATTRIBUTE);
        }
        Use::AttributeGetAt => on_take(call.task, &class(CLASS_ATTRIBUTES), moved(LARGEST_ATTRIBUTE)),
        Use::KeyAdd if !failed => on_put(call.task, &key(call.result), call.argument(3)),
        Use::KeyControl => controlled(call, failed),
        // Whether there was such a key in the end or not: a helper of user space was asked, and told of it.
        Use::KeyRequest => on_put(call.task, &key(AUTHORISATION), length(call, call.argument(2))),
        Use::Link | Use::LinkAt if !failed => stored(call, length(call, call.argument(0))),
        Use::SemaphoreControl => semaphores(call, call.argument(2), failed),
        Use::Ipc => multiplexed(call, failed),
        _ => {}
    }
}

/// An attribute is stored where its file is, and goes where that goes. Which file a path named is not told.
#[inline(always)]
fn described(call: &Call, number: usize, bytes: u64) {
    let by_descriptor = number == if call.compat { FSETXATTR_32 } else { FSETXATTR };
    match if by_descriptor { call.file(call.argument(0)) } else { None } {
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
    if call.marks & (MARK_SPACE | MARK_MAPPED) != 0 || call.task.live_threads() != Some(1) {
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
