//! A process mapped a file: loads and stores cannot be counted, so the whole length is.

use super::{carrier, channel, hold, is_agent, memory, object, put, store, take};
use crate::{
    kernel::{File, HUGETLBFS_MAGIC, Inode, PIPEFS_MAGIC, S_IFCHR, S_IFREG, TMPFS_MAGIC, Task},
    maps::{add_shared, join, marks},
};
use agent_ebpf::{
    ALL_ASSETS, ANY_ASSET, CLASS_PACKETS, DEV_BPF, DEV_FAMILY, DEV_SEGMENT, FlowKey, GROWN_ASSET,
    MARK_HOLDER, MARK_MAPPED, MARK_SPACE, NO_MAP, OBJECT_CARRIER, OBJECT_STREAM, OVERFLOW, ObjectKey,
    SET_BITS, SHARED_MAPPINGS, SINK_FILE, UNCOUNTED,
};

/// `task` mapped `bytes` of `file`.
#[inline(always)]
pub(crate) fn on_map(task: Task, file: File, bytes: u64, shared: bool) {
    // What is put into a carrier comes through the mapping now or later, again and again: user space links it.
    let carried = flow_carried(file.0);
    if carried == 0 {
        take::on_take(task, file, bytes);
        flow_note_mapped(task.0, file.0);
    } else {
        memory::suspect_of(task, carried);
    }
    // A private mapping writes to nobody. A shared one can be made writable later if the file was opened for writing.
    let writes = shared && file.is_writable();
    if writes {
        flow_map(task.0, file.0, bytes);
    }
    note(task, file, bytes, shared, writes);
}

/// A scan met a mapping that may be known or not.
#[inline(always)]
pub(crate) fn on_met(task: Task, file: File, bytes: u64, shared: bool) {
    let writes = shared && file.is_writable();
    if writes {
        flow_met(task.0, file.0, bytes);
        // A System V segment is known by its id, and read as a file by way of `/proc/PID/map_files`.
        carrier::keep(file, hold::spreads(task));
    }
    note(task, file, bytes, shared, writes);
}

/// `task` mapped memory that it shares with the children that it will have.
#[inline(always)]
pub(crate) fn on_map_anonymous(task: Task, bytes: u64) {
    if let Some(family) = family(task) {
        memory::share(task, &family, bytes, 0, true);
    }
}

/// All the memory that `task`'s process shares with the children that it forks.
#[inline(always)]
fn family(task: Task) -> Option<ObjectKey> {
    let holder = task.holder_key()?;
    Some(ObjectKey { dev: DEV_FAMILY, generation: holder.tgid, ino: holder.start })
}

/// `task` gave `bytes` of its pages to the pipe `file` by reference: what it stores there until they are read comes out of the
/// pipe, as if that was memory that it shares with the reader.
#[inline(always)]
pub(crate) fn on_give(task: Task, file: File, bytes: u64) {
    if let Some(inode) = file.inode()
        && let Some(pipe) = inode.key()
    {
        memory::share(task, &pipe, bytes, PIPEFS_MAGIC, true);
    }
}

/// `task` attached the System V segment `id`.
#[inline(always)]
pub(crate) fn on_attach(task: Task, id: u64, writes: bool) {
    let segment = ObjectKey { dev: DEV_SEGMENT, generation: task.ipc_namespace(), ino: id & 0xffff_ffff };
    let carried = channel::assets_of(&segment);
    if carried != 0 {
        memory::suspect_of(task, carried);
    }
    memory::share(task, &segment, 0, 0, writes);
}

/// The assets of a carrier that shows what is put into it later: a file of its own. What a server answers, and a device or a
/// filesystem over a carrier, is taken while it is mapped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_carried(file: u64) -> u64 {
    let file = File(file);
    match object::source_here(file) {
        // SAFETY: a row of this program's alone, which was written just now.
        Some(found) => unsafe {
            let object = &(*found).value;
            let carries = object.kind >= OBJECT_CARRIER && object.kind != OBJECT_STREAM;
            if carries && is_of(file, &(*found).key) { object.assets } else { 0 }
        },
        None => 0,
    }
}

#[inline(always)]
fn is_of(file: File, key: &ObjectKey) -> bool {
    match file.backing().inode().and_then(Inode::key) {
        Some(own) => own == *key,
        None => false,
    }
}

