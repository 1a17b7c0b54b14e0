//! `tp_btf/sys_exit`: every system call, with its arguments and its result in one place.
//!
//! Kernel prototype: `void sys_exit(struct pt_regs *regs, long ret)` (`include/trace/events/syscalls.h`), 5.5 and later for
//! BTF. Misses: io_uring (`uring`), stores into mappings (counted whole when mapped), kernel threads, and what `flow::race` does
//! of descriptors that another thread replaces.

mod bytes;
mod descriptors;
mod mappings;
mod submitted;

use agent_ebpf::{
    LOSS_DESCRIPTOR_GONE, MARK_HOLDER, MARK_MAPPED, MARK_RACED, MARK_SPACE, MARK_WATCHED,
    syscalls::{self, CALLS_32, CALLS_64, CALLS_ANY, TABLE, X32_BIT},
};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};

use self::{
    bytes::{
        FLAGS_OF_SEND, cloned, gave, lends, lent, option_of_socketcall, put_into, read_from, received,
        sent_many, take_from, through, wrote,
    },
    descriptors::{brought, changed, changes, duplicates, flow_raced, got, replaced},
    mappings::{mapped, mapped_old, shifted, shown_anew},
    submitted::{SUBMITS, flow_submitted},
};
use super::{
    acts, call,
    channel::{attached, channelled},
    orders,
    registers::{ORIG_AX, argument_32, argument_64},
    tamper, word,
};
use crate::{
    flow::{carrier, hold, layers, looped, map::on_remap, memory, space},
    kernel::{File, Task},
    maps::{lose, mark, marks},
};

#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    let registers: *const u8 = ctx.arg(0);
    // SAFETY: a trusted pointer to struct pt_regs; the verifier checks the access.
    let number = unsafe { *(registers.add(ORIG_AX as usize) as *const u64) } & !X32_BIT;
    if number >= TABLE as u64 {
        return 0;
    }
    let glance = GLANCE[number as usize];
    if glance == 0 {
        return 0;
    }
    if glance & (COPIES | OPENS | MOUNTS) != 0 {
        named(number as usize, glance, result);
    }
    if glance & LOOKED_AT == 0 || (result < 0 && glance & ASKS == 0 && !moves_although(result)) {
        return 0;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut marks = marks(tgid);
    if marks & MARK_MAPPED != 0 && suspected(marks) {
        marks |= MARK_HOLDER | MARK_WATCHED;
    }
    if marks & (MARK_WATCHED | MARK_HOLDER) == 0
        && glance & BEGINS == 0
        && !carrier::unsettled()
        && !space::may_bring(marks)
        && (glance & LENDS == 0 || !lends(word(&ctx, 0), number as usize))
    {
        return 0;
    }
    marks = absolved(tgid, marks);
    if space::may_bring(marks) {
        marks = space::bring(Task::current(), tgid);
    }
    if marks & MARK_RACED != 0 {
        flow_raced(word(&ctx, 0), number, result as u64);
    }
    if SUBMITS[number as usize] {
        flow_submitted(word(&ctx, 0), number, result as u64);
    }
    flow_call(word(&ctx, 0), number, result as u64, tgid, marks);
    if result < 0 {
        if result == EFAULT && call::WHICH[number as usize] == call::ORDERS {
            orders::faulted(word(&ctx, 0), number as usize, tgid);
        }
        return 0;
    }
    match call::WHICH[number as usize] {
        call::REACHES => acts::reached(word(&ctx, 0), number as usize, result as u64),
        call::OPENS => acts::opened(word(&ctx, 0), number as usize, result as u64, tgid),
        call::ORDERS if orders::ordered(word(&ctx, 0), number as usize, result as u64) != 0 => {
            orders::moved(tgid);
        }
        _ => {}
    }
    0
}

