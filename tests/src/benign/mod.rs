//! What looks like theft and is none (TECHNIQUES §2): each of these must raise nothing that alarms.

pub(crate) mod acts;
pub(crate) mod operations;
pub(crate) mod training;

use std::process::Command;

use tests::lab::{
    MIB,
    outside::{CONTROLLED, UNCONTROLLED},
    process::Finished,
    weights::safetensors,
    which,
};

use crate::{
    expect::Expected,
    techniques,
    world::{PATIENCE, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("load_by_several_processes", load_by_several_processes),
    ("load_by_direct_reads", load_by_direct_reads),
    ("sha256sum", sha256sum),
    ("checkpoint_save", checkpoint_save),
    ("checkpoint_of_a_loaded_model", checkpoint_of_a_loaded_model),
    ("copy_within_the_controlled_volume", copy_within_the_controlled_volume),
    ("copy_to_a_controlled_peer", copy_to_a_controlled_peer),
    ("someone_else_sends_a_lot", someone_else_sends_a_lot),
    ("someone_else_writes_a_lot", someone_else_writes_a_lot),
    ("header_and_a_little_log", header_and_a_little_log),
    ("directory_listing", directory_listing),
    ("thrown_away", thrown_away),
    ("staged_in_shared_memory", staged_in_shared_memory),
    ("listed_reader", listed_reader),
    ("model_download", model_download),
    ("load_by_io_uring", load_by_io_uring),
    ("someone_else_uses_io_uring", someone_else_uses_io_uring),
    ("logger_over_datagrams", |w| neighbours(w, "logger", 0)),
    ("datagrams_to_a_path", |w| within(w, "path")),
    ("messages_of_netlink", |w| within(w, "netlink")),
    ("datagrams_apart_from_a_holders", |w| within(w, "apart")),
    ("database_in_shared_memory", |w| neighbours(w, "database", 4)),
    ("loader_workers_in_shared_memory", |w| neighbours(w, "loader", 0)),
];

/// Tensor-parallel workers: every one maps every shard and touches every page.
fn load_by_several_processes(w: &mut World) {
    let scene = w.scene();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let script = include_str!("../techniques/scripts/load.py");
            scene.spawn(scene.python("load.py", script).args(&scene.model.files))
        })
        .collect();
    for worker in workers {
        worker.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    }
    scene.expect_silence();
}

fn load_by_direct_reads(w: &mut World) {
    let scene = w.scene();
    let input = format!("if={}", scene.model.files[0].display());
    scene.run(Command::new("dd").args([&input, "of=/dev/null", "bs=1M", "iflag=direct"]));
    scene.expect_silence();
}

fn sha256sum(w: &mut World) {
    let scene = w.scene();
    scene.run(Command::new("sha256sum").args(&scene.model.files));
    scene.expect_silence();
}

/// As large as the model, written to a temporary name and renamed, all of it inside the asset's own directory.
fn checkpoint_save(w: &mut World) {
    let scene = w.scene();
    let (part, done) = (scene.model.dir.join(".tmp"), scene.model.dir.join("step-1.safetensors"));
    scene.shell(&format!(
        "head -c 20M /dev/urandom > {part} && mv {part} {}",
        done.display(),
        part = part.display()
    ));
    scene.expect_silence();
}

/// The writer holds the model: its checkpoint goes to the controlled volume all the same.
fn checkpoint_of_a_loaded_model(w: &mut World) {
    let scene = w.scene();
    let target = scene.controlled.join("checkpoint.safetensors");
    let writer =
        scene.run(&mut scene.mover("mmap", "write", &scene.model.files[0], &target.to_string_lossy()));
    assert_eq!(size(&target), size(&scene.model.files[0]));
    // Nothing left, but a copy lies where no list names it: low.
    let expected = [Expected::unregistered(&scene, &writer, &target, size(&target))];
    scene.expect(&expected);
}

fn copy_within_the_controlled_volume(w: &mut World) {
    let scene = w.scene();
    let target = scene.controlled.join("copy");
    let cp = scene.run(Command::new("cp").arg("-r").arg(&scene.model.dir).arg(&target));
    let bytes = scene.model.bytes;
    let expected = [Expected::unregistered(&scene, &cp, &target, bytes).whatever_the_path()];
    scene.expect(&expected);
}

fn copy_to_a_controlled_peer(w: &mut World) {
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = scene.world.outside.tcp(CONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    scene.run(&mut scene.mover("read", "send", source, &format!("tcp:{}", receiver.addr)));
    assert_eq!(scene.received(source, receiver), size(source));
    scene.expect_silence();
}

/// A process that holds nothing may send what it likes.
fn someone_else_sends_a_lot(w: &mut World) {
    let scene = w.scene();
    let other = scene.work.join("holiday.mp4");
    safetensors(&other, 40 * MIB, 9).expect("a file can be made");
    let receiver = scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}"));
    scene.run(&mut scene.mover("sendfile", "-", &other, &format!("tcp:{}", receiver.addr)));
    assert_eq!(scene.received(&other, receiver), 40 * MIB);
    scene.expect_silence();
}

