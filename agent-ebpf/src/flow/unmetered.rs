//! Channels whose bytes nothing counts: that a holder has one is all that can be said.

use agent_ebpf::acts::{ACT_DEVICE, ACT_GPU_SHARED, ACT_SOCKET, CHANNEL_GPU, CHANNEL_UNSEEN};

use super::{act, gpu};
use crate::kernel::{File, S_IFCHR, S_IFSOCK, Task};

/// Families that reach other hosts or devices and are no IP, vsock, Unix or netlink: CAN, TIPC, Bluetooth, RDS, phonet,
/// 802.15.4, CAIF, NFC, QIPCRTR, SMC, XDP, MCTP, and packets of the link layer.
const fn is_unmetered(family: u16) -> bool {
    matches!(family, 17 | 21 | 29 | 30 | 31 | 35 | 36 | 37 | 39 | 42 | 43 | 44 | 45)
}

/// `task`'s process has `file` open and spreads `assets`; nothing happens if there are none.
#[inline(always)]
pub(crate) fn on_have(task: Task, file: File, assets: u64) {
    if assets != 0 {
        flow_channel(task.0, file.0, assets);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_channel(task: u64, file: u64, assets: u64) -> u32 {
    match channel(File(file)) {
        // That its owner holds something is new, even where its node is not.
        Some((ACT_GPU_SHARED, number)) => {
            gpu::flow_note_gpu(task, number);
            act::changed();
        }
        Some((kind, number)) => act::note(Task(task), kind, number, assets),
        None => {}
    }
    0
}

#[inline(always)]
fn channel(file: File) -> Option<(u32, u32)> {
    let inode = file.inode()?;
    match inode.kind()? {
        S_IFSOCK => {
            let family = file.socket()?.family()?;
            if is_unmetered(family) { Some((ACT_SOCKET, u32::from(family))) } else { None }
        }
        S_IFCHR => {
            let device = inode.rdev()?;
            match gpu::channel_of(device) {
                CHANNEL_UNSEEN => Some((ACT_DEVICE, device)),
                CHANNEL_GPU => Some((ACT_GPU_SHARED, device)),
                _ => None,
            }
        }
        _ => None,
    }
}
