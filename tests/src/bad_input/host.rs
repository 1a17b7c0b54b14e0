//! Surroundings in which the agent cannot work.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, process::Command};

use tests::lab::agent::Config;

use super::{Said, UNFIT, copy_rules, end, nothing_started, run};
use crate::world::World;

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
