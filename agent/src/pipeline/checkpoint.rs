//! What outlives the agent: when it is kept, and in which order, so that a kill at any moment costs no byte.
//!
//! First the sums and the open findings go to the state directory, then what was told of to the pinned maps. A kill in between
//! makes the next agent tell some bytes twice; the other order would lose them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Pipeline,
    carriers::{self, Carriers},
    run::now,
    sums,
};
use crate::{
    alerts::Unfinished,
    event::{ActKind, Asset, AssetId, BootNs, Conclusions, HolderId},
    host::{
        state::StateDir,
        store::{Clock, Row, Rows, Store, StoreError},
        volumes::Volumes,
    },
    metrics::Metrics,
    rules::{Row as SumRow, TimeLine, saved},
    sensor::{Past, Sensor, SensorError},
};

/// The spaces of the store.
const SUMS: &str = "sums";
const FINDINGS: &str = "findings";
/// Sizes of assets, by name.
const ASSETS: &str = "assets";
const LEAVING: &str = "leaving";
/// The number of the last line of the alert log.
const LOG: &str = "log";

/// Shortest time between two.
const EVERY: Duration = Duration::from_secs(1);
/// It takes at most one part in this many of the time.
const SHARE: u32 = 20;

pub(crate) struct Checkpoint {
    /// `None` when the state directory takes none: then sums start anew with the next agent.
    store: Option<Store>,
    carriers: Carriers,
    /// Windows of filesystems that are not mounted.
    waiting: Vec<SumRow>,
    /// Sizes of assets as they were kept last.
    sizes: Vec<Row>,
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
            earlier.as_ref().map_or((0, clock.base), |earlier| (earlier.wall_ms, earlier.base));
        let is_same_boot = earlier.is_some_and(|earlier| earlier.boot == boot);
        Self {
            store,
            carriers: Carriers::new(is_same_boot),
            waiting: Vec::new(),
            sizes: Vec::new(),
            clock,
            kept_ms,
            earlier_base,
            conclusions: Conclusions::default(),
            due: Instant::now(),
            faults: fault.into_iter().collect(),
            sequence,
        }
    }

    /// What was ever in an asset caps what can leave: `renewed` bytes of it took the place of others while no agent ran. Before anything
    /// is told of who took what.
    pub(super) fn restore_assets(&mut self, pipeline: &mut Pipeline, renewed: &HashMap<AssetId, u64>) {
        let rows = self.store.as_mut().and_then(|store| store.load(ASSETS).ok()).unwrap_or_default();
        let assets: Vec<Asset> = pipeline
            .ledger
            .assets()
            .filter_map(|asset| {
                let (_, value) = rows.iter().find(|(name, _)| name == asset.name.as_bytes())?;
                let known: Sizes = serde_json::from_slice(value).ok()?;
                let new = asset.bytes.saturating_sub(known.bytes);
                let renewed = renewed.get(&asset.id).copied().unwrap_or(0);
                let most = known.most.saturating_add(new).saturating_add(renewed).min(LARGEST_ASSET);
                Some(Asset { most, ..Asset::clone(asset) })
            })
            .collect();
        pipeline.assets(&assets, now());
    }

    /// Goes on with the sums and findings of an earlier agent.
    pub(super) fn restore(&mut self, pipeline: &mut Pipeline, unfinished: Vec<Unfinished>) {
        pipeline.alerts.expect(unfinished, self.kept_ms);
        self.carriers.know_volumes(pipeline);
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
        // Both are points of the time line.
        let shift = self.earlier_base.cast_signed().saturating_sub(self.clock.base.cast_signed());
        match store.load(LEAVING) {
            Ok(rows) => pipeline.leaving.restore(&rows, shift, now()),
            Err(error) => self.faults.push(format!("{error}: sums of what left start anew")),
        }
        let rows = sums.into_iter().filter_map(|(_, row)| serde_json::from_slice::<SumRow>(&row).ok());
        let rows = rows.map(|mut row| {
            row.shift(shift);
            row
        });
        let places = pipeline.engine.places(sums::FIELD);
        let (rows, waiting) = sums::found(rows.collect(), &places, self.carriers.volumes());
        self.waiting = waiting;
        self.waiting.retain(|row| !row.is_over(now()));
        let left_out = pipeline.engine.import(rows, 0, now());
        for matched in &open {
            pipeline.engine.reopen(matched, now());
        }
        if many != 0 || !open.is_empty() {
            tracing::info!(sums = many, left_out, findings = open.len(), "goes on with what was kept");
        }
    }

    /// Makes carriers of the files that an earlier agent knew for ones. Once the assets are protected, and before anybody looks for
    /// who has what open.
    pub(super) fn recall(&mut self, pipeline: &mut Pipeline, sensor: &mut Sensor) -> Result<(), SensorError> {
        self.carriers.recall_all(self.store.as_ref(), pipeline, sensor)
    }

    /// Mounts changed: filesystems that came bring their copies.
    pub(super) fn mounts_changed(
        &mut self,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        self.carriers.mounts_changed(self.store.as_ref(), pipeline, sensor)?;
        if !self.waiting.is_empty() {
            let places = pipeline.engine.places(sums::FIELD);
            let waiting = std::mem::take(&mut self.waiting);
            let (rows, waiting) = sums::found(waiting, &places, self.carriers.volumes());
            self.waiting = waiting;
            pipeline.engine.import(rows, 0, now());
        }
        Ok(())
    }

    /// Once a second: copies that are gone need not be kept.
    pub(super) fn look(&mut self, pipeline: &mut Pipeline, sensor: &mut Sensor) -> Result<(), SensorError> {
        self.carriers.look(self.store.as_ref(), pipeline, sensor)
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
        let Conclusions { mut taken, mut caps } = pipeline.ledger.changed();
        self.conclusions.taken.append(&mut taken);
        self.conclusions.caps.append(&mut caps);
        self.carriers.note(&self.conclusions);
        metrics.set_copies_doubted(self.carriers.doubted());
        let sizes = sizes(pipeline);
        if pipeline.moved || self.carriers.is_dirty() || self.sizes != sizes {
            pipeline.moved = false;
            self.sizes = sizes;
            match self.store_all(pipeline, sensor) {
                Ok(()) => metrics.set_state(started.elapsed(), true),
                Err(error) => {
                    metrics.set_state(started.elapsed(), false);
                    tracing::error!(%error, "sums, findings and copies are not kept: after a kill they start anew");
                }
            }
        }
        let (copies, unkept) = self.carriers.counts();
        metrics.set_state_size(self.store.as_ref().map_or(0, Store::bytes), copies);
        pipeline.unkept = unkept;
        sensor.commit(&self.conclusions)?;
        self.conclusions = Conclusions::default();
        metrics.add_checkpoint();
        self.due = started + EVERY.max(started.elapsed() * SHARE);
        Ok(())
    }

    fn store_all(&mut self, pipeline: &Pipeline, sensor: &Sensor) -> Result<(), StoreError> {
        let Some(store) = &mut self.store else {
            self.carriers.written();
            return Ok(());
        };
        let copies = self.carriers.updates(store, pipeline, sensor);
        let sums = sum_rows(pipeline, self.carriers.volumes(), &self.waiting);
        let clock = Clock { base: self.clock.base, ..read_clock(&self.clock.boot) };
        let time = Line(&clock);
        let sequence = (LOG.into(), pipeline.alerts.head().seq.to_string().into_bytes());
        let spaces: Vec<(_, Rows<'_>)> = vec![
            (ASSETS, Box::new(self.sizes.iter().cloned())),
            (SUMS, Box::new(sums)),
            (FINDINGS, Box::new(pipeline.alerts.save(&time))),
            (LEAVING, Box::new(pipeline.leaving.save())),
            (LOG, Box::new(std::iter::once(sequence))),
        ];
        store.update(spaces, (carriers::SPACE, &copies), &clock)?;
        self.carriers.written();
        Ok(())
    }
}

