//! Paths by walking dentries to the root of the filesystem; user space joins the mount point.
//!
//! `bpf_d_path` is not allowed where we attach, and a path is for people only: identities are inodes.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;

use crate::{kernel::Dentry, maps::lose};
use agent_ebpf::{LOSS_PATH_CUT, NAME_BYTES, PATH_BYTES, RawPath};

/// Deeper than this a path is cut.
const DEPTH: usize = 40;

/// Writes the path of `dentry` into `path`.
///
/// # Safety
///
/// `path` points to a whole `RawPath` in a map's value.
#[inline(always)]
pub(crate) unsafe fn write(dentry: Dentry, path: *mut RawPath) {
    let mut len: u32 = 0;
    let mut entry = dentry;
    let mut whole = false;
    // SAFETY: the fields of *path are contiguous, `bytes` before `spare`.
    let bytes = unsafe { &raw mut (*path).bytes } as *mut u8;
    for depth in 0..DEPTH {
        let Some(parent) = entry.parent() else {
            whole = true;
            // A file without a directory has a name all the same: `memfd:…`.
            if depth == 0
                && let Some(name) = entry.name()
            {
                // SAFETY: a whole name, at the start of the buffer.
                let written =
                    unsafe { bpf_probe_read_kernel_str(bytes.cast(), NAME_BYTES as u32, name as *const _) };
                // The root of a filesystem is called `/`.
                if written > 2 && written <= NAME_BYTES as i64 {
                    len = written as u32;
                }
            }
            break;
        };
        let Some(name) = entry.name() else { break };
        if len >= PATH_BYTES as u32 {
            break;
        }
        // SAFETY: len < PATH_BYTES, and `spare` behind `bytes` has room for one whole name.
        let written = unsafe {
            bpf_probe_read_kernel_str(bytes.add(len as usize).cast(), NAME_BYTES as u32, name as *const _)
        };
        if written <= 0 || written > NAME_BYTES as i64 {
            break;
        }
        len += written as u32;
        entry = parent;
    }
    if !whole {
        lose(LOSS_PATH_CUT, 1);
    }
    // SAFETY: the caller's.
    unsafe {
        (*path).len = if len > PATH_BYTES as u32 { PATH_BYTES as u32 } else { len };
        (*path).truncated = !whole as u32;
    }
}
