//! From ring and maps to readings: what changed since the last look.
//!
//! The ring tells of each new row, and once for each look of each holder whose rows grew: a look costs what moved, not what
//! the maps could hold. Walking them costs as much as they have buckets; that is done after a fact was lost, and seldom
//! all the same.
//!
//! Rows of an image that ended are read once more after its end was seen, then removed: nothing can be added to them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use agent_ebpf as abi;

use super::{
    SensorError,
    facts::{self, Fact, Row},
    maps::{Maps, Raw, row, rows},
    memory::Links,
    reading::{self, Reading},
};
use crate::event::{AssetSet, BootNs, Loss};

/// Steps of one walk over a map: twice its size, because a walk restarts when its row is deleted under it.
const WALK: usize = 1 << 19;
/// Between two walks that nothing asks for.
const WALK_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Drain {
    images: HashMap<abi::HolderKey, Image>,
    /// Images to look up.
    grown: HashSet<abi::HolderKey>,
    /// Images whose end was seen in the last look.
    ended: Vec<abi::HolderKey>,
    /// Carriers that were told of; for the scan, which takes them out.
    pub(super) carriers: Vec<abi::ObjectKey>,
    /// Facts lost: the scan has to walk. It puts this back.
    pub(super) carriers_lost: bool,
    links: Links,
    losses: Loss,
    losses_told: bool,
    malformed: u64,
    /// Facts lost as of the last walk, and when that was.
    lost: u64,
    walked: Option<Instant>,
}

/// A process image that has rows, and what they held when they were last read.
#[derive(Default)]
struct Image {
    /// `None` before its row in `HOLDERS` was read: so far it only has mappings that can be written.
    inherited: Option<u64>,
    takes: HashMap<abi::ObjectKey, u64>,
    flows: HashMap<(u64, abi::SinkKey), u64>,
}

impl Drain {
    pub(super) fn run(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) -> Result<bool, SensorError> {
        let before = readings.len();
        let leaving = std::mem::take(&mut self.ended);
        self.grown.extend(&leaving);
        let lost = self.losses(maps)?;
        if lost != self.lost || self.walked.is_none_or(|walked| walked.elapsed() >= WALK_EVERY) {
            self.carriers_lost |= lost != self.lost || self.walked.is_none();
            self.lost = lost;
            self.walked = Some(Instant::now());
            self.walk(maps)?;
        }
        // Whoever counts has said before who it is and where to: what a row needs to be understood is in front of it. What
        // grows from here on is told again, because the count of looks has changed.
        self.facts(maps, readings);
        if !self.grown.is_empty() {
            let looks = maps.shared(abi::SHARED_LOOK)?;
            maps.set_shared(abi::SHARED_LOOK, looks + 1)?;
        }
        let mut rows = Vec::new();
        for key in std::mem::take(&mut self.grown) {
            self.look_up(maps, key, &mut rows)?;
        }
        self.links.run(maps, &mut rows)?;
        // Rows come in no order; the newest flow of a group is the one that its alert names.
        rows.sort_by_key(moved_at);
        readings.append(&mut rows);
        self.forget(maps, leaving, readings)?;
        let moved = readings.len() > before || !self.ended.is_empty();
        self.tell_losses(readings);
        Ok(moved)
    }

    fn facts(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) {
        while let Some(record) = maps.facts.next() {
            match facts::parse(&record) {
                Some(Fact::Reading(reading)) => readings.push(reading),
                Some(Fact::Row(row)) => self.note(row),
                Some(Fact::Wake) => {}
                None => self.malformed += 1,
            }
        }
    }

    fn note(&mut self, row: Row) {
        match row {
            Row::Holder(key) => {
                self.images.entry(key).or_default();
                self.grown.insert(key);
            }
            Row::Take(key) => {
                self.images.entry(key.holder).or_default().takes.entry(key.source).or_insert(0);
                self.grown.insert(key.holder);
            }
            Row::Flow(key) => {
                self.images.entry(key.holder).or_default().flows.entry((key.assets, key.sink)).or_insert(0);
                self.grown.insert(key.holder);
            }
            Row::Carrier(key) => self.carriers.push(key),
        }
    }

    /// Notes every row that there is, and removes writable mappings of processes that ended without ever holding anything.
    fn walk(&mut self, maps: &mut Maps) -> Result<(), SensorError> {
        for (key, _) in rows(&maps.holders, WALK)? {
            self.note(Row::Holder(key));
        }
        for (key, _) in rows(&maps.takes, WALK)? {
            self.note(Row::Take(key));
        }
        for (key, _) in rows(&maps.flows, WALK)? {
            self.note(Row::Flow(key));
        }
        let holds = |key: &abi::HolderKey| row(&maps.holders, *key).is_ok_and(|row| row.is_some());
        let lives = |key: &abi::HolderKey| {
            maps.processes.get(&key.tgid, 0).is_ok_and(|Raw(process)| process.key == *key)
        };
        let gone: Vec<abi::HolderKey> =
            self.images.keys().filter(|key| !holds(key) && !lives(key)).copied().collect();
        for key in gone {
            self.remove(maps, &key)?;
        }
        Ok(())
    }

