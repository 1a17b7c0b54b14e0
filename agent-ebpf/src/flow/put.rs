//! A process put bytes into a sink.

use super::{carrier, hold, now, path, reach, row, send};
use crate::{
    kernel::{
        Dentry, File, Inode, Known, MQUEUE_MAGIC, PROC_MAGIC, S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, S_IFSOCK,
        Task,
    },
    maps::{FACTS, FLOWS, SINK_SCRATCH, SINKS, SOCKETS_COUNTED, add, lose},
};
use agent_ebpf::{
    FACT_SINK, FlowKey, FlowValue, LOSS_FLOWS_FULL, LOSS_RING_FULL, ObjectKey, SINK_BLOCK, SINK_CHAR,
    SINK_FILE, SINK_OTHER, SINK_PEER, SINK_PROCESS, SinkFact, SinkKey,
};

/// `task` wrote `bytes` into `file`; nothing happens unless its process is a holder.
#[inline(always)]
pub(crate) fn on_put(task: Task, file: File, bytes: u64) {
    if bytes == 0 {
        return;
    }
    let Some(kind) = file.inode().and_then(Inode::kind) else { return };
    if kind == S_IFSOCK {
        if SOCKETS_COUNTED.load() == 0
            && let Some(sock) = file.socket()
        {
            send::on_send(task, sock, bytes);
        }
        return;
    }
    carrier::feed_file(file, flow_put(task.0, file.0, bytes), bytes);
    match kind {
        S_IFCHR => {
            flow_put_device(task.0, file.0, bytes);
        }
        S_IFREG => reach::on_write(task, file, bytes),
        _ => {}
    }
}

/// `task` stored `bytes` beside what is in `file`; nothing happens unless its process is a holder.
#[inline(always)]
pub(crate) fn on_describe(task: Task, file: File, bytes: u64) {
    if bytes != 0 {
        flow_put(task.0, file.0, bytes);
    }
}

/// What is written to some character devices is read elsewhere on this host too.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_put_device(task: u64, file: u64, bytes: u64) -> u32 {
    if let Some(object) = device(File(file))
        && let Some((holder, row)) = hold::held(Task(task))
    {
        // SAFETY: the row stays valid until the program ends.
        let assets = unsafe { (*row).assets };
        count(&FlowKey { holder, assets, sink: of_object(SINK_PROCESS, &object) }, bytes, None);
    }
    0
}

#[inline(always)]
fn device(file: File) -> Option<ObjectKey> {
    let inode = file.inode()?;
    if inode.kind()? == S_IFCHR { carrier::device(file, inode) } else { None }
}

