//! `tp_btf/sys_exit`: every system call, with its arguments and its result in one place.
//!
//! Kernel prototype: `void sys_exit(struct pt_regs *regs, long ret)` (`include/trace/events/syscalls.h`), 5.5 and later for
//! BTF. Misses: io_uring (`uring`), stores into mappings (counted whole when mapped), kernel threads, and what `flow::race` does
//! of descriptors that another thread replaces.

use agent_ebpf::{
    LOSS_DESCRIPTOR_GONE, MARK_HOLDER, MARK_MAPPED, MARK_RACED, MARK_WATCHED,
    syscalls::{self, CALLS_32, CALLS_64, CALLS_ANY, TABLE, X32_BIT},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use super::{
    acts, call,
    channel::{attached, channelled},
    orders,
    registers::{ORIG_AX, argument_32, argument_64},
    tamper, word,
};
use crate::{
    flow::{
        carrier,
        map::{on_give, on_grow, on_map, on_map_anonymous, on_remap},
        memory,
        open::on_open,
        overlay,
        put::{on_put, on_put_unknown},
        race,
        send::{on_send, on_send_pages},
        space,
        take::on_take,
    },
    kernel::{AF_UNIX, File, S_IFSOCK, Task},
    maps::{RECEIVES_COUNTED, lose, mark, marks},
};

#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let result: i64 = ctx.arg(1);
    let registers: *const u8 = ctx.arg(0);
    // SAFETY: a trusted pointer to struct pt_regs; the verifier checks the access.
    let number = unsafe { *(registers.add(ORIG_AX as usize) as *const u64) } & !X32_BIT;
    if number >= TABLE as u64
        || CALLS_ANY[number as usize] == syscalls::NONE
        || (result < 0 && !moves_although(result))
    {
        return 0;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut marks = marks(tgid);
    if marks & (MARK_MAPPED | MARK_HOLDER) == MARK_MAPPED && suspected() {
        marks |= MARK_HOLDER | MARK_WATCHED;
    }
    if marks & (MARK_WATCHED | MARK_HOLDER) == 0
        && !can_begin(number as usize)
        && !space::may_bring(marks)
        && !lends(word(&ctx, 0), number as usize)
    {
        return 0;
    }
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

/// Whether the current process may see what a holder stores into memory that both have mapped.
// VERIFIER: not inlined, so that the key of its row is not on the stack of all that comes after it («combined stack size»).
#[inline(never)]
fn suspected() -> bool {
    memory::suspect(Task::current())
}

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

/// Whether a process that holds and watches nothing can come to by this call.
#[inline(always)]
fn can_begin(number: usize) -> bool {
    const BEGINS: [bool; TABLE] = {
        let mut begins = [false; TABLE];
        let mut number = 0;
        while number < TABLE {
            begins[number] = begins_with(CALLS_64[number]) || begins_with(CALLS_32[number]);
            number += 1;
        }
        begins
    };
    BEGINS[number] || carrier::unsettled()
}

const fn begins_with(call: u8) -> bool {
    matches!(
        call,
        syscalls::OPEN
            | syscalls::RECEIVE
            | syscalls::RECEIVE_MANY
            | syscalls::SOCKETCALL
            | syscalls::FCNTL
            | syscalls::REPLACE
            | syscalls::MAP
            | syscalls::MAP_OLD
            | syscalls::CHANNEL
            | syscalls::ATTACH
            | syscalls::TRACE
            | syscalls::VM_READ
            | syscalls::VM_WRITE
            | syscalls::GETFD
            | syscalls::OPTION
            | syscalls::TAMPER
            | syscalls::CHANGE
            | syscalls::GIVE
    )
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
            .unwrap_or(0)
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
                GETSOCKOPT => received(&call, option_of_socketcall(&call)),
                _ => {}
            }
        }
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
            // Some return a descriptor (XFS_IOC_OPEN_BY_HANDLE, TIOCGPTPEER); looking at any other once more does no harm.
            if result != 0 {
                got(&call);
            }
        }
        syscalls::CONNECT => carrier::reach(task),
        syscalls::CHANNEL => channelled(&call, number),
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
const GETSOCKOPT: u64 = 15;
const ACCEPT4: u64 = 18;

