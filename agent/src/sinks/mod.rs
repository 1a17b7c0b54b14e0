//! Where alerts go. Each sink has its own bounded queue and its own thread, so that a slow one stalls nobody.
//!
//! Must not know how alerts come about. Shadow findings go to the alert log and nowhere else.

mod alertmanager;
mod backoff;
pub mod file;
mod http;
mod inbox;
mod journald;
mod queue;
mod relay;
mod spool;
mod status;
pub mod terminal;
mod troubles;
mod webhook;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::{
    alertmanager::Notice, inbox::Inbox, relay::Parcel, spool::Spool, status::Status, troubles::Troubles,
};
pub use self::{
    file::{FileError, FileSink},
    http::{HttpError, SecretError, TlsError},
    queue::{Counts, Full},
    status::Trouble,
    terminal::TerminalSink,
    troubles::Turn,
};
use crate::{
    alerts::{Alert, render, sha256_hex},
    config::{self, Placed, SinkConfig},
    rules::Mode,
};

/// Below the state directory.
pub const SPOOLS: &str = "spool";

/// All sinks of a run.
#[derive(Debug, Default)]
pub struct Sinks {
    pub files: Vec<FileSink>,
    pub terminal: Option<TerminalSink>,
    /// One for each instance.
    alertmanagers: Vec<Inbox<Notice>>,
    webhooks: Vec<Inbox<Parcel>>,
    journald: Option<Inbox<Parcel>>,
    troubles: Troubles,
}

impl Sinks {
    /// The names under which sinks are counted.
    pub const NAMES: [&str; 5] = ["file", "terminal", "alertmanager", "webhook", "journald"];

    /// Starts what delivers over something that can fail; files and the terminal are opened by themselves.
    ///
    /// # Errors
    /// When no thread can be started, or something that is configured cannot be read.
    pub fn start(&mut self, configured: &[SinkConfig], state_dir: &Path) -> io::Result<()> {
        let spools = state_dir.join(SPOOLS);
        if let Some((_, error)) = faults(configured).into_iter().next() {
            return Err(io::Error::other(error));
        }
        for sink in configured {
            match sink {
                SinkConfig::File { .. } => {}
                SinkConfig::Alertmanager { instances, resend, hold, runbooks } => {
                    for target in instances {
                        let started =
                            alertmanager::start(&target.value, *resend, *hold, runbooks.clone(), &spools)?;
                        self.alertmanagers.push(started);
                    }
                }
                SinkConfig::Webhook { target, secret } => {
                    self.webhooks.push(webhook::start(&target.value, secret.as_ref(), &spools)?);
                }
                SinkConfig::Journald { .. } => self.journald = Some(journald::start(&spools)?),
            }
        }
        Ok(())
    }

    /// Hands an alert to every sink that it is for; returns at once. A full queue is counted and logged.
    pub fn send(&self, alert: &Alert) {
        for file in &self.files {
            if let Err(full) = file.send(alert.line.clone()) {
                tracing::error!(path = %file.path().display(), "{full}");
            }
        }
        if alert.matched.mode != Mode::Alert {
            return;
        }
        if let Some(terminal) = &self.terminal {
            // A person cannot read faster than a terminal scrolls: what does not fit is counted, and is in the log.
            let _ = terminal.send(render(alert, terminal.colour()));
        }
        hand_over(&self.alertmanagers, || Notice::of(alert), Notice::size);
        hand_over(&self.webhooks, || webhook::parcel(alert), Parcel::size);
        hand_over(self.journald.as_slice(), || journald::parcel(alert), Parcel::size);
    }

    /// Sums by name, one for each of [`Sinks::NAMES`].
    #[must_use]
    pub fn counts(&self) -> [(&'static str, Counts); 5] {
        let files = self.files.iter().map(FileSink::counts).sum();
        let terminal = self.terminal.as_ref().map_or_else(Counts::default, TerminalSink::counts);
        let alertmanagers = self.alertmanagers.iter().map(|instance| instance.status().counts()).sum();
        let webhooks = self.webhooks.iter().map(|webhook| webhook.status().counts()).sum();
        let journald =
            self.journald.as_ref().map_or_else(Counts::default, |journald| journald.status().counts());
        let [file_name, terminal_name, alertmanager_name, webhook_name, journald_name] = Self::NAMES;
        [
            (file_name, files),
            (terminal_name, terminal),
            (alertmanager_name, alertmanagers),
            (webhook_name, webhooks),
            (journald_name, journald),
        ]
    }

    /// Every place that alerts go to, by the name that people know it by, with what it did and what stands in its way.
    #[must_use]
    pub fn places(&self) -> Vec<(String, Counts, Option<Trouble>)> {
        let files = self
            .files
            .iter()
            .map(|file| (format!("file {}", file.path().display()), file.counts(), file.trouble()));
        let instances = self
            .alertmanagers
            .iter()
            .map(|one| (one.name().to_owned(), one.status().counts(), one.status().trouble()));
        let relays = self.webhooks.iter().chain(&self.journald);
        let relays = relays.map(|one| (one.name().to_owned(), one.status().counts(), one.status().trouble()));
        files.chain(instances).chain(relays).collect()
    }

    /// Waits until every line is in every file; false if that takes longer than `patience` in all.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.files.iter().all(|file| file.flush(deadline.saturating_duration_since(Instant::now())))
    }

