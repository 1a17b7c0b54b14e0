//! From one process to another by loads and stores, which no call tells of (TECHNIQUES 1E: I01, I02, I05). The reader maps
//! before the writer holds anything, unless the name says otherwise, and sends what it reads out.

use std::{net::SocketAddr, process::Command};

use tests::lab::{
    outside::UNCONTROLLED,
    process::{Finished, Identity},
};

use super::local_sockets::below;
use crate::{
    expect::Expected,
    world::{ALERT_WITHIN, PATIENCE, Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("posix_shm", |w| through(w, "posix_shm", &["shm", "process", "peer"])),
    // 16 KiB, over and over: the length of the mapping says nothing.
    ("small_ring", |w| through(w, "small_ring", &["shm", "process", "peer"])),
    ("grandchild", |w| through(w, "grandchild", &["shm", "process", "peer"])),
    ("private_reader", |w| through(w, "private_reader", &["shm", "process", "peer"])),
    ("stored_then_read", |w| through(w, "stored_then_read", &["shm", "process", "peer"])),
    ("written_then_loaded", |w| through(w, "written_then_loaded", &["shm", "process", "peer"])),
    ("many_objects", |w| through(w, "many_objects", &["shm", "process", "peer"])),
    ("memfd", |w| through(w, "memfd", &["shm", "process", "peer"])),
    ("late_reader", |w| through(w, "late_reader", &["shm", "process", "peer"])),
    ("system_v", |w| through(w, "system_v", &["shm", "process", "peer"])),
    ("anonymous", |w| through(w, "anonymous", &["shm", "process", "peer"])),
    // A mapping of the device is memory like that of no file, and is handed down by a fork.
    ("zero_device", |w| through(w, "zero_device", &["shm", "process", "peer"])),
    // Memory of the kernel's: whoever has the descriptor of a ring can map its submission queue.
    ("ring_of_io_uring", |w| through(w, "ring_of_io_uring", &["shm", "process", "peer"])),
    ("system_v_by_way_of_proc", system_v_by_way_of_proc),
    ("ordinary_file", |w| through(w, "ordinary_file", &["file", "process", "peer"])),
    ("older_than_the_agent", |w| older(w, "posix_shm", &["shm", "process", "peer"])),
    ("system_v_older_than_the_agent", |w| older(w, "system_v", &["shm", "process", "peer"])),
    // A scan meets the file of the kernel's own that stands behind it.
    ("anonymous_older_than_the_agent", |w| older(w, "anonymous", &["file", "process", "peer"])),
    ("mapping_from_the_parent", mapping_from_the_parent),
    ("mapping_made_before", mapping_made_before),
    ("mapping_that_grew", mapping_that_grew),
];

fn command(scene: &Scene<'_>, kind: &str, addr: SocketAddr) -> Command {
    let mut command = scene.python("memory.py", include_str!("scripts/memory.py"));
    let source = &scene.model.files[0];
    command
        .arg(kind)
        .arg(source)
        .arg(addr.ip().to_string())
        .arg(addr.port().to_string())
        .arg(&scene.controlled);
    command
}

fn through(w: &mut World, kind: &str, way: &'static [&'static str]) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let parent = scene.run(&mut command(&scene, kind, addr));
    let bytes = scene.received(source, receiver);
    let relay = below(&parent);
    let expected = [Expected::egress(&scene, &relay, addr, "tcp", bytes).through(1).passing(way)];
    scene.expect(&expected);
}

/// Both processes and their memory are there when the agent starts.
fn older(w: &mut World, kind: &str, way: &'static [&'static str]) {
    let mut scene = w.prepare();
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = command(&scene, kind, addr);
    let mut running = scene.spawn(command.arg("wait"));
    assert_eq!(running.line().expect("the writer says that it is ready"), "ready");
    scene.start();
    running.go().unwrap_or_else(|error| panic!("{error:#}"));
    let parent =
        running.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let bytes = scene.received(&scene.model.files[0], receiver);
    let relay = below(&parent);
    let expected = [Expected::egress(&scene, &relay, addr, "tcp", bytes).through(1).passing(way)];
    scene.expect(&expected);
}

fn mapping_from_the_parent(w: &mut World) {
    stored(w, "from_the_parent");
}

fn mapping_made_before(w: &mut World) {
    stored(w, "before");
}

fn mapping_that_grew(w: &mut World) {
    stored(w, "grown");
}

/// A segment has an id and no name; by `/proc/PID/map_files` it is opened as the file that is behind it. Which one that is a scan
/// finds.
fn system_v_by_way_of_proc(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mut command = scene.python("segment.py", include_str!("scripts/segment.py"));
    let mut running = scene.spawn(command.arg(&source));
    let place = running.line().expect("it says where the segment is");
    scene.settled();
    let cp = scene.run(Command::new("cp").arg(&place).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    running.go().unwrap_or_else(|error| panic!("{error:#}"));
    let server =
        running.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let act = Expected::act(&scene, "WB-0006", "proc_fd", &cp).of_victim(&server).if_raised();
    let expected = [act, Expected::copy(&scene, &cp, &copy, bytes)];
    scene.expect(&expected);
}

/// A file of an uncontrolled volume that is only ever stored into.
fn stored(w: &mut World, kind: &str) {
    let mut scene = w.scene();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mut command = scene.python("mapped_sink.py", include_str!("scripts/mapped_sink.py"));
    let mut running = scene.spawn(command.arg(kind).arg(&source).arg(&copy));
    assert_eq!(running.line().expect("it says when all is stored"), "stored");
    let whole = size(&source);
    // While the process lives: which mapping grew is looked up.
    let came = scene.agent().wait(ALERT_WITHIN, |alerts| {
        alerts.iter().any(|alert| alert.rule() == "WB-0001" && alert.bound() >= whole).then_some(())
    });
    assert!(came.unwrap_or_else(|error| panic!("{error:#}")).is_some(), "the stores raised nothing");
    let parent =
        running.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    // The parent has the same mapping of the file and sees what the child stores: either may be the one that is named.
    let by = if kind == "from_the_parent" { Identity { pid: None, started: None, ..parent } } else { parent };
    let expected = [Expected::copy(&scene, &by, &copy, scene.arrived(&source, &copy)).or_up_to_the_asset()];
    scene.expect(&expected);
}
