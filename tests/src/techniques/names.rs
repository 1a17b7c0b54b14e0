//! Other names for the same file (TECHNIQUES 1C): what is protected is the inode, whatever leads to it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};
use tests::lab::{process::Identity, weights::safetensors};

use crate::{
    expect::Expected,
    world::{ASSET, PATIENCE, Scene, Test, World, size, skip},
};

pub(crate) const TESTS: &[Test] = &[
    ("hard_link", hard_link),
    ("hard_link_made_before_the_start", hard_link_made_before_the_start),
    ("symlink", symbolic_link),
    ("renamed", renamed),
    ("moved_out_of_the_directory", moved_out_of_the_directory),
    ("bind_mount", bind_mount),
    ("bind_mount_of_the_target", bind_mount_of_the_target),
    ("mount_namespace_of_its_own", mount_namespace_of_its_own),
    ("chroot", chroot),
    ("overlay", overlay),
    ("created_after_the_start", created_after_the_start),
    ("created_in_a_new_subdirectory", created_in_a_new_subdirectory),
    ("new_in_the_model_before_the_agent_knows", |w| before_the_agent_knows(w, New::InTheDirectory)),
    ("new_under_the_name_of_a_shard_before_the_agent_knows", |w| before_the_agent_knows(w, New::OfAName)),
    ("deleted_but_open", deleted_but_open),
    ("in_attributes_of_a_file", in_attributes_of_a_file),
    ("in_attributes_by_requests", in_attributes_by_requests),
    ("in_what_links_say", |w| in_what_links_say(w, "links")),
    ("in_what_links_say_by_requests", |w| in_what_links_say(w, "links-requests")),
];

/// Where a file comes that the registry does not know.
#[derive(PartialEq)]
enum New {
    InTheDirectory,
    /// The asset is a single file, of which another takes the name.
    OfAName,
}

/// Nothing is written into the file that is carried away: the bytes are in what is said of it.
fn in_attributes_of_a_file(w: &mut World) {
    let scene = w.scene();
    let thief = described(&scene, "attributes");
    let file = scene.uncontrolled.join("w");
    let expected = [Expected::copy(&scene, &thief, &file, size(&scene.model.files[0]))];
    scene.expect(&expected);
}

/// Of a request of io_uring only the longest that it can store is known, and not in which file.
fn in_attributes_by_requests(w: &mut World) {
    let scene = w.scene();
    let thief = described(&scene, "attributes-requests");
    let unknown = scene.uncontrolled.join("w");
    let copy = Expected::copy(&scene, &thief, &unknown, size(&scene.model.files[0])).whose_file_is_unknown();
    scene.expect(&[copy]);
}

/// Links that lead nowhere, with the bytes in hexadecimal: what was taken is half of what they say.
fn in_what_links_say(w: &mut World, kind: &str) {
    const LINKS: u64 = 512;
    const TAKEN: u64 = 2048;
    let scene = w.scene();
    let thief = described(&scene, kind);
    let made = fs::read_dir(&scene.uncontrolled).expect("the volume can be read");
    let links = made.flatten().filter(|entry| entry.path().is_symlink()).count();
    assert_eq!(links as u64, LINKS);
    let unknown = scene.uncontrolled.join("w");
    let copy = Expected::copy(&scene, &thief, &unknown, LINKS * TAKEN).whose_file_is_unknown();
    scene.expect(&[copy]);
}

fn described(scene: &Scene<'_>, kind: &str) -> Identity {
    // What the other imports.
    scene.python("uring.py", include_str!("scripts/uring.py"));
    let mut command = scene.python("described.py", include_str!("scripts/described.py"));
    scene.run(command.arg(kind).arg(&scene.model.files[0]).arg(&scene.uncontrolled))
}

/// cp from `name`, whose bytes are those of the first shard.
fn copied_from(scene: Scene<'_>, name: &Path) {
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(name).arg(&copy));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(name, &copy))];
    scene.expect(&expected);
}

