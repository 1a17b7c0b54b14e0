//! From the maps of acts and of reaches to readings: what is new since the last look.
//!
//! The kernel side counts what changed in them, and only then they are walked: nothing of this goes through the ring, so that
//! nobody can flood it out.

use std::collections::{HashMap, HashSet};

use agent_ebpf::{
    self as abi,
    acts::{ActKey, ActValue, ReachKey},
};

use super::{
    SensorError,
    gpus::Gpus,
    maps::{Maps, Raw, absent_is_fine, rows},
    reading::{self, Reading},
};
use crate::event::{AssetSet, BootNs, Source};

/// Steps of one walk over a map: twice its size, because a walk restarts when its row is deleted under it.
const WALK: usize = 1 << 15;

/// Nanoseconds within which a row is told of twice rather than never, should the agent end meanwhile.
const MOMENT: u64 = 1_000_000_000;

#[derive(Default)]
pub(super) struct Acts {
    /// `SHARED_ACTS` as of the last walk; `None` before the first.
    changes: Option<u64>,
    /// The assets that each act was told with.
    told: HashMap<ActKey, u64>,
    reached: HashMap<ReachKey, u64>,
    pub(super) gpus: Gpus,
    /// Kinds that are not known: the object and the binary do not fit each other.
    pub(super) malformed: u64,
}

impl Acts {
    /// What is new. Called before the ring is read, so that the facts that explain a row come with it.
    pub(super) fn look(&mut self, maps: &mut Maps) -> Result<Vec<Reading>, SensorError> {
        let mut readings = Vec::new();
        let changes = maps.shared(abi::SHARED_ACTS)?;
        if self.changes == Some(changes) || (self.changes.is_none() && changes == 0) {
            return Ok(readings);
        }
        // What an earlier agent told of is not told again.
        let told = if self.changes.is_none() { maps.shared(abi::SHARED_ACTS_TOLD)? } else { 0 };
        self.changes = Some(changes);
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = u64::try_from(now.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000);
        for (key, Raw(value)) in rows(&maps.reached, WALK)? {
            if self.reached.insert(key, value.bytes) != Some(value.bytes) && value.bytes != 0 {
                readings.push(Reading::Take {
                    holder: reading::holder(&key.to),
                    source: Source::Reached(reading::holder(&key.from)),
                    bytes: value.bytes,
                    at: BootNs(value.last),
                });
            }
        }
        for (key, Raw(value)) in rows(&maps.acts, WALK)? {
            let known = self.told.insert(key, value.assets);
            if known == Some(value.assets) || (known.is_none() && value.first < told) {
                continue;
            }
            let at = BootNs(if known.is_none() { value.first } else { value.last });
            let Some(reading) = describe(&key, &value, at) else {
                self.malformed += 1;
                continue;
            };
            readings.push(reading);
            // Whoever did only this is no holder: nothing would ever remove its row.
            if key.kind == abi::acts::ACT_MAPPER {
                self.told.remove(&key);
                absent_is_fine(maps.acts.remove(&Raw(key)))?;
            }
        }
        self.gpus.look(maps, told, &mut readings)?;
        // A row can be seen a moment after its time was taken.
        maps.set_shared(abi::SHARED_ACTS_TOLD, now.saturating_sub(MOMENT))?;
        Ok(readings)
    }

    /// What an earlier agent had heard of, with the assets that it touches by now; [`Acts::look`] tells of the rest.
    pub(super) fn past(&mut self, maps: &Maps) -> Result<Vec<Reading>, SensorError> {
        let told = maps.shared(abi::SHARED_ACTS_TOLD)?;
        let mut readings = Vec::new();
        for (key, Raw(value)) in rows(&maps.acts, WALK)? {
            if value.first < told
                && let Some(reading) = describe(&key, &value, BootNs(value.first))
            {
                self.told.insert(key, value.assets);
                readings.push(reading);
            }
        }
        Ok(readings)
    }

    /// Removes the rows of images that are gone.
    pub(super) fn forget(
        &mut self,
        maps: &mut Maps,
        gone: &HashSet<abi::HolderKey>,
    ) -> Result<(), SensorError> {
        for (key, _) in self.told.extract_if(|key, _| gone.contains(&key.actor)) {
            absent_is_fine(maps.acts.remove(&Raw(key)))?;
        }
        for (key, _) in self.reached.extract_if(|key, _| gone.contains(&key.to)) {
            absent_is_fine(maps.reached.remove(&Raw(key)))?;
        }
        Ok(())
    }
}

/// `None` for a kind that is not known.
fn describe(key: &ActKey, value: &ActValue, at: BootNs) -> Option<Reading> {
    Some(Reading::Act {
        holder: reading::holder(&key.actor),
        victim: (key.victim.tgid != 0).then(|| reading::holder(&key.victim)),
        act: reading::act(key.kind, key.number)?,
        assets: AssetSet(value.assets),
        at,
    })
}
