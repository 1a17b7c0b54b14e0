//! Carriers without a descriptor: message queues, keys, extended attributes, and classes of channels.
//!
//! Where a call does not say which channel it used, or says it in user memory, all channels of its class are one carrier. It
//! gives nothing before as much went in as the propagation floor, so that a name look-up by a holder does not make holders
//! of everybody who hears of it.

use super::{carrier, hold, memory, object, put, take};
use crate::{
    hooks::registers::{ORIG_AX, argument_64},
    kernel::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, File, S_IFCHR, S_IFSOCK, Sock, Task, read},
    maps::{set_shared, shared},
};
use agent_ebpf::{
    ALL_ASSETS, CLASS_NETLINK, CLASS_PACKETS, CLASS_UNIX_DATAGRAMS, DEV_CLASS, FlowKey, OBJECT_CHANNEL,
    ObjectKey, SHARED_PACKETS, SHARED_TUNNELS, SINK_PROCESS,
};
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};

/// Largest value of an extended attribute (`XATTR_SIZE_MAX`).
pub(crate) const LARGEST_ATTRIBUTE: u64 = 65_536;
/// Longest text that a link or a request for a key has (`PAGE_SIZE`).
pub(crate) const LONGEST_TEXT: u64 = 4096;

/// All channels of a class as one carrier.
#[inline(always)]
pub(crate) const fn class(number: u64) -> ObjectKey {
    ObjectKey { dev: DEV_CLASS, generation: 0, ino: number }
}

/// The class of a socket whose receivers cannot be told from each other.
#[inline(always)]
pub(crate) fn class_of(sock: Sock) -> Option<ObjectKey> {
    match sock.family()? {
        AF_UNIX if sock.is_datagram() => Some(class(CLASS_UNIX_DATAGRAMS)),
        AF_NETLINK => Some(class(CLASS_NETLINK + sock.protocol() as u64)),
        AF_PACKET => Some(class(CLASS_PACKETS)),
        AF_INET | AF_INET6 if sock.is_raw() => Some(class(CLASS_PACKETS)),
        _ => None,
    }
}

/// Whether `file` is a socket that hears what others send. From the first on, what holders send is put there.
#[inline(always)]
pub(crate) fn hears(file: File) -> bool {
    flow_hears(file.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_hears(file: u64) -> u32 {
    let word = match packets(File(file)) {
        Some(()) => SHARED_PACKETS,
        None if is_tunnel(File(file)).is_some() => SHARED_TUNNELS,
        None => return 0,
    };
    if shared(word) == 0 {
        set_shared(word, 1);
    }
    1
}

/// Whether a process reads what is sent by a network device out of `file`.
#[inline(always)]
pub(crate) fn is_tunnel(file: File) -> Option<()> {
    /// `MKDEV(MISC_MAJOR, TUN_MINOR)`, for tun and tap.
    const TUN: u32 = 10 << 20 | 200;
    let inode = file.inode()?;
    if inode.kind()? == S_IFCHR && inode.rdev()? == TUN { Some(()) } else { None }
}

#[inline(always)]
fn packets(file: File) -> Option<()> {
    if file.inode()?.kind()? != S_IFSOCK {
        return None;
    }
    let class = class_of(file.socket()?)?;
    if class.ino == CLASS_PACKETS { Some(()) } else { None }
}

/// `task` put `bytes` into a channel; nothing happens unless its process is a holder.
#[inline(always)]
pub(crate) fn on_put(task: Task, channel: &ObjectKey, bytes: u64) {
    flow_channel_put(
        task.0,
        u64::from(channel.dev) << 32 | u64::from(channel.generation),
        channel.ino,
        bytes,
    );
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_channel_put(task: u64, dev_generation: u64, ino: u64, bytes: u64) -> u32 {
    let object = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    let Some((holder, row)) = hold::held(Task(task)) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let (assets, spreads) = unsafe { ((*row).assets, (*row).spreads) };
    if bytes == 0 || assets == ALL_ASSETS {
        return 0;
    }
    if spreads != 0 {
        if carrier::make(&object, OBJECT_CHANNEL, spreads) {
            // A ring of packets is read without a call.
            memory::expose_object(&object, spreads);
        }
        carrier::feed(&object, OBJECT_CHANNEL, spreads, bytes);
    }
    put::count(&FlowKey { holder, assets, sink: put::of_object(SINK_PROCESS, &object) }, bytes, None);
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    0
}

/// `task` took `bytes` out of a channel; nothing happens unless that is a carrier.
#[inline(always)]
pub(crate) fn on_take(task: Task, channel: &ObjectKey, bytes: u64) {
    let place = u64::from(channel.dev) << 32 | u64::from(channel.generation);
    let assets = assets_of(channel);
    if bytes != 0 && assets != 0 && take::become_holder(task, assets) {
        carrier::adopt(task, flow_channel_take(task.0, place, channel.ino, bytes));
    }
}

/// The assets that may come out of a channel.
#[inline(always)]
pub(crate) fn assets_of(channel: &ObjectKey) -> u64 {
    flow_channel_assets(u64::from(channel.dev) << 32 | u64::from(channel.generation), channel.ino)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_channel_assets(dev_generation: u64, ino: u64) -> u64 {
    let object = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    match object::lookup(&object) {
        Some(value) if object::carries(&object, &value) => value.assets,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_channel_take(task: u64, dev_generation: u64, ino: u64, bytes: u64) -> u64 {
    let object = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    match object::lookup(&object) {
        Some(value) if object::carries(&object, &value) => take::take(Task(task), object, value, bytes),
        _ => 0,
    }
}

/// Whether the call under way can have named a receiver other than the one that the socket is connected to.
///
/// Only what the kernel itself holds is believed: the number of the call, and that `sendto` was given no address. A
/// `sendmsg` names one in user memory, which another thread can change; so does a request of io_uring, which can run on the way out of any
/// call.
#[inline(always)]
pub(crate) fn may_name_receiver() -> bool {
    flow_may_name() != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_may_name() -> u32 {
    const WRITES: [u64; 8] = [1, 18, 20, 40, 275, 276, 278, 296];
    const SENDTO: u64 = 44;
    if Task::current().is_compat() || Task::current().has_requests() {
        return 1;
    }
    // SAFETY: both helpers only return addresses; all reads through them are checked.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let number: u64 = read(registers + ORIG_AX);
    if number == SENDTO {
        return u32::from(argument_64(registers, 4) != 0);
    }
    let mut index = 0;
    while index < WRITES.len() {
        if number == WRITES[index] {
            return 0;
        }
        index += 1;
    }
    1
}