fn hard_link(w: &mut World) {
    let scene = w.scene();
    let link = scene.controlled.join(".x");
    fs::hard_link(&scene.model.files[0], &link).expect("a link can be made");
    copied_from(scene, &link);
}

fn hard_link_made_before_the_start(w: &mut World) {
    let mut scene = w.prepare();
    let link = scene.controlled.join(".x");
    fs::hard_link(&scene.model.files[0], &link).expect("a link can be made");
    scene.start();
    copied_from(scene, &link);
}

/// The agent gets no processor from before the file is there until it has been copied: only the kernel can know that it belongs to
/// the model.
fn before_the_agent_knows(w: &mut World, new: New) {
    let mut scene = w.prepare();
    let (beside, copy) = (scene.controlled.join("beside"), scene.uncontrolled.join("w"));
    fs::copy(&scene.model.files[1], &beside).expect("the model can be copied");
    let place = match new {
        New::InTheDirectory => scene.model.dir.join("new"),
        New::OfAName => scene.model.files[0].clone(),
    };
    if new == New::OfAName {
        for asset in scene.config.assets.iter_mut().filter(|asset| asset.name == ASSET) {
            asset.path.clone_from(&place);
        }
    }
    scene.start();
    scene.settled();
    let agent = i32::try_from(scene.agent().pid()).ok().and_then(Pid::from_raw).expect("the agent runs");
    kill_process(agent, Signal::STOP).expect("the agent runs");
    fs::rename(&beside, &place).expect("a file can be renamed");
    let cp = scene.run(Command::new("cp").arg(&place).arg(&copy));
    kill_process(agent, Signal::CONT).expect("the agent is there");
    let bytes = scene.arrived(&place, &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes).whatever_the_asset_size()];
    scene.expect_beside_signals(&expected);
}

fn symbolic_link(w: &mut World) {
    let scene = w.scene();
    let link = scene.work.join("notes.txt");
    symlink(&scene.model.files[0], &link).expect("a link can be made");
    copied_from(scene, &link);
}

fn renamed(w: &mut World) {
    let scene = w.scene();
    let name = scene.model.dir.join("model.log");
    fs::rename(&scene.model.files[0], &name).expect("a file can be renamed");
    copied_from(scene, &name);
}

/// Out of the protected directory, on the same filesystem: no byte was moved, and the inode is still the asset's.
fn moved_out_of_the_directory(w: &mut World) {
    let scene = w.scene();
    let name = scene.controlled.join("model.log");
    fs::rename(&scene.model.files[0], &name).expect("a file can be renamed");
    copied_from(scene, &name);
}

fn bind_mount(w: &mut World) {
    let mut scene = w.scene();
    let place = scene.work.join("bound");
    let dir = scene.model.dir.clone();
    scene.mount(&["--bind".as_ref(), dir.as_os_str()], &place).unwrap_or_else(|error| panic!("{error:#}"));
    let name = place.join(scene.model.files[0].file_name().expect("a name"));
    copied_from(scene, &name);
}

/// The uncontrolled filesystem shows up inside of the controlled one: control belongs to the filesystem, not to the path.
fn bind_mount_of_the_target(w: &mut World) {
    let mut scene = w.scene();
    let place = scene.controlled.join("looks-controlled");
    let target = scene.uncontrolled.clone();
    scene.mount(&["--bind".as_ref(), target.as_os_str()], &place).unwrap_or_else(|error| panic!("{error:#}"));
    let (source, copy) = (&scene.model.files[0], place.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &copy);
    let expected = [Expected::copy(&scene, &cp, &target.join("w"), bytes).or_at(&copy, &place)];
    scene.expect(&expected);
}

