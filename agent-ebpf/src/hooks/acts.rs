//! Calls that reach into another process, or open something by way of one: part of `sys_exit`, in functions of its own.
//!
//! Misses: what another thread changes in user memory between the call and its return (the path of an open); file names that
//! lead into procfs by a link or by a directory that is the current one.

use agent_ebpf::{
    MARK_HOLDER,
    acts::{ACT_PIDFD_GETFD, ACT_PROC_FD, ACT_PTRACE, ACT_VM_READ, ACT_VM_WRITE},
    syscalls,
};
use aya_ebpf::helpers::bpf_probe_read_user;

use super::call::Call;
use crate::{
    flow::{
        object,
        reach::{flow_find, on_inject, on_reach, on_reach_gone, on_signal},
    },
    kernel::{File, Task},
    maps::marks,
};

/// A call that reached into another process has returned without an error.
///
/// VERIFIER: this, `opened` and `orders::ordered` are called by the program itself, beside `orders::moved` («combined stack size»).
#[inline(never)]
pub(super) fn reached(registers: u64, number: usize, result: u64) {
    let (call, kind) = Call::returned(registers, number, result);
    let (kind, named, read, written) = match kind {
        syscalls::GETFD => {
            let victim = call.file(call.argument(0)).and_then(File::pidfd_task);
            if let Some(victim) = victim {
                on_reach(call.task, victim, ACT_PIDFD_GETFD, 0);
            }
            return;
        }
        syscalls::SIGNAL => {
            signalled(call, number);
            return;
        }
        syscalls::TRACE => {
            let request = call.argument(0);
            // Asked for by the one that is traced; the argument is nobody's.
            if request == PTRACE_TRACEME {
                return;
            }
            let (read, written) = traced(request);
            (ACT_PTRACE, call.argument(1), read, written)
        }
        syscalls::VM_READ => (ACT_VM_READ, call.argument(0), result, 0),
        syscalls::VM_WRITE => (ACT_VM_WRITE, call.argument(0), 0, result),
        _ => return,
    };
    let victim = flow_find(call.task.0, named as u32);
    if victim == 0 || Task(victim).has_ended() {
        // Between the call and its return.
        if read != 0 {
            on_reach_gone(call.task, kind, read);
        }
    } else if written == 0 {
        on_reach(call.task, Task(victim), kind, read);
    } else {
        on_inject(call.task, Task(victim), kind, written);
    }
}

/// What it carries is the sender's, up to a few words.
#[inline(always)]
fn signalled(call: Call, number: usize) {
    const PIDFD_SEND_SIGNAL: usize = 424;
    let victim = match number {
        // Without an info it carries nothing.
        PIDFD_SEND_SIGNAL if call.argument(2) == 0 => None,
        PIDFD_SEND_SIGNAL => call.file(call.argument(0)).and_then(File::pidfd_task),
        // rt_tgsigqueueinfo
        297 | 335 | 536 => found(call, call.argument(1)),
        _ => found(call, call.argument(0)),
    };
    if let Some(victim) = victim {
        on_signal(call.task, victim);
    }
}

#[inline(always)]
fn found(call: Call, number: u64) -> Option<Task> {
    match flow_find(call.task.0, number as u32) {
        0 => None,
        task => Some(Task(task)),
    }
}

const PTRACE_TRACEME: u64 = 0;
/// Bytes that one request of ptrace moves at most: a word, or a set of registers.
const WORD: u64 = 8;
const REGISTERS: u64 = 16384;

/// (bytes read from, bytes written into the other process) by a request, by their numbers in `include/uapi/linux/ptrace.h` and
/// `arch/x86/include/uapi/asm/ptrace-abi.h`.
const fn traced(request: u64) -> (u64, u64) {
    match request {
        // PEEKTEXT, PEEKDATA, PEEKUSER
        1..=3 => (WORD, 0),
        // POKETEXT, POKEDATA, POKEUSER
        4..=6 => (0, WORD),
        // GETREGS, GETFPREGS, GETFPXREGS, GET_THREAD_AREA, GETREGSET
        12 | 14 | 18 | 25 | 0x4204 => (REGISTERS, 0),
        // SETREGS, SETFPREGS, SETFPXREGS, SET_THREAD_AREA, SETREGSET
        13 | 15 | 19 | 26 | 0x4205 => (0, REGISTERS),
        _ => (0, 0),
    }
}

/// Somebody opened something: a holder, by way of another process?
#[inline(never)]
pub(super) fn opened(registers: u64, number: usize, result: u64, tgid: u32) {
    if marks(tgid) & MARK_HOLDER == 0 {
        return;
    }
    let (call, kind) = Call::returned(registers, number, result);
    if kind != syscalls::OPEN {
        return;
    }
    // open, creat of either ABI; openat, openat2.
    let path = match number {
        2 | 85 | 5 | 8 => call.argument(0),
        257 | 295 | 437 => call.argument(1),
        _ => return,
    };
    // SAFETY: the helper checks the address.
    let Ok(start) = (unsafe { bpf_probe_read_user(path as *const [u8; 8]) }) else { return };
    if start[..6] != *b"/proc/" || !start[6].is_ascii_digit() {
        return;
    }
    let named = flow_proc_path(call.task.0, path + 6);
    if named == 0 {
        return;
    }
    if let Some(file) = call.file(call.result)
        && object::source(file).is_some()
    {
        on_reach(call.task, Task(named), ACT_PROC_FD, 0);
    }
}

/// The process of a path below /proc that leads into it: `PID/fd/…`, and `map_files`, `root`, `cwd`, `task` in its place. 0 for
/// any other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_proc_path(task: u64, path: u64) -> u64 {
    let mut number = 0;
    let mut at = path;
    // PID_MAX_LIMIT has seven digits.
    for _ in 0..8 {
        // SAFETY: the helper checks the address.
        let Ok(byte) = (unsafe { bpf_probe_read_user(at as *const u8) }) else { return 0 };
        at += 1;
        if byte == b'/' {
            break;
        }
        if !byte.is_ascii_digit() {
            return 0;
        }
        number = number * 10 + u32::from(byte - b'0');
    }
    // SAFETY: the helper checks the address.
    let Ok(name) = (unsafe { bpf_probe_read_user(at as *const [u8; 3]) }) else { return 0 };
    match &name {
        b"fd/" | b"map" | b"roo" | b"cwd" | b"tas" => flow_find(task, number),
        _ => 0,
    }
}
