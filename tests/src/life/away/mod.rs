//! The agent is away and the kernel weighs on (`pin: true`): killed, stopped, and come back. Who may take over is in `successors`.

mod successors;

use std::{fs, path::Path, process::Command};

use tests::lab::{
    MIB, metrics,
    process::{Finished, Identity, Running},
};

use crate::{
    expect::Expected,
    world::{ASSET, PATIENCE, Scene, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("killed_in_the_middle_of_a_copy", killed_in_the_middle_of_a_copy),
    ("killed_in_the_middle_of_sending", killed_in_the_middle_of_sending),
    ("all_of_it_while_away", all_of_it_while_away),
    ("stopped_in_the_middle_of_a_copy", stopped_in_the_middle_of_a_copy),
    ("says_nothing_again", says_nothing_again),
    ("copy_of_a_copy", copy_of_a_copy),
    ("child_of_a_parent_that_is_gone", child_of_a_parent_that_is_gone),
    ("killed_again_and_again", killed_again_and_again),
    ("other_programs_take_over", successors::other_programs_take_over),
    ("started_by_a_holder", successors::started_by_a_holder),
    ("pid_of_the_agent_reused", successors::pid_of_the_agent_reused),
    ("check_is_no_agent", successors::check_is_no_agent),
    ("another_asset_is_added", successors::another_asset_is_added),
    ("another_asset_list_is_refused", successors::another_asset_list_is_refused),
    ("a_link_was_removed", successors::a_link_was_removed),
    ("pin_false_takes_over_and_leaves_nothing", successors::pin_false_takes_over_and_leaves_nothing),
    ("unload", successors::unload),
];

fn pinned(w: &mut World) -> Scene<'_> {
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.start();
    scene
}

/// A mover that has put 4 of 12 MiB and waits.
fn half_copied(scene: &Scene<'_>, source: &Path, destination: &str) -> Running {
    let mut command = scene.mover("read", "write", source, destination);
    let mut mover = scene.spawn(command.args(["--pause-at", "4194304"]));
    assert_eq!(mover.line().expect("the mover moves"), "halfway");
    mover
}

fn finish(mut mover: Running) -> Identity {
    mover.go().expect("the mover goes on");
    mover.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The copy ends, and with it its process, while nobody drains; it is one finding, complete, by who it was.
fn killed_in_the_middle_of_a_copy(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mover = half_copied(&scene, &source, &copy.display().to_string());
    scene.wait_for("the first half", |alert| alert.rule() == "WB-0001" && alert.bound() == 4 * MIB);
    scene.kill();
    let mover = finish(mover);
    scene.start();
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

fn killed_in_the_middle_of_sending(w: &mut World) {
    let mut scene = pinned(w);
    let source = scene.model.files[0].clone();
    let receiver = scene
        .world
        .outside
        .tcp(tests::lab::outside::UNCONTROLLED)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mover = half_copied(&scene, &source, &format!("tcp:{addr}"));
    scene.kill();
    let mover = finish(mover);
    scene.start();
    let bytes = scene.received(&source, receiver);
    let expected = [Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// The process came and went while no agent ran: who it was is known nevertheless.
fn all_of_it_while_away(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.kill();
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    scene.start();
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

fn stopped_in_the_middle_of_a_copy(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mover = half_copied(&scene, &source, &copy.display().to_string());
    scene.wait_for("the first half", |alert| alert.rule() == "WB-0001");
    scene.stop();
    let mover = finish(mover);
    scene.start();
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// What was told before is not told again, by whatever end: the finding has its one Create.
fn says_nothing_again(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mover = half_copied(&scene, &source, &copy.display().to_string());
    scene.wait_for("the first half", |alert| alert.rule() == "WB-0001" && alert.bound() == 4 * MIB);
    committed(&mut scene);
    let before = lines(&mut scene);
    scene.kill();
    scene.start();
    scene.mark();
    assert_eq!(lines(&mut scene), before, "a line was written for nothing");
    scene.stop();
    scene.start();
    scene.mark();
    assert_eq!(lines(&mut scene), before, "a line was written for nothing");
    let mover = finish(mover);
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// The first copier and its rows are gone when the agent is killed; what its copy holds is not forgotten.
fn copy_of_a_copy(w: &mut World) {
    let mut scene = pinned(w);
    let (source, staged) = (scene.model.files[0].clone(), scene.controlled.join("staged"));
    scene.run(Command::new("cp").arg(&source).arg(&staged));
    scene.mark();
    committed(&mut scene);
    scene.kill();
    scene.start();
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&staged).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    // Staging an unregistered copy on the controlled volume is worth a low alert of its own.
    scene.expect_beside_copies(&expected);
}

/// A shell takes 12 MiB into its memory and forks; it ends, and the child sends after the agent was killed.
fn child_of_a_parent_that_is_gone(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let text = "import os, sys, time\n\
                data = open(sys.argv[1], 'rb').read()\n\
                if os.fork():\n    os._exit(0)\n\
                go = open(sys.argv[2], 'rb').read()\n\
                with open(sys.argv[3], 'wb') as out:\n    out.write(data)\n";
    let fifo = scene.work.join("go");
    scene.shell(&format!("mkfifo {}", fifo.display()));
    // Its outputs stay open in the child: they must not be waited for.
    let python = scene.python("orphan.py", text).get_program().to_owned();
    let script = scene.work.join("orphan.py");
    let places = [&script, &source, &fifo, &copy].map(|path| path.display().to_string());
    let [script, model, go, to] = &places;
    scene.shell(&format!("{} {script} {model} {go} {to} </dev/null >/dev/null 2>&1", python.display()));
    scene.mark();
    committed(&mut scene);
    scene.kill();
    scene.start();
    scene.shell(&format!("echo > {go}"));
    let bytes = fs::metadata(&source).expect("the source is there").len();
    scene.wait_for("the child's copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    let alerts = scene.stop();
    scene.arrived(&source, &copy);
    scene.check_truth();
    let of_asset = alerts.iter().filter(|alert| alert.asset() == ASSET && alert.rule() == "WB-0001");
    assert!(of_asset.clone().all(|alert| alert.bound() <= bytes));
}

/// Wherever a kill comes: nothing lost, and the bound never more than the truth and one look's growth.
fn killed_again_and_again(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mut command = scene.mover("read", "write", &source, &copy.display().to_string());
    let mover = scene.spawn(command.args(["--chunk", "16384"]));
    for _ in 0..4 {
        scene.kill();
        scene.start();
    }
    let mover =
        mover.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Lines about the asset under test.
fn lines(scene: &mut Scene<'_>) -> usize {
    let alerts = scene.agent().alerts().unwrap_or_else(|error| panic!("{error:#}"));
    alerts.iter().filter(|alert| alert.asset() == ASSET && alert.alarms()).count()
}

/// Waits until what was said so far is kept: two more checkpoints than there were.
pub(super) fn committed(scene: &mut Scene<'_>) {
    let count = |scene: &mut Scene<'_>| {
        let samples = scene.agent().metrics().unwrap_or_else(|error| panic!("{error:#}"));
        metrics::sum(&samples, "weighbridge_checkpoints_total", &[]).expect("checkpoints are counted")
    };
    let before = count(scene);
    let kept = tests::lab::wait_for(PATIENCE, || (count(scene) >= before + 2.0).then_some(()));
    assert!(kept.is_some(), "nothing was kept within {PATIENCE:?}");
}
