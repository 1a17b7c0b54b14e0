//! The ABI of what is known of overlays whose layers can have assets. As the rest of the ABI it must not know how either side works.

/// Overlays that are looked at.
pub const OVERLAYS: u32 = 256;
/// Files of assets that overlays may copy.
pub const COPYABLES: u32 = 1024;
/// Inodes that are remembered of each overlay.
pub const KNOWN: usize = 8;

/// An overlay with an upper layer, and with one on a filesystem that stores an asset.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layered {
    /// Address of its `struct super_block`.
    pub superblock: u64,
    /// When it was last seen among the mounted filesystems, ns since boot.
    pub seen: u64,
    /// Not 0 until its inodes were looked at once: what was copied by then, was before anybody looked.
    pub is_new: u64,
    /// `SHARED_LAYERS_MADE` when it was walked last: `known` holds for that.
    pub made: u64,
    /// Inodes behind which all others of its list were looked at, as hashes of what they are; the newest first.
    pub known: [u64; KNOWN],
}
