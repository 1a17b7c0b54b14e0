//! Sockets, and packets on their way.

use agent_ebpf::fields::*;
use aya_ebpf::Global;

use super::{field, pointer, read};

pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const AF_NETLINK: u16 = 16;
pub(crate) const AF_PACKET: u16 = 17;
pub(crate) const AF_VSOCK: u16 = 40;

#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) u64);

impl Sock {
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        field(self.0, &SOCK_FAMILY)
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u8 {
        field::<u16>(self.0, &SOCK_PROTOCOL).unwrap_or(0) as u8
    }

    /// A datagram socket; one whose type cannot be read counts as one.
    #[inline(always)]
    pub(crate) fn is_datagram(self) -> bool {
        const SOCK_DGRAM: u16 = 2;
        field::<u16>(self.0, &SOCK_TYPE).is_none_or(|kind| kind == SOCK_DGRAM)
    }

    /// A socket of a device or of a whole protocol.
    #[inline(always)]
    pub(crate) fn is_raw(self) -> bool {
        const SOCK_RAW: u16 = 3;
        field::<u16>(self.0, &SOCK_TYPE) == Some(SOCK_RAW)
    }

    /// UDP or UDP-Lite, of either family.
    #[inline(always)]
    pub(crate) fn is_udp(self) -> bool {
        let protocol = self.protocol();
        matches!(self.family(), Some(AF_INET | AF_INET6)) && (protocol == 17 || protocol == 136)
    }

    /// Peer's port, host order.
    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        field::<u16>(self.0, &SOCK_DPORT).map_or(0, u16::from_be)
    }

    /// Own port, host order. A connection that is over has it where it was said to the peer only, and what waits in it can be read yet.
    #[inline(always)]
    pub(crate) fn own_port(self) -> u16 {
        match field(self.0, &SOCK_SPORT).unwrap_or(0) {
            0 => self.last_port(),
            port => port,
        }
    }

    #[inline(always)]
    pub(crate) fn peer_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_DADDR).map(u32::to_ne_bytes)
    }

    #[inline(always)]
    pub(crate) fn own_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_SADDR).map(u32::to_ne_bytes)
    }

    /// The peer's address as a number, its first byte on top.
    #[inline(always)]
    pub(crate) fn peer_v6(self) -> Option<u128> {
        v6(self.0, &SOCK_V6_DADDR)
    }

    #[inline(always)]
    pub(crate) fn own_v6(self) -> Option<u128> {
        v6(self.0, &SOCK_V6_SADDR)
    }

    #[inline(always)]
    pub(crate) fn unix_peer(self) -> Option<Self> {
        pointer(self.0, &UNIX_PEER).map(Self)
    }

    /// Whether the kernel routes what it sends to this host itself; `None` when it has no route now.
    ///
    /// The device of the route that the socket keeps (`sk_dst_cache`), which is the loopback device for 127.0.0.0/8, ::1 and
    /// every address of the host's own, whichever source was chosen. Rests on `ip_route_output_key_hash_rcu` and
    /// `ip6_rt_get_dev_rcu`, 5.10 to 7.2.
    #[inline(always)]
    pub(crate) fn stays_here(self) -> Option<bool> {
        Device(pointer(pointer(self.0, &SOCK_DST)?, &DST_DEV)?).is_loopback()
    }

    /// Whether what it sends may come to a device without hardware, which a process or another namespace may be behind; so it is
    /// where it has no route now.
    #[inline(always)]
    pub(crate) fn may_be_served(self) -> bool {
        match pointer(self.0, &SOCK_DST) {
            Some(route) => {
                pointer(route, &DST_DEV).is_none_or(|device| pointer(device, &DEVICE_PARENT).is_none())
            }
            None => true,
        }
    }

    /// Whether something waits in it for what will be sent after it (`UDP_CORK`, `MSG_MORE`), which goes where that goes, whatever it
    /// names. For UDP only.
    #[inline(always)]
    pub(crate) fn is_corked(self) -> bool {
        field::<u32>(self.0, &UDP_PENDING).is_none_or(|family| family != 0)
    }

    /// Whether the peer has acknowledged nothing but that there is a connection (`tcp_sock.bytes_acked`, which counts the SYN on
    /// some paths). For TCP only.
    #[inline(always)]
    pub(crate) fn is_unacknowledged(self) -> bool {
        field::<u64>(self.0, &TCP_ACKED).is_none_or(|bytes| bytes <= 1)
    }

    /// Whether it was last asked for what it is to send yet (`TCP_REPAIR_QUEUE`). For TCP only.
    #[inline(always)]
    pub(crate) fn is_repaired(self) -> bool {
        const TCP_SEND_QUEUE: u8 = 2;
        field::<u8>(self.0, &TCP_REPAIR_QUEUE).is_none_or(|queue| queue == TCP_SEND_QUEUE)
    }

    /// Own port of a socket that has just been closed, host order.
    #[inline(always)]
    pub(crate) fn last_port(self) -> u16 {
        field::<u16>(self.0, &INET_SPORT).map_or(0, u16::from_be)
    }

    #[inline(always)]
    pub(crate) fn vsock_own_port(self) -> Option<u32> {
        field(self.0, &VSOCK_OWN_PORT)
    }

    /// (context id, port) of a vsock peer.
    #[inline(always)]
    pub(crate) fn vsock_peer(self) -> Option<(u32, u32)> {
        Some((field(self.0, &VSOCK_CID)?, field(self.0, &VSOCK_PORT)?))
    }
}

