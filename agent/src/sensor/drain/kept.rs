//! Who processes are and where sinks lie, in maps: kept for the next agent, and by the kernel where the fact that says so was lost.

use std::collections::{HashMap, HashSet};

use agent_ebpf as abi;

use super::{
    super::{
        SensorError, facts,
        maps::{Hash, Maps, Raw, absent_is_fine, rows},
        reading::Reading,
    },
    Drain, WALK,
};

impl Drain {
    /// Who processes are and where sinks lie, of which the facts were lost: the kernel keeps both in maps. Each is told once; of what lives,
    /// once for each loss.
    pub(super) fn unsent(&self, maps: &mut Maps, readings: &mut Vec<Reading>) -> Result<(), SensorError> {
        // Read before the dead, so that who ends meanwhile is met twice and not never; told after them, whose ids they may have.
        let living: Vec<Reading> = maps
            .processes
            .iter()
            .take(WALK)
            .filter_map(|row| Some(row.ok()?.1))
            .filter(|Raw(process)| process.reported == abi::UNSENT)
            .map(|Raw(process)| Reading::Process(Box::new(facts::process(&process))))
            .collect();
        // What nobody keeps for a next agent makes room.
        let kept = self.told.is_some();
        for (key, Raw(mut image)) in rows(&maps.images, WALK)? {
            if image.reported == abi::UNSENT {
                readings.push(Reading::Process(Box::new(facts::process(&image))));
                image.reported = abi::SENT;
                if kept {
                    maps.images.insert(Raw(key), Raw(image), 0)?;
                } else {
                    absent_is_fine(maps.images.remove(&Raw(key)))?;
                }
            }
        }
        readings.extend(living);
        for (key, Raw(mut sink)) in rows(&maps.sinks, WALK)? {
            if sink.reported != abi::SENT {
                readings.push(facts::sink(&sink));
                sink.reported = abi::SENT;
                if kept {
                    maps.sinks.insert(Raw(key), Raw(sink), 0)?;
                } else {
                    absent_is_fine(maps.sinks.remove(&Raw(key)))?;
                }
            }
        }
        Ok(())
    }

    /// Identities that no holder descends from, and sinks that nothing flows into: kept for the next agent, and of no use to
    /// it any more.
    pub(super) fn sweep_kept(&self, maps: &mut Maps) -> Result<(), SensorError> {
        let images = rows(&maps.images, WALK)?;
        let parents: HashMap<u32, u32> =
            images.iter().map(|(key, Raw(image))| (key.tgid, image.parent_tgid)).collect();
        let mut needed: HashSet<u32> = HashSet::new();
        for mut tgid in self.images.keys().map(|key| key.tgid) {
            while needed.insert(tgid) {
                let living = || maps.processes.get(&tgid, 0).ok().map(|Raw(process)| process.parent_tgid);
                let Some(next) = parents.get(&tgid).copied().or_else(living) else { break };
                tgid = next;
            }
        }
        let told = images.iter().filter(|(_, Raw(image))| image.reported != abi::UNSENT);
        for (key, _) in told.filter(|(key, _)| !needed.contains(&key.tgid)) {
            absent_is_fine(maps.images.remove(&Raw(*key)))?;
        }
        let used: HashSet<abi::SinkKey> =
            self.images.values().flat_map(|image| image.flows.keys().map(|(_, sink)| *sink)).collect();
        for (key, _) in rows(&maps.sinks, WALK)?.iter().filter(|(key, _)| !used.contains(key)) {
            absent_is_fine(maps.sinks.remove(&Raw(*key)))?;
        }
        Ok(())
    }
}

/// Keeps who a process is and where a sink lies for the next agent; whether there was room.
pub(super) fn keep(
    images: &mut Hash<abi::HolderKey, Raw<abi::ProcessFact>>,
    sinks: &mut Hash<abi::SinkKey, Raw<abi::SinkFact>>,
    record: &[u8],
) -> bool {
    let image = facts::copy::<abi::ProcessFact>(record).filter(|fact| fact.fact == abi::FACT_PROCESS);
    if let Some(mut image) = image {
        image.reported = abi::SENT;
        return images.insert(Raw(image.key), Raw(image), 0).is_ok();
    }
    match facts::copy::<abi::SinkFact>(record).filter(|fact| fact.fact == abi::FACT_SINK) {
        Some(mut sink) => {
            sink.reported = abi::SENT;
            sinks.insert(Raw(sink.sink), Raw(sink), 0).is_ok()
        }
        None => true,
    }
}
