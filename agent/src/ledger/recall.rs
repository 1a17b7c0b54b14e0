//! Files that carry asset bytes beyond the agent's life: what is in them is told, and told to the next ledger.
//!
//! Must not know where that is kept, nor how a file is found again.

use std::sync::Arc;

use super::{Kept, Ledger, spread::Grown};
use crate::event::{AssetId, Edge, ObjectId, Record, SinkKey};

/// What can be in a file of one asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub asset: AssetId,
    /// At most so many bytes.
    pub bytes: u64,
    /// The way that most of them took, from the asset to the file.
    pub way: Arc<Vec<Edge>>,
}

impl Ledger {
    /// What can be in a file; nothing for what is no file, or holds nothing.
    #[must_use]
    pub fn contents(&self, object: ObjectId) -> Vec<Content> {
        let Some(carrier) = self.carriers.get(&object) else { return Vec::new() };
        if matches!(carrier.key, Some(SinkKey::Process(_))) {
            return Vec::new();
        }
        let held = carrier.caps.iter().filter(|&(_, &bytes)| bytes != 0);
        let content = |(&asset, &bytes): (&AssetId, &u64)| {
            let way = self.way_into(object, asset).unwrap_or_default();
            Content { asset, bytes, way: Arc::new(way) }
        };
        held.map(content).collect()
    }

    /// An earlier ledger knew this file for a carrier. Appends what grew because of it, as [`Ledger::apply`] does.
    pub fn recall(&mut self, object: ObjectId, contents: &[Content], out: &mut Vec<Record>) {
        self.emitted.clear();
        let mut pulls = Vec::new();
        for content in contents {
            let Some(most) = self.assets.get(&content.asset).map(|asset| asset.most) else { continue };
            let way = if content.way.is_empty() {
                let (from, to) = (self.asset_node(content.asset), self.file_node(object));
                Arc::new(vec![Edge { from, to, bytes: content.bytes }])
            } else {
                Arc::clone(&content.way)
            };
            let carrier = self.carriers.entry(object).or_default();
            carrier.key = Some(SinkKey::File(object));
            let known = carrier.caps.get(&content.asset).copied().unwrap_or(0);
            let missing = content.bytes.min(most).saturating_sub(known);
            match carrier.kept.get_mut(&content.asset) {
                Some(kept) => {
                    kept.bytes = kept.bytes.saturating_add(missing);
                    // Conclusions of an earlier agent come without the way.
                    if missing > kept.largest || kept.path.len() < way.len() {
                        kept.largest = kept.largest.max(missing);
                        kept.path = way;
                    }
                }
                None if missing != 0 => {
                    let kept = Kept { bytes: missing, largest: missing, path: way };
                    carrier.kept.insert(content.asset, kept);
                }
                None => {}
            }
            if missing != 0 {
                self.raise_cap(object, content.asset, missing, None, &mut pulls);
            }
        }
        let mut grown = Grown::default();
        self.spread(pulls, &mut grown);
        self.emit(grown, out);
    }

    /// The file is gone, with what was in it. Who took from it keeps what he took, and the way.
    pub fn forget_file(&mut self, object: ObjectId) {
        self.drop_carrier(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        Asset, AssetKind, AssetList, AssetSet, BootNs, Dev, Event, HolderId, Node, Process, Sink, SinkKind,
        Source,
    };

    const MB: u64 = 1 << 20;
    const A: AssetId = AssetId(0);
    const FILE: ObjectId = ObjectId { dev: Dev(7), ino: 12, generation: 99 };
    const ELSEWHERE: ObjectId = ObjectId { dev: Dev(8), ..FILE };

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(64 << 10);
        let asset = Asset {
            id: A,
            name: "llm".into(),
            kind: AssetKind::Weights,
            bytes: 100 * MB,
            most: 0,
            has_readers: false,
        };
        ledger.apply(Event::Asset(Arc::new(asset)), &mut Vec::new());
        ledger
    }

    fn holder(tgid: u32) -> HolderId {
        HolderId { tgid, exec: 1, start: BootNs(u64::from(tgid)) }
    }

    fn apply(ledger: &mut Ledger, events: &[Event]) -> Vec<Record> {
        let mut records = Vec::new();
        events.iter().for_each(|event| ledger.apply(event.clone(), &mut records));
        records
    }

    fn flow(tgid: u32, sink: SinkKey, bytes: u64) -> Event {
        Event::Flow { holder: holder(tgid), sink, assets: AssetSet(1), bytes, at: BootNs(2) }
    }

    fn take(tgid: u32, source: Source, bytes: u64) -> Event {
        Event::Take { holder: holder(tgid), source, bytes, listed: AssetList::default(), at: BootNs(2) }
    }

