//! Surroundings in which the agent cannot work.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;
use tests::lab::agent::Config;

use super::{Said, UNFIT, copy_rules, end, finish, nothing_started, run};
use crate::{
    confine::SERVICE,
    world::{Scene, World},
};

pub(super) fn state_directory_that_takes_no_writes(w: &mut World) {
    let mut scene = w.prepare();
    let state = scene.config.state_dir.clone();
    scene.mount(&["-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs"].map(AsRef::as_ref), &state).expect("a mount");
    let said = run(&scene, &scene.config.to_yaml());
    said.code(UNFIT);
    said.names(&state.to_string_lossy());
    nothing_started(&scene.config);
}

pub(super) fn port_in_use(w: &mut World) {
    let scene = w.prepare();
    let taken = TcpListener::bind(scene.config.listen).expect("the port is free");
    let text = scene.config.to_yaml();
    let said = run(&scene, &text);
    drop(taken);
    said.code(UNFIT);
    said.names(&scene.config.listen.to_string());
    nothing_started(&scene.config);
}

pub(super) fn second_instance(w: &mut World) {
    let mut scene = w.scene();
    let mut config = scene.config.clone();
    config.listen = Config::new(&scene.work, scene.world.controlled.path()).expect("a free port").listen;
    let said = run(&scene, &config.to_yaml());
    said.code(UNFIT);
    said.names(&scene.agent().pid().to_string());
    // The first one did not suffer. Its configuration was written over for the second, which it says.
    scene.expect_beside_changes(&[]);
}

pub(super) fn not_root(w: &mut World) {
    World::needs("setpriv");
    let mut scene = w.prepare_without_ebpf();
    // Its own copy: the build's directory may lie where nobody else may look.
    let binary = scene.work.join("weighbridge");
    fs::copy(&scene.world.binary, &binary).expect("the binary can be copied");
    let own = scene.work.join("own");
    fs::create_dir(&own).expect("a folder can be made");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("a mode can be set");
    scene.config.state_dir = own.join("state");
    scene.config.alerts = own.join("alerts.ndjson");
    let rules = scene.work.join("rules.d");
    copy_rules(&scene, &rules);
    scene.config.rules = vec![rules];
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(binary).arg("run").arg("--config").arg(file);
    let said = Said(end(scene.spawn(&mut command)));
    said.code(UNFIT);
    said.names("root");
    nothing_started(&scene.config);
}

/// Root without the right to load programs, as in a container.
pub(super) fn ebpf_refused(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let runner = std::env::current_exe().expect("the runner has a path");
    let mut command = Command::new(runner);
    command.args(["confine", "0", "CAP_DAC_READ_SEARCH"]).arg(&scene.world.binary);
    let said = Said(end(scene.spawn(command.arg("run").arg("--config").arg(file))));
    said.code(UNFIT);
    said.names("the kernel refuses eBPF");
    said.names("CAP_BPF");
    nothing_started(&scene.config);
}

pub(super) fn no_btf(w: &mut World) {
    let mut scene = w.prepare();
    let btf = Path::new("/sys/kernel/btf");
    scene.mount_over(&["-t", "tmpfs", "tmpfs"], btf).expect("a mount");
    refused_for_btf(&scene, &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
    // One that is none.
    fs::write(btf.join("vmlinux"), b"not types at all").expect("a file can be written");
    refused_for_btf(&scene, &["BTF"]);
}

fn refused_for_btf(scene: &Scene<'_>, words: &[&str]) {
    let said = run(scene, &scene.config.to_yaml());
    said.code(UNFIT);
    for word in words {
        said.names(word);
    }
    nothing_started(&scene.config);
    let doctor = finish(scene, &[Path::new("doctor"), Path::new("-o"), Path::new("json")]);
    assert_eq!(doctor.code, Some(UNFIT), "{}", doctor.stdout);
    let report: Value = serde_json::from_str(&doctor.stdout).expect("a report in JSON");
    let checks = report["checks"].as_array().expect("a list of checks");
    let btf = checks.iter().find(|check| check["name"] == "btf").expect("a line on BTF");
    assert_eq!(btf["status"], "fail", "{btf}");
    assert!(btf["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{btf}");
}

/// A file of an asset that the agent's user may not read: with the service's capabilities but for the one that reads all.
pub(super) fn unreadable_file(w: &mut World) {
    let mut scene = w.prepare();
    let runner = std::env::current_exe().expect("the runner has a path");
    let own = scene.work.join("own");
    fs::create_dir(&own).expect("a folder can be made");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).expect("a mode can be set");
    scene.config.state_dir = own.join("state");
    scene.config.alerts = own.join("alerts.ndjson");
    let model = scene.model.files[0].clone();
    fs::set_permissions(&model, fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    // Its own copies: the build's directories may lie where nobody else may look.
    let [binary, confine] =
        [(&scene.world.binary, "weighbridge"), (&runner, "confine")].map(|(from, name)| {
            let copy = scene.work.join(name);
            fs::copy(from, &copy).expect("a program can be copied");
            copy
        });
    let capabilities = SERVICE.into_iter().filter(|name| *name != "CAP_DAC_READ_SEARCH").collect::<Vec<_>>();
    let mut command = Command::new(confine);
    command.args(["confine", "65534", &capabilities.join(",")]).arg(binary);
    let said = Said(end(scene.spawn(command.arg("run").arg("--config").arg(file))));
    said.code(UNFIT);
    said.names(&model.to_string_lossy());
    said.names("CAP_DAC_READ_SEARCH");
    nothing_started(&scene.config);
}
