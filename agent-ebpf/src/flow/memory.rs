//! Memory that processes share: stores and loads there make no call, so who has the same object mapped can pass everything.
//!
//! Each process image remembers what it has mapped shared, and hands that down by fork. Once it holds something, the slots
//! that its stores reach are *exposed*; whoever has an object in such a slot is taken for a holder before the next byte that
//! it puts anywhere is counted. That is only a suspicion: user space links real objects and decides how much came over.

use super::{carrier, hold, put, take};
use crate::{
    kernel::{PIPEFS_MAGIC, Task},
    maps::{self, EXPOSED, MEMORY, MEMORY_SCRATCH, SHARED, add_shared, join, lose, mark, marks, shared},
};
use agent_ebpf::{
    ALL_ASSETS, FlowKey, HolderKey, LOSS_MEMORY_FULL, MARK_HOLDER, MARK_MAPPED, MEMORY_OBJECTS, MEMORY_SLOTS,
    Memory, MemoryObject, OBJECT_CARRIER, OBJECT_CHANNEL, OBJECT_STREAM, ObjectKey, SHARED_MAPPINGS,
    SHARED_MEMORY_ASSETS, SINK_FILE, memory_slot,
};

/// Values of `dev` from here on are ours, for what is no file.
const OURS: u32 = 0xffff_fff0;

/// `task` mapped `bytes` of `object`, so that it sees the stores of others, and they its own if it `writes`.
#[inline(always)]
pub(crate) fn share(task: Task, object: &ObjectKey, bytes: u64, magic: u64, writes: bool) {
    if add(task, object, bytes, magic, writes) != 0 {
        expose(task);
    }
}

/// The same, for who exposes it himself: returns not 0 when what is new has to be.
#[inline(always)]
pub(crate) fn add(task: Task, object: &ObjectKey, bytes: u64, magic: u64, writes: bool) -> u32 {
    let place = u64::from(object.dev) << 32 | u64::from(object.generation);
    flow_share(task.0, place, object.ino, bytes, magic << 1 | u64::from(writes))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_share(task: u64, dev_generation: u64, ino: u64, bytes: u64, magic_writes: u64) -> u32 {
    let task = Task(task);
    let Some(holder) = task.holder_key() else { return 0 };
    let object = MemoryObject {
        key: ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino },
        bytes,
        magic: (magic_writes >> 1) as u32,
        writes: (magic_writes & 1) as u32,
    };
    let Some(row) = row(&holder) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    if !unsafe { note(row, &object) } {
        return 0;
    }
    mark(holder.tgid, MARK_MAPPED);
    u32::from(marks(holder.tgid) & MARK_HOLDER != 0)
}

#[inline(always)]
fn row(holder: &HolderKey) -> Option<*mut Memory> {
    if let Some(row) = MEMORY.get_ptr_mut(holder) {
        return Some(row);
    }
    // Nobody writes into this scratch: it is a row of zeros, which is too large for the stack.
    let empty = MEMORY_SCRATCH.row()?;
    // SAFETY: a row of this program's alone.
    let _ = MEMORY.insert(holder, unsafe { &*empty }, 1);
    let row = MEMORY.get_ptr_mut(holder);
    if row.is_none() {
        lose(LOSS_MEMORY_FULL, 1);
    }
    row
}

