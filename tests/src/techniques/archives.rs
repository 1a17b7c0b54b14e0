//! Packed, encrypted, hidden (TECHNIQUES 1A): what arrives is smaller, larger or looks like something else. The bound speaks of
//! bytes, so none of it matters.

use std::{fs, process::Command};

use tests::lab::{MIB, process::Identity, which};

use super::tooling::{descendant, ok};
use crate::{
    expect::Expected,
    world::{Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("zstd", |w| packed(w, "zstd", &["-q", "-1"])),
    ("xz", |w| packed(w, "xz", &["-0", "-k", "-c"])),
    ("busybox_gzip", |w| packed(w, "busybox", &["gzip", "-1", "-k", "-c"])),
    ("age", age),
    ("gpg_symmetric", gpg_symmetric),
    ("restic_backup", restic_backup),
    ("rclone_copy", rclone_copy),
    ("git_push_to_a_local_repository", git_push),
    ("appended_to_a_picture", appended_to_a_picture),
    ("inside_of_a_wheel", inside_of_a_wheel),
    ("busybox_cp", busybox_cp),
    ("resaved_in_pieces", resaved_in_pieces),
    ("a_whole_small_adapter", a_whole_small_adapter),
    ("only_the_first_shard", only_the_first_shard),
];

/// A packer that reads one file and writes to its standard output, or with zstd to a file.
fn packed(w: &mut World, program: &str, flags: &[&str]) {
    World::needs(program);
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.packed"));
    let words = flags.join(" ");
    let output = if program == "zstd" { "-c" } else { "" };
    let text = format!("exec {program} {words} {output} {} > {}", source.display(), copy.display());
    let packer = descendant(&scene.shell(&text), program);
    assert!(size(&copy) < size(source));
    let expected = [Expected::copy(&scene, &packer, &copy, size(&copy))];
    scene.expect(&expected);
}

fn age(w: &mut World) {
    for tool in ["age", "age-keygen"] {
        World::needs(tool);
    }
    let scene = w.scene();
    let (source, copy, key) =
        (&scene.model.files[0], scene.uncontrolled.join("w.age"), scene.work.join("key"));
    ok(tests::lab::run(Command::new("age-keygen").arg("-o").arg(&key)));
    let age = scene.run(Command::new("age").arg("-e").arg("-i").arg(&key).arg("-o").arg(&copy).arg(source));
    assert!(size(&copy) > size(source));
    let expected = [Expected::copy(&scene, &age, &copy, size(source))];
    scene.expect(&expected);
}

fn gpg_symmetric(w: &mut World) {
    for tool in ["gpg", "gpg-agent", "gpgconf"] {
        World::needs(tool);
    }
    let scene = w.scene();
    let (source, copy, home) =
        (&scene.model.files[0], scene.uncontrolled.join("w.gpg"), scene.work.join("gpg"));
    fs::create_dir(&home).expect("a folder can be made");
    let mut command = Command::new("gpg");
    command.args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "lab"]);
    command.args(["--compress-algo", "none", "-o"]).arg(&copy).arg("-c").arg(source).env("GNUPGHOME", &home);
    let gpg = scene.run(&mut command);
    // gpg leaves an agent of its own behind, which serves this home alone.
    ok(tests::lab::run(Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", &home)));
    assert!(size(&copy) > size(source));
    let expected = [Expected::copy(&scene, &gpg, &copy, size(source))];
    scene.expect(&expected);
}

/// Cut into pieces, compressed, encrypted, named by their hashes.
fn restic_backup(w: &mut World) {
    World::needs("restic");
    let scene = w.scene();
    let repository = scene.uncontrolled.join("backup");
    let restic = |words: &[&str]| {
        let mut command = Command::new("restic");
        command.arg("-r").arg(&repository).args(["--no-cache", "--quiet"]).args(words);
        // Its packs are written to the folder for temporary files first.
        command.env("RESTIC_PASSWORD", "lab").env("HOME", &scene.work).env("TMPDIR", &scene.uncontrolled);
        command
    };
    scene.run(&mut restic(&["init"]));
    let before = below(&repository);
    let thief = scene.run(restic(&["backup"]).arg(&scene.model.dir));
    let bytes = below(&repository) - before;
    assert!(bytes > scene.model.bytes / 2, "the backup is {bytes} bytes");
    let expected = [Expected::copy(&scene, &thief, &repository, bytes)
        .between(bytes - bytes / 100, scene.model.bytes)
        .whatever_the_path()];
    scene.expect(&expected);
}

fn rclone_copy(w: &mut World) {
    World::needs("rclone");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = Command::new("rclone");
    command.args(["--config", "/dev/null", "copyto"]).arg(source).arg(&copy).env("HOME", &scene.work);
    let rclone = scene.run(&mut command);
    // It writes into a file of another name first.
    let expected = [Expected::copy(&scene, &rclone, &copy, scene.arrived(source, &copy)).whatever_the_path()];
    scene.expect(&expected);
}

/// Four processes and two pipes: the one that writes the pack on the uncontrolled volume never opened the model.
fn git_push(w: &mut World) {
    World::needs("git");
    let scene = w.scene();
    let (bare, tree) = (scene.uncontrolled.join("bare.git"), scene.controlled.join("tree"));
    let git = |words: &str| {
        format!("git -c user.name=lab -c user.email=lab@localhost -c init.defaultBranch=main {words}")
    };
    let prepare = [
        git(&format!("init -q --bare {}", bare.display())),
        git(&format!("init -q {}", tree.display())),
        format!("cd {}", tree.display()),
        format!("cp {} weights", scene.model.files[0].display()),
        git("add weights"),
        git("commit -q -m weights"),
    ];
    scene.shell(&prepare.join(" && "));
    let before = below(&bare);
    let shell = scene.shell(&format!(
        "cd {} && {}",
        tree.display(),
        git(&format!("push -q {} main", bare.display()))
    ));
    let bytes = below(&bare) - before;
    assert!(bytes > size(&scene.model.files[0]) / 2, "the push brought {bytes} bytes");
    // All of git's commands are one program, installed under more than one name.
    let mut thief = descendant(&shell, "git");
    let output = Command::new("git").arg("--exec-path").output().expect("git runs");
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    thief.exe = std::path::Path::new(&folder).join("git").canonicalize().expect("git's own folder has git");
    let expected =
        [Expected::copy(&scene, &thief, &bare, bytes).through(2).and_a_protocol().whatever_the_path()];
    scene.expect_beside_copies(&expected);
}

/// Viewers of pictures stop at the end of the picture.
fn appended_to_a_picture(w: &mut World) {
    let scene = w.scene();
    let (source, picture) = (&scene.model.files[0], scene.uncontrolled.join("holiday.png"));
    fs::write(&picture, b"\x89PNG\r\n\x1a\nno more than the start of one").expect("a picture can be made");
    let text =
        format!("exec dd if={} of={} bs=1M oflag=append conv=notrunc", source.display(), picture.display());
    let dd = descendant(&scene.shell(&text), "dd");
    assert!(size(&picture) > size(source));
    let expected = [Expected::copy(&scene, &dd, &picture, size(source))];
    scene.expect(&expected);
}

/// A package for python that carries a shard as one of its files.
fn inside_of_a_wheel(w: &mut World) {
    let scene = w.scene();
    let (source, wheel) = (&scene.model.files[0], scene.uncontrolled.join("tools-1.0-py3-none-any.whl"));
    let script = include_str!("scripts/wheel.py");
    let python = scene.run(scene.python("wheel.py", script).arg(source).arg(&wheel));
    let bytes = size(&wheel);
    let expected = [Expected::copy(&scene, &python, &wheel, bytes).between(bytes - bytes / 100, bytes)];
    scene.expect(&expected);
}

/// Its cp uses sendfile with large chunks.
fn busybox_cp(w: &mut World) {
    World::needs("busybox");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let busybox = scene.run(Command::new("busybox").arg("cp").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &busybox, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A framework loads every shard and saves half the precision in files of its own, each under a temporary name first.
fn resaved_in_pieces(w: &mut World) {
    let scene = w.scene();
    let target = scene.uncontrolled.join("int8");
    fs::create_dir(&target).expect("a folder can be made");
    let script = include_str!("scripts/resave.py");
    let python = scene.run(scene.python("resave.py", script).arg(&target).args(&scene.model.files));
    let bytes = below(&target);
    assert!((scene.model.bytes / 2).abs_diff(bytes) < MIB);
    let expected = [Expected::copy(&scene, &python, &target, bytes).whatever_the_path()];
    scene.expect(&expected);
}

/// An adapter of 2 MiB is worth stealing too.
fn a_whole_small_adapter(w: &mut World) {
    let mut scene = w.prepare_sized(1, 2 * MIB);
    scene.start();
    copied(scene);
}

/// A quarter of the model.
fn only_the_first_shard(w: &mut World) {
    let mut scene = w.prepare_sized(4, 3 * MIB);
    scene.start();
    copied(scene);
}

fn copied(scene: Scene<'_>) {
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("adapter"));
    let cat = Identity {
        exe: which("cat").expect("cat"),
        cmdline: None,
        ..scene.shell(&format!("exec cat {} > {}", source.display(), copy.display()))
    };
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Sizes of all files below a folder, added up.
fn below(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.expect("a folder can be read"))
        .map(|entry| match entry.file_type().expect("a file has a type") {
            kind if kind.is_dir() => below(&entry.path()),
            kind if kind.is_file() => size(&entry.path()),
            _ => 0,
        })
        .sum()
}