fn someone_else_writes_a_lot(w: &mut World) {
    let scene = w.scene();
    let target = scene.uncontrolled.join("zeros");
    scene.shell(&format!("head -c 100M /dev/zero > {}", target.display()));
    scene.expect_silence();
}

/// A server that read a header logs some lines: it passes on no more than it logs.
fn header_and_a_little_log(w: &mut World) {
    let scene = w.scene();
    let log = scene.uncontrolled.join("server.log");
    scene.shell(&format!(
        "head -c 4096 {} | od -c | head -100 >> {}",
        scene.model.files[0].display(),
        log.display()
    ));
    assert!(size(&log) > 0);
    scene.expect_silence();
}

fn directory_listing(w: &mut World) {
    let scene = w.scene();
    let dir = scene.model.dir.display();
    scene.shell(&format!("ls -lR {dir}; du -a {dir}; find {dir} -size +1M; stat {dir}/*"));
    scene.expect_silence();
}

/// What goes to /dev/null has not left.
fn thrown_away(w: &mut World) {
    let scene = w.scene();
    scene.shell(&format!("cat {}/* > /dev/null", scene.model.dir.display()));
    scene.expect_silence();
}

/// Loaders do it: memory is a sink of its own kind, and no rule of the built-in set fires on it.
fn staged_in_shared_memory(w: &mut World) {
    let scene = w.scene();
    let stage = format!("/dev/shm/weighbridge-lab-{}", std::process::id());
    scene.shell(&format!("cp {} {stage} && rm {stage}", scene.model.files[0].display()));
    scene.expect_silence();
}

/// On the reader list: taking alone raises nothing, not even low. The marker's copy is by cp, on another asset.
fn listed_reader(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.assets[0].readers = vec![which("sha256sum").expect("sha256sum")];
    scene.start();
    scene.run(Command::new("sha256sum").args(&scene.model.files));
    scene.expect_silence();
}

/// Local traffic of a healthy host, and `connections` to the outside by processes that hold nothing.
fn neighbours(w: &mut World, kind: &str, connections: usize) {
    let scene = w.scene();
    let receivers: Vec<_> = (0..connections.max(1))
        .map(|_| scene.world.outside.tcp(UNCONTROLLED).unwrap_or_else(|error| panic!("{error:#}")))
        .collect();
    let mut command = scene.python("neighbours.py", include_str!("../techniques/scripts/neighbours.py"));
    let ports: Vec<String> = receivers.iter().map(|receiver| receiver.addr.port().to_string()).collect();
    command
        .arg(kind)
        .arg(&scene.model.files[0])
        .arg(UNCONTROLLED.to_string())
        .arg(ports.join(","))
        .arg(&scene.uncontrolled);
    scene.run(&mut command);
    if connections > 0 {
        for receiver in receivers {
            assert_eq!(receiver.finish().unwrap_or_else(|error| panic!("{error:#}")).bytes, 6 * MIB);
        }
    }
    scene.expect_silence();
}

/// More than any line, and all of it stays in processes of this host.
fn within(w: &mut World, how: &str) {
    let mut scene = w.prepare_sized(1, 40 * MIB);
    scene.start();
    let other = scene.uncontrolled.join("other");
    let mut command = scene.python("within.py", include_str!("scripts/within.py"));
    scene.run(command.arg(how).arg(&scene.model.files[0]).arg(&scene.work).arg(&other));
    scene.expect_silence();
}

/// Towards the model, not away from it.
fn model_download(w: &mut World) {
    let scene = w.scene();
    let archive = scene.uncontrolled.join("download");
    safetensors(&archive, 30 * MIB, 11).expect("a file can be made");
    scene.run(Command::new("cp").arg(&archive).arg(scene.model.dir.join("download.safetensors")));
    scene.expect_silence();
}

/// A listed reader loads with requests, some of them without events, and saves into the asset.
fn load_by_io_uring(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.assets[0].readers = vec![World::python()];
    scene.start();
    for way in ["plain", "skip", "overflow", "sqpoll", "fixed"] {
        let target = scene.model.dir.join(way);
        techniques::uring::run(&scene, way, &target.to_string_lossy());
        assert_eq!(size(&target), size(&scene.model.files[0]));
    }
    scene.expect_silence();
}

/// Nothing that is protected is moved.
fn someone_else_uses_io_uring(w: &mut World) {
    let scene = w.scene();
    let other = scene.work.join("holiday.mp4");
    safetensors(&other, 20 * MIB, 9).expect("a file can be made");
    for way in ["plain", "skip", "overflow", "sqpoll", "slots", "splice", "open_skip"] {
        let target = scene.uncontrolled.join(way);
        let mut python = scene.python("uring.py", techniques::uring::SCRIPT);
        techniques::uring::run_on(&scene, python.arg(way).arg(&other).arg(&target));
        assert_eq!(size(&target), 20 * MIB);
    }
    scene.expect_silence();
}
