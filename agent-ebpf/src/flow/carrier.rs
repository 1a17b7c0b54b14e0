//! Objects that a holder can write into: who reads them becomes a holder.
//!
//! A carrier is made before the first byte goes in, when its writer becomes a holder or opens it. A single call can move
//! gigabytes through a pipe before it returns; a carrier made at its return would come too late for the reader.

use super::{object, wake};
use crate::{
    kernel::{AF_INET, AF_INET6, AF_UNIX, File, S_IFIFO, S_IFREG, S_IFSOCK, Sock, Task},
    log,
    maps::{OBJECTS, SHARED, add, join, lose, shared},
};
use agent_ebpf::{
    DEV_UNIX, LOSS_OBJECTS_FULL, OBJECT_CARRIER, OBJECT_STREAM, ObjectKey, ObjectValue, SHARED_CARRIERS,
    SHARED_SETTLED,
};

/// Descriptors looked at when a process becomes a holder; of a larger table the scan of user space finds the rest.
const DESCRIPTORS: u32 = 256;

/// Makes carriers of all that `task`'s process can write into, if it spreads any assets.
#[inline(always)]
pub(crate) fn adopt(task: Task, assets: u64) {
    if assets != 0 {
        let made = flow_adopt(task.0, assets);
        wake();
        log::log_spreads(task.tgid().unwrap_or(0), assets, made);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_adopt(task: u64, assets: u64) -> u32 {
    let mut made = 0;
    for descriptor in 0..DESCRIPTORS {
        if let Some(file) = Task(task).file(descriptor) {
            made += flow_adopt_file(file.0, assets);
        }
    }
    made
}

/// Makes a carrier of `file` if bytes put into it can be read by somebody on this host, if there are any assets.
#[inline(always)]
pub(crate) fn adopt_file(file: File, assets: u64) {
    if assets != 0 {
        flow_adopt_file(file.0, assets);
    }
}

/// Returns how many carriers it made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_adopt_file(file: u64, assets: u64) -> u32 {
    let file = File(file).backing();
    match outgoing(file) {
        Some((key, kind)) => u32::from(make(&key, kind, assets)),
        None => 0,
    }
}

#[inline(always)]
fn outgoing(file: File) -> Option<(ObjectKey, u32)> {
    let inode = file.inode()?;
    match inode.kind()? {
        S_IFSOCK => Some((receiver(file.socket()?)?, OBJECT_STREAM)),
        S_IFIFO if file.is_writable() => Some((inode.key()?, OBJECT_STREAM)),
        S_IFREG if file.is_writable() => Some((inode.key()?, OBJECT_CARRIER)),
        _ => None,
    }
}

/// The carrier that bytes sent through `sock` come out of, when that is on this host.
#[inline(always)]
pub(crate) fn receiver(sock: Sock) -> Option<ObjectKey> {
    match sock.family()? {
        AF_UNIX => Some(ObjectKey { dev: DEV_UNIX, generation: 0, ino: sock.unix_peer()?.0 }),
        AF_INET => object::loopback(sock.own_v4()?, sock.peer_v4()?, sock.own_port(), sock.peer_port()),
        AF_INET6 => object::loopback_v6(sock.own_v6()?, sock.peer_v6()?, sock.own_port(), sock.peer_port()),
        _ => None,
    }
}

/// Makes `object` a carrier of `assets`, unless it is one or is protected itself; whether it did.
#[inline(always)]
pub(crate) fn make(object: &ObjectKey, kind: u32, assets: u64) -> bool {
    if let Some(row) = OBJECTS.get_ptr_mut(object) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            if (*row).kind >= OBJECT_CARRIER && (*row).assets & assets != assets {
                join(&raw mut (*row).assets, assets);
            }
        }
        return false;
    }
    let value = ObjectValue { assets, kind, asset: 0, seen: 0, reserved: 0 };
    if OBJECTS.insert(object, &value, 1).is_err() && OBJECTS.get_ptr(object).is_none() {
        lose(LOSS_OBJECTS_FULL, 1);
        return false;
    }
    if let Some(made) = SHARED.get_ptr_mut(SHARED_CARRIERS) {
        // SAFETY: a word of an array map.
        unsafe { add(made, 1) };
    }
    true
}

/// Whether some process may read a carrier and is not marked for it yet.
#[inline(always)]
pub(crate) fn unsettled() -> bool {
    shared(SHARED_CARRIERS) != shared(SHARED_SETTLED)
}
