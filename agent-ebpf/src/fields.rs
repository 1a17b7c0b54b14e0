//! Kernel struct fields: one line each drives both sides.
//!
//! rustc emits no CO-RE relocations, so each field is a read-only global that the loader fills with the offset from the
//! running kernel's BTF before it loads the programs; `.rodata` is frozen, so the verifier sees a constant. This file must
//! not know how BTF is read (`agent/src/sensor/offsets.rs`) nor what a field is used for.

/// Value of an optional field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// A field to look up: `path` may pass through named members (`thread_info.status`); anonymous unions and structs are
/// looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Symbol of the read-only global.
    pub global: &'static str,
    pub structure: &'static str,
    pub path: &'static str,
    /// The agent refuses to start without it.
    pub required: bool,
}

/// The number of no helper: in the programs as they are built, a call of it stands for one of [`RDONLY_CAST_NAME`], which rustc
/// cannot name. The loader puts the kernel's own number there.
pub const RDONLY_CAST: i32 = 0x7767_0001;
pub const RDONLY_CAST_NAME: &str = "bpf_rdonly_cast";
/// An enum of kernels in which that casts to `void` too: its values came with what they stand for (6.17, `kernel/bpf/verifier.c`).
pub const RDONLY_CAST_TO_VOID: &str = "bpf_features";

/// Tracepoints that some kernels have with other arguments, with the prototype that our programs read: on a kernel with any
/// other they are not attached. Written as in C, without names and qualifiers; the first parameter is the tracing's own.
pub const PROTOTYPES: &[(&str, &str)] = &[
    ("sock_send_length", "(void *, struct sock *, int, int)"),
    ("sock_recv_length", "(void *, struct sock *, int, int)"),
    ("netif_rx", "(void *, struct sk_buff *)"),
    ("inet_sock_set_state", "(void *, struct sock *, int, int)"),
    ("io_uring_submit_req", "(void *, struct io_kiocb *)"),
    ("io_uring_submit_sqe", "(void *, struct io_kiocb *, bool)"),
    ("io_uring_file_get", "(void *, struct io_kiocb *, int)"),
    ("io_uring_complete", "(void *, struct io_ring_ctx *, void *, struct io_uring_cqe *)"),
    // Before 6.13 the result came by value, among up to seven arguments; of 5.10 there is no request among them.
    ("io_uring_complete_by_value", "(void *, void *, void *, u64, int, unsigned int, u64, u64)"),
    ("io_uring_cqe_overflow", "(void *, void *, long long unsigned int, s32, u32, void *)"),
];

macro_rules! fields {
    ($($global:ident = $structure:literal, $path:literal, $required:literal;)*) => {
        /// Every field.
        pub const FIELDS: &[Field] = &[$(
            Field { global: stringify!($global), structure: $structure, path: $path, required: $required },
        )*];

        $(
            #[cfg(feature = "programs")]
            #[unsafe(no_mangle)]
            pub static $global: aya_ebpf::Global<u32> = aya_ebpf::Global::new(ABSENT);
        )*
    };
}

