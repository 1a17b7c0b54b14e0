//! Who may go on with what is pinned: the next agent, another version, another configuration; who may not; and `unload`, which ends it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tests::lab::{BPFFS, MIB, process::Finished, weights::Weights};

use super::{finish, half_copied, pinned};
use crate::{
    expect::Expected,
    world::{ASSET, PATIENCE, Scene, World, skip},
};

/// Reads some of a model, and then executes the agent: while an earlier one's programs weigh it is a holder's image until it says who
/// it is.
const READER: &str = "import os, sys
open('SOURCE', 'rb').read(4 << 20)
os.execv(sys.argv[1], sys.argv[1:])
";

/// The next agent is no holder for that, and its log no copy: who ships that is charged with nothing.
pub(super) fn started_by_a_holder(w: &mut World) {
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

/// An upgrade: programs of another making replace those that run, while a copy goes on.
pub(super) fn other_programs_take_over(w: &mut World) {
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
pub(super) fn pid_of_the_agent_reused(w: &mut World) {
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
pub(super) fn check_is_no_agent(w: &mut World) {
    let mut scene = pinned(w);
    let second = tool(&scene, &["run"]);
    assert_eq!(second.code, Some(4), "{}", second.stderr);
    scene.kill();
    scene.start();
    scene.expect_silence();
}

/// Whoever had the new asset open before is a holder of it, and what was weighed goes on.
pub(super) fn another_asset_is_added(w: &mut World) {
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
pub(super) fn another_asset_list_is_refused(w: &mut World) {
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
pub(super) fn a_link_was_removed(w: &mut World) {
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

pub(super) fn pin_false_takes_over_and_leaves_nothing(w: &mut World) {
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
pub(super) fn unload(w: &mut World) {
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
