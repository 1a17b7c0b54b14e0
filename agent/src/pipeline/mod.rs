//! sensor → ledger → rules → alerts → sinks, in order, on one task.
//!
//! Plain functions; the only place that knows all of them. What a reading says is in `readings`, what is learnt about processes
//! and sinks in `identities` and `destinations`; when this runs is `run`'s business; what must be right before is `prepare`'s.

mod acts;
mod carriers;
mod checkpoint;
mod destinations;
mod identities;
pub(crate) mod keeper;
mod keeping;
mod leaving;
mod memory;
mod own_files;
mod prepare;
mod readings;
mod recorder;
mod reload;
mod run;
mod scale;
mod selftest;
mod snapshot;
mod sums;
mod tamper;

use std::{collections::HashSet, sync::Arc, time::Duration};

pub(crate) use self::prepare::today;
use self::{
    acts::Below, destinations::Destinations, identities::Identities, keeper::Keeper, recorder::Recorder,
    snapshot::Standing,
};
pub use self::{
    keeping::bpffs,
    prepare::{Failure, Prepared, Unfit, prepare, prepare_to_run},
    recorder::RecordTo,
    run::{Options, run},
};
use crate::{
    alerts::{Alert, Alerts, Fault},
    event::{ActKind, Asset, AssetSet, BootNs, Event, HolderId, Loss, ObjectId, Process, Record},
    ledger::Ledger,
    metrics::{Metrics, Outcome},
    recording::RecordingError,
    rules::{Engine, Match, Mode, Severity},
    sinks::{Sinks, Turn},
    status::Status,
};

/// Everything between a reading and a line in the alert file.
pub struct Pipeline {
    identities: Identities,
    destinations: Destinations,
    ledger: Ledger,
    engine: Engine,
    alerts: Alerts,
    /// Who alerts about the agent itself name.
    agent: Arc<Process>,
    /// While lines are sealed.
    keeper: Option<Keeper>,
    /// The number of the key that was last handed to it.
    kept: Option<u64>,
    sinks: Sinks,
    metrics: Arc<Metrics>,
    scale: scale::Scale,
    leaving: leaving::Leaving,
    own: tamper::SelfCheck,
    /// Marks of the assets. Sets of the sensor also hold the canary's; assets that are not configured are not ours.
    known: AssetSet,
    /// What lies below them.
    below: Below,
    /// The assets' own files.
    protected: HashSet<ObjectId>,
    records: Vec<Record>,
    matches: Vec<Match>,
    recorder: Option<Recorder>,
    status: Status,
    standing: Standing,
    /// What an earlier agent said is told again: nothing is summed or said because of it.
    restoring: bool,
    /// Sums or findings changed since they were kept.
    moved: bool,
    /// Copies for which there was no room in what is kept for the next start.
    unkept: u64,
}

impl Pipeline {
    /// Registers the assets as they are now.
    pub(crate) fn assets(&mut self, assets: &[Asset], now: BootNs) {
        for asset in assets {
            self.known = self.known.with(asset.id);
            self.metrics.set_asset(asset);
            self.leaving.know(&asset.name);
            self.apply(Event::Asset(Arc::new(asset.clone())), now);
        }
    }

    /// Remembers one of the assets' own files.
    pub(crate) fn protected(&mut self, object: ObjectId) {
        self.protected.insert(object);
        if let Some(event) = self.destinations.register(object) {
            // Makes no record, so the time does not matter.
            self.apply(event, BootNs::default());
        }
    }

    fn apply(&mut self, event: Event, now: BootNs) {
        if let Some(recorder) = &mut self.recorder {
            recorder.write(now, &event);
        }
        let mut records = std::mem::take(&mut self.records);
        self.ledger.apply(event, &mut records);
        if self.restoring {
            records.clear();
        }
        self.judge(records, now);
    }

    /// Shows the rules what the last event made.
    fn judge(&mut self, mut records: Vec<Record>, now: BootNs) {
        self.moved |= !records.is_empty();
        for (nth, mut record) in records.drain(..).enumerate() {
            self.metrics.add_record(&record);
            self.leaving.add(&record);
            let first = self.matches.len();
            self.engine.observe(&record, &mut self.matches);
            if self.matches.len() > first {
                self.ledger.trace(nth, &mut record);
                self.matches[first..]
                    .iter_mut()
                    .for_each(|one| one.record.lineage.clone_from(&record.lineage));
            }
        }
        self.records = records;
        self.say(now);
    }

    /// Makes alerts of what matched.
    fn say(&mut self, now: BootNs) {
        if self.matches.is_empty() {
            return;
        }
        let loss = self.loss();
        let mut matches = std::mem::take(&mut self.matches);
        for matched in matches.drain(..) {
            let outcome = match (&matched.exception, matched.mode) {
                (Some(_), _) => Outcome::Excepted,
                (None, Mode::Shadow) => Outcome::Shadow,
                _ if matched.repeated => Outcome::Suppressed,
                (None, Mode::Alert | Mode::Off) => Outcome::Alert,
            };
            self.metrics.add_match(&matched.rule.id, outcome);
            if let Some(exception) = &matched.exception {
                self.metrics.add_excepted(&exception.id);
            }
            self.metrics.observe_latency(Duration::from_nanos(now.0.saturating_sub(matched.last_at.0)));
            let alerts = self.alerts.observe(&matched, now, &loss);
            self.send(alerts);
        }
        self.matches = matches;
    }

