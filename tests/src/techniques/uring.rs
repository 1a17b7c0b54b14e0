//! io_uring (TECHNIQUES S10 to S13): requests instead of calls, in every form that leaves the path of the visible completion.

use std::process::Command;

use tests::lab::{outside::UNCONTROLLED, process::Identity};

use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("plain", |w| exact(w, "plain")),
    ("vectors", |w| exact(w, "vectors")),
    ("polled_by_a_kernel_thread", |w| exact(w, "sqpoll")),
    ("by_a_worker", |w| exact(w, "worker")),
    ("fixed_buffers_and_files", |w| exact(w, "fixed")),
    ("linked", |w| exact(w, "linked")),
    ("without_events", |w| exact(w, "skip")),
    ("vectors_without_events", |w| exact(w, "skip_vectors")),
    ("fixed_without_events", |w| exact(w, "fixed_skip")),
    ("events_without_room", |w| exact(w, "overflow")),
    ("splice", |w| exact(w, "splice")),
    ("splice_without_events", |w| exact(w, "splice_skip")),
    ("opened_into_slots", |w| exact(w, "slots")),
    ("descriptor_out_of_a_slot", |w| exact(w, "install")),
    ("opened_without_an_event", |w| exact(w, "open_skip")),
    ("descriptor_swapped_in_a_chain", |w| exact(w, "swapped")),
    ("ring_of_another_process", |w| by_the_child(w, "passed_ring")),
    ("file_from_another_ring", |w| by_the_child(w, "passed_file")),
    ("buffer_of_another_process", |w| exact(w, "lent_buffer")),
    ("ring_whose_maker_ended", |w| by_the_child(w, "maker_ended")),
    ("ring_whose_maker_executed", |w| by_the_child(w, "maker_executed")),
    ("received_descriptor", |w| by_the_child(w, "received_descriptor")),
    ("received", |w| by_the_child(w, "received")),
    ("received_by_one_request", |w| by_the_child(w, "received_many")),
    ("send", |w| to_peer(w, "send")),
    ("send_zc", |w| to_peer(w, "send_zc")),
    ("sendmsg", |w| to_peer(w, "sendmsg")),
];

/// The process that runs the script put every byte.
fn exact(w: &mut World, way: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mover = run(&scene, way, &copy.to_string_lossy());
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes)];
    scene.expect(&expected);
}

/// A child of the script's process put every byte, with the parent's command line.
fn by_the_child(w: &mut World, way: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let parent = run(&scene, way, &copy.to_string_lossy());
    let mover = Identity {
        pid: None,
        started: None,
        ancestry: parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect(),
        ..parent.clone()
    };
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes).through(1)];
    scene.expect(&expected);
}

fn to_peer(w: &mut World, way: &str) {
    let scene = w.scene();
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mover = run(&scene, way, &addr.to_string());
    let bytes = scene.received(&scene.model.files[0], receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// Runs the script with the first shard, in one of its ways.
pub(crate) fn run(scene: &Scene<'_>, way: &str, destination: &str) -> Identity {
    run_on(scene, scene.python("uring.py", SCRIPT).arg(way).arg(&scene.model.files[0]).arg(destination))
}

pub(crate) const SCRIPT: &str = include_str!("scripts/uring.py");

pub(crate) fn run_on(scene: &Scene<'_>, command: &mut Command) -> Identity {
    let finished = scene.spawn(command).finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    // What the script says when the kernel refuses its way.
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    finished.success().unwrap_or_else(|error| panic!("{error:#}"))
}