impl Pipeline {
    /// Takes what an earlier agent had told of: nothing of it is said or summed again.
    pub(super) fn restore(&mut self, past: Past, now: BootNs) {
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

/// What of an asset outlives a restart.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sizes {
    bytes: u64,
    most: u64,
}

/// A larger one is nobody's model: whoever can write the state must not make sums overflow.
const LARGEST_ASSET: u64 = 1 << 60;

fn sizes(pipeline: &Pipeline) -> Vec<Row> {
    let row = |asset: &Arc<Asset>| {
        let value = serde_json::to_vec(&Sizes { bytes: asset.bytes, most: asset.most }).ok()?;
        Some((asset.name.clone().into_bytes(), value))
    };
    pipeline.ledger.assets().filter_map(row).collect()
}

/// Every window, one row each, on the clock of this boot.
fn sum_rows(pipeline: &Pipeline, volumes: &Volumes, waiting: &[SumRow]) -> impl Iterator<Item = Row> {
    let rows = sums::kept(pipeline.engine.export(), &pipeline.engine.places(sums::FIELD), volumes);
    let saved = |row: &SumRow| saved::row(&(&row.rule, &row.sum, &row.key), row);
    rows.into_iter().filter_map(move |row| saved(&row)).chain(waiting.iter().filter_map(saved))
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
