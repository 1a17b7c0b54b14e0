//! What comes back out of the socket that sent it: copies in its queue of errors (`MSG_ERRQUEUE`), and what it has not sent yet
//! (`TCP_REPAIR`). Who shares the socket with a holder reads it there.
//!
//! What holders send is noted by socket, in slots that sockets share when their addresses fall together: then what comes back
//! counts for all of them. Also whether anything ever waited in a socket: what is sent after it goes where that goes.

use agent_ebpf::{
    ANY_SOCKET, DEV_SENT, FlowKey, OBJECT_CHANNEL, ObjectKey, SENT_SLOTS, SINK_PROCESS, SentValue,
};

use super::{carrier, channel, hold, put};
use crate::{
    kernel::{AF_INET, AF_INET6, Sock, Task},
    maps::{SENT, add, join},
};

const MSG_PEEK: i32 = 2;
const MSG_ERRQUEUE: i32 = 0x2000;
const IPPROTO_TCP: u8 = 6;

/// Whether a receive with these flags may return what was sent.
#[inline(always)]
pub(crate) const fn may_return(flags: i32) -> bool {
    flags & (MSG_PEEK | MSG_ERRQUEUE) != 0
}

#[inline(always)]
fn slot(sock: Sock) -> Option<*mut SentValue> {
    // Of different sizes of sockets, which are at least 64 bytes apart.
    SENT.get_ptr_mut((sock.0 >> 6 ^ sock.0 >> 20) as u32 & (SENT_SLOTS - 1))
}

/// `task` sent `bytes` through `sock`; nothing happens unless its process is a holder.
#[inline(always)]
pub(crate) fn on_send(task: Task, sock: Sock, bytes: u64) {
    flow_sent(task.0, sock.0, bytes);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_sent(task: u64, sock: u64, bytes: u64) -> u32 {
    let sock = Sock(sock);
    // Sockets of other families keep no copies of what they sent.
    if !matches!(sock.family(), Some(AF_INET | AF_INET6)) {
        return 0;
    }
    let Some((holder, row)) = hold::held(Task(task)) else { return 0 };
    let Some(sent) = slot(sock) else { return 0 };
    // SAFETY: as below. What comes back can be any of theirs, so each is told to have put it there.
    if unsafe { (*sent).bytes != 0 && (*sent).holder != holder } {
        flow_sent_before(sock.0);
    }
    // SAFETY: rows stay valid until the program ends. Of two senders at once either can stay as the last.
    unsafe {
        let known = core::ptr::read_volatile(&raw const (*sent).sock);
        if known != sock.0 {
            core::ptr::write_volatile(&raw mut (*sent).sock, if known == 0 { sock.0 } else { ANY_SOCKET });
        }
        if (*sent).holder != holder {
            (*sent).holder = holder;
        }
        join(&raw mut (*sent).assets, (*row).assets);
        add(&raw mut (*sent).bytes, bytes);
    }
    0
}

/// A holder sent through `sock`. A piece without a byte names a receiver too, to which the others go.
#[inline(always)]
pub(crate) fn note_wait(sock: Sock) {
    if sock.is_udp()
        && sock.is_corked()
        && let Some(sent) = slot(sock)
    {
        // SAFETY: a slot of an array map.
        unsafe { core::ptr::write_volatile(&raw mut (*sent).corked, 1) };
    }
}

/// Whether what is sent through `sock` may go elsewhere than its call says, because something waited in it for that.
#[inline(always)]
pub(super) fn was_corked(sock: Sock) -> bool {
    match slot(sock) {
        // SAFETY: a slot of an array map.
        Some(sent) => unsafe { core::ptr::read_volatile(&raw const (*sent).corked) != 0 && sock.is_udp() },
        None => true,
    }
}

/// Tells of what was sent by who sent last, for somebody else sends now.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_sent_before(sock: u64) -> u32 {
    let sock = Sock(sock);
    let Some(sent) = slot(sock) else { return 0 };
    // SAFETY: a slot of an array map.
    let (holder, assets, bytes) = unsafe {
        core::ptr::write_volatile(&raw mut (*sent).several, 1);
        ((*sent).holder, (*sent).assets, (*sent).bytes)
    };
    let sink = put::of_object(SINK_PROCESS, &key(sock));
    put::at_least(&FlowKey { holder, assets, sink }, bytes, 0);
    0
}

/// `task` received `bytes` from `sock` with these flags, see [`may_return`].
#[inline(always)]
pub(crate) fn on_receive(task: Task, sock: Sock, bytes: u64, flags: i32) {
    if flags & MSG_ERRQUEUE == 0 && !(sock.protocol() == IPPROTO_TCP && sock.is_repaired()) {
        return;
    }
    if flow_return(task.0, sock.0) != 0 {
        channel::on_take(task, &key(sock), bytes);
    }
}

#[inline(always)]
const fn key(sock: Sock) -> ObjectKey {
    ObjectKey { dev: DEV_SENT, generation: 0, ino: sock.0 }
}

/// Makes a carrier of what another process sent through `sock`; whether there is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_return(task: u64, sock: u64) -> u32 {
    let sock = Sock(sock);
    let Some(sent) = slot(sock) else { return 0 };
    // SAFETY: a slot of an array map, copied out at once.
    let sent = unsafe { *sent };
    if sent.sock != sock.0 && sent.sock != ANY_SOCKET {
        return 0;
    }
    // What he alone sent he has already.
    if sent.several == 0 && Task(task).holder_key() == Some(sent.holder) {
        return 0;
    }
    let key = key(sock);
    carrier::make(&key, OBJECT_CHANNEL, sent.assets);
    carrier::raise(&key, sent.bytes);
    let sink = put::of_object(SINK_PROCESS, &key);
    put::at_least(&FlowKey { holder: sent.holder, assets: sent.assets, sink }, sent.bytes, 0);
    1
}
