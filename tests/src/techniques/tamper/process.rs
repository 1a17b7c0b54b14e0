//! The agent's process: stopped, killed, ended, traced, its limits and the clock it lives by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{
    alert::{Alert, findings},
    process::Finished,
    wait_for,
};

use super::{check_actor, kind, pinned, python, tampering};
use crate::{
    techniques::tooling::ok,
    world::{ALERT_WITHIN, PATIENCE, World, skip},
};

pub(super) fn stopped_and_continued(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let by =
        python(&scene, &format!("import os, time; os.kill({pid}, 19); time.sleep(6); os.kill({pid}, 18)"));
    let alert = tampering(&mut scene, "stopped", |target| target == "SIGSTOP");
    check_actor(&alert, &by);
    let alert = tampering(&mut scene, "stopped", |target| target.starts_with("the agent did not run for "));
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// It cannot say so itself any more; the next one does.
pub(super) fn killed_and_started_again(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    python(&scene, &format!("import os; os.kill({pid}, 9)"));
    let gone = wait_for(ALERT_WITHIN, || {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .map_or(Some(()), |status| status.contains("State:\tZ").then_some(()))
    });
    assert!(gone.is_some(), "the agent lives on after SIGKILL");
    scene.start();
    tampering(&mut scene, "restarted", |target| target == "the last agent was killed");
    scene.stop();
    scene.start();
    let alerts = scene.stop();
    let again = findings(&alerts).into_iter().filter(|alert| kind(alert) == "restarted").count();
    assert_eq!(again, 1, "an orderly end is no restart");
}

/// Its programs outlive it, and have seen who did it.
pub(super) fn killed_while_its_programs_are_pinned(w: &mut World) {
    let mut scene = pinned(w);
    let pid = scene.agent().pid();
    let by = python(&scene, &format!("import os; os.kill({pid}, 9)"));
    scene.kill();
    scene.start();
    let alert = tampering(&mut scene, "signalled", |target| target == "SIGKILL");
    check_actor(&alert, &by);
    tampering(&mut scene, "restarted", |target| target == "the last agent was killed");
    let once = told(&scene.stop());
    // Nothing that the next start does to what is pinned is somebody's tampering, and nothing is told twice.
    scene.start();
    assert_eq!(told(&scene.stop()), once);
}

/// Kinds of the findings of WB-0010.
fn told(alerts: &[Alert]) -> Vec<String> {
    let all = findings(alerts);
    all.iter().filter(|alert| alert.rule() == "WB-0010").map(|alert| kind(alert).to_owned()).collect()
}

pub(super) fn ended_in_the_orderly_way(w: &mut World) {
    let mut scene = w.scene();
    let alerts = scene.stop();
    let found: Vec<Alert> = findings(&alerts);
    assert_eq!(
        found.iter().map(|alert| (alert.rule(), alert.text("/severity"))).collect::<Vec<_>>(),
        [("WB-0011", "low")]
    );
    assert_eq!(found[0].number("/process/pid"), Some(u64::from(std::process::id())));
}

pub(super) fn resource_limit_changed(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    // RLIMIT_CORE, to what it is.
    let by =
        python(&scene, &format!("import resource; resource.prlimit({pid}, 4, resource.prlimit({pid}, 4))"));
    let alert = tampering(&mut scene, "signalled", |target| target == "resource limit 4");
    check_actor(&alert, &by);
    scene.stop();
}

pub(super) fn clock_set(w: &mut World) {
    if std::env::var_os("WEIGHBRIDGE_TEST_CLOCK").is_none() {
        skip(
            "sets the clock of the whole machine by 3 s and back: set WEIGHBRIDGE_TEST_CLOCK where that harms nobody",
        );
    }
    let mut scene = w.scene();
    let by = python(&scene, "import time; time.clock_settime(0, time.time() + 3)");
    let alert = tampering(&mut scene, "clock_set", |target| target.starts_with("the wall clock by +"));
    python(&scene, "import time; time.clock_settime(0, time.time() - 3)");
    check_actor(&alert, &by);
    scene.stop();
}

/// It reads and writes what it likes, by calls that stop nothing: `PTRACE_SEIZE`.
pub(super) fn traced_by_a_debugger(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let text = format!(
        "import ctypes; c = ctypes.CDLL(None); assert c.ptrace(0x4206, {pid}, None, None) == 0; print('here', flush=True); input()"
    );
    let mut tracer = scene.spawn(Command::new(World::python()).args(["-c", &text]));
    assert_eq!(tracer.line().expect("it traces"), "here");
    let target = format!("traced by process {}", tracer.identity.pid.expect("it was started"));
    tampering(&mut scene, "signalled", |said| said == target);
    tracer.go().expect("it listens");
    ok(tracer.finish(PATIENCE).and_then(Finished::success));
    scene.stop();
}

/// `LD_PRELOAD`: what it replaces the agent calls.
pub(super) fn library_loaded_before_the_agent(w: &mut World) {
    World::needs("gcc");
    let mut scene = w.prepare();
    let [text, library] = ["hook.c", "libhook.so"].map(|name| scene.work.join(name));
    fs::write(&text, "int weighbridge_test_hook(void) { return 0; }\n").expect("a source file");
    let mut build = Command::new("gcc");
    if let Err(error) = tests::lab::run(build.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&text)) {
        skip(format_args!("gcc builds no library here: {error:#}"));
    }
    let variable = ("LD_PRELOAD".to_owned(), library.display().to_string());
    scene.config.start.variables.push(variable);
    scene.start();
    let target = format!("{} is loaded into the agent", library.display());
    tampering(&mut scene, "files_changed", |said| said == target);
    scene.stop();
}

