//! A process sent bytes through a socket.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};

use super::{carrier, channel, hold, looped, neighbour, put, returned};
use crate::{
    hooks::registers::{ORIG_AX, argument_32, argument_64},
    kernel::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, Sock, Task, read},
    maps::{ADDRESS_SCRATCH, shared},
};
use agent_ebpf::{
    ALL_ASSETS, CLASS_PACKETS, DEV_UNIX, FlowKey, OBJECT_CHANNEL, OBJECT_STREAM, ObjectKey, SHARED_PACKETS,
    SINK_OTHER, SINK_PEER, SINK_PROCESS, SinkKey,
};

/// `task` sent `bytes` through `sock`; nothing happens unless its process is a holder.
#[inline(always)]
pub(crate) fn on_send(task: Task, sock: Sock, bytes: u64) {
    flow_address(sock.0);
    flow_send(task.0, sock.0, bytes);
    feed_class(task, sock, bytes);
    neighbour::on_send(task, sock, bytes);
    returned::on_send(task, sock, bytes);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_send(task: u64, sock: u64, bytes: u64) -> u32 {
    send(Task(task), Sock(sock), bytes);
    0
}

#[inline(always)]
fn send(task: Task, sock: Sock, bytes: u64) {
    let Some((holder, row)) = hold::held(task) else { return };
    // SAFETY: the row stays valid until the program ends.
    let (assets, spreads) = unsafe { ((*row).assets, (*row).spreads) };
    let looped = looped::of_send(sock, bytes);
    let kind = if looped.is_some() { OBJECT_CHANNEL } else { OBJECT_STREAM };
    let receiver = if looped.is_some() { looped } else { carrier::receiver(sock) };
    if spreads != 0
        && let Some(object) = &receiver
    {
        carrier::feed(object, kind, spreads, bytes);
    }
    let sink = match receiver {
        Some(object) => put::of_object(SINK_PROCESS, &object),
        None => peer_of(sock),
    };
    put::count(&FlowKey { holder, assets, sink }, bytes, None);
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
}

/// `task` sent `bytes` of its pages by reference: until they have left, what it stores there leaves. So they count for
/// whatever it will hold, beside what [`on_send`] counts for what it holds.
#[inline(always)]
pub(crate) fn on_send_pages(task: Task, sock: Sock, bytes: u64) {
    flow_address(sock.0);
    flow_send_pages(task.0, sock.0, bytes);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_send_pages(task: u64, sock: u64, bytes: u64) -> u32 {
    let Some(holder) = Task(task).holder_key() else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let held = hold::held(Task(task)).map_or(0, |(_, row)| unsafe { (*row).assets });
    put::count(&FlowKey { holder, assets: ALL_ASSETS & !held, sink: peer_of(Sock(sock)) }, bytes, None);
    0
}

/// `task` sent `bytes` through `sock` before it was known to hold the assets `gained`, which were among them.
#[inline(always)]
pub(crate) fn on_send_gained(task: Task, sock: Sock, bytes: u64, gained: u64) {
    flow_address(sock.0);
    flow_send_gained(task.0, sock.0, bytes, gained);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_send_gained(task: u64, sock: u64, bytes: u64, gained: u64) -> u32 {
    let (task, sock) = (Task(task), Sock(sock));
    let Some((holder, row)) = hold::held(task) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let spreads = unsafe { (*row).spreads } & gained;
    let receiver = carrier::receiver(sock);
    if spreads != 0
        && let Some(object) = &receiver
    {
        carrier::feed(object, OBJECT_STREAM, spreads, bytes);
    }
    let sink = match receiver {
        Some(object) => put::of_object(SINK_PROCESS, &object),
        None => peer_of(sock),
    };
    put::count(&FlowKey { holder, assets: gained, sink }, bytes, None);
    // SAFETY: the row stays valid until the program ends.
    unsafe { hold::moved(&holder, row) };
    0
}

/// Where the call can have named another receiver than the one that the socket is connected to, its class is fed as well. So is
/// that of who listens to devices, by all that passes one.
#[inline(always)]
fn feed_class(task: Task, sock: Sock, bytes: u64) {
    if matches!(sock.family(), Some(AF_INET | AF_INET6 | AF_PACKET)) {
        if shared(SHARED_PACKETS) != 0 {
            channel::on_put(task, &channel::class(CLASS_PACKETS), bytes);
        }
        return;
    }
    if let Some(class) = channel::class_of(sock)
        && (sock.family() == Some(AF_NETLINK) || sock.unix_peer().is_none() || channel::may_name_receiver())
    {
        channel::on_put(task, &class, bytes);
    }
}

/// Where bytes sent through `sock` go when no carrier takes them. What cannot be read is a sink of kind other, which nobody
/// lists as controlled.
#[inline(always)]
fn peer_of(sock: Sock) -> SinkKey {
    let unknown = SinkKey {
        kind: SINK_OTHER,
        protocol: protocol_of(sock),
        port: 0,
        dev: 0,
        generation: 0,
        reserved: 0,
        id: [0; 16],
    };
    let Some(family) = sock.family() else { return unknown };
    let mut sink = SinkKey { kind: SINK_PEER, port: sock.peer_port(), dev: u32::from(family), ..unknown };
    match family {
        // Not connected (a datagram to a path) or not accepted yet: the peer is not in the socket.
        AF_UNIX => sink = put::of_object(SINK_PROCESS, &ObjectKey { dev: DEV_UNIX, generation: 0, ino: 0 }),
        AF_INET => {
            sink.id[..4].copy_from_slice(&sock.peer_v4().unwrap_or([0; 4]));
            address_of_call(&mut sink);
        }
        AF_INET6 => {
            sink.id = sock.peer_v6().unwrap_or(0).to_be_bytes();
            address_of_call(&mut sink);
        }
        AF_VSOCK => {
            let (cid, port) = sock.vsock_peer().unwrap_or((0, 0));
            sink.id[..4].copy_from_slice(&cid.to_ne_bytes());
            sink.port = port as u16;
        }
        // To the kernel and back to processes of this host.
        AF_NETLINK => sink.kind = SINK_PROCESS,
        _ => {}
    }
    sink
}

/// The protocol of a socket's peer. What a raw socket sends can have a header of the sender's own making (`IP_HDRINCL`), which goes where
/// that says: so it is none of those whose peers can be listed.
#[inline(always)]
fn protocol_of(sock: Sock) -> u8 {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    const RAW: u8 = 255;
    match sock.protocol() {
        TCP | UDP | SCTP | UDP_LITE if sock.is_raw() => RAW,
        protocol => protocol,
    }
}

/// Messages of one `sendmmsg` whose addresses are compared.
const MESSAGES: u64 = 32;
/// `struct mmsghdr` of the 64-bit ABI: a `struct msghdr` of 56 bytes, then `msg_len`.
const MESSAGE_BYTES: u64 = 64;

/// Fills in the address that the call under way sends to: of a socket without a peer, and of a datagram or raw socket whose call
/// names another peer than the one that it is connected to.
///
/// It lies in user memory, where another thread can change it: what it says is for people, and an address that cannot be
/// read stays 0.0.0.0, which nobody lists as controlled. So does one of several in a `sendmmsg`: which of them this send is
/// for is not told, and a controlled one must not cover the others.
// VERIFIER: read by a function of its own before `flow_send`, so that neither is on the other's stack («combined stack size»);
// it answers in scratch memory, because a global function takes no pointer.
#[inline(always)]
fn address_of_call(sink: &mut SinkKey) {
    if let Some(found) = ADDRESS_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        let found = unsafe { &*found };
        if found.kind == SINK_PEER {
            (sink.dev, sink.port, sink.id) = (found.dev, found.port, found.id);
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_address(sock: u64) -> u32 {
    if let Some(scratch) = ADDRESS_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        let sink = unsafe { &mut *scratch };
        // Of a kind that says that nothing was found.
        *sink = SinkKey {
            kind: SINK_OTHER,
            protocol: 0,
            port: 0,
            dev: 0,
            generation: 0,
            reserved: 0,
            id: [0; 16],
        };
        let sock = Sock(sock);
        if returned::was_corked(sock) {
            // Nobody lists it as controlled.
            (sink.kind, sink.dev) = (SINK_PEER, u32::from(AF_INET));
            return 0;
        }
        let takes_names = sock.is_datagram() || sock.is_raw();
        let is_connected = has_peer(sock);
        let can_name = !is_connected || (takes_names && channel::may_name_receiver());
        if can_name && !read_address(sink, sock) && is_connected && sink.kind != SINK_PEER {
            // It can have named any: its socket's peer must not speak for that.
            (sink.kind, sink.dev) = (SINK_PEER, u32::from(AF_INET));
        }
    }
    0
}

/// Whether a socket is connected, so that its peer is in it and not in the call.
#[inline(always)]
fn has_peer(sock: Sock) -> bool {
    match sock.family() {
        Some(AF_INET) => sock.peer_v4().is_some_and(|peer| peer != [0; 4]),
        Some(AF_INET6) => sock.peer_v6().is_some_and(|peer| peer != 0),
        _ => true,
    }
}

/// Reads the address that the call under way names, if it is told. Returns whether it names none, so that its bytes go to the peer of
/// its socket.
#[inline(always)]
fn read_address(sink: &mut SinkKey, sock: Sock) -> bool {
    const SENDTO: u64 = 44;
    const SENDMSG: u64 = 46;
    const SENDMMSG: u64 = 307;
    // One of its requests can be what sends, on the way out of a call that has nothing to do with it.
    if Task::current().has_requests() {
        return false;
    }
    if Task::current().is_compat() {
        return flow_names_none_32() != 0;
    }
    // SAFETY: both helpers only return addresses; all reads through them are checked.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let number: u64 = read(registers + ORIG_AX);
    let (messages, count) = match number {
        SENDTO => return fill(sink, sock, argument_64(registers, 4)),
        SENDMSG => (argument_64(registers, 1), 1),
        SENDMMSG => (argument_64(registers, 1), argument_64(registers, 2)),
        // Of a request of io_uring it is not told.
        _ => return false,
    };
    let Some(name) = name_of(messages) else { return false };
    if name == 0 {
        return flow_names_none(messages, count) != 0;
    }
    if count == 0 || count > MESSAGES {
        return false;
    }
    let first = head(name);
    for index in 1..MESSAGES {
        if index >= count {
            break;
        }
        if flow_same_address(messages + index * MESSAGE_BYTES, name, first[0], first[1], first[2]) == 0 {
            return false;
        }
    }
    fill(sink, sock, name)
}

/// Whether the call of i386 under way names nobody: a write, or a send without an address.
// VERIFIER: it asks for the registers itself, which are a pointer to the verifier and no number («R1 is not a scalar»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_names_none_32() -> u32 {
    // write, writev, pwrite64, sendfile, sendfile64, splice, tee, vmsplice, pwritev, pwritev2.
    const WRITES: [u64; 10] = [4, 146, 181, 187, 239, 313, 315, 316, 334, 379];
    const SENDTO: u64 = 369;
    const SENDMSG: u64 = 370;
    // SAFETY: both helpers only return addresses; all reads through them are checked.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let number: u64 = read(registers + ORIG_AX);
    let mut index = 0;
    while index < WRITES.len() {
        if number == WRITES[index] {
            return 1;
        }
        index += 1;
    }
    let name = match number {
        SENDTO => Ok(argument_32(registers, 4) as u32),
        // `msg_name`, the first member of `struct compat_msghdr`.
        // SAFETY: the helper checks the address.
        SENDMSG => unsafe { bpf_probe_read_user(argument_32(registers, 1) as *const u32) },
        _ => return 0,
    };
    u32::from(name == Ok(0))
}

/// Whether none of `count` messages names an address. Of more than are looked at it is not told.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_names_none(messages: u64, count: u64) -> u32 {
    /// As many as a sender of datagrams gives to the kernel at once, by far.
    const UNNAMED: u64 = 256;
    for index in 0..UNNAMED {
        if index >= count {
            return 1;
        }
        if flow_has_name(messages + index * MESSAGE_BYTES) != 0 {
            return 0;
        }
    }
    u32::from(count <= UNNAMED)
}

// VERIFIER: the body of a loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_has_name(message: u64) -> u32 {
    u32::from(name_of(message) != Some(0))
}

/// Whether a message goes to `name`, or to an address with the same three words.
// VERIFIER: one function a turn: the body in the loop was a tenth of what there was to verify of `sys_exit`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_same_address(message: u64, name: u64, first: u64, second: u64, third: u64) -> u32 {
    u32::from(name_of(message).is_some_and(|other| other == name || head(other) == [first, second, third]))
}

