//! From ring and maps to readings: what changed since the last look.
//!
//! The ring tells of each new row, and once for each look of each holder whose rows grew: a look costs what moved, not what
//! the maps could hold. Walking them costs as much as they have buckets; that is done after a fact was lost, and seldom
//! all the same.
//!
//! Rows of an image that ended are read once more after its end was seen, then removed: nothing can be added to them.

mod kept;
mod past;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use agent_ebpf as abi;

use self::kept::keep;
pub use self::past::Past;
use super::{
    SensorError,
    acts::Acts,
    beyond::{self, Beyond},
    facts::{self, Fact, Row},
    maps::{Maps, Raw, absent_is_fine, row, rows},
    memory::Links,
    reading::{self, Reading},
    told::Told,
};
use crate::event::{BootNs, Conclusions, Loss};

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
    acts: Acts,
    /// To be told in the next look.
    later: Vec<Reading>,
    losses: Loss,
    losses_told: bool,
    malformed: u64,
    /// The most bytes that one look took out of the ring since somebody asked.
    pub(super) most_taken: usize,
    /// Facts lost as of the last walk, and when that was.
    lost: u64,
    walked: Option<Instant>,
    /// `None` when nothing is to be kept.
    told: Option<Told>,
}

/// A process image that has rows, and what they held when they were last read.
#[derive(Default)]
struct Image {
    /// `None` before its row in `HOLDERS` was read: so far it only has mappings that can be written.
    inherited: Option<u64>,
    takes: HashMap<abi::ObjectKey, u64>,
    flows: HashMap<(u64, abi::SinkKey), u64>,
    /// What found no room for rows of its own.
    beyond: Beyond,
}

impl Drain {
    pub(super) fn new(told: Option<Told>) -> Self {
        Self { told, ..Self::default() }
    }

    /// See [`super::Sensor::commit`].
    pub(super) fn commit(&mut self, conclusions: &Conclusions) -> Result<(), SensorError> {
        let images = &self.images;
        let Some(told) = &mut self.told else { return Ok(()) };
        told.commit(
            conclusions,
            |key| {
                let image = images.get(&key.holder)?;
                image.beyond.kept_take(&key.source).or_else(|| image.takes.get(&key.source).copied())
            },
            |key| {
                let image = images.get(&key.holder)?;
                image
                    .beyond
                    .kept_flow(&key.sink)
                    .or_else(|| image.flows.get(&(key.assets, key.sink)).copied())
            },
        )
    }

    /// Nothing is to be kept from now on.
    pub(super) fn untold(&mut self) {
        self.told = None;
    }

    /// A scan has ended, of this epoch.
    pub(super) fn sweep_gpus(&mut self, maps: &mut Maps, epoch: u64) -> Result<(), SensorError> {
        self.acts.gpus.sweep(maps, epoch, &mut self.later)
    }

    pub(super) fn run(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) -> Result<bool, SensorError> {
        // A row that was not told of stays: the next agent would know nothing of it.
        let untold = self.told.as_ref().map_or_else(HashSet::new, |told| told.untold(&self.ended));
        let leaving: Vec<_> = self.ended.extract_if(.., |key| !untold.contains(key)).collect();
        self.grown.extend(&leaving);
        let before = readings.len();
        let mut acts = std::mem::take(&mut self.later);
        acts.append(&mut self.acts.look(maps)?);
        // Whoever counts has said before who it is and where to: what a row needs to be understood is in front of it, or is counted
        // as lost by now. What grows from here on is told again, because the count of looks has changed.
        self.facts(maps, readings);
        let mut lost = self.losses(maps)?;
        if lost != self.lost || self.walked.is_none_or(|walked| walked.elapsed() >= WALK_EVERY) {
            self.carriers_lost |= lost != self.lost || self.walked.is_none();
            self.walked = Some(Instant::now());
            self.walk(maps)?;
            // A row that only the walk met is of somebody who said who it is before, as above.
            self.facts(maps, readings);
            let before = std::mem::replace(&mut lost, self.losses(maps)?);
            if lost != before {
                // The walk may have passed what was lost meanwhile.
                self.walked = None;
            }
        }
        // Before all that was measured meanwhile, whose alerts say so.
        let told = self.tell_losses(readings);
        if lost != self.lost {
            self.carriers_lost = true;
            self.unsent(maps, readings)?;
            self.lost = lost;
        }
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
        rows.sort_by_key(Reading::moved_at);
        readings.append(&mut rows);
        // After what their victims had taken.
        readings.append(&mut acts);
        self.forget(maps, leaving, readings)?;
        Ok(readings.len() > before + usize::from(told) || !self.ended.is_empty())
    }

