//! Calls that bring descriptors, or put another file in the place of one.

use agent_ebpf::{
    MARK_HOLDER, MARK_WATCHED,
    syscalls::{self, CALLS_32, CALLS_64, TABLE},
};
use aya_ebpf::helpers::bpf_probe_read_user;

use super::Call;
use crate::{
    flow::{carrier, map::on_grow, open::on_open, overlay, put::on_put_unknown, race},
    kernel::{AF_UNIX, S_IFSOCK, Task},
    maps::mark,
};

/// A descriptor is the result.
#[inline(never)]
pub(super) fn got(call: &Call) {
    match call.task.file(call.result as u32) {
        Some(file) => on_open(call.task, call.tgid, call.result as u32, file),
        // Another thread moved or closed it meanwhile: what it moved it to is found by the scan, until which it is watched.
        None => mark(call.tgid, MARK_WATCHED),
    }
}

/// What is said of a file was changed by its descriptor.
#[inline(never)]
pub(super) fn changed(call: &Call) {
    if let Some(file) = call.task.file(call.argument(0) as u32) {
        overlay::on_change(call.task, file);
    }
}

/// ioctl: whether its command changes what is said of a file, by a descriptor that need not be writable.
#[inline(always)]
pub(super) fn changes(call: &Call) -> bool {
    /// `_IOW('f', 2, long)`, what it is to i386, and `_IOW('X', 32, struct fsxattr)`.
    const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
    const FS_IOC32_SETFLAGS: u64 = 0x4004_6602;
    const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
    let command = call.argument(1) & 0xffff_ffff;
    command == FS_IOC_SETFLAGS || command == FS_IOC32_SETFLAGS || command == FS_IOC_FSSETXATTR
}

#[inline(never)]
pub(super) fn replaced(call: &Call, descriptor: u32) {
    if call.marks & (MARK_HOLDER | MARK_WATCHED) != 0 {
        race::on_replace(call.task, call.registers, descriptor);
    }
}

/// The call's descriptor was another one when it began: whichever it was, `result` bytes count for all that the process holds,
/// and for a file that is not known. What it is by now counts too; where it is gone, `moved` counts the same.
// VERIFIER: it is given what it uses and no more: the linker drops an argument that nobody reads, and its declaration stays («R4
// is not a scalar»).
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_raced(registers: u64, number: u64, result: u64) -> u32 {
    raced(registers, number as usize, result);
    0
}

#[inline(always)]
fn raced(registers: u64, number: usize, result: u64) {
    let task = Task::current();
    let call = Call { task, registers, compat: task.is_compat(), result, tgid: 0, marks: 0 };
    if number >= TABLE || (result as i64) < 0 || !race::was_raced(task) {
        return;
    }
    let (from, to) = match if call.compat { CALLS_32[number] } else { CALLS_64[number] } {
        syscalls::READ | syscalls::RECEIVE => (0, 6),
        syscalls::WRITE | syscalls::GIVE => (6, 0),
        syscalls::SENDFILE => (1, 0),
        syscalls::SPLICE => (0, 2),
        syscalls::TEE => (0, 1),
        _ => return,
    };
    if from < 6 && task.file(call.argument(from) as u32).is_some() {
        on_grow(task, result);
    }
    if to < 6 && task.file(call.argument(to) as u32).is_some() {
        on_put_unknown(task, result);
    }
}

/// fcntl: whether its command was one that returns a descriptor.
// VERIFIER: it does not call `got` itself, which would be a frame more than there may be («the call stack of 8 frames is too
// deep»).
#[inline(never)]
pub(super) fn duplicates(call: &Call) -> bool {
    const F_DUPFD: u64 = 0;
    const F_DUPFD_CLOEXEC: u64 = 1030;
    matches!(call.argument(1) & 0xffff_ffff, F_DUPFD | F_DUPFD_CLOEXEC)
}

/// Descriptors may have come from a socket, which are not looked at one by one: who received from where they may come is
/// watched from then on.
#[inline(never)]
pub(super) fn brought(call: &Call) {
    let Some(file) = call.file(call.argument(0)) else { return };
    if call.marks & MARK_WATCHED == 0
        && let Some(inode) = file.inode()
        && inode.kind() == Some(S_IFSOCK)
        && let Some(sock) = file.socket()
        && (carrier::may_bring_descriptors(sock) || (sock.family() == Some(AF_UNIX) && brings_control(call)))
    {
        mark(call.tgid, MARK_WATCHED);
    }
    if call.marks & MARK_HOLDER != 0 {
        // Received descriptors can be written into as well.
        carrier::reach(call.task);
    }
}

/// Whether a control message came with what was received: descriptors perhaps that were under way before the agent was. Of
/// several messages it is assumed.
#[inline(never)]
fn brings_control(call: &Call) -> bool {
    let header = call.argument(1);
    // msg_controllen of `struct compat_msghdr`, and of `struct user_msghdr`.
    let length = if call.compat {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user((header + 20) as *const u32) }.map(u64::from)
    } else {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_user((header + 40) as *const u64) }
    };
    !matches!(length, Ok(0))
}