/// `msg_name`, the first member of `struct msghdr`; 0 too where `msg_namelen`, the second, says that it is not to be read
/// (`__copy_msghdr`).
#[inline(always)]
fn name_of(message: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    let [name, length] = unsafe { bpf_probe_read_user(message as *const [u64; 2]) }.ok()?;
    Some(if length as i32 > 0 { name } else { 0 })
}

/// Family, port and address of a `struct sockaddr_in6`; of a `struct sockaddr_in` too, with what lies behind it.
#[inline(always)]
fn head(name: u64) -> [u64; 3] {
    // SAFETY: the helper checks the address. Unreadable ones are equal to each other, and then say nothing.
    unsafe { bpf_probe_read_user(name as *const [u64; 3]) }.unwrap_or([0; 3])
}

/// struct sockaddr_in and sockaddr_in6: family, port, then the address at 4 and at 8. Returns whether it is none.
#[inline(always)]
fn fill(sink: &mut SinkKey, sock: Sock, name: u64) -> bool {
    const AF_UNSPEC: u16 = 0;
    // SAFETY: the helper checks the address.
    let Ok([family, port]) = (unsafe { bpf_probe_read_user(name as *const [u16; 2]) }) else {
        return name == 0;
    };
    // To a socket of IPv4 an address without a family is one of its own (`udp_sendmsg`), to one of IPv6 it is none (`udpv6_sendmsg`).
    let is_v4 = sock.family() == Some(AF_INET);
    match family {
        AF_UNSPEC if !is_v4 => return true,
        AF_INET | AF_UNSPEC => {
            // SAFETY: the helper checks the address.
            if let Ok(ip) = unsafe { bpf_probe_read_user((name + 4) as *const [u8; 4]) } {
                sink.kind = SINK_PEER;
                sink.dev = u32::from(AF_INET);
                sink.id[..4].copy_from_slice(&ip);
                sink.port = u16::from_be(port);
            }
        }
        AF_INET6 => {
            // SAFETY: the helper checks the address.
            if let Ok(ip) = unsafe { bpf_probe_read_user((name + 8) as *const [u8; 16]) } {
                sink.kind = SINK_PEER;
                sink.dev = u32::from(AF_INET6);
                sink.id = ip;
                sink.port = u16::from_be(port);
            }
        }
        _ => {}
    }
    false
}