/// A call that names a file, or mounts one, was made.
#[inline(always)]
fn named(number: usize, glance: u8, result: i64) {
    if (glance & MOUNTS == 0 && !layers::are_some()) || number >= TABLE {
        return;
    }
    // A number of one ABI is another call of the other: 16 is `ioctl`, which everybody makes, and `lchown`.
    let call = if Task::current().is_compat() { CALLS_32[number] } else { CALLS_64[number] };
    if call == syscalls::MOUNT {
        layers::on_mount();
    }
    // One that opened is looked at by its descriptor.
    let fails = call == syscalls::OPEN && result < 0 && result != ENOENT;
    if (syscalls::copies(call) || fails) && layers::are_some() {
        layers::on_named(Task::current());
    }
}

/// The marks of the current process, of which those of a holder are gone if it is the agent.
// VERIFIER: not inlined, so that what it needs is not on the stack of all that comes after it («combined stack size»).
#[inline(never)]
fn absolved(tgid: u32, marks: u8) -> u8 {
    let is_absolved = marks & MARK_HOLDER != 0 && hold::absolves(tgid);
    if is_absolved { marks & !(MARK_HOLDER | MARK_WATCHED) } else { marks }
}

/// Whether the current process may see what a holder stores into memory that both have mapped.
// VERIFIER: not inlined, so that the key of its row is not on the stack of all that comes after it («combined stack size»).
#[inline(never)]
fn suspected(marks: u8) -> bool {
    memory::suspect(Task::current(), marks)
}

/// Nothing was found, and nothing copied.
const ENOENT: i64 = -2;
/// Of a connect that goes on without its caller.
const EINPROGRESS: i64 = -115;
/// Of a call that moved bytes and then could not store an offset, an address or the rest of a buffer.
const EFAULT: i64 = -14;
const EIO: i64 = -5;
/// Most that one call moves (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;

/// Errors after which bytes can have moved all the same.
const fn moves_although(result: i64) -> bool {
    result == EINPROGRESS || result == EFAULT || result == EIO
}

/// Of [`GLANCE`]: a call that is looked at; one by which a process that holds and watches nothing can come to bytes; one that
/// may send pages by reference.
const LOOKED_AT: u8 = 1;
const BEGINS: u8 = 2;
const LENDS: u8 = 4;
/// One after which something is to be done whatever error it returned: a program of user space chooses that, or it says nothing of
/// what was sent.
const ASKS: u8 = 8;

/// One that can have an overlay copy what it names, whether it fails after that or not; one that is looked at elsewhere for that unless it
/// fails; one that mounts.
const COPIES: u8 = 16;
const OPENS: u8 = 32;
const MOUNTS: u8 = 64;

/// What is known of a call by its number alone, of either ABI: all that most calls of most processes are asked for.
const GLANCE: [u8; TABLE] = {
    let mut glance = [0; TABLE];
    let mut number = 0;
    while number < TABLE {
        if CALLS_ANY[number] != syscalls::NONE && (looked_at(CALLS_64[number]) || looked_at(CALLS_32[number]))
        {
            glance[number] |= LOOKED_AT;
        }
        if syscalls::copies(CALLS_64[number]) || syscalls::copies(CALLS_32[number]) {
            glance[number] |= COPIES;
        }
        if CALLS_64[number] == syscalls::OPEN || CALLS_32[number] == syscalls::OPEN {
            glance[number] |= OPENS;
        }
        if CALLS_64[number] == syscalls::MOUNT || CALLS_32[number] == syscalls::MOUNT {
            glance[number] |= MOUNTS;
        }
        if begins_with(CALLS_64[number]) || begins_with(CALLS_32[number]) {
            glance[number] |= BEGINS;
        }
        if FLAGS_OF_SEND[number] != 0 {
            glance[number] |= LENDS;
        }
        if asks(CALLS_64[number]) || asks(CALLS_32[number]) {
            glance[number] |= ASKS;
        }
        number += 1;
    }
    glance
};

const fn looked_at(call: u8) -> bool {
    !matches!(call, syscalls::NONE | syscalls::CHANGE_NAMED | syscalls::MOUNT)
}

const fn asks(call: u8) -> bool {
    matches!(call, syscalls::KEY_REQUEST | syscalls::FLUSH)
}

