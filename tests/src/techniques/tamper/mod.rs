//! Tampering with the agent (TECHNIQUES 1J, WB-0010): who did what is in the alert, as far as it can be known. Its process, its
//! objects in the kernel and its files have a file each; here is what is done to the host around it.

mod files;
mod objects;
mod process;

use std::{fs, path::Path, process::Command};

use tests::lab::{
    alert::Alert,
    guard::{Undo, Undoing},
    process::Identity,
};

use super::tooling::{descendant, ok};
use crate::{
    expect::Expected,
    score,
    world::{ALERT_WITHIN, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("stopped_and_continued", process::stopped_and_continued),
    ("killed_and_started_again", process::killed_and_started_again),
    ("killed_while_its_programs_are_pinned", process::killed_while_its_programs_are_pinned),
    ("ended_in_the_orderly_way", process::ended_in_the_orderly_way),
    ("map_opened_by_its_id", objects::map_opened_by_its_id),
    ("program_opened_by_its_id", objects::program_opened_by_its_id),
    ("host_wide_link_detached", objects::host_wide_link_detached),
    ("pins_removed", objects::pins_removed),
    ("map_opened_while_no_agent_ran", objects::map_opened_while_no_agent_ran),
    ("configuration_appended_to", files::configuration_appended_to),
    ("configuration_replaced", files::configuration_replaced),
    ("program_replaced", files::program_replaced),
    ("state_written_to", files::state_written_to),
    ("spool_replaced", files::spool_replaced),
    ("trusted_certificates_replaced", files::trusted_certificates_replaced),
    ("alert_log_shortened", files::alert_log_shortened),
    ("resource_limit_changed", process::resource_limit_changed),
    ("clock_set", process::clock_set),
    ("traced_by_a_debugger", process::traced_by_a_debugger),
    ("library_loaded_before_the_agent", process::library_loaded_before_the_agent),
    ("pins_hidden_under_a_mount", objects::pins_hidden_under_a_mount),
    ("configuration_hidden_under_a_mount", files::configuration_hidden_under_a_mount),
    ("from_a_pid_namespace", from_a_pid_namespace),
    ("types_of_the_kernel_hidden", types_of_the_kernel_hidden),
    ("tracing_switched_off", tracing_switched_off),
    ("looking_is_silent", looking_is_silent),
    ("reached_into_for_a_moment", process::reached_into_for_a_moment),
    ("ended_by_its_own_hand", process::ended_by_its_own_hand),
    ("frozen_and_thawed", process::frozen_and_thawed),
    ("status_of_the_process_hidden", process::status_of_the_process_hidden),
    ("status_socket_replaced", files::status_socket_replaced),
];

fn pinned(w: &mut World) -> Scene<'_> {
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.start();
    scene
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
    let mut scene = w.scene();
    let place = Path::new("/sys/kernel/btf");
    ok(tests::lab::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place)));
    let mounted = Undoing::new(Undo::Unmount(place.to_path_buf()));
    let doctor = Command::new(&scene.world.binary).args(["doctor", "-o", "json"]).output().expect("it runs");
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new("cp").arg(&source).arg(&copy));
    assert_eq!(doctor.status.code(), Some(4), "{}", String::from_utf8_lossy(&doctor.stdout));
    // The agent looks at the mounts once a second.
    tampering(&mut scene, "files_changed", |target| {
        target == "what is mounted at /sys/kernel/btf hides what the kernel says there"
    });
    drop(mounted);
    let bytes = scene.arrived(&source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect_beside_changes(&expected);
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
