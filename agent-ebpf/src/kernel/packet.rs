//! A UDP datagram on its way to another network namespace, as the device of this one hands it over.

use agent_ebpf::{Address, fields::*};

use super::{Packet, field, pointer, read};

/// Where it goes, and how much: of one that is cut into fragments the first tells of all.
pub(crate) struct Handed {
    pub(crate) to: Address,
    pub(crate) port: u16,
    pub(crate) bytes: u64,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn handed(self) -> Option<Handed> {
        const IPPROTO_UDP: u8 = 17;
        const IPPROTO_UDPLITE: u8 = 136;
        /// Most that a datagram carries.
        const LONGEST: u64 = 65_527;
        let head = pointer(self.0, &SKB_HEAD)?;
        let network = head + u64::from(field::<u16>(self.0, &SKB_NETWORK)?);
        let first: u8 = read(network);
        let (to, (protocol, headers)) = match first >> 4 {
            // Its offset among the fragments is 0.
            4 if u16::from_be(read(network + 6)) & 0x1fff == 0 => {
                let to = mapped(read::<u32>(network + 16).to_ne_bytes());
                (to, (read(network + 9), u64::from(first & 15) * 4))
            }
            6 => {
                let [high, low]: [u64; 2] = [read(network + 24), read(network + 32)].map(u64::from_be);
                let to = u128::from(high) << 64 | u128::from(low);
                (Address { bytes: to.to_be_bytes() }, first_of_v6(network, read(network + 6))?)
            }
            _ => return None,
        };
        if protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE {
            return None;
        }
        // Source port, destination port, length with this header.
        let udp = network + headers;
        let length = u16::from_be(read(udp + 4));
        // Of UDP-Lite it is what the sum covers.
        let bytes = if protocol == IPPROTO_UDPLITE { LONGEST } else { u64::from(length).saturating_sub(8) };
        Some(Handed { to, port: u16::from_be(read(udp + 2)), bytes })
    }
}

/// (protocol, bytes before it) behind the header at `network`: past that of a first fragment.
#[inline(always)]
fn first_of_v6(network: u64, next: u8) -> Option<(u8, u64)> {
    const HEADER: u64 = 40;
    const FRAGMENT: u8 = 44;
    if next != FRAGMENT {
        return Some((next, HEADER));
    }
    // Next header, reserved, offset and flags.
    let fragment = network + HEADER;
    let is_first = u16::from_be(read(fragment + 2)) & 0xfff8 == 0;
    if is_first { Some((read(fragment), HEADER + 8)) } else { None }
}

/// An address of IPv4 as one of IPv6.
#[inline(always)]
pub(crate) fn mapped(v4: [u8; 4]) -> Address {
    let mut bytes = [0; 16];
    (bytes[10], bytes[11]) = (0xff, 0xff);
    bytes[12..].copy_from_slice(&v4);
    Address { bytes }
}
