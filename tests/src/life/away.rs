//! The agent is away and the kernel weighs on (`pin: true`): killed, stopped, replaced, and come back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::lab::{
    BPFFS, MIB, metrics,
    process::{Finished, Identity, Running},
    weights::Weights,
};

use crate::{
    expect::Expected,
    world::{ASSET, PATIENCE, Scene, Test, World, skip},
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
    ("other_programs_take_over", other_programs_take_over),
    ("started_by_a_holder", started_by_a_holder),
    ("pid_of_the_agent_reused", pid_of_the_agent_reused),
    ("check_is_no_agent", check_is_no_agent),
    ("another_asset_is_added", another_asset_is_added),
    ("another_asset_list_is_refused", another_asset_list_is_refused),
    ("a_link_was_removed", a_link_was_removed),
    ("pin_false_takes_over_and_leaves_nothing", pin_false_takes_over_and_leaves_nothing),
    ("unload", unload),
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

/// Reads some of a model, and then executes the agent: while an earlier one's programs weigh it is a holder's image until it says who
/// it is.
const READER: &str = "import os, sys
open('SOURCE', 'rb').read(4 << 20)
os.execv(sys.argv[1], sys.argv[1:])
";

/// The next agent is no holder for that, and its log no copy: who ships that is charged with nothing.
fn started_by_a_holder(w: &mut World) {
    let mut scene = pinned(w);
    let source = scene.model.files[0].clone();
    scene.kill();
    let script = scene.work.join("reader.py");
    let text = READER.replace("SOURCE", &source.display().to_string());
    fs::write(&script, text).expect("a script can be written");
    scene.config.start.launcher = vec![World::python(), script];
    scene.start();
    let shipped = fs::File::create(scene.uncontrolled.join("log")).expect("a file");
    let cat = scene.run(Command::new("cat").arg(&scene.config.alerts).stdout(shipped));
    // What comes after it is told after it.
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    let mut status = Command::new(&scene.world.binary);
    status.args(["status", "-o", "json", "--config"]).arg(scene.work.join("weighbridge.yaml"));
    let status = status.output().expect("the binary runs");
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let holders = status["holders"].as_array().expect("holders");
    // Of the process that became the agent only the image before holds something.
    let programs: Vec<&str> = holders.iter().filter_map(|holder| holder["exe"].as_str()).collect();
    assert_eq!(programs.len(), 2, "{holders:?}");
    assert!(holders.iter().any(|holder| holder["pid"].as_u64() == cp.pid.map(u64::from)), "{holders:?}");
    assert!(!programs.iter().any(|exe| Path::new(exe) == scene.world.binary || Path::new(exe) == cat.exe));
    let expected = [Expected::copy(&scene, &cp, &copy, bytes)];
    scene.expect(&expected);
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

/// An upgrade: programs of another making replace those that run, while a copy goes on.
fn other_programs_take_over(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mover = half_copied(&scene, &source, &copy.display().to_string());
    scene.wait_for("the first half", |alert| alert.rule() == "WB-0001" && alert.bound() == 4 * MIB);
    scene.kill();
    // Patched into the programs, so these are others.
    scene.config.more = "propagation_floor: 65KiB\n".to_owned();
    scene.start();
    let said = scene.agent().stderr();
    assert!(said.contains("replaced=true"), "the programs were not replaced:\n{said}");
    let mover = finish(mover);
    // The kernel lets go of the old programs later than it is told, within a second or so: until then both count.
    let copied = Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy));
    let expected = [copied.or_up_to_the_asset()];
    scene.expect(&expected);
}

