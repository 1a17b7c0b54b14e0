//! Calls that move bytes through descriptors: which of them give, which take, and how many.

use agent_ebpf::{MARK_HOLDER, syscalls::TABLE};
use aya_ebpf::helpers::bpf_probe_read_user;

use super::{Call, MOST};
use crate::{
    flow::{
        carrier, hold,
        map::{on_give, on_grow},
        put::{on_put, on_put_unknown},
        send::{on_send, on_send_gained, on_send_pages},
        take::on_take,
    },
    hooks::registers::{argument_32, argument_64},
    kernel::{File, S_IFSOCK},
    maps::RECEIVES_COUNTED,
};

/// getsockopt(descriptor, level, option): one option receives, past the hook of sockets (`tcp_zerocopy_receive`,
/// `net/ipv4/tcp.c`, 4.18). How much lies in user memory; no more than was put in comes out.
#[inline(always)]
pub(super) fn received(call: &Call, [descriptor, level, option]: [u64; 3]) {
    const IPPROTO_TCP: u64 = 6;
    const TCP_ZEROCOPY_RECEIVE: u64 = 35;
    if level & 0xffff_ffff == IPPROTO_TCP && option & 0xffff_ffff == TCP_ZEROCOPY_RECEIVE {
        take_from(call, descriptor, MOST);
    }
}

#[inline(never)]
pub(super) fn option_of_socketcall(call: &Call) -> [u64; 3] {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user(call.argument(1) as *const [u32; 3]) } {
        Ok(words) => words.map(u64::from),
        Err(_) => [0; 3],
    }
}

/// From one descriptor to another inside the kernel.
#[inline(always)]
pub(super) fn through(call: &Call, from: u64, to: u64, bytes: u64) {
    let before = hold::flow_assets_held(call.task.0);
    take_from(call, from, bytes);
    put_into(call, to, bytes);
    if before != 0 {
        gained(call, to, bytes, before);
    }
}

/// A socket counted what a holder sent while the call ran, for what it held then: what came by this very call went with it.
#[inline(never)]
fn gained(call: &Call, to: u64, bytes: u64, before: u64) {
    let gained = hold::flow_assets_held(call.task.0) & !before;
    if gained != 0
        && let Some(file) = call.task.file(to as u32)
        && is_socket(file)
        && let Some(sock) = file.socket()
    {
        on_send_gained(call.task, sock, bytes, gained);
    }
}

/// As [`take_from`], for calls whose bytes a socket counts itself.
#[inline(never)]
pub(super) fn read_from(call: &Call, bytes: u64) {
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
pub(super) fn take_from(call: &Call, descriptor: u64, bytes: u64) {
    match call.file(descriptor) {
        Some(file) => on_take(call.task, file, bytes),
        // It can have been any of what the process holds.
        None => on_grow(call.task, bytes),
    }
}

#[inline(never)]
pub(super) fn put_into(call: &Call, descriptor: u64, bytes: u64) {
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
pub(super) fn wrote(call: &Call) {
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
pub(super) fn gave(call: &Call) {
    if let Some(file) = call.file(call.argument(0))
        && file.is_writable()
    {
        on_give(call.task, file, call.result);
    }
}

/// Of the index of an argument: it is one of i386.
const COMPAT: u8 = 8;

/// Which argument has the flags of a call that sends; 0 for all others.
pub(super) const FLAGS_OF_SEND: [u8; TABLE] = {
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
pub(super) fn lends(registers: u64, number: usize) -> bool {
    const MSG_ZEROCOPY: u64 = 0x0400_0000;
    let which = FLAGS_OF_SEND[number];
    let index = (which & !COMPAT) as usize;
    if index == 0 {
        return false;
    }
    let flags =
        if which & COMPAT == 0 { argument_64(registers, index) } else { argument_32(registers, index) };
    flags & MSG_ZEROCOPY != 0
}

#[inline(never)]
pub(super) fn lent(call: &Call, number: usize, bytes: u64) {
    if number < TABLE
        && lends(call.registers, number)
        && let Some(file) = call.file(call.argument(0))
        && is_socket(file)
        && let Some(sock) = file.socket()
    {
        on_send_pages(call.task, sock, bytes);
    }
}

const FICLONE: u64 = 0x4004_9409;
const FICLONERANGE: u64 = 0x4020_940d;
/// A supervisor learns of a call that it is to answer, and puts a descriptor of its own into the process that made it.
const SECCOMP_IOCTL_NOTIF_RECV: u64 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_ADDFD: u64 = 0x4018_2103;
/// `_IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map)` (`include/uapi/linux/fuse.h`, 6.9).
const FUSE_DEV_IOC_BACKING_OPEN: u64 = 0x4010_e501;

/// A reflink: no byte is read or written, and yet the whole file is there. Or a descriptor for another process.
#[inline(always)]
pub(super) fn cloned(call: &Call) {
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
        // A server of files lets the kernel answer with another file (`fuse_backing_open`): all of it is answered from then on.
        FUSE_DEV_IOC_BACKING_OPEN => {
            // struct fuse_backing_map: fd, flags, padding.
            // SAFETY: the helper checks the address.
            let Ok(backing) = (unsafe { bpf_probe_read_user(argument as *const u32) }) else { return };
            (u64::from(backing), 0)
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
pub(super) fn sent_many(call: &Call) {
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
