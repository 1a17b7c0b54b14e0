//! Objects that a holder can write into: who reads them becomes a holder.
//!
//! A carrier is made before the first byte goes in, when its writer becomes a holder or opens it. A single call can move
//! gigabytes through a pipe before it returns; a carrier made at its return would come too late for the reader.

use super::{channel, gpu, hold, memory, neighbour, object, row, store, unmetered, wake};
use crate::{
    kernel::{
        AF_INET, AF_INET6, AF_UNIX, AF_VSOCK, File, Inode, PROC_MAGIC, S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK,
        Sock, Task,
    },
    log,
    maps::{DEVICES, OBJECTS, SHARED, add, add_shared, join, lose, marks, shared, zero},
};
use agent_ebpf::{
    DEV_FUSE, DEV_TERMINAL, DEV_UNIX, LOSS_OBJECTS_FULL, MARK_MAPPED, OBJECT_CARRIER, OBJECT_PATHWAY,
    OBJECT_STREAM, ObjectKey, ObjectValue, SHARED_CARRIERS, SHARED_DATAGRAMS, SHARED_EPOCH,
    SHARED_LAYERS_MADE, SHARED_SETTLED,
};

/// Its lower byte; that of MPTCP is the same.
const IPPROTO_TCP: u8 = 6;

/// `/dev/fuse` (`MKDEV(MISC_MAJOR, FUSE_MINOR)`), whose writers answer for the files of a FUSE filesystem.
const FUSE_DEVICE: u32 = 10 << 20 | 229;
/// `FUSE_SUPER_MAGIC` (`fs/fuse/inode.c`).
const FUSE_MAGIC: u64 = 0x6573_5546;
pub(crate) const FUSE: ObjectKey = ObjectKey { dev: DEV_FUSE, generation: 0, ino: 0 };

/// Descriptors looked at when a process becomes a holder; of a larger table the scan of user space finds the rest.
const DESCRIPTORS: u32 = 1024;
/// Looked at by one call.
const GROUP: u32 = 8;

/// Makes carriers of all that `task`'s process can write into, if it spreads any assets.
#[inline(always)]
pub(crate) fn adopt(task: Task, assets: u64) {
    if assets != 0 {
        let made = flow_adopt(task.0, assets);
        if marks(task.tgid().unwrap_or(0)) & MARK_MAPPED != 0 {
            memory::expose(task);
        }
        wake();
        log::log_spreads(task.tgid().unwrap_or(0), assets, made);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_adopt(task: u64, assets: u64) -> u32 {
    let Some(size) = Task(task).descriptors() else { return 0 };
    let mut made = 0;
    for group in 0..DESCRIPTORS / GROUP {
        if group * GROUP >= size {
            break;
        }
        made += flow_adopt_descriptors(task, group * GROUP, size, assets);
    }
    made
}

/// Those from `first` on.
// VERIFIER: one function for some turns, so that a thousand are not a thousand bodies: start-up took a second longer. A function
// for each turn was a thousand calls to verify, which is a tenth of `sys_exit`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_adopt_descriptors(task: u64, first: u32, size: u32, assets: u64) -> u32 {
    let mut made = 0;
    for descriptor in first..first + GROUP {
        if descriptor >= size {
            break;
        }
        if let Some(file) = Task(task).file(descriptor) {
            unmetered::on_have(Task(task), file, assets);
            made += flow_adopt_file(file.0, assets);
            // Its other end can come to be while this is noted.
            // VERIFIER: beside the other and not called by it («combined stack size»).
            if neighbour::flow_expect(file.0, assets) != 0 {
                made += flow_adopt_file(file.0, assets);
            }
        }
    }
    made
}

/// Makes a carrier of `file` if bytes put into it can be read by somebody on this host, if there are any assets.
#[inline(always)]
pub(crate) fn adopt_file(file: File, assets: u64) {
    if assets != 0 {
        flow_adopt_file(file.0, assets);
        if neighbour::flow_expect(file.0, assets) != 0 {
            flow_adopt_file(file.0, assets);
        }
    }
}

/// Returns how many carriers it made.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_adopt_file(file: u64, assets: u64) -> u32 {
    let Some((backing, key, kind)) = outgoing(File(file)) else { return 0 };
    flow_make(backing.0, u64::from(key.dev) << 32 | u64::from(key.generation), key.ino, kind, assets)
}

// VERIFIER: a function of its own, for the stack («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_make(file: u64, dev_generation: u64, ino: u64, kind: u32, assets: u64) -> u32 {
    let key = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    let made = make(&key, kind, assets);
    // Who has it mapped reads it without a call.
    if made && kind == OBJECT_CARRIER && File(file).inode().is_some_and(Inode::is_mapped) {
        memory::expose_object(&key, assets);
    }
    u32::from(made)
}

