//! Who a process is: kept from its exec on, sent when it or a descendant becomes a holder.
//!
//! A `cp` lives for 3 ms; user space would come too late for its path and its arguments.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_probe_read_user};

use super::path;
use crate::{
    kernel::Task,
    maps::{FACTS, IMAGES, PROCESS_SCRATCH, PROCESSES, lose},
};
use agent_ebpf::{
    ARGV_BYTES, FACT_PROCESS, HolderKey, LOSS_PROCESSES_FULL, LOSS_RING_FULL, ObjectKey, ProcessFact, SENT,
    UNSENT,
};

/// Ancestors that a report climbs; a longer chain is cut at the top.
const GENERATIONS: usize = 32;
const UNKNOWN: ObjectKey = ObjectKey { dev: 0, generation: 0, ino: 0 };

/// Notes the identity of `task`'s process. `own_memory`: it is the running task, whose arguments can be read.
#[inline(always)]
pub(crate) fn note(task: Task, key: &HolderKey, own_memory: bool) {
    let Some(fact) = PROCESS_SCRATCH.row() else { return };
    // SAFETY: a row of this program's alone.
    unsafe {
        (*fact).fact = FACT_PROCESS;
        (*fact).uid = task.uid().unwrap_or(u32::MAX);
        (*fact).auid = task.login_uid();
        (*fact).parent_tgid = parent_tgid(task);
        (*fact).key = *key;
        (*fact).cgroup = if own_memory { bpf_get_current_cgroup_id() } else { 0 };
        (*fact).exe = UNKNOWN;
        (*fact).reported = 0;
        (*fact).argv_len = 0;
        (*fact).exe_path.len = 0;
        let Some(mm) = task.mm() else { return };
        if let Some(exe) = mm.exe() {
            if let Some(inode) = exe.backing().inode() {
                (*fact).exe = inode.key().unwrap_or(UNKNOWN);
            }
            if let Some(dentry) = exe.dentry() {
                path::write(dentry, &raw mut (*fact).exe_path);
            }
        }
        if own_memory && let Some((start, len)) = mm.arguments() {
            let len = if len > ARGV_BYTES as u64 - 1 { ARGV_BYTES as u64 - 1 } else { len };
            if bpf_probe_read_user((&raw mut (*fact).argv).cast(), len as u32, start as *const _) == 0 {
                (*fact).argv_len = len as u32;
            }
        }
        if PROCESSES.insert(key.tgid, &*fact, 0).is_err() {
            lose(LOSS_PROCESSES_FULL, 1);
        }
    }
}

/// A fork runs its parent's program until it execs.
#[inline(always)]
pub(crate) fn copy(parent_tgid: u32, child: &HolderKey, uid: Option<u32>) {
    // SAFETY: the row stays valid until the program ends; insert copies it.
    let Some(row) = (unsafe { PROCESSES.get(parent_tgid) }) else { return };
    if PROCESSES.insert(child.tgid, row, 0).is_err() {
        lose(LOSS_PROCESSES_FULL, 1);
        return;
    }
    if let Some(row) = PROCESSES.get_ptr_mut(child.tgid) {
        // SAFETY: the row stays valid until the program ends, and the child does not run yet.
        unsafe {
            (*row).key = *child;
            (*row).parent_tgid = parent_tgid;
            (*row).reported = 0;
            if let Some(uid) = uid {
                (*row).uid = uid;
            }
        }
    }
}

/// Before the image of a process goes: keeps its identity, if it was to be sent and found no room in the ring.
#[inline(always)]
pub(crate) fn keep(tgid: u32) {
    flow_keep_image(tgid);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_keep_image(tgid: u32) -> u32 {
    let Some(row) = PROCESSES.get_ptr(tgid) else { return 0 };
    // SAFETY: the row stays valid until the program ends; insert copies it.
    unsafe {
        if (*row).reported == UNSENT && IMAGES.insert(&(*row).key, &*row, 0).is_err() {
            lose(LOSS_PROCESSES_FULL, 1);
        }
    }
    0
}

/// Sends the identity of `task`'s process and of each of its ancestors that was not sent yet.
#[inline(always)]
pub(crate) fn report(task: Task) {
    flow_report(task.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_report(task: u64) -> u32 {
    climb(Task(task));
    0
}

#[inline(always)]
fn climb(task: Task) {
    let Some(mut task) = task.leader() else { return };
    for _ in 0..GENERATIONS {
        let Some(tgid) = task.tgid() else { return };
        if let Some(row) = PROCESSES.get_ptr_mut(tgid) {
            // SAFETY: the row stays valid until the program ends.
            unsafe {
                if (*row).reported != SENT {
                    (*row).parent_tgid = parent_tgid(task);
                    if FACTS.output::<ProcessFact>(&*row, 0).is_ok() {
                        (*row).reported = SENT;
                    } else {
                        (*row).reported = UNSENT;
                        lose(LOSS_RING_FULL, 1);
                    }
                }
            }
        }
        if tgid <= 1 {
            return;
        }
        let Some(parent) = task.parent() else { return };
        let Some(leader) = parent.leader() else { return };
        task = leader;
    }
}

#[inline(always)]
fn parent_tgid(task: Task) -> u32 {
    match task.parent() {
        Some(parent) => parent.tgid().unwrap_or(0),
        None => 0,
    }
}
