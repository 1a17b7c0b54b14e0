//! What a reboot must not make ordinary: copies on volumes whose device number is another afterwards, in an agent that adopts
//! nothing. The kernel is the same one; what the agent knows of it is not.

use std::{fs, path::Path, process::Command};

use tests::lab::{
    MIB, metrics,
    outside::UNCONTROLLED,
    process::{Finished, Identity, Running},
    volume::Volume,
};

use super::away::committed;
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_copy_is_renamed_and_sent", |w| renamed_and_sent(w, "ext4")),
    ("a_copy_on_xfs_is_renamed_and_sent", |w| renamed_and_sent(w, "xfs")),
    ("a_copy_on_btrfs_is_renamed_and_sent", |w| renamed_and_sent(w, "btrfs")),
    ("a_controlled_copy_is_copied_on", a_controlled_copy_is_copied_on),
    ("a_copy_is_read_before_the_start", |w| held_before_the_start(w, "read")),
    ("a_copy_is_mapped_before_the_start", |w| held_before_the_start(w, "mmap")),
    ("a_copy_is_sent_after_unload", a_copy_is_sent_after_unload),
    ("a_volume_comes_later", a_volume_comes_later),
    ("a_volume_is_pulled_out_and_put_in", a_volume_is_pulled_out_and_put_in),
    ("a_volume_that_cannot_be_read_keeps_its_copies", a_volume_that_cannot_be_read),
    ("a_volume_is_mounted_for_a_moment", a_volume_is_mounted_for_a_moment),
    ("an_inode_is_used_again", an_inode_is_used_again),
    ("a_removed_copy_is_forgotten", a_removed_copy_is_forgotten),
];

/// `cp` of the first shard to `copy`, weighed and kept.
fn copied(scene: &mut Scene<'_>, copy: &Path) -> Identity {
    let source = scene.model.files[0].clone();
    let cp = scene.run(Command::new("cp").arg(&source).arg(copy));
    scene.mark();
    kept(scene, 1.0);
    cp
}

/// Waits until so many copies are kept.
fn kept(scene: &mut Scene<'_>, copies: f64) {
    let known = tests::lab::wait_for(PATIENCE, || {
        let value =
            metrics::sum(&scene.metrics(), "weighbridge_copies_kept", &[]).expect("copies are counted");
        // The marker's copy is one too.
        (value == copies + 1.0).then_some(())
    });
    assert!(known.is_some(), "not {copies} copies are kept");
}

/// Sends `copy` to a place that nobody listed.
fn sent(scene: &Scene<'_>, copy: &Path) -> Expected {
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mover = scene.run(&mut scene.mover("read", "write", copy, &format!("tcp:{addr}")));
    let bytes = scene.received(&scene.model.files[0], receiver);
    Expected::egress(scene, &mover, addr, "tcp", bytes)
        .passing(&["asset", "process", "file", "process", "peer"])
}

fn renumber(volume: &mut Volume, scene: &Scene<'_>) {
    let before = volume.device().to_owned();
    volume.renumber(&scene.world.lab).unwrap_or_else(|error| panic!("{error:#}"));
    assert_ne!(volume.device(), before);
}

fn renamed_and_sent(w: &mut World, fstype: &'static str) {
    let mut volume = w.volume(fstype);
    let mut scene = w.scene();
    let (copy, hidden) = (volume.path().join("copy"), volume.path().join("deep/.hidden"));
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    renumber(&mut volume, &scene);
    fs::create_dir(volume.path().join("deep")).expect("a folder can be made");
    fs::rename(&copy, &hidden).expect("a file can be renamed");
    scene.start();
    let expected = [first, sent(&scene, &hidden)];
    scene.expect(&expected);
}

/// Within the controlled set first, which raises nothing but WB-0007; then out of it.
fn a_controlled_copy_is_copied_on(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.prepare();
    scene.config.controlled.push(volume.path().to_path_buf());
    scene.start();
    let (copy, hidden) = (volume.path().join("copy"), volume.path().join(".hidden"));
    copied(&mut scene, &copy);
    scene.stop();
    renumber(&mut volume, &scene);
    fs::rename(&copy, &hidden).expect("a file can be renamed");
    scene.start();
    let out = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&hidden).arg(&out));
    let bytes = scene.arrived(&scene.model.files[0], &out);
    let way = &["asset", "process", "file", "process", "file"];
    let expected = [Expected::copy(&scene, &cp, &out, bytes).passing(way), sent(&scene, &hidden)];
    scene.expect_beside_copies(&expected);
}

/// Somebody was quicker than the agent: what he read, or can load, is not known, so it is all.
fn held_before_the_start(w: &mut World, take: &str) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    let copy = volume.path().join("copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    renumber(&mut volume, &scene);
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.mover(take, "write", &copy, &format!("tcp:{addr}"));
    let mut mover = scene.spawn(command.arg("--pause"));
    assert_eq!(mover.line().expect("the mover holds"), "holding");
    scene.start();
    let mover = finish(mover);
    let bytes = scene.received(&scene.model.files[0], receiver);
    let expected = [first, Expected::egress(&scene, &mover, addr, "tcp", bytes)];
    scene.expect(&expected);
}

fn finish(mut mover: Running) -> Identity {
    mover.go().expect("the mover goes on");
    mover.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
}

