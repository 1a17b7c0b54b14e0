//! What the frameworks do all day (TECHNIQUES B01–B06, B13, B22): load, feed, save, answer. None of it may raise an incident.

use std::{fs, path::Path, process::Command};

use tests::lab::{outside::INSIDE, process::Finished};

use crate::{
    techniques::tooling::{ok, wait_listening},
    world::{PATIENCE, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("sixteen_workers_map_every_shard", sixteen_workers),
    ("loaders_of_every_kind", loaders),
    ("data_loader_workers", data_loader_workers),
    ("another_job_beside_the_loader", another_job),
    ("checkpoints_come_and_go", checkpoints),
    ("hugging_face_cache", hugging_face_cache),
    ("inference_server_answers", inference_server),
    ("metrics_of_a_holder_are_scraped", metrics_are_scraped),
    ("holder_logs_to_a_socket", holder_logs),
];

/// Each touches every page, all at once, as ranks do that share the page cache.
fn sixteen_workers(w: &mut World) {
    let scene = w.scene();
    let own = std::env::current_exe().expect("a process knows its executable");
    let workers: Vec<_> = (0..16)
        .map(|_| scene.spawn(Command::new(&own).args(["work", "load-mmap"]).args(&scene.model.files)))
        .collect();
    for worker in workers {
        ok(worker.finish(PATIENCE).and_then(Finished::success));
    }
    scene.expect_silence();
}

/// By read, by mapping, past the page cache; torch's and llama.cpp's ways of opening.
fn loaders(w: &mut World) {
    let scene = w.scene();
    let own = std::env::current_exe().expect("a process knows its executable");
    for way in ["load-mmap", "load-read", "load-direct"] {
        scene.run(Command::new(&own).args(["work", way]).args(&scene.model.files));
    }
    scene.expect_silence();
}

/// Workers put batches into shared memory and hand the descriptors to the trainer.
fn data_loader_workers(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("scripts/data_loader.py");
    scene.run(scene.python("data_loader.py", script).args(&scene.model.files));
    scene.expect_silence();
}

/// Both have dozens of shared mappings, and the other's are its own: what it writes anywhere is not the model's.
fn another_job(w: &mut World) {
    let scene = w.scene();
    let script = |result: &Path| {
        let mut command = scene.python("crowd_of_mappings.py", include_str!("scripts/crowd_of_mappings.py"));
        command.arg("/dev/shm").arg(result);
        command
    };
    let mut loader = scene.spawn(script(Path::new("-")).arg(&scene.model.files[0]));
    assert_eq!(ok(loader.line()), "ready");
    for number in 0..4 {
        scene.run(&mut script(&scene.uncontrolled.join(format!("result-{number}"))));
    }
    ok(loader.finish(PATIENCE).and_then(Finished::success));
    scene.expect_silence();
}

/// Written under a temporary name on the controlled volume, synced, renamed; the oldest goes.
fn checkpoints(w: &mut World) {
    let scene = w.scene();
    let script = include_str!("scripts/checkpoints.py");
    let folder = scene.controlled.join("checkpoints");
    scene.run(scene.python("checkpoints.py", script).arg(&folder).args(&scene.model.files));
    assert_eq!(fs::read_dir(&folder).expect("checkpoints were saved").count(), 3);
    scene.expect_no_incident();
}

/// Blobs, symbolic links from a snapshot, lock files; loaded through the links.
fn hugging_face_cache(w: &mut World) {
    let scene = w.scene();
    let base = scene.model.dir.join("models--lab--llm");
    for folder in ["blobs", "refs", "snapshots/abc", ".locks"] {
        fs::create_dir_all(base.join(folder)).expect("a folder can be made");
    }
    let mut text = format!("cd {} && echo abc > refs/main && touch .locks/x.lock", base.display());
    for (number, file) in scene.model.files.iter().enumerate() {
        let blob = format!("blobs/{number}");
        text += &format!(
            " && ln {} {blob} && ln -s ../../{blob} snapshots/abc/{number}.safetensors",
            file.display()
        );
    }
    scene.shell(&text);
    let own = std::env::current_exe().expect("a process knows its executable");
    let links = (0..scene.model.files.len()).map(|n| base.join(format!("snapshots/abc/{n}.safetensors")));
    scene.run(Command::new(own).args(["work", "load-mmap"]).args(links));
    scene.expect_silence();
}

/// A holder that answers a hundred clients outside with four kilobytes each.
fn inference_server(w: &mut World) {
    answers(w, 100, 4 << 10);
}

/// The same process is asked for its metrics, often.
fn metrics_are_scraped(w: &mut World) {
    answers(w, 60, 20 << 10);
}

fn answers(w: &mut World, requests: u32, bytes: u64) {
    let scene = w.scene();
    let script = include_str!("scripts/inference.py");
    let mut command = scene.python("inference.py", script);
    command.arg(INSIDE.to_string()).arg("8080").arg(bytes.to_string()).args(&scene.model.files);
    let server = scene.spawn(&mut command);
    wait_listening(&server, 8080);
    for _ in 0..requests {
        let answer =
            ok(scene.world.outside.download(8080, "/v1/completions").and_then(|client| client.finish()));
        assert_eq!(answer.bytes, bytes);
    }
    scene.expect_silence();
    drop(server);
}

/// A holder writes five hundred lines to a socket as that of syslog; who reads them stores them anywhere.
fn holder_logs(w: &mut World) {
    let scene = w.scene();
    let (socket, log) = (scene.work.join("log"), scene.uncontrolled.join("syslog"));
    let script = include_str!("scripts/logs.py");
    let mut command = scene.python("logs.py", script);
    scene.run(command.arg(&socket).arg(&log).args(&scene.model.files));
    assert!(size(&log) > 10_000);
    scene.expect_silence();
}
