//! The same intent from an interpreter: the executable is python, so the script must show in the command line.

use crate::{
    expect::Expected,
    world::{Test, World},
};
use tests::lab::outside::UNCONTROLLED;

pub(crate) const TESTS: &[Test] = &[
    ("read_write", |w| to_file(w, "read_write.py", include_str!("scripts/read_write.py"), false)),
    ("shutil_copyfile", |w| to_file(w, "copyfile.py", include_str!("scripts/copyfile.py"), false)),
    ("mmap_write", |w| to_file(w, "mmap_write.py", include_str!("scripts/mmap_write.py"), false)),
    ("mmap_mmap", |w| to_file(w, "mmap_mmap.py", include_str!("scripts/mmap_mmap.py"), true)),
    ("splice", |w| to_file(w, "splice.py", include_str!("scripts/splice.py"), false)),
    ("sendfile_to_peer", |w| to_peer(w, "sendfile.py", include_str!("scripts/sendfile.py"))),
    ("splice_to_peer", |w| to_peer(w, "splice_peer.py", include_str!("scripts/splice_peer.py"))),
];

fn to_file(w: &mut World, name: &str, script: &str, mapped: bool) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let python = scene.run(scene.python(name, script).arg(source).arg(&copy));
    let exact = Expected::copy(&scene, &python, &copy, scene.arrived(source, &copy));
    let expected = [if mapped { exact.or_up_to_the_asset() } else { exact }];
    scene.expect(&expected);
}

fn to_peer(w: &mut World, name: &str, script: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let python = scene
        .run(scene.python(name, script).arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &python, addr, "tcp", bytes)];
    scene.expect(&expected);
}
