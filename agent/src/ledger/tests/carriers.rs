//! Bytes on their way from holder to holder: pipes, files, shared memory, forks.

use super::*;

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
    let mut take = |holder, source, listed: &[AssetId]| {
        s.apply(Event::Take { holder, source, bytes: MB, listed: list(listed), at })
    };
    let judged = |records: Vec<Record>| records.iter().map(|r| (r.asset.id, r.listed)).collect::<Vec<_>>();
    assert_eq!(judged(take(reader, from_pipe, &[A])), [(A, true)]);
    assert_eq!(judged(take(other, from_pipe, &[B])), [(A, false)]);
    take(child, Source::Parent(reader), &[A]);
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
