//! Files that carry asset bytes, over restarts and reboots, and over a disk that is pulled out and put in again.
//!
//! Each has a row in the state directory, under the UUID of its filesystem. A filesystem that comes (at the start, or when it is
//! mounted) brings its files back: they are carriers again, with what can be in them. A row goes when its file is gone.

mod keep;
mod recall;
mod roots;
mod row;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use self::{
    keep::known,
    recall::Outcome,
    roots::Roots,
    row::{Key, Row},
};
use super::Pipeline;
use crate::{
    event::{AssetId, Conclusions, Dev, ObjectId},
    host::{
        handles::{Found, Name},
        patience::Patience,
        store::Store,
        volumes::Volumes,
    },
    sensor::{Sensor, SensorError},
};

/// The space of the store.
pub(super) const SPACE: &str = "carriers";
/// Rows that are kept. What can hold least goes first.
const MOST: usize = 65_536;
/// Each row is looked at once in so many seconds, whether its file is still there.
const LOOK_EVERY: usize = 300;
/// And so many of them at least.
const LOOK_AT: usize = 16;
/// By a disk that is asked whether it is there. A busy one takes a second; nothing is told meanwhile.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// At the start, by a disk that may have to spin up first: what it does not say by then is asked for again each second.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

/// What is known of the rows without reading them.
#[derive(Debug)]
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
    /// For disks that neither answer nor fail.
    patience: Patience<Dev>,
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

impl Carriers {
    pub(super) fn new(is_same_boot: bool) -> Self {
        Self {
            volumes: Volumes::default(),
            slots: HashMap::new(),
            changed: HashSet::new(),
            recalled: HashMap::new(),
            removed: HashSet::new(),
            queue: Vec::new(),
            unkept: 0,
            doubted: 0,
            silent: HashSet::new(),
            patience: Patience::new(FOUND_WITHIN),
            is_same_boot,
        }
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
        let recalled = match store {
            Some(store) => self.recall_from(store, &[], pipeline, sensor),
            None => Ok(()),
        };
        self.patience.set_limit(ANSWERED_WITHIN);
        recalled
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

    /// What the ledger concluded since the last time.
    pub(super) fn note(&mut self, conclusions: &Conclusions) {
        for &(object, asset, cap) in &conclusions.caps {
            let said = self.recalled.get(&object).into_iter().flatten().find(|(known, _)| *known == asset);
            if cap.is_some_and(|cap| cap > said.map_or(0, |(_, bytes)| *bytes)) {
                self.changed.insert(object);
            }
        }
    }

    /// Looks at some of the files, once a second: what is gone carries nothing.
    pub(super) fn look(
        &mut self,
        store: Option<&Store>,
        pipeline: &mut Pipeline,
        sensor: &mut Sensor,
    ) -> Result<(), SensorError> {
        if self.volumes.is_unanswered() {
            self.mounts_changed(store, pipeline, sensor)?;
        }
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
            let name = slot.name;
            let find = |&dev: &Dev| roots.find(&self.volumes, dev, name, &mut self.patience);
            let found: Vec<Found> = devs.iter().map(find).collect();
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
