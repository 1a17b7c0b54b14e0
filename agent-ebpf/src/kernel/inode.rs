//! Inodes and the names that lead to them.

use agent_ebpf::{ObjectKey, fields::*};

use super::{EROFS_MAGIC, File, OVERLAYFS_MAGIC, S_IFMT, Superblock, field, pointer};

/// `1 << OVL_UPPERDATA` (`enum ovl_inode_flag`).
const UPPER_DATA: u64 = 1 << 3;

/// An inode with its superblock. Each read of the kernel's memory is a call, so that what was read once is kept.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) inode: Inode,
    superblock: u64,
    /// Of its filesystem.
    pub(crate) magic: u64,
}

impl Known {
    #[inline(always)]
    pub(crate) fn key(self) -> Option<ObjectKey> {
        Some(ObjectKey {
            dev: field(self.superblock, &SB_DEV)?,
            generation: field(self.inode.0, &INODE_GENERATION)?,
            ino: field(self.inode.0, &INODE_INO)?,
        })
    }

    /// The file that its filesystem lies in, if that is mounted without a block device (`struct erofs_sb_info`, 6.12).
    #[inline(always)]
    pub(crate) fn image(self) -> Option<File> {
        if self.magic != EROFS_MAGIC || EROFS_FILE.load() == ABSENT {
            return None;
        }
        pointer(pointer(self.superblock, &SB_OWN)?, &EROFS_FILE).map(File)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) u64);

/// Names of a file of an overlay below it.
pub(crate) struct Layers {
    /// In the upper layer.
    pub(crate) upper: Option<Dentry>,
    /// Of its data in a lower one.
    pub(crate) lower: Option<Dentry>,
    /// Whether the upper layer has its data, and not only what is said of it (`metacopy=on`).
    pub(crate) has_data: bool,
    /// Stands for its lower layers; 0 where it has none, or is not made yet.
    pub(crate) lowers: u64,
}

/// `own` is the address of a `struct ovl_inode`.
#[inline(always)]
fn lower_data(own: u64) -> Option<Dentry> {
    /// Lower layers of one mount (`OVL_MAX_STACK`).
    const LAYERS: u32 = 500;
    /// Bytes of a `struct ovl_path`: a layer, and the name in it.
    const PATH: u64 = 16;
    let entry = pointer(own, &OVL_INODE_ENTRY)?;
    let count = field::<u32>(entry, &OVL_ENTRY_COUNT)?;
    if count == 0 || count > LAYERS || OVL_ENTRY_STACK.load() == ABSENT {
        return None;
    }
    // The last one has the data: those before it can be metadata only.
    let last = entry + u64::from(OVL_ENTRY_STACK.load()) + u64::from(count - 1) * PATH;
    pointer(last, &OVL_PATH_DENTRY).map(Dentry)
}

impl Inode {
    #[inline(always)]
    pub(crate) fn kind(self) -> Option<u32> {
        field::<u16>(self.0, &INODE_MODE).map(|mode| u32::from(mode) & S_IFMT)
    }

    #[inline(always)]
    pub(crate) fn known(self) -> Option<Known> {
        let superblock = pointer(self.0, &INODE_SB)?;
        Some(Known { inode: self, superblock, magic: field(superblock, &SB_MAGIC)? })
    }

    #[inline(always)]
    pub(crate) fn key(self) -> Option<ObjectKey> {
        Some(ObjectKey {
            dev: field(pointer(self.0, &INODE_SB)?, &SB_DEV)?,
            generation: field(self.0, &INODE_GENERATION)?,
            ino: field(self.0, &INODE_INO)?,
        })
    }

    #[inline(always)]
    pub(crate) fn magic(self) -> Option<u64> {
        field(pointer(self.0, &INODE_SB)?, &SB_MAGIC)
    }

    /// Whether some process has it mapped.
    #[inline(always)]
    pub(crate) fn is_mapped(self) -> bool {
        pointer(self.0, &INODE_MAPPING).is_none_or(|mapping| pointer(mapping, &MAPPING_TREE).is_some())
    }

    /// Of an inode of an overlay: where its layers have it. 6.5 and later.
    #[inline(always)]
    pub(crate) fn overlay_layers(self) -> Option<Layers> {
        if OVL_INODE_VFS.load() == ABSENT || self.magic()? != OVERLAYFS_MAGIC {
            return None;
        }
        let own = self.0 - u64::from(OVL_INODE_VFS.load());
        let upper = pointer(own, &OVL_INODE_UPPER).map(Dentry);
        Some(Layers {
            upper,
            lower: lower_data(own),
            has_data: field::<u64>(own, &OVL_INODE_FLAGS).is_none_or(|flags| flags & UPPER_DATA != 0),
            lowers: pointer(own, &OVL_INODE_ENTRY).unwrap_or(0),
        })
    }

    #[inline(always)]
    pub(crate) fn superblock(self) -> Option<Superblock> {
        pointer(self.0, &INODE_SB).map(Superblock)
    }

    #[inline(always)]
    pub(crate) fn number(self) -> Option<u64> {
        field(self.0, &INODE_INO)
    }

    #[inline(always)]
    pub(crate) fn rdev(self) -> Option<u32> {
        field(self.0, &INODE_RDEV)
    }

    #[inline(always)]
    pub(crate) fn size(self) -> u64 {
        field(self.0, &INODE_SIZE).unwrap_or(0)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Dentry(pub(crate) u64);

impl Dentry {
    /// `None` at the root of its filesystem.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        let parent = pointer(self.0, &DENTRY_PARENT)?;
        if parent == self.0 { None } else { Some(Self(parent)) }
    }

    #[inline(always)]
    pub(crate) fn name(self) -> Option<u64> {
        pointer(self.0, &DENTRY_NAME)
    }

    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        pointer(self.0, &DENTRY_INODE).map(Inode)
    }
}
