//! Kernel structures as far as we read them: thin handles over addresses, one method for each field.
//!
//! All reads go through `bpf_probe_read_kernel`, so that a stale pointer is an error and never a fault. Offsets come from
//! `agent_ebpf::fields`. This file must not know what the values are used for.

use agent_ebpf::{HolderKey, ObjectKey, fields::*};
use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated::bpf_get_current_task},
};

pub(crate) mod pid;

use crate::maps::OVERLAY_WRAPS;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
/// `ANON_INODE_FS_MAGIC`.
const ANON_INODES_MAGIC: u64 = 0x0904_1934;
pub(crate) const TMPFS_MAGIC: u64 = 0x0102_1994;
pub(crate) const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
pub(crate) const PIPEFS_MAGIC: u64 = 0x5049_5045;
pub(crate) const MQUEUE_MAGIC: u64 = 0x1980_0202;
pub(crate) const PROC_MAGIC: u64 = 0x9fa0;
pub(crate) const XFS_MAGIC: u64 = 0x5846_5342;
pub(crate) const BTRFS_MAGIC: u64 = 0x9123_683e;
const FMODE_WRITE: u32 = 2;
/// `thread_info.status`: this system call came through the 32-bit entry.
const TS_COMPAT: u32 = 2;
/// `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

#[inline(always)]
fn field<T: Copy>(base: u64, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address and copies; T is an integer.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

#[inline(always)]
fn pointer(base: u64, offset: &Global<u32>) -> Option<u64> {
    match field::<u64>(base, offset) {
        Some(0) | None => None,
        found => found,
    }
}

/// Kernel objects are at least 32 bytes apart, so that these bits tell those of 128 GiB apart.
#[inline(always)]
const fn fold(address: u64) -> u32 {
    (address >> 5) as u32
}

#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) u64);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: always returns the running task.
        Self(unsafe { bpf_get_current_task() })
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> Option<u32> {
        field(self.0, &TASK_TGID)
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> Option<u32> {
        field(self.0, &TASK_PID)
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Option<Self> {
        pointer(self.0, &TASK_GROUP_LEADER).map(Self)
    }

    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        pointer(self.0, &TASK_REAL_PARENT).map(Self)
    }

    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        field::<u32>(self.0, &TASK_FLAGS).is_none_or(|flags| flags & PF_KTHREAD != 0)
    }

    #[inline(always)]
    pub(crate) fn is_compat(self) -> bool {
        field::<u32>(self.0, &TASK_STATUS).is_some_and(|status| status & TS_COMPAT != 0)
    }

    /// The process image that this task runs.
    #[inline(always)]
    pub(crate) fn holder_key(self) -> Option<HolderKey> {
        let leader = self.leader()?;
        Some(HolderKey {
            tgid: self.tgid()?,
            exec: field::<u32>(leader.0, &TASK_SELF_EXEC_ID)?,
            start: field(leader.0, &TASK_START_BOOTTIME)?,
        })
    }

    /// When its process started, ns since boot.
    #[inline(always)]
    pub(crate) fn start(self) -> Option<u64> {
        field(self.leader()?.0, &TASK_START_BOOTTIME)
    }

    #[inline(always)]
    pub(crate) fn uid(self) -> Option<u32> {
        field(pointer(self.0, &TASK_REAL_CRED)?, &CRED_UID)
    }

    #[inline(always)]
    pub(crate) fn login_uid(self) -> u32 {
        field(self.0, &TASK_LOGINUID).unwrap_or(u32::MAX)
    }

    #[inline(always)]
    pub(crate) fn mm(self) -> Option<Mm> {
        pointer(self.0, &TASK_MM).map(Mm)
    }

    /// Threads of its group that still run; in `sched_process_exit` this one is counted out already.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> Option<u32> {
        field(pointer(self.0, &TASK_SIGNAL)?, &SIGNAL_LIVE)
    }

    /// Address of its kernel stack.
    #[inline(always)]
    pub(crate) fn stack(self) -> Option<u64> {
        pointer(self.0, &TASK_STACK)
    }

    /// The first link of the list of its process's threads.
    #[inline(always)]
    pub(crate) fn threads(self) -> Option<ThreadLink> {
        let signal = pointer(self.0, &TASK_SIGNAL)?;
        let head = signal + u64::from(SIGNAL_THREADS.load());
        Some(ThreadLink { head, at: head })
    }

    /// Address of its descriptor table, for comparison only.
    #[inline(always)]
    pub(crate) fn files(self) -> Option<u64> {
        pointer(self.0, &TASK_FILES)
    }

    /// Whether another process has its descriptor table too. A thread on its way out counts as one.
    #[inline(always)]
    pub(crate) fn shares_files(self) -> bool {
        match (pointer(self.0, &TASK_FILES), self.live_threads()) {
            (Some(files), Some(threads)) => {
                field::<u32>(files, &FILES_COUNT).is_none_or(|users| users > threads)
            }
            _ => false,
        }
    }

    /// Whether another process has its memory too. Threads are counted out before they let go of it, so that this errs only
    /// towards sharing.
    #[inline(always)]
    pub(crate) fn shares_memory(self) -> bool {
        match (self.mm(), self.live_threads()) {
            (Some(mm), Some(threads)) => field::<u32>(mm.0, &MM_USERS).is_none_or(|users| users > threads),
            _ => false,
        }
    }

    /// Stands for its namespace of System V objects: 32 bits of the address.
    #[inline(always)]
    pub(crate) fn ipc_namespace(self) -> u32 {
        match pointer(self.0, &TASK_NSPROXY) {
            Some(proxy) => fold(pointer(proxy, &NSPROXY_IPC).unwrap_or(0)),
            None => 0,
        }
    }

    /// Size of its descriptor table.
    #[inline(always)]
    pub(crate) fn descriptors(self) -> Option<u32> {
        field(pointer(pointer(self.0, &TASK_FILES)?, &FILES_FDT)?, &FDTABLE_MAX_FDS)
    }

    /// The open file behind a descriptor.
    #[inline(always)]
    pub(crate) fn file(self, descriptor: u32) -> Option<File> {
        let table = pointer(pointer(self.0, &TASK_FILES)?, &FILES_FDT)?;
        if descriptor >= field::<u32>(table, &FDTABLE_MAX_FDS)? {
            return None;
        }
        let array = pointer(table, &FDTABLE_FD)?;
        // SAFETY: the helper checks the address.
        let file =
            unsafe { bpf_probe_read_kernel((array + u64::from(descriptor) * 8) as *const u64) }.ok()?;
        if file == 0 { None } else { Some(File(file)) }
    }
}

