//! Calls that map files, or change what a mapping shows.

use aya_ebpf::helpers::bpf_probe_read_user;

use super::Call;
use crate::flow::{
    map::{on_grow, on_map, on_map_anonymous},
    put::on_put_unknown,
};

/// Of a process that holds something, a mapping came to show `bytes` that its file has elsewhere: to read them, or to write
/// over them.
#[inline(always)]
pub(super) fn shown_anew(call: &Call, bytes: u64) {
    if bytes != 0 {
        on_grow(call.task, bytes);
        on_put_unknown(call.task, bytes);
    }
}

/// fallocate: where it cuts a part out of a file or moves the rest away to make room, mappings show another part from then on.
/// The length of that part; 0 for other modes.
#[inline(never)]
pub(super) fn shifted(call: &Call) -> u64 {
    /// `FALLOC_FL_COLLAPSE_RANGE` and `FALLOC_FL_INSERT_RANGE`.
    const SHIFTS: u64 = 0x08 | 0x20;
    if call.argument(1) & SHIFTS == 0 {
        return 0;
    }
    // An offset of 64 bits is two arguments of i386.
    call.argument(if call.compat { 4 } else { 3 })
}

const MAP_SHARED: u64 = 1;
const MAP_ANONYMOUS: u64 = 0x20;

#[inline(never)]
pub(super) fn mapped(call: &Call) {
    let flags = call.argument(3);
    if flags & MAP_ANONYMOUS != 0 {
        if flags & MAP_SHARED != 0 {
            on_map_anonymous(call.task, call.argument(1));
        }
        return;
    }
    if let Some(file) = call.file(call.argument(4)) {
        on_map(call.task, file, call.argument(1), flags & MAP_SHARED != 0);
    }
}

/// mmap of i386: its one argument points to the six.
#[inline(never)]
pub(super) fn mapped_old(call: &Call) {
    // Without the first and the last, the address and the offset.
    // SAFETY: the helper checks the address.
    let Ok([len, _, flags, fd]) = (unsafe { bpf_probe_read_user((call.argument(0) + 4) as *const [u32; 4]) })
    else {
        return;
    };
    if u64::from(flags) & MAP_ANONYMOUS != 0 {
        if u64::from(flags) & MAP_SHARED != 0 {
            on_map_anonymous(call.task, u64::from(len));
        }
        return;
    }
    if let Some(file) = call.file(u64::from(fd)) {
        on_map(call.task, file, u64::from(len), u64::from(flags) & MAP_SHARED != 0);
    }
}
