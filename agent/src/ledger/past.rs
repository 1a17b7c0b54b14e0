//! What outlives the agent: conclusions that rest on rows which are forgotten by now, and how a new ledger starts with them.
//!
//! The rows that are still there are told anew, and most of what was concluded follows from them again. What does not (the
//! parent ended, the pipe is closed, the writer is gone) is the difference, which stays with whoever received it. Must not know
//! where conclusions are kept.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{Kept, Ledger, Taken};
use crate::event::{AssetId, BootNs, Conclusions, Edge, HolderId, ObjectId};

/// What changed since it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) taken: HashSet<(HolderId, AssetId)>,
    pub(super) caps: HashSet<(ObjectId, AssetId)>,
}

impl Ledger {
    /// From now on [`Ledger::changed`] has something to say.
    pub fn keep_journal(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// The conclusions that changed since the last call.
    pub fn changed(&mut self) -> Conclusions {
        let Some(journal) = &mut self.journal else { return Conclusions::default() };
        let journal = std::mem::take(journal);
        let taken = |(holder, asset)| {
            let known = self.holders.get(&holder).and_then(|holder| holder.taken.get(&asset));
            (holder, asset, known.map(|taken| (taken.fresh, taken.total)))
        };
        let cap = |(object, asset)| {
            let known = self.carriers.get(&object).and_then(|carrier| carrier.caps.get(&asset));
            (object, asset, known.copied())
        };
        Conclusions {
            taken: journal.taken.into_iter().map(taken).collect(),
            caps: journal.caps.into_iter().map(cap).collect(),
        }
    }

    /// Starts with what an earlier ledger had concluded. Assets must be registered. What it had been told is to be applied next,
    /// and then [`Ledger::restored`] called; until then nothing that is known already grows.
    pub fn restore(&mut self, conclusions: &Conclusions) {
        self.restoring = true;
        for &(id, asset, known) in &conclusions.taken {
            if let Some((fresh, total)) = known {
                let taken = Taken { fresh_sum: 0, inherited_sum: 0, fresh, total };
                self.holders.entry(id).or_default().taken.insert(asset, taken);
            }
        }
        for &(object, asset, known) in &conclusions.caps {
            if let Some(cap) = known {
                self.carriers.entry(object).or_default().caps.insert(asset, cap);
            }
        }
    }

    /// All that the earlier ledger had been told was applied: what does not follow from it stays with who received it.
    pub fn restored(&mut self, now: BootNs) {
        self.restoring = false;
        self.now = self.now.max(now);
        for holder in self.holders.values_mut() {
            for taken in holder.taken.values_mut() {
                taken.fresh_sum = taken.fresh_sum.max(taken.fresh);
                let sum = taken.fresh_sum.saturating_add(taken.inherited_sum);
                taken.inherited_sum = taken.inherited_sum.saturating_add(taken.total.saturating_sub(sum));
            }
            // Its row is gone: it ended, and nobody will say so again.
            if holder.process.is_none() {
                holder.exited.get_or_insert(now);
            }
        }
        let objects: Vec<ObjectId> = self.carriers.keys().copied().collect();
        for object in objects {
            let to = self.carrier_node(object);
            let Some(carrier) = self.carriers.get_mut(&object) else { continue };
            let mut fed: BTreeMap<AssetId, u64> = BTreeMap::new();
            for (&asset, &bytes) in carrier.writers.values().flatten() {
                let sum = fed.entry(asset).or_insert(0);
                *sum = sum.saturating_add(bytes);
            }
            for (&asset, &sum) in &fed {
                let cap = carrier.caps.entry(asset).or_insert(0);
                *cap = sum.max(*cap);
            }
            let missing: Vec<(AssetId, u64)> = carrier
                .caps
                .iter()
                .map(|(&asset, &cap)| (asset, cap.saturating_sub(fed.get(&asset).copied().unwrap_or(0))))
                .filter(|&(_, bytes)| bytes != 0)
                .collect();
            // An agent that kept no files may have known of it.
            if let Some(journal) = &mut self.journal {
                journal.caps.extend(carrier.caps.keys().map(|&asset| (object, asset)));
            }
            for (asset, bytes) in missing {
                let from = self.asset_node(asset);
                let path = Arc::new(vec![Edge { from, to: to.clone(), bytes }]);
                if let Some(carrier) = self.carriers.get_mut(&object) {
                    carrier.kept.insert(asset, Kept { bytes, largest: bytes, path });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::event::{
        Asset, AssetKind, AssetList, AssetSet, Dev, Event, Process, Proto, Record, SinkKey, Source,
    };

    const MB: u64 = 1 << 20;
    const A: AssetId = AssetId(0);
    const SET: AssetSet = AssetSet(1);
    const PEER: SinkKey = SinkKey::Peer {
        ip: std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
        port: 443,
        proto: Proto::Tcp,
    };

    fn holder(tgid: u32) -> HolderId {
        HolderId { tgid, exec: 1, start: BootNs(u64::from(tgid)) }
    }

    fn pipe() -> ObjectId {
        ObjectId { dev: Dev(9), ino: 77, generation: 0 }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(64 << 10);
        ledger.keep_journal();
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

    fn apply(ledger: &mut Ledger, events: &[Event]) -> Vec<Record> {
        let mut records = Vec::new();
        for event in events {
            ledger.apply(event.clone(), &mut records);
        }
        records
    }

    fn named(id: HolderId) -> Event {
        let process = Process { pid: id.tgid, ..super::super::lineage::unknown_process(id) };
        Event::Process { holder: id, process: Arc::new(process) }
    }

    fn take(id: HolderId, source: Source, bytes: u64) -> Event {
        Event::Take { holder: id, source, bytes, listed: AssetList::default(), at: BootNs(5) }
    }

    fn flow(id: HolderId, sink: SinkKey, bytes: u64) -> Event {
        Event::Flow { holder: id, sink, assets: SET, bytes, at: BootNs(6) }
    }

    /// A writer and a parent whose rows are gone, and a reader and a child that live on.
    fn told() -> (Vec<Event>, Vec<Event>) {
        let (writer, reader, child) = (holder(1), holder(2), holder(3));
        let gone =
            vec![take(writer, Source::Asset(A), 10 * MB), flow(writer, SinkKey::Process(pipe()), 10 * MB)];
        let rows = vec![
            named(reader),
            named(child),
            take(child, Source::Parent(writer), 10 * MB),
            take(reader, Source::Carrier(pipe()), 8 * MB),
            flow(reader, PEER, 3 * MB),
        ];
        (gone, rows)
    }

    #[test]
    fn what_rests_on_rows_that_are_gone_is_not_lost() {
        let (gone, rows) = told();
        let mut first = ledger();
        apply(&mut first, &gone);
        apply(&mut first, &rows);
        let conclusions = first.changed();
        assert!(first.changed().is_empty());

        let mut next = ledger();
        next.restore(&conclusions);
        assert_eq!(apply(&mut next, &rows).iter().map(|record| record.bytes).sum::<u64>(), 3 * MB);
        next.restored(BootNs(10));
        assert_eq!((next.taken(holder(2), A), next.taken(holder(3), A)), (8 * MB, 10 * MB));
        // Growth goes on from there, each byte once.
        let grown = apply(&mut next, &[flow(holder(2), PEER, 9 * MB), flow(holder(3), PEER, 4 * MB)]);
        assert_eq!(grown.iter().map(|record| record.bytes).collect::<Vec<_>>(), [5 * MB, 4 * MB]);
        let grown = apply(&mut next, &[take(holder(2), Source::Carrier(pipe()), 11 * MB)]);
        assert_eq!(next.taken(holder(2), A), 10 * MB, "no more than was put into the pipe");
        assert_eq!(grown.iter().map(|record| record.bytes).sum::<u64>(), 2 * MB + MB);
        let more = [take(holder(2), Source::Asset(A), 20 * MB)];
        apply(&mut next, &more);
        assert_eq!(next.taken(holder(2), A), 30 * MB);
    }

    #[test]
    fn without_what_was_concluded_it_would_be_lost() {
        let (_, rows) = told();
        let mut next = ledger();
        next.restore(&Conclusions::default());
        apply(&mut next, &rows);
        next.restored(BootNs(10));
        assert_eq!((next.taken(holder(2), A), next.taken(holder(3), A)), (0, 0));
    }

    #[test]
    fn what_follows_from_the_rows_is_not_counted_twice() {
        let (gone, rows) = told();
        let mut first = ledger();
        let all: Vec<Event> = [named(holder(1))].into_iter().chain(gone).chain(rows).collect();
        apply(&mut first, &all);
        let mut next = ledger();
        next.restore(&first.changed());
        apply(&mut next, &all);
        next.restored(BootNs(10));
        for id in 1..=3 {
            assert_eq!(next.taken(holder(id), A), first.taken(holder(id), A));
        }
        let fed =
            [take(holder(1), Source::Asset(A), 12 * MB), flow(holder(1), SinkKey::Process(pipe()), 12 * MB)];
        apply(&mut next, &fed);
        apply(&mut next, &[take(holder(2), Source::Carrier(pipe()), 50 * MB)]);
        assert_eq!(next.taken(holder(2), A), 12 * MB);
    }
}
