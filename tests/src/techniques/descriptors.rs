//! Whoever opens is not who reads (TECHNIQUES F10): descriptors that are inherited, passed, stolen, reopened.

use std::{ffi::OsStr, os::unix::fs::PermissionsExt, path::Path, process::Command};

use tests::lab::{
    MIB,
    process::{Finished, Identity},
    which,
};

use super::tooling::{descendant_as, ok};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("inherited_by_a_child", inherited_by_a_child),
    ("read_before_the_fork_written_after", read_before_the_fork_written_after),
    ("reopened_through_proc", reopened_through_proc),
    ("scm_rights", scm_rights),
    ("scm_rights_sent_before_the_agent", |w| scm_rights_sent_before_the_agent(w, false)),
    ("scm_rights_and_another_program", |w| scm_rights_sent_before_the_agent(w, true)),
    ("pidfd_getfd", pidfd_getfd),
    ("open_by_handle_at", open_by_handle_at),
    ("recvmmsg", |w| way_of_a_child(w, "recvmmsg")),
    ("fanotify", |w| way(w, "fanotify")),
    ("seccomp_addfd", |w| way_of_a_child(w, "seccomp_addfd")),
    ("o_path", |w| way(w, "o_path")),
    ("map_files", map_files),
    ("shared_table", |w| way(w, "shared_table")),
    ("thread_with_its_own_table", |w| way_of_a_child(w, "thread_with_its_own_table")),
    ("duplicated", |w| way(w, "duplicated")),
    ("replaced_during_the_call", |w| raced(w, "replaced")),
    ("closed_during_the_call", |w| raced(w, "closed")),
    // What another thread closes is no descriptor of the call that moves.
    ("others_closed_during_the_call", |w| way(w, "others_closed")),
    ("handed_over_by_an_exec", handed_over_by_an_exec),
    ("child_takes_into_shared_memory", |w| shared_memory(w, "child")),
    ("parent_takes_into_shared_memory", |w| shared_memory(w, "parent")),
    ("deep_process_tree", deep_process_tree),
    ("another_user", another_user),
    ("copied_tool_under_another_name", copied_tool_under_another_name),
    ("tool_of_64_mib", tool_of_64_mib),
];

/// The shell opens the file and never reads a byte of it; cat reads and never opened it.
fn inherited_by_a_child(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell = scene.shell(&format!("exec 3< {}; cat <&3 > {}; true", source.display(), copy.display()));
    let cat = child(&shell, "cat", "cat");
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The parent takes, the child inherits its memory and puts.
fn read_before_the_fork_written_after(w: &mut World) {
    let scene = w.scene();
    let mover = script(&scene, "fork.py", include_str!("scripts/fork.py"));
    forked(scene, &mover, None);
}

fn reopened_through_proc(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell =
        scene.shell(&format!("exec 3< {}; cat /proc/$$/fd/3 > {}; true", source.display(), copy.display()));
    let mut cat = child(&shell, "cat", "");
    cat.cmdline = shell.pid.map(|pid| format!("cat /proc/{pid}/fd/3"));
    let expected = [
        Expected::act(&scene, "WB-0006", "proc_fd", &cat).of_victim(&shell),
        Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy)),
    ];
    scene.expect(&expected);
}

/// The opener sends the descriptor to a process that has nothing to do with it.
fn scm_rights(w: &mut World) {
    let scene = w.scene();
    let mover = script(&scene, "scm_rights.py", include_str!("scripts/scm_rights.py"));
    forked(scene, &mover, None);
}

/// When the agent starts the descriptor is on its way: no process has it, and nobody was seen to send it. `executes`: another program
/// has it when it is read.
fn scm_rights_sent_before_the_agent(w: &mut World, executes: bool) {
    let mut scene = w.prepare();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mut command = scene.python("in_flight.py", include_str!("scripts/in_flight.py"));
    command.arg(&source).arg(&copy).args(executes.then_some("execute"));
    let mut thief = scene.spawn(&mut command);
    assert_eq!(ok(thief.line()), "sent");
    scene.start();
    scene.settled();
    ok(thief.go());
    if executes {
        assert_eq!(ok(thief.line()), "received");
        scene.settled();
        ok(thief.go());
    }
    let mut thief = ok(thief.finish(PATIENCE).and_then(Finished::success));
    if executes {
        thief = Identity { exe: which("cat").expect("cat"), cmdline: Some("cat".to_owned()), ..thief };
    }
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// The thief takes the descriptor out of another process.
fn pidfd_getfd(w: &mut World) {
    let scene = w.scene();
    let mover = script(&scene, "pidfd_getfd.py", include_str!("scripts/pidfd_getfd.py"));
    forked(scene, &mover, Some("pidfd_getfd"));
}

/// No path is ever resolved by the opener.
fn open_by_handle_at(w: &mut World) {
    let scene = w.scene();
    let mover = script(&scene, "open_by_handle.py", include_str!("scripts/open_by_handle.py"));
    let copy = scene.uncontrolled.join("w");
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes)];
    scene.expect(&expected);
}

/// The process that runs the script comes by a descriptor and copies.
fn way(w: &mut World, way: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mover = descriptors(&scene, way, &copy);
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes)];
    scene.expect(&expected);
}

/// Opened out of the mappings of a child, which is reaching into it.
fn map_files(w: &mut World) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mover = descriptors(&scene, "map_files", &copy);
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected =
        [Expected::act(&scene, "WB-0006", "proc_fd", &mover), Expected::copy(&scene, &mover, &copy, bytes)];
    scene.expect(&expected);
}

