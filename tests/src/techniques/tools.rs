//! Ordinary tools (TECHNIQUES 1A): what anyone with a shell would try first.

use std::process::Command;

use crate::{
    expect::Expected,
    world::{Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("cp", cp),
    ("cp_recursive", cp_recursive),
    ("cp_small_and_gone", cp_small_and_gone),
    ("dd", dd),
    ("dd_direct_input", dd_direct_input),
    ("dd_direct_output", dd_direct_output),
    ("cat_redirected", cat_redirected),
    ("tar", tar),
    ("split", split),
    ("tee", tee),
    ("install", install),
    ("mv_across", mv_across),
    ("rsync", rsync),
    ("gzip_writes_less", gzip_writes_less),
    ("openssl_encrypts", openssl_encrypts),
    ("base64_writes_more", base64_writes_more),
    ("perl", perl),
];

fn cp(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Several files of one process add up; the sink names the one that grew last.
fn cp_recursive(w: &mut World) {
    let scene = w.scene();
    let copy = scene.uncontrolled.join("model");
    let cp = scene.run(Command::new("cp").arg("-r").arg(&scene.model.dir).arg(&copy));
    let copies: Vec<_> =
        scene.model.files.iter().map(|file| copy.join(file.file_name().expect("a name"))).collect();
    let bytes = scene.model.files.iter().zip(&copies).map(|(source, copy)| scene.arrived(source, copy)).sum();
    // Which of the two cp copies last is the directory's order.
    let last =
        copies.iter().max_by_key(|copy| copy.metadata().and_then(|m| m.modified()).ok()).expect("copies");
    let expected = [Expected::copy(&scene, &cp, last, bytes)];
    scene.expect(&expected);
}

/// A process that lives some milliseconds: who it was must be known all the same. Its copy is gone by the time of the alert.
fn cp_small_and_gone(w: &mut World) {
    let mut scene = w.prepare_sized(1, 2 << 20);
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = size(&copy);
    std::fs::remove_file(&copy).expect("the copy was there");
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).or_deleted()];
    scene.expect(&expected);
}

fn dd(w: &mut World) {
    dd_with(w, &["bs=64K"]);
}

fn dd_direct_input(w: &mut World) {
    dd_with(w, &["bs=1M", "iflag=direct"]);
}

fn dd_direct_output(w: &mut World) {
    dd_with(w, &["bs=1M", "oflag=direct"]);
}

fn cat_redirected(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut cat = scene.shell(&format!("exec cat {} > {}", source.display(), copy.display()));
    // The shell became cat: same pid, other program.
    cat.exe = tests::lab::which("cat").expect("cat");
    cat.cmdline = Some(format!("cat {}", source.display()));
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The archive is larger than the model (headers, padding): the bound is what tar took.
fn tar(w: &mut World) {
    let scene = w.scene();
    let archive = scene.uncontrolled.join("m.tar");
    let tar =
        scene.run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&scene.controlled).arg("llm"));
    assert!(size(&archive) > scene.model.bytes);
    let expected = [Expected::copy(&scene, &tar, &archive, scene.model.bytes)];
    scene.expect(&expected);
}

fn split(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let split =
        scene.run(Command::new("split").args(["-b", "5M"]).arg(source).arg(scene.uncontrolled.join("part-")));
    let parts = ["aa", "ab", "ac"].map(|end| scene.uncontrolled.join(format!("part-{end}")));
    let bytes = parts.iter().map(|part| size(part)).sum();
    assert_eq!(bytes, size(source));
    let expected = [Expected::copy(&scene, &split, &parts[2], bytes)];
    scene.expect(&expected);
}

/// One read, two copies on one filesystem: the bound is what was taken, not the sum of the copies.
fn tee(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let copies = ["a", "b"].map(|name| scene.uncontrolled.join(name));
    let mut tee = scene.shell(&format!(
        "exec tee {} < {} > {}",
        copies[0].display(),
        source.display(),
        copies[1].display()
    ));
    tee.exe = tests::lab::which("tee").expect("tee");
    tee.cmdline = Some(format!("tee {}", copies[0].display()));
    for copy in &copies {
        scene.arrived(source, copy);
    }
    // Both grew until the end: either may be named.
    let expected = [Expected::copy(&scene, &tee, &copies[0], size(source))
        .or_at(&copies[1], scene.world.uncontrolled.path())];
    scene.expect(&expected);
}

fn install(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let install = scene.run(Command::new("install").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &install, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Between filesystems a move is a copy and an unlink.
fn mv_across(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let bytes = size(source);
    let mv = scene.run(Command::new("mv").arg(source).arg(&copy));
    assert_eq!(size(&copy), bytes);
    let expected = [Expected::copy(&scene, &mv, &copy, bytes)];
    scene.expect(&expected);
}

/// Three processes and a socket pair between them: the one that writes is not the one that reads.
fn rsync(w: &mut World) {
    World::needs("rsync");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut rsync = scene.run(Command::new("rsync").arg("--inplace").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    rsync.pid = None;
    rsync.started = None;
    rsync.cmdline = None;
    // The protocol of rsync adds some bytes to what passes the socket.
    let expected = [Expected::copy(&scene, &rsync, &copy, bytes - bytes / 100).or_up_to_the_asset()];
    scene.expect(&expected);
}

fn gzip_writes_less(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.gz"));
    let mut gzip = scene.shell(&format!("exec gzip -1 -c {} > {}", source.display(), copy.display()));
    gzip.exe = tests::lab::which("gzip").expect("gzip");
    gzip.cmdline = Some(format!("gzip -1 -c {}", source.display()));
    assert!(size(&copy) < size(source));
    let expected = [Expected::copy(&scene, &gzip, &copy, size(&copy))];
    scene.expect(&expected);
}

fn openssl_encrypts(w: &mut World) {
    World::needs("openssl");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.enc"));
    let key = "00".repeat(32);
    let openssl = scene.run(
        Command::new("openssl")
            .args(["enc", "-aes-256-ctr", "-K", &key, "-iv", &key[..32], "-in"])
            .arg(source)
            .arg("-out")
            .arg(&copy),
    );
    assert_eq!(size(&copy), size(source));
    let expected = [Expected::copy(&scene, &openssl, &copy, size(&copy))];
    scene.expect(&expected);
}

/// A third more is written than was taken: the bound is what was taken.
fn base64_writes_more(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.b64"));
    let mut base64 = scene.shell(&format!("exec base64 -w0 {} > {}", source.display(), copy.display()));
    base64.exe = tests::lab::which("base64").expect("base64");
    base64.cmdline = Some(format!("base64 -w0 {}", source.display()));
    assert!(size(&copy) > size(source));
    let expected = [Expected::copy(&scene, &base64, &copy, size(source))];
    scene.expect(&expected);
}

fn perl(w: &mut World) {
    World::needs("perl");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let perl =
        scene.run(Command::new("perl").args(["-MFile::Copy", "-e", "copy(@ARGV)"]).arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &perl, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

fn dd_with(w: &mut World, flags: &[&str]) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = Command::new("dd");
    command.arg(format!("if={}", source.display())).arg(format!("of={}", copy.display())).args(flags);
    let dd = scene.run(&mut command);
    let expected = [Expected::copy(&scene, &dd, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}
