//! Shared memory: from what each process has mapped to who can have given what to whom.
//!
//! Stores and loads make no call, so there is no amount: whoever can store into an object gives it all that he took, and whoever has
//! it mapped takes all that is given; the ledger caps both by what is real. A process that remembers more objects than its
//! row has room for is linked through the slots of the rest, which can only say too much.

use std::collections::{HashMap, HashSet};

use agent_ebpf as abi;

use super::{
    SensorError,
    maps::{self, Maps, Raw},
    reading::{self, Reading},
};
use crate::event::{AssetSet, BootNs, SinkKey, Source};

/// Steps of one walk over the map of memories: twice its size.
const WALK: usize = 1 << 17;

/// What was said already: each link is told once.
#[derive(Default)]
pub(super) struct Links {
    /// Changes seen.
    seen: Option<u64>,
    given: HashMap<abi::HolderKey, HashSet<abi::ObjectKey>>,
    taken: HashMap<abi::HolderKey, HashSet<abi::ObjectKey>>,
}

/// One process's row, with what it does not list.
struct Row {
    holder: abi::HolderKey,
    objects: Vec<abi::MemoryObject>,
    /// Slots of objects that are not listed: mapped, and stored into.
    unlisted: Vec<usize>,
    unlisted_writes: Vec<usize>,
}

impl Links {
    /// Appends what is new since the last time.
    pub(super) fn run(&mut self, maps: &Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        let changes = maps.shared(abi::SHARED_MAPPINGS)?;
        if self.seen == Some(changes) {
            return Ok(());
        }
        self.seen = Some(changes);
        let mut rows = Vec::new();
        for (holder, Raw(memory)) in maps::rows(&maps.memory, WALK)? {
            if maps::row(&maps.holders, holder)?.is_some() {
                rows.push(Row::new(holder, &memory));
            }
        }
        self.link(&rows, |object| fed(maps, object), readings);
        Ok(())
    }

    /// The holder is gone and all of it was said.
    pub(super) fn forget(&mut self, gone: &abi::HolderKey) {
        self.given.remove(gone);
        self.taken.remove(gone);
    }

    fn link(
        &mut self,
        rows: &[Row],
        fed: impl Fn(&abi::ObjectKey) -> Option<u64>,
        readings: &mut Vec<Reading>,
    ) {
        let mut groups = Groups::default();
        let mut writers: HashMap<abi::ObjectKey, HashSet<abi::HolderKey>> = HashMap::new();
        let mut room: HashMap<abi::ObjectKey, u64> = HashMap::new();
        for row in rows {
            for object in row.written() {
                writers.entry(object).or_default().insert(row.holder);
            }
            for object in row.objects.iter().filter(|object| object.writes != 0) {
                let sum = room.entry(object.key).or_default();
                *sum = sum.saturating_add(object.bytes);
            }
        }
        let others_write = |object: &abi::ObjectKey, holder: &abi::HolderKey| {
            writers.get(object).is_some_and(|writers| writers.iter().any(|writer| writer != holder))
        };
        // Objects that a process has mapped beside each other are one place: were they several, what went to and fro
        // between two processes would count once for each.
        let seen: Vec<Vec<abi::ObjectKey>> = rows
            .iter()
            .map(|row| row.seen(writers.keys()).filter(|object| others_write(object, &row.holder)).collect())
            .collect();
        for (row, seen) in rows.iter().zip(&seen) {
            let written = row.written().filter(|object| others_write(object, &row.holder));
            groups.join(seen.iter().copied().chain(written));
        }
        for (row, seen) in rows.iter().zip(&seen) {
            for object in row.written() {
                self.give(row.holder, object, readings);
                self.give(row.holder, groups.of(object), readings);
            }
            if let Some(&first) = seen.first() {
                self.take(row.holder, groups.of(first), readings);
            }
            // What went in by calls is in the object alone.
            for object in &row.objects {
                let stored = if seen.contains(&object.key) { room.get(&object.key).copied() } else { None };
                if fed(&object.key).is_some_and(|fed| fed > stored.unwrap_or(0)) {
                    self.take(row.holder, object.key, readings);
                }
            }
        }
    }

