//! What is left once processes are gone or the limits are reached.

use super::*;
use crate::{event::Loss, ledger::domain::unknown_sink};

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
        s.apply(Event::Sink { key: usb(u64::from(n)), sink: Arc::new(unknown_sink(usb(1))) });
        s.put(id, usb(u64::from(n)), ONLY_A, u64::from(n) * MB);
        s.exit(id);
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
fn who_lives_is_never_evicted() {
    let mut s = Scene::new(Limits { holders: 100, ..Limits::default() });
    for n in 1..=1000 {
        let id = s.exec(n, "/bin/cp");
        s.read(id, A, MB + u64::from(n));
    }
    // The smallest, which waited.
    let records = s.put(holder(1), peer(1), ONLY_A, 5 * MB);
    assert_eq!(records[0].bytes, MB + 1);
    assert_eq!(s.ledger.loss(), Loss::new());
    for n in 1..=1000 {
        s.exit(holder(n));
    }
    s.sleep(6);
    assert!(s.ledger.holders.len() <= 100, "{}", s.ledger.holders.len());
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
