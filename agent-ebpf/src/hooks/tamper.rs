//! What is done against the agent: signals, by `tp_btf/signal_generate`, and system calls, as part of `sys_exit`.
//!
//! Kernel prototype: `void signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int
//! result)` (`include/trace/events/signal.h`, BTF since 5.5), in the context of whoever sends, before the signal arrives.
//! Misses: what a thread of the agent is made to do by a debugger, calls through the 32-bit entry, cgroup.freeze (which user
//! space notices by the time that it did not run).

use agent_ebpf::{
    DEV_BPF, ObjectKey, SHARED_AGENT, syscalls,
    tamper::{TAMPER_CLOCK, TAMPER_LIMIT, TAMPER_SIGNAL},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use super::{syscall::Call, word};
use crate::{
    flow::{channel, is_agent, tamper},
    kernel::{File, Task},
    maps::shared,
};

/// Signals that tell and do not harm, or that the kernel sends by itself: SIGHUP, which has rules read again (that they changed is
/// noticed by their files), SIGPIPE, SIGALRM, SIGCHLD, SIGCONT, SIGURG, SIGVTALRM,
/// SIGPROF, SIGWINCH, SIGIO.
const HARMLESS: u64 =
    1 << 1 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 18 | 1 << 23 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29;

#[btf_tracepoint(function = "signal_generate")]
pub(crate) fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let signal: i32 = ctx.arg(0);
    let target = Task(word(&ctx, 2));
    if !(1..=64).contains(&signal) || (signal < 64 && HARMLESS >> signal & 1 == 1) {
        return 0;
    }
    if target.tgid().is_some_and(|tgid| is_agent(target, tgid)) && !is_agent(Task::current(), current()) {
        tamper::note(TAMPER_SIGNAL, signal as u32);
    }
    0
}

#[inline(always)]
fn current() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

// enum bpf_cmd.
const MAP_LOOKUP: u64 = 1;
const MAP_UPDATE: u64 = 2;
const MAP_NEXT: u64 = 4;
const PROG_LOAD: u64 = 5;
const OBJ_GET: u64 = 7;
const PROG_BY_ID: u64 = 13;
const MAP_BY_ID: u64 = 14;
const OBJ_INFO: u64 = 15;
const BTF_LOAD: u64 = 18;
const MAP_LOOKUP_AND_DELETE: u64 = 21;
const MAP_FREEZE: u64 = 22;
const MAP_BATCH: u64 = 24;
const MAP_LOOKUP_AND_DELETE_BATCH: u64 = 25;
const MAP_UPDATE_BATCH: u64 = 26;
const MAP_BATCH_END: u64 = 27;
const LINK_UPDATE: u64 = 29;
const LINK_BY_ID: u64 = 30;
const LINK_DETACH: u64 = 34;

/// A call of `syscalls::TAMPER` that succeeded.
#[inline(never)]
pub(super) fn called(call: &Call, number: usize) {
    match number {
        syscalls::BPF => bpf(call),
        syscalls::PRLIMIT => {
            let (pid, resource, new) = (call.argument(0), call.argument(1), call.argument(2));
            // Asking changes nothing. Ids are those of the caller's namespace: the agent's may be another there.
            // 0 is the caller itself, and stands for no agent too.
            let pid = pid & 0xffff_ffff;
            if new != 0 && pid != 0 && shared(SHARED_AGENT) == pid && !is_agent(call.task, call.tgid) {
                tamper::note(TAMPER_LIMIT, resource as u32);
            }
        }
        // clock_settime of another clock than the wall's (0) changes nothing of ours.
        _ => {
            if !is_agent(call.task, call.tgid) {
                tamper::note(TAMPER_CLOCK, 0);
            }
        }
    }
}

#[inline(always)]
fn bpf(call: &Call) {
    let command = call.argument(0) & 0xffff_ffff;
    let descriptor = match command {
        PROG_LOAD | BTF_LOAD | OBJ_GET | PROG_BY_ID | MAP_BY_ID | LINK_BY_ID => call.result as u32,
        MAP_LOOKUP..=MAP_NEXT | OBJ_INFO | MAP_LOOKUP_AND_DELETE | MAP_FREEZE | LINK_UPDATE | LINK_DETACH => {
            let Some(first) = first_word(call, 0) else { return };
            first
        }
        MAP_BATCH..=MAP_BATCH_END => {
            // map_fd follows in_batch, out_batch, keys, values and count in `union bpf_attr`.
            let Some(map) = first_word(call, 36) else { return };
            map
        }
        _ => return,
    };
    let Some(file) = call.task.file(descriptor) else { return };
    if !is_agent(call.task, call.tgid) {
        tamper::on_object(file);
        passed(call, command, file);
    } else if command == OBJ_INFO {
        tamper::learn_object(file, descriptor);
    }
}

/// Instructions of a program (`BPF_COMPLEXITY_LIMIT_INSNS`).
const LONGEST_PROGRAM: u64 = 1_000_000;
/// `BTF_MAX_SIZE`.
const LARGEST_BTF: u64 = 16 << 20;

/// What `union bpf_attr` says at an offset, or as much as that can be.
#[inline(always)]
fn told(call: &Call, offset: u64, most: u64) -> u64 {
    if call.may_have_changed() { most } else { first_word(call, offset).map_or(most, u64::from) }
}

/// What one process puts into a map another takes out of it; so it does with what a program or a description of types (BTF) is
/// made of.
#[inline(always)]
fn passed(call: &Call, command: u64, file: File) {
    /// More than any of them is made of; no more comes out than was put in.
    const ALL_OF_IT: u64 = 1 << 30;
    if matches!(command, PROG_LOAD | BTF_LOAD | OBJ_INFO) {
        let Some(object) = file.private_data() else { return };
        let object = ObjectKey { dev: DEV_BPF, generation: 0, ino: object };
        match command {
            // `insn_cnt`, of 8 bytes each, and `btf_size`.
            PROG_LOAD => channel::on_put(call.task, &object, told(call, 4, LONGEST_PROGRAM) * 8),
            BTF_LOAD => channel::on_put(call.task, &object, told(call, 16, LARGEST_BTF)),
            _ if file.is_bpf_map() => {}
            _ => channel::on_take(call.task, &object, ALL_OF_IT),
        }
        return;
    }
    let Some((map, bytes)) = file.bpf_map() else { return };
    let map = ObjectKey { dev: DEV_BPF, generation: 0, ino: map };
    let values = match command {
        // `batch.count`, before map_fd.
        MAP_BATCH..=MAP_BATCH_END => u64::from(first_word(call, 32).unwrap_or(0)),
        _ => 1,
    };
    match command {
        MAP_UPDATE | MAP_UPDATE_BATCH => channel::on_put(call.task, &map, bytes * values),
        MAP_LOOKUP | MAP_LOOKUP_AND_DELETE | MAP_BATCH | MAP_LOOKUP_AND_DELETE_BATCH => {
            channel::on_take(call.task, &map, bytes * values);
        }
        _ => {}
    }
}

/// A word of the `union bpf_attr` that the call was given.
#[inline(always)]
fn first_word(call: &Call, offset: u64) -> Option<u32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user((call.argument(1) + offset) as *const u32) }.ok()
}
