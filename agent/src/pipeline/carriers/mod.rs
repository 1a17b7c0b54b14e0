//! Files that carry asset bytes, over restarts and reboots, and over a disk that is pulled out and put in again.
//!
//! Each has a row in the state directory, under the UUID of its filesystem. A filesystem that comes (at the start, or when it is
//! mounted) brings its files back: they are carriers again, with what can be in them. A row goes when its file is gone.

mod roots;
mod row;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use self::{
    roots::Roots,
    row::{Key, LARGEST, Row, Share, kept_path, kept_way, without_pids},
};
use super::Pipeline;
use crate::{
    event::{AssetId, AssetSet, Conclusions, Dev, ObjectId, SinkKey},
    host::{
        handles::{self, Facts, Found, Name},
        store::{Store, StoreError, Update},
        volumes::Volumes,
    },
    ledger::Content,
    sensor::{FsPath, Sensor, SensorError},
};

/// The space of the store.
pub(super) const SPACE: &str = "carriers";
/// Rows that are kept. What can hold least goes first.
const MOST: usize = 65_536;
/// Each row is looked at once in so many seconds, whether its file is still there.
const LOOK_EVERY: usize = 300;
/// And so many of them at least.
const LOOK_AT: usize = 16;

/// What is known of the rows without reading them.
#[derive(Debug, Default)]
pub(crate) struct Carriers {
    volumes: Volumes,
    slots: HashMap<Key, Slot>,
    /// Files whose contents changed since they were kept.
    changed: HashSet<ObjectId>,
    /// Bytes that the rows of files say which came back: what the ledger says of those anew needs no writing.
    recalled: HashMap<ObjectId, Vec<(AssetId, u64)>>,
    /// Rows that are to go.
    removed: HashSet<Key>,
    /// To be looked at next.
    queue: Vec<Key>,
    /// Rows that found no room.
    unkept: u64,
    /// Files that were said to be gone by a filesystem that does not answer for it, and filesystems that did so last.
    doubted: u64,
    silent: HashSet<Dev>,
    /// The rows were written in this boot: the processes that they name are of now.
    is_same_boot: bool,
}

#[derive(Debug)]
struct Slot {
    /// What can be in it, of all assets together.
    bytes: u64,
    name: Name,
    first_seen: i64,
    /// It was not there at the last look.
    missed: bool,
    /// It is a carrier in this run. What is not waits for its filesystem, or for one to answer for it.
    is_back: bool,
}

/// What a start or a mount brought.
#[derive(Debug, Default)]
struct Outcome {
    back: usize,
    gone: usize,
    waiting: usize,
    /// Files that filesystems say are gone, who are yet to be asked whether they can be believed.
    stale: Vec<(Key, Vec<Dev>)>,
}

impl Carriers {
    pub(super) fn new(is_same_boot: bool) -> Self {
        Self { is_same_boot, ..Self::default() }
    }

