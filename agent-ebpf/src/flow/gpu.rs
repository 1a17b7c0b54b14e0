//! Who has a GPU open: what one process keeps in its memory another one on it may reach, past every hook.
//!
//! One row for each process and node, whether it holds anything or not; which of them share one with a holder is for user
//! space to find out. Rows are made at an open, and by the scan for descriptors that were inherited, passed or older. This
//! file must not know what a driver does with its node.

use agent_ebpf::{
    HolderKey, LOSS_ACTS_FULL, MARK_WATCHED, SHARED_EPOCH, SHARED_GPUS,
    acts::{ANY_MINOR, ANY_NODE, CHANNEL_GPU, GpuKey, GpuValue},
};

use super::{act, is_agent, now, process, wake};
use crate::{
    kernel::{File, S_IFCHR, Task},
    maps::{CHANNELS, GPU_USERS, lose, mark, shared},
};

/// Whether this host has any: else nobody pays for more than this.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    shared(SHARED_GPUS) != 0
}

/// `task`'s process has `file` open.
#[inline(always)]
pub(crate) fn on_have(task: Task, file: File) {
    if are_there() {
        flow_gpu(task.0, file.0);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_gpu(task: u64, file: u64) -> u32 {
    if let Some(device) = node(File(file)) {
        flow_note_gpu(task, device);
    }
    0
}

/// Whether `file` is the node of a GPU.
#[inline(always)]
pub(crate) fn is_one(file: File) -> bool {
    are_there() && flow_is_gpu(file.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_gpu(file: u64) -> u32 {
    u32::from(node(File(file)).is_some())
}

#[inline(always)]
fn node(file: File) -> Option<u32> {
    let inode = file.inode()?;
    // A name of one (`O_PATH`) has not been through its driver.
    if inode.kind()? != S_IFCHR || file.is_only_a_name() {
        return None;
    }
    let device = inode.rdev()?;
    if channel_of(device) == CHANNEL_GPU { Some(device) } else { None }
}

/// What user space said of a character device: one of the `CHANNEL_` constants, 0 for nothing.
#[inline(always)]
pub(super) fn channel_of(device: u32) -> u32 {
    // SAFETY: read at once; an entry freed meanwhile is not reused before the program ends (RCU).
    match unsafe { CHANNELS.get(device) } {
        Some(&channel) => channel,
        // SAFETY: as above.
        None => unsafe { CHANNELS.get(device | ANY_MINOR) }.map_or(0, |&channel| channel),
    }
}

/// `task`'s process has the node `device` open.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_note_gpu(task: u64, device: u32) -> u32 {
    let task = Task(task);
    let Some(user) = task.holder_key() else { return 0 };
    if is_agent(task, user.tgid) {
        return 0;
    }
    // Descriptors that it sends are followed.
    mark(user.tgid, MARK_WATCHED);
    if note(user, device) {
        note(user, ANY_NODE);
        process::report(task);
        act::changed();
        wake();
    }
    0
}

/// Whether the row is new.
#[inline(always)]
fn note(user: HolderKey, device: u32) -> bool {
    let key = GpuKey { user, device, reserved: 0 };
    let epoch = shared(SHARED_EPOCH);
    if let Some(row) = GPU_USERS.get_ptr_mut(&key) {
        // SAFETY: the row stays valid until the program ends; an aligned word is not torn.
        unsafe { core::ptr::write_volatile(&raw mut (*row).seen, epoch) };
        return false;
    }
    if GPU_USERS.insert(&key, &GpuValue { first: now(), ended: 0, seen: epoch }, 1).is_err()
        && GPU_USERS.get_ptr(&key).is_none()
    {
        lose(LOSS_ACTS_FULL, 1);
        return false;
    }
    true
}

/// The image `user` ends.
#[inline(always)]
pub(crate) fn on_end(user: &HolderKey) {
    if are_there() {
        flow_end_gpu(user.tgid, user.exec, user.start);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_end_gpu(tgid: u32, exec: u32, start: u64) -> u32 {
    let key = GpuKey { user: HolderKey { tgid, exec, start }, device: ANY_NODE, reserved: 0 };
    if let Some(row) = GPU_USERS.get_ptr_mut(&key) {
        // SAFETY: the row stays valid until the program ends; an aligned word is not torn.
        unsafe { core::ptr::write_volatile(&raw mut (*row).ended, now()) };
        act::changed();
        wake();
    }
    0
}
