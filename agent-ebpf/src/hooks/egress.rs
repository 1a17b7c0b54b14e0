//! `cgroup_skb/egress` on the root of the cgroup2 hierarchy: every IP packet that a socket of this host sends.
//!
//! Runs in `ip_finish_output` and `ip6_finish_output` (4.10 and later) on packets of sockets in all network namespaces, before
//! segmentation and fragmentation, retransmissions included; often in a softirq, so that the running task says nothing. The
//! packet begins at its IP header. Misses: what is forwarded for others, AF_PACKET, AF_XDP, RDMA and other ways past IP.

use agent_ebpf::egress::{
    COUNTED, FRAME_EXTRA, NETWORK_V4, NETWORK_V6, PeerKey, PeerValue, REST, SCALE_BYTES, SCALE_FRAMES,
    SCALE_LOCAL, SCALE_REST, SCALE_UNREAD, SMALLEST_MTU,
};
use aya_ebpf::{macros::cgroup_skb, maps::HashMap, programs::SkBuffContext};

use crate::{
    flow::now,
    maps::{HALF, NETWORKS, PEERS, REST_OF, SCALE, add},
};

/// `LOOPBACK_IFINDEX`: in every network namespace the loopback interface is the first.
const LOOPBACK: u32 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Of the destination in `struct iphdr` and `struct ipv6hdr`.
const DESTINATION_V4: usize = 16;
const DESTINATION_V6: usize = 24;
/// Whatever is concluded, the packet goes on.
const PASS: i32 = 1;

#[cgroup_skb(egress)]
pub(crate) fn cgroup_skb_egress(ctx: SkBuffContext) -> i32 {
    sent(&ctx);
    PASS
}

#[inline(always)]
fn sent(ctx: &SkBuffContext) {
    let bytes = u64::from(ctx.len());
    // SAFETY: fields of the program's own context, which the verifier checks.
    let (interface, protocol, segments) =
        unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).protocol, (*ctx.skb.skb).gso_segs) };
    if interface == LOOPBACK {
        weigh(SCALE_LOCAL, bytes);
        return;
    }
    let segments = core::cmp::max(u64::from(segments), bytes / SMALLEST_MTU + 1);
    weigh(SCALE_BYTES, bytes);
    weigh(SCALE_FRAMES, bytes + segments * FRAME_EXTRA);
    let mut key = PeerKey { address: [0, 0, 0, 0], prefix: 128, half: half() };
    match u16::from_be(protocol as u16) {
        ETH_P_IP => {
            let Ok(v4) = ctx.load::<u32>(DESTINATION_V4) else { return unread(bytes) };
            key.address[2] = 0xffff_u32.to_be();
            key.address[3] = v4;
            if count(&PEERS, &key, bytes) {
                return;
            }
            key.address[3] = v4 & 0xffff_ff00_u32.to_be();
            key.prefix = NETWORK_V4;
            if !count(&NETWORKS, &key, bytes) {
                rest((u32::from_be(v4) >> 24) as usize, bytes);
            }
        }
        ETH_P_IPV6 => {
            let Ok(v6) = ctx.load::<[u32; 4]>(DESTINATION_V6) else { return unread(bytes) };
            key.address = v6;
            if count(&PEERS, &key, bytes) {
                return;
            }
            key.address[1] = v6[1] & 0xffff_0000_u32.to_be();
            key.address[2] = 0;
            key.address[3] = 0;
            key.prefix = NETWORK_V6;
            if !count(&NETWORKS, &key, bytes) {
                rest(256 + (u32::from_be(v6[0]) >> 24) as usize, bytes);
            }
        }
        _ => unread(bytes),
    }
}

/// Adds to a row; whether there was one or room for one.
#[inline(always)]
fn count(map: &HashMap<PeerKey, PeerValue>, key: &PeerKey, bytes: u64) -> bool {
    if map.get_ptr(key).is_none() {
        // That another CPU was first is no matter, nor why it failed: what counts is whether there is a row now.
        let _ = map.insert(key, &PeerValue { bytes: 0, last: 0 }, 1);
    }
    let Some(row) = map.get_ptr_mut(key) else { return false };
    // SAFETY: the row stays valid until the program ends; `last` is a hint, torn by nobody on 64-bit machines.
    unsafe {
        add(&raw mut (*row).bytes, bytes);
        (*row).last = now();
    }
    true
}

/// Adds to the row that has room for all.
#[inline(always)]
fn rest(index: usize, bytes: u64) {
    weigh(SCALE_REST, bytes);
    if let Some(rows) = REST_OF.get_ptr_mut(COUNTED)
        && index < REST
    {
        // SAFETY: a word within the array.
        unsafe { add((rows as *mut u64).add(index), bytes) };
    }
}

#[inline(always)]
fn unread(bytes: u64) {
    weigh(SCALE_UNREAD, bytes);
}

/// Adds to a word of `SCALE`. Not one for each CPU: a softirq can come between the two halves of an addition.
#[inline(always)]
fn weigh(word: usize, bytes: u64) {
    if let Some(words) = SCALE.get_ptr_mut(COUNTED) {
        // SAFETY: a word within the array.
        unsafe { add((words as *mut u64).add(word), bytes) };
    }
}

#[inline(always)]
fn half() -> u32 {
    match HALF.get_ptr(0) {
        // SAFETY: a word of an array map, read once.
        Some(word) => unsafe { core::ptr::read_volatile(word) as u32 & 1 },
        None => 0,
    }
}