/// Adds `object` to `row`; whether it was not there.
///
/// # Safety
///
/// `row` is a live row of `MEMORY`.
#[inline(always)]
unsafe fn note(row: *mut Memory, object: &MemoryObject) -> bool {
    let slot = memory_slot(&object.key) & (MEMORY_SLOTS - 1);
    // SAFETY: the caller's; indices are within the arrays.
    unsafe {
        let count = core::ptr::read_volatile(&raw const (*row).count);
        for index in 0..MEMORY_OBJECTS {
            if index as u32 >= count {
                break;
            }
            let known = &raw mut (*row).objects[index];
            if (*known).key.ino == object.key.ino
                && (*known).key.dev == object.key.dev
                && (*known).key.generation == object.key.generation
            {
                if (*known).bytes < object.bytes {
                    (*known).bytes = object.bytes;
                }
                if object.writes == 0 || (*known).writes != 0 {
                    return false;
                }
                (*known).writes = 1;
                (*row).writes[slot] = 1;
                return true;
            }
        }
        // Of what is beyond the list only the slot is known: whether it is new is not, but for the slot.
        let known = (*row).mapped[slot] != 0 && (object.writes == 0 || (*row).writes[slot] != 0);
        (*row).mapped[slot] = 1;
        if object.writes != 0 {
            (*row).writes[slot] = 1;
        }
        if (count as usize) < MEMORY_OBJECTS {
            (*row).objects[count as usize & (MEMORY_OBJECTS - 1)] = *object;
            core::ptr::write_volatile(&raw mut (*row).count, count + 1);
            return true;
        }
        !known
    }
}

/// Makes carriers of all that `task`'s process can store into, if it spreads anything, and has user space link it.
#[inline(always)]
pub(crate) fn expose(task: Task) {
    if flow_expose(task.0) != 0 {
        flow_expose_objects(task.0);
    }
    add_shared(SHARED_MAPPINGS, 1);
}

/// The slots; returns the assets that the process spreads.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_expose(task: u64) -> u64 {
    let Some((holder, row)) = hold::held(Task(task)) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let spreads = unsafe { (*row).spreads };
    let Some(memory) = MEMORY.get_ptr(&holder) else { return 0 };
    if spreads == 0 {
        return 0;
    }
    if let Some(word) = SHARED.get_ptr_mut(SHARED_MEMORY_ASSETS) {
        // SAFETY: a word of an array map.
        unsafe { join(word, spreads) };
    }
    let Some(exposed) = EXPOSED.get_ptr_mut(0) else { return 0 };
    for slot in 0..MEMORY_SLOTS {
        // SAFETY: both rows stay valid until the program ends; a byte store cannot tear.
        unsafe {
            if (*memory).writes[slot] != 0 {
                core::ptr::write_volatile((exposed as *mut u8).add(slot), 1);
            }
        }
    }
    spreads
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_expose_objects(task: u64) -> u32 {
    for index in 0..MEMORY_OBJECTS as u32 {
        flow_expose_object(task, index);
    }
    0
}

/// Whoever has `object` mapped may see bytes of `assets` from now on.
#[inline(always)]
pub(crate) fn expose_object(object: &ObjectKey, assets: u64) {
    if let Some(word) = SHARED.get_ptr_mut(SHARED_MEMORY_ASSETS) {
        // SAFETY: a word of an array map.
        unsafe { join(word, assets) };
    }
    if let Some(exposed) = EXPOSED.get_ptr_mut(0) {
        let slot = memory_slot(object) & (MEMORY_SLOTS - 1);
        // SAFETY: the slot is within the array; a byte store cannot tear.
        unsafe { core::ptr::write_volatile((exposed as *mut u8).add(slot), 1) };
    }
    add_shared(SHARED_MAPPINGS, 1);
}

/// Object `index`: a carrier, and where it is a file a sink of this process, which may have it from its parent.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_expose_object(task: u64, index: u32) -> u32 {
    let Some((holder, row)) = hold::held(Task(task)) else { return 0 };
    let Some(memory) = MEMORY.get_ptr(&holder) else { return 0 };
    // SAFETY: both rows stay valid until the program ends; the index is masked to the array's length.
    let (object, count, spreads) = unsafe {
        ((*memory).objects[index as usize & (MEMORY_OBJECTS - 1)], (*memory).count, (*row).spreads)
    };
    if index >= count || object.writes == 0 || spreads == 0 {
        return 0;
    }
    let kind = if object.key.dev >= OURS {
        OBJECT_CHANNEL
    } else if u64::from(object.magic) == PIPEFS_MAGIC {
        OBJECT_STREAM
    } else {
        OBJECT_CARRIER
    };
    // What it has room for is in it once, whoever reads it later; what passes through it meanwhile is linked.
    let bytes = if carrier::make(&object.key, kind, spreads) { object.bytes } else { 0 };
    if !carrier::pour(&object.key, bytes) {
        // It found no room, so that who reads it cannot be followed. That it counts each time does no harm: no more counts than
        // was taken.
        // SAFETY: the row stays valid until the program ends.
        unsafe { maps::add(&raw mut (*row).put_beyond, object.bytes) };
    }
    if kind == OBJECT_CARRIER {
        let key = FlowKey { holder, assets: ALL_ASSETS, sink: put::of_object(SINK_FILE, &object.key) };
        put::at_least(&key, object.bytes, u64::from(object.magic));
    }
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    0
}