#[inline(always)]
fn note(task: Task, file: File, bytes: u64, shared: bool, writes: bool) {
    if flow_note(task.0, file.0, bytes, u32::from(shared), u32::from(writes)) != 0 {
        memory::expose(task);
    }
}

/// Remembers a mapping through which others' stores can be seen. Returns not 0 when it has to be exposed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_note(task: u64, file: u64, bytes: u64, shared: u32, writes: u32) -> u32 {
    if channel::hears(File(file)) {
        // Nobody reads what is stored into a ring of packets: what is sent out of one counts when it is.
        return memory::add(Task(task), &channel::class(CLASS_PACKETS), bytes, 0, false);
    }
    let (task, file) = (Task(task), File(file).backing());
    if let Some((key, writes)) = made_by_kernel(task, file, shared != 0) {
        return memory::add(task, &key, bytes, 0, writes);
    }
    let Some((key, magic)) = seen_through(file, shared != 0) else { return 0 };
    memory::add(task, &key, bytes, magic, writes != 0)
}

/// The object behind a shared mapping of what is no file: memory of nobody's before (`/dev/zero`), or memory of the kernel's that
/// everybody sees who maps the same thing (a ring of io_uring, a BPF map), and whether one can store into it.
///
/// Who shares a device is not told: of all that open it each has something else behind it. Buffers of perf and of virtual machines
/// are left out: a tool that watches has one for each processor, more than there is room for, and would be linked by chance.
#[inline(always)]
fn made_by_kernel(task: Task, file: File, shared: bool) -> Option<(ObjectKey, bool)> {
    /// `MKDEV(MEM_MAJOR, 5)`.
    const ZERO_DEVICE: u32 = 1 << 20 | 5;
    /// Of an anonymous inode.
    const NO_KIND: u32 = 0;
    if !shared {
        return None;
    }
    let inode = file.inode()?;
    match inode.kind()? {
        S_IFCHR if inode.rdev()? == ZERO_DEVICE => Some((family(task)?, true)),
        NO_KIND => {
            let generation = match (file.is_bpf_map(), file.is_uring()) {
                (true, _) => 0,
                (false, true) => NO_MAP,
                _ => return None,
            };
            let key = ObjectKey { dev: DEV_BPF, generation, ino: file.private_data()? };
            Some((key, file.is_writable()))
        }
        _ => None,
    }
}

