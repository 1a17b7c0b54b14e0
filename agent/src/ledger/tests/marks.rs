//! Assets that share a mark: the sensor's sets cannot tell them apart, and the ledger does.

use super::*;
use crate::event::{Act, ActKind, Mark};

/// A and its twin, of a gigabyte each, and B.
fn twins() -> Scene {
    let mut scene = scene();
    scene.asset(TWIN, "twin", GB);
    scene
}

fn judged(records: &[Record]) -> Vec<(AssetId, RecordKind, u64)> {
    records.iter().map(|record| (record.asset.id, record.kind, record.bytes)).collect()
}

#[test]
fn who_took_only_one_of_two_is_bounded_for_that_one() {
    let mut s = twins();
    let cp = s.exec(1, "/bin/cp");
    s.read(cp, A, 4 * MB);
    assert_eq!(judged(&s.put(cp, usb(1), ONLY_A, 9 * MB)), [(A, RecordKind::Flow, 4 * MB)]);
    assert_eq!((s.ledger.bound(cp, TWIN, usb(1)), s.ledger.taken(cp, TWIN)), (0, 0));
    // Another, which took only the twin, in the same set.
    let other = s.exec(2, "/bin/cp");
    s.read(other, TWIN, 3 * MB);
    assert_eq!(judged(&s.put(other, usb(1), ONLY_A, 2 * MB)), [(TWIN, RecordKind::Flow, 2 * MB)]);
}

#[test]
fn what_moved_before_the_second_was_taken_counts_for_it_too() {
    let mut s = twins();
    let cp = s.exec(1, "/bin/cp");
    s.read(cp, A, 4 * MB);
    s.put(cp, usb(1), ONLY_A, 9 * MB);
    // The set does not change, so when it was held is not known: too much, and never too little.
    let records = s.read(cp, TWIN, 6 * MB);
    assert_eq!(judged(&records), [(TWIN, RecordKind::Take, 6 * MB), (TWIN, RecordKind::Flow, 6 * MB)]);
    assert_eq!(s.ledger.bound(cp, A, usb(1)), 4 * MB);
}

#[test]
fn a_relay_passes_on_what_its_feeder_took_and_not_its_twin() {
    let mut s = twins();
    let (cat, nc) = (s.exec(1, "/bin/cat"), s.exec(2, "/bin/nc"));
    s.read(cat, TWIN, 8 * MB);
    s.put(cat, pipe(1), ONLY_A, 8 * MB);
    s.drain(nc, pipe(1), 8 * MB);
    assert_eq!(judged(&s.put(nc, peer(443), ONLY_A, 8 * MB)), [(TWIN, RecordKind::Flow, 8 * MB)]);
    assert_eq!((s.ledger.taken(nc, A), s.ledger.bound(nc, A, peer(443))), (0, 0));
}

/// The one use of a set where too many would mean silence: who is listed for one would pass for a reader of the other.
#[test]
fn a_reader_of_one_is_a_stranger_to_its_twin() {
    let mut s = twins();
    let reader = s.exec(1, "/bin/vllm");
    let at = BootNs(s.now);
    let mut take = |asset| {
        let source = Source::Asset(asset);
        let records = s.apply(Event::Take { holder: reader, source, bytes: MB, listed: list(&[A]), at });
        records.iter().map(|record| (record.asset.id, record.listed)).collect::<Vec<_>>()
    };
    assert_eq!(take(A), [(A, true)]);
    assert_eq!(take(TWIN), [(TWIN, false)]);
}

#[test]
fn a_read_of_some_asset_of_a_mark_takes_of_each() {
    let mut s = twins();
    let dd = s.exec(1, "/bin/dd");
    s.take(dd, Source::Mark(Mark(0)), 5 * MB);
    assert_eq!([A, TWIN, B].map(|asset| s.ledger.taken(dd, asset)), [5 * MB, 5 * MB, 0]);
    // Its own files beside it add up, as one source would.
    s.read(dd, TWIN, MB);
    assert_eq!(s.ledger.taken(dd, TWIN), 6 * MB);
}

