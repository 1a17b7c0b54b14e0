//! What outlives the agent: when it is kept, and in which order, so that a kill at any moment costs no byte.
//!
//! First the sums and the open findings go to the state directory, then what was told of to the pinned maps. A kill in between
//! makes the next agent tell some bytes twice; the other order would lose them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Pipeline, run::now};
use crate::{
    alerts::Unfinished,
    event::{ActKind, BootNs, Conclusions, HolderId},
    host::{
        state::StateDir,
        store::{Clock, Row, Store, StoreError},
    },
    metrics::Metrics,
    rules::{TimeLine, saved},
    sensor::{Past, Sensor, SensorError},
};

/// The spaces of the store.
const SUMS: &str = "sums";
const FINDINGS: &str = "findings";
/// The number of the last line of the alert log.
const LOG: &str = "log";

/// Shortest time between two.
const EVERY: Duration = Duration::from_secs(1);
/// It takes at most one part in this many of the time.
const SHARE: u32 = 20;

pub(crate) struct Checkpoint {
    /// `None` when the state directory takes none: then sums start anew with the next agent.
    store: Option<Store>,
    clock: Clock,
    /// Wall clock of the last time that an earlier agent kept something, milliseconds since 1970.
    kept_ms: i64,
    /// Where the boot of that time began on the time line.
    earlier_base: u64,
    /// What the ledger concluded and no map holds yet.
    conclusions: Conclusions,
    due: Instant,
    /// What went wrong with what was kept.
    faults: Vec<String>,
    /// Number of the alert log's last line when an earlier agent last kept something.
    sequence: Option<u64>,
}

impl Checkpoint {
    /// Opens the store. Whatever is wrong with it costs what it held, never the start.
    pub(super) fn open(state: &StateDir, boot: &str) -> Self {
        let (mut store, fault) = match Store::open(state) {
            Ok((store, note)) => {
                (Some(store), note.map(|note| format!("{note}: sums and findings start anew")))
            }
            Err(error) => (None, Some(format!("{error}: nothing is kept for the next start"))),
        };
        let sequence =
            store.as_mut().and_then(|store| store.load(LOG).ok()).and_then(|rows| number(rows.first()?));
        let earlier = store.as_ref().and_then(|store| store.clock().ok().flatten());
        let clock = read_clock(boot).following(earlier.as_ref());
        let (kept_ms, earlier_base) =
            earlier.map_or((0, clock.base), |earlier| (earlier.wall_ms, earlier.base));
        Self {
            store,
            clock,
            kept_ms,
            earlier_base,
            conclusions: Conclusions::default(),
            due: Instant::now(),
            faults: fault.into_iter().collect(),
            sequence,
        }
    }

    /// Goes on with the sums and findings of an earlier agent.
    pub(super) fn restore(&mut self, pipeline: &mut Pipeline, unfinished: Vec<Unfinished>) {
        pipeline.alerts.expect(unfinished, self.kept_ms);
        let Some(store) = &mut self.store else { return };
        let (sums, findings) = match (store.load(SUMS), store.load(FINDINGS)) {
            (Ok(sums), Ok(findings)) => (sums, findings),
            (Err(error), _) | (_, Err(error)) => {
                self.faults.push(format!("{error}: sums and findings start anew"));
                return;
            }
        };
        let assets: Vec<_> = pipeline.ledger.assets().map(Arc::clone).collect();
        let time = Line(&self.clock);
        let rules = Arc::clone(pipeline.engine.rules());
        let open = pipeline.alerts.reopen(&findings, &rules, &assets, &time);
        let many = sums.len();
        let rows = sums.into_iter().filter_map(|(_, row)| serde_json::from_slice(&row).ok()).collect();
        // Both are points of the time line.
        let shift = self.earlier_base.cast_signed().saturating_sub(self.clock.base.cast_signed());
        let left_out = pipeline.engine.import(rows, shift, now());
        for matched in &open {
            pipeline.engine.reopen(matched, now());
        }
        if many != 0 || !open.is_empty() {
            tracing::info!(sums = many, left_out, findings = open.len(), "goes on with what was kept");
        }
    }