/// A place in the list of a process's threads (`signal_struct.thread_head`).
#[derive(Clone, Copy)]
pub(crate) struct ThreadLink {
    head: u64,
    at: u64,
}

impl ThreadLink {
    /// The next thread; `None` at the end.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Task> {
        // SAFETY: the helper checks the address; `next` is the first member of a `struct list_head`.
        self.at = unsafe { bpf_probe_read_kernel(self.at as *const u64) }.ok()?;
        if self.at == self.head || self.at == 0 {
            return None;
        }
        Some(Task(self.at - u64::from(TASK_THREAD_NODE.load())))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Mm(pub(crate) u64);

impl Mm {
    /// Some task of the process that it belongs to.
    #[inline(always)]
    pub(crate) fn owner(self) -> Option<Task> {
        pointer(self.0, &MM_OWNER).map(Task)
    }

    #[inline(always)]
    pub(crate) fn exe(self) -> Option<File> {
        pointer(self.0, &MM_EXE_FILE).map(File)
    }

    /// (address, length) of the argument strings.
    #[inline(always)]
    pub(crate) fn arguments(self) -> Option<(u64, u64)> {
        let start: u64 = field(self.0, &MM_ARG_START)?;
        let end: u64 = field(self.0, &MM_ARG_END)?;
        Some((start, end.saturating_sub(start)))
    }

    /// Bytes of arguments and environment: what an exec can carry over in memory.
    #[inline(always)]
    pub(crate) fn carried_bytes(self) -> Option<u64> {
        let start: u64 = field(self.0, &MM_ENV_START)?;
        let end: u64 = field(self.0, &MM_ENV_END)?;
        Some(self.arguments()?.1 + end.saturating_sub(start))
    }
}

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
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_kernel(private as *const u64) }.ok()?
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
        // SAFETY: the helper checks the address.
        match unsafe { bpf_probe_read_kernel(name as *const u64) } {
            Ok(found) => found == u64::from_ne_bytes(start),
            Err(_) => false,
        }
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
        // SAFETY: the helper checks the address.
        let [id, namespace] = unsafe { bpf_probe_read_kernel(data as *const [u64; 2]) }.ok()?;
        let id = id & 0xffff_ffff;
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
}

