//! Files by what outlives a reboot and a rename: the inode number, and what tells a file from a later one with that number.
//!
//! ext2 to ext4, XFS, btrfs and F2FS open a file by its inode number and generation, wherever it lies and whatever it is called
//! (`CAP_DAC_READ_SEARCH`). Of every other filesystem only the path is left, and the time when the file was made. This file must
//! not know why somebody looks for a file.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};

/// Filesystems whose inode numbers and generations stay what they are for as long as the file lives, also over a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Generic handles (`FILEID_INO32_GEN`, `fs/libfs.c`).
    Generic,
    /// Inode numbers of 64 bits (`xfs_fs_fh_to_dentry`, `fs/xfs/xfs_export.c`).
    Xfs,
    /// Inode numbers within a subvolume (`btrfs_fh_to_dentry`, `fs/btrfs/export.c`).
    Btrfs,
}

impl Kind {
    fn of(fstype: &str) -> Option<Self> {
        match fstype {
            "ext2" | "ext3" | "ext4" | "f2fs" => Some(Self::Generic),
            "xfs" => Some(Self::Xfs),
            "btrfs" => Some(Self::Btrfs),
            _ => None,
        }
    }
}

/// Whether inode number and generation name a file on this kind of filesystem for as long as it lives. FAT and its like make up
/// both anew whenever they read a file's entry.
#[must_use]
pub fn are_stable(fstype: &str) -> bool {
    Kind::of(fstype).is_some()
}

/// What names a file within its filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub ino: u64,
    pub generation: u32,
    /// The subvolume, on btrfs.
    pub tree: Option<u64>,
}

/// Facts of a file that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub is_regular: bool,
    /// Bytes.
    pub size: u64,
    pub ino: u64,
    /// When it was made, ns since 1970; `None` where the filesystem does not tell.
    pub born: Option<i64>,
}

/// What has become of a file.
#[derive(Debug)]
pub enum Found {
    Here(Facts),
    /// Removed, and nobody has it open; or on a disk that cannot be read, see [`super::volumes::Volumes::vouches`].
    Gone,
    /// Not known: the filesystem has no handles, or the kernel does not let us use them.
    Unknown,
}

/// Looks for a file of the filesystem of kind `fstype` of which `root` is open.
#[must_use]
pub fn find(root: &File, fstype: &str, name: Name) -> Found {
    let Some(handle) = Kind::of(fstype).and_then(|kind| Handle::new(kind, name)) else {
        return Found::Unknown;
    };
    match handle.open(root) {
        Ok(file) => match facts(&file) {
            Ok(facts) if facts.ino == name.ino => Found::Here(facts),
            _ => Found::Unknown,
        },
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Found::Gone,
        Err(_) => Found::Unknown,
    }
}

/// Opens the file at `path` to name it only; a link is not followed.
///
/// # Errors
///
/// Those of opening and examining it.
pub fn open(path: &Path) -> io::Result<(OwnedFd, Facts)> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let facts = facts(&file)?;
    Ok((file, facts))
}

/// The subvolume of a file on btrfs; `None` elsewhere.
#[must_use]
pub fn tree_of(file: &OwnedFd, ino: u64) -> Option<u64> {
    let mut handle =
        Handle { bytes: PAYLOAD as libc::c_uint, kind: 0, payload: Payload { words: [0; PAYLOAD / 4] } };
    let mut mount = 0;
    // SAFETY: the path is an empty C string; the handle has the layout of `struct file_handle` with the payload that `bytes`
    // announces, and both it and the mount id live for the whole call.
    let result = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast::<libc::file_handle>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    let [ino_low, ino_high, tree_low, tree_high, ..] = handle.payload.words.map(u64::from);
    // The inode number proves that the layout is the one we believe.
    let is_ours = result == 0 && handle.kind == BTRFS && (ino_high << 32 | ino_low) == ino;
    is_ours.then_some(tree_high << 32 | tree_low)
}

fn facts(file: &OwnedFd) -> io::Result<Facts> {
    let wanted = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);
    let facts: Statx = statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    let has_born = facts.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = facts.stx_btime;
    Ok(Facts {
        is_regular: FileType::from_raw_mode(facts.stx_mode.into()) == FileType::RegularFile,
        size: facts.stx_size,
        ino: facts.stx_ino,
        born: has_born.then(|| born.tv_sec.saturating_mul(1_000_000_000).saturating_add(born.tv_nsec.into())),
    })
}

