//! The ledger against a reference that recomputes everything from scratch, and against the cases people think of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::{Ledger, Limits, domain::Domain};
use crate::event::{
    Asset, AssetId, AssetKind, AssetSet, BootNs, Control, Dev, Edge, Event, HolderId, Loss, ObjectId,
    Process, Proto, Record, RecordKind, Sink, SinkKey, SinkKind, Source,
};

const KB: u64 = 1 << 10;
const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;
const A: AssetId = AssetId(0);
const B: AssetId = AssetId(1);
/// Not registered at first.
const C: AssetId = AssetId(2);
const ONLY_A: AssetSet = AssetSet(1);
const ONLY_B: AssetSet = AssetSet(2);
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
        let process = Process { exe: exe.to_owned(), ..super::lineage::unknown_process(holder) };
        self.apply(Event::Process { holder, process: Arc::new(process) });
        holder
    }

    fn take(&mut self, holder: HolderId, source: Source, bytes: u64) -> Vec<Record> {
        let at = BootNs(self.now);
        self.apply(Event::Take { holder, source, bytes, listed: AssetSet::default(), at })
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

#[test]
fn cp_counts_each_byte_once() {
    let mut s = scene();
    let cp = s.exec(100, "/usr/bin/cp");
    s.apply(Event::Sink {
        key: usb(7),
        sink: Arc::new(Sink {
            path: Some("/mnt/usb/model".to_owned()),
            ..super::domain::unknown_sink(usb(7))
        }),
    });
    for mb in 1..=200 {
        let taken = s.read(cp, A, mb * MB);
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].kind, taken[0].bytes), (RecordKind::Take, MB));
        let moved = s.put(cp, usb(7), ONLY_A, mb * MB);
        assert_eq!(moved.len(), 1);
        assert_eq!((moved[0].kind, moved[0].bytes), (RecordKind::Flow, MB));
    }
    let last = s.records.last().unwrap();
    assert_eq!(last.sink.as_ref().unwrap().path.as_deref(), Some("/mnt/usb/model"));
    assert_eq!(last.process.exe, "/usr/bin/cp");
    insta::assert_snapshot!(drawn(&last.lineage), @r"
    asset llm-70b -209715200-> process cp
    process cp -209715200-> file /mnt/usb/model
    ");
    assert_eq!(s.sum(RecordKind::Flow, cp, A), 200 * MB);
}

#[test]
fn flow_before_take_is_recorded_when_the_take_arrives() {
    // sendfile: both counters come out of one drain, in any order.
    let mut s = scene();
    let nginx = s.exec(100, "/usr/sbin/nginx");
    assert_eq!(s.put(nginx, peer(443), ONLY_A, 5 * MB).len(), 0);
    let records = s.read(nginx, A, 5 * MB);
    let seen: Vec<_> = records.iter().map(|r| (r.kind, r.bytes, r.sink.is_some())).collect();
    assert_eq!(seen, [(RecordKind::Take, 5 * MB, false), (RecordKind::Flow, 5 * MB, true)]);
}

#[test]
fn sets_that_differ_in_what_nobody_registered_are_sums_of_their_own() {
    let mut s = scene();
    let ssh = s.exec(100, "/usr/bin/ssh");
    let with_canary = AssetSet(ONLY_A.0 | 1 << 63);
    s.read(ssh, A, 5 * MB);
    s.put(ssh, peer(22), ONLY_A, MB);
    let records = s.put(ssh, peer(22), with_canary, 3 * MB);
    assert_eq!(records.iter().map(|r| (r.asset.id, r.bytes)).collect::<Vec<_>>(), [(A, 3 * MB)]);
    assert_eq!(s.put(ssh, peer(22), AssetSet(1 << 63), MB).len(), 0);
    assert_eq!(s.ledger.bound(ssh, A, peer(22)), 4 * MB);
}

#[test]
fn a_repeated_event_changes_nothing() {
    let mut s = scene();
    let cp = s.exec(100, "/usr/bin/cp");
    s.read(cp, A, MB);
    s.put(cp, usb(7), ONLY_A, MB);
    assert_eq!(s.read(cp, A, MB).len(), 0);
    assert_eq!(s.put(cp, usb(7), ONLY_A, MB).len(), 0);
    assert_eq!(s.put(cp, usb(7), ONLY_A, KB).len(), 0);
}

