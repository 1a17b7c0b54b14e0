//! Copies that an overlay makes for a call that names a file by its path: after such a call every file of an asset that an overlay has in
//! memory is asked whether it was copied.
//!
//! Overlays are looked for when a filesystem was mounted (`overlays`), and their files in the list of each one's inodes, of which only the newest are new. No lock of the kernel's is held: a walk that went
//! astray is made again. Misses: a copy whose overlay drops its inode before the call that made it returned; files of
//! an overlay that has none of its layers on a filesystem that stores an asset.

use agent_ebpf::{
    LOSS_OBJECTS_FULL, OBJECT_CARRIER, OBJECT_FILE, SHARED_COPYABLE, SHARED_LAYERED, SHARED_LAYERS_MADE,
    SHARED_LAYERS_STALE,
    layers::{COPYABLES, KNOWN, Layered, OVERLAYS},
};

use super::{is_agent, object, overlay, overlays::flow_overlays};
use crate::{
    kernel::{Dentry, Inode, Link, S_IFREG, Superblock, Task},
    maps::{COPYABLE, LAYERED, LOOK_SCRATCH, OBJECTS, add_shared, lose, shared},
};

/// Turns of a loop that calls another loop of as many.
const INODES: u32 = 1024;
/// Copies that are counted after one call; what is left counts after the next.
const COPIES: u32 = 16;
/// Walks of one list, when others change it meanwhile.
const WALKS: u32 = 4;
pub(super) const NOT_THERE: u64 = 1;

pub(super) const UNDER_WAY: u64 = 0;
pub(super) const COMPLETE: u64 = 1;
pub(super) const ASTRAY: u64 = 2;

/// A walk through superblocks, or through the inodes of one.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Look {
    /// Where it is, and where it ends: addresses of superblocks, or of links of inodes.
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) state: u64,
    /// When it began, ns since boot.
    pub(super) since: u64,
    /// When an overlay that found no room was counted, ns since boot.
    pub(super) told: u64,
    superblock: u64,
    is_new: u64,
    /// Not 0 when some inode has to be looked at again.
    is_left: u64,
    /// The first of the known inodes that it came to.
    met: u64,
    newest: u64,
    made: u64,
    known: [u64; KNOWN],
    pub(super) fresh: Layered,
    /// Files of assets: the number of the next to be looked at, and how many there still are.
    next: u64,
    still: u64,
    /// A copy of one that found no room among them.
    beyond: u64,
}

#[inline(always)]
pub(super) fn look() -> Option<&'static mut Look> {
    // SAFETY: a row of this program's alone, which stays valid until the program ends.
    LOOK_SCRATCH.row().map(|look| unsafe { &mut *look })
}

/// Whether any overlay is looked at.
#[inline(always)]
pub(crate) fn are_some() -> bool {
    shared(SHARED_LAYERED) != 0 || shared(SHARED_LAYERS_STALE) != 0
}

/// A filesystem was mounted, or is about to be.
#[inline(always)]
pub(crate) fn on_mount() {
    flow_overlays();
    if shared(SHARED_LAYERED) != 0 {
        flow_overlaid();
    }
}

/// `task` made a call that can have had a file copied that it named by a path.
#[inline(always)]
pub(crate) fn on_named(task: Task) {
    if are_some() && !is_agent(task, task.tgid().unwrap_or(0)) {
        refresh();
        for _ in 0..COPIES {
            if flow_count_copy(task.0) == 0 {
                break;
            }
        }
    }
}

/// Looks for overlays anew if that was asked for, and at what is new in them.
#[inline(always)]
pub(crate) fn refresh() {
    if shared(SHARED_LAYERS_STALE) != 0 {
        flow_overlays();
    }
    flow_overlaid();
}

/// Counts one copy that is not known yet; 0 when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_count_copy(task: u64) -> u32 {
    if flow_next_copy() == 0 {
        return 0;
    }
    overlay::settle(Task(task));
    1
}

/// Leaves the next copy in this CPU's `COPIED_SCRATCH`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_next_copy() -> u32 {
    let Some(look) = look() else { return 0 };
    if look.beyond != 0 && overlay::flow_copied_inode(look.beyond) != 0 {
        return 1;
    }
    for _ in 0..COPYABLES {
        match flow_copyable() {
            0 => {}
            1 => return 1,
            _ => return 0,
        }
    }
    0
}

/// Asks the next file: 1 when it was copied and nobody knows, 2 when there are no more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_copyable() -> u32 {
    let Some(look) = look() else { return 2 };
    let number = look.next as u32;
    if look.still == 0 || number >= COPYABLES {
        return 2;
    }
    look.next += 1;
    let Some(row) = COPYABLE.get_ptr(number) else { return 0 };
    look.still -= 1;
    // SAFETY: copied out at once; the row stays valid until the program ends.
    let inode = unsafe { *row };
    if overlay::flow_copied_inode(inode) != 0 {
        return 1;
    }
    if can_be_copied(Inode(inode)) != WORTH
        // SAFETY: as above. Another CPU can have put another there meanwhile.
        && COPYABLE.get_ptr(number).is_some_and(|row| unsafe { *row } == inode)
        && COPYABLE.remove(number).is_ok()
    {
        add_shared(SHARED_COPYABLE, u64::MAX);
    }
    0
}

/// Looks at the new inodes of every overlay.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_overlaid() -> u32 {
    if let Some(look) = look() {
        look.beyond = 0;
    }
    for number in 0..OVERLAYS {
        for _ in 0..WALKS {
            if flow_inodes_of(number) == 0 {
                break;
            }
        }
    }
    if let Some(look) = look() {
        (look.next, look.still) = (0, shared(SHARED_COPYABLE));
    }
    0
}

