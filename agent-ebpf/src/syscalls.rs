//! Which system calls move bytes, and how their arguments say from where to where.
//!
//! One table for each ABI of the processor: a 32-bit task, and a 64-bit one that uses `int 0x80`, number their calls
//! differently. Numbers are those of `arch/x86/entry/syscalls/syscall_{64,32}.tbl`. This file must not know what is done
//! about a call.

/// Entries of a table; numbers beyond it are not ours.
pub const TABLE: usize = 1024;

/// Set in the number of a call of the x32 ABI, which otherwise numbers as the 64-bit one does.
pub const X32_BIT: u64 = 0x4000_0000;

/// Nothing moves.
pub const NONE: u8 = 0;
/// Returns a descriptor.
pub const OPEN: u8 = 1;
/// (fd, …) → bytes read.
pub const READ: u8 = 2;
/// (fd, …) → bytes written.
pub const WRITE: u8 = 3;
/// (fd, …) → bytes sent.
pub const SEND: u8 = 4;
/// (fd, struct mmsghdr *, count) → messages sent.
pub const SENDMMSG: u8 = 5;
/// (fd, …) → bytes received, perhaps with descriptors.
pub const RECEIVE: u8 = 6;
/// (addr, len, prot, flags, fd, offset) → address.
pub const MAP: u8 = 7;
/// (struct mmap_arg_struct *): the first of two 32-bit forms.
pub const MAP_OLD: u8 = 8;
/// (addr, old length, new length, …) → address.
pub const REMAP: u8 = 9;
/// (out, in, offset, count) → bytes.
pub const SENDFILE: u8 = 10;
/// (in, offset, out, …) → bytes: splice and copy_file_range.
pub const SPLICE: u8 = 11;
/// (in, out, …) → bytes.
pub const TEE: u8 = 12;
/// (fd, request, argument).
pub const IOCTL: u8 = 13;
/// (fd, messages, …) → messages received, perhaps with descriptors.
pub const RECEIVE_MANY: u8 = 14;
/// socketcall(call, arguments): 32-bit only.
pub const SOCKETCALL: u8 = 15;
/// Makes descriptors that bytes can be put into, or connects one.
pub const CONNECT: u8 = 16;
/// (context, count, struct iocb **) → requests accepted, which complete later.
pub const SUBMIT: u8 = 17;
/// (fd, command, …) → a descriptor, if the command duplicates one.
pub const FCNTL: u8 = 18;
/// (fd): takes a descriptor away, under the hands of another thread's call perhaps.
pub const CLOSE: u8 = 19;
/// (old, new, …) → new, which stood for something else perhaps.
pub const REPLACE: u8 = 20;
/// Can send what waited in a socket, without being a send: setsockopt (`UDP_CORK`), and what requests of a ring ask for.
pub const FLUSH: u8 = 21;
/// shmat(id, address, flags) → address.
pub const ATTACH: u8 = 22;
/// ptrace(request, pid, address, data).
pub const TRACE: u8 = 23;
/// (pid, local vectors, …) → bytes read from another process.
pub const VM_READ: u8 = 24;
/// (pid, local vectors, …) → bytes written into another process.
pub const VM_WRITE: u8 = 25;
/// pidfd_getfd(pidfd, …) → descriptor.
pub const GETFD: u8 = 26;
/// (fd, …): the kernel reads all of the file.
pub const LOAD: u8 = 27;

/// remap_file_pages(addr, size, …): the mapping there shows another part of its file.
pub const SLIDE: u8 = 28;
/// fallocate(fd, mode, offset, length): by some modes another part of the file comes below its mappings.
pub const SHIFT: u8 = 29;
/// getsockopt(fd, level, option, …): one of them receives.
pub const OPTION: u8 = 30;
/// (fd, …): changes what is said of a file, and not what is in it.
pub const CHANGE: u8 = 32;

/// vmsplice(pipe, …): pages go into a pipe, by reference.
pub const GIVE: u8 = 33;

// What has no descriptor of its own, one after the other: see `is_channel`.

