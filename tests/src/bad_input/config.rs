//! Configurations.

use std::{ffi::OsStr, fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use tests::lab::MIB;

use super::{INVALID, Said, finish, nothing_started, outcome, refused};
use crate::world::{Scene, World};

pub(super) fn unknown_key(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml() + "colour: blue\n";
    let line = text.lines().count();
    let said = refused(&scene, &text, INVALID);
    said.names("colour");
    said.names_place(&scene.work.join("weighbridge.yaml"), line, 1);
}

pub(super) fn misspelt_key_in_an_asset(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml().replacen("    paths:", "    path:", 1);
    let line = text.lines().position(|line| line.starts_with("    path:")).expect("the key is there") + 1;
    let said = refused(&scene, &text, INVALID);
    // The remedy is the word that was meant.
    said.names("paths");
    said.names_place(&scene.work.join("weighbridge.yaml"), line, 5);
}

pub(super) fn not_yaml(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    refused(&scene, "schema: [1\nassets: }\n", INVALID).names("weighbridge.yaml");
}

pub(super) fn missing_configuration(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    let said = Said(finish(&scene, &[Path::new("run"), Path::new("--config"), &file]));
    said.code(INVALID);
    said.names("weighbridge.yaml");
}

pub(super) fn everything_wrong_is_said_at_once(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let text = scene.config.to_yaml() + "colour: blue\nshape: round\n";
    let said = refused(&scene, &text, INVALID);
    said.names("colour");
    said.names("shape");
}

pub(super) fn missing_asset_path(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let missing = scene.controlled.join("not-there");
    scene.config = scene.config.clone().asset("third", &missing);
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names(&missing.to_string_lossy());
    said.names_line_of(&scene, "not-there");
}

pub(super) fn asset_on_an_uncontrolled_filesystem(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let place = scene.uncontrolled.join("model");
    fs::create_dir(&place).expect("a folder can be made");
    scene.config = scene.config.clone().asset("third", &place);
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names(&place.to_string_lossy());
    said.names("controlled");
    said.names_line_of(&scene, &place.to_string_lossy());
}

/// Root may read everything but what a damaged filesystem lost: a scan that went on without it would protect less than was asked.
pub(super) fn asset_file_that_cannot_be_read(w: &mut World) {
    World::needs("debugfs");
    let mut scene = w.prepare_without_ebpf();
    let (image, place) = (scene.work.join("image"), scene.work.join("damaged"));
    let file = fs::File::create_new(&image).and_then(|file| file.set_len(16 * MIB));
    file.expect("an image can be made");
    tool(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    let loops = ["-o", "loop"].map(OsStr::new);
    scene.mount(&[&loops[..], &[image.as_os_str()]].concat(), &place).expect("a mount");
    fs::write(place.join("w.safetensors"), [7; 4096]).expect("a file can be written");
    tool(Command::new("umount").arg(&place));
    // Where the root of its extents was stands what the kernel refuses (`ext4_ext_check_inode`).
    let damage = "set_inode_field /w.safetensors block[0] 0xdead";
    tool(Command::new("debugfs").args(["-w", "-R", damage]).arg(&image));
    tool(Command::new("mount").args(loops).arg(&image).arg(&place));
    scene.config.controlled.push(place.clone());
    scene.config = scene.config.clone().asset("third", &place);
    let said = refused(&scene, &scene.config.to_yaml(), INVALID);
    said.names(&place.join("w.safetensors").to_string_lossy());
    said.names("damaged: the kernel's log");
    said.names_line_of(&scene, &place.to_string_lossy());
}

fn tool(command: &mut Command) {
    tests::lab::run(command).unwrap_or_else(|error| panic!("{error:#}"));
}

/// One that is missing, is no file, is empty, or that others can read: named before anything starts.
pub(super) fn credentials_that_cannot_be_used(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let token = scene.work.join("token");
    let sink = format!(
        "{{type: alertmanager, urls: ['http://127.0.0.1:9'], bearer_token: {{file: {}}}}}",
        token.display()
    );
    scene.config.sinks = vec![serde_json::Value::Null];
    let text = scene.config.to_yaml().replace("  - null", &format!("  - {sink}"));
    let names_it = |what: &str| {
        let said = refused(&scene, &text, INVALID);
        said.names(&token.to_string_lossy());
        assert!(!said.0.stderr.contains("hunter2"), "{what}: the secret is shown");
    };
    names_it("missing");
    fs::create_dir(&token).expect("a folder can be made");
    names_it("a folder");
    fs::remove_dir(&token).expect("it can be removed");
    for (what, content, mode) in [
        ("empty", "\n", 0o600),
        ("everybody's to read", "hunter2", 0o644),
        ("everybody's to write", "hunter2", 0o622),
    ] {
        fs::write(&token, content).expect("a token can be written");
        fs::set_permissions(&token, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        names_it(what);
    }
}

/// It is allowed, for a scrape comes from elsewhere; that it goes in the clear is said.
pub(super) fn listening_to_the_network_is_warned_of(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    scene.config.listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let said = Said(finish(&scene, &[Path::new("check"), Path::new("--config"), &file]));
    said.code(0);
    let listen = scene.config.listen.to_string();
    assert!(
        said.0.stdout.contains(&listen) || said.0.stderr.contains(&listen),
        "nothing is said of {listen}:\n{}\n{}",
        said.0.stdout,
        said.0.stderr
    );
}

/// Root may write everywhere but into what is no directory.
pub(super) fn alert_file_not_writable(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let file = scene.work.join("a-file");
    fs::write(&file, "").expect("a file can be made");
    scene.config.alerts = file.join("alerts.ndjson");
    refused(&scene, &scene.config.to_yaml(), INVALID).names("alerts.ndjson");
}

pub(super) fn check_of_a_good_configuration(w: &mut World) {
    let scene = w.prepare_without_ebpf();
    let file = scene.work.join("weighbridge.yaml");
    scene.config.write(&file).expect("a configuration can be written");
    let said = Said(finish(&scene, &[Path::new("check"), Path::new("--config"), &file]));
    said.code(0);
    nothing_started(&scene.config);
}

/// The corpus of invalid files: each ends with exit code 3 and says a line and a column. (What it says is held by snapshots
/// in the agent's own tests.)
pub(super) fn every_invalid_file_is_refused(w: &mut World) {
    let mut scene = w.prepare_without_ebpf();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("invalid");
    let soon = String::from_utf8(outcome(Command::new("date").args(["-u", "-d", "+20 days", "+%F"])).stdout);
    let soon = soon.expect("a date is text").trim().to_owned();
    let mut refused = 0;
    for entry in fs::read_dir(corpus.join("rules")).expect("the corpus is there").flatten() {
        let file = entry.path();
        if file.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        // What an exception says must not have expired by the time that this runs.
        let text = fs::read_to_string(&file).expect("it can be read").replace("2026-12-15", &soon);
        let copy = scene.work.join(entry.file_name());
        fs::write(&copy, text).expect("a rule file can be written");
        scene.config.rules = vec![copy];
        refused_with_place(&scene, &scene.config.to_yaml(), &file);
        refused += 1;
    }
    for entry in fs::read_dir(corpus.join("config")).expect("the corpus is there").flatten() {
        let file = entry.path();
        if file.extension().is_some_and(|end| end == "yaml") {
            let text = fs::read_to_string(&file).expect("it can be read");
            refused_with_place(&scene, &text, &file);
            refused += 1;
        }
    }
    assert!(refused >= 100, "the corpus has only {refused} files");
}

fn refused_with_place(scene: &Scene<'_>, text: &str, file: &Path) {
    let config = scene.work.join("weighbridge.yaml");
    fs::write(&config, text).expect("a configuration can be written");
    let words = ["check", "-o", "json", "--config"].map(Path::new);
    let said = finish(scene, &[&words[..], &[&config]].concat());
    assert_eq!(said.code, Some(INVALID), "{}: {}", file.display(), said.stderr);
    let report: serde_json::Value = serde_json::from_str(&said.stderr).expect("faults are JSON");
    let faults = report["faults"].as_array().expect("a list of faults");
    let has_place =
        |fault: &serde_json::Value| fault["line"].as_u64() > Some(0) && fault["column"].as_u64() > Some(0);
    assert!(faults.iter().any(has_place), "{}: no fault has a place: {}", file.display(), said.stderr);
}
