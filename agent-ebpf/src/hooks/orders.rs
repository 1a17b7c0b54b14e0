//! Calls that make the kernel itself do something with files: ioctls, and what it loads. Part of `sys_exit`, in functions of its
//! own.
//!
//! Misses: what another thread changes in user memory between the call and its return (the request of an ioctl).

use agent_ebpf::syscalls;
use aya_ebpf::helpers::bpf_probe_read_user;

use super::call::Call;
use crate::{
    flow::{
        carrier,
        map::on_grow,
        open::{NO_DESCRIPTOR, on_open},
        put::{on_put, on_put_unknown},
        reach::on_fill,
        store,
        take::on_take,
    },
    kernel::{File, Inode, S_IFREG, Task},
    maps::MOVED_SCRATCH,
};

/// `_IOWR(UFFDIO, _UFFDIO_COPY, struct uffdio_copy)`.
const UFFDIO_COPY: u64 = 0xc028_aa03;
const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CHANGE_FD: u64 = 0x4c06;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const NBD_SET_SOCK: u64 = 0xab00;
/// `_IOWR(DM_IOCTL, DM_TABLE_LOAD_CMD, struct dm_ioctl)`.
const DM_TABLE_LOAD: u64 = 0xc138_fd09;
/// `_IOWR('f', 15, struct move_extent)`.
const EXT4_IOC_MOVE_EXT: u64 = 0xc028_660f;
/// `_IOW('X', 129, struct xfs_exchange_range)`.
const XFS_IOC_EXCHANGE_RANGE: u64 = 0x4028_5881;
/// `_IOW('X', 131, struct xfs_commit_range)`, which begins as the one before.
const XFS_IOC_COMMIT_RANGE: u64 = 0x4058_5883;
/// `_IO('f', 17)`: all of the file changes places with that of the boot loader's inode, and both get new generations.
const EXT4_IOC_SWAP_BOOT: u64 = 0x6611;
/// `_IOW('v', 2, long)`, `_IOW('f', 4, long)`, and what they are to i386: a new generation.
const SET_VERSION: [u64; 4] = [0x4008_7602, 0x4008_6604, 0x4004_7602, 0x4004_6604];
/// `_IOWR('X', 109, struct xfs_swapext)`.
const XFS_IOC_SWAPEXT: u64 = 0xc0c0_586d;
/// `_IOR` and `_IOW(BTRFS_IOCTL_MAGIC, 64, struct btrfs_ioctl_encoded_io_args)`.
const BTRFS_IOC_ENCODED_READ: u64 = 0x8080_9440;
const BTRFS_IOC_ENCODED_WRITE: u64 = 0x4080_9440;
/// `_IOW(BTRFS_IOCTL_MAGIC, 38, struct btrfs_ioctl_send_args)`, and what it is to i386.
const BTRFS_IOC_SEND: u64 = 0x4048_9426;
const BTRFS_IOC_SEND_32: u64 = 0x4044_9426;
/// `_IOW(BTRFS_IOCTL_MAGIC, 10, struct btrfs_ioctl_vol_args)`: another disk becomes part of the volume.
const BTRFS_IOC_ADD_DEV: u64 = 0x5000_940a;
/// `_IOWR(BTRFS_IOCTL_MAGIC, 53, struct btrfs_ioctl_dev_replace_args)`: another disk takes the place of one.
const BTRFS_IOC_DEV_REPLACE: u64 = 0xca28_9435;
const SG_IO: u64 = 0x2285;
/// `_IOWR('N', …)` with `struct nvme_passthru_cmd` and `struct nvme_passthru_cmd64`.
const NVME_IOCTL_ADMIN_CMD: u64 = 0xc048_4e41;
const NVME_IOCTL_IO_CMD: u64 = 0xc048_4e43;
const NVME_IOCTL_ADMIN64_CMD: u64 = 0xc050_4e47;
const NVME_IOCTL_IO64_CMD: u64 = 0xc050_4e48;
const NVME_IOCTL_IO64_CMD_VEC: u64 = 0xc050_4e49;
/// `_IOW('N', 0x42, struct nvme_user_io)`.
const NVME_IOCTL_SUBMIT_IO: u64 = 0x4030_4e42;
/// Most that is counted for a command whose length is not told.
const MOST: u64 = 0x7fff_f000;

/// What a call moved between files: so many bytes out of each, and into each.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Moved {
    /// Files; 0 for none.
    one: u64,
    two: u64,
    taken: u64,
    put: u64,
    /// The first became another file for us, under the same descriptor.
    is_renumbered: bool,
    /// Assets that the kernel read all of, and put where it was told to before the call returned.
    streamed: u64,
    /// Somebody else can have taken it out of there since.
    is_passed_on: bool,
}

/// A process that is watched made the kernel do something with files. Not 0: [`moved`] has to count what it moved.
#[inline(never)]
pub(super) fn ordered(registers: u64, number: usize, result: u64) -> u32 {
    let (call, kind) = Call::returned(registers, number, result);
    match kind {
        syscalls::LOAD => loaded(call, number),
        syscalls::IOCTL => ioctl(call).unwrap_or(0),
        _ => 0,
    }
}