/// In two words, which need no stack.
#[inline(always)]
fn v6(base: u64, offset: &Global<u32>) -> Option<u128> {
    let offset = offset.load();
    if offset == ABSENT {
        return None;
    }
    let at = base + u64::from(offset);
    let [high, low] = [read::<u64>(at), read(at + 8)].map(u64::from_be);
    Some(u128::from(high) << 64 | u128::from(low))
}

/// A network device.
#[derive(Clone, Copy)]
struct Device(u64);

impl Device {
    #[inline(always)]
    fn is_loopback(self) -> Option<bool> {
        const IFF_LOOPBACK: u32 = 8;
        field::<u32>(self.0, &DEVICE_FLAGS).map(|flags| flags & IFF_LOOPBACK != 0)
    }
}

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet(pub(crate) u64);

/// A UDP datagram in one packet, ports in host order.
pub(crate) struct Datagram {
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    pub(crate) bytes: u64,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn is_on_loopback(self) -> Option<bool> {
        Device(pointer(self.0, &SKB_DEV)?).is_loopback()
    }

    /// Whether it is the copy for this host of one that leaves to many (`dev_loopback_xmit`): broadcast and multicast.
    #[inline(always)]
    pub(crate) fn is_own_copy(self) -> bool {
        /// The first three bits of what is at `__pkt_type_offset`.
        const KINDS: u8 = 7;
        const PACKET_LOOPBACK: u8 = 5;
        field::<u8>(self.0, &SKB_KIND).is_some_and(|kind| kind & KINDS == PACKET_LOOPBACK)
    }

    /// The UDP datagram in it, if it is whole. One with extension headers is none.
    #[inline(always)]
    pub(crate) fn datagram(self) -> Option<Datagram> {
        const IPPROTO_UDP: u8 = 17;
        const IPPROTO_UDPLITE: u8 = 136;
        let head = pointer(self.0, &SKB_HEAD)?;
        let network = u64::from(field::<u16>(self.0, &SKB_NETWORK)?);
        let transport = u64::from(field::<u16>(self.0, &SKB_TRANSPORT)?);
        let ip = head + network;
        let protocol: u8 = match read::<u8>(ip) >> 4 {
            // No fragment, not even the first of some.
            4 if u16::from_be(read(ip + 6)) & 0x3fff == 0 => read(ip + 9),
            6 => read(ip + 6),
            _ => return None,
        };
        if protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE {
            return None;
        }
        let ports = head + transport;
        let headers = transport.checked_sub(network)? + 8;
        Some(Datagram {
            from_port: u16::from_be(read(ports)),
            to_port: u16::from_be(read(ports + 2)),
            bytes: u64::from(field::<u32>(self.0, &SKB_LEN)?).checked_sub(headers)?,
        })
    }
}
