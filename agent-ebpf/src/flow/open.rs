//! A process got a descriptor: by any call that returns one.

use super::{carrier, channel, gpu, hold, is_agent, object, overlay, reach, store, tamper, unmetered};
use crate::{
    kernel::{File, Inode, Task},
    maps::{IDENTITIES_OF, OBJECTS, add, mark},
};
use agent_ebpf::{
    ALL_OF_IT, CANARY_SET, IDENTITIES, Identity, MARK_WATCHED, OBJECT_CARRIER, OBJECT_FILE, OBJECT_STORE,
};

/// Of a file that is not told to the agent: it asks by descriptors of its own.
pub(crate) const NO_DESCRIPTOR: u32 = u32::MAX;

/// `descriptor` is new in `task`'s process and stands for `file`.
#[inline(always)]
pub(crate) fn on_open(task: Task, tgid: u32, descriptor: u32, file: File) {
    overlay::on_open(task, file);
    store::on_have(file);
    carrier::adopt(task, flow_open(task.0, tgid, descriptor, file.0));
    reach::on_open(task, tgid, file);
    let spreads = hold::spreads(task);
    carrier::adopt_file(file, spreads);
    unmetered::on_have(task, file, spreads);
    gpu::on_have(task, file);
    if file.is_writable() && !is_agent(task, tgid) {
        tamper::on_open_writable(file);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open(task: u64, tgid: u32, descriptor: u32, file: u64) -> u64 {
    open(Task(task), tgid, descriptor, File(file).backing())
}

/// Returns the assets that the process spreads from now on, see [`hold::spread`].
#[inline(always)]
fn open(task: Task, tgid: u32, descriptor: u32, file: File) -> u64 {
    let Some(inode) = file.inode() else { return 0 };
    if is_agent(task, tgid) {
        identify(descriptor, inode);
        return 0;
    }
    if let Some((key, object)) = object::protected(file, inode) {
        if object.kind == OBJECT_FILE
            && let Some((_, row)) = hold::hold(task, object.assets)
        {
            // It found no room, so that what is read from it will not be known for the asset's.
            if OBJECTS.get_ptr(&key).is_none() {
                // SAFETY: the row stays valid until the program ends.
                unsafe { add(&raw mut (*row).taken_beyond, ALL_OF_IT) };
            }
            // One call can take and put all of it.
            // SAFETY: the row stays valid until the program ends.
            return unsafe { hold::spread(row, object.assets) };
        }
        return 0;
    }
    if file.is_fanotify() {
        // What is read from it brings descriptors.
        mark(tgid, MARK_WATCHED);
        return 0;
    }
    let Some(found) = object::source_here(file) else {
        if store::is_control(file) || channel::hears(file) {
            mark(tgid, MARK_WATCHED);
        }
        return 0;
    };
    // SAFETY: this CPU's scratch, which was written just now; programs that use it do not nest.
    let (device, kind, assets) = unsafe { ((*found).key.dev, (*found).value.kind, (*found).value.assets) };
    if store::is_only_found(inode) {
        mark(tgid, MARK_WATCHED);
        return 0;
    }
    if kind == OBJECT_STORE && file.is_only_a_name() {
        return 0;
    }
    hold::hold(task, assets);
    if kind == OBJECT_STORE {
        store::open(task, inode, device, assets);
    }
    // Of a carrier only as much comes out as was put in, so that the floor decides.
    if kind < OBJECT_CARRIER { hold::spread_of(task, assets & !CANARY_SET) } else { 0 }
}

/// Tells the agent what it opened.
#[inline(always)]
fn identify(descriptor: u32, inode: Inode) {
    if descriptor >= IDENTITIES {
        return;
    }
    let Some(key) = inode.key() else { return };
    if let Some(row) = IDENTITIES_OF.get_ptr_mut(descriptor) {
        // SAFETY: a row of an array map; the agent opens and asks from one thread at a time for each descriptor.
        unsafe {
            let serial = (*row).serial.wrapping_add(1);
            *row = Identity {
                key,
                size: inode.size(),
                magic: inode.magic().unwrap_or(0),
                mode: inode.kind().unwrap_or(0),
                serial,
            };
        }
    }
}