/// Root makes the model small (a stub in its place, a cut) after it was copied aside: what leaves is what was there.
#[test]
fn a_model_that_became_small_bounds_nothing() {
    let mut s = scene();
    s.asset(A, "llm-70b", 100 * MB);
    let cp = s.exec(10, "/usr/bin/cp");
    s.read(cp, A, 40 * MB);
    s.asset(A, "llm-70b", 4096);
    let out = s.put(cp, usb(1), ONLY_A, 40 * MB);
    assert_eq!(out.iter().map(|record| record.bytes).sum::<u64>(), 40 * MB);
    assert_eq!(out[0].asset.bytes, 4096);
    // Another model in its place can be taken beside the first.
    s.asset(A, "llm-70b", 100 * MB);
    s.read(cp, A, 140 * MB);
    s.put(cp, usb(1), ONLY_A, 140 * MB);
    assert_eq!(s.ledger.bound(cp, A, usb(1)), 140 * MB);
}

#[test]
fn pipe_chain_carries_lineage_and_shrinks_with_compression() {
    let mut s = scene();
    let (cat, gzip, nc) = (s.exec(1, "/bin/cat"), s.exec(2, "/bin/gzip"), s.exec(3, "/bin/nc"));
    s.read(cat, A, 10 * MB);
    s.put(cat, pipe(1), ONLY_A, 10 * MB);
    s.drain(gzip, pipe(1), 10 * MB);
    s.put(gzip, pipe(2), ONLY_A, 7 * MB);
    s.drain(nc, pipe(2), 7 * MB);
    let records = s.put(nc, peer(443), ONLY_A, 7 * MB);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].bytes, 7 * MB);
    insta::assert_snapshot!(drawn(&records[0].lineage), @r"
    asset llm-70b -10485760-> process cat
    process cat -10485760-> pipe 0:14:1
    pipe 0:14:1 -10485760-> process gzip
    process gzip -7340032-> pipe 0:14:2
    pipe 0:14:2 -7340032-> process nc
    process nc -7340032-> peer 203.0.113.9:443/tcp
    ");
}

#[test]
fn pipe_chain_reported_backwards_is_the_same() {
    let mut s = scene();
    let (cat, nc) = (holder(1), holder(3));
    s.put(nc, peer(443), ONLY_A, 7 * MB);
    s.drain(nc, pipe(1), 7 * MB);
    s.put(cat, pipe(1), ONLY_A, 7 * MB);
    assert_eq!(s.ledger.bound(nc, A, peer(443)), 0);
    s.read(cat, A, 7 * MB);
    assert_eq!(s.ledger.bound(nc, A, peer(443)), 7 * MB);
    assert_eq!(s.sum(RecordKind::Flow, nc, A), 7 * MB);
}

/// Reading only what others wrote, or holding only what a parent read, is judged by the same reader list.
#[test]
fn a_reader_list_holds_for_every_source() {
    let mut s = scene();
    let cat = s.exec(1, "/bin/cat");
    s.read(cat, A, MB);
    s.put(cat, pipe(1), ONLY_A, MB);
    let (reader, child, other) = (holder(2), holder(3), holder(4));
    let from_pipe = Source::Carrier(object(14, 1));
    let at = BootNs(s.now);
    let mut take = |holder, source, listed| s.apply(Event::Take { holder, source, bytes: MB, listed, at });
    let judged = |records: Vec<Record>| records.iter().map(|r| (r.asset.id, r.listed)).collect::<Vec<_>>();
    assert_eq!(judged(take(reader, from_pipe, ONLY_A)), [(A, true)]);
    assert_eq!(judged(take(other, from_pipe, ONLY_B)), [(A, false)]);
    take(child, Source::Parent(reader), ONLY_A);
    assert_eq!(judged(s.put(child, usb(1), ONLY_A, 10)), [(A, true)]);
}