    fn give(&mut self, holder: abi::HolderKey, object: abi::ObjectKey, readings: &mut Vec<Reading>) {
        if self.given.entry(holder).or_default().insert(object) {
            readings.push(Reading::Flow {
                holder: reading::holder(&holder),
                sink: SinkKey::Process(reading::object(&object)),
                magic: 0,
                assets: AssetSet(abi::ALL_ASSETS),
                bytes: abi::UNCOUNTED,
                at: BootNs(0),
            });
        }
    }

    fn take(&mut self, holder: abi::HolderKey, object: abi::ObjectKey, readings: &mut Vec<Reading>) {
        if self.taken.entry(holder).or_default().insert(object) {
            readings.push(Reading::Take {
                holder: reading::holder(&holder),
                source: Source::Carrier(reading::object(&object)),
                bytes: abi::UNCOUNTED,
                at: BootNs(0),
            });
        }
    }
}

impl Row {
    fn new(holder: abi::HolderKey, memory: &abi::Memory) -> Self {
        let count = usize::try_from(memory.count).unwrap_or(usize::MAX).min(abi::MEMORY_OBJECTS);
        let objects = memory.objects[..count].to_vec();
        // Two threads that add an object at once can overwrite each other's in the list, never in the slots.
        let unlisted = |slots: &[u8], listed: &dyn Fn(&abi::MemoryObject) -> bool| {
            let full = count == abi::MEMORY_OBJECTS;
            (0..abi::MEMORY_SLOTS)
                .filter(|&slot| slots[slot] != 0)
                .filter(|&slot| {
                    full || !objects
                        .iter()
                        .any(|object| listed(object) && abi::memory_slot(&object.key) == slot)
                })
                .collect()
        };
        let (all, writes) =
            (unlisted(&memory.mapped, &|_| true), unlisted(&memory.writes, &|object| object.writes != 0));
        Self { holder, objects, unlisted: all, unlisted_writes: writes }
    }
}

impl Row {
    /// What its stores reach.
    fn written(&self) -> impl Iterator<Item = abi::ObjectKey> {
        let listed = self.objects.iter().filter(|object| object.writes != 0).map(|object| object.key);
        listed.chain(self.unlisted_writes.iter().map(|&slot| class(slot)))
    }

    /// Those of `written` whose stores it can see.
    fn seen<'a>(
        &'a self,
        written: impl Iterator<Item = &'a abi::ObjectKey>,
    ) -> impl Iterator<Item = abi::ObjectKey> {
        written.copied().filter(|object| {
            let slot = slot(object);
            self.unlisted.contains(&slot)
                || self.objects.iter().any(|own| {
                    own.key == *object || (object.dev == abi::DEV_CLASS && abi::memory_slot(&own.key) == slot)
                })
        })
    }
}

/// Objects that are one place, each by one of them.
#[derive(Default)]
struct Groups(HashMap<abi::ObjectKey, abi::ObjectKey>);

impl Groups {
    fn of(&self, object: abi::ObjectKey) -> abi::ObjectKey {
        let mut top = object;
        while let Some(&above) = self.0.get(&top) {
            top = above;
        }
        top
    }

    fn join(&mut self, objects: impl Iterator<Item = abi::ObjectKey>) {
        let mut first = None;
        for object in objects {
            let top = self.of(object);
            let head = *first.get_or_insert(top);
            if head != top {
                // The lower one stays, so that the name of a group seldom changes when it grows.
                let (low, high) = if order(&head) < order(&top) { (head, top) } else { (top, head) };
                self.0.insert(high, low);
                first = Some(low);
            }
        }
    }
}

const fn order(object: &abi::ObjectKey) -> (u32, u64, u32) {
    (object.dev, object.ino, object.generation)
}

/// The slot of an object, or of a class of them.
const fn slot(object: &abi::ObjectKey) -> usize {
    if object.dev == abi::DEV_CLASS {
        (object.ino - abi::CLASS_MEMORY) as usize
    } else {
        abi::memory_slot(object)
    }
}

/// All that is in a slot, where no object is known.
const fn class(slot: usize) -> abi::ObjectKey {
    abi::ObjectKey { dev: abi::DEV_CLASS, generation: 0, ino: abi::CLASS_MEMORY + slot as u64 }
}

