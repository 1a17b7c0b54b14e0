//! Below the file system (TECHNIQUES 1F): no protected file is ever opened.

use std::{path::PathBuf, process::Command};

use tests::lab::{MIB, process::Identity, which};

use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("dd_of_the_device", dd_of_the_device),
    ("mapped_device", mapped_device),
    ("debugfs_dump", debugfs_dump),
    ("image_below_the_loop_device", image_below_the_loop_device),
    ("device_opened_before_the_agent", device_opened_before_the_agent),
    ("loop_device_over_a_shard", loop_device_over_a_shard),
    ("loop_device_shows_something_else", loop_device_shows_something_else),
    ("mapped_loop_device_over_a_copy", mapped_loop_device_over_a_copy),
    ("filesystem_in_a_protected_image", filesystem_in_a_protected_image),
    ("image_made_beside_a_protected_one", image_made_beside_a_protected_one),
];

/// `/dev/loopN` of the controlled volume.
fn device(scene: &Scene<'_>) -> PathBuf {
    let number = scene.world.controlled.device();
    let minor = number.strip_prefix("7:").expect("a loop device");
    PathBuf::from(format!("/dev/loop{minor}"))
}

fn raw(scene: &Scene<'_>, by: &Identity) -> Expected {
    Expected::act(scene, "WB-0005", "raw_device", by).to(&device(scene).to_string_lossy())
}

/// So many bytes were copied: more than the asset has.
fn all_of_it(scene: Scene<'_>, act: Expected, by: &Identity) {
    let copy = scene.uncontrolled.join("w");
    assert!(size(&copy) >= scene.model.bytes);
    let copied = Expected::copy(&scene, by, &copy, scene.model.bytes);
    scene.expect(&[act, copied]);
}

fn dd_of_the_device(w: &mut World) {
    let scene = w.scene();
    let (input, output) = (
        format!("if={}", device(&scene).display()),
        format!("of={}", scene.uncontrolled.join("w").display()),
    );
    let dd = scene.run(Command::new("dd").args([&input, &output, "bs=1M", "count=64", "status=none"]));
    let act = raw(&scene, &dd);
    all_of_it(scene, act, &dd);
}

fn mapped_device(w: &mut World) {
    let scene = w.scene();
    let mut command = scene.python("raw_mmap.py", include_str!("scripts/raw_mmap.py"));
    let thief =
        scene.run(command.arg(device(&scene)).arg((64 * MIB).to_string()).arg(scene.uncontrolled.join("w")));
    let act = raw(&scene, &thief);
    all_of_it(scene, act, &thief);
}

/// The tool walks the file system's own structures.
fn debugfs_dump(w: &mut World) {
    World::needs("debugfs");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let inside = source.strip_prefix(scene.world.controlled.path()).expect("on the volume");
    // What the page cache has not written yet is not on the device.
    scene.shell(&format!("sync -f {}", source.display()));
    let order = format!("dump /{} {}", inside.display(), copy.display());
    let thief = scene.run(Command::new("debugfs").args(["-R", &order]).arg(device(&scene)));
    let bytes = scene.arrived(source, &copy);
    let expected = [raw(&scene, &thief), Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}

/// The device's bytes, one step further down.
fn image_below_the_loop_device(w: &mut World) {
    let scene = w.scene();
    let image = scene.world.lab.scratch().join("controlled.img");
    let (input, output) =
        (format!("if={}", image.display()), format!("of={}", scene.uncontrolled.join("w").display()));
    let dd = scene.run(Command::new("dd").args([&input, &output, "bs=1M", "count=64", "status=none"]));
    let act = Expected::act(&scene, "WB-0005", "raw_device", &dd).to(&image.to_string_lossy());
    all_of_it(scene, act, &dd);
}

fn device_opened_before_the_agent(w: &mut World) {
    let mut scene = w.prepare();
    let mut command = scene.python("early.py", include_str!("scripts/early.py"));
    let mut early = scene
        .spawn(command.arg(device(&scene)).arg((64 * MIB).to_string()).arg(scene.uncontrolled.join("w")));
    assert_eq!(early.line().expect("it says that it has it open"), "open");
    scene.start();
    early.go().expect("it listens");
    let early = early
        .finish(PATIENCE)
        .and_then(tests::lab::process::Finished::success)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let act = raw(&scene, &early);
    all_of_it(scene, act, &early);
}

/// dd reads a device that no file system lies on; the kernel reads the shard.
fn loop_device_over_a_shard(w: &mut World) {
    World::needs("losetup");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell = scene.shell(&format!(
        "L=$(losetup -r -f --show {}) || exit 1; dd if=$L of={} bs=1M status=none; losetup -d $L",
        source.display(),
        copy.display()
    ));
    let losetup = child(&shell, "losetup");
    let dd = child(&shell, "dd");
    let bytes = scene.arrived(source, &copy);
    let expected =
        [Expected::act(&scene, "WB-0005", "loop_setup", &losetup), Expected::copy(&scene, &dd, &copy, bytes)];
    scene.expect(&expected);
}

/// What a loop device showed is forgotten when it shows another file: who reads that took nothing of the model.
fn loop_device_shows_something_else(w: &mut World) {
    World::needs("losetup");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let other = scene.work.join("other");
    let losetup = child(
        &scene.shell(&format!(
            "head -c 8M /dev/urandom > {other}; L=$(losetup -r -f --show {}) && losetup -d $L && losetup -r $L {other} || exit 1; \
             dd if=$L of={} bs=1M status=none; losetup -d $L",
            source.display(),
            copy.display(),
            other = other.display()
        )),
        "losetup",
    );
    assert_eq!(size(&copy), 8 * MIB);
    let expected = [Expected::act(&scene, "WB-0005", "loop_setup", &losetup)];
    scene.expect(&expected);
}

/// What is mapped is neither the model nor the copy of it, but a device that shows the copy.
fn mapped_loop_device_over_a_copy(w: &mut World) {
    World::needs("losetup");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let stage = scene.controlled.join("stage");
    scene.run(Command::new("cp").arg(source).arg(&stage));
    let script = scene.work.join("raw_mmap.py");
    std::fs::write(&script, include_str!("scripts/raw_mmap.py")).expect("a script can be written");
    let python = World::python();
    let shell = scene.shell(&format!(
        "L=$(losetup -r -f --show {}) || exit 1; {} {} $L {} {}; losetup -d $L",
        stage.display(),
        python.display(),
        script.display(),
        size(source),
        copy.display()
    ));
    let losetup = child(&shell, "losetup");
    let thief = Identity { exe: python, ..losetup.clone() };
    let expected = [
        Expected::act(&scene, "WB-0005", "loop_setup", &losetup),
        Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy)),
    ];
    scene.expect_beside_copies(&expected);
}

