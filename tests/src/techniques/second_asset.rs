//! Who holds a little of one asset already, when another comes to him by a way that no call of his own tells of (TECHNIQUES 1E): that he
//! is a holder must not keep the agent from looking.

use std::{path::PathBuf, process::Command};

use tests::lab::{MIB, outside::UNCONTROLLED, weights::Weights};

use super::tooling::{built, ok};
use crate::{
    expect::Expected,
    world::{Scene, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("stored_into_memory", stored_into_memory),
    ("stored_into_memory_and_written_by_requests", stored_into_memory_and_written_by_requests),
    ("spliced_out_of_a_pipe", spliced_out_of_a_pipe),
];

/// A scene with another asset, and a file of that.
fn scene(w: &mut World) -> (Scene<'_>, PathBuf) {
    let mut scene = w.prepare();
    let other = ok(Weights::safetensors(&scene.controlled.join("other"), 1, MIB, 7));
    scene.config = scene.config.clone().asset("other", &other.dir);
    scene.start();
    scene.settled();
    (scene, other.files[0].clone())
}

fn stored_into_memory(w: &mut World) {
    let (scene, other) = scene(w);
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("second.py", include_str!("scripts/second.py"));
    let thief = scene.run(command.arg("stored").arg(source).arg(other).arg(&copy));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

/// One call submits all of them, and who makes it is no holder of what was stored before it.
fn stored_into_memory_and_written_by_requests(w: &mut World) {
    let (scene, other) = scene(w);
    let program = built(&scene, "stored", include_str!("scripts/stored.c"), &["-O1"]);
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new(program).arg(source).arg(&copy).arg(other));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

/// The socket counts what it sends while the call still takes it.
fn spliced_out_of_a_pipe(w: &mut World) {
    let (scene, other) = scene(w);
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let mut command = scene.python("second.py", include_str!("scripts/second.py"));
    command.arg("spliced").arg(source).arg(other).arg(addr.ip().to_string()).arg(addr.port().to_string());
    let thief = scene.run(&mut command);
    let expected =
        [Expected::egress(&scene, &thief, addr, "tcp", scene.received(source, receiver)).through(1)];
    scene.expect(&expected);
}
