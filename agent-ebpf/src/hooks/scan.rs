//! BPF iterators: what processes had before the agent came, and which carriers are still open.
//!
//! `iter/task` and `iter/task_file` (5.8), `iter/task_vma` (5.12); contexts are `struct bpf_iter__task{,_file,_vma}`
//! (`kernel/bpf/task_iter.c`), whose last call has no task. User space runs them by reading their file. They write nothing into it: the maps are the
//! result.

use agent_ebpf::{
    ALL_ASSETS, MARK_HOLDER, MARK_MAPPED, MARK_SHARED, MARK_WATCHED, OBJECT_CARRIER, OBJECT_FILE,
    OBJECT_STORE, OBJECT_STREAM, ObjectKey, ObjectValue, SHARED_CHARGED, SHARED_EPOCH, SHARED_LAYERS_STALE,
};
use aya_ebpf::{EbpfContext, cty::c_void};

use super::word;
use crate::{
    flow::{
        carrier, channel, gpu, hold, is_agent, layers, map, memory, neighbour, object, process, space, store,
        take::on_take,
    },
    kernel::{File, Inode, Task, Vma},
    maps::{OBJECTS, PROCESSES, mark, marks, set_marks, shared},
    scratch,
};

/// Context of an iterator: `struct bpf_iter__task…`, words in the order of its members.
struct IterContext(*mut c_void);

impl EbpfContext for IterContext {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// More than any asset; user space cuts it to what there is.
const EVERYTHING: u64 = 1 << 50;

const TASK: usize = 1;
/// Of `task_vma`: the mapping; of `task_file` it is the descriptor.
const VMA: usize = 2;
const FILE: usize = 3;

/// Identity of each process that was there first; user space adds its arguments.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn scan_processes(ctx: *mut c_void) -> i32 {
    scratch::scan();
    look_at_overlays();
    note_process(Task(word(&IterContext(ctx), TASK)));
    0
}

/// Once for each time that user space asks for it. What was copied since the last look waits for the call that did it to return.
#[inline(always)]
fn look_at_overlays() {
    if shared(SHARED_LAYERS_STALE) != 0 {
        layers::refresh();
    }
}

#[inline(always)]
fn note_process(task: Task) -> Option<()> {
    if task.pid()? != task.tgid()? || task.is_kernel_thread() {
        return None;
    }
    let key = task.holder_key()?;
    if task.shares_files() {
        mark(key.tgid, MARK_SHARED | MARK_WATCHED);
    }
    if task.shares_memory()
        && let Some(memory) = task.mm()
    {
        space::share(key.tgid, memory, 0);
    }
    // An exec under the agent's eyes knows more.
    if PROCESSES.get_ptr(key.tgid).is_none() {
        process::note(task, &key, false);
    }
    Some(())
}

/// Holders that opened before, and the carriers that are open.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn scan_files(ctx: *mut c_void) -> i32 {
    scratch::scan();
    let ctx = IterContext(ctx);
    let (task, file) = (Task(word(&ctx, TASK)), File(word(&ctx, FILE)));
    on_take(task, file, note_file(task, file));
    0
}

/// The bytes that `task` can have taken through `file` before we looked.
#[inline(never)]
fn note_file(task: Task, file: File) -> u64 {
    taken_before(task, file).unwrap_or(0)
}

#[inline(always)]
fn taken_before(task: Task, file: File) -> Option<u64> {
    let tgid = task.tgid()?;
    if is_agent(task, tgid) {
        return None;
    }
    gpu::on_have(task, file);
    neighbour::on_have(file);
    if let Some((_, row)) = hold::held(task) {
        // SAFETY: the row stays valid until the program ends.
        carrier::keep(file, unsafe { (*row).spreads });
    }
    if file.is_fanotify() {
        mark(tgid, MARK_WATCHED);
        return None;
    }
    if store::is_control(file) || file.memory_of().is_some() || channel::hears(file) {
        mark(tgid, MARK_WATCHED);
    }
    store::on_have(file);
    let (key, value) = match object::source(file) {
        Some(found) => found,
        None => {
            let file = file.backing();
            object::protected(file, file.inode()?)?
        }
    };
    mark(tgid, MARK_WATCHED);
    if value.kind == OBJECT_CARRIER || value.kind == OBJECT_STREAM {
        if let Some(row) = OBJECTS.get_ptr_mut(&key) {
            // SAFETY: the row stays valid until the program ends.
            unsafe { (*row).seen = shared(SHARED_EPOCH) as u32 };
        }
        if shared(SHARED_CHARGED) != 0 && is_recalled(&value) && file.is_readable() {
            // So may he of a copy that an earlier agent knew: the ledger knows how much of it is an asset's.
            return Some(file.backing().inode()?.size());
        }
    } else if value.kind == OBJECT_FILE && value.assets & shared(SHARED_CHARGED) != 0 {
        // It may have read the whole file.
        return Some(file.backing().inode()?.size());
    } else if value.kind == OBJECT_STORE {
        return Some(raw(task, file, file.backing().inode()?, &key, &value));
    }
    None
}

