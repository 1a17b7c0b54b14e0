//! Calls that lie or hide (TECHNIQUES 1B, 1D): errors after bytes moved, asynchronous calls, shared descriptor tables, and who the
//! process says it is.

use std::{fs, process::Command};

use tests::lab::{
    outside::UNCONTROLLED,
    process::{Finished, Identity},
    which,
};

use super::tooling::{Cgroup, descendant, ok};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("sendfile_that_fails_after_moving", |w| failing(w, "sendfile")),
    ("splice_that_fails_after_moving", |w| failing(w, "splice")),
    ("sendmmsg_that_fails_after_moving", sendmmsg_that_fails),
    ("io_submit", io_submit),
    ("shared_descriptor_table", shared_descriptor_table),
    ("four_children_write_a_part_each", four_children),
    ("terminal_read_by_a_sender", terminal),
    ("double_fork_and_a_new_session", double_fork),
    ("executed_from_a_memfd", executed_from_a_memfd),
    ("executed_from_a_memfd_that_stays", executed_from_a_memfd_that_stays),
    ("preloaded_into_a_reader", preloaded),
    ("renamed_by_prctl_and_argv", renamed),
    ("unit_of_systemd", |w| {
        placed(w, "system.slice/weighbridge-lab.service", "/process/unit", "weighbridge-lab.service")
    }),
    ("container_of_docker", |w| {
        let id = "5c".repeat(32);
        placed(w, &format!("system.slice/docker-{id}.scope"), "/process/container", &id);
    }),
    ("login_uid", login_uid),
    ("found_open_at_the_start", found_open_at_the_start),
    ("through_the_root_of_another_process", |w| in_another_namespace(w, false)),
    ("entered_into_a_container", |w| in_another_namespace(w, true)),
];

/// The call moves the bytes and then cannot store the new offset: it returns EFAULT.
fn failing(w: &mut World, call: &str) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let script = include_str!("scripts/efault.py");
    let thief = script_or_skip(&scene, scene.python("efault.py", script).arg(call).arg(source).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// The message is sent, its length cannot be stored: EFAULT again.
fn sendmmsg_that_fails(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let script = include_str!("scripts/efault.py");
    let mut command = scene.python("efault.py", script);
    let thief = script_or_skip(
        &scene,
        command.arg("sendmmsg").arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()),
    );
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// The kernel's own asynchronous calls, without a library: both directions.
fn io_submit(w: &mut World) {
    let script = include_str!("scripts/io_submit.py");
    by_script(w, "io_submit.py", script, false);
}

/// A child that shares the table of descriptors, and not the memory: the parent opens, the child reads and writes.
fn shared_descriptor_table(w: &mut World) {
    let script = include_str!("scripts/clone_files.py");
    by_script(w, "clone_files.py", script, true);
}

fn four_children(w: &mut World) {
    let script = include_str!("scripts/children.py");
    by_script(w, "children.py", script, true);
}

/// `forked`: a child moved the bytes, with the parent's command line.
fn by_script(w: &mut World, name: &str, text: &str, forked: bool) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let parent = script_or_skip(&scene, scene.python(name, text).arg(source).arg(&copy));
    let thief = if forked { child(&parent) } else { parent };
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// `base64` prints on a terminal; whoever has the other end of it, as an SSH server has, sends it.
fn terminal(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let script = include_str!("scripts/terminal.py");
    let mut command = scene.python("terminal.py", script);
    let thief =
        script_or_skip(&scene, command.arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()));
    let bytes = ok(receiver.finish()).bytes;
    assert!(bytes > size(source));
    let expected =
        [Expected::egress(&scene, &thief, addr, "tcp", size(source)).through(1).and_a_protocol_of_a_third()];
    scene.expect(&expected);
}

/// Nobody waits for it, its parent is gone, its session is another: the ledger follows processes, not trees.
fn double_fork(w: &mut World) {
    World::needs("setsid");
    let scene = w.scene();
    let (source, copy, done) = (&scene.model.files[0], scene.uncontrolled.join("w"), scene.work.join("done"));
    let inner = format!("cp {} {}; touch {}", source.display(), copy.display(), done.display());
    let shell = scene.shell(&format!("(setsid -f sh -c '{inner}' &) &"));
    super::tooling::wait_there(&done);
    let mut cp = descendant(&shell, "cp");
    cp.cmdline = Some(format!("cp {} {}", source.display(), copy.display()));
    // Whoever adopts orphans is above it, and pid 1 above that.
    cp.ancestry = vec![1];
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The program was never a file with a name.
fn executed_from_a_memfd(w: &mut World) {
    World::needs("busybox");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let script = include_str!("scripts/memfd_exec.py");
    let mut command = scene.python("memfd_exec.py", script);
    let busybox = which("busybox").expect("busybox");
    let mut thief = scene.run(command.arg(&busybox).arg("cp").arg(source).arg(&copy));
    // The kernel has no better name for it. The hash is that of the program, if it was looked at before it was gone.
    thief.exe = busybox;
    thief.cmdline = Some(format!("busybox cp {} {}", source.display(), copy.display()));
    let bytes = scene.arrived(source, &copy);
    let expected =
        [Expected::copy(&scene, &thief, &copy, bytes).named("/memfd:vllm (deleted)").or_unhashed()];
    scene.expect(&expected);
}

/// While it lives it can be hashed, though it lies in no directory.
fn executed_from_a_memfd_that_stays(w: &mut World) {
    let mut scene = w.scene();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let script = include_str!("scripts/memfd_exec.py");
    let own = std::env::current_exe().expect("a process knows its executable");
    let mut command = scene.python("memfd_exec.py", script);
    command.arg(&own).args(["move", "read", "write"]).args([&source, &copy]);
    let mut thief = scene.spawn(command.args(["--pause-at", "8388608"]));
    assert_eq!(thief.line().expect("it says so"), "halfway");
    // Whoever is alerted to it can still look at it.
    scene.wait_for("the first half", |alert| alert.rule() == "WB-0001");
    thief.go().expect("it goes on");
    let mut thief = ok(thief.finish(PATIENCE).and_then(Finished::success));
    let name = own.file_name().expect("a name").to_string_lossy().into_owned();
    thief.cmdline =
        Some(format!("{name} move read write {} {} --pause-at 8388608", source.display(), copy.display()));
    thief.exe = own;
    let bytes = scene.arrived(&source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes).named("/memfd:vllm (deleted)")];
    scene.expect(&expected);
}

