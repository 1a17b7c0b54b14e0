//! BPF iterators run from here: what was there before the agent, and which carriers are still open.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Read as _,
};

use agent_ebpf as abi;
use anyhow::Context as _;
use aya::programs::Iter;

use super::{
    Sensor, SensorError,
    maps::{Raw, row, rows},
    recall::CHARGES_NO_ASSET,
};

/// Carriers looked at in one scan.
const CARRIERS: usize = 1 << 20;
/// Processes whose shared memory is looked at in one scan.
const MEMORIES: usize = 1 << 17;

impl Sensor {
    /// Finds processes that were there first, with what they have open and mapped. Call it after everything is protected:
    /// who has an asset open or mapped is a holder from then on, charged with the whole file or mapping.
    ///
    /// # Errors
    ///
    /// When an iterator cannot run.
    pub fn scan_existing(&mut self) -> Result<(), SensorError> {
        self.maps.set_shared(abi::SHARED_LAYERS_STALE, 1)?;
        self.iterate("scan_processes")?;
        self.add_arguments()?;
        let charged = match &self.adopted {
            None => u64::MAX,
            // What moved while a hook was gone is not known: as at a first start, all that is open counts in full.
            Some(adopted) if !adopted.gaps.is_empty() => u64::MAX,
            Some(adopted) if adopted.added == 0 && self.recalled.is_some() => CHARGES_NO_ASSET,
            Some(adopted) => adopted.added,
        };
        self.recalled = None;
        if charged != 0 {
            self.maps.set_shared(abi::SHARED_CHARGED, charged)?;
            self.iterate("scan_files")?;
            if self.maps_can_be_scanned() {
                self.iterate("scan_mappings")?;
            }
            self.maps.set_shared(abi::SHARED_CHARGED, 0)?;
        }
        let epoch = self.maps.shared(abi::SHARED_EPOCH)?;
        self.maps.set_shared(abi::SHARED_EPOCH, epoch.max(1))
    }

    /// Marks who has a carrier open, so that not every process's reads need be looked up; forgets carriers that carry
    /// nothing, and takes the marks off who has nothing open any more. Returns whether anything was made or forgotten since
    /// the last time.
    ///
    /// # Errors
    ///
    /// When an iterator cannot run or a map cannot be used.
    pub fn scan_carriers(&mut self) -> Result<bool, SensorError> {
        self.scan_mappings()?;
        let made = self.maps.shared(abi::SHARED_CARRIERS)?;
        let epoch = self.maps.shared(abi::SHARED_EPOCH)? + 1;
        self.maps.set_shared(abi::SHARED_EPOCH, epoch)?;
        // Twice: a child forked behind the iterator's back by a process that was not marked yet is found the second time.
        self.iterate("scan_files")?;
        self.iterate("scan_files")?;
        let unsettled = made != self.maps.shared(abi::SHARED_SETTLED)?;
        self.maps.set_shared(abi::SHARED_SETTLED, made)?;
        let forgotten = self.forget_carriers(epoch)?;
        self.drain.sweep_gpus(&mut self.maps, epoch)?;
        // Overlays that came with a new asset, or that no call told of; and files in them that are of an asset only now.
        let made = self.maps.shared(abi::SHARED_LAYERS_MADE)?;
        self.maps.set_shared(abi::SHARED_LAYERS_MADE, made.wrapping_add(1))?;
        self.maps.set_shared(abi::SHARED_LAYERS_STALE, 1)?;
        self.iterate("scan_marks")?;
        Ok(unsettled || forgotten != 0)
    }

