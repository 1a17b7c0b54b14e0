//! `tp_btf/netif_rx`: packets that a virtual device hands back to this host, and this host's copies of what goes to many.
//!
//! Kernel prototype: `void netif_rx(struct sk_buff *skb)` (`include/trace/events/net.h`, BTF since 5.5). The loopback device
//! calls it in the context of whoever sends; cards with interrupts of their own do not pass here. Misses: nothing that counts,
//! for a datagram that is not seen here counts as one that left.

use agent_ebpf::MARK_HOLDER;
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, programs::BtfTracePointContext};

use super::word;
use crate::{flow::looped::on_packet, kernel::Packet, maps::marks};

#[btf_tracepoint(function = "netif_rx")]
pub(crate) fn netif_rx(ctx: BtfTracePointContext) -> i32 {
    if marks((bpf_get_current_pid_tgid() >> 32) as u32) & MARK_HOLDER != 0 {
        on_packet(Packet(word(&ctx, 0)));
    }
    0
}
