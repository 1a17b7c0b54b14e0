//! Copies that were kept come back: each is looked for on its filesystem and, where it is still there, a carrier again with what can be
//! in it.

use std::sync::Arc;

use super::{
    Carriers, MOST, SPACE, Slot,
    roots::Roots,
    row::{Key, LARGEST, Row, without_pids},
};
use crate::{
    event::{AssetSet, BootNs, Dev, ObjectId, SinkKey},
    host::{
        handles::{self, Facts, Found, Name},
        store::Store,
    },
    ledger::Content,
    pipeline::{Pipeline, run::now},
    sensor::{FsPath, Sensor, SensorError},
};

/// What a start or a mount brought.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    back: usize,
    gone: usize,
    waiting: usize,
    /// Files that filesystems say are gone, who are yet to be asked whether they can be believed.
    stale: Vec<(Key, Vec<Dev>)>,
}

enum Search {
    Found(ObjectId, Facts),
    /// It is no more.
    Gone,
    /// It is no more if its filesystem answers for that.
    Stale,
    Unknown,
}

impl Carriers {
    pub(super) fn recall_from(
        &mut self,
        store: &Store,
        prefix: &[u8],
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        let (mut outcome, mut failed, mut malformed) = (Outcome::default(), None, 0_u64);
        let mut roots = Roots::default();
        let visited = store.visit(SPACE, prefix, (MOST, LARGEST), |key, value| {
            let (Some(key), Some(row)) = (Key::parse(key), Row::parse(value)) else {
                malformed += 1;
                return;
            };
            if failed.is_none()
                && let Err(error) = self.recall(key, &row, &mut roots, pipeline, sensor, &mut outcome)
            {
                failed = Some(error);
            }
        });
        if let Err(error) = visited {
            tracing::error!(%error, "copies that an earlier agent knew are ordinary files now");
        }
        for (key, devs) in std::mem::take(&mut outcome.stale) {
            if self.are_gone(&devs, &mut roots, pipeline) {
                outcome.gone += 1;
                self.slots.remove(&key);
                self.removed.insert(key);
            } else {
                outcome.waiting += 1;
            }
        }
        if malformed != 0 {
            tracing::warn!(rows = malformed, "rows of copies make no sense and are left out");
        }
        let Outcome { back, gone, waiting, stale: _ } = outcome;
        if back + gone + waiting != 0 {
            tracing::info!(back, gone, waiting, "looked for copies that were made before");
        }
        failed.map_or(Ok(()), Err)
    }