const fn begins_with(call: u8) -> bool {
    let begins = matches!(
        call,
        syscalls::OPEN
            | syscalls::RECEIVE
            | syscalls::RECEIVE_MANY
            | syscalls::SOCKETCALL
            | syscalls::FCNTL
            | syscalls::REPLACE
            | syscalls::MAP
            | syscalls::MAP_OLD
            | syscalls::ATTACH
            | syscalls::TRACE
            | syscalls::VM_READ
            | syscalls::VM_WRITE
            | syscalls::GETFD
            | syscalls::OPTION
            | syscalls::TAMPER
            | syscalls::CHANGE
            | syscalls::GIVE
    );
    begins || syscalls::is_channel(call)
}

/// A call that returned: who made it, with which arguments, by which ABI, and what came of it.
pub(super) struct Call {
    pub(super) task: Task,
    pub(super) registers: u64,
    pub(super) compat: bool,
    pub(super) result: u64,
    pub(super) tgid: u32,
    pub(super) marks: u8,
}

impl Call {
    #[inline(always)]
    pub(super) fn argument(&self, index: usize) -> u64 {
        if self.compat { argument_32(self.registers, index) } else { argument_64(self.registers, index) }
    }

    /// Whether somebody else can have changed what its arguments point to since the kernel read it.
    #[inline(always)]
    pub(super) fn may_have_changed(&self) -> bool {
        self.marks & (MARK_SPACE | MARK_MAPPED) != 0 || self.task.live_threads() != Some(1)
    }

    /// The file behind a descriptor; `None` when another thread closed it meanwhile. The bytes of a holder count all the
    /// same, for what they can have been.
    #[inline(always)]
    pub(super) fn file(&self, descriptor: u64) -> Option<File> {
        let file = self.task.file(descriptor as u32);
        if file.is_none() && self.marks & MARK_HOLDER == 0 {
            lose(LOSS_DESCRIPTOR_GONE, 1);
        }
        file
    }
}

/// What a call that returned moved.
// VERIFIER: a global function, which is verified once and not for every state in which the program comes to it: as a static one
// it took 466,000 of 869,000 instructions («processed 869175 insns (limit 1000000)»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_call(registers: u64, number: u64, result: u64, tgid: u32, marks: u8) -> u32 {
    moved(registers, number as usize, result, tgid, marks);
    0
}