/// A listed reader does what somebody else's library tells it.
fn preloaded(w: &mut World) {
    World::needs("gcc");
    let mut scene = w.prepare();
    let reader = which("sha256sum").expect("sha256sum");
    scene.config.assets[0].readers = vec![reader];
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let [text, library] = ["preload.c", "preload.so"].map(|name| scene.work.join(name));
    fs::write(&text, include_str!("scripts/preload.c")).expect("a source file can be written");
    let mut build = Command::new("gcc");
    build.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&text);
    if let Err(error) = tests::lab::run(&mut build) {
        skip(format_args!("gcc builds no library here: {error:#}"));
    }
    let mut command = Command::new("sha256sum");
    command.arg("/dev/null").env("LD_PRELOAD", &library).env("COPY_FROM", source).env("COPY_TO", &copy);
    let thief = scene.run(&mut command);
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Another name for the thread and for the arguments: the executable and its hash stay.
fn renamed(w: &mut World) {
    World::needs("bash");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let text = format!("exec -a vllm cat {} > {}", source.display(), copy.display());
    let mut thief = descendant(&scene.run(Command::new("bash").args(["-c", &text])), "cat");
    thief.cmdline = Some(format!("vllm {}", source.display()));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A cgroup as systemd or a container runtime would have made it; the alert says what it stands for.
fn placed(w: &mut World, below: &str, pointer: &'static str, value: &str) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let group = Cgroup::make(below);
    let joined = format!("{} && exec cp {} {}", group.join(), source.display(), copy.display());
    let cp = descendant(&scene.shell(&joined), "cp");
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes)
        .with(pointer, value)
        .with("/process/cgroup", format!("/{below}"))];
    scene.expect(&expected);
}

/// Who logged in stays known behind sudo.
fn login_uid(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let set = scene.spawn(Command::new("sh").args(["-c", "echo 1234 > /proc/self/loginuid"]));
    if ok(set.finish(PATIENCE)).code != Some(0) {
        skip("this kernel does not let the login uid be set");
    }
    let text = format!("echo 1234 > /proc/$$/loginuid && exec cp {} {}", source.display(), copy.display());
    let cp = descendant(&scene.shell(&text), "cp");
    let expected =
        [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy)).with("/process/auid", 1234)];
    scene.expect(&expected);
}

/// Open before the agent, read after.
fn found_open_at_the_start(w: &mut World) {
    let mut scene = w.prepare();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let mut command = scene.mover("read", "write", &source, &copy.to_string_lossy());
    let mut mover = scene.spawn(command.arg("--pause"));
    assert_eq!(mover.line().expect("the mover holds"), "holding");
    scene.start();
    mover.go().expect("the mover goes on");
    let mover = ok(mover.finish(PATIENCE).and_then(Finished::success));
    // It may have read everything before: that counts as taken, but only what it wrote counts as moved.
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}

/// The model has a name in the mount namespace of another process only, which reads nothing: by `/proc/PID/root`, or by
/// entering that namespace as `docker exec` does.
fn in_another_namespace(w: &mut World, enter: bool) {
    for tool in ["unshare", "nsenter"] {
        World::needs(tool);
    }
    let scene = w.scene();
    let (source, copy, place) =
        (&scene.model.files[0], scene.uncontrolled.join("w"), scene.work.join("inside"));
    fs::create_dir(&place).expect("a folder can be made");
    let text =
        format!("mount --bind {} {} && echo ready && read x", scene.model.dir.display(), place.display());
    let mut victim = scene.spawn(Command::new("unshare").args(["-m", "sh", "-c", &text]));
    assert_eq!(ok(victim.line()), "ready");
    let pid = victim.identity.pid.expect("it runs").to_string();
    let name = place.join(source.file_name().expect("a name"));
    let thief = if enter {
        let mut command = Command::new("nsenter");
        let shell = scene.run(command.args(["-t", &pid, "-m", "cp"]).arg(&name).arg(&copy));
        Identity { pid: shell.pid, started: shell.started, ..descendant(&shell, "cp") }
    } else {
        scene.run(Command::new("cp").arg(format!("/proc/{pid}/root{}", name.display())).arg(&copy))
    };
    ok(victim.go());
    ok(victim.finish(PATIENCE).and_then(Finished::success));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Runs a script that ends with 77 and a reason where the kernel refuses its technique.
fn script_or_skip(scene: &Scene<'_>, command: &mut Command) -> Identity {
    let finished = ok(scene.spawn(command).finish(PATIENCE));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    ok(finished.success())
}

/// Its child, which has the same command line.
fn child(parent: &Identity) -> Identity {
    Identity {
        pid: None,
        started: None,
        ancestry: parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect(),
        ..parent.clone()
    }
}