    pub(super) fn recall(
        &mut self,
        key: Key,
        row: &Row,
        roots: &mut Roots,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
        outcome: &mut Outcome,
    ) -> Result<(), SensorError> {
        let name = Name { ino: key.ino, generation: key.generation, tree: row.tree };
        let slot =
            Slot { bytes: row.bytes(), name, first_seen: row.first_seen, missed: false, is_back: false };
        self.slots.entry(key.clone()).or_insert(slot);
        let devs: Vec<Dev> = self.volumes.devs_of(&key.uuid).collect();
        let (mut back, mut gone, mut stale) = (false, false, Vec::new());
        for dev in devs {
            match self.find(dev, roots, name, row, sensor) {
                Search::Found(_, Facts { size: 0, .. }) | Search::Gone => gone = true,
                Search::Stale => stale.push(dev),
                Search::Found(object, facts) => {
                    back = true;
                    self.take_back(object, facts.size, row, pipeline, sensor)?;
                }
                Search::Unknown => {}
            }
        }
        if back {
            outcome.back += 1;
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.is_back = true;
            }
        } else if gone {
            outcome.gone += 1;
            self.slots.remove(&key);
            self.removed.insert(key);
        } else if !stale.is_empty() {
            outcome.stale.push((key, stale));
        } else {
            outcome.waiting += 1;
        }
        Ok(())
    }

    /// Whether all these filesystems answer for it that a file is gone.
    pub(super) fn are_gone(&mut self, devs: &[Dev], roots: &mut Roots, pipeline: &Pipeline) -> bool {
        let devices = pipeline.destinations.classifier().devices();
        for &dev in devs {
            if roots.vouch(&self.volumes, devices, dev, &mut self.patience) {
                self.silent.remove(&dev);
                continue;
            }
            self.doubted += 1;
            if self.silent.insert(dev) {
                tracing::warn!(
                    device = %dev,
                    "a filesystem says that copies on it are gone, and its disk cannot be read or does not answer: they are kept"
                );
            }
            return false;
        }
        true
    }

    /// The file of a row, as the kernel names it now.
    fn find(&mut self, dev: Dev, roots: &mut Roots, name: Name, row: &Row, sensor: &Sensor) -> Search {
        let Some(fstype) = self.volumes.of(dev).map(|volume| volume.fstype.clone()) else {
            return Search::Unknown;
        };
        match roots.find(&self.volumes, dev, name, &mut self.patience) {
            Found::Here(facts) if facts.is_regular => {
                return Search::Found(ObjectId { dev, ino: name.ino, generation: name.generation }, facts);
            }
            Found::Here(_) => return Search::Gone,
            Found::Gone => return Search::Stale,
            Found::Unknown => {}
        }
        // By its path then, if it is still the one that lay there.
        let Some(path) = self.volumes.locate(dev, &row.path).filter(|_| !row.path.is_empty()) else {
            return Search::Unknown;
        };
        let whom = path.clone();
        let Some(Ok((file, facts))) = self.patience.ask(dev, move || handles::open(&whom)) else {
            return Search::Unknown;
        };
        let Ok(object) = sensor.identify_file(&file, &path) else { return Search::Unknown };
        if object.dev != dev || !facts.is_regular {
            return Search::Unknown;
        }
        let is_it = if handles::are_stable(&fstype) {
            (object.ino, object.generation) == (name.ino, name.generation)
        } else {
            // A number that is made up anew says nothing.
            facts.born.zip(row.born).map_or(facts.ino == name.ino, |(now, then)| now == then)
        };
        match is_it {
            true => Search::Found(object, facts),
            // Of a name that is another file's by now, the one that had it may lie elsewhere.
            false if handles::are_stable(&fstype) => Search::Unknown,
            false => Search::Gone,
        }
    }

    fn take_back(
        &mut self,
        object: ObjectId,
        size: u64,
        row: &Row,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        if pipeline.protected.contains(&object) {
            return Ok(());
        }
        let contents: Vec<Content> = row
            .contents
            .iter()
            .filter_map(|share| {
                let asset = pipeline.ledger.assets().find(|asset| asset.name == share.asset)?.id;
                let way = if self.is_same_boot { share.way.clone() } else { without_pids(share.way.clone()) };
                Some(Content { asset, bytes: share.bytes.min(size), way: Arc::new(way) })
            })
            .collect();
        let Some(most) = contents.iter().map(|content| content.bytes).max() else { return Ok(()) };
        let assets = contents.iter().fold(AssetSet::default(), |set, content| set.with(content.asset));
        let said = contents.iter().map(|content| (content.asset, content.bytes)).collect();
        self.recalled.insert(object, said);
        pipeline.recall(object, &row.path, &contents);
        if !sensor.recall_carrier(object, assets, most)? {
            self.unkept += 1;
        }
        Ok(())
    }
}

impl Pipeline {
    /// A file that an earlier agent knew is a carrier again; `path` is the last one that it had, within its filesystem.
    fn recall(&mut self, object: ObjectId, path: &str, contents: &[Content]) {
        if !path.is_empty() {
            let place = FsPath { text: path.to_owned(), cut: false };
            let event = self.destinations.locate(SinkKey::File(object), 0, place);
            // Makes no record, so the time does not matter.
            self.apply(event, BootNs::default());
        }
        let mut records = std::mem::take(&mut self.records);
        self.ledger.recall(object, contents, &mut records);
        self.judge(records, now());
    }
}
