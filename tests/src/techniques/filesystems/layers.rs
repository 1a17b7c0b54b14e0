//! Layers, by path: a call names a file of the model, and the kernel copies it up; nobody opens it.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use super::{on_a, overlays::overlay_with};
use crate::{
    expect::Expected,
    techniques::{
        tooling::{descendant, ok},
        uring::{self, run_on},
    },
    world::{Scene, World},
};

const SCRIPT: &str = include_str!("../scripts/layers.py");

fn script(scene: &Scene<'_>) -> Command {
    scene.python("layers.py", SCRIPT)
}

fn name(scene: &Scene<'_>) -> PathBuf {
    scene.model.files[0].file_name().expect("a name").into()
}

/// In one way of the script, with these options of the overlay.
pub(super) fn by_path(w: &mut World, way: &str, options: &str) {
    let mut scene = w.scene();
    let place = overlay_with(&mut scene, "uncontrolled", options);
    let name = name(&scene);
    let thief = run_on(&scene, script(&scene).arg(way).arg(place.join(&name)));
    copied_up(scene, &place, name, way, &thief);
}

/// By a request of io_uring.
pub(super) fn by_request(w: &mut World, way: &str) {
    let mut scene = w.scene();
    let place = overlay_with(&mut scene, "uncontrolled", "");
    let name = name(&scene);
    let file = place.join(&name);
    let mut command = scene.python("uring.py", uring::SCRIPT);
    let thief = run_on(&scene, command.arg(way).arg(&file).arg(format!("{}.2", file.display())));
    copied_up(scene, &place, name, way, &thief);
}

fn copied_up(
    scene: Scene<'_>,
    place: &std::path::Path,
    name: PathBuf,
    way: &str,
    thief: &tests::lab::process::Identity,
) {
    let name = if way.starts_with("rename") { format!("{}.2", name.display()).into() } else { name };
    let copy = scene.uncontrolled.join("upper").join(&name);
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, thief, &copy, bytes).or_at(&place.join(&name), place)];
    scene.expect(&expected);
}

/// With `metacopy=on` nothing is copied before somebody opens it for writing.
pub(super) fn metadata_first(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay_with(&mut scene, "uncontrolled", ",metacopy=on");
    let name = name(&scene);
    let file = place.join(&name);
    run_on(&scene, script(&scene).arg("chmod").arg(&file));
    let shell = scene
        .shell(&format!("exec dd if=/dev/null of={} conv=notrunc oflag=append status=none", file.display()));
    let dd = descendant(&shell, "dd");
    copied_up(scene, &place, name, "dd", &dd);
}

/// Who comes second finds it copied: nothing is told of him.
pub(super) fn copied_once(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay_with(&mut scene, "uncontrolled", "");
    let name = name(&scene);
    let thief = run_on(&scene, script(&scene).arg("chmod").arg(place.join(&name)));
    scene.shell(&format!("chmod 644 {}", place.join(&name).display()));
    copied_up(scene, &place, name, "chmod", &thief);
}

/// Out of the upper layer as soon as it is there, by somebody else, with the overlay gone.
pub(super) fn taken_at_once(w: &mut World) {
    World::needs("unshare");
    let scene = w.scene();
    let folders = ["upper", "scratch", "merged"].map(|name| scene.controlled.join(name));
    for folder in &folders {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let [upper, scratch, place] = folders.map(|folder| folder.display().to_string());
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let name = source.file_name().expect("a name").display();
    let text = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={upper},workdir={scratch} {place} && chmod 600 {place}/{name} \
         && umount {place} && cat {upper}/{name} > {}; true",
        scene.model.dir.display(),
        copy.display(),
    );
    let shell = scene.run(Command::new("unshare").args(["-m", "sh", "-c", &text]));
    let cat = descendant(&shell, "cat");
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy))];
    scene.expect_beside_copies(&expected);
}

