//! Kinds of filesystems (TECHNIQUES 1B S09, 1C, 1G E16): clones without a copy, images, and filesystems that a process serves;
//! layers (overlays) have a file of their own.

mod layers;
mod overlays;

use std::{ffi::OsStr, fs, path::Path, process::Command};

use tests::lab::{
    MIB,
    process::{Identity, Running},
    run,
    volume::{Volume, device_of},
    wait_for,
    weights::Weights,
};

use super::{
    tooling::{built, descendant, ok},
    uring::run_on,
};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, hole, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("cp_to_xfs", |w| copied_to(w, "xfs")),
    ("cp_to_btrfs", |w| copied_to(w, "btrfs")),
    ("from_xfs", |w| copied_from(w, "xfs")),
    ("from_btrfs", |w| copied_from(w, "btrfs")),
    ("staged_reflink_on_xfs", |w| staged(w, "xfs", Clone::Whole)),
    ("staged_reflink_on_btrfs", |w| staged(w, "btrfs", Clone::Whole)),
    ("staged_reflink_of_a_range_on_xfs", |w| staged(w, "xfs", Clone::Range)),
    ("staged_reflink_of_a_range_on_btrfs", |w| staged(w, "btrfs", Clone::Range)),
    ("staged_copy_file_range_on_btrfs", |w| staged(w, "btrfs", Clone::CopyRange)),
    ("image_mounted_from_the_uncontrolled_volume", image_mounted),
    ("bindfs_over_the_target", bindfs_over_the_target),
    ("bindfs_over_the_model", bindfs_over_the_model),
    ("bindfs_over_the_model_mapped", bindfs_over_the_model_mapped),
    ("passed_through_by_a_server", passed_through_by_a_server),
    ("passed_through_by_a_server_and_mapped", passed_through_by_a_server_and_mapped),
    ("overlay_copies_up", overlays::overlay_copies_up),
    ("overlay_copies_up_for_its_mode", overlays::overlay_copies_up_for_its_mode),
    ("overlay_copies_up_by_path", |w| layers::by_path(w, "chmod", "")),
    ("overlay_copies_up_by_chown", |w| layers::by_path(w, "chown", "")),
    ("overlay_copies_up_by_rename", |w| layers::by_path(w, "rename", ",index=on,redirect_dir=on")),
    ("overlay_copies_up_by_link", |w| layers::by_path(w, "link", ",index=on")),
    ("overlay_copies_up_by_setxattr", |w| layers::by_path(w, "setxattr", "")),
    ("overlay_copies_up_by_utime", |w| layers::by_path(w, "utime", "")),
    ("overlay_copies_up_by_truncate", |w| layers::by_path(w, "truncate", "")),
    ("overlay_copies_up_by_a_link_to_it", |w| layers::by_path(w, "by_a_link", "")),
    ("overlay_copies_up_by_flags", |w| layers::by_path(w, "flags", "")),
    ("overlay_copies_up_by_file_setattr", |w| layers::by_path(w, "file_setattr", "")),
    ("overlay_copies_up_by_a_call_that_fails", |w| layers::by_path(w, "fails", "")),
    ("overlay_copies_up_by_a_request_to_rename", |w| layers::by_request(w, "renamed")),
    ("overlay_copies_up_by_a_request_to_link", |w| layers::by_request(w, "linked_again")),
    ("overlay_copies_up_by_a_request_to_describe", |w| layers::by_request(w, "described")),
    ("overlay_copies_up_by_a_request_without_an_event", |w| {
        hole(w, "who has an overlay copy a file by a request of io_uring that leaves no event", |w| {
            layers::by_request(w, "renamed_quietly");
        })
    }),
    ("overlay_copies_up_metadata_first", layers::metadata_first),
    ("overlay_copies_up_once", layers::copied_once),
    ("overlay_copy_taken_at_once", layers::taken_at_once),
    ("overlay_in_a_mount_namespace", |w| layers::in_a_namespace(w, false)),
    ("overlay_in_a_user_namespace", |w| layers::in_a_namespace(w, true)),
    ("overlay_mounted_nowhere", layers::mounted_nowhere),
    ("overlay_mounted_before_the_agent", layers::mounted_before),
    ("overlay_copied_before_the_agent", layers::copied_before),
    ("overlay_clones_on_xfs", |w| layers::cloned(w, "xfs")),
    ("overlay_clones_on_btrfs", |w| layers::cloned(w, "btrfs")),
    ("overlay_on_an_overlay_by_path", layers::on_an_overlay),
    ("overlay_copy_of_before", overlays::overlay_copy_of_before),
    ("overlay_copy_taken_from_the_upper_layer", overlays::overlay_copy_taken_from_the_upper_layer),
    ("overlay_on_an_overlay", overlays::overlay_on_an_overlay),
    ("fifo_on_an_overlay", overlays::fifo_on_an_overlay),
    ("opened_by_a_handle_of_xfs", opened_by_a_handle_of_xfs),
    ("btrfs_send", |w| btrfs_send(w, true)),
    ("btrfs_send_into_a_file", |w| btrfs_send(w, false)),
    ("btrfs_onto_another_disk", btrfs_onto_another_disk),
    ("image_mounted_without_a_device", image_mounted_without_a_device),
    ("container_with_a_root_of_its_own", container),
    ("tmpfs_of_a_container", tmpfs_of_a_container),
];

