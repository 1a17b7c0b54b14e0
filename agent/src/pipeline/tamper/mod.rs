//! Tampering with the agent (WB-0010): what the kernel side saw others do, and what the agent finds out about itself.
//!
//! `files` watches what it depends on, `look` the rest. These say what and not who; where the kernel side saw who, that is said
//! instead.

mod files;
mod look;
mod posture;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub(super) use self::look::SelfCheck;
use super::Pipeline;
use crate::{
    event::{Act, ActKind, Asset, AssetList, BootNs, Event, HolderId, Process, Record, RecordKind},
    sensor::{Tampered, Tampering},
};

/// Who did something is known for so long, when a self-check finds what.
const FRESH: u64 = 10_000_000_000;

impl Pipeline {
    /// The agent slept for `took`, and had meant to for `meant`.
    pub(crate) fn slept(&mut self, meant: Duration, took: Duration) {
        self.own.slept(meant, took);
    }

    /// The agent did not sleep for `took`.
    pub(crate) fn worked(&mut self, took: Duration) {
        self.own.worked(took);
    }

    /// Somebody did something against the agent.
    pub(crate) fn tampered(&mut self, tampering: Tampering, now: BootNs) {
        let Tampering { actor, what, at } = tampering;
        let holder = actor.unwrap_or(HolderId::HOST);
        let (kind, target) = match what {
            Tampered::Signal(signal) => {
                let name = signal_name(signal);
                self.own.signals.insert(name.clone());
                let kind = match name.as_str() {
                    "SIGTERM" | "SIGINT" | "SIGQUIT" if is_manager(holder.tgid) => ActKind::Ended,
                    "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => ActKind::Stopped,
                    _ => ActKind::Signalled,
                };
                (kind, name)
            }
            Tampered::Map(name) => (
                ActKind::MapsTouched,
                name.unwrap_or_else(|| "what is pinned, while no agent ran".to_owned()),
            ),
            Tampered::Link(name) => (ActKind::LinksTouched, name),
            Tampered::File(None) => (ActKind::FilesChanged, "while no agent ran".to_owned()),
            Tampered::File(Some(path)) => {
                let text = path.display().to_string();
                self.own.files.opened(path, at);
                (ActKind::FilesChanged, text)
            }
            // Whether the wall clock jumped is seen in the next check.
            Tampered::Clock => {
                self.own.clock = Some((holder, at));
                return;
            }
            Tampered::Limit(resource) => {
                self.own.limited = Some(at);
                (ActKind::Signalled, format!("resource limit {resource}"))
            }
            Tampered::Reached(by) => (ActKind::Signalled, format!("reached into by {by}")),
            Tampered::Unknown => (ActKind::Signalled, "something that found no room".to_owned()),
        };
        self.raise(holder, kind, Some(target), now);
    }

    /// The agent ends because of this signal. Where nobody was seen who sent it, it was not sent as others are: by the agent itself, made to by
    /// a debugger or a program of BPF (`bpf_send_signal`).
    pub(crate) fn asked_to_end(&mut self, signal: &str, now: BootNs) {
        if !self.own.signals.contains(signal) {
            let text = format!("{signal}, and nobody was seen who sent it");
            self.raise(HolderId::HOST, ActKind::Signalled, Some(text), now);
        }
    }

    /// Looks whether the agent and its files are what they were; call it about once a second.
    pub(crate) fn check_self(&mut self, now: BootNs) {
        for (holder, kind, target) in self.own.look(now) {
            self.raise(holder, kind, target, now);
        }
        // The length before the file: a line that is written in between makes the file longer, and never shorter.
        let lengths: Vec<(PathBuf, u64)> =
            self.sinks.files.iter().map(|file| (file.path().to_owned(), file.length())).collect();
        for (path, length) in lengths {
            if self.own.files.is_shortened(&path, length) {
                let target = Some(format!("{} is shorter than it was", path.display()));
                self.raise(HolderId::HOST, ActKind::FilesChanged, target, now);
            }
        }
        let loss = self.loss();
        for stage in self.own.lost(&loss) {
            self.raise(HolderId::HOST, ActKind::Lost, Some(stage.to_owned()), now);
        }
    }

    /// Raises an act against the agent itself, or something that it noticed about itself. The one door for all of them.
    pub(crate) fn raise(&mut self, holder: HolderId, kind: ActKind, target: Option<String>, now: BootNs) {
        let process = if holder == HolderId::HOST {
            Arc::new(Process::host())
        } else {
            self.identities.look_up(holder)
        };
        tracing::warn!(act = kind.as_str(), target = target.as_deref(), pid = holder.tgid, exe = %process.exe, "tampering");
        let act = Act { kind, victim: None, target };
        if let Some(recorder) = &mut self.recorder {
            if holder != HolderId::HOST {
                recorder.write(now, &Event::Process { holder, process: Arc::clone(&process) });
            }
            let assets = AssetList::default();
            recorder.write(now, &Event::Act { holder, act: act.clone(), assets, at: now });
        }
        // Past the ledger: it moves no bytes, and a process that only did this is no holder that anything would ever end.
        let record = Record {
            kind: RecordKind::Act,
            at: now,
            asset: Arc::new(Asset::host()),
            holder,
            process,
            sink: None,
            bytes: 0,
            act: Some(act),
            victim: None,
            listed: false,
            lineage: Arc::new(Vec::new()),
        };
        self.moved = true;
        self.metrics.add_record(&record);
        self.engine.observe(&record, &mut self.matches);
        self.say(now);
    }
}

/// Whether what was seen at `at` explains what is found now.
const fn is_fresh(at: BootNs, now: BootNs) -> bool {
    now.0.saturating_sub(at.0) < FRESH
}

/// Whether a process may end the agent in the orderly way: pid 1, and who started it.
fn is_manager(tgid: u32) -> bool {
    tgid == 1 || tgid == std::os::unix::process::parent_id()
}

fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match (signal as usize).checked_sub(1).and_then(|at| NAMES.get(at)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(
            (signal_name(9), signal_name(31), signal_name(34)),
            ("SIGKILL".into(), "SIGSYS".into(), "signal 34".into())
        );
        assert_eq!(signal_name(0), "signal 0");
    }
}
