//! The agent's process: stopped, killed, ended, traced, its limits and the clock it lives by.

use std::{fs, process::Command};

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
