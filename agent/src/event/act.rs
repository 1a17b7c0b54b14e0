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

/// What was done. A new one is one row of [`ACTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActKind {
    Ptrace,
    ProcessVmRead,
    ProcessVmWrite,
    ProcMem,
    ProcFd,
    PidfdGetfd,
    CoreDump,
    RawDevice,
    LoopSetup,
    NbdSetup,
    Snapshot,
    Packet,
    Xdp,
    Rdma,
    Vfio,
    GpuDirect,
    GpuShared,
    Tunnel,
    RawMemory,
    RawSocket,
    Signalled,
    Ended,
    Stopped,
    LinksTouched,
    PinsTouched,
    MapsTouched,
    FilesChanged,
    ClockSet,
    HookSilent,
    Lost,
    Restarted,
    RulesRefused,
}

/// Which family of rules an act belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActClass {
    /// Another process reached into a holder (WB-0006).
    Reach,
    /// Below the filesystem that stores an asset (WB-0005).
    Below,
    /// A channel whose bytes cannot be counted was opened by a holder (WB-0008).
    Channel,
    /// A GPU that a holder has open was opened by another process: for rules of one's own.
    Gpu,
    /// Against the agent, or a loss that it noticed (WB-0010).
    Tamper,
}

impl ActClass {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::Below => "below",
            Self::Channel => "channel",
            Self::Gpu => "gpu",
            Self::Tamper => "tamper",
        }
    }
}

/// Every act: the word that rules use, and its class.
pub const ACTS: [(ActKind, &str, ActClass); 32] = [
    (ActKind::Ptrace, "ptrace", ActClass::Reach),
    (ActKind::ProcessVmRead, "process_vm_readv", ActClass::Reach),
    (ActKind::ProcessVmWrite, "process_vm_writev", ActClass::Reach),
    (ActKind::ProcMem, "proc_mem", ActClass::Reach),
    (ActKind::ProcFd, "proc_fd", ActClass::Reach),
    (ActKind::PidfdGetfd, "pidfd_getfd", ActClass::Reach),
    (ActKind::CoreDump, "core_dump", ActClass::Reach),
    (ActKind::RawDevice, "raw_device", ActClass::Below),
    (ActKind::LoopSetup, "loop_setup", ActClass::Below),
    (ActKind::NbdSetup, "nbd_setup", ActClass::Below),
    (ActKind::Snapshot, "snapshot", ActClass::Below),
    (ActKind::Packet, "af_packet", ActClass::Channel),
    (ActKind::Xdp, "af_xdp", ActClass::Channel),
    (ActKind::Rdma, "rdma", ActClass::Channel),
    (ActKind::Vfio, "vfio", ActClass::Channel),
    (ActKind::GpuDirect, "gpu_direct", ActClass::Channel),
    (ActKind::GpuShared, "gpu_shared", ActClass::Gpu),
    (ActKind::Tunnel, "tunnel", ActClass::Channel),
    (ActKind::RawMemory, "raw_memory", ActClass::Channel),
    (ActKind::RawSocket, "raw_socket", ActClass::Channel),
    (ActKind::Signalled, "signalled", ActClass::Tamper),
    (ActKind::Ended, "ended", ActClass::Tamper),
    (ActKind::Stopped, "stopped", ActClass::Tamper),
    (ActKind::LinksTouched, "links_touched", ActClass::Tamper),
    (ActKind::PinsTouched, "pins_touched", ActClass::Tamper),
    (ActKind::MapsTouched, "maps_touched", ActClass::Tamper),
    (ActKind::FilesChanged, "files_changed", ActClass::Tamper),
    (ActKind::ClockSet, "clock_set", ActClass::Tamper),
    (ActKind::HookSilent, "hook_silent", ActClass::Tamper),
    (ActKind::Lost, "lost", ActClass::Tamper),
    (ActKind::Restarted, "restarted", ActClass::Tamper),
    (ActKind::RulesRefused, "rules_refused", ActClass::Tamper),
];

impl ActKind {
    /// The word that rules use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ACTS.iter().find(|(kind, ..)| *kind == self).map_or("unknown", |(_, word, _)| word)
    }

    #[must_use]
    pub fn class(self) -> ActClass {
        ACTS.iter().find(|(kind, ..)| *kind == self).map_or(ActClass::Tamper, |(.., class)| *class)
    }
}
