//! What the operator gets wrong or the host runs out of while the agent delivers: said in status, metric and log, and nothing
//! is lost by it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tests::lab::{
    hook::{Hook, Manner},
    metrics, wait_for,
};

use super::{ARRIVES_WITHIN, HOLD, Labels, expect_ok, labels, reached, short_rule, steal, wait_for_line};
use crate::world::{Scene, World};

/// What `weighbridge status` says of the network sink: its row, once `is_it` says that it is the one.
fn sink_row(scene: &Scene<'_>, is_it: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = wait_for(ARRIVES_WITHIN, || {
        let mut command = Command::new(&scene.world.binary);
        command.args(["status", "-o", "json", "--config"]).arg(scene.work.join("weighbridge.yaml"));
        let output = command.stdin(Stdio::null()).output().expect("the binary runs");
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let is_network = |row: &&Value| row["name"].as_str().is_some_and(|name| !name.starts_with("file "));
        last = status["sinks"].as_array()?.iter().find(is_network)?.clone();
        is_it(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|| panic!("the status does not say so: {last}"))
}

fn trouble(row: &Value) -> &str {
    row["trouble"].as_str().unwrap_or_default()
}

fn of_alertmanager(scene: &mut Scene<'_>) -> [Option<f64>; 3] {
    let samples = expect_ok(scene.agent().metrics());
    ["weighbridge_sink_failing", "weighbridge_sink_backlog", "weighbridge_sink_sent_total"]
        .map(|name| metrics::sum(&samples, name, &[("sink", "alertmanager")]))
}

/// What the instance took.
fn taken(hook: &Hook) -> BTreeSet<Labels> {
    let posts = hook.posts();
    let taken = posts.iter().filter(|post| post.manner == Manner::Status(200));
    taken.flat_map(|post| post.body.as_array().into_iter().flatten()).map(labels).collect()
}

/// A token that the instance does not take, then one that cannot be read, then the right one, without a restart.
pub(super) fn wrong_bearer_token(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let strict = expect_ok(Hook::start());
    strict.require("right");
    let token = scene.work.join("token");
    let put = |text: &str| {
        fs::write(&token, text).expect("a token can be written");
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("and kept");
    };
    put("wrong\n");
    scene.config.sinks = vec![json!({
        "type": "alertmanager", "urls": [format!("http://{}", strict.addr)], "bearer_token": {"file": token},
        "resend": "2s", "hold": HOLD
    })];
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    let row = sink_row(&scene, |row| trouble(row).contains("401"));
    assert!(trouble(&row).contains("`bearer_token`"), "what to look at is not named: {row}");
    assert_eq!(row["sent"], json!(0));
    let said = wait_for(ARRIVES_WITHIN, || {
        let [failing, backlog, sent] = of_alertmanager(&mut scene);
        (failing == Some(1.0) && backlog >= Some(1.0) && sent == Some(0.0)).then_some(())
    });
    assert!(said.is_some(), "the metrics do not say so: {:?}", of_alertmanager(&mut scene));
    let logged = scene.agent().stderr();
    assert!(logged.lines().any(|line| line.contains("ERROR") && line.contains("401")), "{logged}");
    for secret in ["wrong", "right"] {
        assert!(!logged.contains(secret), "the log shows a token");
    }

    fs::remove_file(&token).expect("the token can be removed");
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    sink_row(&scene, |row| trouble(row).contains(&token.display().to_string()));

    put("right\n");
    sink_row(&scene, |row| trouble(row).is_empty() && row["waiting"] == json!(0));
    let lines = scene.stop();
    assert!(taken(&strict).is_superset(&reached(&lines)), "{:?} of {:?}", taken(&strict), reached(&lines));
}

/// No page is left where the spools lie: what waited there and what comes is delivered all the same.
pub(super) fn state_disk_is_full(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let state = scene.work.join("small");
    expect_ok(scene.mount(&["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"].map(AsRef::as_ref), &state));
    scene.config.state_dir = state.join("state");
    let place = expect_ok(Hook::start());
    // Down for as long as it takes to wait on the disk.
    place.require("nobody has it");
    scene.config.sinks = vec![json!({
        "type": "alertmanager", "urls": [format!("http://{}", place.addr)], "resend": "2s", "hold": HOLD
    })];
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    sink_row(&scene, |row| row["waiting"] == json!(1));
    let filler = state.join("filler");
    let full = fs::write(&filler, vec![b'x'; 32 << 20]).expect_err("the disk is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    sink_row(&scene, |row| row["waiting"].as_u64() >= Some(2));
    place.open();
    let arrived = wait_for(ARRIVES_WITHIN, || {
        let severities: BTreeSet<String> = taken(&place)
            .into_iter()
            .filter(|(rule, ..)| rule == "TEST-0001")
            .map(|(_, severity, _)| severity)
            .collect();
        (severities.len() == 2).then_some(())
    });
    assert!(arrived.is_some(), "{:?}\n{}", taken(&place), scene.agent().stderr());
    fs::remove_file(&filler).expect("the filler goes");
    sink_row(&scene, |row| trouble(row).is_empty());
    let lines = scene.stop();
    assert!(taken(&place).is_superset(&reached(&lines)), "{:?} of {:?}", taken(&place), reached(&lines));
}
