//! What people see of a running agent and of what it recorded: `status`, `tail`, `top`, `record`, `replay`; what they make of
//! it is in [`tuning`].

mod tuning;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tests::lab::{
    guard::{Undo, Undoing},
    recording::Recording,
};

use crate::world::{Scene, Test, World};

pub(crate) const TESTS: &[Test] = &[
    ("status_and_top_show_the_copy", status_and_top_show_the_copy),
    ("tail_shows_the_alert", tail_shows_the_alert),
    ("no_agent_answers", no_agent_answers),
    ("recorded_and_replayed", recorded_and_replayed),
    ("a_support_bundle", a_support_bundle),
    ("an_alert_becomes_an_exception", tuning::an_alert_becomes_an_exception),
    ("proposals_are_taken_over", tuning::proposals_are_taken_over),
];

/// A command of the agent's binary with the scene's configuration.
fn command(scene: &Scene<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(&scene.world.binary);
    command.args(words).arg("--config").arg(scene.work.join("weighbridge.yaml"));
    command
}

fn ran(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

/// A process of ours that ends when this is dropped.
struct Looking {
    child: Child,
    _kill: Undoing,
}

impl Looking {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the binary runs");
        Self { _kill: Undoing::new(Undo::Kill(child.id())), child }
    }

    /// The first line of its output, as JSON.
    fn json(&mut self) -> Value {
        let out = self.child.stdout.as_mut().expect("a pipe");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("a line of JSON")
    }
}

/// `weighbridge record`, beside the agent.
fn record(scene: &Scene<'_>) -> Recording {
    let (config, file) = (scene.work.join("weighbridge.yaml"), scene.work.join("day.wbrec"));
    Recording::start(&scene.world.binary, &config, &file, false).unwrap_or_else(|error| panic!("{error:#}"))
}

fn copy(scene: &Scene<'_>) -> u64 {
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(source).arg(&copy));
    scene.arrived(source, &copy)
}

fn status_and_top_show_the_copy(w: &mut World) {
    let mut scene = w.scene();
    let bytes = copy(&scene);
    scene
        .agent()
        .wait(crate::world::ALERT_WITHIN, |alerts| alerts.iter().any(|a| a.rule() == "WB-0001").then_some(()))
        .expect("alerts")
        .expect("WB-0001");
    let status = ran(&mut command(&scene, &["status", "-o", "json"]));
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let top = Looking::start(&mut command(&scene, &["top"])).json();
    for now in [&status, &top] {
        let flows = now["flows"].as_array().expect("flows");
        let flow = flows.iter().find(|flow| flow["control"] == "uncontrolled").expect("the copy");
        assert_eq!(flow["bound"].as_u64(), Some(bytes));
        assert_eq!(flow["to"].as_str().map(Path::new), Some(scene.uncontrolled.join("w").as_path()));
        assert_eq!(now["holders"][0]["taken"].as_u64(), Some(bytes));
        assert_eq!(now["assets"][0]["bytes"].as_u64(), Some(scene.model.bytes));
    }
    scene.stop();
}

fn tail_shows_the_alert(w: &mut World) {
    let mut scene = w.scene();
    let mut tail = Looking::start(&mut command(&scene, &["tail"]));
    // It looks once it is connected; a snapshot that is asked for later is answered later.
    let status = ran(&mut command(&scene, &["status", "-o", "json"]));
    assert_eq!(status.status.code(), Some(0));
    let bytes = copy(&scene);
    let line = tail.json();
    assert_eq!(line["class_uid"], 2004);
    assert!(line["unmapped"]["weighbridge"]["bound_bytes"].as_u64().is_some_and(|bound| bound <= bytes));
    scene.stop();
}

fn no_agent_answers(w: &mut World) {
    let mut scene = w.scene();
    scene.stop();
    for word in ["status", "tail", "top"] {
        let said = ran(&mut command(&scene, &[word]));
        assert_eq!(said.status.code(), Some(5), "{word}");
        assert!(String::from_utf8_lossy(&said.stderr).starts_with("error: no agent answers at "), "{word}");
    }
}

