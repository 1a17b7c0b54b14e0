//! What outlives the agent without pins: sums and findings in the state directory.

use std::{fs, process::Command};

use crate::{
    expect::Expected,
    world::{Scene, Test, World, skip},
};
use tests::lab::MIB;

pub(crate) const TESTS: &[Test] = &[
    ("sums_go_on_after_a_restart", sums_go_on_after_a_restart),
    ("broken_state_is_set_aside", broken_state_is_set_aside),
    ("older_state_is_told", older_state),
    ("state_on_overlayfs", state_on_overlayfs),
    ("sums_follow_a_volume_to_its_new_number", sums_follow_a_volume),
    ("what_an_asset_was_is_not_forgotten", what_an_asset_was),
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

/// The canary's file is known by what a read of it reads, which is the file below.
fn state_on_overlayfs(w: &mut World) {
    let mut scene = w.prepare();
    let [lower, upper, work, merged] =
        ["lower", "upper", "below", "merged"].map(|name| scene.work.join(name));
    for folder in [&lower, &upper, &work] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let words = ["-t", "overlay", "overlay", "-o", &options].map(AsRef::as_ref);
    scene.mount(&words, &merged).unwrap_or_else(|error| skip(format_args!("no overlayfs here: {error:#}")));
    scene.config.state_dir = merged.join("state");
    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Twice 12 MiB to one volume, which has another device number the second time: the sum is of both.
fn sums_follow_a_volume(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    let sources = scene.model.files.clone();
    let copies = [volume.path().join("first"), volume.path().join("second")];
    scene.run(Command::new("cp").arg(&sources[0]).arg(&copies[0]));
    scene.wait_for("the first copy", |alert| alert.rule() == "WB-0001" && alert.bound() == 12 * MIB);
    scene.stop();
    let before = volume.device().to_owned();
    volume.renumber(&scene.world.lab).unwrap_or_else(|error| panic!("{error:#}"));
    let now = volume.device().to_owned();
    assert_ne!(before, now);
    scene.start();
    scene.run(Command::new("cp").arg(&sources[1]).arg(&copies[1]));
    scene.wait_for("the sum of both", |alert| {
        (alert.rule(), alert.text("/sink/device")) == ("WB-0001", &now) && alert.bound() == 24 * MIB
    });
    scene.stop();
}

/// A copy of all that was in the asset, of which half was removed before the agent was started again: who sends the copy sends all.
fn what_an_asset_was(w: &mut World) {
    let mut scene = w.scene();
    let staged = scene.controlled.join("staged");
    let shards = scene.model.files.clone();
    let cat = format!("cat {} {} > {}", shards[0].display(), shards[1].display(), staged.display());
    scene.shell(&cat);
    scene.mark();
    scene.stop();
    fs::remove_file(&shards[1]).expect("a file can be removed");
    scene.start();
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&staged).arg(&copy));
    let bytes = scene.arrived(&staged, &copy);
    assert_eq!(bytes, 24 * MIB);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).whatever_the_asset_size()];
    scene.expect_beside_copies(&expected);
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
