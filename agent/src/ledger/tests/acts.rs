//! Acts of who holds something in the kernel's eyes and took nothing in the ledger's.

use super::*;
use crate::event::{Act, ActKind, Conclusions};

fn channel(kind: ActKind) -> Act {
    Act { kind, victim: None, target: None }
}

impl Scene {
    fn does(&mut self, holder: HolderId, kind: ActKind) -> usize {
        let at = BootNs(self.now);
        let event = Event::Act { holder, act: channel(kind), assets: list(&[A]), at };
        acts(&self.apply(event))
    }
}

fn acts(records: &[Record]) -> usize {
    records.iter().filter(|record| record.kind == RecordKind::Act).count()
}

/// What holders send, as listeners hear it.
fn network() -> SinkKey {
    SinkKey::Process(object(agent_ebpf::DEV_CLASS, agent_ebpf::CLASS_PACKETS))
}

#[test]
fn a_holder_that_took_something_is_told_of_at_once() {
    let mut scene = scene();
    let cp = scene.exec(1, "/bin/cp");
    scene.read(cp, A, MB);
    assert_eq!(scene.does(cp, ActKind::Packet), 1);
}

#[test]
fn a_suspect_is_told_of_once_he_took_something() {
    let mut scene = scene();
    let suspect = scene.exec(1, "/bin/suspect");
    assert_eq!(scene.does(suspect, ActKind::Xdp), 0);
    assert_eq!(acts(&scene.read(suspect, B, MB)), 0);
    assert_eq!(acts(&scene.read(suspect, A, MB)), 1);
    assert_eq!(acts(&scene.read(suspect, A, 2 * MB)), 0);
}

#[test]
fn a_listener_and_his_children_are_no_holders_with_a_channel() {
    let mut scene = scene();
    let (server, listener, child) =
        (scene.exec(1, "/bin/server"), scene.exec(2, "/bin/dump"), scene.exec(3, "/bin/dump"));
    scene.read(server, A, GB);
    scene.put(server, network(), ONLY_A, GB);
    scene.drain(listener, network(), GB);
    scene.take(child, Source::Parent(listener), GB);
    assert_eq!(scene.does(listener, ActKind::Packet), 0);
    assert_eq!(scene.does(child, ActKind::Packet), 0);
    // What it heard is weighed all the same.
    assert_eq!(scene.ledger.taken(child, A), GB);
    // The child reads for itself; then the listener gets a part from another channel.
    assert_eq!(acts(&scene.read(child, A, MB)), 1);
    scene.put(server, pipe(1), ONLY_A, MB);
    assert_eq!(acts(&scene.drain(listener, pipe(1), MB)), 1);
}

#[test]
fn an_act_that_is_no_channel_does_not_wait() {
    let mut scene = scene();
    let suspect = scene.exec(1, "/bin/suspect");
    assert_eq!(scene.does(suspect, ActKind::RawDevice), 1);
}

#[test]
fn an_act_that_waited_waits_on_in_the_next_ledger() {
    let mut scene = scene();
    let (server, listener) = (scene.exec(1, "/bin/server"), scene.exec(2, "/bin/dump"));
    scene.read(server, A, GB);
    scene.put(server, network(), ONLY_A, GB);
    scene.drain(listener, network(), GB);
    scene.ledger.restore_act(listener, channel(ActKind::Packet), &list(&[A, B]));
    assert_eq!(acts(&scene.drain(listener, network(), 2 * GB)), 0);
    assert_eq!(acts(&scene.read(listener, A, MB)), 1);
    assert_eq!(acts(&scene.read(listener, B, MB)), 1);
    assert_eq!(acts(&scene.read(listener, B, 2 * MB)), 0);
}

#[test]
fn an_act_that_was_told_is_not_told_by_the_next_ledger() {
    let mut scene = scene();
    let cp = scene.exec(1, "/bin/cp");
    scene.read(cp, A, MB);
    scene.ledger.restore_act(cp, channel(ActKind::Packet), &list(&[A]));
    scene.ledger.restore_act(cp, channel(ActKind::RawDevice), &list(&[A]));
    assert_eq!(acts(&scene.read(cp, A, 2 * MB)), 0);
}

#[test]
fn who_has_what_only_an_earlier_ledger_can_explain_is_told_of_at_once() {
    let mut scene = scene();
    let (parent, child) = (holder(1), scene.exec(2, "/bin/child"));
    let taken = vec![(parent, A, Some((GB, GB))), (child, A, Some((0, GB)))];
    scene.ledger.restore(&Conclusions { taken, caps: Vec::new() });
    scene.take(child, Source::Parent(parent), GB);
    scene.ledger.restored(BootNs(scene.now));
    assert_eq!(scene.does(child, ActKind::Packet), 1);
    let listener = scene.exec(3, "/bin/dump");
    assert_eq!(scene.does(listener, ActKind::Packet), 0);
}

#[test]
fn as_many_wait_as_waited_before() {
    let mut scene = scene();
    let many = 3000;
    for tgid in 1..=many {
        let suspect = scene.exec(tgid, "/bin/suspect");
        scene.ledger.restore_act(suspect, channel(ActKind::Xdp), &list(&[A]));
    }
    assert_eq!(acts(&scene.read(holder(many), A, MB)), 1);
    assert_eq!(acts(&scene.read(holder(1), A, MB)), 1);
}

#[test]
fn a_listener_stays_one_when_what_he_heard_from_is_forgotten() {
    let mut scene = scene();
    let listener = scene.exec(2, "/bin/dump");
    let taken = vec![(listener, A, Some((GB, GB)))];
    scene.ledger.restore(&Conclusions { taken, caps: Vec::new() });
    scene.drain(listener, network(), GB);
    scene.ledger.restored(BootNs(scene.now));
    assert_eq!(scene.does(listener, ActKind::Packet), 0);
    assert_eq!(acts(&scene.read(listener, A, MB)), 1);
}
