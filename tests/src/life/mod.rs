//! What happens to files and processes around the agent's own life: holders that were there first, files that vanish, are
//! renamed, replaced or grow, the agent's start and end.

pub(crate) mod away;
pub(crate) mod hanging;
pub(crate) mod package;
pub(crate) mod reboot;
pub(crate) mod reload;
pub(crate) mod service;
pub(crate) mod state;
pub(crate) mod waiting;

use std::{fs, process::Command};

use tests::lab::{
    MIB, metrics,
    outside::UNCONTROLLED,
    process::{Finished, Running},
    wait_for,
    weights::safetensors,
};

use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("open_before_the_start", open_before_the_start),
    ("mapped_before_the_start", mapped_before_the_start),
    ("mapped_before_the_start_then_sent", mapped_before_the_start_then_sent),
    ("grows", grows),
    ("grows_while_the_registry_rests", grows_while_the_registry_rests),
    ("replaced", replaced),
    ("vanishes", vanishes),
    ("renamed_shards", renamed_shards),
    ("directory_moved", directory_moved),
    ("endpoints", endpoints),
    ("stops_and_leaves_nothing", stops_and_leaves_nothing),
    ("inventory", inventory),
    ("wrong_rules_change_nothing", reload::wrong_rules_change_nothing),
    ("no_wrong_file_is_taken_over", reload::no_wrong_file_is_taken_over),
    ("a_reload_keeps_what_was_weighed", reload::a_reload_keeps_what_was_weighed),
    ("an_exception_is_written_and_sent_nowhere", reload::an_exception_is_written_and_sent_nowhere),
];

fn open_before_the_start(w: &mut World) {
    held_before(w, "read", None);
}

/// The agent never sees the call that mapped it.
fn mapped_before_the_start(w: &mut World) {
    held_before(w, "mmap", None);
}

fn mapped_before_the_start_then_sent(w: &mut World) {
    held_before(w, "mmap", Some(()));
}

fn held_before(w: &mut World, take: &str, send: Option<()>) {
    let mut scene = w.prepare();
    let source = scene.model.files[0].clone();
    let copy = scene.uncontrolled.join("w");
    let receiver =
        send.map(|()| scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}")));
    let destination = match &receiver {
        Some(receiver) => format!("tcp:{}", receiver.addr),
        None => copy.display().to_string(),
    };
    let mut command = scene.mover(take, "write", &source, &destination);
    let mut mover = scene.spawn(command.arg("--pause"));
    assert_eq!(mover.line().expect("the mover holds"), "holding");
    scene.start();
    let mover = finish(mover);
    let expected = match receiver {
        Some(receiver) => {
            let addr = receiver.addr;
            let bytes = scene.received(&source, receiver);
            [Expected::egress(&scene, &mover, addr, "tcp", bytes)]
        }
        None => [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))],
    };
    scene.expect(&expected);
}

/// A training run appends: the new bytes are the asset's from the first one on.
fn grows(w: &mut World) {
    let mut scene = w.scene();
    let source = scene.model.files[0].clone();
    scene.shell(&format!("head -c 8M /dev/urandom >> {}", source.display()));
    scene.model.bytes += 8 * MIB;
    copied(scene, &source);
}

/// Twice, the second time while the registry rests after the scan that the first one caused: a large asset takes its time.
fn grows_while_the_registry_rests(w: &mut World) {
    let mut scene = w.prepare();
    for name in 0..4000 {
        fs::write(scene.model.dir.join(format!("part-{name}")), b"").expect("a file can be written");
    }
    scene.start();
    let source = scene.model.files[0].clone();
    let grow = |scene: &Scene<'_>| scene.shell(&format!("head -c 4M /dev/urandom >> {}", source.display()));
    let scanned = |scene: &Scene<'_>| {
        metrics::sum(&scene.metrics(), "weighbridge_asset_bytes", &[("asset", "llm")]).expect("a size")
    };
    let before = scanned(&scene);
    grow(&scene);
    let grown = before + (4 * MIB) as f64;
    assert!(wait_for(PATIENCE, || (scanned(&scene) == grown).then_some(())).is_some(), "growth is not seen");
    grow(&scene);
    scene.model.bytes += 8 * MIB;
    copied(scene, &source);
}

