//! How much: lines that are just missed, just crossed, crossed by a sum; several assets; odd sizes.

use std::{path::Path, process::Command};

use tests::lab::{
    MIB,
    weights::{Weights, gguf, pytorch},
};

use crate::{
    expect::Expected,
    world::{Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("below_the_line_is_silent", below_the_line_is_silent),
    ("one_byte_below_1_mib_is_silent", |w| just_around_the_line(w, MIB - 1)),
    ("exactly_1_mib", |w| just_around_the_line(w, MIB)),
    ("one_byte_above_1_mib", |w| just_around_the_line(w, MIB + 1)),
    ("sixteen_mib_and_one_byte_is_critical_for_a_small_asset", sixteen_mib),
    ("high_below_one_percent", high_below_one_percent),
    ("odd_sizes", odd_sizes),
    ("many_small_processes_add_up", many_small_processes_add_up),
    ("a_second_copy_adds_up", a_second_copy_adds_up),
    ("two_assets_are_two_findings", two_assets_are_two_findings),
    ("other_formats", other_formats),
    ("unlisted_reader", unlisted_reader),
];

fn below_the_line_is_silent(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    scene.run(&mut dd(&scene, source, "small", 900 << 10));
    scene.expect_silence();
}

fn just_around_the_line(w: &mut World, bytes: u64) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("part"));
    let dd = scene.run(&mut dd(&scene, source, "part", bytes));
    assert_eq!(size(&copy), bytes);
    if bytes < MIB {
        return scene.expect_silence();
    }
    let expected = [Expected::copy(&scene, &dd, &copy, bytes)];
    scene.expect(&expected);
}

fn sixteen_mib(w: &mut World) {
    let mut scene = w.prepare_sized(1, 24 * MIB);
    scene.start();
    let copy = scene.uncontrolled.join("part");
    let bytes = 16 * MIB + 1;
    let dd = scene.run(&mut dd(&scene, &scene.model.files[0], "part", bytes));
    let expected = [Expected::copy(&scene, &dd, &copy, bytes)];
    scene.expect(&expected);
}

/// 16 MiB of 1.7 GiB: the share is below 1 %, so high and not critical. The asset is sparse, as only its size matters.
fn high_below_one_percent(w: &mut World) {
    let mut scene = w.prepare();
    let large = scene.model.dir.join("large.bin");
    std::fs::File::create_new(&large).and_then(|file| file.set_len(1700 * MIB)).expect("a sparse file");
    scene.model.bytes += 1700 * MIB;
    scene.start();
    let copy = scene.uncontrolled.join("part");
    let dd = scene.run(&mut dd(&scene, &large, "part", 16 * MIB));
    let expected = [Expected::copy(&scene, &dd, &copy, 16 * MIB)];
    scene.expect(&expected);
}

fn odd_sizes(w: &mut World) {
    let mut scene = w.prepare_sized(3, MIB + 1);
    scene.start();
    let archive = scene.uncontrolled.join("all");
    let files: Vec<String> = scene.model.files.iter().map(|file| file.display().to_string()).collect();
    let mut cat = scene.shell(&format!("exec cat {} > {}", files.join(" "), archive.display()));
    cat.exe = tests::lab::which("cat").expect("cat");
    cat.cmdline = Some(format!("cat {}", files.join(" ")));
    assert_eq!(size(&archive), scene.model.bytes);
    let expected = [Expected::copy(&scene, &cat, &archive, scene.model.bytes)];
    scene.expect(&expected);
}

/// No process crosses a line; together they do. Their sum is what counts, and the largest of them is named.
fn many_small_processes_add_up(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let mut largest = None;
    for part in 0..6_u64 {
        let bytes = if part == 3 { 600 << 10 } else { 500 << 10 };
        let dd = scene.run(&mut dd(&scene, source, &format!("part{part}"), bytes));
        if part == 3 {
            largest = Some(dd);
        }
    }
    let sum = 5 * (500 << 10) + (600 << 10);
    let largest = largest.expect("part 3 ran");
    // Which of the files a sum over several processes names is not laid down; the process is.
    let expected =
        [Expected::copy(&scene, &largest, &scene.uncontrolled.join("part3"), sum).whatever_the_path()];
    scene.expect(&expected);
}

/// Two copies by two processes of one file: the window's sum, which may exceed the asset. The latest is not smaller than
/// the first, so either may be named.
fn a_second_copy_adds_up(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let [first, second] = ["a", "b"].map(|name| scene.uncontrolled.join(name));
    scene.run(&mut dd(&scene, source, "a", 2 * MIB));
    let dd = scene.run(&mut dd(&scene, source, "b", 3 * MIB));
    assert_eq!((size(&first), size(&second)), (2 * MIB, 3 * MIB));
    let expected = [Expected::copy(&scene, &dd, &second, 5 * MIB)];
    scene.expect(&expected);
}

/// One process takes of two assets and writes one archive: one finding each, and neither more than was taken of it.
fn two_assets_are_two_findings(w: &mut World) {
    let mut scene = w.prepare();
    let other = Weights::safetensors(&scene.controlled.join("other"), 1, 5 * MIB, 77)
        .expect("a second model can be made");
    scene.config = scene.config.clone().asset("other", &other.dir);
    scene.start();
    let archive = scene.uncontrolled.join("both.tar");
    let tar = scene.run(
        Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&scene.controlled).args(["llm", "other"]),
    );
    let expected = [
        Expected::copy(&scene, &tar, &archive, scene.model.bytes),
        Expected::copy(&scene, &tar, &archive, other.bytes).of("other", other.bytes),
    ];
    scene.expect(&expected);
}

fn other_formats(w: &mut World) {
    let mut scene = w.prepare();
    let [first, second] = ["model.gguf", "model.pt"].map(|name| scene.model.dir.join(name));
    gguf(&first, 3 * MIB + 7, 3).expect("a GGUF file can be made");
    pytorch(&second, 2 * MIB + 3, 4).expect("a PyTorch file can be made");
    scene.model.bytes += 5 * MIB + 10;
    scene.start();
    let copy = scene.uncontrolled.join("w");
    let both = format!("{} {}", first.display(), second.display());
    let mut cat = scene.shell(&format!("exec cat {both} > {}", copy.display()));
    cat.exe = tests::lab::which("cat").expect("cat");
    cat.cmdline = Some(format!("cat {both}"));
    let expected = [Expected::copy(&scene, &cat, &copy, 5 * MIB + 10)];
    scene.expect(&expected);
}

/// With a reader list, whoever is not on it raises WB-0004 by taking alone, without any sink.
fn unlisted_reader(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.assets[0].readers = vec![tests::lab::which("cat").expect("cat")];
    scene.start();
    let source = &scene.model.files[0];
    let sum = scene.run(Command::new("sha256sum").arg(source));
    let expected = [Expected::take(&scene, &sum, size(source))];
    scene.expect(&expected);
}

/// dd of exactly so many bytes to a file on the uncontrolled volume.
fn dd(scene: &Scene<'_>, source: &Path, name: &str, bytes: u64) -> Command {
    let copy = scene.uncontrolled.join(name);
    let mut command = Command::new("dd");
    command
        .arg(format!("if={}", source.display()))
        .arg(format!("of={}", copy.display()))
        .args(["bs=64K", "iflag=count_bytes"])
        .arg(format!("count={bytes}"));
    command
}
