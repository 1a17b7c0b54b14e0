//! Asynchronous requests of `io_submit`.

use agent_ebpf::syscalls::{self, CALLS_32, CALLS_64, TABLE};
use aya_ebpf::helpers::bpf_probe_read_user;

use super::{Call, MOST, at_most};
use crate::{
    flow::{map::on_grow, put::on_put, take::on_take},
    kernel::Task,
};

/// Numbers of either ABI that submit asynchronous requests.
pub(super) const SUBMITS: [bool; TABLE] = {
    let mut submits = [false; TABLE];
    let mut number = 0;
    while number < TABLE {
        submits[number] = CALLS_64[number] == syscalls::SUBMIT || CALLS_32[number] == syscalls::SUBMIT;
        number += 1;
    }
    submits
};

/// Requests of one `io_submit` that are looked at; more than that count as everything.
const REQUESTS: u64 = 128;

/// Asynchronous requests (`struct iocb`, `include/uapi/linux/aio_abi.h`): their results come by another way, so they count
/// when they are accepted, for what they ask.
///
/// VERIFIER: called beside `moved`, not by it, so that its vectors are not on the stack of deeper calls («combined stack
/// size»).
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_submitted(registers: u64, number: u64, result: u64) -> u32 {
    submitted(registers, number as usize, result);
    0
}

#[inline(always)]
fn submitted(registers: u64, number: usize, result: u64) {
    let task = Task::current();
    let call = &Call { task, registers, compat: task.is_compat(), result, tgid: 0, marks: 0 };
    if number >= TABLE || (result as i64) < 0 {
        return;
    }
    if (if call.compat { CALLS_32[number] } else { CALLS_64[number] }) != syscalls::SUBMIT {
        return;
    }
    let list = call.argument(2);
    let mut unknown = call.result > REQUESTS;
    for index in 0..REQUESTS {
        if index >= call.result {
            break;
        }
        if flow_request(list, index, u32::from(call.compat)) == 0 {
            unknown = true;
            break;
        }
    }
    if unknown {
        on_grow(call.task, MOST);
    }
}

/// Weighs one asynchronous request of the current task. Returns 0 when it cannot be read.
// VERIFIER: the body of a loop, which is verified once and not for every turn: it took 450,000 of 720,000 instructions.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_request(list: u64, index: u64, compat: u32) -> u32 {
    const PREAD: u64 = 0;
    const PWRITE: u64 = 1;
    const PREADV: u64 = 7;
    const PWRITEV: u64 = 8;
    let request = if compat != 0 {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user((list.wrapping_add(index * 4)) as *const u32) }.map(u64::from)
    } else {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user((list.wrapping_add(index * 8)) as *const u64) }
    };
    let Ok(request) = request else { return 0 };
    // From aio_lio_opcode (16 bits) with aio_fildes (upper 32), over aio_buf, to aio_nbytes.
    // SAFETY: the helper checks the address.
    let Ok([what, _, length]) =
        (unsafe { bpf_probe_read_user((request.wrapping_add(16)) as *const [u64; 3]) })
    else {
        return 0;
    };
    let task = Task::current();
    let Some(file) = task.file((what >> 32) as u32) else { return 1 };
    match what & 0xffff {
        PREAD => on_take(task, file, at_most(length)),
        PREADV => on_take(task, file, MOST),
        PWRITE => on_put(task, file, at_most(length)),
        PWRITEV => on_put(task, file, MOST),
        _ => {}
    }
    1
}
