//! `tp_btf/inet_sock_set_state`: TCP connections that come to be and end, of all network namespaces.
//!
//! Kernel prototype: `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
//! (`include/trace/events/sock.h`, BTF since 5.5); often in a softirq, so that the running task says nothing. Misses: connections
//! that are older than the agent, whose sockets the scan finds.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{flow::neighbour, kernel::Sock};

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    const ESTABLISHED: i32 = 1;
    const CLOSED: i32 = 7;
    let state: i32 = ctx.arg(2);
    match state {
        ESTABLISHED => neighbour::on_connected(Sock(word(&ctx, 0))),
        CLOSED => neighbour::on_closed(Sock(word(&ctx, 0))),
        _ => {}
    }
    0
}