    /// Which sinks came into trouble or are well again since the last call: an alert for all the others.
    pub fn turns(&mut self) -> Vec<Turn> {
        let files = self.files.iter().map(|file| (file.path().display().to_string(), true, file.trouble()));
        let instances =
            self.alertmanagers.iter().map(|one| (one.name().to_owned(), false, one.status().trouble()));
        let relays = self.webhooks.iter().chain(&self.journald);
        let relays = relays.map(|one| (one.name().to_owned(), false, one.status().trouble()));
        let all: Vec<_> = files.chain(instances).chain(relays).collect();
        self.troubles.watch(all, Instant::now())
    }

    /// Delivers what is queued and stops, within `patience` in all. Returns how many alerts are lost: what waits in a
    /// spool is delivered by the next run.
    pub fn close(mut self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        // All at once, so that the patience is for each of them.
        self.alertmanagers.iter_mut().for_each(|instance| instance.stop(deadline));
        self.webhooks.iter_mut().chain(&mut self.journald).for_each(|relay| relay.stop(deadline));
        let mut over = 0;
        for file in self.files {
            over += file.close(left(deadline));
        }
        if let Some(terminal) = self.terminal {
            over += terminal.close(left(deadline));
        }
        let last = deadline + Duration::from_millis(200);
        over += self.alertmanagers.into_iter().map(|instance| instance.wait(last)).sum::<u64>();
        over += self.webhooks.into_iter().chain(self.journald).map(|relay| relay.wait(last)).sum::<u64>();
        over
    }
}

/// Gives each place the same, which is made only when there is one.
fn hand_over<T: Clone + Send + 'static>(
    places: &[Inbox<T>],
    make: impl FnOnce() -> T,
    size: impl Fn(&T) -> usize,
) {
    if places.is_empty() {
        return;
    }
    let item = make();
    for place in places {
        if let Err(full) = place.send(size(&item), item.clone()) {
            tracing::error!(sink = place.name(), "{full}");
        }
    }
}

/// What is configured and cannot be used on this host, each with its place. Starts nothing.
#[must_use]
pub fn faults(configured: &[SinkConfig]) -> Vec<(Placed<()>, HttpError)> {
    let place =
        |target: &Placed<config::HttpTarget>| Placed { value: (), line: target.line, column: target.column };
    let check = |target: &Placed<config::HttpTarget>| {
        let client = http::Client::new(&target.value, "").map_err(|_| HttpError::Header);
        client.and_then(|client| client.check()).err().map(|error| (place(target), error))
    };
    let mut faults = Vec::new();
    for sink in configured {
        match sink {
            SinkConfig::File { .. } | SinkConfig::Journald { .. } => {}
            SinkConfig::Alertmanager { instances, .. } => faults.extend(instances.iter().filter_map(check)),
            SinkConfig::Webhook { target, secret } => {
                faults.extend(check(target));
                let read = secret.as_ref().map(config::SecretSource::read_trimmed);
                faults.extend(read.and_then(Result::err).map(|error| (place(target), error.into())));
            }
        }
    }
    faults
}

/// Files of others that delivery relies on and that nobody changes while the agent runs: systemd's credentials, and whose
/// certificates are believed. A token in a file of its own is made anew every so often, and a wrong one shows by itself.
#[must_use]
pub fn watched(configured: &[SinkConfig]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut look = |source: &config::SecretSource, is_trusted: bool| {
        if is_trusted || matches!(source, config::SecretSource::Credential(_)) {
            found.extend(source.path());
        }
    };
    for sink in configured {
        let (targets, secret) = match sink {
            SinkConfig::File { .. } | SinkConfig::Journald { .. } => continue,
            SinkConfig::Alertmanager { instances, .. } => (instances.as_slice(), None),
            SinkConfig::Webhook { target, secret } => (std::slice::from_ref(target), secret.as_ref()),
        };
        secret.into_iter().for_each(|secret| look(secret, false));
        for target in targets {
            let config::TlsConfig { ca, client } = &target.value.tls;
            ca.iter().for_each(|ca| look(ca, true));
            target.value.bearer_token.iter().for_each(|token| look(token, false));
            client.iter().for_each(|(certificate, key)| {
                look(certificate, false);
                look(key, false);
            });
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The file name of a spool: the kind for people, a hash because an address has characters that no file name has.
fn spool_name(kind: &str, address: &str) -> String {
    format!("{kind}-{}", &sha256_hex(address.as_bytes())[..16])
}

/// Writes to a spool and says whether that works.
fn keep(spool: &mut Spool, changes: Vec<(u64, Option<Bytes>)>, status: &Status) {
    match spool.write(changes) {
        Ok(()) => status.set_spool(None),
        Err(error) => {
            if status.trouble().is_none() {
                tracing::error!("{error}");
            }
            status.set_spool(Some(error.to_string()));
        }
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
            fixtures::{context, matched},
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
                ..Sinks::default()
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
