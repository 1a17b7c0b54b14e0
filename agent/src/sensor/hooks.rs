//! The hooks: which programs there are, where each attaches, what is lost without it, and whether a kernel has the place. It must
//! not know how they are loaded.

use agent_ebpf::fields::PROTOTYPES;

use super::btf::Btf;

/// A program of ours and where it attaches.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program and of the hook.
    pub name: &'static str,
    pub kind: HookKind,
    /// The agent does not start without it.
    pub required: bool,
    /// What is lost without it.
    pub without: &'static str,
}

impl Hook {
    /// The tracepoint that it attaches to.
    pub(super) const fn tracepoint(&self) -> &'static str {
        if let HookKind::TracepointAs(other) = self.kind { other } else { self.name }
    }

    /// Whether it is attached, and stays so: iterators run when they are asked to.
    pub(super) const fn is_attached(&self) -> bool {
        !matches!(self.kind, HookKind::Iterator(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// A BTF tracepoint of the same name.
    Tracepoint,
    /// This BTF tracepoint, in another form than that of the program of the same name.
    TracepointAs(&'static str),
    /// A BPF iterator over these.
    Iterator(&'static str),
    /// Packets that leave through sockets of a cgroup.
    Egress,
}

/// The hook that counts sends where it can; elsewhere `sys_exit` does.
pub(super) const SENDS: &str = "sock_send_length";
/// The one that counts receives where it can.
pub(super) const RECEIVES: &str = "sock_recv_length";
/// The one that tells when a request of io_uring looks up its descriptor.
pub(super) const NAMES: &str = "io_uring_file_get";

/// Programs for two forms of one tracepoint: newer kernels, older kernels.
const ALTERNATIVES: [(&str, &str); 2] =
    [("io_uring_complete", "io_uring_complete_by_value"), ("io_uring_submit_req", "io_uring_submit_sqe")];

/// The hook of the host-wide scale.
pub(super) const EGRESS: &str = "cgroup_skb_egress";

/// In the order in which they attach: what keeps identities first, what counts last.
pub const HOOKS: [Hook; 20] = [
    tracepoint("sched_process_fork", true, "children of holders"),
    tracepoint("sched_process_exec", true, "identities of processes"),
    tracepoint("sched_process_exit", true, "the end of processes"),
    tracepoint(SENDS, false, "sends are counted when their system call returns; io_uring sends are not seen"),
    tracepoint(
        RECEIVES,
        false,
        "receives are counted when their system call returns, and those of io_uring when they complete",
    ),
    tracepoint(
        "netif_rx",
        false,
        "loopback UDP counts as an uncontrolled peer, and its readers are not followed",
    ),
    tracepoint(
        "inet_sock_set_state",
        false,
        "peers in other network namespaces of this host are followed only once a scan has seen their sockets",
    ),
    tracepoint(NAMES, false, "a request of io_uring is weighed by the descriptor's file at its submission"),
    tracepoint("io_uring_complete", false, "opens, reads and writes through io_uring are not seen"),
    Hook {
        name: "io_uring_complete_by_value",
        kind: HookKind::TracepointAs("io_uring_complete"),
        required: false,
        without: "opens, reads and writes through io_uring are not seen",
    },
    tracepoint("io_uring_cqe_overflow", false, "requests of io_uring whose event finds no room are not seen"),
    tracepoint(
        "io_uring_submit_req",
        false,
        "requests of io_uring that complete without an event are not seen",
    ),
    tracepoint(
        "io_uring_submit_sqe",
        false,
        "requests of io_uring that complete without an event are not seen",
    ),
    tracepoint("signal_generate", false, "who sends signals to the agent"),
    iterator("scan_processes", "task", true, "processes older than the agent"),
    iterator("scan_files", "task_file", true, "descriptors older than the agent"),
    iterator("scan_marks", "task", true, "an end to watching processes"),
    iterator("scan_mappings", "task_vma", false, "mappings older than the agent"),
    tracepoint("sys_exit", true, "every system call"),
    Hook { name: EGRESS, kind: HookKind::Egress, required: false, without: "what the whole host sends" },
];

const fn tracepoint(name: &'static str, required: bool, without: &'static str) -> Hook {
    Hook { name, kind: HookKind::Tracepoint, required, without }
}

const fn iterator(name: &'static str, over: &'static str, required: bool, without: &'static str) -> Hook {
    Hook { name, kind: HookKind::Iterator(over), required, without }
}

/// What came of one hook.
#[derive(Debug)]
pub struct HookReport {
    pub hook: Hook,
    pub result: Result<(), String>,
}

/// Of two forms of one tracepoint a kernel has one: the other is not missing.
pub(super) fn settle_alternatives(hooks: &mut Vec<HookReport>) {
    for (newer, older) in ALTERNATIVES {
        let works = |name| hooks.iter().any(|report| report.hook.name == name && report.result.is_ok());
        let absent = if works(older) { newer } else { older };
        hooks.retain(|report| report.hook.name != absent);
    }
}

/// Whether the running kernel has the tracepoint of this program with the arguments that it reads; if not, why.
pub(super) fn fits(kernel: &Btf<'_>, program: &str) -> Result<(), String> {
    let tracepoint = HOOKS.iter().find(|hook| hook.name == program).map_or(program, |hook| hook.tracepoint());
    let Some(found) = kernel.tracepoint(tracepoint) else {
        return Err(format!("not on this kernel: it has no tracepoint {tracepoint}"));
    };
    match PROTOTYPES.iter().find(|(name, _)| *name == program) {
        Some((_, wanted)) if *wanted != found => {
            Err(format!("not on this kernel: its {tracepoint} is {found}, and {wanted} is needed"))
        }
        _ => Ok(()),
    }
}