#[inline(always)]
fn moved(registers: u64, number: usize, result: u64, tgid: u32, marks: u8) {
    let task = Task::current();
    let call = Call { task, registers, compat: task.is_compat(), result, tgid, marks };
    if number >= TABLE {
        return;
    }
    let kind = if call.compat { CALLS_32[number] } else { CALLS_64[number] };
    if (result as i64) < 0 {
        failed(&call, kind, number);
        return;
    }
    match kind {
        syscalls::OPEN | syscalls::GETFD => got(&call),
        syscalls::FCNTL => {
            if duplicates(&call) {
                got(&call);
            }
        }
        syscalls::REPLACE => {
            replaced(&call, result as u32);
            got(&call);
        }
        syscalls::CLOSE => {
            let descriptor = call.argument(0) as u32;
            replaced(&call, descriptor);
        }
        syscalls::READ => read_from(&call, result),
        syscalls::RECEIVE => {
            brought(&call);
            read_from(&call, result);
        }
        // It returns messages, not bytes: where the socket does not count them, each counts for the most that one can carry.
        syscalls::RECEIVE_MANY => {
            brought(&call);
            read_from(&call, (result & 0xffff) * MOST);
        }
        // Its arguments lie in user memory; watching costs little and misses nothing.
        syscalls::SOCKETCALL => {
            mark(tgid, MARK_WATCHED);
            match call.argument(0) & 0xffff_ffff {
                SOCKET | ACCEPT | ACCEPT4 => got(&call),
                CONNECT | SOCKETPAIR => carrier::reach(task),
                SETSOCKOPT => looped::forget(),
                GETSOCKOPT => received(&call, option_of_socketcall(&call)),
                _ => {}
            }
        }
        syscalls::FLUSH => looped::forget(),
        syscalls::OPTION => received(&call, [call.argument(0), call.argument(1), call.argument(2)]),
        syscalls::SLIDE => shown_anew(&call, call.argument(1)),
        syscalls::SHIFT => shown_anew(&call, shifted(&call)),
        syscalls::WRITE => wrote(&call),
        syscalls::GIVE => {
            wrote(&call);
            gave(&call);
        }
        syscalls::SEND => {
            put_into(&call, call.argument(0), result);
            lent(&call, number, result);
        }
        // It returns messages.
        syscalls::SENDMMSG => {
            sent_many(&call);
            lent(&call, number, result * MOST);
        }
        syscalls::MAP => mapped(&call),
        syscalls::MAP_OLD => mapped_old(&call),
        syscalls::REMAP => {
            let (old, new) = (call.argument(1), call.argument(2));
            if new > old {
                on_remap(task, new - old);
            }
        }
        syscalls::SENDFILE => through(&call, call.argument(1), call.argument(0), result),
        syscalls::SPLICE => through(&call, call.argument(0), call.argument(2), result),
        syscalls::TEE => through(&call, call.argument(0), call.argument(1), result),
        syscalls::IOCTL => {
            cloned(&call);
            if changes(&call) {
                changed(&call);
            }
            // Some return a descriptor (XFS_IOC_OPEN_BY_HANDLE, TIOCGPTPEER); looking at any other once more does no harm.
            if result != 0 {
                got(&call);
            }
        }
        syscalls::CONNECT => carrier::reach(task),
        kind if syscalls::is_channel(kind) => channelled(&call, kind),
        syscalls::ATTACH => attached(&call),
        syscalls::CHANGE => changed(&call),
        syscalls::TAMPER => tamper::called(&call, number),
        _ => {}
    }
}

// Calls of socketcall (`include/uapi/linux/net.h`).
const SOCKET: u64 = 1;
const CONNECT: u64 = 3;
const ACCEPT: u64 = 5;
const SOCKETPAIR: u64 = 8;
const SETSOCKOPT: u64 = 14;
const GETSOCKOPT: u64 = 15;
const ACCEPT4: u64 = 18;

/// A call that returned an error and can have moved all that it was asked to.
#[inline(always)]
fn failed(call: &Call, kind: u8, number: usize) {
    match kind {
        syscalls::CONNECT => carrier::reach(call.task),
        syscalls::FLUSH => looped::forget(),
        syscalls::READ | syscalls::RECEIVE | syscalls::RECEIVE_MANY => {
            take_from(call, call.argument(0), asked(call, number));
        }
        syscalls::WRITE | syscalls::GIVE | syscalls::SEND => {
            put_into(call, call.argument(0), asked(call, number));
        }
        syscalls::SENDFILE => through(call, call.argument(1), call.argument(0), at_most(call.argument(3))),
        syscalls::SPLICE => through(call, call.argument(0), call.argument(2), at_most(call.argument(4))),
        syscalls::TEE => through(call, call.argument(0), call.argument(1), at_most(call.argument(2))),
        kind if syscalls::is_channel(kind) => channelled(call, kind),
        _ => {}
    }
}

/// The length that a call was asked for: its third argument where that is a length and not a count of vectors.
#[inline(always)]
fn asked(call: &Call, number: usize) -> u64 {
    /// read, write, pread64, pwrite64, sendto, recvfrom.
    const PLAIN: [usize; 6] = [0, 1, 17, 18, 44, 45];
    let plain = !call.compat
        && (number == PLAIN[0]
            || number == PLAIN[1]
            || number == PLAIN[2]
            || number == PLAIN[3]
            || number == PLAIN[4]
            || number == PLAIN[5]);
    if plain { at_most(call.argument(2)) } else { MOST }
}

#[inline(always)]
const fn at_most(bytes: u64) -> u64 {
    if bytes > MOST { MOST } else { bytes }
}
