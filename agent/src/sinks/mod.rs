//! Where alerts go. Each sink has its own bounded queue and its own thread, so that a slow one stalls nobody.
//!
//! Must not know how alerts come about. Shadow findings go to the alert log and nowhere else.

pub mod file;
mod queue;
pub mod terminal;

use std::time::{Duration, Instant};

pub use self::{
    file::{FileError, FileSink},
    queue::{Counts, Full},
    terminal::TerminalSink,
};
use crate::{
    alerts::{Alert, render},
    rules::Mode,
};

/// All sinks of a run.
#[derive(Debug, Default)]
pub struct Sinks {
    pub files: Vec<FileSink>,
    pub terminal: Option<TerminalSink>,
}

impl Sinks {
    /// The names under which sinks are counted.
    pub const NAMES: [&str; 2] = ["file", "terminal"];

    /// Hands an alert to every sink that it is for; returns at once. A full queue is counted and logged.
    pub fn send(&self, alert: &Alert) {
        for file in &self.files {
            if let Err(full) = file.send(alert.line.clone()) {
                tracing::error!(path = %file.path().display(), "{full}");
            }
        }
        if alert.matched.mode == Mode::Alert
            && let Some(terminal) = &self.terminal
        {
            // A person cannot read faster than a terminal scrolls: what does not fit is counted, and is in the log.
            let _ = terminal.send(render(alert, terminal.colour()));
        }
    }

    /// Sums by name, one for each of [`Sinks::NAMES`].
    #[must_use]
    pub fn counts(&self) -> [(&'static str, Counts); 2] {
        let files = self.files.iter().map(FileSink::counts).fold(Counts::default(), |sum, one| Counts {
            sent: sum.sent + one.sent,
            failed: sum.failed + one.failed,
            dropped: sum.dropped + one.dropped,
            backlog: sum.backlog + one.backlog,
        });
        let terminal = self.terminal.as_ref().map_or_else(Counts::default, TerminalSink::counts);
        [(Self::NAMES[0], files), (Self::NAMES[1], terminal)]
    }

    /// Delivers what is queued and stops, within `patience` in all. Returns how many alerts were left over.
    pub fn close(self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let mut over = 0;
        for file in self.files {
            over += file.close(left(deadline));
        }
        if let Some(terminal) = self.terminal {
            over += terminal.close(left(deadline));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{self, Read as _},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;
    use crate::{
        alerts::{
            Alerts, Context, Head,
            tests::{context, matched},
            verify,
        },
        event::{BootNs, Loss},
        rules::{Match, Severity},
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn the_chain_holds_over_restarts_and_shadow_stays_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.path().join("alerts.ndjson");
        let mut shown = String::new();
        for run in 0..3 {
            let opened = file::open(&path).unwrap();
            let (mut read, write) = io::pipe().unwrap();
            let sinks = Sinks {
                files: vec![opened.sink],
                terminal: Some(TerminalSink::start(write, false).unwrap()),
            };
            let mut alerts =
                Alerts::new(Context { run: [run; 16], head: opened.head, note: opened.note, ..context() });
            for (n, mode) in [Mode::Alert, Mode::Shadow].into_iter().enumerate() {
                let mut one = Match { mode, ..matched(Severity::High, 1 << 20, 1) };
                one.group[0].1 = n.to_string();
                for alert in alerts.observe(&one, BootNs(1), &Loss::new()) {
                    sinks.send(&alert);
                }
            }
            assert_eq!(sinks.close(PATIENCE), 0);
            read.read_to_string(&mut shown).unwrap();
        }
        let log = fs::read_to_string(&path).unwrap();
        assert_eq!(verify(Head::default(), log.lines()).unwrap().seq, 6);
        assert_eq!(shown.lines().filter(|line| line.contains("WB-0001")).count(), 3);
    }
}