/// Of a process that holds something, a mapping came to show `bytes` that its file has elsewhere: to read them, or to write
/// over them.
#[inline(always)]
fn shown_anew(call: &Call, bytes: u64) {
    if bytes != 0 {
        on_grow(call.task, bytes);
        on_put_unknown(call.task, bytes);
    }
}

/// fallocate: where it cuts a part out of a file or moves the rest away to make room, mappings show another part from then on.
/// The length of that part; 0 for other modes.
#[inline(never)]
fn shifted(call: &Call) -> u64 {
    /// `FALLOC_FL_COLLAPSE_RANGE` and `FALLOC_FL_INSERT_RANGE`.
    const SHIFTS: u64 = 0x08 | 0x20;
    if call.argument(1) & SHIFTS == 0 {
        return 0;
    }
    // An offset of 64 bits is two arguments of i386.
    call.argument(if call.compat { 4 } else { 3 })
}

/// getsockopt(descriptor, level, option): one option receives, past the hook of sockets (`tcp_zerocopy_receive`,
/// `net/ipv4/tcp.c`, 4.18). How much lies in user memory; no more than was put in comes out.
#[inline(always)]
fn received(call: &Call, [descriptor, level, option]: [u64; 3]) {
    const IPPROTO_TCP: u64 = 6;
    const TCP_ZEROCOPY_RECEIVE: u64 = 35;
    if level & 0xffff_ffff == IPPROTO_TCP && option & 0xffff_ffff == TCP_ZEROCOPY_RECEIVE {
        take_from(call, descriptor, MOST);
    }
}

#[inline(never)]
fn option_of_socketcall(call: &Call) -> [u64; 3] {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(call.argument(1) as *const [u32; 3]) } {
        Ok(words) => words.map(u64::from),
        Err(_) => [0; 3],
    }
}

/// A descriptor is the result.
#[inline(never)]
fn got(call: &Call) {
    match call.task.file(call.result as u32) {
        Some(file) => on_open(call.task, call.tgid, call.result as u32, file),
        // Another thread moved or closed it meanwhile: what it moved it to is found by the scan, until which it is watched.
        None => mark(call.tgid, MARK_WATCHED),
    }
}

/// What is said of a file was changed by its descriptor.
#[inline(never)]
fn changed(call: &Call) {
    if let Some(file) = call.task.file(call.argument(0) as u32) {
        overlay::on_change(call.task, file);
    }
}

#[inline(never)]
fn replaced(call: &Call, descriptor: u32) {
    if call.marks & (MARK_HOLDER | MARK_WATCHED) != 0 {
        race::on_replace(call.task, call.tgid, call.registers, descriptor);
    }
}

/// The call's descriptor was another one when it began: whichever it was, `result` bytes count for all that the process holds,
/// and for a file that is not known. What it is by now counts too; where it is gone, `moved` counts the same.
// VERIFIER: it is given what it uses and no more: the linker drops an argument that nobody reads, and its declaration stays («R4
// is not a scalar»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_raced(registers: u64, number: u64, result: u64) -> u32 {
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
fn duplicates(call: &Call) -> bool {
    const F_DUPFD: u64 = 0;
    const F_DUPFD_CLOEXEC: u64 = 1030;
    matches!(call.argument(1) & 0xffff_ffff, F_DUPFD | F_DUPFD_CLOEXEC)
}

/// Numbers of either ABI that submit asynchronous requests.
const SUBMITS: [bool; TABLE] = {
    let mut submits = [false; TABLE];
    let mut number = 0;
    while number < TABLE {
        submits[number] = CALLS_64[number] == syscalls::SUBMIT || CALLS_32[number] == syscalls::SUBMIT;
        number += 1;
    }
    submits
};

