//! The ABI of the host-wide scale: what the whole host sent, by remote address, whoever sent it.
//!
//! As the rest of the ABI: plain integers only, checked by user space. It must not know what is controlled.

/// A row of `PEERS` or `NETWORKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// IPv6, or IPv4 mapped into it, as four words in the order of the bytes; bits beyond `prefix` are zero.
    pub address: [u32; 4],
    /// Leading bits that count: 128 for one address.
    pub prefix: u32,
    /// 0 or 1, the word of `HALF` as of the packet: user space reads and removes the rows of the half that is not in use, so that no byte
    /// is added to a row between its reading and its removal.
    pub half: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerValue {
    /// IP packets as the sockets made them, before segmentation: headers once, retransmissions again.
    pub bytes: u64,
    /// ns since boot of the newest.
    pub last: u64,
}

/// Leading bits of a row of `NETWORKS`, where addresses go that find no room in `PEERS`: /24 and /48.
pub const NETWORK_V4: u32 = 96 + 24;
pub const NETWORK_V6: u32 = 48;
/// Leading bits of a word of `REST_OF`, which has room for all: /8 of either.
pub const REST_V4: u32 = 96 + 8;
pub const REST_V6: u32 = 8;
/// Words of `REST_OF`: the first byte of an IPv4 address, and 256 + that of an IPv6 address.
pub const REST: usize = 512;

/// Rows of `SCALE` and `REST_OF`: what programs counted, and how much of it was told of and kept (user space), from which a
/// later agent goes on.
pub const COUNTED: u32 = 0;
pub const KEPT: u32 = 1;
pub const SUMS: u32 = 2;

/// Words of `SCALE`.
/// Bytes that left through another interface than the loopback.
pub const SCALE_BYTES: usize = 0;
/// What they can at most have become as frames on the wire: headers again for each segment, and those of the link and of
/// tunnels ([`FRAME_EXTRA`]).
pub const SCALE_FRAMES: usize = 1;
/// Bytes that stayed on the loopback interface of their network namespace.
pub const SCALE_LOCAL: usize = 2;
/// Bytes that are in `REST`.
pub const SCALE_REST: usize = 3;
/// Bytes of packets that could not be read, or that are neither IPv4 nor IPv6.
pub const SCALE_UNREAD: usize = 4;
pub const SCALE_WORDS: usize = 5;

/// Bytes that one segment can gain below IP: its own IP and TCP headers (at most 100), Ethernet with two tags (22), and a
/// tunnel of about 40.
pub const FRAME_EXTRA: u64 = 160;
/// A smaller MTU than this is not reckoned with.
pub const SMALLEST_MTU: u64 = 1280;
