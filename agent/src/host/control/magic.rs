//! Filesystems by `super_block.s_magic`. It must not know what is listed.

/// What a magic number says of a filesystem.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Used where no mount tells a better one.
    pub(super) name: &'static str,
    /// Its files live in memory only (they may be swapped out, which `doctor` warns of).
    pub(super) is_memory: bool,
}

/// `None` for one that is not known.
pub(super) fn kind(magic: u32) -> Option<Kind> {
    let (_, name, is_memory) = *KINDS.iter().find(|(known, ..)| *known == magic)?;
    Some(Kind { name, is_memory })
}

/// The number, the name, and whether it lives in memory.
const KINDS: &[(u32, &str, bool)] = &[
    (0x0102_1994, "tmpfs", true),
    (0x8584_58f6, "ramfs", true),
    (0x9584_58f6, "hugetlbfs", true),
    (0x5345_434d, "secretmem", true),
    (0xef53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683e, "btrfs", false),
    (0x4d44, "vfat", false),
    (0x2011_bab0, "exfat", false),
    (0x7366_746e, "ntfs3", false),
    (0xf2f5_2010, "f2fs", false),
    (0x2fc1_2fc1, "zfs", false),
    (0x9660, "iso9660", false),
    (0x1501_3346, "udf", false),
    (0x7371_7368, "squashfs", false),
    (0xe0f5_e1e2, "erofs", false),
    (0x794c_7630, "overlay", false),
    (0x6573_5546, "fuse", false),
    (0x6969, "nfs", false),
    (0xff53_4d42, "cifs", false),
    (0xfe53_4d42, "smb3", false),
    (0x0102_1997, "9p", false),
    (0x00c3_6400, "ceph", false),
    (0x0bd0_0bd0, "lustre", false),
    (0x5346_414f, "afs", false),
    (0x0116_1970, "gfs2", false),
    (0x7461_636f, "ocfs2", false),
    (0x9fa0, "proc", false),
    (0x6265_6572, "sysfs", false),
    (0x6462_6720, "debugfs", false),
    (0x7472_6163, "tracefs", false),
    (0x6367_7270, "cgroup2", false),
    (0xcafe_4a11, "bpf", false),
    (0x1cd1, "devpts", false),
];
