//! Copies that an overlay makes by itself: a file of a lower layer comes into the upper one when it is opened for writing or its
//! metadata is changed, and no process reads it.
//!
//! A copy is noticed by its inode in the overlay, which knows its names in both layers (`struct ovl_inode`, 6.5 and later, and
//! only where the kernel's BTF describes it). Who made a copy by a call that names the file by its path is found by `layers`; who was
//! not, counts as whoever opens it next.

use agent_ebpf::{FlowKey, LOSS_OBJECTS_FULL, OBJECT_CARRIER, OBJECT_FILE, ObjectKey, ObjectValue};

use super::{carrier, hold, is_agent, object, put, take};
use crate::{
    kernel::{Dentry, File, Inode, Layers, Task},
    maps::{COPIED_SCRATCH, OBJECTS, lose},
};

/// A copy of a protected file or of a carrier.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copied {
    lower: ObjectKey,
    upper: ObjectKey,
    /// Of the lower one.
    value: ObjectValue,
    bytes: u64,
    /// The name in the upper layer (`struct dentry`), and its inode.
    dentry: u64,
    inode: u64,
}

/// `task` opened `file`. Who opens the name of a copy first is the one who had it made, if nobody was seen to before: to read it
/// too, for what he reads is the asset's.
#[inline(always)]
pub(crate) fn on_open(task: Task, file: File) {
    if !file.is_only_a_name() && flow_copied(file.0) != 0 {
        settle(task);
    }
}

/// `task` changed the metadata of `file`.
#[inline(always)]
pub(crate) fn on_change(task: Task, file: File) {
    if flow_copied(file.0) != 0 {
        settle(task);
    }
}

/// Counts the copy that was found just now: as taken and put by `task`.
#[inline(always)]
pub(super) fn settle(task: Task) {
    if !is_agent(task, task.tgid().unwrap_or(0)) {
        hold::become_holder(task, assets());
        carrier::adopt(task, flow_take_copy(task.0));
        flow_put_copy(task.0);
    }
    flow_feed_copy();
}

#[inline(always)]
fn assets() -> u64 {
    match copied() {
        // SAFETY: a row of this program's alone.
        Some(copied) => unsafe { (*copied).value.assets },
        None => 0,
    }
}

#[inline(always)]
fn copied() -> Option<*const Copied> {
    COPIED_SCRATCH.row().map(<*mut _>::cast_const)
}

/// Whether `file` has a copy that is not known yet; leaves it in this CPU's `COPIED_SCRATCH`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_copied(file: u64) -> u32 {
    match File(file).inode() {
        Some(inode) => flow_copied_inode(inode.0),
        None => 0,
    }
}

/// As [`flow_copied`], for a file that nobody need have open.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_copied_inode(inode: u64) -> u32 {
    u32::from(find(Inode(inode)).is_some())
}

#[inline(always)]
fn find(inode: Inode) -> Option<()> {
    let layers = inode.overlay_layers()?;
    if !layers.has_data {
        return None;
    }
    let (upper, lower) = (layers.upper?, layers.lower?);
    let scratch = COPIED_SCRATCH.row()?;
    // SAFETY: a row of this program's alone.
    let copied = unsafe { &mut *scratch };
    let (copy, original) = (upper.inode()?, data(lower)?.inode()?);
    copied.lower = original.key()?;
    copied.upper = copy.key()?;
    copied.value = object::lookup(&copied.lower)?;
    if copied.value.kind != OBJECT_FILE && copied.value.kind != OBJECT_CARRIER {
        return None;
    }
    // Of one that was opened to be emptied nothing was copied.
    let (own, other) = (copy.size(), original.size());
    copied.bytes = if own < other { own } else { other };
    copied.dentry = upper.0;
    copied.inode = copy.0;
    match object::lookup(&copied.upper) {
        Some(known) if known.assets & copied.value.assets == copied.value.assets => None,
        _ if copied.bytes == 0 => None,
        _ => Some(()),
    }
}

/// The name of what stores the data: an overlay can lie on an overlay.
#[inline(always)]
pub(super) fn data(lower: Dentry) -> Option<Dentry> {
    match lower.inode()?.overlay_layers() {
        Some(Layers { upper: Some(upper), has_data: true, .. }) => Some(upper),
        Some(Layers { lower: Some(lower), .. }) => Some(lower),
        _ => Some(lower),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_take_copy(task: u64) -> u64 {
    match copied() {
        // SAFETY: a row of this program's alone.
        Some(copied) => unsafe { take::take(Task(task), (*copied).lower, (*copied).value, (*copied).bytes) },
        None => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_put_copy(task: u64) -> u32 {
    put_copy(Task(task));
    0
}

#[inline(always)]
fn put_copy(task: Task) -> Option<()> {
    // SAFETY: a row of this program's alone.
    let (bytes, dentry, inode) = unsafe {
        let copied = copied()?;
        ((*copied).bytes, Dentry((*copied).dentry), Inode((*copied).inode))
    };
    let (holder, row) = hold::held(task)?;
    // SAFETY: the row stays valid until the program ends.
    let assets = unsafe { (*row).assets };
    put::count(
        &FlowKey { holder, assets, sink: put::sink_of(inode.known()?)? },
        bytes,
        Some((dentry, inode)),
    );
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    Some(())
}

/// Of a copy that was made before anybody looked it is not known by whom: it is a file of the asset, as what it was copied from.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_protect_copy() -> u32 {
    if let Some(copied) = copied() {
        // SAFETY: a row of this program's alone.
        let copied = unsafe { &*copied };
        if copied.value.kind == OBJECT_FILE && OBJECTS.insert(&copied.upper, &copied.value, 0).is_err() {
            lose(LOSS_OBJECTS_FULL, 1);
        }
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_feed_copy() -> u32 {
    if let Some(copied) = copied() {
        // SAFETY: a row of this program's alone.
        unsafe { carrier::feed(&(*copied).upper, OBJECT_CARRIER, (*copied).value.assets, (*copied).bytes) };
    }
    0
}