/// (queue, message, length, …): puts a message.
pub const MESSAGE_SEND: u8 = 34;
/// (queue, message, room, …) → bytes of a message.
pub const MESSAGE_RECEIVE: u8 = 35;
/// (descriptor of a queue, message, length, …).
pub const QUEUE_SEND: u8 = 36;
/// (path, name, value, length, …).
pub const ATTRIBUTE_SET: u8 = 37;
/// (fd, name, value, length, …).
pub const ATTRIBUTE_SET_OPEN: u8 = 38;
/// (path or fd, name, value, room) → bytes.
pub const ATTRIBUTE_GET: u8 = 39;
/// The same where the length lies in user memory.
pub const ATTRIBUTE_SET_AT: u8 = 40;
pub const ATTRIBUTE_GET_AT: u8 = 41;
/// (type, description, payload, length, …) → serial.
pub const KEY_ADD: u8 = 42;
/// keyctl(operation, key, …).
pub const KEY_CONTROL: u8 = 43;
/// request_key(type, description, what the helper is told, …): asks a program of user space.
pub const KEY_REQUEST: u8 = 44;
/// (target, …): a symbolic link.
pub const LINK: u8 = 45;
/// semctl(id, number, command, …).
pub const SEMAPHORES: u8 = 46;
/// ipc(call, first, second, third, pointer): 32-bit only.
pub const IPC: u8 = 47;

/// A signal with a `siginfo_t` of the sender's making: (pid, signal, info), (group, thread, signal, info), (pidfd, signal, info).
pub const SIGNAL: u8 = 31;

/// Names a file by a path and changes what is said of it, or its name.
pub const CHANGE_NAMED: u8 = 48;
/// Makes a filesystem that can be mounted, or mounts it.
pub const MOUNT: u8 = 49;

/// Something that can be done against the agent; told apart by number.
pub const TAMPER: u8 = 64;

/// Numbers of [`TAMPER`] in the 64-bit ABI; all others set a clock.
pub const BPF: usize = 321;
pub const PRLIMIT: usize = 302;