/// Where a clone is made without that data moves.
enum Clone {
    Whole,
    Range,
    CopyRange,
}

fn copied_to(w: &mut World, fstype: &'static str) {
    let volume = w.volume(fstype);
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], volume.path().join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let expected = [Expected::copy_on(&scene, &volume, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

fn copied_from(w: &mut World, fstype: &'static str) {
    let volume = w.volume(fstype);
    let mut scene = w.prepare();
    move_model(&mut scene, &volume);
    scene.config.controlled.push(volume.path().to_path_buf());
    scene.start();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A second name for the model's blocks on its own, controlled volume: nobody ever read the model; what leaves is the clone.
fn staged(w: &mut World, fstype: &'static str, how: Clone) {
    let volume = w.volume(fstype);
    let mut scene = w.prepare();
    move_model(&mut scene, &volume);
    scene.config.controlled.push(volume.path().to_path_buf());
    scene.start();
    let (source, stage, copy) =
        (&scene.model.files[0], volume.path().join("clone"), scene.uncontrolled.join("w"));
    match how {
        Clone::Whole => scene.run(Command::new("cp").arg("--reflink=always").arg(source).arg(&stage)),
        Clone::Range => {
            let script = include_str!("../scripts/clone_range.py");
            scene.run(scene.python("clone_range.py", script).arg(source).arg(&stage))
        }
        Clone::CopyRange => {
            scene.run(&mut scene.mover("copy_file_range", "-", source, &stage.to_string_lossy()))
        }
    };
    let cp = scene.run(Command::new("cp").arg(&stage).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect_beside_copies(&expected);
}

/// An image on the uncontrolled volume, mounted after the agent started: a device of its own.
fn image_mounted(w: &mut World) {
    let mut scene = w.scene();
    let (image, place) = (scene.uncontrolled.join("image"), scene.work.join("image"));
    let text =
        format!("truncate -s 64M {image} && mkfs.ext4 -q -F -E nodiscard {image}", image = image.display());
    scene.shell(&text);
    ok(scene.mount(
        &["-o", "loop"].map(OsStr::new).into_iter().chain([image.as_os_str()]).collect::<Vec<_>>(),
        &place,
    ));
    let device = ok(device_of(&place));
    let (source, copy) = (&scene.model.files[0], place.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy_at(&scene, &cp, &copy, (&place, &device, "ext4"), bytes)];
    scene.expect(&expected);
}

/// What the copier writes goes to a process, and that process puts it on the uncontrolled volume.
fn bindfs_over_the_target(w: &mut World) {
    let scene = w.scene();
    let (server, place) = bindfs(&scene, &scene.uncontrolled);
    let device = ok(device_of(&place));
    let (source, copy) = (&scene.model.files[0], place.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &scene.uncontrolled.join("w"));
    let expected = [Expected::copy_at(&scene, &cp, &copy, (&place, &device, "fuse"), bytes)];
    scene.expect(&expected);
    drop(server);
}

/// The process that reads the model serves it; the one that copies never sees a protected file.
fn bindfs_over_the_model(w: &mut World) {
    let scene = w.scene();
    let (server, place) = bindfs(&scene, &scene.model.dir);
    let source = &scene.model.files[0];
    let (name, copy) = (place.join(source.file_name().expect("a name")), scene.uncontrolled.join("w"));
    let cp = scene.run(Command::new("cp").arg(&name).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
    drop(server);
}

fn bindfs_over_the_model_mapped(w: &mut World) {
    let scene = w.scene();
    let (server, place) = bindfs(&scene, &scene.model.dir);
    let source = &scene.model.files[0];
    let (name, copy) = (place.join(source.file_name().expect("a name")), scene.uncontrolled.join("w"));
    let mover = scene.run(&mut scene.mover("mmap", "write", &name, &copy.to_string_lossy()));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
    drop(server);
}

/// The server lets the kernel read the model for it: neither the server nor who copies ever makes a call that reads it.
fn passed_through_by_a_server(w: &mut World) {
    passed_through(w, |scene, name, copy| scene.run(Command::new("cp").arg(name).arg(copy)));
}

fn passed_through_by_a_server_and_mapped(w: &mut World) {
    passed_through(w, |scene, name, copy| {
        scene.run(&mut scene.mover("mmap", "write", name, &copy.to_string_lossy()))
    });
}

fn passed_through(w: &mut World, steal: impl FnOnce(&Scene<'_>, &Path, &Path) -> Identity) {
    let scene = w.scene();
    let program = built(&scene, "passthrough", include_str!("../scripts/passthrough.c"), &["-O1"]);
    if !Path::new("/dev/fuse").exists() {
        skip("this kernel has no FUSE");
    }
    let (place, copy) = (scene.work.join("passed"), scene.uncontrolled.join("w"));
    fs::create_dir(&place).expect("a folder can be made");
    let source = &scene.model.files[0];
    let server = scene.spawn(Command::new(program).arg(source).arg(&place));
    assert!(wait_for(PATIENCE, || device_of(&place).ok()).is_some(), "it never mounted");
    let name = place.join("w");
    if fs::File::open(&name).is_err() {
        skip("this kernel does not read for a server (FUSE passthrough, 6.9)");
    }
    let thief = steal(&scene, &name, &copy);
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes).or_up_to_the_asset()];
    scene.expect(&expected);
    drop(server);
}

/// A folder served by bindfs, and where.
fn bindfs(scene: &Scene<'_>, folder: &Path) -> (Running, std::path::PathBuf) {
    World::needs("bindfs");
    if !Path::new("/dev/fuse").exists() {
        skip("this kernel has no FUSE");
    }
    let place = scene.work.join("served");
    fs::create_dir(&place).expect("a folder can be made");
    let server = scene.spawn(Command::new("bindfs").arg("-f").arg(folder).arg(&place));
    assert!(wait_for(PATIENCE, || device_of(&place).ok()).is_some(), "bindfs never mounted");
    (server, place)
}

/// A volume of this kind with the model on it.
fn on_a<'w>(w: &'w mut World, fstype: &'static str, before: impl FnOnce(&Volume)) -> (Volume, Scene<'w>) {
    let volume = w.volume(fstype);
    let mut scene = w.prepare();
    move_model(&mut scene, &volume);
    scene.config.controlled.push(volume.path().to_path_buf());
    before(&volume);
    scene.start();
    scene.settled();
    (volume, scene)
}

/// An ioctl on any file of the volume gives the descriptor: nobody names the model in a call that opens.
fn opened_by_a_handle_of_xfs(w: &mut World) {
    let (volume, scene) = on_a(w, "xfs", |_| {});
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("xfs_handle.py", include_str!("../scripts/xfs_handle.py"));
    let thief = run_on(&scene, command.arg(volume.path()).arg(source).arg(&copy));
    let expected = [Expected::copy(&scene, &thief, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The kernel reads the whole volume and writes a stream of it. `by_tool`: into a pipe, out of which a thread has written all of it to the file
/// when the call returns, so that where it went is not known.
fn btrfs_send(w: &mut World, by_tool: bool) {
    World::needs("btrfs");
    let (volume, scene) = on_a(w, "btrfs", |volume| {
        let snapshot = volume.path().join("snapshot");
        let mut btrfs = Command::new("btrfs");
        ok(run(btrfs.args(["-q", "subvolume", "snapshot", "-r"]).arg(volume.path()).arg(snapshot)));
    });
    let (snapshot, copy) = (volume.path().join("snapshot"), scene.uncontrolled.join("w"));
    let sender = if by_tool {
        scene.run(Command::new("btrfs").args(["-q", "send", "-f"]).arg(&copy).arg(&snapshot))
    } else {
        let mut command = scene.python("btrfs_send.py", include_str!("../scripts/btrfs_send.py"));
        run_on(&scene, command.arg(&snapshot).arg(&copy))
    };
    assert!(size(&copy) > scene.model.bytes, "the stream has {} bytes", size(&copy));
    let act = Expected::act(&scene, "WB-0005", "raw_device", &sender);
    let copied = Expected::copy(&scene, &sender, &copy, scene.model.bytes);
    let copied = if by_tool { copied.whose_file_is_unknown() } else { copied };
    scene.expect(&[act, copied]);
}

/// Another disk becomes part of the model's volume: what the kernel brings onto it no process reads.
fn btrfs_onto_another_disk(w: &mut World) {
    World::needs("btrfs");
    let (volume, scene) = on_a(w, "btrfs", |_| {});
    let disk = scene.uncontrolled.join("disk");
    let text = format!(
        "truncate -s 300M {disk}; d=$(losetup -f --show {disk}); btrfs -q device add -f $d {volume}; s=$?; losetup -d $d; exit $s",
        disk = disk.display(),
        volume = volume.path().display()
    );
    let shell = scene.shell(&text);
    let btrfs = descendant(&shell, "btrfs");
    let expected = [Expected::act(&scene, "WB-0005", "raw_device", &btrfs)];
    scene.expect(&expected);
}

/// A filesystem that lies in a copy of the model, without a block device in between: the reader opens neither.
fn image_mounted_without_a_device(w: &mut World) {
    World::needs("mkfs.erofs");
    let mut scene = w.scene();
    let (image, place) = (scene.controlled.join("image"), scene.work.join("image"));
    let folder = scene.model.dir.display().to_string();
    scene.shell(&format!("mkfs.erofs {} {folder} > {}", image.display(), scene.work.join("told").display()));
    if let Err(error) = scene.mount_in_a_file("erofs", &image, &place) {
        skip(format_args!("no erofs in a file here: {error:#}"));
    }
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a file has a name");
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(place.join(name)).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect_beside_copies(&expected);
}

/// What a container runtime does: namespaces, a root of its own from a static program, the model bound into it.
fn container(w: &mut World) {
    for tool in ["busybox", "unshare", "chroot"] {
        World::needs(tool);
    }
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let root = scene.work.join("root");
    for folder in ["bin", "models", "out"] {
        fs::create_dir_all(root.join(folder)).expect("a folder can be made");
    }
    let busybox = tests::lab::which("busybox").expect("busybox");
    fs::copy(&busybox, root.join("bin/busybox")).expect("a tool can be copied");
    let text = format!(
        "mount --bind {} {root}/models && mount --bind {} {root}/out && exec chroot {root} /bin/busybox cp /models/{} /out/w",
        scene.model.dir.display(),
        scene.uncontrolled.display(),
        source.file_name().expect("a name").display(),
        root = root.display()
    );
    let shell = scene.run(Command::new("unshare").args(["-m", "-p", "-f", "-u", "-i", "sh", "-c", &text]));
    let mut thief = descendant(&shell, "busybox");
    thief.exe = root.join("bin/busybox");
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}

/// A tmpfs in a mount namespace that only the thief has; from there to the uncontrolled volume.
fn tmpfs_of_a_container(w: &mut World) {
    World::needs("unshare");
    let scene = w.scene();
    let (source, copy, place) =
        (&scene.model.files[0], scene.uncontrolled.join("w"), scene.work.join("memory"));
    fs::create_dir(&place).expect("a folder can be made");
    let text = format!(
        "mount -t tmpfs none {place} && cp {} {place}/w && cat {place}/w > {}; true",
        source.display(),
        copy.display(),
        place = place.display()
    );
    let shell = scene.run(Command::new("unshare").args(["-m", "sh", "-c", &text]));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &descendant(&shell, "cat"), &copy, bytes)];
    scene.expect(&expected);
}

/// Makes the model anew on another volume: the scene's asset from now on.
pub(crate) fn move_model(scene: &mut Scene<'_>, volume: &Volume) {
    scene.model = ok(Weights::safetensors(&volume.path().join("llm"), 2, 12 * MIB, size_seed(scene)));
    for asset in &mut scene.config.assets {
        if asset.name == crate::world::ASSET {
            asset.path.clone_from(&scene.model.dir);
        }
    }
}

/// Any number that differs between scenes.
fn size_seed(scene: &Scene<'_>) -> u64 {
    size(&scene.model.files[0]) + scene.work.as_os_str().len() as u64
}