    /// Rows that are kept, and rows that found no room.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.slots.len(), self.unkept)
    }

    /// How often a filesystem said of a file that it is gone and could not be believed.
    pub(super) const fn doubted(&self) -> u64 {
        self.doubted
    }

    /// Where a filesystem is now, and which one a number is.
    pub(super) const fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Whether something is to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.changed.is_empty() || !self.removed.is_empty()
    }

    /// At the start, once the assets are protected: what an earlier agent knew for carriers is one from here on.
    pub(super) fn recall_all(
        &mut self,
        store: Option<&Store>,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        match store {
            Some(store) => self.recall_from(store, &[], pipeline, sensor),
            None => Ok(()),
        }
    }

    /// Looks at the mounts for the first time.
    pub(super) fn know_volumes(&mut self, pipeline: &Pipeline) {
        let classifier = pipeline.destinations.classifier();
        self.volumes.refresh(classifier.devices(), classifier.table());
    }

    /// Mounts changed: filesystems that came bring their files.
    pub(super) fn mounts_changed(
        &mut self,
        store: Option<&Store>,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        let classifier = pipeline.destinations.classifier();
        let new = self.volumes.refresh(classifier.devices(), classifier.table());
        if let Some(store) = store {
            for volume in &new {
                self.recall_from(store, &Key::prefix(&volume.uuid), pipeline, sensor)?;
            }
            sensor.find_users()?;
        }
        Ok(())
    }

    fn recall_from(
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

    fn recall(
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
    fn are_gone(&mut self, devs: &[Dev], roots: &mut Roots, pipeline: &Pipeline) -> bool {
        let devices = pipeline.destinations.classifier().devices();
        for &dev in devs {
            if roots.vouch(&self.volumes, devices, dev) {
                self.silent.remove(&dev);
                continue;
            }
            self.doubted += 1;
            if self.silent.insert(dev) {
                tracing::warn!(
                    device = %dev,
                    "a filesystem says that copies on it are gone, and its disk cannot be read: they are kept"
                );
            }
            return false;
        }
        true
    }

    /// The file of a row, as the kernel names it now.
    fn find(&self, dev: Dev, roots: &mut Roots, name: Name, row: &Row, sensor: &Sensor) -> Search {
        let Some(volume) = self.volumes.of(dev) else { return Search::Unknown };
        match roots.find(&self.volumes, dev, name) {
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
        let Ok((file, facts)) = handles::open(&path) else { return Search::Unknown };
        let Ok(object) = sensor.identify_file(&file, &path) else { return Search::Unknown };
        if object.dev != dev || !facts.is_regular {
            return Search::Unknown;
        }
        let is_it = if handles::are_stable(&volume.fstype) {
            (object.ino, object.generation) == (name.ino, name.generation)
        } else {
            // A number that is made up anew says nothing.
            facts.born.zip(row.born).map_or(facts.ino == name.ino, |(now, then)| now == then)
        };
        match is_it {
            true => Search::Found(object, facts),
            // Of a name that is another file's by now, the one that had it may lie elsewhere.
            false if handles::are_stable(&volume.fstype) => Search::Unknown,
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

    /// What the ledger concluded since the last time.
    pub(super) fn note(&mut self, conclusions: &Conclusions) {
        for &(object, asset, cap) in &conclusions.caps {
            let said = self.recalled.get(&object).into_iter().flatten().find(|(known, _)| *known == asset);
            if cap.is_some_and(|cap| cap > said.map_or(0, |(_, bytes)| *bytes)) {
                self.changed.insert(object);
            }
        }
    }

    /// What is to be written; [`Carriers::written`] says that it was.
    pub(super) fn updates(&mut self, store: &Store, pipeline: &Pipeline, sensor: &Sensor) -> Vec<Update> {
        let mut updates: Vec<Update> = self.removed.iter().map(|key| (key.to_bytes(), None)).collect();
        let mut roots = Roots::default();
        for object in self.changed.clone() {
            let Some((key, row)) = self.row_of(object, &mut roots, store, pipeline, sensor) else { continue };
            let Some(value) = row.to_bytes() else {
                self.unkept += 1;
                continue;
            };
            let name = Name { ino: key.ino, generation: key.generation, tree: row.tree };
            let slot =
                Slot { bytes: row.bytes(), name, first_seen: row.first_seen, missed: false, is_back: true };
            updates.push((key.to_bytes(), Some(value)));
            self.slots.insert(key, slot);
        }
        if self.slots.len() > MOST {
            updates.extend(self.make_room());
        }
        updates
    }

    pub(super) fn written(&mut self) {
        self.changed.clear();
        self.removed.clear();
    }

    fn row_of(
        &self,
        object: ObjectId,
        roots: &mut Roots,
        store: &Store,
        pipeline: &Pipeline,
        sensor: &Sensor,
    ) -> Option<(Key, Row)> {
        // What is in no volume with a UUID does not outlive a reboot, or nobody could find it again.
        let volume = self.volumes.of(object.dev)?;
        if pipeline.protected.contains(&object) {
            return None;
        }
        let shares: Vec<Share> = pipeline
            .ledger
            .contents(object)
            .into_iter()
            .filter_map(|content| share(content, pipeline))
            .collect();
        if shares.is_empty() {
            return None;
        }
        let key = Key { uuid: Arc::clone(&volume.uuid), ino: object.ino, generation: object.generation };
        let path = pipeline.destinations.path_of(SinkKey::File(object)).map_or_else(String::new, kept_path);
        let mut row = Row { tree: None, born: None, path, first_seen: now_ms(), contents: shares };
        match self.slots.get(&key) {
            Some(slot) => {
                (row.tree, row.first_seen) = (slot.name.tree, slot.first_seen);
                // Where the ledger forgot what was in it, the row did not.
                if let Some(known) = known(store, &key) {
                    row.join(known);
                }
            }
            None => {
                self.examine(object, roots, pipeline, &mut row, sensor)?;
            }
        }
        Some((key, row))
    }

    /// What only the file itself can tell; `None` when it is gone again, or is none.
    fn examine(
        &self,
        object: ObjectId,
        roots: &mut Roots,
        pipeline: &Pipeline,
        row: &mut Row,
        sensor: &Sensor,
    ) -> Option<()> {
        let name = Name { ino: object.ino, generation: object.generation, tree: None };
        let devices = pipeline.destinations.classifier().devices();
        match roots.find(&self.volumes, object.dev, name) {
            Found::Here(facts) => return facts.is_regular.then_some(()),
            Found::Gone if roots.vouch(&self.volumes, devices, object.dev) => return None,
            Found::Gone | Found::Unknown => {}
        }
        let path = self.volumes.locate(object.dev, &row.path).filter(|_| !row.path.is_empty());
        if let Some(path) = path
            && let Ok((file, facts)) = handles::open(&path)
            && sensor.identify_file(&file, &path).is_ok_and(|found| found == object)
        {
            if !facts.is_regular {
                return None;
            }
            (row.tree, row.born) = (handles::tree_of(&file, object.ino), facts.born);
        }
        Some(())
    }

    /// Those that can hold least go, by a batch, so that the next is not due at once.
    fn make_room(&mut self) -> Vec<Update> {
        let mut order: Vec<(u64, Key)> =
            self.slots.iter().map(|(key, slot)| (slot.bytes, key.clone())).collect();
        order.sort_unstable();
        order.truncate(self.slots.len() - (MOST - MOST / 8));
        self.unkept += order.len() as u64;
        tracing::warn!(
            rows = order.len(),
            "there are more copies than are kept for the next start: those that can hold least are left out"
        );
        order
            .into_iter()
            .map(|(_, key)| {
                self.slots.remove(&key);
                (key.to_bytes(), None)
            })
            .collect()
    }

    /// Looks at some of the files, once a second: what is gone carries nothing.
    pub(super) fn look(
        &mut self,
        store: Option<&Store>,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        if self.queue.is_empty() {
            self.queue = self.slots.keys().cloned().collect();
        }
        let many = (self.slots.len() / LOOK_EVERY).max(LOOK_AT).min(self.queue.len());
        let mut roots = Roots::default();
        let mut stale: Vec<(Key, Vec<Dev>)> = Vec::new();
        let mut returned: Vec<Key> = Vec::new();
        for key in self.queue.split_off(self.queue.len() - many) {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            // Several where it was cloned.
            let devs: Vec<Dev> = self.volumes.devs_of(&key.uuid).collect();
            let found: Vec<Found> =
                devs.iter().map(|&dev| roots.find(&self.volumes, dev, slot.name)).collect();
            // Also when it is empty: who put something there can put it there again.
            if found.iter().any(|found| matches!(found, Found::Here(_))) {
                slot.missed = false;
                if !slot.is_back {
                    returned.push(key);
                }
            } else if !found.is_empty() && found.iter().all(|found| matches!(found, Found::Gone)) {
                stale.push((key, devs));
            }
        }
        for (key, devs) in stale {
            let is_gone = self.are_gone(&devs, &mut roots, pipeline);
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            // Twice: a part of a disk that cannot be read may go unnoticed once.
            if !is_gone || !slot.missed {
                slot.missed = is_gone;
                if is_gone {
                    self.queue.insert(0, key);
                }
                continue;
            }
            for dev in devs {
                let object = ObjectId { dev, ino: key.ino, generation: key.generation };
                self.recalled.remove(&object);
                pipeline.ledger.forget_file(object);
                sensor.forget_carrier(object)?;
            }
            self.slots.remove(&key);
            self.removed.insert(key);
        }
        let rows: Vec<(Key, Row)> =
            returned.into_iter().filter_map(|key| Some((key.clone(), known(store?, &key)?))).collect();
        // Only then: a scan charges whoever has a copy open with all of it.
        if rows.is_empty() {
            return Ok(());
        }
        for (key, row) in rows {
            self.recall(key, &row, &mut roots, pipeline, sensor, &mut Outcome::default())?;
        }
        sensor.find_users()
    }
}

enum Search {
    Found(ObjectId, Facts),
    /// It is no more.
    Gone,
    /// It is no more if its filesystem answers for that.
    Stale,
    Unknown,
}

fn share(content: Content, pipeline: &Pipeline) -> Option<Share> {
    let Content { asset, bytes, way } = content;
    let asset = pipeline.ledger.assets().find(|known| known.id == asset)?.name.clone();
    Some(Share { asset, bytes, way: kept_way(&way) })
}

fn known(store: &Store, key: &Key) -> Option<Row> {
    match store.get(SPACE, &key.to_bytes()) {
        Ok(value) => value.and_then(|value| Row::parse(&value)),
        Err(error) => {
            unreadable(&error);
            None
        }
    }
}

fn unreadable(error: &StoreError) {
    tracing::debug!(%error, "what is known of a copy cannot be read and is told anew");
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

impl Pipeline {
    /// A file that an earlier agent knew is a carrier again; `path` is the last one that it had, within its filesystem.
    fn recall(&mut self, object: ObjectId, path: &str, contents: &[Content]) {
        if !path.is_empty() {
            let place = FsPath { text: path.to_owned(), cut: false };
            let event = self.destinations.locate(SinkKey::File(object), 0, place);
            // Makes no record, so the time does not matter.
            self.apply(event, crate::event::BootNs::default());
        }
        let mut records = std::mem::take(&mut self.records);
        self.ledger.recall(object, contents, &mut records);
        self.judge(records, super::run::now());
    }
}
