//! Borrowing another process (TECHNIQUES 1D): its memory, its descriptors, its core.

use std::{path::Path, process::Command};

use tests::lab::{
    MIB,
    process::{Finished, Identity, Running},
};

use super::tooling::descendant;
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("process_vm_readv", process_vm_readv),
    ("process_vm_readv_by_an_older_process", |w| older(w, "vm", "process_vm_readv")),
    ("process_vm_writev", process_vm_writev),
    ("proc_mem_of_a_thread", proc_mem_of_a_thread),
    ("proc_mem_by_an_older_process", |w| older(w, "mem", "proc_mem")),
    ("proc_mem_opened_before_it_held_anything", proc_mem_opened_before_it_held_anything),
    ("ptrace_peek", ptrace_peek),
    ("strace_of_a_server", strace_of_a_server),
    ("gcore", gcore),
    ("given_to_an_innocent", |w| given_to_an_innocent(w, "vm")),
    ("given_through_proc_mem", |w| given_to_an_innocent(w, "mem")),
    ("filled_through_a_descriptor", filled_through_a_descriptor),
    ("executed_during_process_vm_readv", executed_during_a_read),
    ("proc_mem_opened_by_io_uring", proc_mem_opened_by_io_uring),
    ("core_dump", core_dump),
    ("memory_shared_with_a_server", memory_shared_with_a_server),
    ("memory_mapped_by_one_that_sleeps", memory_mapped_by_one_that_sleeps),
    ("taken_and_handed_on", taken_and_handed_on),
    ("killed_during_process_vm_readv", |w| killed_while_read(w, "vm", "process_vm_readv")),
    ("killed_during_a_read_of_proc_mem", |w| killed_while_read(w, "mem", "proc_mem")),
];

/// A server that has the first shard in its memory, and where.
fn server(scene: &Scene<'_>) -> (Running, String, u64) {
    let mut command = scene.python("victim.py", include_str!("scripts/victim.py"));
    let mut server = scene.spawn(command.arg(&scene.model.files[0]));
    let line = server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let (address, length) = line.split_once(' ').expect("an address and a size");
    let length = length.parse().expect("a size");
    (server, address.to_owned(), length)
}

fn pid(running: &Running) -> String {
    running.identity.pid.expect("it was started").to_string()
}

/// Takes `bytes` out of a server by `how` and writes them to the uncontrolled volume.
fn thief(scene: Scene<'_>, how: &str, kind: &'static str, bytes: Option<u64>) {
    let (server, address, length) = server(&scene);
    let copy = scene.uncontrolled.join("w");
    let bytes = bytes.unwrap_or(length);
    let mut command = scene.python("reach.py", include_str!("scripts/reach.py"));
    command.args([how, &pid(&server), &address, &bytes.to_string()]).arg(&copy);
    let thief = done(scene.spawn(&mut command));
    let victim = end(server);
    let bytes = size(&copy);
    let expected = [
        Expected::act(&scene, "WB-0006", kind, &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, bytes),
    ];
    scene.expect(&expected);
}

fn done(running: Running) -> Identity {
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    // What the script says when the kernel refuses its technique.
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    finished.success().unwrap_or_else(|error| panic!("{error:#}"))
}

fn end(server: Running) -> Identity {
    server.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
}

fn process_vm_readv(w: &mut World) {
    thief(w.scene(), "vm", "process_vm_readv", None);
}

fn proc_mem_of_a_thread(w: &mut World) {
    thief(w.scene(), "mem", "proc_mem", None);
}

/// A process that waits until it is told where to reach: `destination` of what it takes.
fn waiting(scene: &Scene<'_>, how: &str, destination: &Path) -> Running {
    let mut command = scene.python("reach.py", include_str!("scripts/reach.py"));
    let mut thief = scene.spawn(command.args([&format!("{how}-early"), "0", "0", "0"]).arg(destination));
    assert_eq!(thief.line().unwrap_or_else(|error| panic!("{error:#}")), "ready");
    thief
}