    /// What of one image is not as it was.
    fn look_up(
        &mut self,
        maps: &Maps,
        key: abi::HolderKey,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        let Some(image) = self.images.get_mut(&key) else { return Ok(()) };
        // A mapping of a process that holds nothing (yet) says nothing.
        let Some(Raw(value)) = row(&maps.holders, key)? else { return Ok(()) };
        if value.ended != 0 && !self.ended.contains(&key) {
            self.ended.push(key);
        }
        let holder = reading::holder(&key);
        if image.inherited.replace(value.inherited) != Some(value.inherited) {
            let parent = (value.parent.tgid != 0).then(|| reading::holder(&value.parent));
            readings.push(Reading::Holder {
                holder,
                parent,
                inherited: value.inherited,
                at: BootNs(value.since),
            });
        }
        for (&source, known) in &mut image.takes {
            let Some(Raw(value)) = row(&maps.takes, abi::TakeKey { holder: key, source })? else { continue };
            if value.bytes != std::mem::replace(known, value.bytes) {
                let (source, at) = (reading::source(&source), BootNs(value.last));
                readings.push(Reading::Take { holder, source, bytes: value.bytes, at });
            }
        }
        for (&(assets, sink), known) in &mut image.flows {
            let Some(Raw(value)) = row(&maps.flows, abi::FlowKey { holder: key, assets, sink })? else {
                continue;
            };
            if value.bytes != std::mem::replace(known, value.bytes) {
                readings.push(Reading::Flow {
                    holder,
                    sink: reading::sink(&sink),
                    magic: value.magic,
                    assets: AssetSet(assets),
                    bytes: value.bytes,
                    at: BootNs(value.last),
                });
            }
        }
        Ok(())
    }

    /// Removes the rows of images whose end was seen in the look before this one.
    fn forget(
        &mut self,
        maps: &mut Maps,
        leaving: Vec<abi::HolderKey>,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        for key in leaving {
            self.ended.retain(|ended| *ended != key);
            let ended = row(&maps.holders, key)?.map_or(0, |Raw(value)| value.ended);
            self.remove(maps, &key)?;
            readings.push(Reading::Exit { holder: reading::holder(&key), at: BootNs(ended) });
        }
        Ok(())
    }

    fn remove(&mut self, maps: &mut Maps, key: &abi::HolderKey) -> Result<(), SensorError> {
        let Some(image) = self.images.remove(key) else { return Ok(()) };
        for source in image.takes.into_keys() {
            absent_is_fine(maps.takes.remove(&Raw(abi::TakeKey { holder: *key, source })))?;
        }
        for (assets, sink) in image.flows.into_keys() {
            absent_is_fine(maps.flows.remove(&Raw(abi::FlowKey { holder: *key, assets, sink })))?;
        }
        self.links.forget(key);
        absent_is_fine(maps.memory.remove(&Raw(*key)))?;
        absent_is_fine(maps.holders.remove(&Raw(*key)))
    }

    /// Notes what was lost, and returns how many facts.
    fn losses(&mut self, maps: &Maps) -> Result<u64, SensorError> {
        let totals = maps.losses()?;
        let stages = abi::LOSSES.iter().map(|(stage, _)| *stage).zip(totals);
        let losses: Loss =
            stages.chain([("fact_malformed", self.malformed)]).filter(|&(_, total)| total != 0).collect();
        if losses != self.losses {
            self.losses = losses;
            self.losses_told = false;
        }
        Ok(totals[abi::LOSS_RING_FULL as usize] + self.malformed)
    }

    fn tell_losses(&mut self, readings: &mut Vec<Reading>) {
        if !std::mem::replace(&mut self.losses_told, true) && !self.losses.is_empty() {
            readings.push(Reading::Loss(self.losses.clone()));
        }
    }
}

/// When a row grew last; rows of holders come first, because the others are theirs.
const fn moved_at(reading: &Reading) -> BootNs {
    match reading {
        Reading::Take { at, .. } | Reading::Flow { at, .. } => *at,
        _ => BootNs(0),
    }
}

fn absent_is_fine(result: Result<(), aya::maps::MapError>) -> Result<(), SensorError> {
    match result {
        Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
