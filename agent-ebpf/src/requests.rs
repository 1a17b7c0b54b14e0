//! Which requests of io_uring move bytes or make descriptors (`enum io_uring_op`, `include/uapi/linux/io_uring.h`).
//!
//! This file must not know what is done about a request.

/// Entries of the table; operations beyond it are not ours.
pub const TABLE: usize = 128;

/// Nothing moves.
pub const NONE: u8 = 0;
/// Takes from its file at most the length that it was given.
pub const TAKE: u8 = 1;
/// Takes from its file into vectors.
pub const TAKE_VECTORS: u8 = 2;
/// Takes from its file again and again.
pub const TAKE_MANY: u8 = 3;
/// Puts into its file at most the length that it was given.
pub const PUT: u8 = 4;
/// Puts vectors into its file.
pub const PUT_VECTORS: u8 = 5;
/// Sends through its socket.
pub const SEND: u8 = 6;
/// Receives from its socket, perhaps with descriptors.
pub const RECEIVE: u8 = 7;
/// Moves from one file into another.
pub const THROUGH: u8 = 8;
/// Its result is a descriptor or a slot of a file that it opened.
pub const OPEN: u8 = 9;
/// Makes descriptors that bytes can be put into, or connects one.
pub const CONNECT: u8 = 10;
/// Makes a descriptor of the file in a slot.
pub const INSTALL: u8 = 11;
/// What its file makes of it is not told.
pub const COMMAND: u8 = 12;
/// Stores an extended attribute.
pub const DESCRIBE: u8 = 13;
/// Returns an extended attribute.
pub const DESCRIBED: u8 = 14;
/// Makes a symbolic link, whose text is the caller's.
pub const LINK: u8 = 15;

/// Changes what is said of a file that a path names, or its name.
pub const CHANGE: u8 = 16;

/// By number of the operation.
pub const OPERATIONS: [u8; TABLE] = {
    let list: &[(usize, u8)] = &[
        (1, TAKE_VECTORS),  // READV
        (2, PUT_VECTORS),   // WRITEV
        (4, TAKE),          // READ_FIXED
        (5, PUT),           // WRITE_FIXED
        (9, SEND),          // SENDMSG
        (10, RECEIVE),      // RECVMSG
        (13, CONNECT),      // ACCEPT
        (16, CONNECT),      // CONNECT
        (18, OPEN),         // OPENAT
        (22, TAKE),         // READ
        (23, PUT),          // WRITE
        (26, SEND),         // SEND
        (27, RECEIVE),      // RECV
        (28, OPEN),         // OPENAT2
        (30, THROUGH),      // SPLICE
        (33, THROUGH),      // TEE
        (35, CHANGE),       // RENAMEAT
        (36, CHANGE),       // UNLINKAT
        (38, LINK),         // SYMLINKAT
        (39, CHANGE),       // LINKAT
        (41, DESCRIBE),     // FSETXATTR
        (42, DESCRIBE),     // SETXATTR
        (43, DESCRIBED),    // FGETXATTR
        (44, DESCRIBED),    // GETXATTR
        (45, CONNECT),      // SOCKET
        (46, COMMAND),      // URING_CMD
        (47, SEND),         // SEND_ZC
        (48, SEND),         // SENDMSG_ZC
        (49, TAKE_MANY),    // READ_MULTISHOT
        (54, INSTALL),      // FIXED_FD_INSTALL
        (60, TAKE_VECTORS), // READV_FIXED
        (61, PUT_VECTORS),  // WRITEV_FIXED
        (62, CONNECT),      // PIPE
        (64, COMMAND),      // URING_CMD128
    ];
    let mut table = [NONE; TABLE];
    let mut index = 0;
    while index < list.len() {
        table[list[index].0] = list[index].1;
        index += 1;
    }
    table
};
