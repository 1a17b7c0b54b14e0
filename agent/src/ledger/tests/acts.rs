//! Acts of who holds something in the kernel's eyes and took nothing in the ledger's.

use proptest::prelude::*;

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

    /// Opens a channel, or reaches into a victim.
    fn does_to(&mut self, holder: HolderId, victim: Option<HolderId>) {
        let kind = if victim.is_some() { ActKind::Ptrace } else { ActKind::Packet };
        let (act, at) = (Act { kind, victim, target: None }, BootNs(self.now));
        self.apply(Event::Act { holder, act, assets: list(&[A, TWIN]), at });
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

#[test]
fn a_suspect_who_inherits_later_is_told_of() {
    let mut scene = scene();
    let (parent, child, below) =
        (scene.exec(1, "/bin/sh"), scene.exec(2, "/bin/suspect"), scene.exec(3, "/bin/suspect"));
    scene.take(child, Source::Parent(parent), GB);
    scene.take(below, Source::Parent(child), GB);
    assert_eq!((scene.does(child, ActKind::Xdp), scene.does(below, ActKind::Xdp)), (0, 0));
    // What the parent takes both have, and neither is in an event of its own.
    assert_eq!(acts(&scene.read(parent, A, MB)), 2);
    assert_eq!((scene.ledger.taken(below, A), acts(&scene.read(parent, A, 2 * MB))), (MB, 0));
}

#[test]
fn the_child_of_a_listener_is_told_of_once_its_parent_reads() {
    let mut scene = scene();
    let (server, listener, child) =
        (scene.exec(1, "/bin/server"), scene.exec(2, "/bin/dump"), scene.exec(3, "/bin/dump"));
    scene.read(server, A, GB);
    scene.put(server, network(), ONLY_A, GB);
    scene.drain(listener, network(), GB);
    scene.take(child, Source::Parent(listener), MB);
    assert_eq!(scene.does(child, ActKind::Packet), 0);
    // Not a byte more comes over: it has as much as it was handed.
    assert_eq!(acts(&scene.read(listener, A, MB)), 1);
    assert_eq!(scene.ledger.taken(child, A), MB);
}

#[test]
fn who_was_reached_into_and_inherits_later_is_named() {
    let mut scene = scene();
    scene.asset(TWIN, "twin", 10 * GB);
    let (parent, victim, thief) =
        (scene.exec(1, "/bin/sh"), scene.exec(2, "/bin/server"), scene.exec(3, "/bin/gdb"));
    scene.read(victim, A, MB);
    scene.take(victim, Source::Parent(parent), GB);
    let act = Act { kind: ActKind::Ptrace, victim: Some(victim), target: None };
    let at = BootNs(scene.now);
    let told = scene.apply(Event::Act { holder: thief, act, assets: list(&[A, TWIN]), at });
    assert_eq!(acts(&told), 1);
    assert_eq!(acts(&scene.read(parent, TWIN, MB)), 1);
}

proptest! {
    /// Whoever takes from whom, in whatever order: what can be told does not wait.
    #[test]
    fn nothing_that_can_be_told_waits(story in prop::collection::vec((0..6_u8, 1..6_u32, 1..6_u32, 0..3_u64), 1..60)) {
        let mut scene = scene();
        scene.asset(TWIN, "twin", 10 * GB);
        for tgid in 1..6 {
            scene.exec(tgid, "/bin/any");
        }
        for (nth, (what, who, whom, bytes)) in story.into_iter().enumerate() {
            let (id, other, asset) = (holder(who), holder(whom), if bytes == 1 { A } else { TWIN });
            let bytes = bytes * (nth as u64 + 1) * MB;
            match what {
                0 => drop(scene.read(id, asset, bytes)),
                1 if who > whom => drop(scene.take(id, Source::Parent(other), bytes)),
                2 if who != whom => drop(scene.take(id, Source::Reached(other), bytes)),
                3 => drop(scene.put(id, if bytes > 20 * MB { network() } else { pipe(1) }, ONLY_A, bytes)),
                4 => drop(scene.drain(id, if bytes > 20 * MB { network() } else { pipe(1) }, bytes)),
                _ => scene.does_to(id, (who != whom).then_some(other)),
            }
            prop_assert_eq!(scene.ledger.overdue(), 0);
        }
    }
}

/// Measured, not asserted: the time of a machine is not a test's business.
#[test]
#[ignore = "a measurement: cargo test --release -p weighbridge --lib waiters_and_assets -- --ignored --nocapture"]
fn what_a_take_costs_beside_many_waiters_and_assets() {
    const ASSETS: u16 = 1008;
    const TAKES: u32 = 2000;
    for waiters in [1, 1024] {
        let mut scene = scene();
        let assets: Vec<AssetId> = (0..ASSETS).map(AssetId).collect();
        assets.iter().for_each(|&id| drop(scene.asset(id, "some", GB)));
        for tgid in 1..=waiters {
            let suspect = scene.exec(tgid, "/bin/suspect");
            scene.ledger.restore_act(suspect, channel(ActKind::Xdp), &list(&assets[1..]));
        }
        let mut records = Vec::new();
        // The first of each looks at all that waits for him.
        (1..=waiters).for_each(|tgid| drop(scene.read(holder(tgid), A, 1)));
        let started = std::time::Instant::now();
        for take in 1..=TAKES {
            let holder = holder(1 + take % waiters);
            let (source, listed) = (Source::Asset(A), AssetList::default());
            let event = Event::Take { holder, source, bytes: u64::from(take) * KB, listed, at: BootNs(1) };
            scene.ledger.apply(event, &mut records);
        }
        println!("{waiters} waiters, {ASSETS} assets: {:?} for a take", started.elapsed() / TAKES);
    }
}