#[test]
fn a_fork_is_no_new_take_but_its_flows_count() {
    let mut s = scene();
    let (parent, child) = (s.exec(1, "/usr/bin/python3"), s.exec(2, "/usr/bin/python3"));
    s.read(parent, A, 4 * MB);
    assert_eq!(s.take(child, Source::Parent(parent), 4 * MB).len(), 0);
    let records = s.put(child, peer(22), ONLY_A, 9 * MB);
    assert_eq!(records.iter().map(|r| r.bytes).collect::<Vec<_>>(), [4 * MB]);
    insta::assert_snapshot!(drawn(&records[0].lineage), @r"
    asset llm-70b -4194304-> process python3
    process python3 -4194304-> process python3
    process python3 -4194304-> peer 203.0.113.9:22/tcp
    ");
    // What the child reads for itself is a take, even if it could only repeat what it inherited.
    let records = s.read(child, A, MB);
    assert_eq!(records[0].kind, RecordKind::Take);
    assert_eq!(records[0].bytes, MB);
}

#[test]
fn a_chatty_logger_leaks_no_more_than_it_took() {
    let mut s = scene();
    let logger = s.exec(1, "/usr/bin/logger");
    s.read(logger, A, 3 * KB);
    s.put(logger, usb(1), ONLY_A, GB);
    assert_eq!(s.ledger.bound(logger, A, usb(1)), 3 * KB);
    // Its log is a carrier below the floor, so whoever reads the log holds nothing.
    s.drain(holder(2), usb(1), GB);
    assert_eq!(s.ledger.taken(holder(2), A), 0);
}

#[test]
fn many_files_and_many_ports_are_one_domain() {
    let mut s = scene();
    let rsync = s.exec(1, "/usr/bin/rsync");
    s.read(rsync, A, 3 * MB);
    for n in 0..10 {
        s.put(rsync, usb(n), ONLY_A, MB);
        s.put(rsync, peer(1000 + n as u16), ONLY_A, MB);
    }
    assert_eq!(s.ledger.bound(rsync, A, usb(0)), 3 * MB);
    assert_eq!(s.ledger.bound(rsync, A, peer(0)), 3 * MB);
    assert_eq!(s.sum(RecordKind::Flow, rsync, A), 6 * MB);
}

#[test]
fn two_writers_into_one_pipe_add_up() {
    let mut s = scene();
    let (left, right, nc) = (holder(1), holder(2), holder(3));
    for half in [left, right] {
        s.read(half, A, 5 * MB);
        s.put(half, pipe(1), ONLY_A, 5 * MB);
    }
    s.drain(nc, pipe(1), 10 * MB);
    s.put(nc, peer(443), ONLY_A, 10 * MB);
    assert_eq!(s.ledger.bound(nc, A, peer(443)), 10 * MB);
}

#[test]
fn an_asset_taken_late_does_not_count_for_earlier_bytes() {
    let mut s = scene();
    let server = s.exec(1, "/usr/bin/vllm");
    s.read(server, A, GB);
    s.put(server, peer(443), ONLY_A, 50 * MB);
    s.read(server, B, GB);
    let records = s.put(server, peer(443), BOTH, 2 * MB);
    let seen: Vec<_> = records.iter().map(|r| (r.asset.name.as_str(), r.bytes)).collect();
    assert_eq!(seen, [("llm-70b", 2 * MB), ("coder", 2 * MB)]);
    assert_eq!(s.ledger.bound(server, A, peer(443)), 52 * MB);
    assert_eq!(s.ledger.bound(server, B, peer(443)), 2 * MB);
}

#[test]
fn reading_back_ones_own_file_adds_nothing() {
    let mut s = scene();
    let cp = holder(1);
    s.read(cp, A, MB);
    s.put(cp, usb(1), ONLY_A, MB);
    assert_eq!(s.drain(cp, usb(1), MB).len(), 0);
    assert_eq!(s.ledger.taken(cp, A), MB);
}

#[test]
fn an_echo_between_two_processes_ends() {
    let mut s = scene();
    let (ping, pong) = (holder(1), holder(2));
    s.read(ping, A, 64 * KB);
    for (from, to, through) in [(ping, pong, pipe(1)), (pong, ping, pipe(2))] {
        s.put(from, through, ONLY_A, 90 * GB);
        s.drain(to, through, 90 * GB);
    }
    // Echoes may be overstated up to what moved, never beyond the asset.
    assert_eq!(s.ledger.taken(pong, A), 90 * GB);
    assert!(s.ledger.taken(ping, A) <= 100 * GB);
    let edges = s.ledger.lineage(pong, A, None);
    insta::assert_snapshot!(drawn(&edges[..1]), @"asset llm-70b -65536-> process 1");
}

#[test]
fn nonsense_about_parents_ends_too() {
    let mut s = scene();
    s.take(holder(1), Source::Parent(holder(1)), 90 * GB);
    s.read(holder(1), A, 1);
    assert!(s.ledger.taken(holder(1), A) >= 1);
}

#[test]
fn a_bound_follows_the_asset_up_and_never_down() {
    let mut s = scene();
    let cp = holder(1);
    s.asset(C, "voice", MB);
    s.read(cp, C, 10 * MB);
    s.put(cp, usb(1), AssetSet(4), 10 * MB);
    assert_eq!(s.ledger.bound(cp, C, usb(1)), MB);
    let records = s.asset(C, "voice", 8 * MB);
    let seen: Vec<_> = records.iter().map(|r| (r.kind, r.bytes)).collect();
    assert_eq!(seen, [(RecordKind::Take, 7 * MB), (RecordKind::Flow, 7 * MB)]);
    assert_eq!(s.asset(C, "voice", KB).len(), 0);
    assert_eq!(s.ledger.bound(cp, C, usb(1)), 8 * MB);
}

#[test]
fn what_was_never_named_is_counted_under_a_placeholder() {
    let mut s = scene();
    s.read(holder(9), A, MB);
    let records = s.put(holder(9), peer(53), ONLY_A, MB);
    let (process, sink) = (&records[0].process, records[0].sink.as_ref().unwrap());
    assert_eq!((process.pid, process.exe.as_str(), process.uid), (9, "", u32::MAX));
    assert_eq!((sink.kind, sink.control), (SinkKind::Peer, Control::Uncontrolled));
    assert_eq!(sink.peer.as_deref(), Some("203.0.113.9:53/tcp"));
}

#[test]
fn loss_is_merged_and_empty_when_nothing_was_lost() {
    let mut s = scene();
    assert_eq!(s.ledger.loss(), Loss::new());
    s.apply(Event::Loss(Loss::from([("ringbuf", 3), ("map_full", 0)])));
    s.apply(Event::Loss(Loss::from([("ringbuf", 2)])));
    assert_eq!(s.ledger.loss(), Loss::from([("ringbuf", 3)]));
}

#[test]
fn a_file_remembers_its_bytes_and_their_way_after_the_writer_is_gone() {
    let mut s = scene();
    let (cat, gzip) = (s.exec(1, "/bin/cat"), s.exec(2, "/bin/gzip"));
    s.read(cat, A, 10 * MB);
    s.put(cat, pipe(1), ONLY_A, 10 * MB);
    s.drain(gzip, pipe(1), 10 * MB);
    s.put(gzip, usb(5), ONLY_A, 7 * MB);
    s.exit(cat);
    s.exit(gzip);
    s.sleep(61);
    assert_eq!(s.ledger.holders.len(), 0);
    assert_eq!(s.ledger.carriers.len(), 1, "the pipe is empty and goes, the file stays");
    let scp = s.exec(3, "/usr/bin/scp");
    s.drain(scp, usb(5), 7 * MB);
    let records = s.put(scp, peer(22), ONLY_A, 8 * MB);
    assert_eq!(records[0].bytes, 7 * MB);
    insta::assert_snapshot!(drawn(&records[0].lineage), @r"
    asset llm-70b -10485760-> process cat
    process cat -10485760-> pipe 0:14:1
    pipe 0:14:1 -10485760-> process gzip
    process gzip -7340032-> file 8:16:5
    file 8:16:5 -7340032-> process scp
    process scp -7340032-> peer 203.0.113.9:22/tcp
    ");
    assert_eq!(s.ledger.loss(), Loss::new());
}

#[test]
fn writers_that_come_and_go_add_up_in_a_pipe() {
    // `for i in …; do dd bs=60K count=1 skip=$i; done | nc`: each below the floor, together not.
    let mut s = scene();
    let nc = s.exec(1, "/bin/nc");
    for n in 0..100 {
        let dd = s.exec(1000 + n, "/bin/dd");
        s.read(dd, A, 60 * KB);
        s.put(dd, pipe(1), ONLY_A, 60 * KB);
        s.drain(nc, pipe(1), u64::from(n + 1) * 60 * KB);
        s.put(nc, peer(443), ONLY_A, u64::from(n + 1) * 60 * KB);
        s.exit(dd);
        s.sleep(61);
    }
    assert_eq!(s.ledger.bound(nc, A, peer(443)), 6000 * KB);
    assert_eq!(s.ledger.holders.len(), 1);
}

/// One holder, a thousand files of 60 KiB, a thousand readers.
#[test]
fn the_floor_is_a_budget_and_no_way_around() {
    let mut s = scene();
    let cp = s.exec(100, "/usr/bin/split");
    s.read(cp, A, GB);
    let reader = |n: u64| holder(1000 + u32::try_from(n).unwrap());
    for n in 0..1000 {
        s.put(cp, usb(n), ONLY_A, 60 * KB);
        s.drain(reader(n), usb(n), 60 * KB);
        s.put(reader(n), peer(443), ONLY_A, 60 * KB);
        // 17 × 60 KiB are below 16 floors of 64 KiB, 18 are not.
        let followed = n >= 17;
        assert_eq!(s.ledger.taken(reader(0), A), if followed { 60 * KB } else { 0 }, "after {n}");
    }
    let sent: u64 = (0..1000).map(|n| s.ledger.bound(reader(n), A, peer(443))).sum();
    assert_eq!(sent, 1000 * 60 * KB, "those before are followed too");
    // What grew past the floor is no slack.
    let mut s = scene();
    let cp = s.exec(100, "/usr/bin/cp");
    s.read(cp, A, GB);
    for n in 0..100 {
        s.put(cp, usb(n), ONLY_A, 60 * KB);
        s.put(cp, usb(n), ONLY_A, MB);
    }
    s.put(cp, usb(1000), ONLY_A, KB);
    s.drain(reader(0), usb(1000), KB);
    assert_eq!(s.ledger.taken(reader(0), A), 0);
}

/// A ring of a few pages in a file: what goes through it is no matter of its length.
#[test]
fn shared_memory_carries_all_that_its_writer_took() {
    let mut s = scene();
    let writer = s.exec(100, "/usr/bin/python3");
    let reader = s.exec(200, "/usr/bin/nc");
    let SinkKey::File(object) = usb(7) else { panic!("a file") };
    s.put(writer, usb(7), AssetSet(u64::MAX), 16 * KB);
    s.put(writer, SinkKey::Process(object), AssetSet(u64::MAX), 1 << 44);
    s.take(reader, Source::Carrier(object), 1 << 44);
    s.put(reader, peer(443), ONLY_A, 300 * MB);
    assert_eq!(s.ledger.bound(reader, A, peer(443)), 0);
    s.read(writer, A, 200 * MB);
    assert_eq!(s.ledger.bound(reader, A, peer(443)), 200 * MB);
    s.read(writer, A, 400 * MB);
    let last = s.records.last().unwrap();
    insta::assert_snapshot!(drawn(&last.lineage), @r"
    asset llm-70b -419430400-> process python3
    process python3 -419430400-> file 8:16:7
    file 8:16:7 -419430400-> process nc
    process nc -314572800-> peer 203.0.113.9:443/tcp
    ");
    assert_eq!(s.ledger.bound(reader, A, peer(443)), 300 * MB);
    // The file itself holds no more than it has room for.
    assert_eq!(s.ledger.bound(writer, A, usb(7)), 16 * KB);
}

/// Both store and look: neither has more than both took.
#[test]
fn two_that_share_memory_do_not_talk_each_other_up() {
    let mut s = scene();
    let (one, two) = (s.exec(100, "/usr/bin/python3"), s.exec(200, "/usr/bin/python3"));
    for process in [one, two] {
        s.put(process, pipe(1), AssetSet(u64::MAX), 1 << 44);
        s.drain(process, pipe(1), 1 << 44);
    }
    s.read(one, A, 200 * MB);
    s.read(two, A, 100 * MB);
    assert_eq!((s.ledger.taken(one, A), s.ledger.taken(two, A)), (300 * MB, 300 * MB));
}

#[test]
fn children_outlive_their_parent() {
    let mut s = scene();
    let (parent, child) = (s.exec(1, "/usr/sbin/daemon"), s.exec(2, "/usr/sbin/daemon"));
    s.read(parent, A, MB);
    s.take(child, Source::Parent(parent), MB);
    s.exit(parent);
    s.sleep(61);
    assert_eq!(s.ledger.holders.len(), 1);
    let records = s.put(child, peer(1), ONLY_A, MB);
    assert_eq!(records[0].bytes, MB);
    assert_eq!(records[0].lineage.len(), 3);
}

#[test]
fn what_a_thief_reached_outlives_its_victim() {
    let mut s = scene();
    let (server, thief) = (s.exec(1, "/usr/bin/vllm"), s.exec(2, "/usr/bin/gdb"));
    s.take(thief, Source::Reached(server), 3 * MB);
    assert_eq!(s.sum(RecordKind::Take, thief, A), 0, "the server had taken nothing yet");
    s.read(server, A, MB);
    assert_eq!(s.sum(RecordKind::Take, thief, A), MB, "no more than the server had");
    s.read(server, A, 2 * MB);
    s.exit(server);
    s.sleep(61);
    assert_eq!(s.ledger.holders.len(), 1);
    let records = s.put(thief, peer(1), ONLY_A, 5 * MB);
    assert_eq!(records[0].bytes, 2 * MB);
    let names: Vec<&str> = records[0].lineage.iter().map(|edge| edge.from.name.as_str()).collect();
    assert_eq!(names, ["llm-70b", "vllm", "gdb"]);
}

#[test]
fn memory_stays_within_the_limits_and_evictions_are_counted() {
    let limits =
        Limits { holders: 100, carriers: 100, flows: 100, intakes: 100, sinks: 100, grace: 60_000_000_000 };
    let mut s = Scene::new(limits);
    for n in 1..=1000 {
        let id = s.exec(n, "/bin/cp");
        s.read(id, A, u64::from(n) * MB);
        s.drain(id, usb(u64::from(n) + 10_000), 1);
        s.apply(Event::Sink { key: usb(u64::from(n)), sink: Arc::new(super::domain::unknown_sink(usb(1))) });
        s.put(id, usb(u64::from(n)), ONLY_A, u64::from(n) * MB);
    }
    let l = &s.ledger;
    let flows: usize = l.holders.values().map(|h| h.flows.len()).sum();
    let intakes: usize = l.holders.values().map(|h| h.sources.len()).sum();
    assert_eq!((l.flows, l.intakes), (flows, intakes));
    for count in [l.holders.len(), l.carriers.len(), l.sinks.len(), flows, intakes] {
        assert!(count <= 100, "{count}");
    }
    assert_eq!(l.taken(holder(1000), A), 1000 * MB, "the largest stay");
    assert!(l.loss()["ledger_evicted"] > 0);
}

#[test]
fn closed_connections_are_folded_without_loss() {
    let limits = Limits { flows: 100, ..Limits::default() };
    let mut s = Scene::new(limits);
    let server = s.exec(1, "/usr/bin/vllm");
    s.read(server, A, GB);
    for port in 1..=1000 {
        s.put(server, peer(port), ONLY_A, KB);
        s.sleep(61);
    }
    assert!(s.ledger.flows <= 100);
    assert_eq!(s.ledger.bound(server, A, peer(1)), 1000 * KB);
    assert_eq!(s.sum(RecordKind::Flow, server, A), 1000 * KB);
    assert_eq!(s.ledger.loss(), Loss::new());
}

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
                        Source::Parent(other) | Source::Reached(other) => bytes.min(of(other)),
                        Source::Carrier(object) => {
                            let writers: BTreeSet<HolderId> =
                                self.flows.keys().map(|&(w, _, _)| w).filter(|&w| w != id).collect();
                            let into = |key| super::carrier_of(key) == Some(object);
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
        (0..2_u8).prop_map(|asset| Source::Asset(AssetId(asset))),
        any_carrier().prop_map(|key| Source::Carrier(super::carrier_of(key).unwrap())),
    ];
    let take =
        |(holder, source, bytes)| Event::Take { holder, source, bytes, listed: AssetSet(1), at: BootNs(1) };
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_reference(
        events in prop::collection::vec(any_event(), 1..60),
        floor in 0..6_u64,
        sizes in prop::array::uniform2(prop::array::uniform2(0..80_u64)),
    ) {
        let mut ledger = Ledger::new(floor);
        let mut reference = Reference { floor, ..Reference::default() };
        let mut records = Vec::new();
        let half = events.len() / 2;
        let sized = |n: usize| (0..2_u8).map(move |a| {
            let [first, more] = sizes[usize::from(a)];
            Event::Asset(Arc::new(Asset {
                id: AssetId(a),
                name: a.to_string(),
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
            for asset in [A, B] {
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
            listed: AssetSet::default(),
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