/// A call that did all that it was asked to and then could not say how it went.
#[inline(never)]
pub(super) fn faulted(registers: u64, number: usize, tgid: u32) {
    if ordered(registers, number, 0) != 0 {
        moved(tgid);
    }
}

/// Counts what [`ordered`] left.
///
/// VERIFIER: called by the program itself, so that neither is on the other's stack («combined stack size»).
#[inline(always)]
pub(super) fn moved(tgid: u32) {
    renumbered(tgid);
    streamed();
    flow_moved(0);
    flow_moved(1);
}

/// A file has another identity from now on: whoever has it open has opened that one, and what it was taken for before counts for
/// all that the process holds.
#[inline(never)]
fn renumbered(tgid: u32) {
    let Some(moved) = MOVED_SCRATCH.row() else { return };
    // SAFETY: a row of this program's alone.
    let (file, taken, is_renumbered) = unsafe { ((*moved).one, (*moved).taken, (*moved).is_renumbered) };
    if is_renumbered {
        let task = Task::current();
        on_open(task, tgid, NO_DESCRIPTOR, File(file));
        on_grow(task, taken);
    }
}

/// What was left for the first or the second file.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_moved(which: u32) -> u32 {
    let Some(moved) = MOVED_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    let Moved { one, two, taken, put, .. } = unsafe { *moved };
    let file = if which == 0 { one } else { two };
    if file != 0 {
        let task = Task::current();
        on_take(task, File(file), taken);
        on_put(task, File(file), put);
    }
    0
}

/// Whoever reads a pipe that the kernel puts a stream into has read it by now: it counts as gone to a place that is not known,
/// beside the one that was named.
#[inline(never)]
fn streamed() {
    let Some(moved) = MOVED_SCRATCH.row() else { return };
    // SAFETY: a row of this program's alone.
    let (assets, is_passed_on) = unsafe { ((*moved).streamed, (*moved).is_passed_on) };
    if assets != 0 {
        let task = Task::current();
        carrier::adopt(task, store::flow_stream(task.0, assets, MOST));
        if is_passed_on {
            on_put_unknown(task, MOST);
        }
    }
}

#[inline(always)]
fn leave(one: u64, two: u64, taken: u64, put: u64) -> u32 {
    let Some(moved) = MOVED_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    unsafe {
        *moved = Moved { one, two, taken, put, is_renumbered: false, streamed: 0, is_passed_on: false }
    };
    1
}

#[inline(always)]
fn ioctl(call: Call) -> Option<u32> {
    let argument = call.argument(2);
    match call.argument(1) & 0xffff_ffff {
        UFFDIO_COPY => {
            // struct uffdio_copy: dst, src, len, mode, copy (what was copied, or an error).
            // SAFETY: the helper checks the address.
            let bytes = unsafe { bpf_probe_read_user((argument + 16) as *const u64) }.ok()?;
            let other = call.file(call.argument(0))?.faults_of()?;
            on_fill(call.task, other, bytes);
        }
        LOOP_SET_FD | LOOP_CHANGE_FD | NBD_SET_SOCK => backed(call, argument),
        // struct loop_config begins with the descriptor.
        LOOP_CONFIGURE => {
            // SAFETY: the helper checks the address.
            let backing = unsafe { bpf_probe_read_user(argument as *const u32) }.ok()?;
            backed(call, u64::from(backing));
        }
        DM_TABLE_LOAD => store::on_mapped(call.task, call.file(call.argument(0))?),
        // struct move_extent: reserved, donor_fd, orig_start, donor_start, len, moved_len (blocks, of a page at most).
        EXT4_IOC_MOVE_EXT => {
            // SAFETY: the helper checks the address.
            let extent = unsafe { bpf_probe_read_user(argument as *const [u64; 5]) }.ok()?;
            return Some(exchanged(call, extent[0] >> 32, extent[4] << 12));
        }
        // struct xfs_exchange_range: file1_fd, pad, file1_offset, file2_offset, length, flags.
        XFS_IOC_EXCHANGE_RANGE | XFS_IOC_COMMIT_RANGE => {
            // SAFETY: the helper checks the address.
            let range = unsafe { bpf_probe_read_user(argument as *const [u64; 4]) }.ok()?;
            return Some(exchanged(call, range[0], range[3]));
        }
        // struct xfs_swapext: version, target, temporary, …: the whole of both.
        XFS_IOC_SWAPEXT => {
            // SAFETY: the helper checks the address.
            let swapped = unsafe { bpf_probe_read_user(argument as *const [u64; 3]) }.ok()?;
            let (one, two) = (call.file(swapped[1])?, call.file(swapped[2])?);
            let bytes = size(one) + size(two);
            return Some(leave(one.0, two.0, bytes, bytes));
        }
        EXT4_IOC_SWAP_BOOT => return Some(renumber(call)),
        command if is_set_version(command) => return Some(renumber(call)),
        // What is moved is compressed; `len` is what it stands for.
        BTRFS_IOC_ENCODED_READ => {
            return Some(leave(call.address(call.argument(0)), 0, encoded(argument)? + call.result, 0));
        }
        BTRFS_IOC_SEND | BTRFS_IOC_SEND_32 => return streams(call, argument),
        command @ (BTRFS_IOC_ADD_DEV | BTRFS_IOC_DEV_REPLACE) => return grows(call, command, argument),
        BTRFS_IOC_ENCODED_WRITE => {
            return Some(leave(call.address(call.argument(0)), 0, 0, encoded(argument)? + call.result));
        }
        command @ (SG_IO
        | NVME_IOCTL_ADMIN_CMD
        | NVME_IOCTL_IO_CMD
        | NVME_IOCTL_ADMIN64_CMD
        | NVME_IOCTL_IO64_CMD
        | NVME_IOCTL_IO64_CMD_VEC
        | NVME_IOCTL_SUBMIT_IO) => {
            let bytes = commanded(command, argument)?;
            return Some(leave(call.address(call.argument(0)), 0, bytes, bytes));
        }
        _ => {}
    }
    None
}

