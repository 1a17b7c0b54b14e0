//! What a reading of the sensor means: each becomes the statements that the ledger is told, in the order in which it needs them.
//!
//! Who has to be introduced, whose sink must be named first, and what is not ours is decided here; what follows from a
//! statement is not known here.

use super::Pipeline;
use crate::{
    event::{AssetSet, BootNs, Event, HolderId, ObjectId, SinkKey, Source},
    sensor::Reading,
};

impl Pipeline {
    /// Whether a reading says that an asset is not as large as it was.
    pub(crate) fn changes_asset(&self, reading: &Reading) -> bool {
        match reading {
            Reading::Object { .. } => true,
            Reading::Flow { sink: SinkKey::File(object), .. } => self.protected.contains(object),
            _ => false,
        }
    }

    /// The file of an asset that was written to, if a reading says so.
    pub(crate) fn written(&self, reading: &Reading) -> Option<ObjectId> {
        match reading {
            Reading::Flow { sink: SinkKey::File(object), .. } if self.protected.contains(object) => {
                Some(*object)
            }
            _ => None,
        }
    }

    /// Whether bytes went to a filesystem that no mount shows, as far as the mounts are known.
    pub(crate) fn is_of_no_mount(&self, reading: &Reading) -> bool {
        match reading {
            Reading::Flow { sink: SinkKey::File(object), .. } => {
                self.destinations.classifier().table().by_dev(object.dev).is_none()
            }
            _ => false,
        }
    }

    /// Takes what the sensor read.
    pub(crate) fn step(&mut self, readings: Vec<Reading>, now: BootNs) {
        for reading in readings {
            self.read(reading, now);
        }
    }

    fn read(&mut self, reading: Reading, now: BootNs) {
        self.metrics.add_events(kind_of(&reading), 1);
        match reading {
            Reading::Process(process) => {
                let holder = process.holder;
                self.identities.learn(*process);
                // Ancestors of holders come this way too, and nothing would ever end what was said of them.
                if self.identities.introduced(holder) {
                    self.introduce(holder, now);
                }
            }
            Reading::Holder { holder, parent, inherited, at } => {
                self.introduce_if_new(holder, now);
                if let Some(parent) = parent
                    && inherited != 0
                {
                    self.take(holder, Source::Parent(parent), inherited, at, now);
                }
            }
            Reading::Object { object, path, .. } => {
                tracing::info!(path = %path.text, "a new file in a protected place is protected");
                self.protected(object);
            }
            Reading::SinkPath { sink, magic, path } => {
                let event = self.destinations.locate(sink, magic, path);
                self.apply(event, now);
            }
            Reading::Take { holder, source, bytes, at } => {
                let is_ours = match source {
                    Source::Asset(asset) => self.ledger.knows(asset),
                    Source::Mark(mark) | Source::Grown(mark) => self.known.has(mark),
                    Source::Carrier(_) | Source::Parent(_) | Source::Reached(_) => true,
                };
                if !is_ours {
                    return;
                }
                self.introduce_if_new(holder, now);
                self.take(holder, source, bytes, at, now);
            }
            Reading::Flow { holder, sink, magic, assets, bytes, at } => {
                let Some(assets) = ours(assets, self.known) else { return };
                self.introduce_if_new(holder, now);
                if let Some(event) = self.destinations.resolve(sink, magic) {
                    self.apply(event, now);
                }
                self.apply(Event::Flow { holder, sink, assets, bytes, at }, now);
            }
            Reading::Act { holder, victim, act, assets, at } => {
                self.act(holder, victim, act, assets, at, now);
            }
            Reading::Exit { holder, at } => {
                self.apply(Event::Exit { holder, at }, now);
                self.identities.forget(holder);
            }
            Reading::Loss(loss) => {
                self.metrics.set_loss(&loss);
                tracing::warn!(?loss, "something was lost");
                self.apply(Event::Loss(loss), now);
            }
        }
    }

    pub(super) fn introduce_if_new(&mut self, holder: HolderId, now: BootNs) {
        if !self.identities.introduced(holder) {
            self.introduce(holder, now);
        }
    }

    pub(super) fn introduce(&mut self, holder: HolderId, now: BootNs) {
        let process = self.identities.introduce(holder);
        self.apply(Event::Process { holder, process }, now);
    }

    fn take(&mut self, holder: HolderId, source: Source, bytes: u64, at: BootNs, now: BootNs) {
        let listed = self.identities.listed_assets(holder);
        self.apply(Event::Take { holder, source, bytes, listed, at }, now);
    }
}

/// The label of `weighbridge_events_total`.
const fn kind_of(reading: &Reading) -> &'static str {
    match reading {
        Reading::Process(_) => "process",
        Reading::Object { .. } => "object",
        Reading::SinkPath { .. } => "sink",
        Reading::Holder { .. } => "holder",
        Reading::Take { .. } => "take",
        Reading::Flow { .. } => "flow",
        Reading::Act { .. } => "act",
        Reading::Exit { .. } => "exit",
        Reading::Loss(_) => "loss",
    }
}

/// The set of a flow, when any asset of it is ours. It stays whole: its bytes are a sum of their own, beside those of other sets
/// of the same assets.
const fn ours(assets: AssetSet, known: AssetSet) -> Option<AssetSet> {
    if assets.0 & known.0 == 0 { None } else { Some(assets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_holds_the_canary_too_is_no_other_set() {
        let (known, canary) = (AssetSet(0b11), AssetSet::CANARY.0);
        assert_eq!(ours(AssetSet(1 | canary), known), Some(AssetSet(1 | canary)));
        assert_eq!(ours(AssetSet(1), known), Some(AssetSet(1)));
        assert_eq!(ours(AssetSet(canary), known), None);
    }
}