/// (The file that stores its bytes, the carrier that they come out of, its kind.)
#[inline(always)]
fn outgoing(file: File) -> Option<(File, ObjectKey, u32)> {
    let (file, known) = file.backed()?;
    let (key, kind) = match known.inode.kind()? {
        S_IFSOCK => (receiver(file.socket()?)?, OBJECT_STREAM),
        S_IFIFO if file.is_writable() => (known.key()?, OBJECT_STREAM),
        // What is written into procfs, such as the memory of a process, is not kept there.
        S_IFREG if file.is_writable() && known.magic != PROC_MAGIC => (known.key()?, OBJECT_CARRIER),
        S_IFCHR => (device(file, known.inode)?, OBJECT_STREAM),
        _ => return None,
    };
    Some((file, key, kind))
}

/// The carrier that bytes put into a character device come out of: a terminal, or files that the writer serves.
#[inline(always)]
pub(crate) fn device(file: File, inode: Inode) -> Option<ObjectKey> {
    match inode.rdev()? {
        FUSE_DEVICE => Some(FUSE),
        rdev => Some(terminal(file.pseudo_terminal(rdev)?)),
    }
}

/// The carrier that the bytes of a file of such a filesystem come out of when a process serves them. Which of the servers it was is not told, so all
/// connections are one.
#[inline(always)]
pub(crate) const fn served(magic: u64) -> Option<ObjectKey> {
    if magic == FUSE_MAGIC { Some(FUSE) } else { None }
}

/// The carrier that bytes sent through `sock` come out of, when that is on this host.
#[inline(always)]
pub(crate) fn receiver(sock: Sock) -> Option<ObjectKey> {
    match sock.family()? {
        AF_UNIX => Some(ObjectKey { dev: DEV_UNIX, generation: 0, ino: sock.unix_peer()?.0 }),
        // Only TCP: of a datagram socket the receiving end has no peer to be known by.
        AF_INET if sock.protocol() == IPPROTO_TCP => {
            let local = if neighbour::is_one(sock) { Some(true) } else { sock.stays_here() };
            object::loopback(sock.own_v4()?, sock.peer_v4()?, sock.own_port(), sock.peer_port(), local)
        }
        AF_INET6 if sock.protocol() == IPPROTO_TCP => {
            let way = if neighbour::is_one(sock) { object::TO_NEIGHBOUR } else { object::OUTGOING };
            object::loopback_v6(sock, way)
        }
        AF_VSOCK => object::vsock(sock.vsock_peer()?.0, sock.vsock_own_port()?, sock.vsock_peer()?.1),
        _ => None,
    }
}

/// Both ends of a pseudo terminal are one carrier: what is written to either can be echoed to whoever wrote it.
#[inline(always)]
pub(crate) const fn terminal(pair: u64) -> ObjectKey {
    ObjectKey { dev: DEV_TERMINAL, generation: 0, ino: pair }
}

/// `bytes` went into `object`, which is a carrier from now on if it was none.
#[inline(always)]
pub(crate) fn feed(object: &ObjectKey, kind: u32, assets: u64, bytes: u64) {
    make(object, kind, assets);
    if !pour(object, bytes) {
        // Who reads it cannot be followed.
        hold::feed_beyond(bytes);
    }
}

/// Counts `bytes` into a carrier; whether it has a row.
#[inline(always)]
pub(crate) fn pour(object: &ObjectKey, bytes: u64) -> bool {
    let Some(row) = OBJECTS.get_ptr_mut(object) else { return false };
    // SAFETY: the row stays valid until the program ends.
    unsafe { add(&raw mut (*row).fed, bytes) };
    true
}

/// There are `bytes` in a carrier, at least.
#[inline(always)]
pub(crate) fn raise(object: &ObjectKey, bytes: u64) {
    if let Some(row) = OBJECTS.get_ptr_mut(object) {
        // SAFETY: the row stays valid until the program ends. Two CPUs that raise it at once can raise it twice.
        unsafe {
            let known = core::ptr::read_volatile(&raw const (*row).fed);
            if known < bytes {
                add(&raw mut (*row).fed, bytes - known);
            }
        }
    }
}

