//! Descriptors that one thread replaces or closes while a call of another uses them.
//!
//! The file behind a descriptor is looked up when its call returns, and then it is another. So whoever takes a descriptor away
//! looks which threads of its process are in a call that was given that number, and notes them: what such a call moved counts
//! from above. Misses: a call that returns between the replacement and the return of the call that replaced (microseconds), and
//! threads of another process that shares the table.

use agent_ebpf::{LOSS_DESCRIPTOR_GONE, MARK_RACED, syscalls};

use crate::{
    hooks::registers::{ORIG_AX, RESULT, argument_64},
    kernel::{Task, ThreadLink, read},
    maps::{RACED, lose, mark},
};

/// Threads looked at; of a process with more the rest counts as lost.
const THREADS: u32 = 512;
/// What stands in for the result while a call is under way (`entry_SYSCALL_64`, `entry_INT80_compat`).
const UNDER_WAY: u64 = -38i64 as u64;

/// `task` replaced or closed `descriptor` in a call with these registers.
#[inline(always)]
pub(crate) fn on_replace(task: Task, registers: u64, descriptor: u32) {
    if task.live_threads().is_some_and(|threads| threads > 1)
        && let Some(stack) = task.stack()
    {
        flow_replace(task.0, registers - stack, descriptor);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_replace(task: u64, registers: u64, descriptor: u32) -> u32 {
    let Some(ThreadLink { head, mut at }) = Task(task).threads() else { return 0 };
    for _ in 0..THREADS {
        at = flow_replace_next(at, head, task, registers, descriptor);
        if at == 0 {
            return 0;
        }
    }
    lose(LOSS_DESCRIPTOR_GONE, 1);
    0
}

/// Looks at the thread behind `at`. Its own place, or 0 when there was none.
// VERIFIER: one function a turn: the body in the loop was 57,000 instructions to verify, an eighth of `sys_exit`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_replace_next(at: u64, head: u64, task: u64, registers: u64, descriptor: u32) -> u64 {
    let mut link = ThreadLink { head, at };
    let Some(thread) = link.next() else { return 0 };
    if thread.0 != task && flow_uses(thread.0, registers, descriptor) != 0 {
        mark(Task(task).tgid().unwrap_or(0), MARK_RACED);
    }
    link.at
}

/// Whether `thread` is in a call that moves bytes and was given `descriptor`: it is noted then. `registers`: where on its stack
/// the registers of its call lie, which is the same in all threads.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_uses(thread: u64, registers: u64, descriptor: u32) -> u32 {
    u32::from(uses(Task(thread), registers, descriptor).unwrap_or(false))
}

#[inline(always)]
fn uses(thread: Task, registers: u64, descriptor: u32) -> Option<bool> {
    let registers = thread.stack()? + registers;
    let word = |offset: u64| read::<u64>(registers + offset);
    if word(RESULT) != UNDER_WAY {
        return Some(false);
    }
    let number = (word(ORIG_AX) & !syscalls::X32_BIT) as usize;
    if number >= syscalls::TABLE {
        return Some(false);
    }
    let compat = thread.is_compat();
    let kind = if compat { syscalls::CALLS_32[number] } else { syscalls::CALLS_64[number] };
    if !syscalls::moves(kind) {
        return Some(false);
    }
    let given = |index| argument_64(registers, index) as u32 == descriptor;
    // Numbers of a 32-bit call are not told apart: each of its calls under way counts.
    if !compat && !given(0) && !given(1) && !given(2) && !given(4) {
        return Some(false);
    }
    let _ = RACED.insert(&thread.pid()?, &1, 0);
    Some(true)
}

/// Whether the running task's call lost its descriptor; it is told once.
#[inline(always)]
pub(crate) fn was_raced(task: Task) -> bool {
    match task.pid() {
        Some(pid) => RACED.remove(&pid).is_ok(),
        None => false,
    }
}
