//! What becomes another under the same name (TECHNIQUES 1B, 1C): mappings that are slid, files whose parts are moved below
//! them, inodes with a new identity, programs that are weights, and a model that becomes smaller. And what is no channel by itself:
//! semaphores, BPF maps, signals.

use std::{fs, path::Path, process::Command};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tests::lab::{MIB, metrics::sum, process::Identity, wait_for};

use super::{filesystems::move_model, local_sockets::below, tooling::ok};
use crate::{
    expect::Expected,
    world::{ASSET, PATIENCE, Scene, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("mapping_slid_over_the_model", |w| alone(w, "slid_source", known_and_not)),
    ("mapping_slid_over_the_copy", |w| alone(w, "slid_sink", not_known)),
    ("mapping_grown_over_the_model", |w| alone(w, "grown", |copy| vec![copy.or_up_to_the_asset()])),
    ("room_made_below_a_mapping", room_made),
    ("identity_swapped_with_the_boot_loader", |w| {
        alone(w, "swapped", |copy| vec![copy.or_up_to_the_asset()])
    }),
    ("identity_with_another_generation", another_generation),
    ("through_signals", |w| by_signals(w, "signals")),
    ("through_signals_to_a_thread", |w| by_signals(w, "signals_to_a_thread")),
    ("through_signals_by_a_descriptor", |w| by_signals(w, "signals_through_a_descriptor")),
    ("through_semaphores", |w| by_a_child(w, "semaphores")),
    ("through_a_bpf_map", |w| by_a_child(w, "bpf_map")),
    ("program_made_of_weights", program),
    ("model_replaced_by_a_stub", |w| shrunk(w, "mv {source} {stage}; cp /etc/hostname {source}")),
    ("model_cut_to_a_page", |w| shrunk(w, "cp {source} {stage}; truncate -s 4096 {source}")),
    ("model_exchanged_for_a_stub", exchanged),
    ("renamed_into_the_model_and_linked_out", |w| in_and_out(w, "mv {new} {inside}", "ln {inside} {stage}")),
    ("linked_into_the_model", |w| in_and_out(w, "ln {new} {inside}", "mv {new} {stage}")),
    ("directory_renamed_through_the_model", |w| {
        in_and_out(w, "mkdir {new}.d; mv {new} {new}.d/w; mv {new}.d {inside}", "mv {inside}/w {stage}");
    }),
];

/// The mover has the script's own process alone.
fn alone(w: &mut World, way: &str, expected: fn(Expected) -> Vec<Expected>) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = remade(&scene, way, &copy);
    let expected = expected(Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy)));
    scene.expect(&expected);
}

/// Which file a mapping shows is not told when it is slid: the bytes count as gone to a file that is not known, but for those that
/// the mapping had room for at first.
fn not_known(copy: Expected) -> Vec<Expected> {
    vec![copy.through(1).or_up_to_the_asset().whose_file_is_unknown()]
}

/// Nor is it told whether what is slid is read or written.
fn known_and_not(copy: Expected) -> Vec<Expected> {
    vec![copy.clone(), copy.whose_file_is_unknown()]
}

/// What was written first lies last.
fn room_made(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = remade(&scene, "inserted", &copy);
    let copied = Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy));
    scene.expect(&not_known(copied));
}

