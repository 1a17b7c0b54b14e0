//! What the kernel tells objects apart by.

use std::fmt;

/// A kernel identity of a file, directory, pipe or socket: never a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// `super_block.s_dev` in the kernel's own encoding (12 bits major, 20 bits minor).
    pub dev: Dev,
    /// `inode.i_ino`.
    pub ino: u64,
    /// `inode.i_generation`; 0 where the filesystem has none.
    pub generation: u32,
}

/// A device number in the kernel's own encoding (`MKDEV`: major << 20 | minor). Prints as `8:16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(pub u32);

impl Dev {
    /// From a `major:minor` pair as `/proc/self/mountinfo` and sysfs print it.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self(major << 20 | (minor & 0xf_ffff))
    }

    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 >> 20
    }

    #[must_use]
    pub const fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}
