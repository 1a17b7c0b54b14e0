//! Odd places of the kernel that give back what they were given, as an insider finds them who read the source: each takes
//! megabytes in a call. The one who puts is forked before anything is taken.

use super::local_sockets::below;
use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    // A process says where its environment lies.
    ("environ", |w| through(w, "environ")),
    ("btf", |w| through(w, "btf")),
    ("program", |w| through(w, "program")),
];

fn through(w: &mut World, kind: &str) {
    let scene = w.scene();
    scene.settled();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("insider.py", include_str!("scripts/insider.py"));
    let finished = scene.spawn(command.arg(kind).arg(source).arg(&copy)).finish(PATIENCE);
    let finished = finished.unwrap_or_else(|error| panic!("{error:#}"));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    let parent = finished.success().unwrap_or_else(|error| panic!("{error:#}"));
    let child = below(&parent);
    let mut expected = vec![Expected::copy(&scene, &child, &copy, scene.arrived(source, &copy))];
    if kind == "environ" {
        expected.push(Expected::act(&scene, "WB-0006", "proc_mem", &child).of_victim(&parent));
    }
    scene.expect(&expected);
}
