//! The scene that the ledger's tests play in, and what they share.

mod acts;
mod bounds;
mod carriers;
mod forget;
mod marks;
mod reference;

use std::sync::Arc;

use super::{Ledger, Limits, lineage};
use crate::event::{
    Asset, AssetId, AssetKind, AssetList, AssetSet, BootNs, Dev, Edge, Event, HolderId, ObjectId, Process,
    Proto, Record, RecordKind, SinkKey, Source,
};

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;
const A: AssetId = AssetId(0);
const B: AssetId = AssetId(1);
/// Not registered at first.
const C: AssetId = AssetId(2);
/// Shares its mark with A.
const TWIN: AssetId = AssetId(63);
const ONLY_A: AssetSet = AssetSet(1);
const BOTH: AssetSet = AssetSet(3);

fn holder(tgid: u32) -> HolderId {
    HolderId { tgid, exec: 0, start: BootNs(u64::from(tgid)) }
}

fn object(dev: u32, ino: u64) -> ObjectId {
    ObjectId { dev: Dev(dev), ino, generation: 0 }
}

fn usb(ino: u64) -> SinkKey {
    SinkKey::File(object(Dev::new(8, 16).0, ino))
}

fn pipe(ino: u64) -> SinkKey {
    SinkKey::Process(object(14, ino))
}

fn peer(port: u16) -> SinkKey {
    SinkKey::Peer { ip: [203, 0, 113, 9].into(), port, proto: Proto::Tcp }
}

/// A ledger, its clock and what it recorded.
struct Scene {
    ledger: Ledger,
    now: u64,
    records: Vec<Record>,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let mut scene = Self { ledger: Ledger::with_limits(64 * KB, limits), now: 0, records: Vec::new() };
        scene.asset(A, "llm-70b", 100 * GB);
        scene.asset(B, "coder", 10 * GB);
        scene
    }

    fn apply(&mut self, event: Event) -> Vec<Record> {
        self.now += 1;
        let from = self.records.len();
        self.ledger.apply(event, &mut self.records);
        let said = self.records[from..].iter_mut().enumerate();
        said.for_each(|(nth, record)| self.ledger.trace(nth, record));
        self.records[from..].to_vec()
    }

    fn asset(&mut self, id: AssetId, name: &str, bytes: u64) -> Vec<Record> {
        let asset =
            Asset { id, name: name.to_owned(), kind: AssetKind::Weights, bytes, most: 0, has_readers: true };
        self.apply(Event::Asset(Arc::new(asset)))
    }

    fn exec(&mut self, tgid: u32, exe: &str) -> HolderId {
        let holder = holder(tgid);
        let process = Process { exe: exe.to_owned(), ..lineage::unknown_process(holder) };
        self.apply(Event::Process { holder, process: Arc::new(process) });
        holder
    }

    fn take(&mut self, holder: HolderId, source: Source, bytes: u64) -> Vec<Record> {
        let at = BootNs(self.now);
        self.apply(Event::Take { holder, source, bytes, listed: AssetList::default(), at })
    }

    fn read(&mut self, holder: HolderId, asset: AssetId, bytes: u64) -> Vec<Record> {
        self.take(holder, Source::Asset(asset), bytes)
    }

    fn drain(&mut self, holder: HolderId, key: SinkKey, bytes: u64) -> Vec<Record> {
        let (SinkKey::File(object) | SinkKey::Process(object)) = key else {
            panic!("not a carrier: {key:?}")
        };
        self.take(holder, Source::Carrier(object), bytes)
    }

    fn put(&mut self, holder: HolderId, sink: SinkKey, assets: AssetSet, bytes: u64) -> Vec<Record> {
        let at = BootNs(self.now);
        self.apply(Event::Flow { holder, sink, assets, bytes, at })
    }

    fn exit(&mut self, holder: HolderId) {
        let at = BootNs(self.now);
        self.apply(Event::Exit { holder, at });
    }

    /// Lets time pass and gives the ledger a reason to look at its clock.
    fn sleep(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000_000;
        let at = BootNs(self.now);
        self.apply(Event::Exit { holder: holder(u32::MAX), at });
    }

    fn sum(&self, kind: RecordKind, id: HolderId, asset: AssetId) -> u64 {
        self.records
            .iter()
            .filter(|r| r.kind == kind && r.holder == id && r.asset.id == asset)
            .map(|r| r.bytes)
            .sum()
    }
}

fn list(assets: &[AssetId]) -> AssetList {
    assets.iter().copied().collect()
}

fn scene() -> Scene {
    Scene::new(Limits::default())
}

/// `asset llm-70b -1048576-> process cp`, one edge a line.
fn drawn(edges: &[Edge]) -> String {
    edges
        .iter()
        .map(|e| format!("{} {} -{}-> {} {}\n", e.from.kind, e.from.name, e.bytes, e.to.kind, e.to.name))
        .collect()
}