/// A call that returned an error and can have moved all that it was asked to.
#[inline(always)]
fn failed(call: &Call, kind: u8, number: usize) {
    match kind {
        syscalls::CONNECT => carrier::reach(call.task),
        syscalls::READ | syscalls::RECEIVE | syscalls::RECEIVE_MANY => {
            take_from(call, call.argument(0), asked(call, number));
        }
        syscalls::WRITE | syscalls::GIVE | syscalls::SEND => {
            put_into(call, call.argument(0), asked(call, number));
        }
        syscalls::SENDFILE => through(call, call.argument(1), call.argument(0), at_most(call.argument(3))),
        syscalls::SPLICE => through(call, call.argument(0), call.argument(2), at_most(call.argument(4))),
        syscalls::TEE => through(call, call.argument(0), call.argument(1), at_most(call.argument(2))),
        syscalls::CHANNEL => channelled(call, number),
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

/// Requests of one `io_submit` that are looked at; more than that count as everything.
const REQUESTS: u64 = 128;

/// Asynchronous requests (`struct iocb`, `include/uapi/linux/aio_abi.h`): their results come by another way, so they count
/// when they are accepted, for what they ask.
///
/// VERIFIER: called beside `moved`, not by it, so that its vectors are not on the stack of deeper calls («combined stack
/// size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_submitted(registers: u64, number: u64, result: u64) -> u32 {
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

/// From one descriptor to another inside the kernel.
#[inline(always)]
fn through(call: &Call, from: u64, to: u64, bytes: u64) {
    take_from(call, from, bytes);
    put_into(call, to, bytes);
}

/// As [`take_from`], for calls whose bytes a socket counts itself.
#[inline(never)]
fn read_from(call: &Call, bytes: u64) {
    match call.file(call.argument(0)) {
        Some(file) if RECEIVES_COUNTED.load() != 0 && is_socket(file) => {}
        Some(file) => on_take(call.task, file, bytes),
        None => on_grow(call.task, bytes),
    }
}

#[inline(always)]
fn is_socket(file: File) -> bool {
    match file.inode() {
        Some(inode) => inode.kind() == Some(S_IFSOCK),
        None => false,
    }
}

#[inline(never)]
fn take_from(call: &Call, descriptor: u64, bytes: u64) {
    match call.file(descriptor) {
        Some(file) => on_take(call.task, file, bytes),
        // It can have been any of what the process holds.
        None => on_grow(call.task, bytes),
    }
}

#[inline(never)]
fn put_into(call: &Call, descriptor: u64, bytes: u64) {
    let Some(file) = call.file(descriptor) else {
        on_put_unknown(call.task, bytes);
        return;
    };
    // Sockets are counted while they send, but only a holder's; who became one by this very call was none then.
    if call.marks & MARK_HOLDER == 0
        && let Some(inode) = file.inode()
        && inode.kind() == Some(S_IFSOCK)
        && let Some(sock) = file.socket()
    {
        on_send(call.task, sock, bytes);
        return;
    }
    on_put(call.task, file, bytes);
}

#[inline(never)]
fn wrote(call: &Call) {
    let Some(file) = call.file(call.argument(0)) else {
        on_put_unknown(call.task, call.result);
        return;
    };
    // vmsplice on the reading end of a pipe reads.
    if file.is_writable() {
        on_put(call.task, file, call.result);
    } else {
        on_take(call.task, file, call.result);
    }
}

/// vmsplice into a pipe: what is stored into the pages until they are read comes out of the pipe too.
#[inline(never)]
fn gave(call: &Call) {
    if let Some(file) = call.file(call.argument(0))
        && file.is_writable()
    {
        on_give(call.task, file, call.result);
    }
}

/// Of the index of an argument: it is one of i386.
const COMPAT: u8 = 8;

/// Which argument has the flags of a call that sends; 0 for all others.
const FLAGS_OF_SEND: [u8; TABLE] = {
    let mut flags = [0; TABLE];
    // sendto, sendmsg and sendmmsg of the 64-bit ABI, the last two of x32, and those of i386: each number has one meaning.
    let calls = [
        (44, 3),
        (46, 2),
        (307, 3),
        (518, 2),
        (538, 3),
        (369, COMPAT | 3),
        (370, COMPAT | 2),
        (345, COMPAT | 3),
    ];
    let mut index = 0;
    while index < calls.len() {
        flags[calls[index].0] = calls[index].1;
        index += 1;
    }
    flags
};

/// Whether a call sends pages by reference (`MSG_ZEROCOPY`).
#[inline(always)]
fn lends(registers: u64, number: usize) -> bool {
    const MSG_ZEROCOPY: u64 = 0x0400_0000;
    let which = FLAGS_OF_SEND[number];
    let index = (which & !COMPAT) as usize;
    if index == 0 {
        return false;
    }
    let flags =
        if which & COMPAT == 0 { argument_64(registers, index) } else { argument_32(registers, index) };
    flags.is_some_and(|flags| flags & MSG_ZEROCOPY != 0)
}

#[inline(never)]
fn lent(call: &Call, number: usize, bytes: u64) {
    if number < TABLE
        && lends(call.registers, number)
        && let Some(file) = call.file(call.argument(0))
        && is_socket(file)
        && let Some(sock) = file.socket()
    {
        on_send_pages(call.task, sock, bytes);
    }
}

/// Descriptors may have come from a socket, which are not looked at one by one: who received from where they may come is
/// watched from then on.
#[inline(never)]
fn brought(call: &Call) {
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

const MAP_SHARED: u64 = 1;
const MAP_ANONYMOUS: u64 = 0x20;

#[inline(never)]
fn mapped(call: &Call) {
    let flags = call.argument(3);
    if flags & MAP_ANONYMOUS != 0 {
        if flags & MAP_SHARED != 0 {
            on_map_anonymous(call.task, call.argument(1));
        }
        return;
    }
    if let Some(file) = call.file(call.argument(4)) {
        on_map(call.task, file, call.argument(1), flags & MAP_SHARED != 0);
    }
}

/// mmap of i386: its one argument points to the six.
#[inline(never)]
fn mapped_old(call: &Call) {
    // SAFETY: the helper checks the address.
    let Ok([_, len, _, flags, fd, _]) = (unsafe { bpf_probe_read_user(call.argument(0) as *const [u32; 6]) })
    else {
        return;
    };
    if u64::from(flags) & MAP_ANONYMOUS != 0 {
        if u64::from(flags) & MAP_SHARED != 0 {
            on_map_anonymous(call.task, u64::from(len));
        }
        return;
    }
    if let Some(file) = call.file(u64::from(fd)) {
        on_map(call.task, file, u64::from(len), u64::from(flags) & MAP_SHARED != 0);
    }
}

const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;
/// A supervisor learns of a call that it is to answer, and puts a descriptor of its own into the process that made it.
const SECCOMP_IOCTL_NOTIF_RECV: u64 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_ADDFD: u64 = 0x4018_2103;

/// A reflink: no byte is read or written, and yet the whole file is there. Or a descriptor for another process.
#[inline(always)]
fn cloned(call: &Call) {
    let argument = call.argument(2);
    let (source, length) = match call.argument(1) & 0xffff_ffff {
        FICLONE => (argument, 0),
        FICLONERANGE => {
            // struct file_clone_range: src_fd, src_offset, src_length (0: to the end), dest_offset.
            // SAFETY: the helper checks the address.
            let Ok([source, _, length]) = (unsafe { bpf_probe_read_user(argument as *const [u64; 3]) })
            else {
                return;
            };
            (source, length)
        }
        SECCOMP_IOCTL_NOTIF_RECV | SECCOMP_IOCTL_NOTIF_ADDFD => {
            // Which process that is is not told.
            carrier::unsettle();
            return;
        }
        _ => return,
    };
    let Some(file) = call.file(source) else { return };
    let Some(inode) = file.inode() else { return };
    through(call, source, call.argument(0), if length == 0 { inode.size() } else { length });
}

/// Messages one `sendmmsg` can send (`UIO_MAXIOV`).
const MESSAGES: u64 = 1024;

/// sendmmsg on kernels without `sock_send_length`: it returns messages, their lengths lie in user memory.
#[inline(never)]
fn sent_many(call: &Call) {
    /// `struct mmsghdr` of the 64-bit ABI: a `struct msghdr` of 56 bytes, then `msg_len`.
    const STRIDE: u64 = 64;
    if crate::maps::SOCKETS_COUNTED.load() != 0 {
        return;
    }
    let Some(file) = call.file(call.argument(0)) else { return };
    let vector = call.argument(1);
    let mut bytes = 0;
    for index in 0..MESSAGES {
        if index >= call.result {
            break;
        }
        // SAFETY: the helper checks the address.
        bytes += unsafe { bpf_probe_read_user((vector + index * STRIDE + 56) as *const u32) }
            .map_or(65_536, u64::from);
    }
    on_put(call.task, file, bytes);
}
