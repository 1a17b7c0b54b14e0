//! Files that the agent lives by: its configuration, program, state, spools, certificates and log.

use std::{fs, path::Path, process::Command};

use tests::lab::{
    alert::{Alert, findings},
    wait_for,
};

use super::{check_actor, kind, python, tampering};
use crate::{
    techniques::tooling::ok,
    world::{ALERT_WITHIN, World},
};

pub(super) fn configuration_appended_to(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let by = python(&scene, &format!("open({file:?}, 'a').write('# nothing\\n')"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    check_actor(&alert, &by);
    scene.stop();
}

/// Another file under its name: no byte of the old one was written.
pub(super) fn configuration_replaced(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let beside = scene.work.join("other.yaml");
    fs::copy(&file, &beside).and_then(|_| fs::rename(&beside, &file)).expect("the file can be replaced");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// The next start runs what lies there then. (What runs cannot be written to: ETXTBSY.)
pub(super) fn program_replaced(w: &mut World) {
    let mut scene = w.prepare();
    let [binary, beside] = ["weighbridge", "other"].map(|name| scene.work.join(name));
    for copy in [&binary, &beside] {
        fs::copy(&scene.world.binary, copy).expect("the binary can be copied");
    }
    scene.binary = Some(binary.clone());
    scene.start();
    fs::rename(&beside, &binary).expect("the file can be replaced");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == binary);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// What was summed so far, in place: who opened it is known.
pub(super) fn state_written_to(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.config.state_dir.join("state.redb");
    let by = python(&scene, &format!("open({file:?}, 'r+b').close()"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    check_actor(&alert, &by);
    // The agent itself writes there each second while bytes move, and says nothing of that.
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = fs::metadata(&copy).expect("a copy").len();
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    let alerts = scene.stop();
    let changed: Vec<Alert> =
        findings(&alerts).into_iter().filter(|alert| kind(alert) == "files_changed").collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
}

/// What waits for a webhook that is down.
pub(super) fn spool_replaced(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.sinks = vec![serde_json::json!({"type": "webhook", "url": "http://127.0.0.1:9/"})];
    scene.start();
    let folder = scene.config.state_dir.join("spool");
    let file = fs::read_dir(&folder).expect("there are spools").flatten().next().expect("a spool").path();
    fs::rename(&file, folder.join("away")).expect("it can be renamed");
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}

/// Whoever decides which certificates are believed can play Alertmanager.
pub(super) fn trusted_certificates_replaced(w: &mut World) {
    let mut scene = w.prepare();
    let [ca, token] = ["ca.pem", "token"].map(|name| scene.work.join(name));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a repository");
    fs::copy(repository.join("agent/src/sinks/http/testdata/ca.pem"), &ca).expect("a certificate");
    for file in [&ca, &token] {
        if file == &token {
            fs::write(file, "one").expect("a token can be written");
        }
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("and kept");
    }
    scene.config.sinks = vec![serde_json::json!({
        "type": "webhook", "url": "https://127.0.0.1:9/", "tls": {"ca": {"file": ca}}, "bearer_token": {"file": token}
    })];
    scene.start();
    // A token is made anew every so often.
    fs::write(&token, "two").expect("a token can be written");
    let by = python(&scene, &format!("open({ca:?}, 'a').write('# another')"));
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == ca);
    check_actor(&alert, &by);
    let alerts = scene.stop();
    let targets: Vec<String> = findings(&alerts)
        .iter()
        .filter(|alert| kind(alert) == "files_changed")
        .map(|alert| alert.text("/act/target").to_owned())
        .collect();
    assert_eq!(targets, [ca.display().to_string()]);
}

pub(super) fn alert_log_shortened(w: &mut World) {
    let mut scene = w.scene();
    scene.mark();
    let file = scene.config.alerts.clone();
    // By its path: no descriptor, so that who did it is not seen.
    let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).expect("a path has no NUL");
    // SAFETY: a path that ends in a NUL and outlives the call.
    let shortened = unsafe { libc::truncate(path.as_ptr(), 0) };
    assert_eq!(shortened, 0, "it cannot be shortened");
    let target = format!("{} is shorter than it was", file.display());
    let said = wait_for(ALERT_WITHIN, || {
        let text = fs::read_to_string(&file).ok()?;
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok().map(Alert))
            .find(|alert| kind(alert) == "files_changed" && alert.text("/act/target") == target)
    });
    assert!(said.is_some(), "nobody said that the alert log became shorter");
}

pub(super) fn configuration_hidden_under_a_mount(w: &mut World) {
    let mut scene = w.scene();
    let file = scene.work.join("weighbridge.yaml");
    let other = scene.work.join("other.yaml");
    fs::write(&other, "schema: 1\n").expect("a file can be written");
    ok(tests::lab::run(Command::new("mount").arg("--bind").args([&other, &file])));
    tampering(&mut scene, "files_changed", |target| Path::new(target) == file);
    ok(tests::lab::run(Command::new("umount").arg(&file)));
    scene.stop();
}

/// Whoever asks for the state of the agent would be answered by somebody else.
pub(super) fn status_socket_replaced(w: &mut World) {
    let mut scene = w.scene();
    let socket = scene.config.state_dir.join("status.sock");
    let text = format!(
        "import os, socket; p = {socket:?}; os.unlink(p); s = socket.socket(socket.AF_UNIX); s.bind(p); s.listen()"
    );
    python(&scene, &text);
    let alert = tampering(&mut scene, "files_changed", |target| Path::new(target) == socket);
    assert!(alert.detail()["process"].is_null());
    scene.stop();
}