/// An image in the model, mounted: its files have identities that nobody registered. Who mounted it, and where.
fn protected_image(w: &mut World) -> (Scene<'_>, Identity, PathBuf) {
    let mut scene = w.prepare();
    let (inside, image) = (scene.work.join("inside"), scene.model.dir.join("disk.img"));
    std::fs::create_dir(&inside).expect("a folder can be made");
    scene.shell(&format!(
        "head -c 8M /dev/urandom > {inside}/w; truncate -s 16M {image}; mkfs.ext4 -q -F -d {inside} {image}",
        inside = inside.display(),
        image = image.display()
    ));
    scene.start();
    let place = scene.work.join("place");
    let words = [std::ffi::OsStr::new("-o"), "loop,ro".as_ref(), image.as_os_str()];
    scene.mount(&words, &place).unwrap_or_else(|error| panic!("{error:#}"));
    let ancestry = tests::lab::process::ancestors(std::process::id());
    let mount = Identity {
        exe: which("mount").expect("mount"),
        pid: None,
        started: None,
        cmdline: None,
        uid: 0,
        ancestry: std::iter::once(std::process::id()).chain(ancestry).collect(),
    };
    (scene, mount, place)
}

fn filesystem_in_a_protected_image(w: &mut World) {
    let (scene, mount, place) = protected_image(w);
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(place.join("w")).arg(&copy));
    let expected = [
        Expected::act(&scene, "WB-0005", "loop_setup", &mount).whatever_the_asset_size(),
        Expected::copy(&scene, &cp, &copy, size(&copy)).whatever_the_asset_size(),
    ];
    scene.expect(&expected);
}

/// Whoever makes another image looks at every loop device that is mounted, and reads none: his image holds nothing of the model, nor
/// does what is copied out of it.
fn image_made_beside_a_protected_one(w: &mut World) {
    let (mut scene, mount, _) = protected_image(w);
    let (image, place) = (scene.work.join("other.img"), scene.work.join("other"));
    let text = format!("truncate -s 32M {image} && mkfs.ext4 -q -F {image}", image = image.display());
    scene.shell(&text);
    let words = [std::ffi::OsStr::new("-o"), "loop".as_ref(), image.as_os_str()];
    scene.mount(&words, &place).unwrap_or_else(|error| panic!("{error:#}"));
    let other = place.join("w");
    scene.shell(&format!("head -c 20M /dev/urandom > {}", other.display()));
    scene.run(Command::new("cp").arg(&other).arg(scene.uncontrolled.join("w")));
    scene.mark();
    let expected = [Expected::act(&scene, "WB-0005", "loop_setup", &mount).whatever_the_asset_size()];
    scene.expect(&expected);
}

fn child(shell: &Identity, program: &str) -> Identity {
    Identity {
        pid: None,
        exe: which(program).expect("it ran"),
        cmdline: None,
        started: None,
        ..shell.clone()
    }
}
