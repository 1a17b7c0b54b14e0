//! `tp_btf/sock_send_length` and `tp_btf/sock_recv_length`: bytes that a socket accepted or gave, however they were moved.
//!
//! Kernel prototypes: `void sock_send_length(struct sock *sk, int ret, int flags)`, `void sock_recv_length(struct sock *sk, int
//! ret, int flags)` (`net/socket.c`, 6.3 and later). They see send, sendto, sendmsg, sendmmsg, write on a socket, sendfile and
//! splice to one, recv, recvfrom, recvmsg, recvmmsg, read on a socket, by either ABI, and io_uring, with the count that the
//! protocol returned: no user memory, no descriptor. Misses: sends of the kernel's own (NFS), AF_XDP, RDMA, splice from a
//! socket (`sys_exit` and `uring` see that).

use agent_ebpf::{MARK_HOLDER, MARK_WATCHED};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{
    flow::{carrier, gpu, memory, returned, send::on_send, space, take::on_receive},
    kernel::{Sock, Task},
    maps::{mark, marks},
};

#[btf_tracepoint(function = "sock_send_length")]
pub(crate) fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    let sent: i32 = ctx.arg(1);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut marks = marks(tgid);
    if memory::suspect(Task::current(), marks) {
        marks |= MARK_HOLDER | MARK_WATCHED;
    }
    if space::may_bring(marks) {
        marks = space::bring(Task::current(), tgid);
    }
    if sent >= 0 && marks & (MARK_HOLDER | MARK_WATCHED) != 0 {
        let sock = Sock(word(&ctx, 0));
        if marks & MARK_HOLDER != 0 {
            if sent > 0 {
                on_send(Task::current(), sock, sent as u64);
            }
            returned::note_wait(sock);
        }
        carrier::pass_descriptors(sock);
    }
    0
}

#[btf_tracepoint(function = "sock_recv_length")]
pub(crate) fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    let received: i32 = ctx.arg(1);
    if received < 0 {
        return 0;
    }
    let sock = Sock(word(&ctx, 0));
    let flags: i32 = ctx.arg(2);
    if received > 0 && returned::may_return(flags) {
        returned::on_receive(Task::current(), sock, received as u64, flags);
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let marks = marks(tgid);
    if gpu::are_there() && carrier::may_bring_descriptors(sock) {
        // Whether a GPU's is among them is for the next scan to see.
        carrier::unsettle();
    }
    if marks & (MARK_HOLDER | MARK_WATCHED) == 0 {
        // Descriptors may have come with it, which are not looked at one by one: who received from where they may come is
        // watched from then on.
        if carrier::may_bring_descriptors(sock) {
            mark(tgid, MARK_WATCHED);
        } else if !carrier::unsettled() {
            return 0;
        }
    }
    let task = Task::current();
    if marks & MARK_HOLDER != 0 && carrier::may_bring_descriptors(sock) {
        // They can be written into as well.
        carrier::reach(task);
    }
    on_receive(task, sock, received as u64);
    0
}
