//! Rows of copies: what is written of a file for the next start, and which rows make room. It must not know how a file is found again.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Carriers, MOST, SPACE, Slot,
    roots::Roots,
    row::{Key, Row, Share, kept_path, kept_way},
};
use crate::{
    event::{ObjectId, SinkKey},
    host::{
        handles::{self, Found, Name},
        store::{Store, StoreError, Update},
    },
    ledger::Content,
    pipeline::Pipeline,
    sensor::Sensor,
};

impl Carriers {
    /// What is to be written; [`Carriers::written`] says that it was.
    pub(in crate::pipeline) fn updates(
        &mut self,
        store: &Store,
        pipeline: &Pipeline,
        sensor: &Sensor,
    ) -> Vec<Update> {
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

    pub(in crate::pipeline) fn written(&mut self) {
        self.changed.clear();
        self.removed.clear();
    }

    fn row_of(
        &mut self,
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
        &mut self,
        object: ObjectId,
        roots: &mut Roots,
        pipeline: &Pipeline,
        row: &mut Row,
        sensor: &Sensor,
    ) -> Option<()> {
        let name = Name { ino: object.ino, generation: object.generation, tree: None };
        let devices = pipeline.destinations.classifier().devices();
        match roots.find(&self.volumes, object.dev, name, &mut self.patience) {
            Found::Here(facts) => return facts.is_regular.then_some(()),
            Found::Gone if roots.vouch(&self.volumes, devices, object.dev, &mut self.patience) => {
                return None;
            }
            Found::Gone | Found::Unknown => {}
        }
        let path = self.volumes.locate(object.dev, &row.path).filter(|_| !row.path.is_empty());
        if let Some(path) = path
            && let whom = path.clone()
            && let Some(Ok((file, facts))) = self.patience.ask(object.dev, move || handles::open(&whom))
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
}

fn share(content: Content, pipeline: &Pipeline) -> Option<Share> {
    let Content { asset, bytes, way } = content;
    let asset = pipeline.ledger.assets().find(|known| known.id == asset)?.name.clone();
    Some(Share { asset, bytes, way: kept_way(&way) })
}

pub(super) fn known(store: &Store, key: &Key) -> Option<Row> {
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
