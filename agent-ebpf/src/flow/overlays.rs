//! Which overlays are looked at: those whose layers are on a filesystem that stores an asset. They are found in the kernel's list of all
//! superblocks, whatever mount namespace they are in or in none, without its lock.

use agent_ebpf::{
    LOSS_OBJECTS_FULL, SHARED_LAYERED, SHARED_LAYERS_STALE,
    layers::{KNOWN, Layered, OVERLAYS},
};

use super::{
    layers::{ASTRAY, COMPLETE, NOT_THERE, UNDER_WAY, look},
    now,
};
use crate::{
    kernel::{Superblock, Task},
    maps::{DEVICES, LAYERED, add_shared, lose, set_shared},
};

/// Turns of a loop that calls another loop of as many.
const SUPERBLOCKS: u32 = 128;
/// An overlay that was not met for so long is gone, ns: looks of several CPUs at once each meet what the others do not.
const UNSEEN: u64 = 10_000_000_000;
/// Overlays that find no room are counted once in so long, ns: each look meets them again.
const TOLD_FOR: u64 = 3_600_000_000_000;
/// Filesystems of one overlay's layers; with more of them one is assumed to store an asset.
const LAYERS: u32 = 8;

/// Looks for overlays among all superblocks.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_overlays() -> u32 {
    // Whoever asks for another look from now on gets one.
    set_shared(SHARED_LAYERS_STALE, 0);
    let Some(look) = look() else { return 0 };
    let Some(first) = own_superblock() else { return 0 };
    (look.at, look.end, look.state, look.since) = (first.0, first.0, UNDER_WAY, now());
    for _ in 0..SUPERBLOCKS {
        if flow_some_superblocks() == 0 {
            break;
        }
    }
    if look.state != COMPLETE {
        // Some were not met: the next look meets them.
        set_shared(SHARED_LAYERS_STALE, 1);
        return 0;
    }
    for number in 0..OVERLAYS {
        flow_forget_overlay(number);
    }
    0
}

/// Some filesystem that is mounted for as long as this lasts.
#[inline(always)]
fn own_superblock() -> Option<Superblock> {
    Task::current().mm()?.exe()?.inode()?.superblock()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_some_superblocks() -> u32 {
    for _ in 0..SUPERBLOCKS {
        if flow_superblock() == 0 {
            return 0;
        }
    }
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_superblock() -> u32 {
    let Some(look) = look() else { return 0 };
    let at = Superblock(look.at);
    if at.is_overlay() && flow_can_have_assets(at.0) != 0 {
        flow_note_overlay(at.0);
    }
    match at.next() {
        Some(next) if next.0 == look.end => {
            look.state = COMPLETE;
            0
        }
        Some(next) if next.0 != at.0 => {
            look.at = next.0;
            1
        }
        _ => {
            look.state = ASTRAY;
            0
        }
    }
}

/// Whether an overlay can copy, and some of its layers is on a filesystem that stores an asset, or is an overlay itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_can_have_assets(superblock: u64) -> u32 {
    let overlay = Superblock(superblock);
    let Some(layers) = overlay.layers() else { return 0 };
    // It is read-only.
    if overlay.layer(0).is_none() {
        return 0;
    }
    for index in 0..LAYERS {
        if index >= layers {
            return 0;
        }
        if let Some(layer) = overlay.layer(index)
            && let Some(device) = layer.device()
            // SAFETY: nothing is kept of it.
            && (layer.is_overlay() || unsafe { DEVICES.get(device) }.is_some())
        {
            return 1;
        }
    }
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_note_overlay(superblock: u64) -> u32 {
    let Some(look) = look() else { return 0 };
    for number in 0..OVERLAYS {
        if let Some(row) = LAYERED.get_ptr_mut(number) {
            // SAFETY: the row stays valid until the program ends.
            unsafe {
                if (*row).superblock == superblock {
                    // Another CPU can have looked since.
                    if (*row).seen < look.since {
                        (*row).seen = look.since;
                    }
                    return 0;
                }
            }
        }
    }
    look.fresh = Layered { superblock, seen: look.since, is_new: 1, made: 0, known: [0; KNOWN] };
    for number in 0..OVERLAYS {
        if LAYERED.get_ptr(number).is_none() && LAYERED.insert(number, &look.fresh, NOT_THERE).is_ok() {
            add_shared(SHARED_LAYERED, 1);
            return 0;
        }
    }
    if look.told == 0 || look.told + TOLD_FOR < look.since {
        look.told = look.since;
        lose(LOSS_OBJECTS_FULL, 1);
    }
    0
}

/// Forgets an overlay that is mounted no more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_forget_overlay(number: u32) -> u32 {
    let (Some(row), Some(look)) = (LAYERED.get_ptr(number), look()) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    if unsafe { (*row).seen } + UNSEEN < look.since && LAYERED.remove(number).is_ok() {
        add_shared(SHARED_LAYERED, u64::MAX);
    }
    0
}
