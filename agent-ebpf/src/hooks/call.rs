//! A system call that has returned: which of those that are looked at it was, what it was called with, and the files that its
//! descriptors name. It must not know what that means.

use agent_ebpf::{
    LOSS_DESCRIPTOR_GONE,
    syscalls::{self, CALLS_32, CALLS_64, TABLE},
};

use super::registers::{argument_32, argument_64};
use crate::{
    kernel::{File, Task},
    maps::lose,
};

/// What [`WHICH`] says of a number: nothing here; it reaches into another process; it opens something by a name; it makes the
/// kernel do something with files.
pub(super) const REACHES: u8 = 1;
pub(super) const OPENS: u8 = 2;
pub(super) const ORDERS: u8 = 3;

/// By the number of a call of either ABI.
pub(super) const WHICH: [u8; TABLE] = {
    let mut which = [0; TABLE];
    let mut number = 0;
    while number < TABLE {
        let (one, other) = (which_is(CALLS_64[number]), which_is(CALLS_32[number]));
        // One number stands for one of them; which call it was is looked at again.
        assert!(one == 0 || other == 0 || one == other);
        which[number] = one | other;
        number += 1;
    }
    which
};

const fn which_is(call: u8) -> u8 {
    match call {
        syscalls::GETFD | syscalls::TRACE | syscalls::VM_READ | syscalls::VM_WRITE | syscalls::SIGNAL => {
            REACHES
        }
        syscalls::OPEN => OPENS,
        syscalls::IOCTL | syscalls::LOAD => ORDERS,
        _ => 0,
    }
}

/// A call that returned.
///
/// VERIFIER: its arguments and files are looked up by functions that are verified once, or the paths through their failures
/// would multiply («BPF program is too large. Processed 1000001 insn»).
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) task: Task,
    registers: u64,
    pub(super) result: u64,
}

impl Call {
    /// The call, and its kind.
    #[inline(always)]
    pub(super) fn returned(registers: u64, number: usize, result: u64) -> (Self, u8) {
        (Self { task: Task::current(), registers, result }, flow_kind(number as u32) as u8)
    }

    #[inline(always)]
    pub(super) fn argument(self, index: u32) -> u64 {
        flow_argument(self.registers, index)
    }

    #[inline(always)]
    pub(super) fn file(self, descriptor: u64) -> Option<File> {
        match self.address(descriptor) {
            0 => None,
            file => Some(File(file)),
        }
    }

    /// As [`Call::file`], its address; 0 when it is gone.
    #[inline(always)]
    pub(super) fn address(self, descriptor: u64) -> u64 {
        flow_file(self.task.0, descriptor as u32)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_argument(registers: u64, index: u32) -> u64 {
    let index = index as usize;
    if index > 2 {
        return 0;
    }
    if Task::current().is_compat() { argument_32(registers, index) } else { argument_64(registers, index) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_file(task: u64, descriptor: u32) -> u64 {
    match Task(task).file(descriptor) {
        Some(file) => file.0,
        None => {
            lose(LOSS_DESCRIPTOR_GONE, 1);
            0
        }
    }
}

/// What kind of call a number of the ABI under way is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_kind(number: u32) -> u32 {
    let number = number as usize;
    if number >= TABLE {
        return u32::from(syscalls::NONE);
    }
    u32::from(if Task::current().is_compat() { CALLS_32[number] } else { CALLS_64[number] })
}
