//! Open files, and what is behind those of special kinds.

use agent_ebpf::fields::*;

use super::{
    Dentry, HUGETLBFS_MAGIC, Inode, Known, Mm, OVERLAYFS_MAGIC, S_IFREG, Sock, TMPFS_MAGIC, Task, field,
    fold, pointer, read,
};
use crate::maps::OVERLAY_WRAPS;

/// `ANON_INODE_FS_MAGIC`.
const ANON_INODES_MAGIC: u64 = 0x0904_1934;
const FMODE_WRITE: u32 = 2;

#[derive(Clone, Copy)]
pub(crate) struct File(pub(crate) u64);

impl File {
    #[inline(always)]
    pub(crate) fn inode(self) -> Option<Inode> {
        pointer(self.0, &FILE_INODE).map(Inode)
    }

    #[inline(always)]
    pub(crate) fn dentry(self) -> Option<Dentry> {
        pointer(self.0, &FILE_DENTRY).map(Dentry)
    }

    #[inline(always)]
    pub(crate) fn is_writable(self) -> bool {
        field::<u32>(self.0, &FILE_MODE).is_none_or(|mode| mode & FMODE_WRITE != 0)
    }

    #[inline(always)]
    pub(crate) fn is_readable(self) -> bool {
        /// `FMODE_READ` (`include/linux/fs.h`).
        const READ: u32 = 1;
        field::<u32>(self.0, &FILE_MODE).is_none_or(|mode| mode & READ != 0)
    }

    /// Whether it was opened to name a file only (`O_PATH`): nothing is read through it, and opening it by its descriptor is
    /// another open.
    #[inline(always)]
    pub(crate) fn is_only_a_name(self) -> bool {
        /// `FMODE_PATH` (`include/linux/fs.h`).
        const PATH: u32 = 0x4000;
        field::<u32>(self.0, &FILE_MODE).is_some_and(|mode| mode & PATH != 0)
    }

    /// The file below an overlayfs file, itself otherwise: bytes are those of the file that stores them.
    #[inline(always)]
    pub(crate) fn backing(self) -> Self {
        match self.backed() {
            Some((file, _)) => file,
            None => self,
        }
    }

    /// As [`File::backing`], with what is known of it by then.
    #[inline(always)]
    pub(crate) fn backed(self) -> Option<(Self, Known)> {
        let known = self.inode()?.known()?;
        // Twice: an overlay can lie on an overlay, and no deeper.
        let Some((below, known_below)) = self.below(known) else { return Some((self, known)) };
        Some(below.below(known_below).unwrap_or((below, known_below)))
    }

    /// The file that an overlayfs file takes its bytes from.
    #[inline(always)]
    fn below(self, known: Known) -> Option<(Self, Known)> {
        // Of a FIFO or a directory there, the private data is something else.
        if known.magic != OVERLAYFS_MAGIC || known.inode.kind()? != S_IFREG {
            return None;
        }
        let private = pointer(self.0, &FILE_PRIVATE_DATA)?;
        let real = if OVL_FILE_REAL.load() != ABSENT {
            pointer(private, &OVL_FILE_REAL)?
        } else if OVERLAY_WRAPS.load() != 0 {
            // The types of a module are not in the kernel's BTF.
            read(private)
        } else {
            private
        };
        let real = Self(real);
        Some((real, real.inode()?.known()?))
    }

    /// The map behind a descriptor of one, and the bytes of a value: (address of its `struct bpf_map`, bytes).
    #[inline(always)]
    pub(crate) fn bpf_map(self) -> Option<(u64, u64)> {
        let map = pointer(self.0, &FILE_PRIVATE_DATA)?;
        let value: u32 = field(map, &BPF_MAP_VALUE)?;
        Some((map, u64::from(value)))
    }

    /// Whether it is a descriptor of a BPF map (`bpf_map_new_fd`, `kernel/bpf/syscall.c`).
    #[inline(always)]
    pub(crate) fn is_bpf_map(self) -> bool {
        self.is_anonymous(*b"bpf-map\0")
    }

    /// A ring of io_uring (`io_uring_get_file`, `io_uring/io_uring.c`).
    #[inline(always)]
    pub(crate) fn is_uring(self) -> bool {
        self.is_anonymous(*b"[io_urin")
    }

    /// A group of fanotify, whose events are read with open files of what they tell of. The name is that of
    /// `fanotify_init` (`fs/notify/fanotify/fanotify_user.c`), and nobody can give it to another anonymous inode.
    #[inline(always)]
    pub(crate) fn is_fanotify(self) -> bool {
        self.is_anonymous(*b"[fanotif")
    }

    /// Whether it is an anonymous inode whose name begins so.
    #[inline(always)]
    fn is_anonymous(self, start: [u8; 8]) -> bool {
        let name = match self.inode() {
            Some(inode) if inode.magic() == Some(ANON_INODES_MAGIC) => self.dentry().and_then(Dentry::name),
            _ => None,
        };
        let Some(name) = name else { return false };
        read::<u64>(name) == u64::from_ne_bytes(start)
    }

    /// A task of the process whose page faults it answers; only for a userfaultfd (`fs/userfaultfd.c`).
    #[inline(always)]
    pub(crate) fn faults_of(self) -> Option<Task> {
        if !self.is_anonymous(*b"[userfau") {
            return None;
        }
        Mm(pointer(self.private_data()?, &UFFD_MM)?).owner()
    }

    /// Stands for the pseudo terminal behind it, the same at both ends: the lower address of the two `struct tty_struct`.
    /// Only for a character device, of which it asks whether it is a terminal.
    #[inline(always)]
    pub(crate) fn pseudo_terminal(self, device: u32) -> Option<u64> {
        const TTYAUX: u32 = 5;
        // Masters of the old kind, masters and slaves of the new one (`devices.txt`).
        let major = device >> 20;
        if major != TTYAUX && major != 2 && major != 3 && !(128..=143).contains(&major) {
            return None;
        }
        let tty = pointer(pointer(self.0, &FILE_PRIVATE_DATA)?, &TTY_OF_FILE)?;
        let other = pointer(tty, &TTY_LINK)?;
        Some(if tty < other { tty } else { other })
    }

    /// (id, namespace) of the System V segment that it stands for, by which its inode number is told too (`ipc/shm.c`: an
    /// attached segment has a `struct shm_file_data`, which begins with these; other files of memory have none).
    #[inline(always)]
    pub(crate) fn segment(self, inode: Inode) -> Option<(u64, u32)> {
        let magic = inode.magic()?;
        if magic != TMPFS_MAGIC && magic != HUGETLBFS_MAGIC {
            return None;
        }
        let data = pointer(self.0, &FILE_PRIVATE_DATA)?;
        let id = read::<u64>(data) & 0xffff_ffff;
        let namespace = read(data + 8);
        if id == inode.number()? & 0xffff_ffff { Some((id, fold(namespace))) } else { None }
    }

    /// What its kind keeps behind it: of a descriptor of a BPF object, the object.
    #[inline(always)]
    pub(crate) fn private_data(self) -> Option<u64> {
        pointer(self.0, &FILE_PRIVATE_DATA)
    }

    /// The socket behind it; only for an inode of kind `S_IFSOCK`.
    #[inline(always)]
    pub(crate) fn socket(self) -> Option<Sock> {
        pointer(pointer(self.0, &FILE_PRIVATE_DATA)?, &SOCKET_SK).map(Sock)
    }
}
