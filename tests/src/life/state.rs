//! What outlives the agent without pins: sums and findings in the state directory.

use std::{fs, process::Command};

use crate::world::{Scene, Test, World};
use tests::lab::MIB;

pub(crate) const TESTS: &[Test] = &[
    ("sums_go_on_after_a_restart", sums_go_on_after_a_restart),
    ("broken_state_is_set_aside", broken_state_is_set_aside),
    ("older_state_is_told", older_state),
];

/// Twice 12 MiB to one device within the window, with a restart in between: one finding, of both.
fn sums_go_on_after_a_restart(w: &mut World) {
    let mut scene = w.scene();
    let copies = [scene.uncontrolled.join("first"), scene.uncontrolled.join("second")];
    let sources = scene.model.files.clone();
    scene.run(Command::new("cp").arg(&sources[0]).arg(&copies[0]));
    scene.wait_for("the first copy", |alert| alert.rule() == "WB-0001" && alert.bound() == 12 * MIB);
    scene.stop();
    scene.start();
    scene.run(Command::new("cp").arg(&sources[1]).arg(&copies[1]));
    scene.wait_for("the sum of both", |alert| alert.rule() == "WB-0001" && alert.bound() == 24 * MIB);
    let alerts = scene.stop();
    for (source, copy) in sources.iter().zip(&copies) {
        scene.arrived(source, copy);
    }
    scene.check_truth();
    let of_both: Vec<_> = alerts.iter().filter(|alert| alert.rule() == "WB-0001").collect();
    let created = of_both.iter().filter(|alert| alert.activity() == Some(1)).count();
    assert_eq!(created, 1, "one finding is opened once");
    assert!(of_both.windows(2).all(|two| two[0].uid() == two[1].uid()), "it keeps its uid");
}

/// Said, kept for whoever wants to look at it, and the agent detects.
fn broken_state_is_set_aside(w: &mut World) {
    let mut scene = w.prepare();
    fs::create_dir(&scene.config.state_dir).expect("a folder can be made");
    let file = scene.config.state_dir.join("state.redb");
    fs::write(&file, "no database").expect("a file can be written");
    scene.start();
    told(&mut scene, "state.redb.unusable-1");
    let aside = fs::read(file.with_extension("redb.unusable-1")).expect("it is kept");
    assert_eq!(aside, b"no database");
    scene.mark();
    scene.expect_beside_changes(&[]);
}

/// Somebody puts yesterday's state in the place of today's, so that what was said since is not summed.
fn older_state(w: &mut World) {
    let mut scene = w.scene();
    let (file, kept) = (scene.config.state_dir.join("state.redb"), scene.work.join("kept.redb"));
    let sources = scene.model.files.clone();
    let copies = [scene.uncontrolled.join("first"), scene.uncontrolled.join("second")];
    scene.run(Command::new("cp").arg(&sources[0]).arg(&copies[0]));
    scene.wait_for("the first copy", |alert| alert.rule() == "WB-0001" && alert.bound() == 12 * MIB);
    scene.stop();
    fs::copy(&file, &kept).expect("a state can be copied");
    scene.start();
    scene.run(Command::new("cp").arg(&sources[1]).arg(&copies[1]));
    scene.wait_for("the sum of both", |alert| alert.rule() == "WB-0001" && alert.bound() == 24 * MIB);
    scene.stop();
    fs::copy(&kept, &file).expect("a state can be put back");
    scene.start();
    told(&mut scene, "an older state was put in its place");
    scene.stop();
}

fn told(scene: &mut Scene<'_>, words: &str) {
    scene.wait_for(words, |alert| {
        (alert.rule(), alert.text("/act/kind")) == ("WB-0010", "files_changed")
            && alert.text("/act/target").contains(words)
    });
}
