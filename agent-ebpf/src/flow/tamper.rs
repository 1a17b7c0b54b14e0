//! Something was done against the agent: counted in a map, because a ring can be flooded.

use agent_ebpf::tamper::{TAMPER_BPF, TAMPER_FILE, TAMPERED_BEYOND, TAMPERED_COUNT, TamperKey, TamperValue};

use super::{now, process, wake};
use crate::{
    kernel::{File, Task},
    maps::{OWN_FILES, OWN_OBJECTS, TAMPERED, TAMPERS, add},
};

/// The running process did `kind` to `number`.
#[inline(always)]
pub(crate) fn note(kind: u32, number: u32) {
    flow_tamper(kind, number);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_tamper(kind: u32, number: u32) -> u32 {
    let task = Task::current();
    let Some(actor) = task.holder_key() else {
        count(TAMPERED_BEYOND);
        count(TAMPERED_COUNT);
        wake();
        return 0;
    };
    let key = TamperKey { actor, kind, number };
    if TAMPERS.get_ptr(&key).is_none() && TAMPERS.insert(&key, &TamperValue { count: 0, last: 0 }, 1).is_ok()
    {
        process::report(task);
    }
    match TAMPERS.get_ptr_mut(&key) {
        // SAFETY: the row stays valid until the program ends; `last` is a hint.
        Some(row) => unsafe {
            add(&raw mut (*row).count, 1);
            (*row).last = now();
        },
        None => count(TAMPERED_BEYOND),
    }
    count(TAMPERED_COUNT);
    wake();
    0
}

#[inline(always)]
fn count(word: u32) {
    if let Some(word) = TAMPERED.get_ptr_mut(word) {
        // SAFETY: a word of an array map.
        unsafe { add(word, 1) };
    }
}

/// The running process, which is not the agent, opened `file` and may write into it.
#[inline(always)]
pub(crate) fn on_open_writable(file: File) {
    flow_tamper_file(file.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_tamper_file(file: u64) -> u32 {
    if let Some(inode) = File(file).backing().inode()
        && let Some(key) = inode.key()
    {
        // SAFETY: copied out at once.
        if let Some(&number) = unsafe { OWN_FILES.get(&key) } {
            note(TAMPER_FILE, number);
        }
    }
    0
}

/// The running process has or uses a BPF object, by a descriptor of its own: one of the agent's?
#[inline(always)]
pub(crate) fn on_object(file: File) {
    if let Some(object) = file.private_data() {
        // SAFETY: copied out at once.
        if let Some(&number) = unsafe { OWN_OBJECTS.get(&object) } {
            note(TAMPER_BPF, number);
        }
    }
}

/// The agent shows one of its own BPF objects.
#[inline(always)]
pub(crate) fn learn_object(file: File, number: u32) {
    if let Some(object) = file.private_data() {
        let _ = OWN_OBJECTS.insert(&object, &number, 0);
    }
}
