//! From one process of this host to another by anything that is no file and no memory (TECHNIQUES 1E, I04, I06 to I08):
//! sockets of every local kind, queues, keys, attributes and terminals. The receiver is forked before anything is taken, so
//! that only the channel links it to the bytes, and it sends them out.

use tests::lab::{
    outside::UNCONTROLLED,
    process::{Finished, Identity},
};

use super::tooling::ok;
use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("unix_datagram_pair", |w| through(w, "unix_datagram_pair", &["unix", "process", "peer"])),
    ("unix_seqpacket", |w| through(w, "unix_seqpacket", &["unix", "process", "peer"])),
    ("unix_watched", |w| through(w, "unix_watched", &["unix", "process", "peer"])),
    ("unix_datagram_path", |w| through(w, "unix_datagram_path", &["unix", "process", "peer"])),
    ("unix_datagram_abstract", |w| through(w, "unix_datagram_abstract", &["unix", "process", "peer"])),
    ("unix_datagram_connected", |w| through(w, "unix_datagram_connected", &["unix", "process", "peer"])),
    ("unix_datagram_override", |w| through(w, "unix_datagram_override", &["unix", "process", "peer"])),
    ("udp", |w| through(w, "udp", &["peer", "process", "peer"])),
    ("udp_sendmsg", |w| through(w, "udp_sendmsg", &["peer", "process", "peer"])),
    ("udp_connected", |w| through(w, "udp_connected", &["peer", "process", "peer"])),
    ("udp_own_address", |w| through(w, "udp_own_address", &["peer", "process", "peer"])),
    ("udp_any", |w| through(w, "udp_any", &["peer", "process", "peer"])),
    // What goes to all of a network comes back to this host too, past the loopback device.
    ("udp_broadcast", |w| through(w, "udp_broadcast", &["peer", "process", "peer"])),
    ("udp_v6", |w| through(w, "udp_v6", &["peer", "process", "peer"])),
    ("udp_v6_connected", |w| through(w, "udp_v6_connected", &["peer", "process", "peer"])),
    ("tcp_other_loopback", |w| through(w, "tcp_other_loopback", &["peer", "process", "peer"])),
    // By a getsockopt, which no hook of sockets sees.
    ("tcp_that_is_over", tcp_that_is_over),
    ("tcp_zero_copy", |w| through(w, "tcp_zero_copy", &["peer", "process", "peer"])),
    ("tcp_v6", |w| through(w, "tcp_v6", &["peer", "process", "peer"])),
    ("tcp_own_address", |w| through(w, "tcp_own_address", &["peer", "process", "peer"])),
    // The receiver's address is in a network that is listed as controlled: that it is this host must weigh more.
    ("tcp_between_own_addresses", |w| through(w, "tcp_between_own_addresses", &["peer", "process", "peer"])),
    // The receiver splices them into a pipe: they never come to it by a call that receives.
    ("tcp_spliced", |w| through(w, "tcp_spliced", &["peer", "process", "peer"])),
    // To one end an address of IPv4, to the other a mapped one.
    ("tcp_v4_to_v6", |w| through(w, "tcp_v4_to_v6", &["peer", "process", "peer"])),
    ("tcp_between_own_addresses_v6", |w| {
        through(w, "tcp_between_own_addresses_v6", &["peer", "process", "peer"])
    }),
    ("tcp_own_address_v6", |w| through(w, "tcp_own_address_v6", &["peer", "process", "peer"])),
    ("netlink", |w| through(w, "netlink", &["pipe", "process", "peer"])),
    ("posix_queue", |w| through(w, "posix_queue", &["pipe", "process", "peer"])),
    ("system_v_queue", |w| through(w, "system_v_queue", &["pipe", "process", "peer"])),
    // Each key is smaller than the propagation floor.
    ("keys", |w| through(w, "keys", &["pipe", "process", "peer"])),
    ("attributes", |w| through(w, "attributes", &["pipe", "process", "peer"])),
    ("attributes_by_requests", |w| through(w, "attributes_by_requests", &["pipe", "process", "peer"])),
    ("terminal_master", |w| through(w, "terminal_master", &["device", "process", "peer"])),
    ("unix_read_late", unix_read_late),
    ("terminal_slave", |w| through(w, "terminal_slave", &["device", "process", "peer"])),
];

/// After so many nothing is remembered that holds nothing.
const SCANS: usize = 5;

/// `way` are types of nodes that the lineage must lead through.
fn through(w: &mut World, kind: &str, way: &'static [&'static str]) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    // What the other imports.
    scene.python("uring.py", include_str!("scripts/uring.py"));
    let mut command = scene.python("channel.py", include_str!("scripts/channel.py"));
    command.arg(kind).arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()).arg(&scene.work);
    let parent = scene.run(&mut command);
    let bytes = scene.received(source, receiver);
    let relay = below(&parent);
    let mut expected = vec![Expected::egress(&scene, &relay, addr, "tcp", bytes).through(1).passing(way)];
    if kind.starts_with("attributes") {
        // They are stored with a file that was named by its path, or by a request.
        let carrier = scene.work.join("carrier");
        expected.push(Expected::copy(&scene, &parent, &carrier, bytes).whose_file_is_unknown());
    }
    scene.expect(&expected);
}

/// Who put it in has ended, and who will take it out has not: scans for who has what open find nobody who could write into it, and may
/// not forget it for that.
fn unix_read_late(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.python("late.py", include_str!("scripts/late.py"));
    let mut thief = scene.spawn(command.arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()));
    assert_eq!(thief.line().expect("the socket is filled"), "filled");
    for _ in 0..SCANS {
        // A new carrier, for which the agent looks who has it open.
        scene.shell(&format!("cat {} | cat > /dev/null", source.display()));
        scene.settled();
    }
    thief.go().expect("it reads");
    let thief = ok(thief.finish(PATIENCE).and_then(Finished::success));
    let bytes = scene.received(source, receiver);
    let way = &["unix", "process", "peer"];
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes).through(1).passing(way)];
    scene.expect(&expected);
}

/// A child of `parent` that runs the same program.
pub(crate) fn below(parent: &Identity) -> Identity {
    Identity {
        pid: None,
        started: None,
        ancestry: parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect(),
        ..parent.clone()
    }
}

/// A connection that is over has no port of its own any more, and what waits in it can be read.
fn tcp_that_is_over(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("over.py", include_str!("scripts/over.py"));
    let thief = scene.run(command.arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}