/// `unload` gives up what the kernel knows, and not what is kept.
fn a_copy_is_sent_after_unload(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.start();
    let copy = volume.path().join("copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    let mut unload = Command::new(&scene.world.binary);
    scene.run(unload.arg("unload").arg("--config").arg(scene.work.join("weighbridge.yaml")));
    renumber(&mut volume, &scene);
    scene.start();
    let expected = [first, sent(&scene, &copy)];
    scene.expect(&expected);
}

/// The volume is mounted when the agent runs already.
fn a_volume_comes_later(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    let copy = volume.path().join("copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    renumber(&mut volume, &scene);
    volume.take_out().unwrap_or_else(|error| panic!("{error:#}"));
    scene.start();
    volume.put_in().unwrap_or_else(|error| panic!("{error:#}"));
    came_back(&mut scene, 2);
    let expected = [first, sent(&scene, &copy)];
    scene.expect(&expected);
}

fn a_volume_is_pulled_out_and_put_in(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    let copy = volume.path().join("copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    renumber(&mut volume, &scene);
    came_back(&mut scene, 1);
    let expected = [first, sent(&scene, &copy)];
    scene.expect(&expected);
}

/// The disk is pulled out while it is mounted: the kernel says of each file that it is gone, until the disk is back.
fn a_volume_that_cannot_be_read(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    // Far from the root's inode, which mounting reads with its neighbours.
    fs::create_dir(volume.path().join("deep")).expect("a folder can be made");
    let copy = volume.path().join("deep/copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    volume.take_out().unwrap_or_else(|error| panic!("{error:#}"));
    let (image, saved) = (volume.image().to_path_buf(), scene.work.join("saved.img"));
    scene.run(Command::new("cp").args(["--sparse=always"]).arg(&image).arg(&saved));
    volume.put_in().unwrap_or_else(|error| panic!("{error:#}"));
    fs::File::options().write(true).open(&image).and_then(|image| image.set_len(0)).expect("an image");
    scene.start();
    let doubted = tests::lab::wait_for(PATIENCE, || {
        let doubted = metrics::sum(&scene.metrics(), "weighbridge_copies_doubted_total", &[]);
        (doubted.expect("doubts are counted") >= 2.0).then_some(())
    });
    assert!(doubted.is_some(), "nobody asked whether the disk is there");
    volume.take_out().unwrap_or_else(|error| panic!("{error:#}"));
    scene.run(Command::new("cp").args(["--sparse=always"]).arg(&saved).arg(&image));
    volume.put_in().unwrap_or_else(|error| panic!("{error:#}"));
    // It is looked for again every second or so, whether its volume got another number or not; no line says when it was found.
    committed(&mut scene);
    committed(&mut scene);
    let expected = [first, sent(&scene, &copy)];
    scene.expect(&expected);
}

/// Mounted, written to and unmounted before the agent looks at its mounts by itself.
fn a_volume_is_mounted_for_a_moment(w: &mut World) {
    let mut volume = w.volume("ext4");
    volume.take_out().unwrap_or_else(|error| panic!("{error:#}"));
    let mut scene = w.scene();
    let copy = volume.path().join("copy");
    volume.put_in().unwrap_or_else(|error| panic!("{error:#}"));
    let cp = scene.run(Command::new("cp").arg(&scene.model.files[0]).arg(&copy));
    // Where it was mounted is said while it is.
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB).whatever_the_path();
    volume.take_out().unwrap_or_else(|error| panic!("{error:#}"));
    scene.mark();
    kept(&mut scene, 1.0);
    scene.stop();
    volume.put_in().unwrap_or_else(|error| panic!("{error:#}"));
    renumber(&mut volume, &scene);
    scene.start();
    let expected = [first, sent(&scene, &copy)];
    scene.expect(&expected);
}

/// Waits until the agent said so often that it looked for copies.
fn came_back(scene: &mut Scene<'_>, times: usize) {
    let said = tests::lab::wait_for(PATIENCE, || {
        let said = scene.agent().stderr();
        (said.matches("looked for copies").count() >= times).then_some(())
    });
    assert!(said.is_some(), "nobody looked for copies:\n{}", scene.agent().stderr());
}

/// The copy is removed while no agent runs, and another file gets its inode number: that is nobody's business.
fn an_inode_is_used_again(w: &mut World) {
    let mut volume = w.volume("ext4");
    let mut scene = w.scene();
    let copy = volume.path().join("copy");
    let cp = copied(&mut scene, &copy);
    let first = Expected::copy_on(&scene, &volume, &cp, &copy, 12 * MIB);
    scene.stop();
    let ino = inode(&copy);
    fs::remove_file(&copy).expect("a file can be removed");
    let other = (0..64)
        .map(|n| volume.path().join(format!("other{n}")))
        .find(|other| {
            fs::write(other, "x").expect("a file can be made");
            inode(other) == ino
        })
        .expect("ext4 uses an inode number again");
    scene.shell(&format!("head -c 12M /dev/urandom > {}", other.display()));
    assert_eq!(inode(&other), ino);
    renumber(&mut volume, &scene);
    scene.start();
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    scene.run(&mut scene.mover("read", "write", &other, &format!("tcp:{}", receiver.addr)));
    receiver.finish().unwrap_or_else(|error| panic!("{error:#}"));
    scene.mark();
    scene.expect(&[first]);
}

/// Within the agent's life: what is gone is not kept.
fn a_removed_copy_is_forgotten(w: &mut World) {
    let mut scene = w.scene();
    let copies = [scene.uncontrolled.join("one"), scene.uncontrolled.join("two")];
    let cp = copied(&mut scene, &copies[0]);
    let expected = [Expected::copy(&scene, &cp, &copies[0], 12 * MIB)];
    fs::rename(&copies[0], &copies[1]).expect("a file can be renamed");
    scene.mark();
    kept(&mut scene, 1.0);
    fs::remove_file(&copies[1]).expect("a file can be removed");
    kept(&mut scene, 0.0);
    scene.expect(&expected);
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("a file is there"))
}