/// Takes `task`'s process for a holder if it has something mapped into which one can store that holds what it does not; whether it
/// did.
#[inline(always)]
pub(crate) fn suspect(task: Task, marks: u8) -> bool {
    if !may_see_more(task, marks) {
        return false;
    }
    suspect_of(task, shared(SHARED_MEMORY_ASSETS));
    true
}

/// Whether `task`'s process, which has these marks, has something mapped into which one can store that holds what it does not.
#[inline(always)]
pub(crate) fn may_see_more(task: Task, marks: u8) -> bool {
    marks & MARK_MAPPED != 0 && (marks & MARK_HOLDER == 0 || flow_holds_stored(task.0) == 0) && may_see(task)
}

/// Whether a holder holds all that anybody can have stored into memory that others have mapped: most hold all that there is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_holds_stored(task: u64) -> u32 {
    let stored = shared(SHARED_MEMORY_ASSETS);
    match hold::held(Task(task)) {
        // SAFETY: the row stays valid until the program ends.
        Some((_, row)) => u32::from(stored & !unsafe { (*row).assets } == 0),
        None => u32::from(stored == 0),
    }
}

/// Whether `task`'s process has something mapped into which one can store that holds.
#[inline(always)]
fn may_see(task: Task) -> bool {
    shared(SHARED_MEMORY_ASSETS) != 0 && flow_may_share(task.0) != 0
}

/// Takes `task`'s process for one that can have all of `assets`.
#[inline(always)]
pub(crate) fn suspect_of(task: Task, assets: u64) {
    if take::become_holder(task, assets)
        && let Some((_, row)) = hold::held(task)
    {
        // SAFETY: the row stays valid until the program ends.
        let spreads = unsafe { hold::spread(row, assets) };
        carrier::adopt(task, spreads);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_may_share(task: u64) -> u32 {
    let Some(holder) = Task(task).holder_key() else { return 0 };
    let Some(memory) = MEMORY.get_ptr(&holder) else { return 0 };
    let Some(exposed) = EXPOSED.get_ptr(0) else { return 0 };
    for lane in 0..MEMORY_SLOTS / 8 {
        // SAFETY: both rows stay valid until the program ends, and are made of whole aligned words.
        unsafe {
            let mapped = core::ptr::read_volatile((memory as *const u64).add(lane));
            if mapped & core::ptr::read_volatile((exposed as *const u64).add(lane)) != 0 {
                return 1;
            }
        }
    }
    0
}

/// Whether `task`'s process has anything mapped that others see.
#[inline(always)]
pub(crate) fn has_mapped(task: Task) -> bool {
    task.holder_key().is_some_and(|holder| MEMORY.get_ptr(&holder).is_some())
}

/// A process has what its parent has when it is forked.
#[inline(always)]
pub(crate) fn inherit(parent: &HolderKey, child: &HolderKey) {
    // SAFETY: the row stays valid until the program ends; insert copies it.
    let Some(row) = (unsafe { MEMORY.get(parent) }) else { return };
    if MEMORY.insert(child, row, 0).is_err() {
        lose(LOSS_MEMORY_FULL, 1);
    }
}

/// A process image is gone. What a holder had is read by user space once more, and removed there.
#[inline(always)]
pub(crate) fn forget(holder: &HolderKey, held: bool) {
    if !held {
        let _ = MEMORY.remove(holder);
    }
}