/// Written beside and renamed over: another inode under the old name.
fn replaced(w: &mut World) {
    let mut scene = w.scene();
    let source = scene.model.files[0].clone();
    let beside = scene.model.dir.join(".new");
    safetensors(&beside, 20 * MIB, 12).expect("a file can be made");
    fs::rename(&beside, &source).expect("a file can be replaced");
    scene.model.bytes += 8 * MIB;
    copied(scene, &source);
}

/// One shard is removed; the other is still the asset's and the agent still runs.
fn vanishes(w: &mut World) {
    let scene = w.scene();
    fs::remove_file(&scene.model.files[0]).expect("a file can be removed");
    let (source, copy) = (&scene.model.files[1], scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).whatever_the_asset_size()];
    scene.expect(&expected);
}

fn renamed_shards(w: &mut World) {
    let scene = w.scene();
    let name = scene.model.dir.join("renamed");
    fs::rename(&scene.model.files[0], &name).expect("a file can be renamed");
    copied(scene, &name);
}

/// The protected directory itself gets another name: what lies in it, and what is made in it later, stays protected.
fn directory_moved(w: &mut World) {
    let mut scene = w.scene();
    let moved = scene.controlled.join("elsewhere");
    fs::rename(&scene.model.dir, &moved).expect("a directory can be moved");
    let late = moved.join("late.safetensors");
    safetensors(&late, 5 * MIB, 13).expect("a file can be made");
    scene.model.bytes += 5 * MIB;
    let (source, copy) = (late, scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).whatever_the_asset_size()];
    scene.expect(&expected);
}

fn endpoints(w: &mut World) {
    let mut scene = w.scene();
    for path in ["/healthz", "/readyz"] {
        let (status, _) = scene.agent().get(path).unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert_eq!(status, 200, "{path}");
    }
    let (status, _) = scene.agent().get("/nothing").expect("an answer");
    assert_eq!(status, 404);
    let before = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
    assert!(!before.is_empty(), "no metrics");
    scene.mark();
    let after = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
    // Something counted the marker's copy: some counter of its asset grew by all of its bytes.
    let of_marker = |samples: &[metrics::Sample]| -> f64 {
        let values =
            samples.iter().filter(|sample| sample.labels.get("asset").is_some_and(|asset| asset == "marker"));
        values.map(|sample| sample.value).fold(0.0, f64::max)
    };
    assert!(of_marker(&after) >= MIB as f64, "no metric of asset marker counts {MIB} bytes");
    scene.stop();
}

/// `pin: false` leaves nothing behind; the port is free again; a second start works at once.
fn stops_and_leaves_nothing(w: &mut World) {
    let mut scene = w.scene();
    scene.stop();
    assert!(!std::path::Path::new("/sys/fs/bpf/weighbridge").exists(), "pins are left behind");
    scene.start();
    scene.expect_silence();
}

/// The registry of every protected file, which needs no running agent.
fn inventory(w: &mut World) {
    let mut scene = w.scene();
    scene.stop();
    let list = Command::new(&scene.world.binary)
        .args(["inventory", "-o", "json", "--config"])
        .arg(scene.work.join("weighbridge.yaml"))
        .output()
        .expect("the agent runs");
    let said = String::from_utf8_lossy(&list.stderr).into_owned();
    assert_eq!(list.status.code(), Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&list.stdout).expect("inventory is JSON");
    let mut rows = Vec::new();
    objects_with(&report, "path", &mut rows);
    for file in &scene.model.files {
        let row = rows.iter().find(|row| row["path"].as_str().map(std::path::Path::new) == Some(file));
        let row = row.unwrap_or_else(|| panic!("{} is not in the inventory", file.display()));
        assert_eq!(row["asset"], "llm");
        let bytes = row["size"].as_u64().or_else(|| row["bytes"].as_u64());
        assert_eq!(bytes, Some(size(file)));
        assert_eq!(row["format"], "safetensors");
        assert_eq!(row["device"], scene.world.controlled.device());
    }
}

/// Every object of a report that has this key.
fn objects_with<'v>(value: &'v serde_json::Value, key: &str, found: &mut Vec<&'v serde_json::Value>) {
    if value.get(key).is_some() {
        found.push(value);
    }
    match value {
        serde_json::Value::Array(items) => items.iter().for_each(|item| objects_with(item, key, found)),
        serde_json::Value::Object(fields) => fields.values().for_each(|item| objects_with(item, key, found)),
        _ => {}
    }
}

fn copied(scene: Scene<'_>, source: &std::path::Path) {
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

fn finish(mut mover: Running) -> tests::lab::process::Identity {
    mover.go().expect("the mover goes on");
    mover.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
}
