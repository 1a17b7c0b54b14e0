//! From maps and ring to readings: what changed since the last look.
//!
//! Rows of an image that ended are read once more after its end was seen, then removed: nothing can be added to them.

use std::collections::{HashMap, HashSet};

use agent_ebpf as abi;

use super::{
    SensorError, facts,
    maps::{Maps, Raw, rows, walk},
    reading::{self, Reading},
};
use crate::event::{AssetSet, BootNs, Loss};

/// Steps of one walk over a map: twice its size, because a walk restarts when its row is deleted under it.
const WALK: usize = 1 << 19;
/// Looks between two sweeps of rows that belong to nobody.
const SWEEP: u32 = 1024;

#[derive(Default)]
pub(super) struct Drain {
    holders: HashMap<abi::HolderKey, u64>,
    takes: HashMap<abi::TakeKey, u64>,
    flows: HashMap<abi::FlowKey, u64>,
    ended: Vec<abi::HolderKey>,
    losses: Loss,
    malformed: u64,
    looks: u32,
}

impl Drain {
    pub(super) fn run(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) -> Result<bool, SensorError> {
        let before = readings.len();
        // Rows first and the ring after them, but the ring's facts in front: whoever counts has sent who it is and where to
        // before, so no row is told of without its facts.
        let leaving = std::mem::take(&mut self.ended);
        let mut rows = Vec::new();
        self.holders(maps, &mut rows)?;
        self.takes(maps, &mut rows)?;
        self.flows(maps, &mut rows)?;
        // A walk has the order of the hash; the newest flow of a group is the one that its alert names.
        rows.sort_by_key(moved_at);
        self.facts(maps, readings);
        readings.append(&mut rows);
        self.forget(maps, leaving, readings)?;
        self.losses(maps, readings)?;
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(SWEEP) {
            self.sweep(maps)?;
        }
        Ok(readings.len() > before || !self.ended.is_empty())
    }

    fn facts(&mut self, maps: &mut Maps, readings: &mut Vec<Reading>) {
        while let Some(record) = maps.facts.next() {
            match facts::parse(&record) {
                Some(Some(reading)) => readings.push(reading),
                Some(None) => {}
                None => self.malformed += 1,
            }
        }
    }

    fn holders(&mut self, maps: &Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        for row in walk(&maps.holders, WALK) {
            let (key, Raw(value)) = row?;
            if value.ended != 0 && !self.ended.contains(&key) {
                self.ended.push(key);
            }
            let state = value.inherited;
            if self.holders.insert(key, state) == Some(state) {
                continue;
            }
            let parent = (value.parent.tgid != 0).then(|| reading::holder(&value.parent));
            let holder = reading::holder(&key);
            readings.push(Reading::Holder {
                holder,
                parent,
                inherited: value.inherited,
                at: BootNs(value.since),
            });
        }
        Ok(())
    }

    fn takes(&mut self, maps: &Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        for row in walk(&maps.takes, WALK) {
            let (key, Raw(value)) = row?;
            if self.takes.insert(key, value.bytes) == Some(value.bytes) || value.bytes == 0 {
                continue;
            }
            let (holder, source) = (reading::holder(&key.holder), reading::source(&key.source));
            readings.push(Reading::Take { holder, source, bytes: value.bytes, at: BootNs(value.last) });
        }
        Ok(())
    }

    fn flows(&mut self, maps: &Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        let from = readings.len();
        for row in walk(&maps.flows, WALK) {
            let (key, Raw(value)) = row?;
            // A mapping of a process that holds nothing (yet) says nothing.
            if key.assets == abi::ALL_ASSETS && !self.holders.contains_key(&key.holder) {
                continue;
            }
            if self.flows.insert(key, value.bytes) == Some(value.bytes) || value.bytes == 0 {
                continue;
            }
            readings.push(Reading::Flow {
                holder: reading::holder(&key.holder),
                sink: reading::sink(&key.sink),
                magic: value.magic,
                assets: AssetSet(key.assets),
                bytes: value.bytes,
                at: BootNs(value.last),
            });
        }
        // The map has no order, and whoever is told of several wants the one that moved last to come last.
        readings[from..].sort_by_key(|reading| match reading {
            Reading::Flow { at, .. } => *at,
            _ => BootNs(0),
        });
        Ok(())
    }

    /// Removes the rows of images whose end was seen in the look before this one.
    fn forget(
        &mut self,
        maps: &mut Maps,
        leaving: Vec<abi::HolderKey>,
        readings: &mut Vec<Reading>,
    ) -> Result<(), SensorError> {
        if leaving.is_empty() {
            return Ok(());
        }
        let gone: HashSet<abi::HolderKey> = leaving.iter().copied().collect();
        self.ended.retain(|key| !gone.contains(key));
        for key in
            self.takes.extract_if(|key, _| gone.contains(&key.holder)).map(|(key, _)| key).collect::<Vec<_>>()
        {
            absent_is_fine(maps.takes.remove(&Raw(key)))?;
        }
        for key in
            self.flows.extract_if(|key, _| gone.contains(&key.holder)).map(|(key, _)| key).collect::<Vec<_>>()
        {
            absent_is_fine(maps.flows.remove(&Raw(key)))?;
        }
        for key in leaving {
            let ended = maps.holders.get(&Raw(key), 0).map_or(0, |Raw(value)| value.ended);
            absent_is_fine(maps.holders.remove(&Raw(key)))?;
            self.holders.remove(&key);
            readings.push(Reading::Exit { holder: reading::holder(&key), at: BootNs(ended) });
        }
        Ok(())
    }

    fn losses(&mut self, maps: &Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        let mut losses = Loss::new();
        for (slot, (stage, _)) in (0u32..).zip(abi::LOSSES) {
            let total: u64 = maps.losses.get(&slot, 0)?.iter().sum();
            if total != 0 {
                losses.insert(stage, total);
            }
        }
        if self.malformed != 0 {
            losses.insert("fact_malformed", self.malformed);
        }
        if losses != self.losses {
            self.losses.clone_from(&losses);
            readings.push(Reading::Loss(losses));
        }
        Ok(())
    }

    /// Writable mappings of processes that ended without ever holding anything.
    fn sweep(&mut self, maps: &mut Maps) -> Result<(), SensorError> {
        for (key, _) in rows(&maps.flows, WALK)? {
            if key.assets != abi::ALL_ASSETS || self.holders.contains_key(&key.holder) {
                continue;
            }
            let lives =
                maps.processes.get(&key.holder.tgid, 0).is_ok_and(|Raw(process)| process.key == key.holder);
            if !lives {
                absent_is_fine(maps.flows.remove(&Raw(key)))?;
            }
        }
        Ok(())
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
