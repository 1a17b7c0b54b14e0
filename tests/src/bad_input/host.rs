//! Surroundings in which the agent cannot work.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;
use tests::lab::agent::Config;

use super::{Said, UNFIT, copy_rules, end, finish, nothing_started, run};
use crate::{
    confine::SERVICE,
    world::{Scene, World, skip},
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

/// Root of a user namespace, as in a container: it has every capability, and none of the kernel's own.
pub(super) fn ebpf_refused(w: &mut World) {
    World::needs("unshare");
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    if !Command::new("unshare").args(["-Ur", "true"]).status().is_ok_and(|status| status.success()) {
        skip("user namespaces are refused here");
    }
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(&scene.world.binary);
    let said = Said(end(scene.spawn(command.arg("run").arg("--config").arg(file))));
    said.code(UNFIT);
    said.names("the kernel refuses eBPF");
    said.names("CAP_BPF");
    nothing_started(&scene.config);
}

/// Root without the rights to load programs, and to read files of others.
pub(super) fn rights_missing(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let runner = std::env::current_exe().expect("the runner has a path");
    for missing in SERVICE {
        let rest = SERVICE.into_iter().filter(|name| *name != missing).collect::<Vec<_>>();
        let mut command = Command::new(&runner);
        command.args(["confine", "0", &rest.join(",")]).arg(&scene.world.binary);
        let said = Said(end(scene.spawn(command.arg("run").arg("--config").arg(&file))));
        said.code(UNFIT);
        said.names(&format!("missing {missing} ("));
        nothing_started(&scene.config);
    }
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
