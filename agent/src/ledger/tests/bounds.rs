//! What one holder took and where it put it: records, and the bounds that they add up to.

use super::*;
use crate::{
    event::{Control, Loss, Sink, SinkKind},
    ledger::domain::unknown_sink,
};

#[test]
fn cp_counts_each_byte_once() {
    let mut s = scene();
    let cp = s.exec(100, "/usr/bin/cp");
    let sink = Sink { path: Some("/mnt/usb/model".to_owned()), ..unknown_sink(usb(7)) };
    s.apply(Event::Sink { key: usb(7), sink: Arc::new(sink) });
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
    let with_canary = AssetSet(ONLY_A.0 | AssetSet::CANARY.0);
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