/// A store that was opened before it was known to be one: an act. What its owner read before is not known either, so that it
/// can be all of it.
#[inline(always)]
fn raw(task: Task, file: File, inode: Inode, key: &ObjectKey, value: &ObjectValue) -> u64 {
    if file.is_only_a_name() {
        return 0;
    }
    if value.assets & shared(SHARED_CHARGED) == 0 {
        if store::is_only_found(inode) {
            return 0;
        }
        if let Some((_, row)) = hold::held(task) {
            // SAFETY: the row stays valid until the program ends.
            if unsafe { (*row).assets } & value.assets == value.assets {
                return 0;
            }
        }
    }
    hold::hold(task, value.assets);
    store::open(task, inode, key.dev, value.assets);
    EVERYTHING
}

/// Takes the mark off who was watched for something that is gone.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn scan_marks(ctx: *mut c_void) -> i32 {
    scratch::scan();
    look_at_overlays();
    unmark(Task(word(&IterContext(ctx), TASK)));
    0
}

#[inline(always)]
fn unmark(task: Task) -> Option<()> {
    let tgid = task.tgid()?;
    if task.pid()? != tgid && task.files() != task.leader()?.files() && marks(tgid) & MARK_WATCHED != 0 {
        // A thread with descriptors of its own, which the look below does not see.
        mark(tgid, MARK_SHARED);
    }
    if task.pid()? != tgid || marks(tgid) != MARK_WATCHED || carrier::has_any(task) {
        return None;
    }
    set_marks(tgid, 0);
    // Looked at again afterwards: whoever becomes a holder or gets a descriptor meanwhile marks after its row or its
    // descriptor is there, so that either his mark comes after ours or we see why he set it.
    if hold::held(task).is_some() {
        mark(tgid, MARK_WATCHED | MARK_HOLDER);
    } else if carrier::has_any(task) {
        mark(tgid, MARK_WATCHED);
    }
    // So does who maps something that others see.
    if memory::has_mapped(task) {
        mark(tgid, MARK_MAPPED);
    }
    Some(())
}

/// Holders that mapped before, and mappings that can be written.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_vma")]
extern "C" fn scan_mappings(ctx: *mut c_void) -> i32 {
    scratch::scan();
    let ctx = IterContext(ctx);
    note_mapping(Task(word(&ctx, TASK)), Vma(word(&ctx, VMA)));
    0
}

#[inline(always)]
fn note_mapping(task: Task, vma: Vma) -> Option<()> {
    // Threads share their process's mappings.
    if task.pid()? != task.tgid()? || is_agent(task, task.tgid()?) {
        return None;
    }
    let file = vma.file()?;
    let (bytes, is_shared) = (vma.bytes()?, vma.is_shared());
    // Of a mapping that was there when the programs came, no call told. Later only assets that are new are looked for.
    let charged = shared(SHARED_CHARGED);
    if charged == ALL_ASSETS || (charged != 0 && flow_is_charged(file.0, charged) != 0) {
        map::on_map(task, file, bytes, is_shared);
    } else {
        map::on_met(task, file, bytes, is_shared);
    }
    Some(())
}

/// Whether a file belongs to one of these assets, or is a carrier of which it is looked for who has it mapped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_charged(file: u64, assets: u64) -> u32 {
    match object::source(File(file)) {
        Some((_, object)) => u32::from(object.assets & assets != 0 || is_recalled(&object)),
        None => 0,
    }
}

/// Whether the scan under way is the one that charges who has this carrier open.
#[inline(always)]
fn is_recalled(object: &ObjectValue) -> bool {
    object.kind == OBJECT_CARRIER && object.asset != 0 && object.asset == shared(SHARED_EPOCH) as u32
}