/// In a mount namespace of the thief's own, and with `user` in a user namespace too.
pub(super) fn in_a_namespace(w: &mut World, user: bool) {
    World::needs("unshare");
    let scene = w.scene();
    let [upper, scratch] = ["upper", "scratch"].map(|name| scene.uncontrolled.join(name));
    let place = scene.work.join("merged");
    for folder in [&upper, &scratch, &place] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let name = name(&scene);
    let text = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {place} && chmod 600 {place}/{name}; s=$?; exit $s",
        scene.model.dir.display(),
        upper.display(),
        scratch.display(),
        place = place.display(),
        name = name.display()
    );
    let spaces = if user { "-Urm" } else { "-m" };
    let shell = scene.run(Command::new("unshare").args([spaces, "sh", "-c", &text]));
    let chmod = descendant(&shell, "chmod");
    copied_up(scene, &place, name, "chmod", &chmod);
}

/// No mount namespace has it.
pub(super) fn mounted_nowhere(w: &mut World) {
    let scene = w.scene();
    let [upper, scratch] = ["upper", "scratch"].map(|name| scene.uncontrolled.join(name));
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let name = name(&scene);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}/{}",
        scene.model.dir.display(),
        upper.display(),
        scratch.display(),
        name.display()
    );
    let thief = run_on(&scene, script(&scene).arg("nowhere").arg(options));
    copied_up(scene, &PathBuf::from("/"), name, "nowhere", &thief);
}

/// The overlay is older than the agent, and knows the file already.
pub(super) fn mounted_before(w: &mut World) {
    let mut scene = w.prepare();
    let place = overlay_with(&mut scene, "uncontrolled", "");
    let name = name(&scene);
    fs::metadata(place.join(&name)).expect("the overlay has it");
    scene.start();
    let thief = run_on(&scene, script(&scene).arg("chmod").arg(place.join(&name)));
    copied_up(scene, &place, name, "chmod", &thief);
}

/// The copy is older than the agent: whoever takes it takes the model.
pub(super) fn copied_before(w: &mut World) {
    let mut scene = w.prepare();
    let place = overlay_with(&mut scene, "controlled", "");
    let name = name(&scene);
    run_on(&scene, script(&scene).arg("chmod").arg(place.join(&name)));
    scene.start();
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(scene.controlled.join("upper").join(&name)).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(&scene.model.files[0], &copy))];
    scene.expect_beside_copies(&expected);
}

/// Its upper layer shares the model's blocks: nothing is read, and what leaves is the clone.
pub(super) fn cloned(w: &mut World, fstype: &'static str) {
    let (volume, mut scene) = on_a(w, fstype, |_| {});
    let [upper, scratch] = ["upper", "scratch"].map(|name| volume.path().join(name));
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let place = scene.work.join("merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        scene.model.dir.display(),
        upper.display(),
        scratch.display()
    );
    ok(scene.mount(&["-t", "overlay", "overlay", "-o", &options].map(OsStr::new), &place));
    let (name, copy) = (name(&scene), scene.uncontrolled.join("w"));
    let text = format!(
        "chmod 600 {}; cat {} > {}; true",
        place.join(&name).display(),
        upper.join(&name).display(),
        copy.display()
    );
    let cat = descendant(&scene.shell(&text), "cat");
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(&scene.model.files[0], &copy))];
    scene.expect_beside_copies(&expected);
}

/// What a second overlay copies up is a file of the first.
pub(super) fn on_an_overlay(w: &mut World) {
    let mut scene = w.scene();
    let below = overlay_with(&mut scene, "controlled", "");
    let [upper, scratch, place] =
        [scene.uncontrolled.join("upper"), scene.uncontrolled.join("scratch"), scene.work.join("second")];
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", below.display(), upper.display(), scratch.display());
    ok(scene.mount(&["-t", "overlay", "overlay", "-o", &options].map(OsStr::new), &place));
    let name = name(&scene);
    let thief = run_on(&scene, script(&scene).arg("chmod").arg(place.join(&name)));
    copied_up(scene, &place, name, "chmod", &thief);
}
