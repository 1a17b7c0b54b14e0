//! Calls of the 32-bit ABI that multiplex (TECHNIQUES 1B, 1G): the sockets of i386 have one call, whose arguments lie in user memory. By a
//! 32-bit program, and by a 64-bit one through the same gate.

use std::{net::IpAddr, path::PathBuf, process::Command};

use tests::lab::{outside::UNCONTROLLED, process::Identity};

use super::{local_sockets::below, tooling::ok, uring::run_on};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("send", |w| sends(w, "-m32", "send")),
    ("sendmsg", |w| sends(w, "-m32", "message")),
    ("receive", |w| receives(w, "-m32", "receive")),
    ("receive_without_a_copy", |w| receives(w, "-m32", "copyless")),
    ("receive_a_descriptor", |w| receives(w, "-m32", "descriptor")),
    ("send_from_64_bits", |w| sends(w, "-m64", "send")),
    ("receive_in_64_bits", |w| receives(w, "-m64", "receive")),
    ("receive_without_a_copy_in_64_bits", |w| receives(w, "-m64", "copyless")),
    ("receive_a_descriptor_in_64_bits", |w| receives(w, "-m64", "descriptor")),
];

/// Builds the program for an address that it may send to.
fn program(scene: &Scene<'_>, bits: &str, (ip, port): (IpAddr, u16)) -> PathBuf {
    World::needs("gcc");
    let IpAddr::V4(ip) = ip else { panic!("{ip} is no IPv4 address") };
    let (text, program) = (scene.work.join("socket32.c"), scene.work.join("socket32"));
    std::fs::write(&text, include_str!("scripts/socket32.c")).expect("a source file can be written");
    let mut gcc = Command::new("gcc");
    gcc.args([
        bits,
        "-O1",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-pie",
        "-no-pie",
        "-fno-stack-protector",
    ]);
    gcc.arg(format!("-DADDRESS={}u", u32::from_ne_bytes(ip.octets())))
        .arg(format!("-DPORT={}", port.to_be()));
    let built = gcc.arg("-o").arg(&program).arg(&text).output().expect("gcc runs");
    if !built.status.success() {
        skip(format_args!("gcc {bits} does not build here: {}", String::from_utf8_lossy(&built.stderr)));
    }
    program
}

fn sends(w: &mut World, bits: &str, way: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let program = program(&scene, bits, (addr.ip(), addr.port()));
    let finished = ok(scene.spawn(Command::new(&program).arg(way).arg(source)).finish(PATIENCE));
    if let Some(signal) = finished.signal {
        skip(format_args!("this kernel makes no 32-bit calls (signal {signal})"));
    }
    let mover = ok(finished.success());
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// The program holds nothing before something comes out of a socket that it has from its parent.
fn receives(w: &mut World, bits: &str, way: &str) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let program = program(&scene, bits, (UNCONTROLLED, 9));
    scene.settled();
    let mut command = scene.python("feed.py", include_str!("scripts/feed.py"));
    let parent = run_on(&scene, command.arg(&program).arg(way).arg(source).arg(&copy));
    let thief = Identity {
        cmdline: Some(format!("{} {way} {}", program.display(), copy.display())),
        exe: program,
        ..below(&parent)
    };
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes).through(1)];
    scene.expect(&expected);
}