/// What went into a carrier by calls, and what mappings of it have room for; `None` when it is none.
fn fed(maps: &Maps, object: &abi::ObjectKey) -> Option<u64> {
    let Raw(value) = maps.objects.get(&Raw(*object), 0).ok()?;
    matches!(value.kind, abi::OBJECT_CARRIER | abi::OBJECT_STREAM | abi::OBJECT_CHANNEL).then_some(value.fed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(tgid: u32) -> abi::HolderKey {
        abi::HolderKey { tgid, exec: 1, start: u64::from(tgid) }
    }

    fn object(ino: u64) -> abi::ObjectKey {
        abi::ObjectKey { dev: 1, generation: 0, ino }
    }

    /// A process that has mapped these objects, and can store into those of which it is said.
    fn row(tgid: u32, objects: &[(u64, bool)]) -> Row {
        let empty = abi::MemoryObject { key: object(0), bytes: 0, magic: 0, writes: 0 };
        let mut memory = abi::Memory {
            mapped: [0; abi::MEMORY_SLOTS],
            writes: [0; abi::MEMORY_SLOTS],
            count: 0,
            reserved: 0,
            objects: [empty; abi::MEMORY_OBJECTS],
        };
        for (index, &(ino, writes)) in objects.iter().enumerate() {
            let slot = abi::memory_slot(&object(ino));
            memory.mapped[slot] = 1;
            memory.writes[slot] |= u8::from(writes);
            if let Some(place) = memory.objects.get_mut(index) {
                *place =
                    abi::MemoryObject { key: object(ino), bytes: 4096, magic: 0, writes: u32::from(writes) };
                memory.count += 1;
            }
        }
        Row::new(holder(tgid), &memory)
    }

    /// Who gives to whom in the end: the pairs of which one puts into what the other takes from.
    fn pairs(rows: &[Row], fed: impl Fn(&abi::ObjectKey) -> Option<u64>) -> Vec<(u32, u32)> {
        let mut readings = Vec::new();
        Links::default().link(rows, fed, &mut readings);
        let mut pairs = Vec::new();
        for given in &readings {
            let Reading::Flow { holder: from, sink: SinkKey::Process(into), .. } = given else { continue };
            for taken in &readings {
                if let Reading::Take { holder: to, source: Source::Carrier(out), .. } = taken
                    && into == out
                    && from != to
                    && !pairs.contains(&(from.tgid, to.tgid))
                {
                    pairs.push((from.tgid, to.tgid));
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn who_can_store_gives_to_who_can_see() {
        let rows = [row(1, &[(7, true)]), row(2, &[(7, false)]), row(3, &[(8, true)])];
        assert_eq!(pairs(&rows, |_| None), [(1, 2)]);
        // Two objects that one process sees beside each other are one place.
        let rows = [row(1, &[(7, true)]), row(2, &[(7, true), (8, true)]), row(3, &[(8, true)])];
        assert_eq!(pairs(&rows, |_| None), [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]);
    }

    #[test]
    fn what_is_beyond_the_list_is_linked_by_its_slot() {
        let many: Vec<(u64, bool)> = (100..120).chain([7]).map(|ino| (ino, true)).collect();
        let reader = row(2, &[(7, false)]);
        assert!(pairs(&[row(1, &many), reader], |_| None).contains(&(1, 2)));
        let many: Vec<(u64, bool)> = (100..120).chain([7]).map(|ino| (ino, false)).collect();
        assert!(pairs(&[row(1, &[(7, true)]), row(2, &many)], |_| None).contains(&(1, 2)));
    }

    #[test]
    fn what_went_in_by_calls_is_taken_from_the_object_itself() {
        let taken = |fed: Option<u64>| {
            let mut readings = Vec::new();
            Links::default().link(&[row(1, &[(7, false)])], |_| fed, &mut readings);
            readings.len()
        };
        assert_eq!((taken(None), taken(Some(0)), taken(Some(1))), (0, 0, 1));
    }

    #[test]
    fn each_link_is_told_once() {
        let rows = [row(1, &[(7, true)]), row(2, &[(7, true)])];
        let (mut links, mut readings) = (Links::default(), Vec::new());
        links.link(&rows, |_| None, &mut readings);
        let first = readings.len();
        links.link(&rows, |_| None, &mut readings);
        assert_eq!((first, readings.len()), (4, 4));
    }
}