/// The test itself hears from the server, through a pipe, where its memory is, and so do all that it starts from then on. This thief
/// was there before: nothing but what it does makes a holder of it.
fn older(w: &mut World, how: &str, kind: &'static str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mut thief = waiting(&scene, how, &copy);
    let (server, address, length) = server(&scene);
    scene.settled();
    thief.say(&format!("{} {address} {length}", pid(&server))).expect("the thief listens");
    let thief = done(thief);
    let victim = end(server);
    let expected = [
        Expected::act(&scene, "WB-0006", kind, &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, scene.arrived(&scene.model.files[0], &copy)),
    ];
    scene.expect(&expected);
}

/// Who writes into a server's memory can make it say all that it holds.
fn process_vm_writev(w: &mut World) {
    let scene = w.scene();
    let mut writer = waiting(&scene, "write", Path::new("-"));
    let (server, address, _) = server(&scene);
    writer.say(&format!("{} {address} 64", pid(&server))).expect("the writer listens");
    let writer = done(writer);
    let victim = end(server);
    let expected = [Expected::act(&scene, "WB-0006", "process_vm_writev", &writer).of_victim(&victim)];
    scene.expect(&expected);
}

/// The thief puts what it took into a pipe that it had opened before; who reads that is older too.
fn taken_and_handed_on(w: &mut World) {
    let scene = w.scene();
    let (copy, pipe) = (scene.uncontrolled.join("w"), scene.work.join("pipe"));
    scene.run(Command::new("mkfifo").arg(&pipe));
    let text = format!("exec cat {} > {}", pipe.display(), copy.display());
    let relay = scene.spawn(Command::new("sh").args(["-c", &text]));
    let mut thief = waiting(&scene, "vm", &pipe);
    let (server, address, length) = server(&scene);
    thief.say(&format!("{} {address} {length}", pid(&server))).expect("the thief listens");
    let (thief, relay) = (done(thief), done(relay));
    let victim = end(server);
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [
        Expected::act(&scene, "WB-0006", "process_vm_readv", &thief).of_victim(&victim),
        Expected::copy(&scene, &descendant(&relay, "cat"), &copy, bytes).through(1),
    ];
    scene.expect(&expected);
}

/// A word at a time.
fn ptrace_peek(w: &mut World) {
    thief(w.scene(), "peek", "ptrace", Some(MIB));
}

/// When it is opened there is nothing to be seen; it is read later.
fn proc_mem_opened_before_it_held_anything(w: &mut World) {
    let scene = w.scene();
    let mut command = scene.python("victim.py", include_str!("scripts/victim.py"));
    let mut server = scene.spawn(command.arg(&scene.model.files[0]).arg("late"));
    assert_eq!(server.line().expect("it says that it runs"), "empty");
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.python("reach.py", include_str!("scripts/reach.py"));
    let mut thief = scene.spawn(command.args(["mem-opened", &pid(&server), "0", "0"]).arg(&copy));
    assert_eq!(thief.line().expect("it says that it has it open"), "open");
    server.go().expect("the server listens");
    let place = server.line().unwrap_or_else(|error| panic!("{error:#}"));
    thief.say(&place).expect("the thief listens");
    let thief = done(thief);
    let victim = end(server);
    let expected = [
        Expected::act(&scene, "WB-0006", "proc_mem", &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, size(&copy)),
    ];
    scene.expect(&expected);
}

fn strace_of_a_server(w: &mut World) {
    World::needs("strace");
    let scene = w.scene();
    let (mut server, ..) = server(&scene);
    let log = scene.work.join("strace.log");
    let mut strace = scene.spawn(Command::new("strace").args(["-o"]).arg(&log).args(["-p", &pid(&server)]));
    strace.wait_for_stderr("attached").unwrap_or_else(|error| panic!("{error:#}"));
    server.go().expect("the server listens");
    let victim = end(server);
    let strace = end(strace);
    let expected = [
        Expected::act(&scene, "WB-0006", "ptrace", &strace).of_victim(&victim),
        Expected::act(&scene, "WB-0006", "process_vm_readv", &strace).of_victim(&victim).if_raised(),
    ];
    scene.expect(&expected);
}