fields! {
    TASK_GROUP_LEADER = "task_struct", "group_leader", true;
    TASK_START_BOOTTIME = "task_struct", "start_boottime", true;
    TASK_REAL_PARENT = "task_struct", "real_parent", true;
    TASK_TGID = "task_struct", "tgid", true;
    TASK_PID = "task_struct", "pid", true;
    TASK_STACK = "task_struct", "stack", true;
    TASK_THREAD_NODE = "task_struct", "thread_node", true;
    TASK_FLAGS = "task_struct", "flags", true;
    TASK_FILES = "task_struct", "files", true;
    TASK_MM = "task_struct", "mm", true;
    TASK_REAL_CRED = "task_struct", "real_cred", true;
    TASK_SIGNAL = "task_struct", "signal", true;
    TASK_SELF_EXEC_ID = "task_struct", "self_exec_id", true;
    TASK_STATUS = "task_struct", "thread_info.status", true;
    TASK_NSPROXY = "task_struct", "nsproxy", true;
    TASK_IO_URING = "task_struct", "io_uring", false;
    TASK_LOGINUID = "task_struct", "loginuid.val", false;
    TASK_THREAD_PID = "task_struct", "thread_pid", true;
    TASK_PID_LINKS = "task_struct", "pid_links", true;
    NSPROXY_IPC = "nsproxy", "ipc_ns", true;
    PID_LEVEL = "pid", "level", true;
    PID_TASKS = "pid", "tasks", true;
    PID_NUMBERS = "pid", "numbers", true;
    UPID_NS = "upid", "ns", true;
    PIDNS_PIDS = "pid_namespace", "idr.idr_rt.xa_head", true;
    XA_SHIFT = "xa_node", "shift", true;
    XA_SLOTS = "xa_node", "slots", true;
    PROC_PID = "proc_inode", "pid", true;
    PROC_INODE = "proc_inode", "vfs_inode", true;
    SIGNAL_LIVE = "signal_struct", "live", true;
    SIGNAL_THREADS = "signal_struct", "thread_head", true;
    SIGNAL_EXIT_CODE = "signal_struct", "group_exit_code", true;
    CRED_UID = "cred", "uid.val", true;
    FILES_COUNT = "files_struct", "count.counter", true;
    FILES_FDT = "files_struct", "fdt", true;
    FDTABLE_MAX_FDS = "fdtable", "max_fds", true;
    FDTABLE_FD = "fdtable", "fd", true;
    FILE_INODE = "file", "f_inode", true;
    FILE_DENTRY = "file", "f_path.dentry", true;
    FILE_MODE = "file", "f_mode", true;
    FILE_PRIVATE_DATA = "file", "private_data", true;
    INODE_MODE = "inode", "i_mode", true;
    INODE_SB = "inode", "i_sb", true;
    INODE_INO = "inode", "i_ino", true;
    INODE_GENERATION = "inode", "i_generation", true;
    INODE_RDEV = "inode", "i_rdev", true;
    INODE_MAPPING = "inode", "i_mapping", true;
    MAPPING_TREE = "address_space", "i_mmap.rb_root.rb_node", true;
    INODE_SIZE = "inode", "i_size", true;
    INODE_PRIVATE = "inode", "i_private", true;
    INODE_LINK = "inode", "i_sb_list", true;
    SB_DEV = "super_block", "s_dev", true;
    SB_MAGIC = "super_block", "s_magic", true;
    SB_OWN = "super_block", "s_fs_info", true;
    SB_LIST = "super_block", "s_list", true;
    SB_INODES = "super_block", "s_inodes", true;
    EROFS_FILE = "erofs_sb_info", "dif0.file", false;
    DENTRY_PARENT = "dentry", "d_parent", true;
    DENTRY_NAME = "dentry", "d_name.name", true;
    DENTRY_INODE = "dentry", "d_inode", true;
    MM_USERS = "mm_struct", "mm_users.counter", true;
    MM_OWNER = "mm_struct", "owner", false;
    MM_ARG_START = "mm_struct", "arg_start", true;
    MM_ARG_END = "mm_struct", "arg_end", true;
    MM_ENV_START = "mm_struct", "env_start", true;
    MM_ENV_END = "mm_struct", "env_end", true;
    MM_EXE_FILE = "mm_struct", "exe_file", true;
    SOCKET_SK = "socket", "sk", true;
    SOCK_PROTOCOL = "sock", "sk_protocol", true;
    SOCK_TYPE = "sock", "sk_type", true;
    SOCK_FAMILY = "sock", "__sk_common.skc_family", true;
    SOCK_DADDR = "sock", "__sk_common.skc_daddr", true;
    SOCK_SADDR = "sock", "__sk_common.skc_rcv_saddr", true;
    SOCK_DPORT = "sock", "__sk_common.skc_dport", true;
    SOCK_SPORT = "sock", "__sk_common.skc_num", true;
    SOCK_V6_DADDR = "sock", "__sk_common.skc_v6_daddr", true;
    SOCK_V6_SADDR = "sock", "__sk_common.skc_v6_rcv_saddr", true;
    SOCK_DST = "sock", "sk_dst_cache", true;
    INET_SPORT = "inet_sock", "inet_sport", true;
    UDP_PENDING = "udp_sock", "pending", true;
    TCP_ACKED = "tcp_sock", "bytes_acked", true;
    TCP_REPAIR_QUEUE = "tcp_sock", "repair_queue", true;
    DST_DEV = "dst_entry", "dev", true;
    DEVICE_FLAGS = "net_device", "flags", true;
    DEVICE_PARENT = "net_device", "dev.parent", true;
    SKB_DEV = "sk_buff", "dev", true;
    SKB_LEN = "sk_buff", "len", true;
    SKB_KIND = "sk_buff", "__pkt_type_offset", true;
    SKB_HEAD = "sk_buff", "head", true;
    SKB_NETWORK = "sk_buff", "network_header", true;
    SKB_TRANSPORT = "sk_buff", "transport_header", true;
    TTY_OF_FILE = "tty_file_private", "tty", true;
    TTY_LINK = "tty_struct", "link", true;
    UNIX_PEER = "unix_sock", "peer", false;
    VSOCK_CID = "vsock_sock", "remote_addr.svm_cid", false;
    VSOCK_PORT = "vsock_sock", "remote_addr.svm_port", false;
    VSOCK_OWN_PORT = "vsock_sock", "local_addr.svm_port", false;
    VMA_START = "vm_area_struct", "vm_start", true;
    VMA_END = "vm_area_struct", "vm_end", true;
    VMA_FILE = "vm_area_struct", "vm_file", true;
    VMA_FLAGS = "vm_area_struct", "vm_flags", true;
    UFFD_MM = "userfaultfd_ctx", "mm", false;
    OVL_FILE_REAL = "ovl_file", "realfile", false;
    OVL_INODE_VFS = "ovl_inode", "vfs_inode", false;
    OVL_INODE_FLAGS = "ovl_inode", "flags", false;
    OVL_INODE_UPPER = "ovl_inode", "__upperdentry", false;
    OVL_INODE_ENTRY = "ovl_inode", "oe", false;
    OVL_ENTRY_COUNT = "ovl_entry", "__numlower", false;
    OVL_ENTRY_STACK = "ovl_entry", "__lowerstack", false;
    OVL_PATH_DENTRY = "ovl_path", "dentry", false;
    OVL_FS_COUNT = "ovl_fs", "numfs", false;
    OVL_FS_ALL = "ovl_fs", "fs", false;
    URING_FILE = "io_kiocb", "file", false;
    URING_OPCODE = "io_kiocb", "opcode", false;
    URING_FLAGS = "io_kiocb", "flags", false;
    URING_RING = "io_kiocb", "ctx", false;
    URING_USER_DATA = "io_kiocb", "cqe.user_data", false;
    URING_FD = "io_kiocb", "cqe.fd", false;
    URING_RES = "io_kiocb", "cqe.res", false;
    URING_ASYNC_DATA = "io_kiocb", "async_data", false;
    URING_TASK = "io_kiocb", "task", false;
    URING_TCTX = "io_kiocb", "tctx", false;
    TCTX_TASK = "io_uring_task", "task", false;
    RW_LEN = "io_rw", "len", false;
    RW_COUNT = "io_async_rw", "iter.count", false;
    SPLICE_LEN = "io_splice", "len", false;
    SPLICE_FD_IN = "io_splice", "splice_fd_in", false;
    SPLICE_FLAGS = "io_splice", "flags", false;
    OPEN_SLOT = "io_open", "file_slot", false;
    RING_MM = "io_ring_ctx", "mm_account", false;
    RING_FILES = "io_ring_ctx", "file_table.data.nr", false;
    RING_NODES = "io_ring_ctx", "file_table.data.nodes", false;
    RING_OLD_FILES = "io_ring_ctx", "nr_user_files", false;
    RING_OLD_TABLE = "io_ring_ctx", "file_table.files", false;
    NODE_FILE = "io_rsrc_node", "file_ptr", false;
    BPF_MAP_VALUE = "bpf_map", "value_size", true;
    BPRM_EXECFD = "linux_binprm", "execfd", true;
}