/// Beside the running agent, which raises the same.
fn recorded_and_replayed(w: &mut World) {
    let mut scene = w.scene();
    let recording = record(&scene);
    let bytes = copy(&scene);
    let live = scene.agent().wait(crate::world::ALERT_WITHIN, |alerts| {
        alerts.iter().rev().find(|alert| alert.rule() == "WB-0001" && alert.bound() == bytes).cloned()
    });
    let live = live.expect("alerts").expect("WB-0001");
    let file = recording.stop().expect("a recording");
    let rules = scene.config.rules[0].clone();
    let replay = |extra: &[&Path]| {
        let mut replay = Command::new(&scene.world.binary);
        ran(replay.arg("replay").arg(&file).arg("-o").arg("json").arg("--rules").arg(&rules).args(extra))
    };
    let replayed = replay(&[]);
    assert_eq!(replayed.status.code(), Some(0), "{}", String::from_utf8_lossy(&replayed.stderr));
    let lines: Vec<Value> = String::from_utf8_lossy(&replayed.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let last = lines.iter().rev().find(|line| line["unmapped"]["weighbridge"]["rule"] == "WB-0001");
    let last = &last.expect("WB-0001")["unmapped"]["weighbridge"];
    for field in ["asset", "bound_bytes", "severity", "rules_digest"] {
        assert_eq!(last[field], live.detail()[field], "{field}");
    }
    assert_eq!(last["sink"]["path"], live.detail()["sink"]["path"]);
    assert_eq!(last["process"]["cmdline"], live.detail()["process"]["cmdline"]);
    // The same rules before and after: nothing differs.
    let same = replay(&[Path::new("--baseline"), &rules]);
    assert_eq!(same.status.code(), Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&same.stdout).expect("JSON")["changes"], Value::Array(vec![]));
    scene.stop();
}

/// One file for its owner alone, with what the running agent says and without what was written into command lines and comments;
/// never over another file; and without an agent what there is.
fn a_support_bundle(w: &mut World) {
    const SECRET: &str = "hunter2";
    World::needs("tar");
    let mut scene = w.prepare();
    scene.config.more = format!("# {SECRET}\n");
    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.shell(&format!("cp {} {}; : {SECRET}", source.display(), copy.display()));
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001");
    let bundle = scene.work.join("bundle.tar");
    let write = |scene: &Scene<'_>| ran(command(scene, &["support-bundle", "-o", "json"]).arg(&bundle));
    let made = write(&scene);
    assert_eq!(made.status.code(), Some(0), "{}", String::from_utf8_lossy(&made.stderr));
    let said: Value = serde_json::from_slice(&made.stdout).expect("the report is JSON");
    let missing = |said: &Value| -> Vec<String> {
        let parts = said["parts"].as_array().expect("a list of parts");
        let missing = parts.iter().filter(|part| part.get("missing").is_some());
        // Nothing is logged to a journal here.
        missing
            .filter_map(|part| part["name"].as_str())
            .filter(|name| *name != "journal.txt")
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(missing(&said), [""; 0], "{said}");
    let facts = fs::metadata(&bundle).expect("the bundle is there");
    assert_eq!(facts.permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&bundle).expect("root reads it");
    assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "the secret is in it");
    scene.run(Command::new("tar").arg("-xf").arg(&bundle).arg("-C").arg(&scene.work));
    let part = |name: &str| {
        fs::read_to_string(scene.work.join("weighbridge-support").join(name)).expect("the part is there")
    };
    let json = |name: &str| -> Value { serde_json::from_str(&part(name)).expect("the part is JSON") };
    assert_eq!(json("status.json")["assets"][0]["name"], "llm");
    assert_eq!(json("doctor.json")["schema"], 1);
    assert!(json("versions.json")["kernel"].is_string());
    assert!(json("state.json")["files"].as_array().is_some_and(|files| !files.is_empty()));
    let rules: Vec<Value> = part("alerts.ndjson")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert!(rules.iter().any(|line| line["unmapped"]["weighbridge"]["rule"] == "WB-0001"));
    assert!(part("metrics.prom").lines().any(|line| line.starts_with("weighbridge_")));
    assert!(part("config.yaml").lines().any(|line| line.starts_with("assets:")));
    let again = write(&scene);
    assert_eq!(again.status.code(), Some(4), "it writes over another file");
    assert_eq!(fs::read(&bundle).expect("root reads it"), bytes);
    scene.stop();
    fs::remove_file(&bundle).expect("the bundle can be removed");
    let alone = write(&scene);
    assert_eq!(alone.status.code(), Some(0), "{}", String::from_utf8_lossy(&alone.stderr));
    let said: Value = serde_json::from_slice(&alone.stdout).expect("the report is JSON");
    assert_eq!(missing(&said), ["status.json", "metrics.prom"]);
}
