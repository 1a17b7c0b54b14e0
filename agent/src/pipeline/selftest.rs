//! Proof, again and again, that bytes are still weighed: a canary through hooks, maps, ring and drain, and the service
//! manager's watchdog, which is fed by nothing else.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use super::{Pipeline, run::now};
use crate::{
    event::{ActKind, HolderId},
    host::patience::Patience,
    metrics::Metrics,
    sensor::{Canary, Flight, Reading, Sensor},
};

/// Between two canaries.
const EVERY: Duration = Duration::from_secs(30);

pub(super) struct SelfTest {
    every: Duration,
    canary: Option<Canary>,
    due: Instant,
    proved: Instant,
    /// Whether a service manager waits for a sign of life.
    has_watchdog: bool,
    /// The canary lies where anybody can mount what never answers, and it did not answer the last time.
    patience: Patience<()>,
    hangs: bool,
}

/// By the directory of the canary.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

impl SelfTest {
    /// The agent starts with a proof.
    pub(super) fn new(every: Option<Duration>, metrics: &Metrics) -> Self {
        metrics.set_selftest();
        let (every, start) = (every.unwrap_or(EVERY), Instant::now());
        let has_watchdog = sd_notify::watchdog_enabled().is_some();
        let patience = Patience::new(ANSWERED_WITHIN);
        Self { every, canary: None, due: start + every, proved: start, has_watchdog, patience, hangs: false }
    }

    /// Looks for the canary in what was read.
    pub(super) fn see(&mut self, readings: &[Reading]) {
        if let Some(canary) = &mut self.canary {
            canary.see(readings);
        }
    }

    fn answers(&mut self, directory: &Path) -> bool {
        let canary = directory.join("canary");
        self.patience.ask((), move || fs::symlink_metadata(canary).is_ok()).is_some()
    }

    /// Sends the next canary when it is time, and judges the one that is on its way.
    pub(super) fn tick(
        &mut self,
        sensor: &mut Sensor,
        pipeline: &mut Pipeline,
        directory: &Path,
        metrics: &Metrics,
    ) {
        let flight = self.canary.as_mut().map(Canary::flight);
        match flight {
            None if Instant::now() >= self.due && !self.answers(directory) => {
                self.due = Instant::now() + self.every;
                metrics.add_silent("canary");
                if !std::mem::replace(&mut self.hangs, true) {
                    let text = format!("{} does not answer: the hooks cannot be proved", directory.display());
                    pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now());
                }
            }
            None if Instant::now() >= self.due => {
                self.hangs = false;
                self.due = Instant::now() + self.every;
                if matches!(sensor.is_exempt(), Ok(false)) {
                    pipeline.touched("SHARED", now());
                }
                if let Ok(Some(hook)) = sensor.silent_egress() {
                    pipeline.silent(hook, now());
                }
                match sensor.send_canary(directory) {
                    Ok(canary) => self.canary = Some(canary),
                    Err(error) => {
                        metrics.add_silent("canary");
                        tracing::error!(%error, "the hooks could not be proved");
                    }
                }
            }
            None | Some(Flight::Flying) => {}
            Some(Flight::Home) => {
                self.proved = Instant::now();
                metrics.set_selftest();
            }
            Some(Flight::Lost(hook)) => pipeline.silent(hook, now()),
            Some(Flight::Ill) => {
                metrics.add_silent("canary");
                tracing::error!("the hooks could not be proved: the canary's process did not do its part");
            }
        }
        if !matches!(flight, None | Some(Flight::Flying))
            && let Some(canary) = self.canary.take()
        {
            sensor.end_canary(canary);
        }
        // Fed only by proofs: an agent that runs and sees nothing is to be started anew. Where no canary can fly, which was told of,
        // weighing goes on, and another start would hang on the same directory.
        if self.has_watchdog && (self.hangs || self.proved.elapsed() < self.every * 2) {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}