/// The 64-bit ABI.
pub const CALLS_64: [u8; TABLE] = table(&[
    (0, READ),           // read
    (1, WRITE),          // write
    (2, OPEN),           // open
    (3, CLOSE),          // close
    (9, MAP),            // mmap
    (16, IOCTL),         // ioctl
    (17, READ),          // pread64
    (18, WRITE),         // pwrite64
    (19, READ),          // readv
    (20, WRITE),         // writev
    (25, REMAP),         // mremap
    (32, OPEN),          // dup
    (33, REPLACE),       // dup2
    (40, SENDFILE),      // sendfile
    (44, SEND),          // sendto
    (45, READ),          // recvfrom
    (46, SEND),          // sendmsg
    (47, RECEIVE),       // recvmsg
    (72, FCNTL),         // fcntl
    (85, OPEN),          // creat
    (257, OPEN),         // openat
    (275, SPLICE),       // splice
    (276, TEE),          // tee
    (278, GIVE),         // vmsplice
    (295, READ),         // preadv
    (296, WRITE),        // pwritev
    (299, RECEIVE_MANY), // recvmmsg
    (292, REPLACE),      // dup3
    (300, OPEN),         // fanotify_init
    (304, OPEN),         // open_by_handle_at
    (307, SENDMMSG),     // sendmmsg
    (326, SPLICE),       // copy_file_range
    (327, READ),         // preadv2
    (328, WRITE),        // pwritev2
    (437, OPEN),         // openat2
    (438, GETFD),        // pidfd_getfd
    (101, TRACE),        // ptrace
    (310, VM_READ),      // process_vm_readv
    (311, VM_WRITE),     // process_vm_writev
    (129, SIGNAL),       // rt_sigqueueinfo
    (297, SIGNAL),       // rt_tgsigqueueinfo
    (424, SIGNAL),       // pidfd_send_signal
    (313, LOAD),         // finit_module
    (320, LOAD),         // kexec_file_load
    (216, SLIDE),        // remap_file_pages
    (285, SHIFT),        // fallocate
    (55, OPTION),        // getsockopt
    (54, FLUSH),         // setsockopt
    (426, FLUSH),        // io_uring_enter
    // Of the x32 ABI only.
    (521, TRACE),              // ptrace
    (542, OPTION),             // getsockopt
    (541, FLUSH),              // setsockopt
    (539, VM_READ),            // process_vm_readv
    (540, VM_WRITE),           // process_vm_writev
    (524, SIGNAL),             // rt_sigqueueinfo
    (536, SIGNAL),             // rt_tgsigqueueinfo
    (514, IOCTL),              // ioctl
    (515, READ),               // readv
    (516, WRITE),              // writev
    (517, READ),               // recvfrom
    (518, SEND),               // sendmsg
    (519, RECEIVE),            // recvmsg
    (532, GIVE),               // vmsplice
    (534, READ),               // preadv
    (535, WRITE),              // pwritev
    (537, RECEIVE_MANY),       // recvmmsg
    (538, SENDMMSG),           // sendmmsg
    (546, READ),               // preadv2
    (547, WRITE),              // pwritev2
    (22, CONNECT),             // pipe
    (41, OPEN),                // socket
    (42, CONNECT),             // connect
    (43, OPEN),                // accept
    (53, CONNECT),             // socketpair
    (209, SUBMIT),             // io_submit
    (288, OPEN),               // accept4
    (293, CONNECT),            // pipe2
    (319, OPEN),               // memfd_create
    (30, ATTACH),              // shmat
    (69, MESSAGE_SEND),        // msgsnd
    (70, MESSAGE_RECEIVE),     // msgrcv
    (66, SEMAPHORES),          // semctl
    (188, ATTRIBUTE_SET),      // setxattr
    (189, ATTRIBUTE_SET),      // lsetxattr
    (190, ATTRIBUTE_SET_OPEN), // fsetxattr
    (191, ATTRIBUTE_GET),      // getxattr
    (192, ATTRIBUTE_GET),      // lgetxattr
    (193, ATTRIBUTE_GET),      // fgetxattr
    (240, OPEN),               // mq_open
    (242, QUEUE_SEND),         // mq_timedsend
    (243, READ),               // mq_timedreceive
    (88, LINK),                // symlink
    (266, LINK),               // symlinkat
    (248, KEY_ADD),            // add_key
    (249, KEY_REQUEST),        // request_key
    (250, KEY_CONTROL),        // keyctl
    (463, ATTRIBUTE_SET_AT),   // setxattrat
    (464, ATTRIBUTE_GET_AT),   // getxattrat
    (91, CHANGE),              // fchmod
    (93, CHANGE),              // fchown
    (199, CHANGE),             // fremovexattr
    (280, CHANGE),             // utimensat, of a descriptor
    (76, CHANGE_NAMED),        // truncate
    (82, CHANGE_NAMED),        // rename
    (86, CHANGE_NAMED),        // link
    (87, CHANGE_NAMED),        // unlink
    (90, CHANGE_NAMED),        // chmod
    (92, CHANGE_NAMED),        // chown
    (94, CHANGE_NAMED),        // lchown
    (132, CHANGE_NAMED),       // utime
    (163, CHANGE_NAMED),       // acct
    (165, MOUNT),              // mount
    (167, CHANGE_NAMED),       // swapon
    (197, CHANGE_NAMED),       // removexattr
    (198, CHANGE_NAMED),       // lremovexattr
    (235, CHANGE_NAMED),       // utimes
    (260, CHANGE_NAMED),       // fchownat
    (261, CHANGE_NAMED),       // futimesat
    (263, CHANGE_NAMED),       // unlinkat
    (264, CHANGE_NAMED),       // renameat
    (265, CHANGE_NAMED),       // linkat
    (268, CHANGE_NAMED),       // fchmodat
    (316, CHANGE_NAMED),       // renameat2
    (431, MOUNT),              // fsconfig
    (452, CHANGE_NAMED),       // fchmodat2
    (466, CHANGE_NAMED),       // removexattrat
    (469, CHANGE_NAMED),       // file_setattr
    (164, TAMPER),             // settimeofday
    (227, TAMPER),             // clock_settime
    (305, TAMPER),             // clock_adjtime
    (159, TAMPER),             // adjtimex
    (PRLIMIT, TAMPER),
    (BPF, TAMPER),
]);