fn mount_namespace_of_its_own(w: &mut World) {
    World::needs("unshare");
    let scene = w.scene();
    let source = &scene.model.files[0];
    let copy = scene.uncontrolled.join("w");
    let place = scene.work.join("hidden");
    fs::create_dir(&place).expect("a folder can be made");
    let text = format!(
        "mount --bind {} {} && exec cp {} {}",
        scene.model.dir.display(),
        place.display(),
        place.join(source.file_name().expect("a name")).display(),
        copy.display()
    );
    let mut cp = scene.run(Command::new("unshare").args(["-m", "sh", "-c", &text]));
    cp.exe = tests::lab::which("cp").expect("cp");
    cp.cmdline = None;
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The mover's root is another one: its paths mean nothing outside. The mounts live in a namespace of their own and go
/// with it.
fn chroot(w: &mut World) {
    World::needs("chroot");
    World::needs("unshare");
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let root = scene.work.join("root");
    fs::create_dir(&root).expect("a folder can be made");
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let binds: Vec<String> = [Path::new("/"), scene.world.controlled.path(), scene.world.uncontrolled.path()]
        .iter()
        .map(|from| format!("mount --bind {} {}", from.display(), below(from).display()))
        .collect();
    let text = format!(
        "{} && exec chroot {} cp {} {}",
        binds.join(" && "),
        root.display(),
        source.display(),
        copy.display()
    );
    let mut cp = scene.run(Command::new("unshare").args(["-m", "sh", "-c", &text]));
    cp.exe = tests::lab::which("cp").expect("cp");
    cp.cmdline = Some(format!("cp {} {}", source.display(), copy.display()));
    let expected = [Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// A container's way of seeing the model: the lower layer of an overlay.
fn overlay(w: &mut World) {
    let mut scene = w.scene();
    let [upper, scratch, place] = ["upper", "scratch", "merged"].map(|name| scene.uncontrolled.join(name));
    for folder in [&upper, &scratch] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        scene.model.dir.display(),
        upper.display(),
        scratch.display()
    );
    let words = ["-t", "overlay", "overlay", "-o", &options].map(OsStr::new);
    if let Err(error) = scene.mount(&words, &place) {
        skip(format_args!("no overlay here: {error:#}"));
    }
    let name = place.join(scene.model.files[0].file_name().expect("a name"));
    let copy = scene.uncontrolled.join("w");
    let cp = scene.run(Command::new("cp").arg(&name).arg(&copy));
    let bytes = scene.arrived(&scene.model.files[0], &copy);
    let expected = [Expected::copy(&scene, &cp, &copy, bytes)];
    scene.expect(&expected);
}

fn created_after_the_start(w: &mut World) {
    let scene = w.scene();
    let name = scene.model.dir.join("new.safetensors");
    created(scene, &name);
}

fn created_in_a_new_subdirectory(w: &mut World) {
    let scene = w.scene();
    let folder = scene.model.dir.join("a/b/c");
    fs::create_dir_all(&folder).expect("a folder can be made");
    created(scene, &folder.join("new.safetensors"));
}

/// The asset grows by the new file; the copy's bound is the new file.
fn created(mut scene: Scene<'_>, name: &Path) {
    let bytes = 5 << 20;
    safetensors(name, bytes, 5).expect("a file can be made");
    scene.model.bytes += bytes;
    copied_from(scene, name);
}

/// The last name is gone while a process still holds the file open.
fn deleted_but_open(w: &mut World) {
    let scene = w.scene();
    let source: PathBuf = scene.model.files[0].clone();
    let copy = scene.uncontrolled.join("w");
    let mut command = scene.mover("read", "write", &source, &copy.to_string_lossy());
    let mut mover = scene.spawn(command.arg("--pause"));
    assert_eq!(mover.line().expect("the mover holds"), "holding");
    fs::remove_file(&source).expect("a file can be removed");
    mover.go().expect("the mover goes on");
    let mover = mover
        .finish(PATIENCE)
        .and_then(tests::lab::process::Finished::success)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let bytes = size(&copy);
    let expected = [Expected::copy(&scene, &mover, &copy, bytes).whatever_the_asset_size()];
    scene.expect(&expected);
}