#[derive(Clone, Copy)]
pub(crate) struct Inode(pub(crate) u64);

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

    /// Of an inode of an overlay that has both: (its name in the upper layer, that of its data in a lower one). 6.5 and later.
    #[inline(always)]
    pub(crate) fn overlay_layers(self) -> Option<(Dentry, Dentry)> {
        /// Lower layers of one mount (`OVL_MAX_STACK`).
        const LAYERS: u32 = 500;
        /// Bytes of a `struct ovl_path`: a layer, and the name in it.
        const PATH: u64 = 16;
        if OVL_INODE_VFS.load() == ABSENT || self.magic()? != OVERLAYFS_MAGIC {
            return None;
        }
        let own = self.0 - u64::from(OVL_INODE_VFS.load());
        let upper = pointer(own, &OVL_INODE_UPPER)?;
        let entry = pointer(own, &OVL_INODE_ENTRY)?;
        let count = field::<u32>(entry, &OVL_ENTRY_COUNT)?;
        if count == 0 || count > LAYERS || OVL_ENTRY_STACK.load() == ABSENT {
            return None;
        }
        // The last one has the data: those before it can be metadata only.
        let last = entry + u64::from(OVL_ENTRY_STACK.load()) + u64::from(count - 1) * PATH;
        Some((Dentry(upper), Dentry(pointer(last, &OVL_PATH_DENTRY)?)))
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

pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const AF_NETLINK: u16 = 16;
pub(crate) const AF_PACKET: u16 = 17;
pub(crate) const AF_VSOCK: u16 = 40;

#[derive(Clone, Copy)]
pub(crate) struct Sock(pub(crate) u64);

impl Sock {
    #[inline(always)]
    pub(crate) fn family(self) -> Option<u16> {
        field(self.0, &SOCK_FAMILY)
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u8 {
        field::<u16>(self.0, &SOCK_PROTOCOL).unwrap_or(0) as u8
    }

    /// A datagram socket; one whose type cannot be read counts as one.
    #[inline(always)]
    pub(crate) fn is_datagram(self) -> bool {
        const SOCK_DGRAM: u16 = 2;
        field::<u16>(self.0, &SOCK_TYPE).is_none_or(|kind| kind == SOCK_DGRAM)
    }

    /// A socket of a device or of a whole protocol.
    #[inline(always)]
    pub(crate) fn is_raw(self) -> bool {
        const SOCK_RAW: u16 = 3;
        field::<u16>(self.0, &SOCK_TYPE) == Some(SOCK_RAW)
    }

    /// UDP or UDP-Lite, of either family.
    #[inline(always)]
    pub(crate) fn is_udp(self) -> bool {
        let protocol = self.protocol();
        matches!(self.family(), Some(AF_INET | AF_INET6)) && (protocol == 17 || protocol == 136)
    }

    /// Peer's port, host order.
    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        field::<u16>(self.0, &SOCK_DPORT).map_or(0, u16::from_be)
    }

    #[inline(always)]
    pub(crate) fn own_port(self) -> u16 {
        field(self.0, &SOCK_SPORT).unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn peer_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_DADDR)
    }

    #[inline(always)]
    pub(crate) fn own_v4(self) -> Option<[u8; 4]> {
        field(self.0, &SOCK_SADDR)
    }

    #[inline(always)]
    pub(crate) fn peer_v6(self) -> Option<[u8; 16]> {
        field(self.0, &SOCK_V6_DADDR)
    }

    #[inline(always)]
    pub(crate) fn own_v6(self) -> Option<[u8; 16]> {
        field(self.0, &SOCK_V6_SADDR)
    }

    #[inline(always)]
    pub(crate) fn unix_peer(self) -> Option<Self> {
        pointer(self.0, &UNIX_PEER).map(Self)
    }

    /// Whether the kernel routes what it sends to this host itself; `None` when it has no route now.
    ///
    /// The device of the route that the socket keeps (`sk_dst_cache`), which is the loopback device for 127.0.0.0/8, ::1 and
    /// every address of the host's own, whichever source was chosen. Rests on `ip_route_output_key_hash_rcu` and
    /// `ip6_rt_get_dev_rcu`, 5.10 to 7.2.
    #[inline(always)]
    pub(crate) fn stays_here(self) -> Option<bool> {
        Device(pointer(pointer(self.0, &SOCK_DST)?, &DST_DEV)?).is_loopback()
    }

    #[inline(always)]
    pub(crate) fn vsock_own_port(self) -> Option<u32> {
        field(self.0, &VSOCK_OWN_PORT)
    }

    /// (context id, port) of a vsock peer.
    #[inline(always)]
    pub(crate) fn vsock_peer(self) -> Option<(u32, u32)> {
        Some((field(self.0, &VSOCK_CID)?, field(self.0, &VSOCK_PORT)?))
    }
}