/// The 32-bit ABI.
pub const CALLS_32: [u8; TABLE] = table(&[
    (3, READ),                 // read
    (4, WRITE),                // write
    (5, OPEN),                 // open
    (6, CLOSE),                // close
    (8, OPEN),                 // creat
    (41, OPEN),                // dup
    (54, IOCTL),               // ioctl
    (55, FCNTL),               // fcntl
    (63, REPLACE),             // dup2
    (90, MAP_OLD),             // mmap
    (102, SOCKETCALL),         // socketcall
    (145, READ),               // readv
    (146, WRITE),              // writev
    (163, REMAP),              // mremap
    (180, READ),               // pread64
    (181, WRITE),              // pwrite64
    (187, SENDFILE),           // sendfile
    (192, MAP),                // mmap2
    (221, FCNTL),              // fcntl64
    (239, SENDFILE),           // sendfile64
    (295, OPEN),               // openat
    (313, SPLICE),             // splice
    (315, TEE),                // tee
    (316, GIVE),               // vmsplice
    (330, REPLACE),            // dup3
    (333, READ),               // preadv
    (334, WRITE),              // pwritev
    (338, OPEN),               // fanotify_init
    (337, RECEIVE_MANY),       // recvmmsg
    (342, OPEN),               // open_by_handle_at
    (345, SENDMMSG),           // sendmmsg
    (369, SEND),               // sendto
    (370, SEND),               // sendmsg
    (371, READ),               // recvfrom
    (372, RECEIVE),            // recvmsg
    (377, SPLICE),             // copy_file_range
    (378, READ),               // preadv2
    (379, WRITE),              // pwritev2
    (437, OPEN),               // openat2
    (438, GETFD),              // pidfd_getfd
    (26, TRACE),               // ptrace
    (347, VM_READ),            // process_vm_readv
    (348, VM_WRITE),           // process_vm_writev
    (178, SIGNAL),             // rt_sigqueueinfo
    (335, SIGNAL),             // rt_tgsigqueueinfo
    (424, SIGNAL),             // pidfd_send_signal
    (350, LOAD),               // finit_module
    (257, SLIDE),              // remap_file_pages
    (324, SHIFT),              // fallocate
    (365, OPTION),             // getsockopt
    (366, FLUSH),              // setsockopt
    (426, FLUSH),              // io_uring_enter
    (359, OPEN),               // socket
    (42, CONNECT),             // pipe
    (248, SUBMIT),             // io_submit
    (331, CONNECT),            // pipe2
    (356, OPEN),               // memfd_create
    (360, CONNECT),            // socketpair
    (362, CONNECT),            // connect
    (364, OPEN),               // accept4
    (417, RECEIVE_MANY),       // recvmmsg_time64
    (117, IPC),                // ipc
    (226, ATTRIBUTE_SET),      // setxattr
    (227, ATTRIBUTE_SET),      // lsetxattr
    (228, ATTRIBUTE_SET_OPEN), // fsetxattr
    (229, ATTRIBUTE_GET),      // getxattr
    (230, ATTRIBUTE_GET),      // lgetxattr
    (231, ATTRIBUTE_GET),      // fgetxattr
    (277, OPEN),               // mq_open
    (279, QUEUE_SEND),         // mq_timedsend
    (280, READ),               // mq_timedreceive
    (83, LINK),                // symlink
    (304, LINK),               // symlinkat
    (286, KEY_ADD),            // add_key
    (287, KEY_REQUEST),        // request_key
    (288, KEY_CONTROL),        // keyctl
    (94, CHANGE),              // fchmod
    (95, CHANGE),              // fchown
    (207, CHANGE),             // fchown32
    (237, CHANGE),             // fremovexattr
    (320, CHANGE),             // utimensat, of a descriptor
    (412, CHANGE),             // utimensat_time64
    (9, CHANGE_NAMED),         // link
    (10, CHANGE_NAMED),        // unlink
    (15, CHANGE_NAMED),        // chmod
    (16, CHANGE_NAMED),        // lchown
    (21, MOUNT),               // mount
    (30, CHANGE_NAMED),        // utime
    (38, CHANGE_NAMED),        // rename
    (51, CHANGE_NAMED),        // acct
    (87, CHANGE_NAMED),        // swapon
    (92, CHANGE_NAMED),        // truncate
    (182, CHANGE_NAMED),       // chown
    (193, CHANGE_NAMED),       // truncate64
    (198, CHANGE_NAMED),       // lchown32
    (212, CHANGE_NAMED),       // chown32
    (235, CHANGE_NAMED),       // removexattr
    (236, CHANGE_NAMED),       // lremovexattr
    (271, CHANGE_NAMED),       // utimes
    (298, CHANGE_NAMED),       // fchownat
    (299, CHANGE_NAMED),       // futimesat
    (301, CHANGE_NAMED),       // unlinkat
    (302, CHANGE_NAMED),       // renameat
    (303, CHANGE_NAMED),       // linkat
    (306, CHANGE_NAMED),       // fchmodat
    (353, CHANGE_NAMED),       // renameat2
    (431, MOUNT),              // fsconfig
    (452, CHANGE_NAMED),       // fchmodat2
    (466, CHANGE_NAMED),       // removexattrat
    (469, CHANGE_NAMED),       // file_setattr
    (397, ATTACH),             // shmat
    (400, MESSAGE_SEND),       // msgsnd
    (401, MESSAGE_RECEIVE),    // msgrcv
    (394, SEMAPHORES),         // semctl
    (418, QUEUE_SEND),         // mq_timedsend_time64
    (419, READ),               // mq_timedreceive_time64
    (463, ATTRIBUTE_SET_AT),   // setxattrat
    (464, ATTRIBUTE_GET_AT),   // getxattrat
]);

