//! Peers of another network namespace of this host: an address leads to them, and no loopback device.
//!
//! An address that a socket of this host has as its own is a neighbour's; what a holder sends there by TCP comes out of the
//! connection with the same addresses and ports. Only networks that user space names are looked at, so that a server with
//! thousands of clients elsewhere makes no rows; everything that leaves for others counts as sent. Misses: addresses that are
//! rewritten on the way (NAT), and protocols other than TCP and UDP.

use agent_ebpf::{
    Address, CLASS_TUNNELS, FlowKey, HolderKey, LOSS_OBJECTS_FULL, OBJECT_STREAM, ObjectKey, PendingValue,
    SHARED_NEIGHBOURS, SHARED_TUNNELS, SINK_PEER, SINK_PROCESS,
};
use aya_ebpf::maps::lpm_trie::Key;

use super::{carrier, channel, hold, looped, now, object, put};
use crate::{
    kernel::{AF_INET, AF_INET6, File, Packet, S_IFSOCK, Sock, Task, mapped},
    maps::{ADDRESS_SCRATCH, FOLLOWED, NEIGHBOURS, PENDING, add, join, lose, set_shared, shared},
};

const IPPROTO_TCP: u8 = 6;
const NOBODY: HolderKey = HolderKey { tgid: 0, exec: 0, start: 0 };

/// Whether the peer of a TCP socket is on this host.
#[inline(always)]
pub(crate) fn is_one(sock: Sock) -> bool {
    flow_neighbour(sock.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_neighbour(sock: u64) -> u32 {
    match peer(Sock(sock)) {
        Some(address) => u32::from(is_followed(&address) && is_here(&address)),
        None => 0,
    }
}

#[inline(always)]
fn peer(sock: Sock) -> Option<Address> {
    match sock.family()? {
        AF_INET => Some(mapped(sock.peer_v4()?)),
        AF_INET6 => Some(Address { bytes: sock.peer_v6()?.to_be_bytes() }),
        _ => None,
    }
}

#[inline(always)]
fn own(sock: Sock) -> Option<Address> {
    match sock.family()? {
        AF_INET => Some(mapped(sock.own_v4()?)),
        AF_INET6 => Some(Address { bytes: sock.own_v6()?.to_be_bytes() }),
        _ => None,
    }
}

#[inline(always)]
fn is_followed(address: &Address) -> bool {
    FOLLOWED.get(&Key::new(128, *address)).is_some()
}

#[inline(always)]
fn is_here(address: &Address) -> bool {
    NEIGHBOURS.get_ptr(address).is_some() || shared(SHARED_NEIGHBOURS) != 0
}

/// A TCP connection came to be on `sock`.
#[inline(always)]
pub(crate) fn on_connected(sock: Sock) {
    if flow_here(sock.0) != 0 {
        flow_due(sock.0);
    }
}

/// A process has `file`, which can be a socket that was there before.
#[inline(always)]
pub(crate) fn on_have(file: File) {
    if let Some(inode) = file.inode()
        && inode.kind() == Some(S_IFSOCK)
        && let Some(sock) = file.socket()
    {
        flow_here(sock.0);
    }
}

/// Notes that a socket's own address is one of this host. Whether it is one that is looked at.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_here(sock: u64) -> u32 {
    let Some(address) = own(Sock(sock)) else { return 0 };
    if !is_followed(&address) {
        return 0;
    }
    if NEIGHBOURS.get_ptr(&address).is_none()
        && NEIGHBOURS.insert(&address, &now(), 0).is_err()
        && shared(SHARED_NEIGHBOURS) == 0
    {
        lose(LOSS_OBJECTS_FULL, 1);
        set_shared(SHARED_NEIGHBOURS, 1);
    }
    1
}

/// What was sent into the connection before its receiving end, `sock`, was known comes out of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_due(sock: u64) -> u32 {
    if let Some(key) = object::incoming(Sock(sock)) {
        due(&key);
    }
    0
}

