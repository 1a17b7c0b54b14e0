//! `weighbridge drill`: through every sink, marked, and honest about one that takes nothing.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tests::lab::{
    alert::Alert,
    alertmanager::{Alertmanager, Instance, PROGRAM, pair},
    hook::{Hook, Post},
};

use super::{ARRIVES_WITHIN, HOLD, expect_ok};
use crate::world::{Scene, World};

/// Exit code and report.
fn drill(scene: &Scene<'_>, words: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(&scene.world.binary);
    command.args(["drill", "-o", "json", "--config"]).arg(scene.work.join("weighbridge.yaml")).args(words);
    let output = command.stdin(Stdio::null()).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

pub(super) fn drill_reaches_every_sink(w: &mut World) {
    let mut scene = w.prepare();
    let (pager, hook) = (expect_ok(Hook::start()), expect_ok(Hook::start()));
    scene.config.sinks = vec![
        json!({"type": "alertmanager", "urls": [format!("http://{}", pager.addr)]}),
        json!({"type": "webhook", "url": format!("http://{}/in", hook.addr)}),
    ];
    scene.start();
    let (code, report, said) = drill(&scene, &["--severity", "critical"]);
    assert_eq!(code, Some(0), "{said} {report}");
    let finding = report["finding"].as_str().expect("the finding").to_owned();
    let sinks = report["sinks"].as_array().expect("sinks");
    assert_eq!(sinks.len(), 3, "file, Alertmanager, webhook: {report}");
    assert!(sinks.iter().all(|sink| sink["taken"] == true), "{report}");

    // What arrived is marked as what it is, everywhere.
    let alert = |post: &Post| post.body.as_array().and_then(|alerts| alerts.first()).cloned();
    let paged = pager.wait(ARRIVES_WITHIN, |posts| posts.iter().find_map(alert)).expect("the page");
    assert_eq!(paged["labels"]["rule_id"], "WB-0000");
    assert_eq!(paged["labels"]["severity"], "critical");
    assert_eq!(paged["annotations"]["finding"], finding.as_str());
    let summary = paged["annotations"]["summary"].as_str().expect("a summary");
    assert!(summary.contains("this is a drill"), "{summary}");
    let hooked =
        hook.wait(ARRIVES_WITHIN, |posts| posts.first().map(|post| post.body.clone())).expect("the line");
    assert_eq!(hooked["finding_info"]["uid"], finding.as_str());
    assert_eq!(hooked["unmapped"]["weighbridge"]["bound_bytes"], 0);

    // Another one at once is refused: drills must not drown what is real.
    let (code, _, said) = drill(&scene, &[]);
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("try again"), "{said}");
    let lines = scene.stop();
    let of_drill: Vec<_> = lines.iter().filter(|line| line.rule() == "WB-0000").collect();
    assert_eq!(
        of_drill.iter().map(|line| line.activity()).collect::<Vec<_>>(),
        [Some(1), Some(3)],
        "opened and closed"
    );
    assert!(of_drill.iter().all(|line| line.uid() == finding));
    let others: Vec<_> =
        lines.iter().map(Alert::rule).filter(|rule| !["WB-0000", "WB-0011"].contains(rule)).collect();
    assert!(others.is_empty(), "nothing else was said but that it was stopped: {others:?}");
}

/// Through a real pair of Alertmanagers to the receiver behind it, and its end after `hold`: what an operator sees who tries
/// the pager out. What it is told says what to do.
pub(super) fn drill_pages_through_a_real_pair(w: &mut World) {
    World::needs(PROGRAM);
    let mut scene = w.prepare();
    let hook = expect_ok(Hook::start());
    let instances = expect_ok(pair(&scene.work, hook.addr));
    let urls: Vec<String> = instances.iter().map(Instance::url).collect();
    scene.config.sinks = vec![json!({
        "type": "alertmanager", "urls": urls, "resend": "2s", "hold": HOLD, "runbooks": "https://wiki.internal/wb/"
    })];
    let running: Vec<Alertmanager> = instances.iter().map(|instance| expect_ok(instance.start())).collect();
    scene.start();
    let (code, report, said) = drill(&scene, &["--severity", "high"]);
    assert_eq!(code, Some(0), "{said} {report}");
    let finding = report["finding"].as_str().expect("the finding").to_owned();
    let sinks = report["sinks"].as_array().expect("sinks");
    assert_eq!(sinks.len(), 3, "the file and both instances: {report}");
    assert!(sinks.iter().all(|sink| sink["taken"] == true), "{report}");
    for one in &running {
        let held = expect_ok(one.alerts());
        assert!(held.iter().any(|alert| alert["annotations"]["finding"] == finding.as_str()), "{held:?}");
    }

    let page = |state: &str| {
        let of_drill =
            |alert: &&Value| alert["status"] == state && alert["annotations"]["finding"] == finding.as_str();
        let found = hook.wait(ARRIVES_WITHIN, |posts| {
            posts
                .iter()
                .flat_map(|post| post.body["alerts"].as_array().into_iter().flatten())
                .find(of_drill)
                .cloned()
        });
        found.unwrap_or_else(|| {
            panic!("the receiver was not told that the drill is {state}: {:#?}", hook.posts())
        })
    };
    let firing = page("firing");
    assert_eq!(
        (&firing["labels"]["rule_id"], &firing["labels"]["severity"]),
        (&json!("WB-0000"), &json!("high"))
    );
    let text = |name: &str| firing["annotations"][name].as_str().unwrap_or_default().to_owned();
    assert!(text("summary").contains("this is a drill"), "{firing}");
    assert_eq!(text("runbook_url"), "https://wiki.internal/wb/delivery.md");
    assert!(text("action").contains(&format!("`weighbridge explain {finding}`")), "{firing}");
    page("resolved");
    let lines = scene.stop();
    let others: Vec<_> =
        lines.iter().map(Alert::rule).filter(|rule| !["WB-0000", "WB-0011"].contains(rule)).collect();
    assert!(others.is_empty(), "{others:?}");
}

pub(super) fn drill_says_what_does_not_take_it(w: &mut World) {
    let mut scene = w.prepare();
    // Nobody listens there any more.
    let gone = expect_ok(Hook::start()).addr;
    scene.config.sinks = vec![json!({"type": "webhook", "url": format!("http://{gone}/in")})];
    let (code, _, said) = {
        expect_ok(scene.config.write(&scene.work.join("weighbridge.yaml")));
        drill(&scene, &[])
    };
    assert_eq!(code, Some(5), "no agent runs: {said}");
    scene.start();
    let (code, report, said) = drill(&scene, &["--wait", "4s"]);
    assert_eq!(code, Some(1), "{said} {report}");
    let sinks = report["sinks"].as_array().expect("sinks");
    let taken: Vec<&Value> = sinks.iter().map(|sink| &sink["taken"]).collect();
    assert_eq!(taken, [&json!(true), &json!(false)], "the file took it, the webhook did not: {report}");
    let why = sinks[1]["trouble"].as_str().expect("a reason");
    assert!(why.contains("cannot be reached"), "{why}");
    scene.stop();
}
