//! Tampering with the agent (TECHNIQUES 1J, WB-0010): who did what is in the alert, as far as it can be known.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{
    BPFFS,
    alert::{Alert, findings},
    metrics,
    process::{Finished, Identity},
    wait_for,
};

use super::tooling::{descendant, ok};
use crate::{
    expect::Expected,
    score,
    world::{ALERT_WITHIN, PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("stopped_and_continued", stopped_and_continued),
    ("killed_and_started_again", killed_and_started_again),
    ("killed_while_its_programs_are_pinned", killed_while_its_programs_are_pinned),
    ("ended_in_the_orderly_way", ended_in_the_orderly_way),
    ("map_opened_by_its_id", map_opened_by_its_id),
    ("program_opened_by_its_id", program_opened_by_its_id),
    ("host_wide_link_detached", host_wide_link_detached),
    ("pins_removed", pins_removed),
    ("map_opened_while_no_agent_ran", map_opened_while_no_agent_ran),
    ("configuration_appended_to", configuration_appended_to),
    ("configuration_replaced", configuration_replaced),
    ("program_replaced", program_replaced),
    ("state_written_to", state_written_to),
    ("spool_replaced", spool_replaced),
    ("trusted_certificates_replaced", trusted_certificates_replaced),
    ("alert_log_shortened", alert_log_shortened),
    ("resource_limit_changed", resource_limit_changed),
    ("clock_set", clock_set),
    ("traced_by_a_debugger", traced_by_a_debugger),
    ("library_loaded_before_the_agent", library_loaded_before_the_agent),
    ("pins_hidden_under_a_mount", pins_hidden_under_a_mount),
    ("configuration_hidden_under_a_mount", configuration_hidden_under_a_mount),
    ("from_a_pid_namespace", from_a_pid_namespace),
    ("types_of_the_kernel_hidden", types_of_the_kernel_hidden),
    ("tracing_switched_off", tracing_switched_off),
    ("looking_is_silent", looking_is_silent),
];

fn stopped_and_continued(w: &mut World) {
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
fn killed_and_started_again(w: &mut World) {
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
fn killed_while_its_programs_are_pinned(w: &mut World) {
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

fn ended_in_the_orderly_way(w: &mut World) {
    let mut scene = w.scene();
    let alerts = scene.stop();
    let found: Vec<Alert> = findings(&alerts);
    assert_eq!(
        found.iter().map(|alert| (alert.rule(), alert.text("/severity"))).collect::<Vec<_>>(),
        [("WB-0011", "low")]
    );
    assert_eq!(found[0].number("/process/pid"), Some(u64::from(std::process::id())));
}

fn map_opened_by_its_id(w: &mut World) {
    let mut scene = w.scene();
    let maps = objects(&mut scene, "map_id");
    assert!(!maps.is_empty(), "the agent has no map");
    let by = touch(&scene, "map", maps[0]);
    let alert = tampering(&mut scene, "maps_touched", |target| target.starts_with("map "));
    check_actor(&alert, &by);
    scene.stop();
}

fn program_opened_by_its_id(w: &mut World) {
    let mut scene = w.scene();
    let programs = objects(&mut scene, "prog_id");
    let by = touch(&scene, "prog", programs[0]);
    let alert = tampering(&mut scene, "links_touched", |target| target.starts_with("program "));
    check_actor(&alert, &by);
    scene.stop();
}

fn host_wide_link_detached(w: &mut World) {
    let mut scene = w.scene();
    let pages = pages(&mut scene);
    let link = pages.iter().find(|page| page.contains("cgroup_id")).and_then(|page| number(page, "link_id"));
    let Some(link) = link else { skip("the agent's kernel has no link on a cgroup") };
    let by = touch(&scene, "detach", link);
    let alert = tampering(&mut scene, "links_touched", |target| {
        target == format!("link {link}")
            || target.starts_with(&format!("link {link} of program")) && !target.ends_with("changed")
    });
    check_actor(&alert, &by);
    let alert = tampering(&mut scene, "links_touched", |target| target.ends_with(" changed"));
    assert!(alert.detail()["process"].is_null());
    // What Prometheus alerts on where nobody reads the log.
    let attached = |probe| metrics::sum(&scene.metrics(), "weighbridge_probe_attached", &[("probe", probe)]);
    assert_eq!((attached("cgroup_skb_egress"), attached("sys_exit")), (Some(0.0), Some(1.0)));
    scene.stop();
}

fn pins_removed(w: &mut World) {
    let mut scene = pinned(w);
    for name in ["FLOWS", "link_sys_exit"] {
        fs::remove_file(pin(name)).expect("root can remove a pin");
        let alert = tampering(&mut scene, "pins_touched", |target| target == format!("{name} was removed"));
        assert!(alert.detail()["process"].is_null());
    }
    scene.stop();
}

/// By its pin, as whoever wants to know what the agent knows, or to change it.
fn map_opened_while_no_agent_ran(w: &mut World) {
    let mut scene = pinned(w);
    scene.stop();
    let script = include_str!("scripts/bpf_touch.py");
    let by = scene.run(scene.python("bpf_touch.py", script).arg("pin").arg(pin("FLOWS")));
    scene.start();
    let alert =
        tampering(&mut scene, "maps_touched", |target| target == "what is pinned, while no agent ran");
    check_actor(&alert, &by);
    scene.stop();
}

fn pinned(w: &mut World) -> Scene<'_> {
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.start();
    scene
}

/// Of the one agent that has pins in the lab's BPF filesystem.
fn pin(name: &str) -> PathBuf {
    let top = fs::read_dir(Path::new(BPFFS).join("weighbridge")).expect("the agent has pins");
    let found = top.flatten().map(|place| place.path().join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not pinned"))
}

fn configuration_appended_to(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let by = python(&scene, &format!("open({file:?}, 'a').write('# nothing\\n')"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    check_actor(&alert, &by);
    scene.stop();
}

/// Another file under its name: no byte of the old one was written.
fn configuration_replaced(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let beside = scene.work.join("other.yaml");
    fs::copy(&file, &beside).and_then(|_| fs::rename(&beside, &file)).expect("the file can be replaced");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// The next start runs what lies there then. (What runs cannot be written to: ETXTBSY.)
fn program_replaced(w: &mut World) {
    let mut scene = w.prepare();
    let [binary, beside] = ["weighbridge", "other"].map(|name| scene.work.join(name));
    for copy in [&binary, &beside] {
        fs::copy(&scene.world.binary, copy).expect("the binary can be copied");
    }
    scene.binary = Some(binary.clone());
    scene.start();
    fs::rename(&beside, &binary).expect("the file can be replaced");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == binary);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// What was summed so far, in place: who opened it is known.
fn state_written_to(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.config.state_dir.join("state.redb");
    let by = python(&scene, &format!("open({file:?}, 'r+b').close()"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    check_actor(&alert, &by);
    // The agent itself writes there each second while bytes move, and says nothing of that.
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    let alerts = scene.stop();
    let changed: Vec<Alert> =
        findings(&alerts).into_iter().filter(|alert| kind(alert) == "files_changed").collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
}

/// What waits for a webhook that is down.
fn spool_replaced(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.sinks = vec![serde_json::json!({"type": "webhook", "url": "http://127.0.0.1:9/"})];
    scene.start();
    let folder = scene.config.state_dir.join("spool");
    let file = fs::read_dir(&folder).expect("there are spools").flatten().next().expect("a spool").path();
    fs::rename(&file, folder.join("away")).expect("it can be renamed");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// Whoever decides which certificates are believed can play Alertmanager.
fn trusted_certificates_replaced(w: &mut World) {
    let mut scene = w.prepare();
    let [ca, token] = ["ca.pem", "token"].map(|name| scene.work.join(name));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a repository");
    fs::copy(repository.join("agent/src/sinks/http/testdata/ca.pem"), &ca).expect("a certificate");
    for file in [&ca, &token] {
        if file == &token {
            fs::write(file, "one").expect("a token can be written");
        }
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("and kept");
    }
    scene.config.sinks = vec![serde_json::json!({
        "type": "webhook", "url": "https://127.0.0.1:9/", "tls": {"ca": {"file": ca}}, "bearer_token": {"file": token}
    })];
    scene.start();
    // A token is made anew every so often.
    fs::write(&token, "two").expect("a token can be written");
    let by = python(&scene, &format!("open({ca:?}, 'a').write('# another')"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == ca);
    check_actor(&alert, &by);
    let alerts = scene.stop();
    let targets: Vec<String> = findings(&alerts)
        .iter()
        .filter(|alert| kind(alert) == "files_changed")
        .map(|alert| alert.text("/act/target").to_owned())
        .collect();
    assert_eq!(targets, [ca.display().to_string()]);
}

fn alert_log_shortened(w: &mut World) {
    let mut scene = w.scene();
    scene.mark();
    let file = scene.config.alerts.clone();
    // By its path: no descriptor, so that who did it is not seen.
    let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).expect("a path has no NUL");
    // SAFETY: a path that ends in a NUL and outlives the call.
    let shortened = unsafe { libc::truncate(path.as_ptr(), 0) };
    assert_eq!(shortened, 0, "it cannot be shortened");
    let target = format!("{} is shorter than it was", file.display());
    let said = wait_for(ALERT_WITHIN, || {
        let text = fs::read_to_string(&file).ok()?;
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok().map(Alert))
            .find(|alert| kind(alert) == "files_changed" && alert.text("/act/target") == target)
    });
    assert!(said.is_some(), "nobody said that the alert log became shorter");
}

fn resource_limit_changed(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    // RLIMIT_CORE, to what it is.
    let by =
        python(&scene, &format!("import resource; resource.prlimit({pid}, 4, resource.prlimit({pid}, 4))"));
    let alert = tampering(&mut scene, "signalled", |target| target == "resource limit 4");
    check_actor(&alert, &by);
    scene.stop();
}

fn clock_set(w: &mut World) {
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
fn traced_by_a_debugger(w: &mut World) {
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
fn library_loaded_before_the_agent(w: &mut World) {
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

/// The pins are there, and nobody can see them: that is said, and what moves is weighed on.
fn pins_hidden_under_a_mount(w: &mut World) {
    let mut scene = pinned(w);
    let place = pin("FLOWS").parent().expect("a folder").to_owned();
    ok(tests::lab::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place)));
    tampering(&mut scene, "pins_touched", |target| target == "FLOWS was removed");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    ok(tests::lab::run(Command::new("umount").arg(&place)));
    scene.stop();
}

fn configuration_hidden_under_a_mount(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let other = scene.work.join("other.yaml");
    fs::write(&other, "schema: 1\n").expect("a file can be written");
    ok(tests::lab::run(Command::new("mount").arg("--bind").args([&other, &file])));
    tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    ok(tests::lab::run(Command::new("umount").arg(&file)));
    scene.stop();
}

/// In there it is another number: the alert has that of the host.
fn from_a_pid_namespace(w: &mut World) {
    World::needs("unshare");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell = scene.shell(&format!(
        "exec unshare --pid --fork --mount --mount-proc cp {} {}",
        source.display(),
        copy.display()
    ));
    let thief = descendant(&shell, "cp");
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}

/// Who runs already goes on; who starts says what is missing and does not pretend to weigh.
fn types_of_the_kernel_hidden(w: &mut World) {
    let scene = w.scene();
    let place = Path::new("/sys/kernel/btf");
    ok(tests::lab::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place)));
    let doctor = Command::new(&scene.world.binary).args(["doctor", "-o", "json"]).output().expect("it runs");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new("cp").arg(&source).arg(&copy));
    ok(tests::lab::run(Command::new("umount").arg(place)));
    assert_eq!(doctor.status.code(), Some(4), "{}", String::from_utf8_lossy(&doctor.stdout));
    let bytes = scene.arrived(&source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}

/// `kernel.ftrace_enabled` takes the ground from under tracers of functions; these hooks do not stand on it.
fn tracing_switched_off(w: &mut World) {
    const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
    struct Back(String);
    impl Drop for Back {
        fn drop(&mut self) {
            let _ = fs::write(SWITCH, &self.0);
        }
    }
    let Ok(before) = fs::read_to_string(SWITCH) else { skip(format_args!("this kernel has no {SWITCH}")) };
    let mut scene = w.scene();
    let back = Back(before);
    if let Err(error) = fs::write(SWITCH, "0") {
        skip(format_args!("the kernel refuses to switch tracing off: {error}"));
    }
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    let asset = scene.model.bytes;
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes.min(asset));
    drop(back);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}

/// What tools do all day: asking whether it lives, reading its files, its own process's place in /proc.
fn looking_is_silent(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let file = scene.work.join("weighbridge.yaml");
    scene.shell(&format!("kill -0 {pid}; cat {} /proc/{pid}/status /proc/{pid}/stat > /dev/null; ls -l /proc/{pid}/fd > /dev/null", file.display()));
    python(&scene, "import time; time.clock_gettime(0)");
    scene.expect_silence();
}

/// Waits for a finding of WB-0010 of this kind whose target is the one.
fn tampering(scene: &mut Scene<'_>, wanted: &str, is_target: impl Fn(&str) -> bool) -> Alert {
    let found = scene.agent().wait(ALERT_WITHIN, |alerts| {
        let mut all = alerts.iter().filter(|alert| alert.rule() == "WB-0010" && kind(alert) == wanted);
        all.find(|alert| is_target(alert.text("/act/target"))).cloned()
    });
    let alert = found
        .unwrap_or_else(|error| panic!("{error:#}"))
        .unwrap_or_else(|| panic!("no WB-0010 of kind {wanted}"));
    assert_eq!(alert.text("/severity"), "high");
    score::note(alert.rule(), (0, 0), &[&alert]);
    alert
}

fn kind(alert: &Alert) -> &str {
    alert.text("/act/kind")
}

fn check_actor(alert: &Alert, by: &Identity) {
    assert_eq!(alert.number("/process/pid"), by.pid.map(u64::from));
    assert_eq!(Path::new(alert.text("/process/exe")), by.exe);
    let ancestry: Vec<u64> = alert.detail()["process"]["ancestry"]
        .as_array()
        .map(|chain| chain.iter().filter_map(|one| one["pid"].as_u64()).collect())
        .unwrap_or_default();
    assert_eq!(ancestry, by.ancestry.iter().copied().map(u64::from).collect::<Vec<_>>());
}

fn python(scene: &Scene<'_>, text: &str) -> Identity {
    scene.run(Command::new(World::python()).args(["-c", text]))
}

fn touch(scene: &Scene<'_>, command: &str, id: u64) -> Identity {
    let script = include_str!("scripts/bpf_touch.py");
    scene.run(scene.python("bpf_touch.py", script).args([command, &id.to_string()]))
}

/// The ids under this key of all descriptors of the agent.
fn objects(scene: &mut Scene<'_>, key: &str) -> Vec<u64> {
    pages(scene)
        .iter()
        .filter(|page| !page.contains("link_id"))
        .filter_map(|page| number(page, key))
        .collect()
}

fn pages(scene: &mut Scene<'_>) -> Vec<String> {
    let folder = PathBuf::from(format!("/proc/{}/fdinfo", scene.agent().pid()));
    let entries = fs::read_dir(folder).expect("the agent's descriptors can be listed").flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
}

fn number(page: &str, key: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}