/// A network device.
#[derive(Clone, Copy)]
struct Device(u64);

impl Device {
    #[inline(always)]
    fn is_loopback(self) -> Option<bool> {
        const IFF_LOOPBACK: u32 = 8;
        field::<u32>(self.0, &DEVICE_FLAGS).map(|flags| flags & IFF_LOOPBACK != 0)
    }
}

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Packet(pub(crate) u64);

/// A UDP datagram in one packet, ports in host order.
pub(crate) struct Datagram {
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    pub(crate) bytes: u64,
}

impl Packet {
    /// The UDP datagram in it, if it is whole and on the loopback device. One with extension headers is none.
    #[inline(always)]
    pub(crate) fn looped_datagram(self) -> Option<Datagram> {
        const IPPROTO_UDP: u8 = 17;
        const IPPROTO_UDPLITE: u8 = 136;
        if !Device(pointer(self.0, &SKB_DEV)?).is_loopback()? {
            return None;
        }
        let head = pointer(self.0, &SKB_HEAD)?;
        let network = u64::from(field::<u16>(self.0, &SKB_NETWORK)?);
        let transport = u64::from(field::<u16>(self.0, &SKB_TRANSPORT)?);
        // SAFETY: the helper checks the address; both headers are at least this long.
        let ip = unsafe { bpf_probe_read_kernel((head + network) as *const [u8; 20]) }.ok()?;
        let protocol = match ip[0] >> 4 {
            // No fragment, not even the first of some.
            4 if ip[6] & 0x3f == 0 && ip[7] == 0 => ip[9],
            6 => ip[6],
            _ => return None,
        };
        if protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE {
            return None;
        }
        // SAFETY: the helper checks the address.
        let ports = unsafe { bpf_probe_read_kernel((head + transport) as *const [u8; 4]) }.ok()?;
        let headers = transport.checked_sub(network)? + 8;
        Some(Datagram {
            from_port: u16::from_be_bytes([ports[0], ports[1]]),
            to_port: u16::from_be_bytes([ports[2], ports[3]]),
            bytes: u64::from(field::<u32>(self.0, &SKB_LEN)?).checked_sub(headers)?,
        })
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Vma(pub(crate) u64);

impl Vma {
    #[inline(always)]
    pub(crate) fn file(self) -> Option<File> {
        pointer(self.0, &VMA_FILE).map(File)
    }

    #[inline(always)]
    pub(crate) fn bytes(self) -> Option<u64> {
        let start: u64 = field(self.0, &VMA_START)?;
        Some(field::<u64>(self.0, &VMA_END)?.saturating_sub(start))
    }

    /// Shared, so that stores reach the file.
    #[inline(always)]
    pub(crate) fn is_shared(self) -> bool {
        const VM_SHARED: u64 = 8;
        field::<u64>(self.0, &VMA_FLAGS).is_none_or(|flags| flags & VM_SHARED != 0)
    }
}

/// A request of io_uring (`struct io_kiocb`).
#[derive(Clone, Copy)]
pub(crate) struct UringRequest(pub(crate) u64);

impl UringRequest {
    /// The file that it works on, once that is looked up.
    #[inline(always)]
    pub(crate) fn file(self) -> Option<File> {
        pointer(self.0, &URING_FILE).map(File)
    }

    #[inline(always)]
    pub(crate) fn opcode(self) -> Option<u8> {
        field(self.0, &URING_OPCODE)
    }

    /// The lower half of its flags: the first byte is that of the submission (`IOSQE_…`), the others the kernel's own.
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        field(self.0, &URING_FLAGS).unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn ring(self) -> Option<UringRing> {
        pointer(self.0, &URING_RING).map(UringRing)
    }

    #[inline(always)]
    pub(crate) fn user_data(self) -> u64 {
        field(self.0, &URING_USER_DATA).unwrap_or(0)
    }

    /// Descriptor or slot that it was submitted with; what stands there is its result once it completed.
    #[inline(always)]
    pub(crate) fn descriptor(self) -> Option<u32> {
        field(self.0, &URING_FD)
    }

    /// Its result, once it completed.
    #[inline(always)]
    pub(crate) fn result(self) -> Option<i32> {
        field(self.0, &URING_RES)
    }

    /// Who submitted it. Whoever completes it can be another process, or a worker of the kernel.
    #[inline(always)]
    pub(crate) fn task(self) -> Option<Task> {
        if URING_TCTX.load() == ABSENT {
            return pointer(self.0, &URING_TASK).map(Task);
        }
        pointer(pointer(self.0, &URING_TCTX)?, &TCTX_TASK).map(Task)
    }

    /// Of a read or write: the length, or the number of vectors.
    #[inline(always)]
    pub(crate) fn rw_length(self) -> Option<u32> {
        field(self.0, &RW_LEN)
    }

    /// Of a read or write of vectors: their length, where the kernel has them already.
    #[inline(always)]
    pub(crate) fn rw_count(self) -> Option<u64> {
        field(pointer(self.0, &URING_ASYNC_DATA)?, &RW_COUNT)
    }

    #[inline(always)]
    pub(crate) fn splice_length(self) -> Option<u64> {
        field(self.0, &SPLICE_LEN)
    }

    /// Descriptor or slot that a splice takes from.
    #[inline(always)]
    pub(crate) fn splice_input(self) -> Option<u32> {
        field(self.0, &SPLICE_FD_IN)
    }

    #[inline(always)]
    pub(crate) fn splice_flags(self) -> u32 {
        field(self.0, &SPLICE_FLAGS).unwrap_or(0)
    }

    /// Of an open: the slot that the file goes into, counted from 1; 0 for a descriptor.
    #[inline(always)]
    pub(crate) fn open_slot(self) -> u32 {
        field(self.0, &OPEN_SLOT).unwrap_or(0)
    }
}

/// A ring (`struct io_ring_ctx`).
#[derive(Clone, Copy)]
pub(crate) struct UringRing(pub(crate) u64);

impl UringRing {
    /// The file in a slot of its table.
    #[inline(always)]
    pub(crate) fn file(self, slot: u32) -> Option<File> {
        /// The lower bits of a slot are flags (`FFS_MASK`).
        const ADDRESS: u64 = !7;
        let found = if RING_NODES.load() == ABSENT {
            // Before 6.13 the slots themselves stand in the table.
            if slot >= field::<u32>(self.0, &RING_OLD_FILES)? {
                return None;
            }
            let table = pointer(self.0, &RING_OLD_TABLE)?;
            // SAFETY: the helper checks the address.
            unsafe { bpf_probe_read_kernel((table + u64::from(slot) * 8) as *const u64) }.ok()?
        } else {
            if slot >= field::<u32>(self.0, &RING_FILES)? {
                return None;
            }
            let table = pointer(self.0, &RING_NODES)?;
            // SAFETY: the helper checks the address.
            let node = unsafe { bpf_probe_read_kernel((table + u64::from(slot) * 8) as *const u64) }.ok()?;
            field::<u64>(node, &NODE_FILE)?
        };
        if found & ADDRESS == 0 { None } else { Some(File(found & ADDRESS)) }
    }

    /// The memory of whoever made the ring.
    #[inline(always)]
    pub(crate) fn memory(self) -> Option<Mm> {
        pointer(self.0, &RING_MM).map(Mm)
    }
}

/// The descriptor that an exec opened for an interpreter (`binfmt_misc`); 0 where there is none.
#[inline(always)]
pub(crate) fn exec_descriptor(bprm: u64) -> Option<u32> {
    field(bprm, &BPRM_EXECFD)
}