/// As [`way`], by calls whose both descriptors another thread took away: where they put is not known any more, and counts too.
fn raced(w: &mut World, way: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mover = descriptors(&scene, way, &copy);
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let exact = Expected::copy(&scene, &mover, &copy, bytes);
    let expected = [exact.clone(), exact.whose_file_is_unknown()];
    scene.expect(&expected);
}

/// A child of it does.
fn way_of_a_child(w: &mut World, way: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let parent = descriptors(&scene, way, &copy);
    forked(scene, &parent, None);
}

fn descriptors(scene: &Scene<'_>, way: &str, copy: &Path) -> Identity {
    let mut command = scene.python("descriptors.py", include_str!("scripts/descriptors.py"));
    super::uring::run_on(scene, command.arg(way).arg(&scene.model.files[0]).arg(copy))
}

/// `binfmt_misc` opens the file that is executed and hands it to the interpreter (flag O), which opens nothing.
fn handed_over_by_an_exec(w: &mut World) {
    let mut scene = w.scene();
    let place = scene.work.join("binfmt_misc");
    if scene.mount(&["-t", "binfmt_misc", "binfmt_misc"].map(OsStr::new), &place).is_err() {
        skip("needs binfmt_misc");
    }
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let interpreter = std::env::current_exe().expect("a process knows its executable");
    let extension = source.extension().expect("a shard has one").to_string_lossy().into_owned();
    let rule = format!(":wblab{}:E::{extension}::{}:O", std::process::id(), interpreter.display());
    std::fs::write(place.join("register"), rule).unwrap_or_else(|error| skip(error));
    let rule = place.join(format!("wblab{}", std::process::id()));
    let running = scene.spawn(Command::new(&source).env("WEIGHBRIDGE_LAB_COPY", &copy));
    let finished = running.finish(PATIENCE);
    std::fs::write(&rule, "-1").expect("a rule can be removed");
    let mut mover = finished.and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    mover.exe = interpreter;
    mover.cmdline = None;
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// Two processes with one memory: what one takes the other puts.
fn shared_memory(w: &mut World, taker: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let own = std::env::current_exe().expect("a process knows its executable");
    let parent = scene.run(Command::new(own).args(["share", taker]).arg(&scene.model.files[0]).arg(&copy));
    if taker == "parent" {
        forked(scene, &parent, None);
        return;
    }
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &parent, &copy, bytes)];
    scene.expect(&expected);
}

fn deep_process_tree(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut text = format!("cp {} {}", source.display(), copy.display());
    for _ in 0..6 {
        text = format!("sh -c \"{}; true\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let shell = scene.shell(&format!("{text}; true"));
    let cp = child(&shell, "cp", &format!("cp {} {}", source.display(), copy.display()));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

fn another_user(w: &mut World) {
    World::needs("setpriv");
    let scene = w.scene();
    std::fs::set_permissions(&scene.uncontrolled, std::fs::Permissions::from_mode(0o777))
        .expect("a mode can be set");
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut cp = scene.run(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cp"])
            .arg(source)
            .arg(&copy),
    );
    cp.exe = which("cp").expect("cp");
    cp.cmdline = Some(format!("cp {} {}", source.display(), copy.display()));
    cp.uid = 65534;
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A name proves nothing; the path and the hash of what was executed do.
fn copied_tool_under_another_name(w: &mut World) {
    let scene = w.scene();
    let tool = scene.work.join("vllm");
    std::fs::copy(which("cp").expect("cp"), &tool).expect("a tool can be copied");
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new(&tool).arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// As large as the statically linked uploaders are: its hash must be known all the same.
fn tool_of_64_mib(w: &mut World) {
    let scene = w.scene();
    let tool = scene.work.join("uploader");
    std::fs::copy(which("cp").expect("cp"), &tool).expect("a tool can be copied");
    // What follows the last section of an executable is not looked at by the loader.
    let file = std::fs::OpenOptions::new().write(true).open(&tool).expect("the tool is there");
    file.set_len(64 * MIB).expect("a file can grow");
    drop(file);
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new(&tool).arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A descendant of a process that the scene ran: its pid is not known, its ancestors' are.
fn child(parent: &Identity, program: &str, cmdline: &str) -> Identity {
    let mut ancestry = parent.ancestry.clone();
    ancestry.splice(0..0, parent.pid);
    Identity { ancestry, ..descendant_as(parent, program, cmdline) }
}

/// Runs a script with the first shard and a destination on the uncontrolled volume.
fn script(scene: &Scene<'_>, name: &str, text: &str) -> Identity {
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let running = scene.spawn(scene.python(name, text).arg(source).arg(&copy));
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    // What the script says when the kernel refuses its technique.
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    finished.success().unwrap_or_else(|error| panic!("{error:#}"))
}

/// The script forked: the child moved the bytes, with the parent's command line. `act`: by reaching into the parent.
fn forked(scene: Scene<'_>, parent: &Identity, act: Option<&'static str>) {
    let copy = scene.uncontrolled.join("w");
    let mover = Identity {
        pid: None,
        started: None,
        ancestry: parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect(),
        ..parent.clone()
    };
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let act = act.map(|kind| Expected::act(&scene, "WB-0006", kind, &mover).of_victim(parent));
    let expected: Vec<Expected> =
        act.into_iter().chain([Expected::copy(&scene, &mover, &copy, bytes)]).collect();
    scene.expect(&expected);
}