/// The whole memory of the server, written out by a debugger.
fn gcore(w: &mut World) {
    World::needs("gdb");
    let scene = w.scene();
    let (server, ..) = server(&scene);
    let core = scene.uncontrolled.join("core");
    let order = format!("generate-core-file {}", core.display());
    let gdb = scene.run(Command::new("gdb").args(["-nx", "-batch", "-p", &pid(&server), "-ex", &order]));
    let victim = end(server);
    assert!(size(&core) > size(&scene.model.files[0]), "no core was written");
    let bytes = size(&scene.model.files[0]);
    let expected = [
        Expected::act(&scene, "WB-0006", "ptrace", &gdb).of_victim(&victim),
        Expected::act(&scene, "WB-0006", "proc_mem", &gdb).of_victim(&victim),
        Expected::act(&scene, "WB-0006", "process_vm_readv", &gdb).of_victim(&victim).if_raised(),
        Expected::copy(&scene, &gdb, &core, bytes).or_up_to_the_asset(),
    ];
    scene.expect(&expected);
}

/// The other way round: the holder writes into the memory of a process that never opened anything.
fn given_to_an_innocent(w: &mut World, how: &str) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.python("give.py", include_str!("scripts/give.py"));
    let parent = done(scene.spawn(command.arg(how).arg(&scene.model.files[0]).arg(&copy)));
    let ancestry = parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect();
    let child = Identity { pid: None, started: None, ancestry, ..parent };
    let expected = [Expected::copy(&scene, &child, &copy, scene.arrived(&scene.model.files[0], &copy))];
    scene.expect(&expected);
}

/// The holder copies into memory whose faults it was asked to answer (`UFFDIO_COPY`).
fn filled_through_a_descriptor(w: &mut World) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.python("filled.py", include_str!("scripts/filled.py"));
    let parent = done(scene.spawn(command.arg(&scene.model.files[0]).arg(&copy)));
    let ancestry = parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect();
    let child = Identity { pid: None, started: None, ancestry, ..parent };
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &child, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// The server executes another program while its memory is being read: the bytes were those of the one before.
fn executed_during_a_read(w: &mut World) {
    let scene = w.scene();
    let (server, copy) = (scene.work.join("victim.py"), scene.uncontrolled.join("w"));
    std::fs::write(&server, include_str!("scripts/victim.py")).expect("a script can be written");
    let mut command = scene.python("reach_gone.py", include_str!("scripts/reach_gone.py"));
    let thief = done(scene.spawn(command.arg("exec").arg(&server).arg(&scene.model.files[0]).arg(&copy)));
    // By what name the server is called depends on who is there when somebody asks.
    let expected = [
        Expected::act(&scene, "WB-0006", "process_vm_readv", &thief),
        Expected::copy(&scene, &thief, &copy, size(&copy)),
    ];
    scene.expect(&expected);
}

/// Opened by a request, so that no call names the path; then read by calls.
fn proc_mem_opened_by_io_uring(w: &mut World) {
    let scene = w.scene();
    let (server, address, length) = server(&scene);
    let copy = scene.uncontrolled.join("w");
    std::fs::write(scene.work.join("uring.py"), include_str!("scripts/uring.py")).expect("a script");
    let mut command = scene.python("reach.py", include_str!("scripts/reach.py"));
    command.args(["uring", &pid(&server), &address, &length.to_string()]).arg(&copy);
    let thief = done(scene.spawn(&mut command));
    let victim = end(server);
    let expected = [
        Expected::act(&scene, "WB-0006", "proc_mem", &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, size(&copy)),
    ];
    scene.expect(&expected);
}

