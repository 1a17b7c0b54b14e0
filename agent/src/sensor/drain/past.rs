//! What an earlier agent had told of, read from the maps that it left: said again first, so that the first look says only what
//! grew since.

use super::{
    super::{
        SensorError,
        beyond::{self, Beyond},
        facts,
        maps::{Maps, Raw, rows},
        reading::Reading,
    },
    Drain, WALK,
};
use crate::event::Conclusions;

/// What an earlier agent had told of.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Processes, sinks and holders first, then takes and flows, oldest first.
    pub readings: Vec<Reading>,
    /// What its ledger had concluded from them, and from what is forgotten by now.
    pub conclusions: Conclusions,
}

impl Drain {
    /// See [`crate::sensor::Sensor::past_acts`].
    pub(in crate::sensor) fn past_acts(&mut self, maps: &Maps) -> Result<Vec<Reading>, SensorError> {
        self.acts.past(maps)
    }

    /// See [`crate::sensor::Sensor::past`].
    pub(in crate::sensor) fn past(&mut self, maps: &Maps) -> Result<Past, SensorError> {
        let Some(told) = &self.told else { return Ok(Past::default()) };
        let mut past = Past { readings: Vec::new(), conclusions: told.conclusions()? };
        for (_, Raw(image)) in rows(&maps.images, WALK)? {
            past.readings.push(Reading::Process(Box::new(facts::process(&image))));
        }
        // The living after the dead, whose ids they may have.
        for Raw(process) in maps.processes.iter().take(WALK).filter_map(|row| Some(row.ok()?.1)) {
            if process.reported != 0 {
                past.readings.push(Reading::Process(Box::new(facts::process(&process))));
            }
        }
        for (_, Raw(sink)) in rows(&maps.sinks, WALK)? {
            past.readings.push(facts::sink(&sink));
        }
        for (key, Raw(value)) in rows(&maps.holders, WALK)? {
            if beyond::waits(&key, &value) {
                continue;
            }
            let image = self.images.entry(key).or_default();
            image.inherited = Some(value.inherited);
            image.beyond = Beyond::told(told, key, &value);
            past.readings.push(Reading::held(&key, &value));
        }
        let mut moved = Vec::new();
        for (key, Raw(value)) in rows(&maps.takes, WALK)? {
            let bytes = told.take(&key).min(value.bytes);
            let image = self.images.entry(key.holder).or_default();
            image.takes.insert(key.source, bytes);
            let bytes = bytes.saturating_add(image.beyond.on_top(&key.source));
            if bytes != 0 {
                moved.push(Reading::taken(&key, bytes, &value));
            }
        }
        for (key, Raw(value)) in rows(&maps.flows, WALK)? {
            let bytes = told.flow(&key).min(value.bytes);
            self.images.entry(key.holder).or_default().flows.insert((key.assets, key.sink), bytes);
            if bytes != 0 {
                moved.push(Reading::put(&key, bytes, &value));
            }
        }
        for (key, image) in self.images.iter().filter(|(_, image)| !image.beyond.is_nothing()) {
            image.beyond.tell(key, &image.takes, beyond::now(), &mut moved);
        }
        moved.sort_by_key(Reading::moved_at);
        past.readings.append(&mut moved);
        Ok(past)
    }
}
