//! A process sent bytes through a socket.

use aya_ebpf::helpers::{
    bpf_probe_read_user,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};

use super::{carrier, channel, hold, looped, neighbour, put, returned};
use crate::{
    hooks::registers::{ORIG_AX, argument_64},
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
        if !has_peer(sock) || (takes_names && channel::may_name_receiver()) {
            read_address(sink);
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

#[inline(always)]
fn read_address(sink: &mut SinkKey) {
    const SENDTO: u64 = 44;
    const SENDMSG: u64 = 46;
    const SENDMMSG: u64 = 307;
    if Task::current().is_compat() {
        return;
    }
    // SAFETY: both helpers only return addresses; all reads through them are checked.
    let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
    let number: u64 = read(registers + ORIG_AX);
    let (messages, count) = match number {
        SENDTO => {
            fill(sink, argument_64(registers, 4));
            return;
        }
        SENDMSG => (argument_64(registers, 1), 1),
        SENDMMSG => (argument_64(registers, 1), argument_64(registers, 2)),
        _ => return,
    };
    if count == 0 || count > MESSAGES {
        return;
    }
    let Some(name) = name_of(messages) else { return };
    let first = head(name);
    for index in 1..MESSAGES {
        if index >= count {
            break;
        }
        if flow_same_address(messages + index * MESSAGE_BYTES, name, first[0], first[1], first[2]) == 0 {
            return;
        }
    }
    fill(sink, name);
}

/// Whether a message goes to `name`, or to an address with the same three words.
// VERIFIER: one function a turn: the body in the loop was a tenth of what there was to verify of `sys_exit`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_same_address(message: u64, name: u64, first: u64, second: u64, third: u64) -> u32 {
    u32::from(name_of(message).is_some_and(|other| other == name || head(other) == [first, second, third]))
}

/// `msg_name`, the first member of `struct msghdr`.
#[inline(always)]
fn name_of(message: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(message as *const u64) }.ok()
}

/// Family, port and address of a `struct sockaddr_in6`; of a `struct sockaddr_in` too, with what lies behind it.
#[inline(always)]
fn head(name: u64) -> [u64; 3] {
    // SAFETY: the helper checks the address. Unreadable ones are equal to each other, and then say nothing.
    unsafe { bpf_probe_read_user(name as *const [u64; 3]) }.unwrap_or([0; 3])
}

/// struct sockaddr_in and sockaddr_in6: family, port, then the address at 4 and at 8.
#[inline(always)]
fn fill(sink: &mut SinkKey, name: u64) {
    // SAFETY: the helper checks the address.
    let Ok([family, port]) = (unsafe { bpf_probe_read_user(name as *const [u16; 2]) }) else { return };
    match family {
        AF_INET => {
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
}