#[inline(always)]
fn due(key: &ObjectKey) {
    flow_due_of(u64::from(key.dev) << 32 | u64::from(key.generation), key.ino);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_due_of(dev_generation: u64, ino: u64) -> u32 {
    let key = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    // SAFETY: copied out at once; an entry freed meanwhile is not reused before the program ends (RCU).
    let Some(&pending) = (unsafe { PENDING.get(&key) }) else { return 0 };
    // Of two that come at once one takes it.
    if PENDING.remove(&key).is_err() {
        return 0;
    }
    if pending.spreads != 0 {
        carrier::make(&key, OBJECT_STREAM, pending.spreads);
        carrier::pour(&key, pending.bytes);
    }
    if pending.own != 0 {
        let sink = put::of_object(SINK_PROCESS, &key);
        put::count(&FlowKey { holder: pending.holder, assets: pending.assets, sink }, pending.own, None);
    }
    0
}

/// Counts what was sent into a connection by who sent last, for somebody else sends now.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_pending_before(dev_generation: u64, ino: u64) -> u32 {
    let key = ObjectKey { dev: (dev_generation >> 32) as u32, generation: dev_generation as u32, ino };
    let Some(row) = PENDING.get_ptr_mut(&key) else { return 0 };
    // SAFETY: the row stays valid until the program ends.
    let (holder, assets, own) = unsafe {
        let own = (*row).own;
        core::ptr::write_volatile(&raw mut (*row).own, 0);
        ((*row).holder, (*row).assets, own)
    };
    if own != 0 {
        let sink = put::of_object(SINK_PROCESS, &key);
        put::count(&FlowKey { holder, assets, sink }, own, None);
    }
    0
}

/// `sock` was closed: what waits for its other end waits no more.
#[inline(always)]
pub(crate) fn on_closed(sock: Sock) {
    flow_closed(sock.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_closed(sock: u64) -> u32 {
    let sock = Sock(sock);
    if peer(sock).is_some_and(|address| is_followed(&address))
        && let Some(mut key) = outgoing(sock)
    {
        // Its own port is gone from where it was.
        key.generation = u32::from(sock.last_port()) << 16 | u32::from(sock.peer_port());
        let _ = PENDING.remove(&key);
    }
    0
}

/// The carrier of what is sent through `sock`, wherever that leads.
#[inline(always)]
fn outgoing(sock: Sock) -> Option<ObjectKey> {
    match sock.family()? {
        AF_INET => {
            object::loopback(sock.own_v4()?, sock.peer_v4()?, sock.own_port(), sock.peer_port(), Some(true))
        }
        AF_INET6 => object::loopback_v6(sock, object::TO_NEIGHBOUR),
        _ => None,
    }
}

/// A process that spreads `assets` has `file`, whose bytes come out nowhere on this host as far as is known. A single call can
/// put gigabytes into a connection before its other end comes to be. Whether it is one of which that can be.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_expect(file: u64, assets: u64) -> u32 {
    u32::from(expect(File(file), assets).is_some())
}

#[inline(always)]
fn expect(file: File, assets: u64) -> Option<()> {
    if file.inode()?.kind()? != S_IFSOCK {
        return None;
    }
    let sock = file.socket()?;
    if !may_be_neighbour(sock) {
        return None;
    }
    note(&outgoing(sock)?, NOBODY, assets, assets, 0);
    Some(())
}

/// `task` sent `bytes` through `sock`.
#[inline(always)]
pub(crate) fn on_send(task: Task, sock: Sock, bytes: u64) {
    flow_pend(task.0, sock.0, bytes);
    if shared(SHARED_TUNNELS) != 0 && flow_tunnel(sock.0) != 0 {
        channel::on_put(task, &channel::class(CLASS_TUNNELS), bytes);
    }
}

/// Notes `bytes` that `task` sent into a connection that is so young that its other end can yet come to be on this host.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_pend(task: u64, sock: u64, bytes: u64) -> u32 {
    pend(Task(task), Sock(sock), bytes);
    0
}

