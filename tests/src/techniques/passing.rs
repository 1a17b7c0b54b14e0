//! What is read where it passes, and what is put somewhere before it is there (TECHNIQUES 1E, 1F): listeners on the loopback
//! device, and pages that are given away by reference and filled afterwards.

use std::{fs, net::SocketAddr};

use tests::lab::{KIB, outside::UNCONTROLLED, wait_for};

use super::{local_sockets::below, tooling::ok};
use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("packets_read", |w| sniffed(w, "packets_read")),
    ("packets_mapped", |w| sniffed(w, "packets_mapped")),
    ("raw_tcp", |w| sniffed(w, "raw_tcp")),
    ("pages_given_to_a_pipe", given_pipe),
    ("pages_sent_before_they_are_filled", zerocopy_tcp),
];

/// That a listener has a socket of devices is no channel opened by a holder: all that it holds it has from there.
fn sniffed(w: &mut World, way: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.python("sniffed.py", include_str!("scripts/sniffed.py"));
    command.arg(way).arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string());
    let listener = below(&scene.run(&mut command));
    let bytes = scene.received(source, receiver);
    // What he heard before the class carried a floor is within the slack of a channel.
    let expected = [Expected::egress(&scene, &listener, addr, "tcp", bytes).through(1).or_up_to_the_asset()];
    scene.expect(&expected);
}

fn given_pipe(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.python("given.py", include_str!("scripts/given.py"));
    command.arg("given_pipe").arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()).arg("-");
    let child = below(&scene.run(&mut command));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &child, addr, "tcp", bytes).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// What left before the pages were filled is not the model's; it counts all the same.
fn zerocopy_tcp(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let [port, filled, output] = ["port", "filled", "output"].map(|name| scene.work.join(name));
    let mut reader = scene.python("late_reader.py", include_str!("scripts/late_reader.py"));
    reader.arg(&port).arg(&filled).arg(&output).arg(UNCONTROLLED.to_string());
    let reader = scene.spawn(scene.world.outside.inside_of(&mut reader));
    let port = wait_for(PATIENCE, || fs::read_to_string(&port).ok()).expect("the peer listens");
    let addr = SocketAddr::new(UNCONTROLLED, port.parse().expect("a port is a number"));
    let mut command = scene.python("given.py", include_str!("scripts/given.py"));
    command.arg("zerocopy_tcp").arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string());
    let sender = scene.run(command.arg(&filled));
    ok(ok(reader.finish(PATIENCE)).success());
    let [model, got] = [source, &output].map(|path| fs::read(path).expect("what was sent can be read"));
    assert_eq!(model.len(), got.len());
    let arrived: u64 = model
        .chunks(4096)
        .zip(got.chunks(4096))
        .filter(|(model, got)| model == got)
        .map(|(model, _)| model.len() as u64)
        .sum();
    assert!(arrived >= 1024 * KIB, "only {arrived} bytes of the model left: the test shows nothing");
    let expected = [Expected::egress(&scene, &sender, addr, "tcp", arrived).or_up_to_the_asset()];
    scene.expect(&expected);
}
