//! System calls (TECHNIQUES 1B), one by one: every call that takes with a plain write, every call that puts with a plain
//! read, and those that do both.

use std::{fs, path::Path, process::Command};

use tests::lab::process::Finished;

use super::tooling::descendant;
use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("read_write", |w| exact(w, "read", "write")),
    ("pread_write", |w| exact(w, "pread", "write")),
    ("readv_write", |w| exact(w, "readv", "write")),
    ("preadv_write", |w| exact(w, "preadv", "write")),
    ("read_pwrite", |w| exact(w, "read", "pwrite")),
    ("read_writev", |w| exact(w, "read", "writev")),
    ("read_pwritev", |w| exact(w, "read", "pwritev")),
    ("sendfile", |w| exact(w, "sendfile", "-")),
    ("splice", |w| exact(w, "splice", "-")),
    ("vmsplice", |w| exact(w, "vmsplice", "-")),
    ("tee", |w| exact(w, "tee", "-")),
    ("mmap_write", mmap_write),
    ("read_into_mapping", read_into_mapping),
    ("mapping_to_mapping", mapping_to_mapping),
    ("copy_file_range_across", copy_file_range_across),
    ("tiny_chunks", tiny_chunks),
    ("static_32_bit", static_32_bit),
    ("on_a_kernel_of_before_direct_reads", on_a_kernel_of_before_direct_reads),
];

fn exact(w: &mut World, take: &str, put: &str) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = scene.run(&mut scene.mover(take, put, source, &copy.to_string_lossy()));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// No call takes the bytes: the mapping counts whole, and what was written limits it.
fn mmap_write(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = scene.run(&mut scene.mover("mmap", "write", source, &copy.to_string_lossy()));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// No call puts the bytes: the writable mapping counts whole.
fn read_into_mapping(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = scene.run(&mut scene.mover("read", "mmap", source, &copy.to_string_lossy()));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy)).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// Neither a read nor a write: memory to memory.
fn mapping_to_mapping(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = scene.run(&mut scene.mover("mmap", "mmap", source, &copy.to_string_lossy()));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy)).or_up_to_the_asset()];
    scene.expect(&expected);
}

/// Where both filesystems are of a kind that allows it; ext4 to ext4 does not since Linux 5.19.
fn copy_file_range_across(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mover = scene.spawn(&mut scene.mover("copy_file_range", "-", source, &copy.to_string_lossy()));
    let finished = mover.finish(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    if finished.stderr.contains("(os error 18)") {
        skip("this kernel refuses copy_file_range between two ext4 filesystems (EXDEV)");
    }
    let mover = Finished::success(finished).unwrap_or_else(|error| panic!("{error:#}"));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// Some hundred thousand calls: none may be lost on the way to the sum.
fn tiny_chunks(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.mover("read", "write", source, &copy.to_string_lossy());
    let mover = scene.run(command.args(["--chunk", "97"]));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The 32-bit entry has other call numbers. Freestanding, so that no 32-bit libc is needed.
fn static_32_bit(w: &mut World) {
    World::needs("gcc");
    let scene = w.scene();
    let (text, program) = (scene.work.join("copy32.c"), scene.work.join("copy32"));
    fs::write(&text, include_str!("scripts/copy32.c")).expect("a source file can be written");
    let built = Command::new("gcc")
        .args([
            "-m32",
            "-O1",
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-pie",
            "-no-pie",
            "-fno-stack-protector",
        ])
        .arg("-o")
        .arg(&program)
        .arg(&text)
        .output()
        .expect("gcc runs");
    if !built.status.success() {
        skip("gcc -m32 does not build here");
    }
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let finished = scene
        .spawn(Command::new(&program).arg(source).arg(&copy))
        .finish(PATIENCE)
        .unwrap_or_else(|error| panic!("{error:#}"));
    if finished.signal.is_some() {
        skip(format_args!("this kernel does not run 32-bit programs (signal {:?})", finished.signal));
    }
    let mover = finished.success().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(size(&copy), size(source));
    let expected = [Expected::copy(&scene, &mover, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// To an agent that does not find what came with `bpf_rdonly_cast` to `void`, this kernel is one of before 6.17: its programs read the
/// kernel's memory by calls.
fn on_a_kernel_of_before_direct_reads(w: &mut World) {
    const TOLD_BY: &[u8] = b"\0bpf_features\0";
    let mut scene = w.prepare();
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    let mut types = fs::read(btf).expect("the kernel's types can be read");
    let Some(at) = types.windows(TOLD_BY.len()).position(|name| name == TOLD_BY) else {
        skip("this kernel is one of before 6.17: all tests are of such an agent");
    };
    types[at + 1] = b'B';
    let older = scene.controlled.join("vmlinux");
    fs::write(&older, types).expect("a file can be written");
    scene.mount_over(&["--bind", &older.to_string_lossy()], btf).expect("a mount");
    let doctor = Command::new(&scene.world.binary).args(["doctor", "-o", "json"]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("a report in JSON");
    let checks = report["checks"].as_array().expect("a list of checks");
    let reads = checks.iter().find(|check| check["name"] == "reads").expect("a line on reads");
    assert_eq!(reads["status"], "info", "{reads}");

    scene.start();
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let relay = scene.shell(&format!("cat {} | tee {} > /dev/null", source.display(), copy.display()));
    let thief = descendant(&relay, "tee");
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(&source, &copy))];
    scene.expect(&expected);
}