#[inline(always)]
fn pend(task: Task, sock: Sock, bytes: u64) -> Option<()> {
    if !may_be_neighbour(sock) {
        return settled(sock);
    }
    let (holder, row) = hold::held(task)?;
    // SAFETY: the row stays valid until the program ends.
    let (assets, spreads) = unsafe { ((*row).assets, (*row).spreads) };
    let key = outgoing(sock)?;
    if !note(&key, holder, assets, spreads, bytes) {
        hold::feed_beyond(bytes);
    }
    // Its other end can have come to be meanwhile.
    if is_one(sock) {
        due(&key);
    }
    Some(())
}

/// What waited for the other end of a connection waits no more once that has acknowledged something from elsewhere: a server with many
/// clients there keeps no rows.
#[inline(always)]
fn settled(sock: Sock) -> Option<()> {
    if sock.protocol() == IPPROTO_TCP
        && peer(sock).is_some_and(|address| is_followed(&address) && !is_here(&address))
    {
        let key = outgoing(sock)?;
        if PENDING.get_ptr(&key).is_some() {
            let _ = PENDING.remove(&key);
        }
    }
    Some(())
}

/// Whether there was room.
#[inline(always)]
fn note(key: &ObjectKey, holder: HolderKey, assets: u64, spreads: u64, bytes: u64) -> bool {
    if let Some(row) = PENDING.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends. Of two that send into one connection at once either can stay as the
        // last.
        unsafe {
            if bytes != 0 && (*row).holder != holder {
                flow_pending_before(u64::from(key.dev) << 32 | u64::from(key.generation), key.ino);
                (*row).holder = holder;
            }
            join(&raw mut (*row).assets, assets);
            join(&raw mut (*row).spreads, spreads);
            add(&raw mut (*row).bytes, bytes);
            add(&raw mut (*row).own, bytes);
        }
        return true;
    }
    if PENDING.insert(key, &PendingValue { holder, assets, spreads, bytes, own: bytes }, 0).is_err() {
        lose(LOSS_OBJECTS_FULL, 1);
        return false;
    }
    true
}

/// Whether the peer of a TCP socket has an address that is looked at, and may yet come to be on this host.
#[inline(always)]
fn may_be_neighbour(sock: Sock) -> bool {
    sock.protocol() == IPPROTO_TCP
        && sock.is_unacknowledged()
        && peer(sock).is_some_and(|address| is_followed(&address) && !is_here(&address))
}

/// Whether a process may read what `sock` sends, because it serves the device.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_tunnel(sock: u64) -> u32 {
    let sock = Sock(sock);
    u32::from(sock.may_be_served() && named(sock).is_some_and(|address| is_followed(&address)))
}

/// The peer that the call named, or that the socket has.
#[inline(always)]
fn named(sock: Sock) -> Option<Address> {
    if let Some(found) = ADDRESS_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        let found = unsafe { &*found };
        if found.kind == SINK_PEER {
            let bytes = found.id;
            return Some(if found.dev == u32::from(AF_INET) {
                mapped([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                Address { bytes }
            });
        }
    }
    peer(sock)
}

/// A holder's thread handed `packet` to another device: a datagram to a port of a network that is looked at.
#[inline(always)]
pub(crate) fn on_packet(packet: Packet) {
    let handed = flow_handed(packet.0);
    if handed != 0 {
        channel::on_put(Task::current(), &looped::to_port((handed >> 32) as u16), handed & 0xffff_ffff);
    }
}

/// Port << 32 | bytes; 0 of what is no such datagram.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_handed(packet: u64) -> u64 {
    match Packet(packet).handed() {
        Some(handed) if is_followed(&handed.to) => u64::from(handed.port) << 32 | handed.bytes,
        _ => 0,
    }
}