#[test]
fn a_mapping_that_grows_is_of_what_its_owner_has() {
    let mut s = twins();
    let server = s.exec(1, "/bin/vllm");
    s.read(server, A, 4 * MB);
    s.take(server, Source::Grown(Mark(0)), 2 * MB);
    assert_eq!([A, TWIN].map(|asset| s.ledger.taken(server, asset)), [6 * MB, 0]);
    // What grew before can have been this one's mapping.
    s.read(server, TWIN, MB);
    assert_eq!([A, TWIN].map(|asset| s.ledger.taken(server, asset)), [6 * MB, 3 * MB]);
    // And of one that is alone with its mark it can be no other's.
    let other = s.exec(2, "/bin/vllm");
    s.take(other, Source::Grown(Mark(1)), MB);
    assert_eq!(s.ledger.taken(other, B), MB);
}

#[test]
fn each_twin_has_a_floor_of_its_own() {
    let mut s = twins();
    let (cat, nc) = (s.exec(1, "/bin/cat"), s.exec(2, "/bin/nc"));
    s.read(cat, A, GB);
    // Many channels below the floor, until that came to too much for A.
    for n in 0..40 {
        s.put(cat, pipe(n), ONLY_A, 32 * KB);
    }
    let twin = s.exec(3, "/bin/cat");
    s.read(twin, TWIN, GB);
    s.put(twin, pipe(100), ONLY_A, 32 * KB);
    s.drain(nc, pipe(100), 32 * KB);
    assert_eq!(s.ledger.taken(nc, TWIN), 0, "still below its own floor");
    for n in 101..140 {
        s.put(twin, pipe(n), ONLY_A, 32 * KB);
    }
    assert_eq!(s.ledger.taken(nc, TWIN), 32 * KB, "who read before is looked at again");
}

#[test]
fn reaching_in_touches_what_the_victim_took_and_its_twin_once_that_is_taken() {
    let mut s = twins();
    let (victim, debugger) = (s.exec(1, "/bin/vllm"), s.exec(2, "/bin/gdb"));
    s.read(victim, A, MB);
    let act = Act { kind: ActKind::Ptrace, victim: Some(victim), target: None };
    let at = BootNs(s.now);
    let event = Event::Act { holder: debugger, act, assets: list(&[A, TWIN]), at };
    assert_eq!(judged(&s.apply(event)), [(A, RecordKind::Act, MB)]);
    let records = s.read(victim, TWIN, MB);
    assert_eq!(judged(&records), [(TWIN, RecordKind::Take, MB), (TWIN, RecordKind::Act, MB)]);
    // Once.
    assert_eq!(judged(&s.read(victim, TWIN, 2 * MB)), [(TWIN, RecordKind::Take, MB)]);
}

#[test]
fn reaching_into_who_only_opened_touches_each() {
    let mut s = twins();
    let (victim, debugger) = (s.exec(1, "/bin/vllm"), s.exec(2, "/bin/gdb"));
    let act = Act { kind: ActKind::Ptrace, victim: Some(victim), target: None };
    let at = BootNs(s.now);
    let event = Event::Act { holder: debugger, act, assets: list(&[A, TWIN]), at };
    assert_eq!(judged(&s.apply(event)), [(A, RecordKind::Act, 0), (TWIN, RecordKind::Act, 0)]);
}

#[test]
fn a_channel_of_who_took_one_says_nothing_of_its_twin() {
    let mut s = twins();
    let holder = s.exec(1, "/bin/vllm");
    s.read(holder, TWIN, MB);
    let act = Act { kind: ActKind::Rdma, victim: None, target: None };
    let event = Event::Act { holder, act, assets: list(&[A, TWIN]), at: BootNs(s.now) };
    assert_eq!(judged(&s.apply(event)), [(TWIN, RecordKind::Act, 0)]);
}