/// Not 0 when it went astray.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_inodes_of(number: u32) -> u32 {
    let Some(row) = LAYERED.get_ptr_mut(number) else { return 0 };
    let Some(look) = look() else { return 0 };
    // SAFETY: the row stays valid until the program ends. What another CPU changes in it meanwhile is as true.
    unsafe {
        look.known = (*row).known;
        (look.superblock, look.is_new) = ((*row).superblock, (*row).is_new);
        look.made = shared(SHARED_LAYERS_MADE);
        // What was of no asset can be a carrier by now.
        if (*row).made != look.made {
            look.known = [0; KNOWN];
        }
    }
    let head = Superblock(look.superblock).inodes();
    let first = head.next();
    look.newest = sign(first.inode());
    // It is empty, or the newest is so still.
    if first == head || look.newest == look.known[0] {
        return 0;
    }
    (look.at, look.end) = (first.0, head.0);
    (look.state, look.is_left, look.met) = (UNDER_WAY, 0, 0);
    for _ in 0..INODES {
        if flow_some_inodes() == 0 {
            break;
        }
    }
    match look.state {
        ASTRAY => return 1,
        COMPLETE if look.is_left == 0 => {}
        COMPLETE => return 0,
        _ => {
            lose(LOSS_OBJECTS_FULL, 1);
            return 0;
        }
    }
    let mut at = 1;
    // SAFETY: as above.
    unsafe {
        (*row).known[0] = look.newest;
        for old in 0..KNOWN {
            if old as u64 + 1 >= look.met && at < KNOWN {
                (*row).known[at] = look.known[old];
                at += 1;
            }
        }
        (*row).is_new = 0;
        (*row).made = look.made;
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_some_inodes() -> u32 {
    for _ in 0..INODES {
        if flow_inode() == 0 {
            return 0;
        }
    }
    1
}

/// What tells an inode of an overlay from another that comes to be in its place: which file it is, and its layers.
#[inline(always)]
fn sign(inode: Inode) -> u64 {
    let (lowers, upper) = match inode.overlay_layers() {
        Some(layers) => (layers.lowers, layers.upper.map_or(0, |upper| upper.0)),
        None => (0, 0),
    };
    let mixed = inode.0 ^ lowers.rotate_left(21) ^ upper.rotate_left(42);
    (mixed ^ inode.number().unwrap_or(0)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Looks at one inode and goes on to the next; 0 where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_inode() -> u32 {
    let Some(look) = look() else { return 0 };
    let (link, inode) = (Link(look.at), Link(look.at).inode());
    if look.at == look.end {
        (look.state, look.met) = (COMPLETE, KNOWN as u64 + 1);
        return 0;
    }
    // Taken off the list, or in another one.
    let next = link.next();
    if next == link || next.0 == 0 || inode.superblock().is_none_or(|found| found.0 != look.superblock) {
        look.state = ASTRAY;
        return 0;
    }
    if flow_is_known(inode.0) != 0 {
        return 0;
    }
    match can_be_copied(inode) {
        0 => {}
        WORTH => {
            let before = look.is_new != 0 && overlay::flow_copied_inode(inode.0) != 0;
            if before {
                overlay::flow_protect_copy();
            } else if flow_note_copyable(inode.0) == 0 {
                // It is met again by every walk, and asked there.
                look.is_left = 1;
                if overlay::flow_copied_inode(inode.0) != 0 {
                    look.beyond = inode.0;
                }
            }
        }
        _ => look.is_left = 1,
    }
    look.at = next.0;
    1
}

/// Whether the walk came to an inode behind which all were looked at.
// VERIFIER: a function of its own, for the stack («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_known(inode: u64) -> u32 {
    let Some(look) = look() else { return 0 };
    let sign = sign(Inode(inode));
    for (index, known) in look.known.iter().enumerate() {
        if *known == sign {
            (look.state, look.met) = (COMPLETE, index as u64 + 1);
            return 1;
        }
    }
    0
}

/// It is a file of an asset, or may come to be known as one; it is not made yet.
const WORTH: u32 = 1;
const TOO_EARLY: u32 = 2;

/// Whether an inode of an overlay is a file of an asset in a lower layer: `WORTH`, `TOO_EARLY` or 0.
// VERIFIER: inlined, or there are more than 8 frames below it.
#[inline(always)]
fn can_be_copied(inode: Inode) -> u32 {
    let Some(layers) = inode.overlay_layers() else { return 0 };
    if layers.upper.is_none() && layers.lowers == 0 {
        // Directories without any are of the kernel's own (`ovl_get_trap_inode`), and stay so.
        return match inode.kind() {
            Some(0 | S_IFREG) => TOO_EARLY,
            _ => 0,
        };
    }
    match layers.lower.and_then(overlay::data) {
        Some(lower) if is_of_asset(lower) => WORTH,
        _ => 0,
    }
}

#[inline(always)]
fn is_of_asset(lower: Dentry) -> bool {
    let Some(inode) = lower.inode() else { return false };
    let Some(key) = inode.key() else { return false };
    // SAFETY: copied out at once.
    match unsafe { OBJECTS.get(&key) }.map(|known| known.kind) {
        Some(OBJECT_FILE | OBJECT_CARRIER) => true,
        _ => object::protected_at(Some(lower), inode).is_some(),
    }
}

/// 0 when it found no room.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_note_copyable(inode: u64) -> u32 {
    for number in 0..COPYABLES {
        match COPYABLE.get_ptr(number) {
            // SAFETY: the row stays valid until the program ends.
            Some(row) if unsafe { *row } == inode => return 1,
            Some(_) => {}
            None => {
                if COPYABLE.insert(number, inode, NOT_THERE).is_ok() {
                    add_shared(SHARED_COPYABLE, 1);
                    return 1;
                }
            }
        }
    }
    0
}
