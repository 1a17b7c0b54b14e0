//! Channels whose bytes nothing counts (TECHNIQUES 1G): that a holder has one is what is told.

use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("packet_socket_of_a_holder", |w| channel(w, "packet", "after", "af_packet", "AF_PACKET")),
    ("packet_socket_before_it_held_anything", |w| channel(w, "packet", "before", "af_packet", "AF_PACKET")),
    ("xdp_socket", |w| channel(w, "xdp", "after", "af_xdp", "AF_XDP")),
    ("tunnel", |w| channel(w, "tun", "after", "tunnel", "/dev/net/tun")),
    ("tunnel_before_it_held_anything", |w| channel(w, "tun", "before", "tunnel", "/dev/net/tun")),
];

fn channel(w: &mut World, kind: &str, order: &str, act: &'static str, target: &str) {
    let scene = w.scene();
    let mut command = scene.python("raw_channel.py", include_str!("scripts/raw_channel.py"));
    let running = scene.spawn(command.args([kind, order]).arg(&scene.model.files[0]));
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    let holder = finished.success().unwrap_or_else(|error| panic!("{error:#}"));
    let expected = [Expected::act(&scene, "WB-0008", act, &holder).to(target)];
    scene.expect(&expected);
}