    /// All that passes with time: findings that resolve, last lines that must be exact, hashes that were made meanwhile.
    pub(crate) fn tick(&mut self, now: BootNs) {
        self.watch_sinks(now);
        self.keep_key(now);
        if let Some(drill) = self.status.drill() {
            let (finding, alerts) = self.alerts.drill(drill.severity, &self.agent, now, &self.loss());
            tracing::info!(finding, "a drill was asked for");
            self.send(alerts);
            drill.answer(finding);
        }
        self.identities.list_late();
        for holder in self.identities.hashed() {
            self.introduce(holder, now);
        }
        let mut resolved = Vec::new();
        self.engine.expire(now, &mut resolved);
        for resolved in resolved {
            let alerts = self.alerts.resolved(&resolved, now);
            self.send(alerts);
        }
        let alerts = self.alerts.tick(now);
        self.send(alerts);
        let metrics = &self.metrics;
        self.engine.take_costs(|rule, took| metrics.add_rule_time(rule, took));
        self.metrics.set_active(&self.alerts.active());
        self.metrics.set_sequence(self.alerts.head().seq);
        self.metrics.set_loss(&self.loss());
        self.metrics.set_sinks(&self.sinks.counts());
        self.metrics.set_egress_windows(self.leaving.sums(now));
        if self.status.is_watched() {
            let snapshot = self.snapshot(now);
            self.status.publish(&snapshot);
        }
    }

    /// Why the recording could not be written, once.
    pub(crate) fn recording_failed(&mut self) -> Option<RecordingError> {
        self.recorder.as_mut().and_then(Recorder::failed)
    }

    /// Something is wrong with the agent itself.
    pub(crate) fn fault(&mut self, fault: &Fault, now: BootNs) {
        let alerts = self.alerts.fault(fault, &self.agent, now, &self.loss());
        self.send(alerts);
    }

    /// Lets the keys of the minutes that are over go.
    fn keep_key(&mut self, now: BootNs) {
        const PART: &str = "seal key";
        let Some(keeper) = &self.keeper else { return };
        if let Some(key) = self.alerts.key(now)
            && self.kept != Some(key.number())
        {
            self.kept = Some(key.number());
            keeper.keep(key);
        }
        match keeper.trouble() {
            Some(text) => self.fault(
                &Fault { what: PART.to_owned(), kind: ActKind::Lost, severity: Severity::Medium, text },
                now,
            ),
            None => {
                let alerts = self.alerts.mended(PART, now);
                self.send(alerts);
            }
        }
    }

    /// A sink that does not deliver is an alert for all the others.
    fn watch_sinks(&mut self, now: BootNs) {
        for turn in self.sinks.turns() {
            let alerts = match turn {
                Turn::Trouble { name, why, is_file } => {
                    let severity = if is_file { Severity::High } else { Severity::Medium };
                    let fault = Fault { what: name, kind: ActKind::Lost, severity, text: why };
                    self.alerts.fault(&fault, &self.agent, now, &self.loss())
                }
                Turn::Well { name } => self.alerts.mended(&name, now),
            };
            self.send(alerts);
        }
    }

    /// A hook that is attached saw nothing of the canary: somebody can have made it blind.
    pub(crate) fn silent(&mut self, hook: &'static str, now: BootNs) {
        tracing::error!(hook, "a hook is silent: what moved since the last proof may not have been weighed");
        self.metrics.add_silent(hook);
        self.raise(HolderId::HOST, ActKind::HookSilent, Some(hook.to_owned()), now);
    }

    /// Somebody wrote into a map of the agent's: another process was to be taken for the agent.
    pub(crate) fn touched(&mut self, map: &'static str, now: BootNs) {
        tracing::error!(map, "another process was written down as the agent, and was not weighed until now");
        self.raise(HolderId::HOST, ActKind::MapsTouched, Some(format!("map {map}")), now);
    }

    /// Mounts changed: what is controlled may have.
    pub(crate) fn mounts_changed(&mut self, now: BootNs) {
        for event in self.destinations.refresh() {
            self.apply(event, now);
        }
        for place in self.destinations.hidden() {
            let text = format!("what is mounted at {} hides what the kernel says there", place.display());
            self.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now);
        }
        self.identities.set_mounts(Arc::clone(self.destinations.classifier().table()));
    }

    /// The last lines, exact. Returns whether all of them are in the files within `patience`.
    pub(crate) fn flush(&mut self, now: BootNs, patience: Duration) -> bool {
        let alerts = self.alerts.flush(now);
        self.send(alerts);
        self.sinks.flush(patience)
    }

    /// Delivers what is queued. Returns how many alerts could not be.
    pub(crate) fn close(mut self, now: BootNs, patience: Duration) -> u64 {
        let alerts = self.alerts.flush(now);
        self.send(alerts);
        let left = self.sinks.close(patience);
        if let (Some(keeper), Some(key)) = (self.keeper, self.alerts.key(now)) {
            keeper.close(key);
        }
        left
    }

    pub(crate) fn next_deadline(&self) -> Option<BootNs> {
        self.alerts.next_deadline()
    }

    pub(crate) const fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    fn send(&mut self, alerts: Vec<Alert>) {
        self.moved |= !alerts.is_empty();
        for alert in alerts {
            self.metrics.add_alert(&alert);
            self.status.alert(&alert.line);
            self.sinks.send(&alert);
        }
    }

    fn loss(&self) -> Loss {
        let mut loss = self.ledger.loss();
        let evicted = self.engine.evicted();
        if evicted != 0 {
            loss.insert("aggregate_evicted", evicted);
        }
        if self.unkept != 0 {
            loss.insert("copies_unkept", self.unkept);
        }
        loss
    }
}
