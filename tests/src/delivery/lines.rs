//! Sinks that hand on lines: webhook, journald, and the alert file on a disk that is full.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use ring::hmac;
use serde_json::{Value, json};
use tests::lab::{
    guard::{Undo, Undoing},
    hook::{Hook, Manner, Post},
    wait_for,
};

use super::{ARRIVES_WITHIN, expect_ok, short_rule, steal, wait_for_line};
use crate::world::{Scene, World, skip};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
const SECRET: &[u8] = b"a secret of the lab";

fn sequence(line: &Value) -> Option<u64> {
    line["unmapped"]["weighbridge"]["chain"]["seq"].as_u64()
}

fn taken(posts: &[Post]) -> Vec<&Post> {
    posts.iter().filter(|post| post.manner == Manner::Status(200)).collect()
}

/// Through errors and a restart of the agent: each line of the log, as it is there, in order, signed.
pub(super) fn webhook(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let secret = scene.work.join("secret");
    fs::write(&secret, [SECRET, b"\n"].concat()).expect("the secret can be written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("and kept");
    let hook = expect_ok(Hook::start());
    hook.next([Manner::Status(503), Manner::Redirect, Manner::Status(429), Manner::Status(401)]);
    scene.config.sinks = vec![json!({
        "type": "webhook", "url": format!("http://{}/in?from=lab", hook.addr), "secret": {"file": secret}
    })];
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    scene.kill();
    scene.start();
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    let lines = scene.stop();
    let last = lines.last().and_then(|line| sequence(&line.0));
    // What the last run could not deliver, the next one does.
    scene.start();
    let arrived = hook.wait(ARRIVES_WITHIN, |posts| {
        taken(posts).iter().any(|post| sequence(&post.body) == last).then_some(())
    });
    assert!(arrived.is_some(), "line {last:?} did not arrive");
    scene.stop();
    let mut came = BTreeSet::new();
    let mut highest = 0;
    for post in taken(&hook.posts()) {
        assert_eq!(post.path, "/in?from=lab");
        assert!(is_signed(post), "{:?}", post.headers);
        let number = sequence(&post.body).expect("a number");
        assert!(number > highest || came.contains(&number), "{number} after {highest}");
        highest = highest.max(number);
        came.insert(number);
    }
    for line in &lines {
        let raw = serde_json::to_value(&line.0).expect("JSON");
        assert!(
            taken(&hook.posts()).iter().any(|post| post.body == raw),
            "line {:?} is missing",
            sequence(&raw)
        );
    }
    assert_eq!(came.len(), lines.len(), "and none was invented");
}

fn is_signed(post: &Post) -> bool {
    let Some(signature) = post.headers.get("weighbridge-signature") else { return false };
    let Some((time, tag)) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")) else {
        return false;
    };
    let tag: Vec<u8> =
        (0..tag.len() / 2).filter_map(|at| u8::from_str_radix(&tag[2 * at..2 * at + 2], 16).ok()).collect();
    let signed = [time.as_bytes(), b".", &post.raw].concat();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &signed, &tag).is_ok()
}

/// A real journald of the lab, which starts after the agent did.
pub(super) fn journald(w: &mut World) {
    if !Path::new(JOURNALD).exists() {
        skip(format_args!("needs {JOURNALD}"));
    }
    World::needs("journalctl");
    let mut scene = w.prepare();
    short_rule(&mut scene);
    scene.config.sinks = vec![json!({"type": "journald"})];
    // Of its own, so that the host's journal stays what it is.
    expect_ok(cover(&mut scene, Path::new("/run/systemd")));
    expect_ok(cover(&mut scene, Path::new("/run/log")));
    fs::create_dir("/run/systemd/journal").expect("the lab's own folder");
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    let mut command = Command::new(JOURNALD);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("journald starts");
    let kill = Undoing::new(Undo::Kill(child.id()));
    let entries = || -> Option<Vec<Value>> {
        let output = Command::new("journalctl")
            .args(["--directory=/run/log/journal", "--all", "-o", "json", "SYSLOG_IDENTIFIER=weighbridge"])
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.lines().map(|line| serde_json::from_str(line).ok()).collect()
    };
    let found = wait_for(ARRIVES_WITHIN, || {
        entries()?.into_iter().find(|entry| entry["WEIGHBRIDGE_RULE"] == "TEST-0001")
    });
    let entry = found.expect("the alert is in the journal");
    let lines = scene.stop();
    drop(kill);
    // It was killed: reap it.
    let _ = child.wait();
    assert_eq!(entry["PRIORITY"], "4");
    assert_eq!(entry["WEIGHBRIDGE_ASSET"], "llm");
    let ocsf: Value =
        serde_json::from_str(entry["WEIGHBRIDGE_OCSF"].as_str().expect("the line")).expect("JSON");
    assert!(lines.iter().any(|line| line.0 == ocsf), "the entry is a line of the log");
}

/// Mounts an empty tmpfs over a directory of the lab's own mount namespace, for as long as the scene lives.
fn cover(scene: &mut Scene<'_>, place: &Path) -> Result<()> {
    fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
    scene.mount_over(&["-t", "tmpfs", "tmpfs"], place)
}

/// The record itself cannot be written: the others say so, nothing is lost, and the chain holds.
pub(super) fn full_disk(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let log = scene.work.join("log");
    expect_ok(scene.mount(&["-t", "tmpfs", "-o", "size=128k,mode=0700", "tmpfs"].map(AsRef::as_ref), &log));
    scene.config.alerts = log.join("alerts.ndjson");
    let hook = expect_ok(Hook::start());
    scene.config.sinks = vec![json!({
        "type": "alertmanager", "urls": [format!("http://{}", hook.addr)], "resend": "2s"
    })];
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    let filler: PathBuf = log.join("filler");
    // Until no page is left.
    let full = fs::write(&filler, vec![b'x'; 1 << 20]).expect_err("the disk is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    for (n, mib) in [6, 2, 2, 2].into_iter().enumerate() {
        steal(&scene, &format!("b{n}"), mib);
    }
    let label = |post: &Post, name: &str, value: &str| {
        post.body.as_array().into_iter().flatten().any(|alert| alert["labels"][name] == value)
    };
    let told = hook.wait(ARRIVES_WITHIN, |posts| {
        let own = posts.iter().any(|post| label(post, "rule_id", "WB-0010"));
        let high =
            posts.iter().any(|post| label(post, "rule_id", "TEST-0001") && label(post, "severity", "high"));
        (own && high).then_some(())
    });
    let posts = hook.posts();
    assert!(told.is_some(), "nobody was told that the log is full: {posts:#?}");
    let samples = expect_ok(scene.agent().metrics());
    let failing = tests::lab::metrics::sum(&samples, "weighbridge_sink_failing", &[("sink", "file")]);
    assert_eq!(failing, Some(1.0));
    fs::remove_file(&filler).expect("the filler goes");
    wait_for_line(&mut scene, "high");
    let came = scene.agent().wait(Duration::from_secs(20), |alerts| {
        alerts.iter().any(|alert| alert.rule() == "WB-0010").then_some(())
    });
    assert!(expect_ok(came).is_some(), "the log says that it was full");
    let lines = scene.stop();
    let numbers: Vec<u64> = lines.iter().filter_map(|line| sequence(&line.0)).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>(), "no line is missing");
    let hashes: BTreeSet<&str> = lines.iter().map(|line| line.text("/chain/hash")).collect();
    assert_eq!(hashes.len(), lines.len());
}
