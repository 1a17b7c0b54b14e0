//! What neither answers nor fails: a disk and a filesystem that hang, and an agent that is starved without a signal, must not keep it
//! from telling of anything else.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{Advice, fadvise},
    process::{Pid, Signal, kill_process},
};
use tests::lab::{
    BPFFS,
    guard::{Undo, Undoing},
    metrics,
    process::{Finished, Running},
    volume::device_of,
    wait_for,
};

use crate::world::{PATIENCE, Scene, Test, World, skip};

pub(crate) const TESTS: &[Test] = &[
    ("a_disk_that_does_not_answer_is_asked_aside", disk),
    ("rules_that_do_not_answer_are_told_of", rules),
    ("a_program_whose_filesystem_does_not_answer", program),
    ("a_mount_in_an_asset_that_does_not_answer", asset),
    ("a_mount_below_what_does_not_answer", mount_point),
    ("a_loop_device_over_what_does_not_answer", image),
    ("state_and_pins_that_do_not_answer", own_folders),
    ("what_is_taken_without_a_signal_is_told_of", starved),
];

/// A server of a filesystem that is stopped; it goes on when this is dropped, so that what waits for it can end.
struct Stopped(Pid);

impl Stopped {
    fn new(server: &Running) -> Self {
        let pid =
            server.identity.pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it was started");
        kill_process(pid, Signal::STOP).expect("it can be stopped");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may be gone.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A folder that bindfs shows at another place. Unmounted first: nobody can look at what a server left mounted.
struct Served {
    _mount: Undoing,
    server: Running,
}

/// Shows `folder` at `place`, which is there.
fn bindfs(scene: &Scene<'_>, folder: &Path, place: &Path) -> Served {
    World::needs("bindfs");
    if !Path::new("/dev/fuse").exists() {
        skip("this kernel has no FUSE");
    }
    let before = device_of(place).ok();
    let server = scene.spawn(Command::new("bindfs").args(["-f", "-o", "nonempty"]).arg(folder).arg(place));
    let mounted =
        wait_for(PATIENCE, || device_of(place).ok().filter(|device| before.as_ref() != Some(device)));
    assert!(mounted.is_some(), "bindfs never mounted");
    Served { _mount: Undoing::new(Undo::Unmount(place.to_path_buf())), server }
}

/// Copies the second shard to the uncontrolled volume: the agent still tells of it.
fn still_tells(scene: &mut Scene<'_>) {
    let (source, copy) = (scene.model.files[1].clone(), scene.uncontrolled.join("while-it-hangs"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy while something hangs", |alert| {
        alert.rule() == "WB-0001" && Path::new(alert.text("/sink/path")) == copy && alert.bound() == bytes
    });
}

/// A copy is removed from a volume whose disk is a file that nobody serves any more. Whether it is gone only the disk can say.
fn disk(w: &mut World) {
    let mut scene = w.scene();
    let [below, served, place] = ["below", "served", "volume"].map(|name| scene.work.join(name));
    let made = scene.mount(&["-t", "tmpfs", "none"].map(OsStr::new), &below);
    made.unwrap_or_else(|error| panic!("{error:#}"));
    fs::create_dir(&served).expect("a folder can be made");
    let served_by = bindfs(&scene, &below, &served);
    let image = served.join("image");
    scene.shell(&format!("truncate -s 64M {0} && mkfs.ext4 -q -F -E nodiscard {0}", image.display()));
    let made = scene.mount(&[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str()], &place);
    made.unwrap_or_else(|error| panic!("{error:#}"));
    let copy = place.join("w");
    scene.run(Command::new("cp").arg(&scene.model.files[0]).arg(&copy));
    scene.run(Command::new("sync").arg("-f").arg(&copy));
    let count = |scene: &Scene<'_>, name| metrics::sum(&scene.metrics(), name, &[]).expect("it is counted");
    let kept = wait_for(PATIENCE, || (count(&scene, "weighbridge_copies_kept") >= 1.0).then_some(()));
    assert!(kept.is_some(), "the copy is not kept");
    let below = fs::File::open(&image).expect("the image opens");
    below.sync_all().expect("the image can be written out");
    let stopped = Stopped::new(&served_by.server);
    // What the kernel still has of the image would answer in its place, and rightly.
    fadvise(&below, 0, None, Advice::DontNeed).expect("the kernel can let go of the image");
    fs::remove_file(&copy).expect("it can be removed");
    let doubted =
        wait_for(PATIENCE, || (count(&scene, "weighbridge_copies_doubted_total") >= 1.0).then_some(()));
    assert!(doubted.is_some(), "a disk that does not answer vouches for what is gone");
    still_tells(&mut scene);
    assert!(count(&scene, "weighbridge_copies_kept") >= 1.0, "it is given up");
    drop(stopped);
    scene.stop();
}

/// Mounted over what the agent looks at each second.
fn rules(w: &mut World) {
    let mut scene = w.scene();
    let place: PathBuf = scene.config.rules[0].clone();
    let shown = scene.work.join("shown");
    fs::create_dir(&shown).expect("a folder can be made");
    let served_by = bindfs(&scene, &shown, &place);
    let stopped = Stopped::new(&served_by.server);
    scene.wait_for("files that do not answer", |alert| {
        (alert.rule(), alert.text("/act/kind")) == ("WB-0010", "files_changed")
            && alert.text("/act/target").contains(" does not answer")
    });
    still_tells(&mut scene);
    drop(stopped);
    scene.stop();
}

/// Whoever takes bytes chooses where his program lies: that its hash cannot be had must not keep him from being told of.
fn program(w: &mut World) {
    let mut scene = w.scene();
    let [shown, served] = ["shown", "served"].map(|name| scene.work.join(name));
    for folder in [&shown, &served] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let python = fs::canonicalize(World::python()).expect("Python is there");
    fs::copy(python, shown.join("thief")).expect("it can be copied");
    let served_by = bindfs(&scene, &shown, &served);
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    // All of it in memory, so that the thief itself needs nothing more from where it lies.
    let text = format!(
        "import ctypes; assert ctypes.CDLL(None).mlockall(1) == 0; print('here', flush=True); input()\n\
         open({copy:?}, 'wb').write(open({source:?}, 'rb').read())"
    );
    let mut thief = scene.spawn(Command::new(served.join("thief")).args(["-c", &text]));
    assert_eq!(thief.line().expect("it starts"), "here");
    let stopped = Stopped::new(&served_by.server);
    thief.go().expect("it listens");
    thief.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy by a program that cannot be read", |alert| {
        alert.rule() == "WB-0001" && Path::new(alert.text("/sink/path")) == copy && alert.bound() == bytes
    });
    drop(stopped);
    scene.stop();
}

