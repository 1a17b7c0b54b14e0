//! What only the filesystem itself can answer of an open file: its generation, and the filesystem's UUID.
//!
//! The unsafe calls of this area, except for file handles, are here. This file must not know what the answers are for.

use std::{fs::File, os::fd::AsRawFd as _};

/// `inode.i_generation`, which tells a file from a later one with the same inode number. `None` where the filesystem does
/// not tell.
pub(super) fn generation(file: &File, fstype: &str, ino: u64) -> Option<u32> {
    match fstype {
        "tmpfs" => by_handle(file, ino),
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" => by_ioctl(file),
        _ => None,
    }
}

/// The UUID of the filesystem that `file` is on: `FS_IOC_GETFSUUID`, since Linux 6.9 for ext4 and btrfs, later for
/// others. `None` where it is not known.
pub(super) fn filesystem_uuid(file: &File) -> Option<[u8; 16]> {
    /// `struct fsuuid2`.
    #[repr(C)]
    struct Answer {
        length: u8,
        uuid: [u8; 16],
    }
    /// `_IOR(0x15, 0, struct fsuuid2)`.
    const FS_IOC_GETFSUUID: libc::Ioctl = 0x8011_1500_u32 as libc::Ioctl;
    let mut answer = Answer { length: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes the 17 bytes that the number announces, which is the size of `answer`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut answer) };
    (result == 0 && answer.length == 16 && answer.uuid != [0; 16]).then_some(answer.uuid)
}

fn by_ioctl(file: &File) -> Option<u32> {
    /// `_IOR('v', 1, long)`.
    const FS_IOC_GETVERSION: libc::Ioctl = 0x8008_7601_u32 as libc::Ioctl;
    let mut answer = [0_u32; 2];
    // SAFETY: the kernel writes an `int` (a `long` by its number), for which the eight bytes of `answer` are enough.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETVERSION, answer.as_mut_ptr()) };
    (result == 0).then_some(answer[0])
}

/// tmpfs has no such ioctl, but its file handles begin with the generation (`shmem_encode_fh`).
fn by_handle(file: &File, ino: u64) -> Option<u32> {
    /// `struct file_handle` with the payload of shmem.
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        generation: u32,
        ino: [u32; 2],
    }
    let mut handle = Handle { bytes: 12, kind: 0, generation: 0, ino: [0; 2] };
    let mut mount_id = 0;
    // SAFETY: the path is an empty C string; the handle has the layout of `struct file_handle` with the twelve bytes that
    // `bytes` announces, and both it and the mount id live for the whole call.
    let result = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast::<libc::file_handle>(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    let [low, high] = handle.ino.map(u64::from);
    // The inode number proves that the layout is the one we believe.
    (result == 0 && handle.kind == 1 && (high << 32 | low) == ino).then_some(handle.generation)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn tmpfs_tells_by_its_handle() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else {
            crate::skipping::skipped("no /dev/shm");
            return;
        };
        let ino = file.metadata().unwrap().ino();
        assert!(generation(&file, "tmpfs", ino).is_some());
        assert_eq!(generation(&file, "tmpfs", ino + 1), None);
        assert_eq!(generation(&file, "nfs4", ino), None);
    }
}