/// A debugger that attaches and is gone before the agent looks, and everything else by which its memory or descriptors are had. Each is one
/// call, and who made it is known.
pub(super) fn reached_into_for_a_moment(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let calls = [
        // PTRACE_SEIZE, and the end of the process detaches.
        ("ptrace", format!("assert c.ptrace(0x4206, {pid}, None, None) == 0")),
        ("/proc/PID/mem", format!("open('/proc/{pid}/mem', 'r+b').close()")),
        // The lowest page of its program.
        (
            "process_vm_readv",
            format!(
                "at = int(open('/proc/{pid}/maps').readline().split('-')[0], 16); b = ctypes.create_string_buffer(16)\n\
             v = (ctypes.c_ulong * 2)(ctypes.addressof(b), 16); r = (ctypes.c_ulong * 2)(at, 16)\n\
             assert c.syscall(310, {pid}, v, ctypes.c_ulong(1), r, ctypes.c_ulong(1), ctypes.c_ulong(0)) == 16"
            ),
        ),
        ("pidfd_getfd", format!("assert c.syscall(438, os.pidfd_open({pid}), 2, 0) >= 0")),
    ];
    for (call, text) in calls {
        let by = python(&scene, &format!("import ctypes, os\nc = ctypes.CDLL(None)\n{text}"));
        let alert = tampering(&mut scene, "signalled", |target| target == format!("reached into by {call}"));
        check_actor(&alert, &by);
    }
    scene.stop();
}

/// Somebody makes the agent end itself: nobody sends a signal then, and the end looks like an orderly one.
pub(super) fn ended_by_its_own_hand(w: &mut World) {
    World::needs("gdb");
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    scene.run(Command::new("gdb").args(["-batch", "-nx", "-p", &pid.to_string()]).args([
        "-ex",
        "handle SIGTERM nostop noprint pass",
        "-ex",
        &format!("call (int)kill({pid}, 15)"),
    ]));
    tampering(&mut scene, "signalled", |target| target == "SIGTERM, and nobody was seen who sent it");
    scene.kill();
}

/// No signal is sent, and nobody is asked: by the freezer of either version, in the group above the agent's own, at whose limits it does not look.
pub(super) fn frozen_and_thawed(w: &mut World) {
    struct Groups(PathBuf, PathBuf);
    impl Drop for Groups {
        fn drop(&mut self) {
            for group in [&self.1, &self.0] {
                let _ =
                    wait_for(PATIENCE, || (fs::remove_dir(group).is_ok() || !group.exists()).then_some(()));
            }
        }
    }
    let mut scene = w.scene();
    let two = Path::new("/sys/fs/cgroup/cgroup.procs").exists();
    let (root, file, [frozen, thawed]) = if two {
        ("/sys/fs/cgroup", "cgroup.freeze", ["1", "0"])
    } else {
        ("/sys/fs/cgroup/freezer", "freezer.state", ["FROZEN", "THAWED"])
    };
    let group = Path::new(root).join(format!("weighbridge-test-{}", std::process::id()));
    let inner = group.join("inner");
    if !Path::new(root).join("cgroup.procs").exists() || fs::create_dir_all(&inner).is_err() {
        skip(format_args!("needs a freezer at {root}"));
    }
    let groups = Groups(group, inner);
    fs::write(groups.1.join("cgroup.procs"), scene.agent().pid().to_string()).expect("it can be moved");
    let freezer = groups.0.join(file);
    let text = format!(
        "import time; f = {freezer:?}; open(f, 'w').write('{frozen}'); time.sleep(7); open(f, 'w').write('{thawed}')"
    );
    python(&scene, &text);
    tampering(&mut scene, "stopped", |target| target.starts_with("the agent did not run for "));
    scene.stop();
    drop(groups);
}

/// A lie is mounted over what the agent reads of itself: it is told of, and not believed.
pub(super) fn status_of_the_process_hidden(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let (lie, place) = (scene.work.join("status"), format!("/proc/{pid}/status"));
    let truth = fs::read_to_string(&place).expect("it runs");
    fs::write(&lie, truth).expect("a lie can be written");
    ok(tests::lab::run(Command::new("mount").arg("--bind").arg(&lie).arg(&place)));
    let hidden = format!("what is mounted at {place} hides what the kernel says there");
    tampering(&mut scene, "files_changed", |target| target == hidden);
    ok(tests::lab::run(Command::new("umount").arg(&place)));
    scene.stop();
}