    fn facts(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) {
        let Maps { facts: ring, images, sinks, .. } = maps;
        let mut taken = 0;
        while let Some(record) = ring.next() {
            // Each has a header of eight bytes and begins at a multiple of eight.
            taken += 8 + record.len().next_multiple_of(8);
            match facts::parse(&record) {
                Some(Fact::Reading(reading)) => {
                    // Before the record is taken out of the ring, so that at every moment one of the two has it.
                    if let Some(told) = &mut self.told
                        && !keep(images, sinks, &record)
                    {
                        told.lost += 1;
                        // A walk makes room.
                        self.walked = None;
                    }
                    readings.push(reading);
                }
                Some(Fact::Row(row)) => self.note(row),
                Some(Fact::Wake) => {}
                None => self.malformed += 1,
            }
        }
        self.most_taken = self.most_taken.max(taken);
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
        if self.told.is_some() { self.sweep_kept(maps) } else { Ok(()) }
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
        if beyond::waits(&key, &value) {
            return Ok(());
        }
        if value.ended != 0 && !self.ended.contains(&key) {
            self.ended.push(key);
        }
        if image.inherited.replace(value.inherited) != Some(value.inherited) {
            readings.push(Reading::held(&key, &value));
        }
        let beyond = Beyond::of(&value);
        for (&source, known) in &mut image.takes {
            let key = abi::TakeKey { holder: key, source };
            let Some(Raw(value)) = row(&maps.takes, key)? else { continue };
            if value.bytes != std::mem::replace(known, value.bytes) {
                if let Some(told) = &mut self.told {
                    told.read_take(key);
                }
                // What found no room is told below too, on top of the row of its asset.
                let bytes = value.bytes.saturating_add(beyond.on_top(&source));
                readings.push(Reading::taken(&key, bytes, &value));
            }
        }
        if beyond != std::mem::replace(&mut image.beyond, beyond) && !beyond.is_nothing() {
            if let Some(told) = &mut self.told {
                let (take, flows) = Beyond::keys(key);
                told.read_take(take);
                flows.into_iter().for_each(|flow| told.read_flow(flow));
            }
            beyond.tell(&key, &image.takes, beyond::now(), readings);
        }
        for (&(assets, sink), known) in &mut image.flows {
            let key = abi::FlowKey { holder: key, assets, sink };
            let Some(Raw(value)) = row(&maps.flows, key)? else { continue };
            if value.bytes != std::mem::replace(known, value.bytes) {
                if let Some(told) = &mut self.told {
                    told.read_flow(key);
                }
                readings.push(Reading::put(&key, value.bytes, &value));
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
        if !leaving.is_empty() {
            self.acts.forget(maps, &leaving.iter().copied().collect())?;
        }
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
            let key = abi::TakeKey { holder: *key, source };
            absent_is_fine(maps.takes.remove(&Raw(key)))?;
            if let Some(told) = &mut self.told {
                told.forget_take(key)?;
            }
        }
        for (assets, sink) in image.flows.into_keys() {
            let key = abi::FlowKey { holder: *key, assets, sink };
            absent_is_fine(maps.flows.remove(&Raw(key)))?;
            if let Some(told) = &mut self.told {
                told.forget_flow(key)?;
            }
        }
        if let Some(told) = &mut self.told
            && !image.beyond.is_nothing()
        {
            let (take, flows) = Beyond::keys(*key);
            told.forget_take(take)?;
            flows.into_iter().try_for_each(|flow| told.forget_flow(flow))?;
        }
        self.links.forget(key);
        absent_is_fine(maps.memory.remove(&Raw(*key)))?;
        absent_is_fine(maps.holders.remove(&Raw(*key)))
    }

    /// Notes what was lost, and returns how many facts.
    fn losses(&mut self, maps: &Maps) -> Result<u64, SensorError> {
        let totals = maps.losses()?;
        let told_lost = self.told.as_ref().map_or(0, |told| told.lost);
        let stages = abi::LOSSES.iter().map(|(stage, _)| *stage).zip(totals);
        let losses: Loss = stages
            .chain([("fact_malformed", self.malformed + self.acts.malformed), ("told_full", told_lost)])
            .filter(|&(_, total)| total != 0)
            .collect();
        if losses != self.losses {
            self.losses = losses;
            self.losses_told = false;
        }
        Ok(totals[abi::LOSS_RING_FULL as usize] + self.malformed + self.acts.malformed)
    }

    /// Whether there were any that are new.
    fn tell_losses(&mut self, readings: &mut Vec<Reading>) -> bool {
        let new = !std::mem::replace(&mut self.losses_told, true) && !self.losses.is_empty();
        if new {
            readings.push(Reading::Loss(self.losses.clone()));
        }
        new
    }
}
