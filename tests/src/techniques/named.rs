//! The socket says one address and the call another (TECHNIQUES 1G): what a call names is where its bytes go, and of several names that
//! differ none may speak for the others.

use std::{net::SocketAddr, process::Command};

use tests::lab::{
    outside::{CONTROLLED, Receiver, UNCONTROLLED},
    process::Identity,
};

use super::tooling::{built, ok};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("by_a_connected_socket", by_a_connected_socket),
    ("by_a_connected_raw_socket", by_a_connected_raw_socket),
    ("by_a_header_of_its_own", |w| by_a_header_of_its_own(w, RAW)),
    // A raw socket too, of a protocol whose peers can be listed.
    ("by_a_header_through_a_socket_of_udp", |w| by_a_header_of_its_own(w, UDP)),
    ("by_a_datagram_that_waits", |w| by_a_datagram_that_waits(w, 1)),
    ("by_an_empty_datagram_that_waits", |w| by_a_datagram_that_waits(w, 0)),
    ("by_a_name_of_no_length", by_a_name_of_no_length),
    ("by_what_another_let_wait", by_what_another_let_wait),
    ("two_in_one_call", |w| several(w, 2)),
    ("without_a_family", without_a_family),
    ("by_requests", |w| by_another_gate(w, "request")),
    ("by_vectors_of_requests", |w| by_another_gate(w, "vectors")),
    ("by_a_call_of_i386", |w| by_another_gate(w, "i386")),
    ("many_by_a_connected_socket", many_by_a_connected_socket),
    ("many_that_name_nobody_are_silent", many_that_name_nobody_are_silent),
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

/// To a socket of IPv4 an address of no family is one of its own.
fn without_a_family(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let thief = send(&scene, "unspecified", &receiver, 0);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

/// Where it is not told what a call names, the peer of its socket does not speak for it.
fn by_another_gate(w: &mut World, how: &str) {
    let scene = w.scene();
    let program = built(&scene, "named", include_str!("scripts/named.c"), &["-O1", "-static", "-no-pie"]);
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let (ip, port) = (receiver.addr.ip().to_string(), receiver.addr.port().to_string());
    let mut command = Command::new(program);
    command.arg(how).arg(source).args([&ip, &port, &CONTROLLED.to_string()]);
    let finished = ok(scene.spawn(&mut command).finish(PATIENCE));
    if let Some(signal) = finished.signal {
        skip(format_args!("this kernel makes no 32-bit calls (signal {signal})"));
    }
    let thief = ok(finished.success());
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let expected = [Expected::egress(&scene, &thief, unknown, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

/// More messages in one call than are compared, each of which names an address that nobody listed.
fn many_by_a_connected_socket(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let thief = send(&scene, "many", &receiver, 33);
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let expected = [Expected::egress(&scene, &thief, unknown, "udp", scene.received(source, receiver))];
    scene.expect(&expected);
}

/// As many, of which none names an address: they go where the socket is connected to, which is listed.
fn many_that_name_nobody_are_silent(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(CONTROLLED, size(source)));
    send(&scene, "unnamed", &receiver, 100);
    scene.received(source, receiver);
    scene.expect_silence();
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

/// All but the first bytes of each datagram name an address that is listed, and go where the first go. The very first are told under
/// the name that they have: nothing waited in the socket yet.
fn by_a_datagram_that_waits(w: &mut World, first: u32) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let thief = send(&scene, "corked", &receiver, first);
    let unknown: SocketAddr = ([0, 0, 0, 0], 0).into();
    let bytes = scene.received(source, receiver) - u64::from(first);
    let expected = [Expected::egress(&scene, &thief, unknown, "udp", bytes)];
    scene.expect(&expected);
}

/// The kernel does not read it, and sends to where the socket is connected to.
fn by_a_name_of_no_length(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let thief = send(&scene, "covered", &receiver, 0);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", scene.received(source, receiver))];
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
