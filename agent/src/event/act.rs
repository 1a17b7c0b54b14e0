//! Acts: no bytes are counted, that they happened is what rules want to know.

use serde::{Deserialize, Serialize};

use super::HolderId;

/// An act: no bytes are counted, that it happened is what rules want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub kind: ActKind,
    /// Whose memory or descriptors were reached into; `None` where there is no second process.
    pub victim: Option<HolderId>,
    /// What it was done to, in the words of people: a device, a path, a channel.
    pub target: Option<String>,
}

words! {
    /// What was done.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    pub enum ActKind {
        Ptrace = "ptrace",
        ProcessVmRead = "process_vm_readv",
        ProcessVmWrite = "process_vm_writev",
        ProcMem = "proc_mem",
        ProcFd = "proc_fd",
        PidfdGetfd = "pidfd_getfd",
        CoreDump = "core_dump",
        RawDevice = "raw_device",
        LoopSetup = "loop_setup",
        NbdSetup = "nbd_setup",
        Snapshot = "snapshot",
        Packet = "af_packet",
        Xdp = "af_xdp",
        Rdma = "rdma",
        Vfio = "vfio",
        GpuDirect = "gpu_direct",
        GpuShared = "gpu_shared",
        Tunnel = "tunnel",
        RawMemory = "raw_memory",
        RawSocket = "raw_socket",
        Signalled = "signalled",
        Ended = "ended",
        Stopped = "stopped",
        LinksTouched = "links_touched",
        PinsTouched = "pins_touched",
        MapsTouched = "maps_touched",
        FilesChanged = "files_changed",
        ClockSet = "clock_set",
        HookSilent = "hook_silent",
        Lost = "lost",
        Restarted = "restarted",
        RulesRefused = "rules_refused",
    }
}

words! {
    /// Which family of rules an act belongs to.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum ActClass {
        /// Another process reached into a holder (WB-0006).
        Reach = "reach",
        /// Below the filesystem that stores an asset (WB-0005).
        Below = "below",
        /// A channel whose bytes cannot be counted was opened by a holder (WB-0008).
        Channel = "channel",
        /// A GPU that a holder has open was opened by another process: for rules of one's own.
        Gpu = "gpu",
        /// Against the agent, or a loss that it noticed (WB-0010).
        Tamper = "tamper",
    }
}

impl ActKind {
    /// The family that it belongs to.
    #[must_use]
    pub const fn class(self) -> ActClass {
        match self {
            Self::Ptrace
            | Self::ProcessVmRead
            | Self::ProcessVmWrite
            | Self::ProcMem
            | Self::ProcFd
            | Self::PidfdGetfd
            | Self::CoreDump => ActClass::Reach,
            Self::RawDevice | Self::LoopSetup | Self::NbdSetup | Self::Snapshot => ActClass::Below,
            Self::Packet
            | Self::Xdp
            | Self::Rdma
            | Self::Vfio
            | Self::GpuDirect
            | Self::Tunnel
            | Self::RawMemory
            | Self::RawSocket => ActClass::Channel,
            Self::GpuShared => ActClass::Gpu,
            Self::Signalled
            | Self::Ended
            | Self::Stopped
            | Self::LinksTouched
            | Self::PinsTouched
            | Self::MapsTouched
            | Self::FilesChanged
            | Self::ClockSet
            | Self::HookSilent
            | Self::Lost
            | Self::Restarted
            | Self::RulesRefused => ActClass::Tamper,
        }
    }
}
