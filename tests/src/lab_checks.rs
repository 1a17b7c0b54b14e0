//! The lab itself: what every other test rests on. Needs no agent.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tests::lab::{
    Lab, MIB,
    outside::{CONTROLLED, UNCONTROLLED, UNCONTROLLED_V6},
    volume::Volume,
};

use crate::world::{PATIENCE, Test, World, size};

pub(crate) const TESTS: &[Test] = &[
    ("volumes_are_filesystems_of_their_own", volumes_are_filesystems_of_their_own),
    ("the_host_sees_nothing", the_host_sees_nothing),
    ("a_dropped_volume_is_gone", a_dropped_volume_is_gone),
    ("movers_move_every_byte", movers_move_every_byte),
    ("the_outside_receives_every_byte", the_outside_receives_every_byte),
    ("cleans_up_when_interrupted", |w| ends_clean(w, Signal::INT)),
    ("cleans_up_when_terminated", |w| ends_clean(w, Signal::TERM)),
    ("cleans_up_after_a_killed_one", cleans_up_after_a_killed_one),
];

fn volumes_are_filesystems_of_their_own(w: &mut World) {
    assert_ne!(w.controlled.device(), w.uncontrolled.device());
    for volume in [&w.controlled, &w.uncontrolled] {
        assert!(mounted(volume.path(), "/proc/self/mountinfo"));
    }
}

/// The lab's parent process lives in the host's namespaces.
fn the_host_sees_nothing(w: &mut World) {
    let host = format!("/proc/{}", std::os::unix::process::parent_id());
    assert!(!mounted(w.controlled.path(), &format!("{host}/mountinfo")));
    let links = fs::read_to_string(format!("{host}/net/dev")).expect("the host's interfaces");
    assert!(!links.contains("inside0"));
}

fn a_dropped_volume_is_gone(w: &mut World) {
    let volume = Volume::ext4(&w.lab, "third", 64 * MIB).unwrap_or_else(|error| panic!("{error:#}"));
    let path = volume.path().to_path_buf();
    let backing = backing_file(volume.device());
    assert_eq!(backing.as_deref(), Some(&*w.lab.scratch().join("third.img")));
    let device = volume.device().to_owned();
    drop(volume);
    assert!(!mounted(&path, "/proc/self/mountinfo"));
    // The loop device lets go of the image with the mount, in its own time.
    let gone = tests::lab::wait_for(PATIENCE, || (backing_file(&device) != backing).then_some(()));
    assert!(gone.is_some(), "the loop device still holds the image");
}

fn movers_move_every_byte(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let source = &scene.model.files[0];
    let takes = ["read", "pread", "readv", "preadv", "mmap"].map(|take| (take, "write"));
    let puts = ["pwrite", "writev", "pwritev", "mmap"].map(|put| ("read", put));
    let both = ["sendfile", "splice", "vmsplice", "tee"].map(|both| (both, "-"));
    for (take, put) in takes.into_iter().chain(puts).chain(both) {
        let copy = scene.uncontrolled.join(format!("{take}{put}"));
        scene.run(&mut scene.mover(take, put, source, &copy.to_string_lossy()));
        assert_eq!(scene.arrived(source, &copy), size(source), "{take} {put}");
    }
    scene.check_truth();
}

fn the_outside_receives_every_byte(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let source = &scene.model.files[0];
    for (ip, call) in [(UNCONTROLLED, "send"), (UNCONTROLLED_V6, "sendmmsg"), (CONTROLLED, "sendmsg")] {
        let receiver = scene.world.outside.tcp(ip).unwrap_or_else(|error| panic!("{error:#}"));
        let to = format!("tcp:{}", receiver.addr);
        scene.run(&mut scene.mover("read", call, source, &to));
        assert_eq!(scene.received(source, receiver), size(source), "{to} {call}");
    }
    for (ip, kind, call) in [
        (UNCONTROLLED, "udp", "send"),
        (UNCONTROLLED, "unconnected", "sendto"),
        (UNCONTROLLED_V6, "unconnected", "sendmmsg"),
        (CONTROLLED, "unconnected", "sendmsg"),
    ] {
        let receiver = scene.world.outside.udp(ip, size(source)).unwrap_or_else(|error| panic!("{error:#}"));
        let to = format!("{kind}:{}", receiver.addr);
        scene.run(scene.mover("read", call, source, &to).args(["--chunk", "32000"]));
        assert_eq!(scene.received(source, receiver), size(source), "{to} {call}");
    }
    scene.check_truth();
}

fn ends_clean(_: &mut World, signal: Signal) {
    let (mut child, scratch) = another_lab();
    assert!(scratch.exists());
    // Its input stays open: closed, it would end by itself.
    let _input = child.stdin.take();
    kill_process(pid_of(&child), signal).expect("the other lab runs");
    let status = child.wait().expect("the other lab ends");
    assert_eq!(status.code(), Some(128 + signal.as_raw()));
    assert!(!scratch.exists(), "{} was left behind", scratch.display());
}

/// Nothing can run after SIGKILL: the kernel takes the mounts, the next lab takes the rest.
fn cleans_up_after_a_killed_one(_: &mut World) {
    let (mut child, scratch) = another_lab();
    kill_process(pid_of(&child), Signal::KILL).expect("the other lab runs");
    let status = child.wait().expect("the other lab ends");
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert!(scratch.exists(), "a killed lab cannot clean up");
    let (mut next, _) = another_lab();
    let _input = next.stdin.take();
    assert!(!scratch.exists(), "{} was left behind", scratch.display());
    kill_process(pid_of(&next), Signal::TERM).expect("the other lab runs");
    next.wait().expect("the other lab ends");
}

/// `e2e hold`: enters a lab of its own, says where, and waits until it is killed.
pub(crate) fn hold() -> anyhow::Result<()> {
    let lab = Lab::enter()?;
    let _volume = Volume::ext4(&lab, "held", 64 * MIB)?;
    println!("{}", lab.scratch().display());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// A lab in a process of its own, and its scratch directory.
fn another_lab() -> (std::process::Child, PathBuf) {
    let own = std::env::current_exe().expect("a process knows its executable");
    let mut child = Command::new(own)
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("another lab starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("the other lab says where it is");
    assert!(!line.is_empty(), "the other lab ended early");
    (child, PathBuf::from(line.trim()))
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid")
}

/// Whether a mount table names this mount point.
fn mounted(path: &Path, table: &str) -> bool {
    let table = fs::read_to_string(table).expect("a mount table");
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}

/// The image behind a loop device; `None` when it is free.
fn backing_file(device: &str) -> Option<PathBuf> {
    fs::read_to_string(format!("/sys/dev/block/{device}/loop/backing_file"))
        .ok()
        .map(|path| path.trim().into())
}