#[inline(always)]
fn is_set_version(command: u64) -> bool {
    command == SET_VERSION[0]
        || command == SET_VERSION[1]
        || command == SET_VERSION[2]
        || command == SET_VERSION[3]
}

/// A snapshot is written to a descriptor, with what its files contain.
#[inline(always)]
fn streams(call: Call, argument: u64) -> Option<u32> {
    let assets = store::of_volume(call.file(call.argument(0))?)?;
    // SAFETY: the helper checks the address.
    let to = unsafe { bpf_probe_read_user(argument as *const u64) }.ok()?;
    let to = call.address(to);
    let left = leave(to, 0, 0, MOST);
    if let Some(moved) = MOVED_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe {
            (*moved).streamed = assets;
            (*moved).is_passed_on = File(to).inode().and_then(Inode::kind) != Some(S_IFREG);
        }
    }
    Some(left)
}

/// What is on the volume comes onto another disk by the kernel's own hand: of a disk that was added after this, of one that replaces
/// another before the call returns.
#[inline(always)]
fn grows(call: Call, command: u64, argument: u64) -> Option<u32> {
    // struct btrfs_ioctl_dev_replace_args begins with a command: 0 starts it, the others ask or stop it.
    // SAFETY: the helper checks the address.
    if command == BTRFS_IOC_DEV_REPLACE && unsafe { bpf_probe_read_user(argument as *const u64) } != Ok(0) {
        return None;
    }
    let assets = store::of_volume(call.file(call.argument(0))?)?;
    let left = leave(0, 0, 0, 0);
    if let Some(moved) = MOVED_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe { (*moved).streamed = assets };
    }
    Some(left)
}

#[inline(always)]
fn renumber(call: Call) -> u32 {
    let file = call.address(call.argument(0));
    let bytes = size(File(file));
    let left = leave(file, 0, bytes, bytes);
    if let Some(moved) = MOVED_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe { (*moved).is_renumbered = file != 0 };
    }
    left
}

/// Bytes that a command to a disk moves, in a direction that only the disk knows.
#[inline(always)]
fn commanded(command: u64, argument: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    let word =
        |offset: u64| unsafe { bpf_probe_read_user((argument + offset) as *const u32) }.ok().map(u64::from);
    match command {
        // struct sg_io_hdr (dxfer_len), and what bsg takes in its place: struct sg_io_v4 (dout_xfer_len, din_xfer_len).
        SG_IO if word(0)? == u64::from(b'S') => word(12),
        SG_IO => Some(word(60)? + word(68)?),
        NVME_IOCTL_IO64_CMD_VEC => Some(MOST),
        // A count of blocks less one.
        NVME_IOCTL_SUBMIT_IO => Some(((word(4)? & 0xffff) + 1) << 12),
        // data_len
        _ => word(36),
    }
}

/// struct btrfs_ioctl_encoded_io_args: iov, iovcnt, offset, flags, len.
#[inline(always)]
fn encoded(argument: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user((argument + 32) as *const u64) }.ok()
}

#[inline(always)]
fn backed(call: Call, backing: u64) {
    if let (Some(device), Some(backing)) = (call.file(call.argument(0)), call.file(backing)) {
        store::on_backed(call.task, device, backing);
    }
}

/// Two files changed some of their contents for each other's.
#[inline(always)]
fn exchanged(call: Call, other: u64, bytes: u64) -> u32 {
    leave(call.address(call.argument(0)), call.address(other), bytes, bytes)
}

/// A module or a kernel to boot, and what that gets as its first file system.
#[inline(always)]
fn loaded(call: Call, number: usize) -> u32 {
    const KEXEC_FILE_LOAD: usize = 320;
    let one = call.address(call.argument(0));
    let two = if number == KEXEC_FILE_LOAD { call.address(call.argument(1)) } else { 0 };
    leave(one, two, size(File(one)) + size(File(two)), 0)
}

/// Of no file 0.
#[inline(always)]
fn size(file: File) -> u64 {
    file.inode().map_or(0, |inode| inode.size())
}
