//! The ledger against a reference that recomputes everything from scratch, whatever it is told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ledger::{carrier_of, domain::Domain};

/// The definitions of the module's documentation, recomputed from nothing until nothing changes.
#[derive(Default)]
struct Reference {
    floor: u64,
    /// By asset: all that was ever in it, and what is now.
    sizes: BTreeMap<AssetId, (u64, u64)>,
    takes: BTreeMap<(HolderId, Source), u64>,
    flows: BTreeMap<(HolderId, SinkKey, AssetSet), u64>,
}

impl Reference {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Asset(asset) => {
                let (most, now) = self.sizes.entry(asset.id).or_default();
                *most += asset.bytes.saturating_sub(*now);
                *now = asset.bytes;
            }
            Event::Take { holder, source, bytes, .. } => {
                let known = self.takes.entry((*holder, *source)).or_default();
                *known = (*known).max(*bytes);
            }
            Event::Flow { holder, sink, assets, bytes, .. } => {
                let known = self.flows.entry((*holder, *sink, *assets)).or_default();
                *known = (*known).max(*bytes);
            }
            other => panic!("not generated: {other:?}"),
        }
    }

    fn flow(&self, id: HolderId, asset: AssetId, into: impl Fn(SinkKey) -> bool) -> u64 {
        let counts = |&(&(holder, sink, set), _): &(&(HolderId, SinkKey, AssetSet), &u64)| {
            holder == id && into(sink) && set.contains(asset)
        };
        self.flows.iter().filter(counts).map(|(_, bytes)| bytes).sum()
    }

    fn taken(&self) -> BTreeMap<(HolderId, AssetId), u64> {
        let mut taken: BTreeMap<(HolderId, AssetId), u64> = BTreeMap::new();
        loop {
            let mut next = BTreeMap::new();
            for (&(id, source), &bytes) in &self.takes {
                for (&asset, &(size, _)) in &self.sizes {
                    let of = |id| taken.get(&(id, asset)).copied().unwrap_or(0);
                    let gives = match source {
                        Source::Asset(own) => u64::from(own == asset) * bytes,
                        Source::Mark(mark) => u64::from(mark == asset.mark()) * bytes,
                        Source::Grown(_) => panic!("not generated"),
                        Source::Parent(other) | Source::Reached(other) => bytes.min(of(other)),
                        Source::Carrier(object) => {
                            let writers: BTreeSet<HolderId> =
                                self.flows.keys().map(|&(w, _, _)| w).filter(|&w| w != id).collect();
                            let into = |key| carrier_of(key) == Some(object);
                            let cap: u64 =
                                writers.iter().map(|&w| self.flow(w, asset, into).min(of(w))).sum();
                            if cap < self.floor { 0 } else { bytes.min(cap) }
                        }
                    };
                    let total: &mut u64 = next.entry((id, asset)).or_default();
                    *total = (*total + gives).min(size);
                }
            }
            if next == taken {
                return taken;
            }
            taken = next;
        }
    }

    fn bound(&self, taken: u64, id: HolderId, asset: AssetId, domain: Domain) -> u64 {
        self.flow(id, asset, |key| Domain::of(key) == domain).min(taken).min(self.sizes[&asset].0)
    }
}

