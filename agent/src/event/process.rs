//! Who holds and who moves: a process image as the kernel knows it, and in the words of people.

use serde::{Deserialize, Serialize};

use super::BootNs;

/// A process image, never the pid alone: thread group id, the start of its leader (`task_struct.start_boottime`), and the
/// count of its execs (`task_struct.self_exec_id`), because memory does not outlive an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HolderId {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Count of execs; copied at a fork, so that it starts anywhere.
    pub exec: u32,
    /// Start of the thread group leader, ns since boot.
    pub start: BootNs,
}

impl HolderId {
    /// The host itself, where no process can be named.
    pub const HOST: Self = Self { tgid: 0, exec: 0, start: BootNs(0) };
}

/// Who moved bytes. Serialises as the alert's `process`; `None` is «not known».
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// ns since boot.
    pub start: u64,
    /// Path of the executable as the kernel named it when it was executed; empty when not known.
    pub exe: String,
    /// Lower-case hex; `None` when the file was gone or no longer the one that was executed, [`Process::NO_HASH`] when it never
    /// lay in a directory and is gone.
    pub exe_sha256: Option<String>,
    /// Arguments joined by spaces, as executed (later changes to argv do not show).
    pub cmdline: String,
    pub uid: u32,
    /// Login uid (`loginuid`); `None` when never set.
    pub auid: Option<u32>,
    /// Path below the cgroup2 mount.
    pub cgroup: Option<String>,
    /// Container id, from the cgroup path.
    pub container: Option<String>,
    /// systemd unit, from the cgroup path.
    pub unit: Option<String>,
    /// Parent first, to pid 1.
    pub ancestry: Vec<Ancestor>,
}

impl Process {
    /// Stands in the place of a hash where nothing is left that could be hashed: a program that ran out of `memfd_create`.
    pub const NO_HASH: &str = "unavailable";

    /// The hash, where there is one.
    #[must_use]
    pub fn hash(&self) -> Option<&str> {
        self.exe_sha256.as_deref().filter(|hash| *hash != Self::NO_HASH)
    }

    /// The host itself, where no process can be named. Its pid is 0, and alerts leave it out.
    #[must_use]
    pub const fn host() -> Self {
        Self {
            pid: 0,
            start: 0,
            exe: String::new(),
            exe_sha256: None,
            cmdline: String::new(),
            uid: 0,
            auid: None,
            cgroup: None,
            container: None,
            unit: None,
            ancestry: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub pid: u32,
    pub exe: String,
    pub cmdline: String,
}