/// As [`feed`], for what an open file stands for.
#[inline(always)]
pub(crate) fn feed_file(file: File, assets: u64, bytes: u64) {
    if assets != 0 {
        flow_feed_file(file.0, assets, bytes);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_feed_file(file: u64, assets: u64, bytes: u64) -> u32 {
    if let Some((_, key, kind)) = outgoing(File(file)) {
        feed(&key, kind, assets, bytes);
    }
    0
}

/// A scan saw that a process that spreads can write into `file`.
#[inline(always)]
pub(crate) fn keep(file: File, assets: u64) {
    if assets != 0 {
        flow_keep(file.0, assets);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_keep(file: u64, assets: u64) -> u32 {
    if let Some((_, key, kind)) = outgoing(File(file)) {
        make(&key, kind, assets);
        if let Some(row) = OBJECTS.get_ptr_mut(&key) {
            // SAFETY: the row stays valid until the program ends.
            unsafe { (*row).held = shared(SHARED_EPOCH) as u32 };
        }
    }
    0
}

/// Makes `object` a carrier of `assets`, unless it is one of all of them or is protected itself; whether it did.
#[inline(always)]
pub(crate) fn make(object: &ObjectKey, kind: u32, assets: u64) -> bool {
    if let Some(row) = OBJECTS.get_ptr_mut(object) {
        // SAFETY: the row stays valid until the program ends.
        return unsafe {
            if (*row).kind == OBJECT_PATHWAY && kind != OBJECT_PATHWAY {
                core::ptr::write_volatile(&raw mut (*row).kind, kind);
                count_made();
            }
            let is_new = (*row).kind >= OBJECT_CARRIER && (*row).assets & assets != assets;
            if is_new {
                join(&raw mut (*row).assets, assets);
            }
            is_new
        };
    }
    let value = ObjectValue { assets, kind, asset: 0, seen: 0, held: 0, fed: zero() };
    if OBJECTS.insert(object, &value, 1).is_err() && OBJECTS.get_ptr(object).is_none() {
        lose(LOSS_OBJECTS_FULL, 1);
        return false;
    }
    row::carrier(object);
    // Nobody reads bytes of an asset out of a pathway.
    if kind == OBJECT_PATHWAY {
        return true;
    }
    count_made();
    // SAFETY: nothing is kept of it.
    if kind == OBJECT_CARRIER && unsafe { DEVICES.get(&object.dev) }.is_some() {
        add_shared(SHARED_LAYERS_MADE, 1);
    }
    true
}

#[inline(always)]
pub(super) fn count_made() {
    if let Some(made) = SHARED.get_ptr_mut(SHARED_CARRIERS) {
        // SAFETY: a word of an array map.
        unsafe { add(made, 1) };
    }
}

/// A watched process sent through a Unix socket: descriptors may have gone with it.
#[inline(always)]
pub(crate) fn pass_descriptors(sock: Sock) {
    flow_pass_descriptors(sock.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_pass_descriptors(sock: u64) -> u32 {
    let sock = Sock(sock);
    if sock.family() != Some(AF_UNIX) {
        return 0;
    }
    if let Some(key) = receiver(sock) {
        make(&key, OBJECT_PATHWAY, 0);
    } else if let Some(word) = SHARED.get_ptr_mut(SHARED_DATAGRAMS) {
        // SAFETY: a word of an array map.
        unsafe { core::ptr::write_volatile(word, 1) };
    }
    0
}

/// Whether what was received from `sock` may have brought descriptors of a watched process.
#[inline(always)]
pub(crate) fn may_bring_descriptors(sock: Sock) -> bool {
    if sock.family() != Some(AF_UNIX) {
        return false;
    }
    let key = ObjectKey { dev: DEV_UNIX, generation: 0, ino: sock.0 };
    OBJECTS.get_ptr(key).is_some() || (shared(SHARED_DATAGRAMS) != 0 && sock.is_datagram())
}

/// Whether `task`'s process has a protected file, a carrier, what brings descriptors or what it could reach one by open; of a
/// table larger than ours it is assumed.
#[inline(always)]
pub(crate) fn has_any(task: Task) -> bool {
    flow_has_any(task.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_has_any(task: u64) -> u32 {
    let Some(size) = Task(task).descriptors() else { return 1 };
    // VERIFIER: a larger table is asked about last, or the compiler drops the bound of the loop, which it then knows of `size` and the
    // verifier does not («The sequence of 8193 jumps is too complex»).
    for descriptor in 0..DESCRIPTORS {
        if descriptor >= size {
            break;
        }
        if flow_is_ours(task, descriptor) != 0 {
            return 1;
        }
    }
    u32::from(size > DESCRIPTORS)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_ours(task: u64, descriptor: u32) -> u32 {
    match Task(task).file(descriptor) {
        Some(file) => u32::from(
            object::source(file).is_some()
                || file.is_fanotify()
                || channel::hears(file)
                || store::is_control(file)
                || file.memory_of().is_some()
                || gpu::is_one(file),
        ),
        None => 0,
    }
}

/// Whether `file` is a protected file or a carrier.
#[inline(always)]
pub(crate) fn is_source(file: File) -> bool {
    flow_is_source(file.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_source(file: u64) -> u32 {
    u32::from(object::source(File(file)).is_some())
}

/// `task` got or connected descriptors, and which ones can stand in user memory: all are looked at.
#[inline(always)]
pub(crate) fn reach(task: Task) {
    adopt(task, hold::spreads(task));
}

/// Somebody may have come to a descriptor without a trace: until the next scan has marked who has one, every process's reads
/// are looked up.
#[inline(always)]
pub(crate) fn unsettle() {
    count_made();
}

/// Whether some process may read a carrier and is not marked for it yet.
#[inline(always)]
pub(crate) fn unsettled() -> bool {
    shared(SHARED_CARRIERS) != shared(SHARED_SETTLED)
}