/// Where inodes have checksums the kernel gives them no other generation.
fn another_generation(w: &mut World) {
    let volume = w.volume_made("ext4", &["-O", "^metadata_csum"]);
    let mut scene = w.prepare();
    move_model(&mut scene, &volume);
    scene.config.controlled.push(volume.path().to_path_buf());
    scene.start();
    scene.settled();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = remade(&scene, "renumbered", &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

fn by_a_child(w: &mut World, way: &str) {
    let scene = w.scene();
    given_to_the_child(scene, way);
}

/// Some ten thousand signals, so that the model is a small one.
fn by_signals(w: &mut World, way: &str) {
    let mut scene = w.prepare_sized(1, 2 * MIB);
    scene.start();
    given_to_the_child(scene, way);
}

fn given_to_the_child(scene: Scene<'_>, way: &str) {
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let child = below(&remade(&scene, way, &copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &child, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
}

fn remade(scene: &Scene<'_>, way: &str, copy: &Path) -> Identity {
    let mut command = scene.python("remade.py", include_str!("scripts/remade.py"));
    let finished = ok(scene.spawn(command.arg(way).arg(&scene.model.files[0]).arg(copy)).finish(PATIENCE));
    if finished.code == Some(77) {
        skip(finished.stdout.trim());
    }
    ok(finished.success())
}

/// Nobody opens the program but the kernel.
fn program(w: &mut World) {
    World::needs("gcc");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let (text, program) = (scene.work.join("program.c"), scene.controlled.join("program"));
    fs::write(&text, include_str!("scripts/program.c")).expect("a source file can be written");
    let mut gcc = Command::new("gcc");
    gcc.env("TMPDIR", &scene.controlled);
    gcc.args(["-O1", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-o"]).arg(&program);
    scene.run(gcc.arg(format!("-DSOURCE=\"{}\"", source.display())).arg(&text));
    let mover = scene.run(Command::new(&program).arg(&copy));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy)).or_up_to_the_asset()];
    scene.expect_beside_copies(&expected);
}

/// After a copy was put aside on the controlled volume, the model becomes small.
fn shrunk(w: &mut World, how: &str) {
    leaves(w, |scene, source, stage| {
        let text = how.replace("{source}", &source.to_string_lossy());
        scene.shell(&text.replace("{stage}", &stage.to_string_lossy()));
    });
}

fn exchanged(w: &mut World) {
    leaves(w, |_, source, stage| {
        fs::write(stage, b"a stub").expect("a stub can be written");
        let exchanged = renameat_with(CWD, source, CWD, stage, RenameFlags::EXCHANGE);
        exchanged.expect("two files can be exchanged");
    });
}

/// A file that was never opened where it belongs to the model, and has another name by the time that it leaves.
fn in_and_out(w: &mut World, into: &str, out: &str) {
    let mut scene = w.prepare();
    let (new, stage) = (scene.controlled.join("new"), scene.controlled.join("stage"));
    let (inside, kept) = (scene.model.dir.join("inside"), scene.work.join("kept"));
    for copy in [&new, &kept] {
        fs::copy(&scene.model.files[0], copy).expect("the model can be copied");
    }
    scene.start();
    let run = |text: &str| {
        let text =
            text.replace("{new}", &new.to_string_lossy()).replace("{inside}", &inside.to_string_lossy());
        scene.shell(&text.replace("{stage}", &stage.to_string_lossy()));
    };
    let files = || sum(&scene.metrics(), "weighbridge_asset_files", &[]);
    let before = files();
    run(into);
    assert!(
        wait_for(PATIENCE, || (files() > before).then_some(())).is_some(),
        "the agent does not know the file"
    );
    run(out);
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&stage).arg(&copy));
    let expected =
        [Expected::copy(&scene, &cp, &copy, scene.arrived(&kept, &copy)).whatever_the_asset_size()];
    scene.expect(&expected);
}

/// What was put aside leaves when the agent knows that the model is small.
fn leaves(w: &mut World, shrink: impl FnOnce(&Scene<'_>, &Path, &Path)) {
    const MODEL: u64 = 12 * MIB;
    let mut scene = w.prepare_sized(1, MODEL);
    let (source, stage) = (scene.model.files[0].clone(), scene.controlled.join("stage"));
    let kept = scene.work.join("kept");
    fs::copy(&source, &kept).expect("the model can be kept");
    scene.start();
    shrink(&scene, &source, &stage);
    // What comes into the model's directory makes the agent look at all of it.
    scene.run(Command::new("touch").arg(source.with_file_name("new")));
    let known = wait_for(PATIENCE, || {
        sum(&scene.metrics(), "weighbridge_asset_bytes", &[("asset", ASSET)])
            .filter(|bytes| *bytes < MODEL as f64 / 2.0)
    });
    assert!(known.is_some(), "the agent does not know the model's new size");
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&stage).arg(&copy));
    let expected =
        [Expected::copy(&scene, &cp, &copy, scene.arrived(&kept, &copy)).whatever_the_asset_size()];
    scene.expect_beside_copies(&expected);
}
