//! Alerts that arrive: the agent's network sinks against a real pair of Alertmanagers and against servers that lie.
//!
//! Whatever is down, slow or wrong: every alert arrives, in its order, and none that the alert log does not hold.

mod alertmanager;
mod drill;
mod fleet;
mod lines;
mod log;
mod prometheus;
mod tokens;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::Value;
use tests::lab::alert::{Alert, findings};

use crate::world::{Scene, Test, size};

pub(crate) const TESTS: &[Test] = &[
    ("pair_fires_escalates_resolves", alertmanager::pair_fires_escalates_resolves),
    ("one_instance_down", alertmanager::one_instance_down),
    ("both_down_for_a_while", alertmanager::both_down_for_a_while),
    ("lying_instance", alertmanager::lying_instance),
    ("wrong_bearer_token", tokens::wrong_bearer_token),
    ("state_disk_is_full", tokens::state_disk_is_full),
    ("webhook", lines::webhook),
    ("journald", lines::journald),
    ("full_disk", lines::full_disk),
    ("sealed_log", log::sealed),
    ("rules_and_example", prometheus::rules_and_example),
    ("metrics", prometheus::metrics),
    ("fleet", fleet::fleet),
    ("drill_reaches_every_sink", drill::drill_reaches_every_sink),
    ("drill_pages_through_a_real_pair", drill::drill_pages_through_a_real_pair),
    ("drill_says_what_does_not_take_it", drill::drill_says_what_does_not_take_it),
];

/// How long an alert stays firing at an instance: longer than the wait and the interval of the lab's Alertmanager.
const HOLD: &str = "6s";
/// A message passes the agent, Alertmanager's groups and its peer; the machine may be busy.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// A rule that is over soon, so that a test sees the end of a finding.
const RULES: &str = "schema: 1
pack: delivery
requires_agent: \">=0.1\"
rules:
  - id: TEST-0001
    revision: 1
    title: Asset copied in a test
    severity: medium
    status: experimental
    mode: alert
    owner: tests
    runbook: docs/runbooks/WB-0001.md
    tags: [attack.t1052.001]
    on: flow
    match: {sink.kind: file, sink.control: uncontrolled}
    aggregate:
      sum: bound
      by: [asset.name, sink.device]
      over: 20s
      tiers:
        - {gte: 1MiB, severity: medium}
        - {gte: 4MiB, severity: high}
    group_by: [asset.name, sink.device]
";

/// Makes the scene's only rule one that is over soon.
fn short_rule(scene: &mut Scene<'_>) {
    let dir = scene.work.join("rules");
    fs::create_dir(&dir).expect("a directory for the rule");
    fs::write(dir.join("delivery.yaml"), RULES).expect("the rule can be written");
    scene.config.rules = vec![dir];
}

/// Copies the first `mib` MiB of a shard to the uncontrolled volume.
fn steal(scene: &Scene<'_>, name: &str, mib: u32) {
    let copy = scene.uncontrolled.join(name);
    let source = scene.model.files[0].display();
    scene.shell(&format!("head -c {} '{source}' > '{}'", mib << 20, copy.display()));
    assert_eq!(size(Path::new(&copy)), u64::from(mib) << 20);
}

/// Waits until the alert log has a line that says `severity` of the asset under test.
fn wait_for_line(scene: &mut Scene<'_>, severity: &str) {
    let came = scene.agent().wait(ARRIVES_WITHIN, |alerts| {
        // What the agent says of itself, such as that the one before it was killed, is high too.
        let says = |alert: &Alert| alert.text("/severity") == severity && alert.rule() != "WB-0010";
        alerts.iter().any(says).then_some(())
    });
    assert!(came.unwrap_or_else(|error| panic!("{error:#}")).is_some(), "no line says {severity}");
}

/// The value, or the test fails with the whole chain of reasons.
fn expect_ok<T>(result: anyhow::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

/// What of an alert's labels matters here: rule, severity, asset.
type Labels = (String, String, String);

fn labels(value: &Value) -> Labels {
    let label = |name: &str| value["labels"][name].as_str().unwrap_or_default().to_owned();
    (label("rule_id"), label("severity"), label("asset"))
}

/// What the alert log says was reached, for each line the severity at that time.
fn reached(lines: &[Alert]) -> BTreeSet<Labels> {
    assert!(!findings(lines).is_empty(), "the log has no finding");
    lines
        .iter()
        .filter(|line| line.alarms())
        .map(|line| (line.rule().to_owned(), line.text("/severity").to_owned(), line.asset().to_owned()))
        .collect()
}