fn any_carrier() -> impl Strategy<Value = SinkKey> {
    prop_oneof![
        (0..2_u32, 0..2_u64).prop_map(|(dev, ino)| SinkKey::File(object(dev, ino))),
        (0..3_u64).prop_map(pipe),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = || (1..5_u32).prop_map(holder);
    let key = prop_oneof![3 => any_carrier(), 1 => (0..2_u16).prop_map(peer), 1 => Just(SinkKey::Unmetered)];
    let source = prop_oneof![
        prop_oneof![Just(A), Just(B)].prop_map(Source::Asset),
        Just(Source::Mark(A.mark())),
        any_carrier().prop_map(|key| Source::Carrier(carrier_of(key).unwrap())),
    ];
    let take =
        |(holder, source, bytes)| Event::Take { holder, source, bytes, listed: list(&[A]), at: BootNs(1) };
    let read = (id(), source, 0..50_u64).prop_map(take);
    // A process has a larger number than its parent here, so that nobody is their own ancestor.
    let fork = (1..4_u32)
        .prop_flat_map(|parent| (parent + 1..5, Just(parent), 0..50_u64))
        .prop_map(move |(child, parent, bytes)| take((holder(child), Source::Parent(holder(parent)), bytes)));
    // Who reaches into whom is free, so that two can reach into each other.
    let reach = (id(), id(), 0..50_u64)
        .prop_filter("nobody reaches into himself", |(holder, victim, _)| holder != victim)
        .prop_map(move |(holder, victim, bytes)| take((holder, Source::Reached(victim), bytes)));
    let flow = (id(), key, 0..4_u64, 0..50_u64).prop_map(|(holder, sink, set, bytes)| Event::Flow {
        holder,
        sink,
        assets: AssetSet(set),
        bytes,
        at: BootNs(1),
    });
    prop_oneof![4 => read, 2 => fork, 1 => reach, 6 => flow]
}

/// The same of an asset that shares its mark with A, in place of B, if `twin`.
fn of_twin(twin: bool, event: Event) -> Event {
    match event {
        Event::Take { holder, source: Source::Asset(B), bytes, listed, at } if twin => {
            Event::Take { holder, source: Source::Asset(TWIN), bytes, listed, at }
        }
        event => event,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_reference(
        events in prop::collection::vec(any_event(), 1..60),
        floor in 0..6_u64,
        sizes in prop::array::uniform2(prop::array::uniform2(0..80_u64)),
        twin in any::<bool>(),
    ) {
        let second = if twin { TWIN } else { B };
        let events: Vec<Event> = events.into_iter().map(|event| of_twin(twin, event)).collect();
        let mut ledger = Ledger::new(floor);
        let mut reference = Reference { floor, ..Reference::default() };
        let mut records = Vec::new();
        let half = events.len() / 2;
        let sized = |n: usize| [A, second].into_iter().zip(sizes).map(move |(id, [first, more])| {
            Event::Asset(Arc::new(Asset {
                id,
                name: id.0.to_string(),
                kind: AssetKind::Weights,
                bytes: if n == 0 { first } else { first + more },
                most: 0,
                has_readers: false,
            }))
        });
        let (before, after) = events.split_at(half);
        let story = sized(0).chain(before.iter().cloned()).chain(sized(1)).chain(after.iter().cloned());
        for event in story {
            reference.apply(&event);
            let mut again = Vec::new();
            ledger.apply(event.clone(), &mut records);
            ledger.apply(event, &mut again);
            prop_assert_eq!(again.len(), 0, "a repeated event recorded something");
        }
        let taken = reference.taken();
        for id in (1..5).map(holder) {
            for asset in [A, second] {
                let expected = taken.get(&(id, asset)).copied().unwrap_or(0);
                prop_assert_eq!(ledger.taken(id, asset), expected, "taken by {:?} of {:?}", id, asset);
                let keys: BTreeMap<Domain, SinkKey> =
                    reference.flows.keys().filter(|k| k.0 == id).map(|k| (Domain::of(k.1), k.1)).collect();
                let mut sum = 0;
                for (domain, key) in keys {
                    let expected = reference.bound(expected, id, asset, domain);
                    prop_assert_eq!(ledger.bound(id, asset, key), expected, "bound into {:?}", key);
                    sum += expected;
                }
                let recorded: u64 = records
                    .iter()
                    .filter(|r| r.kind == RecordKind::Flow && r.holder == id && r.asset.id == asset)
                    .map(|r| r.bytes)
                    .sum();
                prop_assert_eq!(recorded, sum, "records add up to the bounds");
                let edges = ledger.lineage(id, asset, None);
                prop_assert!(expected == 0 || !edges.is_empty(), "a holder has a way from the asset");
                prop_assert!(edges.first().is_none_or(|edge| edge.from.kind == "asset"));
                prop_assert!(edges.windows(2).all(|pair| pair[0].to.kind == pair[1].from.kind));
            }
        }
    }

    #[test]
    fn a_late_reader_sees_the_same_whoever_is_forgotten(
        events in prop::collection::vec(any_event(), 1..60),
        gone in prop::collection::vec(any::<bool>(), 4),
        floor in 0..6_u64,
        reads in prop::collection::vec((0..2_u32, 0..2_u64, 0..50_u64), 1..5),
    ) {
        let mut ledger = Ledger::new(floor);
        let mut reference = Reference { floor, ..Reference::default() };
        let mut records = Vec::new();
        let asset = |id: AssetId| Event::Asset(Arc::new(Asset {
            id,
            name: id.0.to_string(),
            kind: AssetKind::Weights,
            bytes: 70,
            most: 0,
            has_readers: false,
        }));
        let late = holder(9);
        let later = BootNs(100_000_000_000);
        let reads = reads.into_iter().map(|(dev, ino, bytes)| Event::Take {
            holder: late,
            source: Source::Carrier(object(dev, ino)),
            bytes,
            listed: AssetList::default(),
            at: later,
        });
        for event in [A, B].map(asset).into_iter().chain(events) {
            reference.apply(&event);
            ledger.apply(event, &mut records);
        }
        let gone: Vec<HolderId> = (1..5).zip(gone).filter(|(_, gone)| *gone).map(|(n, _)| holder(n)).collect();
        for &holder in &gone {
            ledger.apply(Event::Exit { holder, at: BootNs(1) }, &mut records);
        }
        ledger.apply(Event::Exit { holder: late, at: later }, &mut records);
        prop_assert!(gone.iter().all(|id| !ledger.holders.contains_key(id)));
        for event in reads {
            reference.apply(&event);
            ledger.apply(event, &mut records);
        }
        let taken = reference.taken();
        for asset in [A, B] {
            let expected = taken.get(&(late, asset)).copied().unwrap_or(0);
            prop_assert_eq!(ledger.taken(late, asset), expected, "of {:?}", asset);
            let edges = ledger.lineage(late, asset, None);
            prop_assert!(expected == 0 || edges.first().is_some_and(|edge| edge.from.kind == "asset"));
        }
    }
}