    /// Raises what was wrong with what was kept. `head` is the number of the alert log's last line; the earlier agent `ended_well` when
    /// it kept everything that it had said.
    pub(super) fn tell(&mut self, pipeline: &mut Pipeline, head: u64, ended_well: bool) {
        let now = now();
        let older = self.sequence.filter(|sequence| ended_well && *sequence < head);
        let older = older.map(|sequence| {
            format!("what was kept ends at line {sequence} of the alert log, which has {head}: an older state was put in its place")
        });
        for fault in self.faults.drain(..).chain(older) {
            tracing::error!("{fault}");
            pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(format!("state: {fault}")), now);
        }
    }

    /// Keeps all that changed, when it is time and everything that was said is delivered.
    pub(super) fn save_if_due(
        &mut self,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
        metrics: &Metrics,
    ) -> Result<(), SensorError> {
        if Instant::now() < self.due || pipeline.has_backlog() {
            return Ok(());
        }
        self.save(pipeline, sensor, metrics)
    }

    pub(super) fn save(
        &mut self,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
        metrics: &Metrics,
    ) -> Result<(), SensorError> {
        let started = Instant::now();
        if pipeline.moved {
            pipeline.moved = false;
            match self.store_all(pipeline) {
                Ok(()) => metrics.set_state(started.elapsed(), true),
                Err(error) => {
                    metrics.set_state(started.elapsed(), false);
                    tracing::error!(%error, "sums and findings are not kept: after a kill they start anew");
                }
            }
        }
        let Conclusions { mut taken, mut caps } = pipeline.ledger.changed();
        self.conclusions.taken.append(&mut taken);
        self.conclusions.caps.append(&mut caps);
        sensor.commit(&self.conclusions)?;
        self.conclusions = Conclusions::default();
        metrics.add_checkpoint();
        self.due = started + EVERY.max(started.elapsed() * SHARE);
        Ok(())
    }

    fn store_all(&mut self, pipeline: &Pipeline) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let clock = Clock { base: self.clock.base, ..read_clock(&self.clock.boot) };
        let time = Line(&clock);
        let sequence = (LOG.into(), pipeline.alerts.head().seq.to_string().into_bytes());
        let spaces = [(SUMS, sums(pipeline)), (FINDINGS, pipeline.alerts.save(&time)), (LOG, vec![sequence])];
        store.save(&spaces, &clock).map(drop)
    }
}

impl Pipeline {
    /// Takes what an earlier agent had told of: nothing of it is said or summed again.
    pub(super) fn restore(&mut self, past: Past, now: BootNs) {
        self.ledger.keep_journal();
        self.ledger.restore(&past.conclusions);
        self.restoring = true;
        self.step(past.readings, now);
        self.restoring = false;
        self.ledger.restored(now);
    }

    /// Whether alerts wait for a file to take them.
    fn has_backlog(&self) -> bool {
        self.sinks.counts().iter().any(|(name, counts)| *name == "file" && counts.backlog != 0)
    }
}

fn number((_, value): &Row) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Every window, one row each, on the clock of this boot.
fn sums(pipeline: &Pipeline) -> Vec<Row> {
    let rows = pipeline.engine.export();
    rows.iter().filter_map(|row| saved::row(&(&row.rule, &row.sum, &row.key), row)).collect()
}

struct Line<'a>(&'a Clock);

impl TimeLine for Line<'_> {
    fn line(&self, at: BootNs) -> u64 {
        self.0.line(at)
    }

    fn boot_time(&self, line: u64) -> BootNs {
        self.0.boot_time(line)
    }
}

fn read_clock(boot: &str) -> Clock {
    Clock { boot: boot.to_owned(), now: now(), wall_ms: Timestamp::now().as_millisecond(), base: 0 }
}