/// Out of a process that has the server's memory, holds nothing by a call of its own, and makes none.
fn memory_shared_with_a_server(w: &mut World) {
    let scene = w.scene();
    let mut command = scene.python("beside.py", include_str!("scripts/beside.py"));
    let mut server = scene.spawn(command.arg(&scene.model.files[0]));
    let line = server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let [address, length, beside] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.python("reach.py", include_str!("scripts/reach.py"));
    let thief = done(scene.spawn(command.args(["vm", beside, address, length]).arg(&copy)));
    let parent = end(server);
    let victim = Identity { pid: beside.parse().ok(), ..parent };
    let expected = [
        Expected::act(&scene, "WB-0006", "process_vm_readv", &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, scene.arrived(&scene.model.files[0], &copy)),
    ];
    scene.expect(&expected);
}

/// Out of a process that has mapped what a server fills, and sleeps.
fn memory_mapped_by_one_that_sleeps(w: &mut World) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("w");
    let mut thief = waiting(&scene, "vm", &copy);
    let mut command = scene.python("sleeper.py", include_str!("scripts/sleeper.py"));
    let mut server = scene.spawn(command.arg(&scene.model.files[0]));
    let line = server.line().unwrap_or_else(|error| panic!("{error:#}"));
    let [address, length, sleeper] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    thief.say(&format!("{sleeper} {address} {length}")).expect("the thief listens");
    let thief = done(thief);
    let victim = Identity { pid: sleeper.parse().ok(), ..end(server) };
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [
        Expected::act(&scene, "WB-0006", "process_vm_readv", &thief).of_victim(&victim),
        Expected::copy(&scene, &thief, &copy, bytes).or_up_to_the_asset(),
    ];
    scene.expect(&expected);
}

/// When the call returns nobody can say any more whose memory it read.
fn killed_while_read(w: &mut World, how: &str, kind: &'static str) {
    let scene = w.scene();
    let (server, copy) = (scene.work.join("victim.py"), scene.uncontrolled.join("w"));
    std::fs::write(&server, include_str!("scripts/victim.py")).expect("a script can be written");
    let mut command = scene.python("reach_gone.py", include_str!("scripts/reach_gone.py"));
    let thief = done(scene.spawn(command.arg(how).arg(&server).arg(&scene.model.files[0]).arg(&copy)));
    let bytes = size(&copy);
    let mut expected =
        vec![Expected::act(&scene, "WB-0006", kind, &thief), Expected::copy(&scene, &thief, &copy, bytes)];
    // The memory was opened while the server lived.
    if how == "mem" {
        let victim = Identity { pid: None, ..thief.clone() };
        expected.insert(0, Expected::act(&scene, "WB-0006", kind, &thief).of_victim(&victim));
    }
    scene.expect(&expected);
}

/// The kernel writes it into the working directory, which lies on neither volume.
fn core_dump(w: &mut World) {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.trim() != "core" {
        skip(format_args!("kernel.core_pattern is {}, and this test wants core", pattern.trim()));
    }
    let scene = w.scene();
    let script = "ulimit -c unlimited; exec \"$0\" -c 'import os, sys; d = open(sys.argv[1], \"rb\").read(); os.abort()' \"$1\"";
    let python = World::python();
    let running =
        scene.spawn(Command::new("sh").args(["-c", script]).arg(&python).arg(&scene.model.files[0]));
    let finished = running.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(finished.signal, Some(6), "{}", finished.stderr);
    if std::fs::read_dir(&scene.work)
        .expect("a folder")
        .flatten()
        .all(|file| !file.file_name().to_string_lossy().starts_with("core"))
    {
        skip("no core was written");
    }
    let dumped = Identity { exe: python, cmdline: None, ..finished.identity };
    let expected = [Expected::act(&scene, "WB-0006", "core_dump", &dumped).of_victim(&dumped)];
    scene.expect(&expected);
}