/// `task` wrote `bytes` into a file that is not known; nothing happens unless its process is a holder.
///
/// It counts as a file of a filesystem that does not exist, which nobody lists as controlled.
#[inline(always)]
pub(crate) fn on_put_unknown(task: Task, bytes: u64) {
    if bytes != 0 {
        flow_put_unknown(task.0, bytes);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_put_unknown(task: u64, bytes: u64) -> u32 {
    if let Some((holder, row)) = hold::held(Task(task)) {
        // SAFETY: the row stays valid until the program ends.
        let assets = unsafe { (*row).assets };
        let sink = of_object(SINK_FILE, &ObjectKey { dev: 0, generation: 0, ino: 0 });
        count(&FlowKey { holder, assets, sink }, bytes, None);
        // SAFETY: the row stays valid until the program ends.
        unsafe { hold::moved(&holder, row) };
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_put(task: u64, file: u64, bytes: u64) -> u64 {
    put(Task(task), File(file), bytes).unwrap_or(0)
}

/// Returns the assets that the process spreads.
#[inline(always)]
fn put(task: Task, file: File, bytes: u64) -> Option<u64> {
    let (file, known) = file.backed()?;
    let (holder, row) = hold::held(task)?;
    // SAFETY: the row stays valid until the program ends.
    let (assets, spreads) = unsafe { ((*row).assets, (*row).spreads) };
    count(&FlowKey { holder, assets, sink: sink_of(known)? }, bytes, place_of(file, known.inode));
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    Some(spreads)
}

/// The name and the inode of an open file.
#[inline(always)]
pub(super) fn place_of(file: File, inode: Inode) -> Option<(Dentry, Inode)> {
    file.dentry().map(|dentry| (dentry, inode))
}

/// The sink that an inode is.
#[inline(always)]
pub(super) fn sink_of(known: Known) -> Option<SinkKey> {
    let inode = known.inode;
    let mut sink =
        SinkKey { kind: SINK_OTHER, protocol: 0, port: 0, dev: 0, generation: 0, reserved: 0, id: [0; 16] };
    match inode.kind()? {
        S_IFBLK => {
            sink.kind = SINK_BLOCK;
            sink.dev = inode.rdev()?;
            Some(sink)
        }
        S_IFCHR => {
            sink.kind = SINK_CHAR;
            sink.dev = inode.rdev()?;
            Some(sink)
        }
        kind @ (S_IFREG | S_IFIFO) => {
            // A POSIX message queue is a regular file of a filesystem of its own, out of which only processes read; so is the
            // memory of a process.
            let is_file = kind == S_IFREG && !matches!(known.magic, MQUEUE_MAGIC | PROC_MAGIC);
            let kind = if is_file { SINK_FILE } else { SINK_PROCESS };
            Some(of_object(kind, &known.key()?))
        }
        // eventfd, epoll, io_uring and their like have no kind; what they take in is a few words.
        _ => Some(sink),
    }
}

#[inline(always)]
pub(crate) fn of_object(kind: u8, key: &ObjectKey) -> SinkKey {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&key.ino.to_ne_bytes());
    SinkKey { kind, protocol: 0, port: 0, dev: key.dev, generation: key.generation, reserved: 0, id }
}

/// Adds `bytes` to a flow. The first flow into something with a path sends it.
#[inline(always)]
pub(crate) fn count(key: &FlowKey, bytes: u64, place: Option<(Dentry, Inode)>) {
    if let Some(row) = FLOWS.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends.
        unsafe { grow(row, bytes) };
        return;
    }
    let magic = match place {
        Some((_, inode)) => inode.magic().unwrap_or(0),
        None => 0,
    };
    let is_new = FLOWS.insert(key, &FlowValue { bytes: 0, last: 0, magic }, 1).is_ok();
    let Some(row) = FLOWS.get_ptr_mut(key) else {
        lose(LOSS_FLOWS_FULL, bytes);
        hold::put_beyond(&key.holder, key.sink.kind == SINK_PEER, bytes);
        return;
    };
    if let Some((dentry, _)) = place {
        describe(&key.sink, magic, dentry);
    }
    if is_new {
        row::flow(key);
    }
    // SAFETY: the row stays valid until the program ends.
    unsafe { grow(row, bytes) };
}

/// A flow of `bytes` at least: of a mapping that is met again.
#[inline(always)]
pub(crate) fn at_least(key: &FlowKey, bytes: u64, magic: u64) {
    let is_new = FLOWS.insert(key, &FlowValue { bytes: 0, last: 0, magic }, 1).is_ok();
    let Some(row) = FLOWS.get_ptr_mut(key) else {
        lose(LOSS_FLOWS_FULL, bytes);
        return;
    };
    if is_new {
        row::flow(key);
    }
    // SAFETY: the row stays valid until the program ends. Two CPUs that raise it at once can raise it twice, which
    // overstates.
    unsafe {
        let known = core::ptr::read_volatile(&raw const (*row).bytes);
        if known < bytes {
            grow(row, bytes - known);
        }
    }
}

/// # Safety
///
/// `row` is a live row of `FLOWS`.
#[inline(always)]
unsafe fn grow(row: *mut FlowValue, bytes: u64) {
    // SAFETY: the caller's.
    unsafe {
        add(&raw mut (*row).bytes, bytes);
        (*row).last = now();
    }
}

#[inline(always)]
fn describe(sink: &SinkKey, magic: u64, dentry: Dentry) {
    if sink.kind == SINK_OTHER || sink.kind == SINK_PROCESS {
        return;
    }
    if let Some(fact) = SINK_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe {
            (*fact).fact = FACT_SINK;
            (*fact).reported = 0;
            (*fact).sink = *sink;
            (*fact).magic = magic;
        }
        flow_send_sink(dentry.0);
    }
}

/// Sends this CPU's `SINK_SCRATCH` with the path of `dentry`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_send_sink(dentry: u64) -> u32 {
    let Some(fact) = SINK_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    unsafe {
        path::write(Dentry(dentry), &raw mut (*fact).path);
        if FACTS.output::<SinkFact>(&*fact, 0).is_err() {
            lose(LOSS_RING_FULL, 1);
            let _ = SINKS.insert(&(*fact).sink, &*fact, 0);
        }
    }
    0
}
