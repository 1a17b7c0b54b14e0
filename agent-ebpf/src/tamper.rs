//! The ABI of what is done against the agent itself.
//!
//! As the rest of the ABI: plain integers only, checked by user space. It must not know what an alert is.

use crate::HolderKey;

/// One row for each who, what and to which: repeated however often, it stays one row, so that a flood loses none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TamperKey {
    pub actor: HolderKey,
    /// One of the `TAMPER_` constants.
    pub kind: u32,
    /// Which: by kind.
    pub number: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TamperValue {
    pub count: u64,
    /// ns since boot of the newest.
    pub last: u64,
}

/// A signal was sent to the agent; `number` is the signal.
pub const TAMPER_SIGNAL: u32 = 1;
/// A BPF map, program or link of the agent was opened or used; `number` is the agent's own descriptor of it.
pub const TAMPER_BPF: u32 = 2;
/// A file of the agent was opened for writing; `number` is what user space called it.
pub const TAMPER_FILE: u32 = 3;
/// A clock was set; whether the wall clock jumped is for user space to see.
pub const TAMPER_CLOCK: u32 = 4;
/// Limits of the agent were changed from outside (prlimit); `number` is the resource.
pub const TAMPER_LIMIT: u32 = 5;

/// The agent's memory was reached into, or a descriptor of it taken; `number` is one of the `ACT_` constants.
pub const TAMPER_REACH: u32 = 6;

/// Words of `TAMPERED`. How often anything was noted, and how many of these found no room in `TAMPERS`.
pub const TAMPERED_COUNT: u32 = 0;
pub const TAMPERED_BEYOND: u32 = 1;
/// What was noted until this moment (ns since boot) was told of (user space): a later agent goes on from there.
pub const TAMPERED_TOLD: u32 = 2;
pub const TAMPERED_WORDS: u32 = 3;