/// The registry looks at everything below an asset.
fn asset(w: &mut World) {
    let mut scene = w.scene();
    let (shown, place) = (scene.work.join("shown"), scene.model.dir.join("below"));
    for folder in [&shown, &place] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let served_by = bindfs(&scene, &shown, &place);
    let stopped = Stopped::new(&served_by.server);
    // So that it looks again.
    fs::write(scene.model.dir.join("new"), b"").expect("a file can be made");
    scene.wait_for("what does not answer", |alert| {
        (alert.rule(), alert.text("/act/kind")) == ("WB-0010", "files_changed")
            && alert.text("/act/target").starts_with(&format!("{} does not answer", place.display()))
    });
    still_tells(&mut scene);
    drop(stopped);
    scene.stop();
}

/// A disk is mounted where only the way to it hangs; which one it is can be asked only along that way.
fn mount_point(w: &mut World) {
    let mut scene = w.scene();
    let [shown, served, other] = ["shown", "served", "other"].map(|name| scene.work.join(name));
    for folder in [&shown, &served, &shown.join("disk")] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let served_by = bindfs(&scene, &shown, &served);
    let (image, place) = (scene.work.join("image"), served.join("disk"));
    scene.shell(&format!("truncate -s 16M {0} && mkfs.ext4 -q -F {0}", image.display()));
    let words = ["-o", "loop", &image.display().to_string()].map(str::to_owned);
    scene
        .mount_over(&words.each_ref().map(String::as_str), &place)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let stopped = Stopped::new(&served_by.server);
    // So that it looks at all mounts again.
    let made = scene.mount(&["-t", "tmpfs", "none"].map(OsStr::new), &other);
    made.unwrap_or_else(|error| panic!("{error:#}"));
    still_tells(&mut scene);
    drop(stopped);
    scene.stop();
}

