//! Superblocks: all mounted filesystems, and the inodes in memory of each.
//!
//! Their lists are read without the kernel's locks: what is taken off one points to itself, and who walks has to notice.

use agent_ebpf::fields::*;

use super::{Inode, OVERLAYFS_MAGIC, field, pointer, read};

/// Bytes of a `struct ovl_sb`, which begins with its superblock (`fs/overlayfs/ovl_entry.h`).
const LAYER: u64 = 16;

#[derive(Clone, Copy)]
pub(crate) struct Superblock(pub(crate) u64);

impl Superblock {
    /// The one behind it in the list of all; the last comes before the first, with the list's own head between them, which reads as
    /// one of no kind.
    #[inline(always)]
    pub(crate) fn next(self) -> Option<Self> {
        Some(Self(pointer(self.0, &SB_LIST)?.wrapping_sub(u64::from(SB_LIST.load()))))
    }

    #[inline(always)]
    pub(crate) fn device(self) -> Option<u32> {
        field(self.0, &SB_DEV)
    }

    #[inline(always)]
    pub(crate) fn is_overlay(self) -> bool {
        field::<u64>(self.0, &SB_MAGIC) == Some(OVERLAYFS_MAGIC)
    }

    /// Of an overlay: the filesystem of one of its layers, counted from that of the upper one, which it need not have.
    #[inline(always)]
    pub(crate) fn layer(self, index: u32) -> Option<Self> {
        let own = pointer(self.0, &SB_OWN)?;
        let layers = pointer(own, &OVL_FS_ALL)?;
        match read(layers + u64::from(index) * LAYER) {
            0 => None,
            found => Some(Self(found)),
        }
    }

    /// Of an overlay: how many filesystems its layers are on.
    #[inline(always)]
    pub(crate) fn layers(self) -> Option<u32> {
        field(pointer(self.0, &SB_OWN)?, &OVL_FS_COUNT)
    }

    /// The head of the list of its inodes, the newest first (`inode_sb_list_add`).
    #[inline(always)]
    pub(crate) fn inodes(self) -> Link {
        Link(self.0 + u64::from(SB_INODES.load()))
    }
}

/// A link of the list of a superblock's inodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link(pub(crate) u64);

impl Link {
    #[inline(always)]
    pub(crate) fn next(self) -> Self {
        Self(read(self.0))
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Inode {
        Inode(self.0.wrapping_sub(u64::from(INODE_LINK.load())))
    }
}
