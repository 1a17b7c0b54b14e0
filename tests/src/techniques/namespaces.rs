//! Ways past what the loopback device shows: a relay in another network namespace of the host, a process that serves a network
//! device, and a socket that gives back what was sent through it. The one who puts is forked before anything is taken.

use std::{path::Path, process::Command};

use tests::lab::KIB;

use super::local_sockets::below;
use crate::{
    expect::Expected,
    world::{Scene, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("tcp", |w| relayed(w, "tcp")),
    ("tcp_accepted", |w| relayed(w, "tcp_accepted")),
    // Of a connection whose other end comes to be with the first bytes, to an address that nobody was known to have.
    ("tcp_deferred", |w| relayed(w, "tcp_deferred")),
    ("tcp_v6", |w| relayed(w, "tcp_v6")),
    ("tcp_older", tcp_older),
    ("udp", |w| relayed(w, "udp")),
    ("udp_fragments", |w| relayed(w, "udp_fragments")),
    ("udp_v6", |w| relayed(w, "udp_v6")),
    ("udp_fragments_v6", |w| relayed(w, "udp_fragments_v6")),
    ("error_queue", |w| returned(w, "stamps")),
    ("send_queue", |w| returned(w, "repair")),
    ("tun", |w| tun(w, "unconnected")),
    ("tun_connected", |w| tun(w, "connected")),
];

fn relay(scene: &Scene<'_>, kind: &str, copy: &Path) -> Command {
    let mut command = scene.python("namespaces.py", include_str!("scripts/namespaces.py"));
    let source = &scene.model.files[0];
    command.arg(kind).arg(scene.world.outside.path()).arg(source).arg(copy).arg(scene.work.join("go"));
    command
}

/// To an address that is listed as controlled, which a process of this host has.
fn relayed(w: &mut World, kind: &str) {
    let mut scene = w.prepare();
    scene.config.networks.push("2001:db8::/64".to_owned());
    scene.start();
    scene.settled();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let parent = scene.run(&mut relay(&scene, kind, &copy));
    let expected = Expected::copy(&scene, &below(&parent), &copy, scene.arrived(source, &copy));
    scene.expect(&[expected.through(1).passing(&["peer", "process", "file"])]);
}

/// The connection is older than the agent.
fn tcp_older(w: &mut World) {
    let mut scene = w.prepare();
    let (source, copy, go) =
        (scene.model.files[0].clone(), scene.uncontrolled.join("w"), scene.work.join("go"));
    tests::lab::run(Command::new("mkfifo").arg(&go)).expect("a FIFO can be made");
    let mut running = scene.spawn(&mut relay(&scene, "tcp_older", &copy));
    assert_eq!(running.line().unwrap_or_else(|error| panic!("{error:#}")), "ready");
    scene.start();
    scene.settled();
    std::fs::write(&go, b"").expect("the FIFO can be opened");
    let parent = running
        .finish(crate::world::PATIENCE)
        .and_then(tests::lab::process::Finished::success)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let expected = Expected::copy(&scene, &below(&parent), &copy, scene.arrived(&source, &copy));
    scene.expect(&[expected.through(1).passing(&["peer", "process", "file"])]);
}

/// What a process sent comes back out of the socket to another one that shares it.
fn returned(w: &mut World, kind: &str) {
    let scene = w.scene();
    scene.settled();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("returned.py", include_str!("scripts/returned.py"));
    let parent = scene.run(command.arg(kind).arg(source).arg(&copy));
    let expected = Expected::copy(&scene, &below(&parent), &copy, scene.arrived(source, &copy));
    scene.expect(&[expected.through(1).passing(&["peer", "process", "file"])]);
}

/// To an address that is listed as controlled, behind a device that a process serves.
fn tun(w: &mut World, how: &str) {
    if !Path::new("/dev/net/tun").exists() {
        crate::world::skip("this kernel has no tun");
    }
    let scene = w.scene();
    scene.settled();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("tunnel.py", include_str!("scripts/tunnel.py"));
    let parent = scene.run(command.arg(source).arg(&copy).arg(how));
    let bytes = scene.arrived(source, &copy);
    // What went in before it was as much as the floor is not followed.
    let server = below(&parent);
    let copied = Expected::copy(&scene, &server, &copy, bytes).between(bytes - 65 * KIB, bytes);
    let act = Expected::act(&scene, "WB-0008", "tunnel", &server).to("/dev/net/tun");
    scene.expect(&[copied.through(1).passing(&["peer", "process", "file"]), act]);
}
