//! Debug lines for people who look for a fault; nothing is concluded from them.
//!
//! The loader sets `AYA_LOG_LEVEL` before the verifier looks, which removes all of this unless the agent's log wants it. Only
//! what is rare for a process may be said here, never what happens at each read or write. Each line is a function that is
//! verified once, and whose frame only its caller's chain has to bear.

use aya_log_ebpf::debug;

/// A process can pass asset bytes on from now on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn log_spreads(tgid: u32, assets: u64, carriers: u32) -> u32 {
    debug!((), target: "kernel", "process {} spreads assets {:x}, carriers made: {}", tgid, assets, carriers);
    0
}

/// A holder forked.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn log_forked(parent: u32, child: u32, bytes: u64) -> u32 {
    debug!((), target: "kernel", "holder {} forked {}, which inherits {} bytes", parent, child, bytes);
    0
}

/// A holder executed another program.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn log_execed(tgid: u32, bytes: u64) -> u32 {
    debug!((), target: "kernel", "holder {} executed, its new image inherits {} bytes", tgid, bytes);
    0
}

/// A holder ended.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn log_ended(tgid: u32, bytes: u64) -> u32 {
    debug!((), target: "kernel", "holder {} ended, it had taken {} bytes", tgid, bytes);
    0
}
