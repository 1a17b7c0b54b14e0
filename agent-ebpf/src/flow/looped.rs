//! Datagrams that stay on this host: what a send put onto the loopback device is known when it returns.
//!
//! The address that `sendto` names lies in user memory and proves nothing. The packet does: it passes the loopback device in
//! the sender's own context, before the send returns and before anybody can receive it. What waited in a socket and is let go by
//! another call than a send passes there too, and must not speak for the next send: such calls end what their thread looped, and
//! a socket in which something waited is not believed again.

use super::{carrier, channel, hold, neighbour, returned};
use crate::{
    kernel::{Packet, Sock, Task},
    maps::LOOPED,
};
use agent_ebpf::{DEV_UDP, OBJECT_CHANNEL, ObjectKey};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

/// Datagrams to one port, whoever sends them: a receiver knows no more of itself than its own port.
#[inline(always)]
pub(crate) const fn to_port(port: u16) -> ObjectKey {
    ObjectKey { dev: DEV_UDP, generation: 0, ino: port as u64 }
}

/// A holder's thread put `packet` on some device.
#[inline(always)]
pub(crate) fn on_packet(packet: Packet) {
    flow_looped(packet.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_looped(packet: u64) -> u32 {
    looped(Packet(packet));
    0
}

#[inline(always)]
fn looped(packet: Packet) -> Option<()> {
    if !packet.is_on_loopback()? {
        return copied(packet);
    }
    let datagram = packet.datagram()?;
    let ports = u64::from(datagram.from_port) << 16 | u64::from(datagram.to_port);
    let thread = bpf_get_current_pid_tgid();
    // Several packets of one send are one amount if their ports are the same; of others the last counts.
    let before = match LOOPED.get_ptr(thread) {
        // SAFETY: the row stays valid until the program ends, and only this thread writes it.
        Some(row) => unsafe { if (*row)[1] == ports { (*row)[0] } else { 0 } },
        None => 0,
    };
    // Full: then the send counts as one that leaves.
    let _ = LOOPED.insert(&thread, &[before + datagram.bytes, ports], 0);
    // Before the receiver can have it. The bytes are fed when the send returns.
    let spreads = hold::spreads(Task::current());
    if spreads != 0 {
        carrier::make(&to_port(datagram.to_port), OBJECT_CHANNEL, spreads);
    }
    Some(())
}

/// What goes to many comes back to who listens on this host, beside what leaves: that counts for the peer.
#[inline(always)]
fn copied(packet: Packet) -> Option<()> {
    if packet.is_own_copy() {
        let datagram = packet.datagram()?;
        channel::on_put(Task::current(), &to_port(datagram.to_port), datagram.bytes);
    } else {
        neighbour::on_packet(packet);
    }
    Some(())
}

/// The carrier that all of `bytes` which `sock` just sent went into; `None` when some left or may have left. To be asked once
/// for each send of a holder, whatever it sent through: what one send looped must not speak for the next.
#[inline(always)]
pub(crate) fn of_send(sock: Sock, bytes: u64) -> Option<ObjectKey> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied out at once.
    let [looped, ports] = *unsafe { LOOPED.get(thread) }?;
    let _ = LOOPED.remove(thread);
    if sock.is_udp()
        && looped >= bytes
        && ports >> 16 == u64::from(sock.own_port())
        && !returned::was_corked(sock)
    {
        Some(to_port(ports as u16))
    } else {
        None
    }
}

/// The running thread is no longer in the call that put something onto the loopback device.
#[inline(always)]
pub(crate) fn forget() {
    let _ = LOOPED.remove(bpf_get_current_pid_tgid());
}