/// Whether a call of this kind works on descriptors among its arguments.
#[must_use]
pub const fn moves(kind: u8) -> bool {
    matches!(
        kind,
        READ | WRITE
            | GIVE
            | SEND
            | SENDMMSG
            | RECEIVE
            | RECEIVE_MANY
            | SENDFILE
            | SPLICE
            | TEE
            | MAP
            | MAP_OLD
            | IOCTL
    )
}

/// Whether a call of this kind puts into or takes out of something that has no descriptor: a message queue, a key, an extended attribute.
#[inline(always)]
#[must_use]
pub const fn is_channel(kind: u8) -> bool {
    MESSAGE_SEND <= kind && kind <= IPC
}

/// Whether a call of this kind can have an overlay copy a file that it names by a path.
#[must_use]
pub const fn copies(kind: u8) -> bool {
    matches!(kind, CHANGE_NAMED | CHANGE | ATTRIBUTE_SET | ATTRIBUTE_SET_AT)
}

/// Not 0 where either ABI has something to move: the first look, before it is known which one made the call.
pub const CALLS_ANY: [u8; TABLE] = {
    let mut any = CALLS_64;
    let mut number = 0;
    while number < TABLE {
        any[number] |= CALLS_32[number];
        number += 1;
    }
    any
};

const fn table(calls: &[(usize, u8)]) -> [u8; TABLE] {
    let mut table = [NONE; TABLE];
    let mut index = 0;
    while index < calls.len() {
        table[calls[index].0] = calls[index].1;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_misses_no_call_of_either_abi() {
        for number in 0..TABLE {
            let moves = CALLS_64[number] != NONE || CALLS_32[number] != NONE;
            assert_eq!(moves, CALLS_ANY[number] != NONE, "call {number}");
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(CALLS_64[326], SPLICE, "copy_file_range");
        assert_eq!(CALLS_64[40], SENDFILE);
        assert_eq!(CALLS_32[239], SENDFILE, "sendfile64");
        assert_eq!(CALLS_32[3], READ);
        assert_eq!((CALLS_64[190], CALLS_32[228]), (ATTRIBUTE_SET_OPEN, ATTRIBUTE_SET_OPEN), "fsetxattr");
        assert_eq!((CALLS_64[249], CALLS_32[287]), (KEY_REQUEST, KEY_REQUEST), "request_key");
    }
}