    /// Whether [`Self::scan_carriers`] has something to look for: new carriers, or mappings that may have changed.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn unsettled(&self) -> Result<bool, SensorError> {
        Ok(self.looks_at_all()? || self.maps.shared(abi::SHARED_MAPPINGS)? != self.mappings)
    }

    /// Whether a carrier was made since the last scan: until the next one, every process's reads are looked up.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn looks_at_all(&self) -> Result<bool, SensorError> {
        Ok(self.maps.shared(abi::SHARED_CARRIERS)? != self.maps.shared(abi::SHARED_SETTLED)?)
    }

    /// Looks at every mapping again when it is not told by calls which of them grew, or who has mapped what came to carry.
    fn scan_mappings(&mut self) -> Result<(), SensorError> {
        let changes = self.maps.shared(abi::SHARED_MAPPINGS)?;
        if changes == self.mappings || !self.maps_can_be_scanned() {
            return Ok(());
        }
        self.mappings = changes;
        self.iterate("scan_mappings")
    }

    pub(super) fn maps_can_be_scanned(&self) -> bool {
        self.hooks.iter().any(|report| report.hook.name == "scan_mappings" && report.result.is_ok())
    }

    /// Carriers that no process that spreads can write into any more and that hold less than the floor; streams that nobody
    /// has open; pathways that nobody used for a while. What is younger than two scans stays: a connection may not be
    /// accepted yet.
    fn forget_carriers(&mut self, epoch: u64) -> Result<usize, SensorError> {
        if std::mem::take(&mut self.drain.carriers_lost) {
            let rows = rows(&self.maps.objects, CARRIERS)?;
            self.drain.carriers.extend(rows.into_iter().map(|(key, _)| key));
        }
        for key in self.drain.carriers.drain(..) {
            self.carriers.entry(key).or_insert(epoch);
        }
        let mut ages = HashMap::new();
        let stored = self.stored_into()?;
        let mut forgotten = 0;
        for (key, first) in std::mem::take(&mut self.carriers) {
            let Some(Raw(value)) = row(&self.maps.objects, key)? else { continue };
            if value.kind < abi::OBJECT_CARRIER {
                continue;
            }
            let since = |last: u32| epoch.saturating_sub(u64::from(last));
            // What is in it and is forgotten is slack, of which there is only so much.
            let slack =
                self.setup.propagation_floor.saturating_mul(abi::FLOORS).saturating_sub(self.forgotten);
            let little = value.fed < self.setup.propagation_floor && value.fed <= slack;
            let empty = since(value.held) > 1 && little;
            let closed = since(value.seen.max(value.held)) > 3;
            let over = match value.kind {
                _ if stored.contains(&key) => false,
                abi::OBJECT_CARRIER | abi::OBJECT_CHANNEL => empty,
                abi::OBJECT_STREAM => empty || closed,
                _ => epoch - first > 4,
            };
            if over && epoch - first >= 2 {
                if !closed || value.kind != abi::OBJECT_STREAM {
                    self.forgotten += value.fed;
                }
                self.maps.objects.remove(&Raw(key))?;
                forgotten += 1;
            } else {
                ages.insert(key, first);
            }
        }
        self.carriers = ages;
        Ok(forgotten)
    }

    /// Memory that holders have mapped, so that it carries whatever they store.
    fn stored_into(&self) -> Result<HashSet<abi::ObjectKey>, SensorError> {
        let mut stored = HashSet::new();
        for (holder, Raw(memory)) in rows(&self.maps.memory, MEMORIES)? {
            if self.maps.holders.get(&Raw(holder), 0).is_ok() {
                stored.extend(
                    memory.objects.iter().filter(|object| object.writes != 0).map(|object| object.key),
                );
            }
        }
        Ok(stored)
    }

    pub(super) fn iterate(&mut self, name: &'static str) -> Result<(), SensorError> {
        self.try_iterate(name).with_context(|| format!("iterator {name}")).map_err(SensorError::Scan)
    }

    fn try_iterate(&mut self, name: &'static str) -> anyhow::Result<()> {
        let program: &mut Iter = self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        let link = program.attach()?;
        let mut file = program.take_link(link)?.into_file()?;
        // The programs write nothing; reading is what runs them.
        let mut nothing = [0; 256];
        while file.read(&mut nothing)? != 0 {}
        Ok(())
    }

    /// Arguments and cgroup of processes that the iterator noted: it cannot read another process's memory.
    fn add_arguments(&mut self) -> Result<(), SensorError> {
        let tgids: Vec<u32> = self.maps.processes.keys().flatten().collect();
        for tgid in tgids {
            let Ok(Raw(mut process)) = self.maps.processes.get(&tgid, 0) else { continue };
            if process.argv_len != 0 {
                continue;
            }
            // A process that is gone by now says nothing, and needs nothing.
            let Ok(raw) = fs::read(format!("/proc/{tgid}/cmdline")) else { continue };
            let len = raw.len().min(process.argv.len());
            process.argv[..len].copy_from_slice(&raw[..len]);
            process.argv_len = len as u32;
            // BPF_EXIST: a process that ended meanwhile is not brought back.
            let _ = self.maps.processes.insert(tgid, Raw(process), 2);
        }
        Ok(())
    }
}
