//! The socket says one address and the call another (TECHNIQUES 1G): what a call names is where its bytes go, and of several names that
//! differ none may speak for the others.

use std::net::SocketAddr;

use tests::lab::{
    outside::{CONTROLLED, Receiver, UNCONTROLLED},
    process::Identity,
};

use super::tooling::ok;
use crate::{
    expect::Expected,
    world::{Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("by_a_connected_socket", by_a_connected_socket),
    ("by_a_connected_raw_socket", by_a_connected_raw_socket),
    ("by_a_header_of_its_own", |w| by_a_header_of_its_own(w, RAW)),
    // A raw socket too, of a protocol whose peers can be listed.
    ("by_a_header_through_a_socket_of_udp", |w| by_a_header_of_its_own(w, UDP)),
    ("by_a_datagram_that_waits", by_a_datagram_that_waits),
    ("by_what_another_let_wait", by_what_another_let_wait),
    ("two_in_one_call", |w| several(w, 2)),
    // The agent compares 32.
    ("more_in_one_call_than_are_compared", |w| several(w, 33)),
];

const ICMP: u8 = 1;
const UDP: u8 = 17;
/// An IP protocol that nobody was given.
const UNASSIGNED: u8 = 253;
const RAW: u8 = 255;
/// Of the script's packets.
const PAYLOAD: u64 = 1400;
const ECHO_HEADER: u64 = 8;

fn by_a_connected_socket(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let thief = send(&scene, "udp", &receiver, 0);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

fn by_a_connected_raw_socket(w: &mut World) {
    let scene = w.scene();
    let bytes = size(&scene.model.files[0]);
    let sent = bytes + bytes.div_ceil(PAYLOAD) * ECHO_HEADER;
    let receiver = ok(scene.world.outside.raw(ICMP, sent));
    let addr = receiver.addr;
    let thief = send(&scene, "raw", &receiver, ICMP.into());
    assert_eq!(ok(receiver.finish()).bytes, sent);
    let expected = [Expected::egress(&scene, &thief, addr, "icmp", bytes)];
    scene.expect(&expected);
}

/// The address in it is not read: what the call names is shown, and does not make it controlled.
fn by_a_header_of_its_own(w: &mut World, protocol: u8) {
    let scene = w.scene();
    let sent = size(&scene.model.files[0]);
    let receiver = ok(scene.world.outside.raw(UNASSIGNED, sent));
    let thief = send(&scene, "header", &receiver, protocol.into());
    assert_eq!(ok(receiver.finish()).bytes, sent);
    let expected = [Expected::egress(&scene, &thief, (CONTROLLED, 0).into(), "raw", sent)];
    scene.expect(&expected);
}

/// All but the first byte of each datagram names an address that is listed, and goes where that byte goes. The very first is told
/// under the name that it has: nothing waited in the socket yet.
fn by_a_datagram_that_waits(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let thief = send(&scene, "corked", &receiver, 0);
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let expected = [Expected::egress(&scene, &thief, unknown, "udp", scene.received(source, receiver) - 1)];
    scene.expect(&expected);
}

/// What passes the loopback device when a socket is uncorked is no send, and hides none.
fn by_what_another_let_wait(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let thief = send(&scene, "uncorked", &receiver, 0);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

/// Only the last of each `number` datagrams goes to an address that nobody listed.
fn several(w: &mut World, number: u32) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let thief = send(&scene, "several", &receiver, number);
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let expected = [Expected::egress(&scene, &thief, unknown, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

/// The first shard, to a receiver, while the socket or other messages name an address that is listed.
fn send(scene: &Scene<'_>, how: &str, receiver: &Receiver, number: u32) -> Identity {
    let mut command = scene.python("named.py", include_str!("scripts/named.py"));
    let (ip, port) = (receiver.addr.ip().to_string(), receiver.addr.port().to_string());
    let words = [how, &ip, &port, &CONTROLLED.to_string(), &number.to_string()];
    command.arg(words[0]).arg(&scene.model.files[0]).args(&words[1..]);
    scene.run(&mut command)
}