/// A private mapping shows stores of others until it is written into itself; of files that no carrier is made of yet, only
/// those of memory are remembered: every program maps its libraries so.
#[inline(always)]
fn seen_through(file: File, shared: bool) -> Option<(ObjectKey, u64)> {
    let inode = file.inode()?;
    if inode.kind()? != S_IFREG {
        return None;
    }
    let (key, magic) = (inode.key()?, inode.magic()?);
    if let Some((id, namespace)) = file.segment(inode) {
        return Some((ObjectKey { dev: DEV_SEGMENT, generation: namespace, ino: id }, 0));
    }
    let carries = match object::lookup(&key) {
        Some(value) => value.kind >= OBJECT_CARRIER,
        None => false,
    };
    if shared || carries || magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC {
        Some((key, magic))
    } else {
        None
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_map(task: u64, file: u64, bytes: u64) -> u32 {
    map_sink(Task(task), File(file), bytes);
    0
}

/// Counts a writable shared mapping for whatever its owner holds, now or ever: stores into it are seen by nobody.
#[inline(always)]
fn map_sink(task: Task, file: File, bytes: u64) {
    let file = file.backing();
    let Some((key, inode)) = sink_of_mapping(task, file) else { return };
    put::count(&key, reach(inode, bytes), put::place_of(file, inode));
    if let Some((holder, row)) = hold::held(task) {
        // SAFETY: the row stays valid until the program ends.
        unsafe { hold::moved(&holder, row) };
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_met(task: u64, file: u64, bytes: u64) -> u32 {
    let task = Task(task);
    if let Some((holder, row)) = hold::held(task)
        && let Some((key, inode)) = sink_of_mapping(task, File(file).backing())
    {
        put::at_least(&key, reach(inode, bytes), inode.magic().unwrap_or(0));
        // SAFETY: the row stays valid until the program ends.
        unsafe { hold::moved(&holder, row) };
    }
    0
}

#[inline(always)]
fn sink_of_mapping(task: Task, file: File) -> Option<(FlowKey, Inode)> {
    let inode = file.inode()?;
    if inode.kind()? != S_IFREG {
        return None;
    }
    let sink = put::of_object(SINK_FILE, &inode.key()?);
    Some((FlowKey { holder: task.holder_key()?, assets: ALL_ASSETS, sink }, inode))
}

/// What can reach the file behind a mapping of `bytes`: as much as it has room for. Where another host or a server of this
/// one takes what is written, the same page can carry something new each time.
#[inline(always)]
fn reach(inode: Inode, bytes: u64) -> u64 {
    // fuse, nfs, cifs, smb3, 9p, ceph, lustre, gfs2, ocfs2, afs.
    const ELSEWHERE: [u64; 10] = [
        0x6573_5546,
        0x6969,
        0xff53_4d42,
        0xfe53_4d42,
        0x0102_1997,
        0x00c3_6400,
        0x0bd0_0bd0,
        0x0116_1970,
        0x7461_636f,
        0x5346_414f,
    ];
    let magic = inode.magic().unwrap_or(0);
    let mut index = 0;
    while index < ELSEWHERE.len() {
        if magic == ELSEWHERE[index] {
            return UNCOUNTED;
        }
        index += 1;
    }
    bytes
}

/// `task` grew a mapping by `bytes`, by `mremap`, as every allocator does: of which file is not told, so it counts for each asset of
/// which it has mapped anything. Of those that share a mark it has mapped, user space knows which it took.
#[inline(always)]
pub(crate) fn on_remap(task: Task, bytes: u64) {
    look_again(task);
    carrier::adopt(task, flow_remap(task.0, bytes));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_remap(task: u64, bytes: u64) -> u64 {
    let task = Task(task);
    let Some((key, row)) = hold::held(task) else { return 0 };
    // Who shares its memory, and who has no row of its own, can have others' mappings.
    let shares = marks(task.tgid().unwrap_or(0)) & MARK_SPACE != 0 || key.tgid == OVERFLOW.tgid;
    // SAFETY: the row stays valid until the program ends.
    grow(task, if shares { ALL_ASSETS } else { unsafe { (*row).mapped } }, GROWN_ASSET, bytes)
}

/// Notes of which assets `task`'s process, a holder, has mapped something.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_note_mapped(task: u64, file: u64) -> u32 {
    if let Some((_, object)) = object::source(File(file))
        && object.kind < OBJECT_CARRIER
        && let Some((_, row)) = hold::held(Task(task))
    {
        // SAFETY: the row stays valid until the program ends.
        unsafe { join(&raw mut (*row).mapped, object.assets) };
    }
    0
}

/// `bytes` came to `task`, through a mapping or otherwise: of which file is not told, so it counts for every asset that it holds.
#[inline(always)]
pub(crate) fn on_grow(task: Task, bytes: u64) {
    look_again(task);
    carrier::adopt(task, flow_grow(task.0, bytes));
}

/// Which mapping it was is looked up by a scan.
#[inline(always)]
fn look_again(task: Task) {
    if marks(task.tgid().unwrap_or(0)) & (MARK_MAPPED | MARK_HOLDER) == MARK_MAPPED | MARK_HOLDER {
        add_shared(SHARED_MAPPINGS, 1);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_grow(task: u64, bytes: u64) -> u64 {
    grow(Task(task), ALL_ASSETS, ANY_ASSET, bytes)
}

#[inline(always)]
fn grow(task: Task, among: u64, which: u32, bytes: u64) -> u64 {
    let Some((_, row)) = hold::held(task) else { return 0 };
    let mut spreads = 0;
    // SAFETY: the row stays valid until the program ends.
    let (mut assets, taken) = unsafe { ((*row).assets & among, (*row).taken) };
    // Whoever took nothing is only suspected of seeing what others store. The agent can hold a few bytes of who started it.
    if taken == 0 || is_agent(task, task.tgid().unwrap_or(0)) {
        return 0;
    }
    for mark in 0..SET_BITS {
        // VERIFIER: one function a turn: with the body in both loops they were two fifths of what there was to verify of `sys_exit`.
        if assets & 1 == 1 {
            spreads |= store::flow_take_mark(task.0, which, mark, bytes);
        }
        assets >>= 1;
        if assets == 0 {
            break;
        }
    }
    spreads
}