/// The file below each loop device is looked at whenever a mount comes or goes.
fn image(w: &mut World) {
    let mut scene = w.scene();
    let [shown, served, other] = ["shown", "served", "other"].map(|name| scene.work.join(name));
    for folder in [&shown, &served] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let served_by = bindfs(&scene, &shown, &served);
    let (file, place) = (served.join("image"), scene.work.join("disk"));
    scene.shell(&format!("truncate -s 16M {0} && mkfs.ext4 -q -F {0}", file.display()));
    let made = scene.mount(&[OsStr::new("-o"), OsStr::new("loop"), file.as_os_str()], &place);
    made.unwrap_or_else(|error| panic!("{error:#}"));
    let stopped = Stopped::new(&served_by.server);
    let made = scene.mount(&["-t", "tmpfs", "none"].map(OsStr::new), &other);
    made.unwrap_or_else(|error| panic!("{error:#}"));
    still_tells(&mut scene);
    drop(stopped);
    scene.stop();
}

/// The agent's own: it goes on with what it has open, and says that it cannot look.
fn own_folders(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.config.start.arguments = ["--prove-every", "1"].map(str::to_owned).to_vec();
    scene.start();
    let shown = scene.work.join("shown");
    fs::create_dir(&shown).expect("a folder can be made");
    let pins = fs::read_dir(Path::new(BPFFS).join("weighbridge")).expect("it has pins").flatten().next();
    let pins = pins.expect("a folder of pins").path();
    for (place, kind) in [(pins, "pins_touched"), (scene.config.state_dir.clone(), "files_changed")] {
        let served_by = bindfs(&scene, &shown, &place);
        let stopped = Stopped::new(&served_by.server);
        scene.wait_for(kind, |alert| {
            (alert.rule(), alert.text("/act/kind")) == ("WB-0010", kind)
                && alert.text("/act/target").starts_with(&place.display().to_string())
                && alert.text("/act/target").contains(" does not answer")
        });
        drop(stopped);
    }
    still_tells(&mut scene);
    scene.stop();
}

/// Each says what was changed and to what; the kernel does not tell who did it.
fn starved(w: &mut World) {
    let mut scene = w.scene();
    let pid = scene.agent().pid();
    let scripts = [
        ("oom_score_adj", format!("open('/proc/{pid}/oom_score_adj', 'w').write('1000')"), "1000"),
        ("nice", format!("import os; os.setpriority(os.PRIO_PROCESS, {pid}, 19)"), "19"),
        ("the list of processors", format!("import os; os.sched_setaffinity({pid}, {{0}})"), "0"),
    ];
    for (what, script, value) in scripts {
        if what == "the list of processors"
            && std::thread::available_parallelism().is_ok_and(|many| many.get() == 1)
        {
            continue;
        }
        scene.run(Command::new(World::python()).args(["-c", &script]));
        scene.wait_for(what, |alert| {
            let target = alert.text("/act/target");
            (alert.rule(), alert.text("/act/kind")) == ("WB-0010", "signalled")
                && target.starts_with(&format!("{what} of the agent was "))
                && target.ends_with(&format!(" and is {value}"))
        });
    }
    still_tells(&mut scene);
    scene.stop();
}