/// Bytes of the largest payload that is used here.
const PAYLOAD: usize = 20;
/// `FILEID_INO32_GEN` (`include/linux/exportfs.h`).
const GENERIC: libc::c_int = 1;
/// The same with `XFS_FILEID_TYPE_64FLAG` (`fs/xfs/xfs_export.h`).
const XFS: libc::c_int = 0x81;
/// `FILEID_BTRFS_WITHOUT_PARENT`.
const BTRFS: libc::c_int = 0x4d;

/// `struct file_handle` with a payload of words in the machine's order.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    payload: Payload,
}

#[repr(C)]
struct Payload {
    words: [u32; PAYLOAD / 4],
}

impl Handle {
    /// `None` when the name does not fit the kind.
    fn new(kind: Kind, Name { ino, generation, tree }: Name) -> Option<Self> {
        let (low, high) = (ino as u32, (ino >> 32) as u32);
        let (bytes, kind, words) = match kind {
            Kind::Generic if high == 0 => (8, GENERIC, [low, generation, 0, 0, 0]),
            Kind::Generic => return None,
            Kind::Xfs => (12, XFS, [low, high, generation, 0, 0]),
            Kind::Btrfs => {
                let tree = tree?;
                (20, BTRFS, [low, high, tree as u32, (tree >> 32) as u32, generation])
            }
        };
        Some(Self { bytes, kind, payload: Payload { words } })
    }

    fn open(mut self, root: &File) -> io::Result<OwnedFd> {
        // SAFETY: the handle has the layout of `struct file_handle` with at most the payload that it has room for, it lives for
        // the whole call, and `root` is an open descriptor.
        let fd = unsafe {
            libc::open_by_handle_at(
                root.as_raw_fd(),
                (&raw mut self).cast::<libc::file_handle>(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a value that is not negative is a new descriptor, which nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::{super::ioctl::generation, *};

    /// A file is found by its name within the filesystem after it was renamed and hidden, and not once it is gone.
    fn found_on(fstype: &str, megabytes: u64, root: &Path) {
        let path = root.join("copy");
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(&path, b"12345").unwrap();
        let (named, facts) = open(&path).unwrap();
        let generation = generation(&File::open(&path).unwrap(), fstype, facts.ino).unwrap();
        let name = Name { ino: facts.ino, generation, tree: tree_of(&named, facts.ino) };
        assert_eq!(name.tree.is_some(), fstype == "btrfs");
        drop(named);
        let top = File::open(root).unwrap();
        fs::rename(&path, root.join("sub/.hidden")).unwrap();
        let Found::Here(again) = find(&top, fstype, name) else { panic!("{fstype} of {megabytes} MiB") };
        assert_eq!(again, facts);
        let other = Name { generation: generation.wrapping_add(1), ..name };
        assert!(matches!(find(&top, fstype, other), Found::Gone), "another file of that number");
        let open = File::open(root.join("sub/.hidden")).unwrap();
        fs::remove_file(root.join("sub/.hidden")).unwrap();
        assert!(matches!(find(&top, fstype, name), Found::Here(_)), "it is open");
        drop(open);
        assert!(matches!(find(&top, fstype, name), Found::Gone));
        assert!(matches!(find(&top, "vfat", name), Found::Unknown));
    }

    #[test]
    fn a_file_is_found_whatever_it_is_called() {
        let run = |tool: &str, arguments: &[&str]| {
            Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        for (fstype, megabytes) in [("ext4", 16), ("xfs", 320), ("btrfs", 128)] {
            let scratch = tempfile::tempdir().unwrap();
            let (image, point) = (scratch.path().join("image"), scratch.path().join("point"));
            fs::create_dir(&point).unwrap();
            File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
            let [image, at] = [&image, &point].map(|path| path.to_str().unwrap());
            if !run(&format!("mkfs.{fstype}"), &["-q", image])
                || !run("mount", &["-t", fstype, "-o", "loop", image, at])
            {
                crate::skipping::skipped(format_args!("needs mkfs.{fstype}, root, and a loop device"));
                continue;
            }
            let result = std::panic::catch_unwind(|| found_on(fstype, megabytes, &point));
            assert!(run("umount", &[at]));
            result.unwrap();
        }
    }

    #[test]
    fn names_that_do_not_fit_open_nothing() {
        let name = Name { ino: 1 << 32, generation: 1, tree: None };
        assert!(Handle::new(Kind::Generic, name).is_none());
        assert!(Handle::new(Kind::Btrfs, name).is_none());
        assert_eq!(Handle::new(Kind::Xfs, name).unwrap().payload.words, [0, 1, 1, 0, 0]);
        assert!(are_stable("f2fs") && !are_stable("vfat"));
    }
}
