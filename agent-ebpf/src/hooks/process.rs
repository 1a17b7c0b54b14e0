//! Life of processes: fork hands down what is held, exec leaves memory behind, exit ends the row.
//!
//! Kernel prototypes (`include/trace/events/sched.h`, BTF since 5.5): `sched_process_fork(struct task_struct *parent, struct
//! task_struct *child)`, `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`,
//! `sched_process_exit(struct task_struct *p, …)`.

use agent_ebpf::{HolderKey, MARK_HOLDER, MARK_MAPPED, MARK_SHARED, MARK_SPACE, MARK_WATCHED};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{
    flow::{
        act, carrier, gpu, hold, memory, now,
        open::{NO_DESCRIPTOR, on_open},
        process, reach, row, space,
        take::on_take,
        wake,
    },
    kernel::{S_IFREG, Task, exec_descriptor},
    log,
    maps::{HOLDERS, PROCESSES, mark, marks, set_marks},
};

/// Most that one call moves (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;

#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    forked(Task(word(&ctx, 0)), Task(word(&ctx, 1)));
    0
}

#[inline(always)]
fn forked(parent: Task, child: Task) -> Option<()> {
    // A thread holds what its process holds. It can have descriptors of its own, which nobody looks for among the process's.
    if child.pid()? != child.tgid()? {
        if parent.files() != child.files() {
            mark(child.tgid()?, MARK_SHARED);
        }
        return None;
    }
    let (from, to) = (parent.holder_key()?, child.holder_key()?);
    let inherited = marks(from.tgid);
    let memory = match (parent.mm(), child.mm()) {
        (Some(own), Some(other)) if own.0 == other.0 => Some(own),
        _ => None,
    };
    if let Some(memory) = memory {
        space::share(from.tgid, memory, 0);
        space::settle(parent);
    }
    // Written even when 0: the id may have been another process's.
    set_marks(to.tgid, inherited & !MARK_SPACE);
    // What either opens the other can read.
    if parent.files() == child.files() {
        mark(from.tgid, MARK_SHARED | MARK_WATCHED);
        mark(to.tgid, MARK_SHARED | MARK_WATCHED);
    }
    process::copy(from.tgid, &to, child.uid());
    if inherited & MARK_MAPPED != 0 {
        memory::inherit(&from, &to);
    }
    let mut brought = 0;
    if inherited & MARK_HOLDER != 0
        && let Some(row) = HOLDERS.get_ptr(&from)
    {
        // SAFETY: copied out at once; the row stays valid until the program ends.
        let row = unsafe { *row };
        // A read that another thread is in has filled memory that the child gets, and is not counted yet.
        let running = parent.live_threads().unwrap_or(1).saturating_sub(1);
        brought = row.taken + u64::from(running) * MOST;
        process::report(child);
        hold::inherit(&from, &to, &row, brought);
        if let Some(child) = HOLDERS.get_ptr_mut(&to) {
            // SAFETY: the row stays valid until the program ends.
            unsafe { (*child).mapped = row.mapped };
        }
        log::log_forked(from.tgid, to.tgid, row.taken);
        if inherited & MARK_MAPPED != 0 {
            memory::expose(child);
        }
        row::holder(&to);
        wake();
    }
    if let Some(memory) = memory {
        space::share(to.tgid, memory, brought);
    }
    Some(())
}

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    execed(Task(word(&ctx, 0)), word(&ctx, 2));
    0
}

#[inline(always)]
fn execed(task: Task, bprm: u64) -> Option<()> {
    let key = task.holder_key()?;
    process::keep(key.tgid);
    process::note(task, &key, true);
    space::leave(key.tgid);
    gpu::on_end(&HolderKey { exec: key.exec.wrapping_sub(1), ..key });
    let inherited = marks(key.tgid);
    if inherited & MARK_MAPPED != 0 {
        let before = HolderKey { exec: key.exec.wrapping_sub(1), ..key };
        memory::forget(&before, inherited & MARK_HOLDER != 0);
    }
    let inherited = inherited & !(MARK_MAPPED | MARK_SHARED | MARK_SPACE);
    set_marks(key.tgid, inherited);
    // Watched for a descriptor that it may have: now that all closed that close on exec, it has one or has none. Without this
    // the mark would pass to everything that a watched service ever starts.
    if inherited & (MARK_HOLDER | MARK_WATCHED) == MARK_WATCHED && !carrier::has_any(task) {
        set_marks(key.tgid, 0);
    }
    if inherited & MARK_HOLDER != 0 {
        succeed(task, &key);
    }
    run(task);
    given(task, key.tgid, bprm)
}

/// The new image of a holder holds what the old one did, of which it has little.
#[inline(always)]
fn succeed(task: Task, key: &HolderKey) -> Option<()> {
    let before = HolderKey { exec: key.exec.wrapping_sub(1), ..*key };
    let row = HOLDERS.get_ptr_mut(&before)?;
    // SAFETY: the row stays valid until the program ends.
    let old = unsafe {
        (*row).ended = now();
        *row
    };
    // Its memory can have been registered with a ring of io_uring, which others use.
    reach::on_end(old.assets);
    // Nothing else of the old image's memory outlives an exec but its arguments and environment.
    let carried = task.mm()?.carried_bytes()?;
    let inherited = if old.taken < carried { old.taken } else { carried };
    process::report(task);
    hold::inherit(&before, key, &old, inherited);
    log::log_execed(key.tgid, inherited);
    row::holder(&before);
    row::holder(key);
    wake();
    Some(())
}

/// The kernel mapped the program, by no call: if weights are in it, the process has them.
#[inline(always)]
fn run(task: Task) -> Option<()> {
    let program = task.mm()?.exe()?;
    on_take(task, program, program.backing().inode()?.size());
    Some(())
}

/// The kernel opened the file for its interpreter (`binfmt_misc`). Where it did not, this looks at descriptor 0.
#[inline(always)]
fn given(task: Task, tgid: u32, bprm: u64) -> Option<()> {
    let descriptor = exec_descriptor(bprm)?;
    let file = task.file(descriptor)?;
    if file.inode()?.kind()? == S_IFREG {
        on_open(task, tgid, NO_DESCRIPTOR, file);
    }
    Some(())
}

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    exited(Task(word(&ctx, 0)));
    0
}

#[inline(always)]
fn exited(task: Task) -> Option<()> {
    // Counted down before this hook: 0 in the last thread.
    if task.live_threads()? != 0 {
        return None;
    }
    let key = task.holder_key()?;
    space::leave(key.tgid);
    gpu::on_end(&key);
    let marked = marks(key.tgid);
    if marked & MARK_HOLDER != 0 && task.dumped_core() {
        act::dumped(task);
    }
    set_marks(key.tgid, 0);
    if marked & MARK_MAPPED != 0 {
        memory::forget(&key, marked & MARK_HOLDER != 0);
    }
    if marked & (MARK_HOLDER | MARK_WATCHED) != 0
        && let Some(row) = HOLDERS.get_ptr_mut(&key)
    {
        // SAFETY: the row stays valid until the program ends.
        let taken = unsafe {
            (*row).ended = now();
            reach::on_end((*row).assets);
            (*row).taken
        };
        row::holder(&key);
        wake();
        log::log_ended(key.tgid, taken);
    }
    process::keep(key.tgid);
    let _ = PROCESSES.remove(key.tgid);
    Some(())
}
