//! `tp_btf/sock_send_length`: bytes that a socket accepted, however they were sent.
//!
//! Kernel prototype: `void sock_send_length(struct sock *sk, int ret, int flags)` (`net/socket.c`, 6.3 and later). Sees send,
//! sendto, sendmsg, sendmmsg, write on a socket, sendfile and splice to one, and io_uring sends, with the count that the
//! protocol returned: no user memory, no descriptor. Misses: sends of the kernel's own (NFS), AF_XDP, RDMA.

use agent_ebpf::{MARK_HOLDER, MARK_MAPPED, MARK_WATCHED};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{
    flow::{carrier, memory, send::on_send},
    kernel::{Sock, Task},
    maps::marks,
};

#[btf_tracepoint(function = "sock_send_length")]
pub(crate) fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sent: i32 = ctx.arg(1);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut marks = marks(tgid);
    if marks & (MARK_MAPPED | MARK_HOLDER) == MARK_MAPPED && memory::suspect(Task::current()) {
        marks |= MARK_HOLDER | MARK_WATCHED;
    }
    if sent >= 0 && marks & (MARK_HOLDER | MARK_WATCHED) != 0 {
        let sock = Sock(word(&ctx, 0));
        if sent > 0 && marks & MARK_HOLDER != 0 {
            on_send(Task::current(), sock, sent as u64);
        }
        carrier::pass_descriptors(sock);
    }
    0
}
