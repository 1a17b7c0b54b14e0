//! A process mapped a file: loads and stores cannot be counted, so the whole length is.

use super::{carrier, hold, put, take};
use crate::{
    kernel::{File, S_IFREG, Task},
    maps::mark,
};
use agent_ebpf::{ALL_ASSETS, FlowKey, MARK_MAPPED, OBJECT_CARRIER, SINK_FILE};

/// `task` mapped `bytes` of `file`.
#[inline(always)]
pub(crate) fn on_map(task: Task, file: File, bytes: u64, shared: bool) {
    take::on_take(task, file, bytes);
    // A private mapping writes to nobody. A shared one can be made writable later if the file was opened for writing.
    if shared && file.is_writable() {
        flow_map(task.0, file.0, bytes);
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
    let Some(inode) = file.inode() else { return };
    if inode.kind() != Some(S_IFREG) {
        return;
    }
    let Some(object) = inode.key() else { return };
    let Some(holder) = task.holder_key() else { return };
    mark(holder.tgid, MARK_MAPPED);
    let key = FlowKey { holder, assets: ALL_ASSETS, sink: put::of_object(SINK_FILE, &object) };
    put::count(&key, bytes, Some((file, inode)));
    if let Some((_, row)) = hold::held(task) {
        // SAFETY: the row stays valid until the program ends.
        let spreads = unsafe { (*row).spreads };
        if spreads != 0 {
            carrier::feed(&object, OBJECT_CARRIER, spreads, bytes);
        }
        // SAFETY: the row stays valid until the program ends.
        unsafe { hold::moved(&holder, row) };
    }
}

/// `task` grew a mapping by `bytes`: of which file is not told, so it counts for every asset that it holds.
#[inline(always)]
pub(crate) fn on_grow(task: Task, bytes: u64) {
    carrier::adopt(task, flow_grow(task.0, bytes));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_grow(task: u64, bytes: u64) -> u64 {
    grow(Task(task), bytes)
}

#[inline(always)]
fn grow(task: Task, bytes: u64) -> u64 {
    let Some((_, row)) = hold::held(task) else { return 0 };
    let mut spreads = 0;
    // SAFETY: the row stays valid until the program ends.
    let mut assets = unsafe { (*row).assets };
    for asset in 0..64u32 {
        if assets & 1 == 1 {
            let value = agent_ebpf::ObjectValue {
                assets: 1 << asset,
                kind: agent_ebpf::OBJECT_FILE,
                asset,
                seen: 0,
                held: 0,
                fed: 0,
            };
            spreads |=
                take::take(task, agent_ebpf::ObjectKey { dev: 0, generation: 0, ino: 0 }, value, bytes);
        }
        assets >>= 1;
        if assets == 0 {
            break;
        }
    }
    spreads
}
