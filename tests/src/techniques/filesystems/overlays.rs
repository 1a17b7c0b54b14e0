//! Layers: the kernel copies a file of the model up for somebody who never reads it.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command};

use crate::{
    expect::Expected,
    techniques::tooling::{descendant, ok},
    world::{Scene, World, skip},
};

/// Opening the upper name for writing makes the kernel copy the whole file into the upper layer: no process reads it.
pub(super) fn overlay_copies_up(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay(&mut scene, "uncontrolled");
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a name");
    let shell = scene.shell(&format!(
        "exec dd if=/dev/null of={} conv=notrunc oflag=append status=none",
        place.join(name).display()
    ));
    let dd = descendant(&shell, "dd");
    let copy = scene.uncontrolled.join("upper").join(name);
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &dd, &copy, bytes).or_at(&place.join(name), &place)];
    scene.expect(&expected);
}

/// Nobody opens it for writing: its mode is set, by a descriptor that is read through.
pub(super) fn overlay_copies_up_for_its_mode(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay(&mut scene, "uncontrolled");
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a name");
    let text = format!("import os; os.fchmod(os.open({:?}, os.O_RDONLY), 0o600)", place.join(name));
    let thief = scene.run(Command::new(World::python()).args(["-c", &text]));
    let copy = scene.uncontrolled.join("upper").join(name);
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes).or_at(&place.join(name), &place)];
    scene.expect(&expected);
}

/// Whoever made the copy: who opens its name to read is a holder, and what he writes is weighed.
pub(super) fn overlay_copy_of_before(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay(&mut scene, "controlled");
    let source = &scene.model.files[0];
    let file = place.join(source.file_name().expect("a name"));
    let text = format!("import os; os.chmod({file:?}, 0o600)");
    scene.run(Command::new(World::python()).args(["-c", &text]));
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&file).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect_beside_copies(&expected);
}

/// The kernel's copy carries, whoever reads it where the overlay keeps it.
pub(super) fn overlay_copy_taken_from_the_upper_layer(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay(&mut scene, "controlled");
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a name");
    scene.shell(&format!(
        "exec dd if=/dev/null of={} conv=notrunc oflag=append status=none",
        place.join(name).display()
    ));
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(scene.controlled.join("upper").join(name)).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect_beside_copies(&expected);
}

/// What a second overlay copies up is a file of the first, which has it from the model.
pub(super) fn overlay_on_an_overlay(w: &mut World) {
    let mut scene = w.scene();
    let below = overlay(&mut scene, "controlled");
    let [upper, scratch, place] =
        [scene.uncontrolled.join("second"), scene.uncontrolled.join("work"), scene.work.join("second")];
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", below.display(), upper.display(), scratch.display());
    ok(scene.mount(&["-t", "overlay", "overlay", "-o", &options].map(OsStr::new), &place));
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a name");
    let shell = scene.shell(&format!(
        "exec dd if=/dev/null of={} conv=notrunc oflag=append status=none",
        place.join(name).display()
    ));
    let (dd, copy) = (descendant(&shell, "dd"), upper.join(name));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &dd, &copy, bytes).or_at(&place.join(name), &place)];
    scene.expect(&expected);
}

/// Both of its ends are of the overlay; no layer stores what is in it.
pub(super) fn fifo_on_an_overlay(w: &mut World) {
    let mut scene = w.scene();
    let place = overlay(&mut scene, "controlled");
    let (source, copy, pipe) = (&scene.model.files[0], scene.uncontrolled.join("w"), place.join("pipe"));
    scene.run(Command::new("mkfifo").arg(&pipe));
    let text = format!(
        "cat {} > {pipe} & cat {pipe} > {}; wait",
        source.display(),
        copy.display(),
        pipe = pipe.display()
    );
    let cat = descendant(&scene.shell(&text), "cat");
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

/// An overlay with the model as its lower layer, and its upper one below `upper`.
fn overlay(scene: &mut Scene<'_>, volume: &str) -> PathBuf {
    overlay_with(scene, volume, "")
}

/// The same with more options.
pub(super) fn overlay_with(scene: &mut Scene<'_>, volume: &str, more: &str) -> PathBuf {
    let base = if volume == "uncontrolled" { scene.uncontrolled.clone() } else { scene.controlled.clone() };
    let [upper, scratch] = ["upper", "scratch"].map(|name| base.join(name));
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let place = scene.work.join("merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{more}",
        scene.model.dir.display(),
        upper.display(),
        scratch.display()
    );
    let words = ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new);
    if let Err(error) = scene.mount(&words, &place) {
        skip(format_args!("no overlay here: {error:#}"));
    }
    place
}