/// Nobody is exempt for having the id that the agent had.
fn pid_of_the_agent_reused(w: &mut World) {
    const TRIES: usize = 200;
    let mut scene = pinned(w);
    let pid = scene.agent().pid();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.kill();
    let hint = Path::new("/proc/sys/kernel/ns_last_pid");
    if fs::OpenOptions::new().write(true).open(hint).is_err() {
        skip("needs a kernel that lets root choose the next pid (CONFIG_CHECKPOINT_RESTORE)");
    }
    let mut reused = None;
    for _ in 0..TRIES {
        fs::write(hint, (pid - 1).to_string()).expect("the next pid can be chosen");
        let mut command = scene.mover("read", "write", &source, &copy.display().to_string());
        let mut mover = scene.spawn(command.arg("--pause"));
        assert_eq!(mover.line().expect("the mover holds"), "holding");
        if mover.identity.pid == Some(pid) {
            reused = Some(mover);
            break;
        }
    }
    let Some(mover) = reused else { skip("somebody else took the pid each time") };
    let mover = finish(mover);
    scene.start();
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Only who holds the lock is the agent, and the agent that reads the assets at its start is no holder.
fn check_is_no_agent(w: &mut World) {
    let mut scene = pinned(w);
    let second = tool(&scene, &["run"]);
    assert_eq!(second.code, Some(4), "{}", second.stderr);
    scene.kill();
    scene.start();
    scene.expect_silence();
}

/// Whoever had the new asset open before is a holder of it, and what was weighed goes on.
fn another_asset_is_added(w: &mut World) {
    let mut scene = pinned(w);
    let more =
        Weights::safetensors(&scene.controlled.join("more"), 1, 6 * MIB, 4711).expect("a model can be made");
    let late = scene.uncontrolled.join("late");
    let mut command = scene.mover("read", "write", &more.files[0], &late.display().to_string());
    let mut mover = scene.spawn(command.arg("--pause"));
    assert_eq!(mover.line().expect("the mover holds"), "holding");
    scene.stop();
    scene.config.assets.push(tests::lab::agent::AssetConfig {
        name: "more".to_owned(),
        path: more.dir.clone(),
        readers: Vec::new(),
    });
    scene.start();
    let mover = finish(mover);
    let bytes = scene.arrived(&more.files[0], &late);
    let expected = [Expected::copy(&scene, &mover, &late, bytes).of("more", more.bytes)];
    scene.expect(&expected);
}

/// An index would mean another asset: said, with the way out, and nothing is touched until then.
fn another_asset_list_is_refused(w: &mut World) {
    let mut scene = pinned(w);
    scene.stop();
    scene.config.assets.swap(0, 1);
    scene.config.write(&scene.work.join("weighbridge.yaml")).expect("a configuration can be written");
    let refused = tool(&scene, &["run"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    for word in ["asset 0", ASSET, "weighbridge unload"] {
        assert!(refused.stderr.contains(word), "{word} is not named:\n{}", refused.stderr);
    }
    assert!(!pins().is_empty(), "the pins are gone");
    let removed = tool(&scene, &["unload"]);
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    scene.start();
    scene.expect_silence();
}

/// Somebody detached a hook while no agent ran: it is attached again, and said.
fn a_link_was_removed(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.kill();
    let link = pins().into_iter().find(|path| path.ends_with("link_sys_exit")).expect("the link is pinned");
    fs::remove_file(link).expect("root can remove a pin");
    scene.start();
    let said = scene.agent().stderr();
    assert!(said.contains("detached while no agent ran"), "nothing is said:\n{said}");
    let cp = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

fn pin_false_takes_over_and_leaves_nothing(w: &mut World) {
    let mut scene = pinned(w);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mover = half_copied(&scene, &source, &copy.display().to_string());
    scene.kill();
    scene.config.pin = false;
    scene.start();
    assert_eq!(pins(), Vec::<PathBuf>::new());
    let mover = finish(mover);
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Refused while the agent runs; afterwards nothing is left, and it says what was there.
fn unload(w: &mut World) {
    let mut scene = pinned(w);
    let refused = tool(&scene, &["unload"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(!pins().is_empty(), "the pins of a running agent are gone");
    scene.stop();
    let were = pins();
    let links = were.iter().filter(|path| path.display().to_string().contains("/link_")).count();
    assert!(links >= 4, "links are not pinned: {were:?}");
    let removed = tool(&scene, &["unload", "-o", "json"]);
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    let report: Value = serde_json::from_str(&removed.stdout).expect("the report is JSON");
    assert_eq!(report["removed"][0]["pins"].as_array().map(Vec::len), Some(were.len()));
    assert!(!Path::new(BPFFS).join("weighbridge").exists(), "something is left");
    let again = tool(&scene, &["unload", "-o", "json"]);
    let report: Value = serde_json::from_str(&again.stdout).expect("the report is JSON");
    assert_eq!((again.code, report["removed"].as_array().map(Vec::len)), (Some(0), Some(0)));
    scene.start();
    scene.expect_silence();
}

/// Runs the agent's binary with the scene's configuration.
fn tool(scene: &Scene<'_>, words: &[&str]) -> Finished {
    let mut command = Command::new(&scene.world.binary);
    command.args(words).arg("--config").arg(scene.work.join("weighbridge.yaml"));
    scene.spawn(&mut command).finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Everything that is pinned.
fn pins() -> Vec<PathBuf> {
    let list = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path)
            .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
    };
    list(&Path::new(BPFFS).join("weighbridge")).iter().flat_map(|path| list(path)).collect()
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
