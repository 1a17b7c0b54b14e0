//! What looks like reaching, going below or opening a channel, and is none: whoever it is done to, or does it, holds nothing.

use std::process::Command;

use tests::lab::process::Finished;

use crate::world::{PATIENCE, Test, World, skip};

pub(crate) const TESTS: &[Test] = &[
    ("strace_of_ls", strace_of_ls),
    ("debugger_on_an_innocent", debugger_on_an_innocent),
    ("process_listing_while_a_server_runs", process_listing_while_a_server_runs),
    ("server_looks_at_its_own_worker", server_looks_at_its_own_worker),
    ("debugger_on_who_heard_a_line_from_a_server", debugger_on_who_heard_a_line),
    ("packet_capture", packet_capture),
    ("core_dump_of_an_innocent", core_dump_of_an_innocent),
    ("disk_and_image_only_named", disk_and_image_only_named),
    ("loop_device_over_something_else", loop_device_over_something_else),
];

fn strace_of_ls(w: &mut World) {
    World::needs("strace");
    let scene = w.scene();
    scene.run(Command::new("strace").args(["-f", "-o", "/dev/null", "ls", "/"]));
    scene.expect_silence();
}

fn debugger_on_an_innocent(w: &mut World) {
    World::needs("gdb");
    let scene = w.scene();
    let mut sleeper = scene.spawn(Command::new("sh").args(["-c", "echo up; read line"]));
    sleeper.line().unwrap_or_else(|error| panic!("{error:#}"));
    let pid = sleeper.identity.pid.expect("it was started").to_string();
    scene.run(Command::new("gdb").args(["-nx", "-batch", "-p", &pid, "-ex", "bt"]));
    sleeper.go().expect("it listens");
    sleeper.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    scene.expect_silence();
}

/// `ps`, `top` and `lsof` read nothing that was in the process's memory but its arguments.
fn process_listing_while_a_server_runs(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("../techniques/scripts/victim.py");
    let mut server = scene.spawn(scene.python("victim.py", script).arg(&scene.model.files[0]));
    server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let pid = server.identity.pid.expect("it was started");
    scene.shell(&format!(
        "cd /proc/{pid}; cat status stat maps smaps cmdline environ limits io > /dev/null; (ls -l fd map_files; readlink exe cwd \
         root; ps aux; cat /proc/{pid}/root/etc/hostname) > /dev/null; true"
    ));
    server.go().expect("it listens");
    server.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    scene.expect_silence();
}

/// A worker has what it was forked with: its parent, which reads it, had all of that before.
fn server_looks_at_its_own_worker(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("scripts/own_worker.py");
    scene.run(scene.python("own_worker.py", script).arg(&scene.model.files[0]));
    scene.expect_silence();
}

/// What a server prints makes holders of a few bytes, which are worth no act; so the debugger of a monitor is no thief.
fn debugger_on_who_heard_a_line(w: &mut World) {
    World::needs("gdb");
    let scene = w.scene();
    let script = include_str!("../techniques/scripts/victim.py");
    let mut server = scene.spawn(scene.python("victim.py", script).arg(&scene.model.files[0]));
    // Who starts the monitor has read it by then, and it inherits that.
    server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let mut monitor = scene.spawn(Command::new("sh").args(["-c", "echo up; read line"]));
    monitor.line().unwrap_or_else(|error| panic!("{error:#}"));
    let pid = monitor.identity.pid.expect("it was started").to_string();
    scene.run(Command::new("gdb").args(["-nx", "-batch", "-p", &pid, "-ex", "bt"]));
    for mut running in [monitor, server] {
        running.go().expect("it listens");
        running.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    }
    scene.expect_silence();
}

/// As tcpdump or a DHCP client does.
fn packet_capture(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("../techniques/scripts/raw_channel.py");
    let running = scene.spawn(scene.python("raw_channel.py", script).args(["packet", "before"]));
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    finished.success().unwrap_or_else(|error| panic!("{error:#}"));
    scene.expect_silence();
}

/// While somebody else holds the model. Where the kernel puts the core does not matter.
fn core_dump_of_an_innocent(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("../techniques/scripts/victim.py");
    let mut server = scene.spawn(scene.python("victim.py", script).arg(&scene.model.files[0]));
    server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let running = scene.spawn(Command::new("sh").args(["-c", "ulimit -c unlimited; kill -ABRT $$"]));
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(finished.signal, Some(6), "{}", finished.stderr);
    server.go().expect("it listens");
    server.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    scene.expect_silence();
}

/// As service managers and container runtimes do with all that they are told of (`O_PATH`).
fn disk_and_image_only_named(w: &mut World) {
    let scene = w.scene();
    let minor = scene.world.controlled.device().replace("7:", "/dev/loop");
    let image = scene.world.lab.scratch().join("controlled.img");
    let script = "import os, sys; [os.fstat(os.open(path, os.O_PATH)) for path in sys.argv[1:]]";
    scene.run(Command::new(World::python()).args(["-c", script, &minor]).arg(image));
    scene.expect_silence();
}

fn loop_device_over_something_else(w: &mut World) {
    World::needs("losetup");
    let mut scene = w.scene();
    let image = scene.work.join("other.img");
    scene.shell(&format!(
        "truncate -s 16M {image}; mkfs.ext4 -q -F {image}; L=$(losetup -f --show {image}) || exit 1; cat $L > /dev/null; \
         losetup -d $L",
        image = image.display()
    ));
    let words = [std::ffi::OsStr::new("-o"), "loop,ro".as_ref(), image.as_os_str()];
    let place = scene.work.join("other");
    scene.mount(&words, &place).unwrap_or_else(|error| panic!("{error:#}"));
    scene.shell(&format!("ls -la {}", place.display()));
    scene.expect_silence();
}