    /// What a first ledger says of a file that process 1 copied 10 MB into.
    fn copied() -> Vec<Content> {
        let mut first = ledger();
        let process =
            Process { exe: "/usr/bin/cp".into(), ..super::super::lineage::unknown_process(holder(1)) };
        let sink = Sink {
            path: Some("/v/copy".into()),
            ..Sink::new(SinkKind::File, crate::event::Control::Controlled)
        };
        let events = [
            Event::Process { holder: holder(1), process: Arc::new(process) },
            Event::Sink { key: SinkKey::File(FILE), sink: Arc::new(sink) },
            take(1, Source::Asset(A), 10 * MB),
            flow(1, SinkKey::File(FILE), 10 * MB),
        ];
        apply(&mut first, &events);
        first.contents(FILE)
    }

    #[test]
    fn a_copy_is_one_under_its_new_number_with_its_way() {
        let contents = copied();
        assert_eq!(contents.iter().map(|content| content.bytes).collect::<Vec<_>>(), [10 * MB]);
        let mut next = ledger();
        next.recall(ELSEWHERE, &contents, &mut Vec::new());
        apply(&mut next, &[take(2, Source::Carrier(ELSEWHERE), 50 * MB)]);
        assert_eq!(next.taken(holder(2), A), 10 * MB, "no more than is in it");
        let way: Vec<Node> = next.lineage(holder(2), A, None).into_iter().map(|edge| edge.to).collect();
        assert_eq!(way.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["cp", "/v/copy", "2"]);
        // The same once more is nothing new, and what it says is what it was told.
        next.recall(ELSEWHERE, &contents, &mut Vec::new());
        assert_eq!(next.contents(ELSEWHERE), contents);
        apply(&mut next, &[take(2, Source::Carrier(ELSEWHERE), 60 * MB)]);
        assert_eq!(next.taken(holder(2), A), 10 * MB);
        // What is put in now adds up.
        apply(&mut next, &[take(3, Source::Asset(A), 5 * MB), flow(3, SinkKey::File(ELSEWHERE), 5 * MB)]);
        assert_eq!(next.taken(holder(2), A), 15 * MB);
    }

    #[test]
    fn without_its_way_it_is_named_at_least() {
        let mut next = ledger();
        next.recall(FILE, &[Content { way: Arc::default(), ..copied()[0].clone() }], &mut Vec::new());
        apply(&mut next, &[take(2, Source::Carrier(FILE), 4 * MB)]);
        let way: Vec<Node> = next.lineage(holder(2), A, None).into_iter().map(|edge| edge.from).collect();
        assert_eq!(way.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["llm", "0:7:12"]);
    }

    #[test]
    fn who_read_it_before_it_was_recalled_took_it() {
        let mut next = ledger();
        apply(&mut next, &[take(2, Source::Carrier(FILE), 4 * MB)]);
        let mut records = Vec::new();
        next.recall(FILE, &copied(), &mut records);
        assert_eq!(
            records.iter().map(|record| (record.holder.tgid, record.bytes)).collect::<Vec<_>>(),
            [(2, 4 * MB)]
        );
    }

    #[test]
    fn many_small_copies_are_followed_from_the_first_byte() {
        let mut next = ledger();
        let small = |bytes| vec![Content { bytes, ..copied()[0].clone() }];
        for ino in 0..40 {
            next.recall(ObjectId { ino, ..FILE }, &small(50 << 10), &mut Vec::new());
        }
        apply(&mut next, &[take(2, Source::Carrier(ObjectId { ino: 3, ..FILE }), MB)]);
        assert_eq!(next.taken(holder(2), A), 50 << 10, "together they are more than 16 floors");
    }

    #[test]
    fn what_is_gone_gives_nothing_and_what_was_taken_stays() {
        let mut next = ledger();
        next.recall(FILE, &copied(), &mut Vec::new());
        apply(&mut next, &[take(2, Source::Carrier(FILE), 4 * MB)]);
        next.forget_file(FILE);
        assert_eq!((next.contents(FILE), next.taken(holder(2), A)), (Vec::new(), 4 * MB));
        assert_eq!(next.lineage(holder(2), A, None).len(), 3, "the way is kept");
        assert_eq!(next.loss().get("ledger_evicted"), None);
    }

    #[test]
    fn a_pipe_is_no_file() {
        let mut ledger = ledger();
        apply(&mut ledger, &[take(1, Source::Asset(A), MB), flow(1, SinkKey::Process(FILE), MB)]);
        assert_eq!(ledger.contents(FILE), []);
    }
}
