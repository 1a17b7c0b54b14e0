//! The sealed alert log: made, verified by its seed, tampered with, cut.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::{ARRIVES_WITHIN, expect_ok, short_rule, steal, wait_for_line};
use crate::world::{Scene, World};

fn log(scene: &Scene<'_>, words: &[&str]) -> Output {
    let mut command = Command::new(&scene.world.binary);
    command.arg("log").args(words).current_dir(&scene.work).output().expect("the agent's program runs")
}

/// Exit code and report.
fn verify(scene: &Scene<'_>, file: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let file = file.to_str().expect("the lab's names are text");
    let output = log(scene, &[&["verify", file, "-o", "json"], words].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
    (output.status.code(), report)
}

pub(super) fn sealed(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    expect_ok(scene.config.write(&scene.work.join("weighbridge.yaml")));
    let init = ["init", "--config", "weighbridge.yaml", "--export-seed", "seed"];
    let output = log(&scene, &init);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = log(&scene, &["init", "--config", "weighbridge.yaml", "--export-seed", "seed-2"]);
    assert_eq!(again.status.code(), Some(4), "a second key would make the first seed useless");

    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    // The key that is on the disk may be older than the last line: the next start goes on from it.
    scene.kill();
    scene.start();
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    let lines = scene.stop();
    let last = lines.last().expect("there are lines");
    let number = last.number("/chain/seq").expect("a number");
    let anchor = format!("{number}:{}", last.text("/chain/hash"));
    let file = scene.config.alerts.clone();
    let (code, report) = verify(&scene, &file, &["--seed", "seed", "--anchor", &anchor]);
    assert_eq!(
        (code, &report["holds"], &report["anchored"]),
        (Some(0), &true.into(), &true.into()),
        "{report}"
    );
    assert_eq!(report["sealed"].as_u64(), Some(lines.len() as u64));

    let text = fs::read_to_string(&file).expect("the log");
    let copy = scene.work.join("copy.ndjson");
    let edited = text.replacen("\"bound_bytes\":2", "\"bound_bytes\":1", 1);
    assert_ne!(edited, text);
    fs::write(&copy, edited).expect("a copy");
    let (code, report) = verify(&scene, &copy, &["--seed", "seed"]);
    assert_eq!((code, &report["line"]), (Some(1), &1.into()), "{report}");

    // Without its last line the log holds in itself; the anchor and the agent know better.
    let cut = &text[..text[..text.len() - 1].rfind('\n').expect("more than one line") + 1];
    fs::write(&file, cut).expect("the log is cut");
    assert_eq!(verify(&scene, &file, &["--seed", "seed"]).0, Some(0));
    let (code, report) = verify(&scene, &file, &["--seed", "seed", "--anchor", &anchor]);
    assert_eq!((code, &report["line"]), (Some(1), &Value::Null), "{report}");
    scene.start();
    let told = scene.agent().wait(ARRIVES_WITHIN, |alerts| {
        let is_told = |rule: &str, severity: &str| (rule, severity) == ("WB-0010", "critical");
        alerts.iter().any(|alert| is_told(alert.rule(), alert.text("/severity"))).then_some(())
    });
    assert!(expect_ok(told).is_some(), "the agent does not notice that its log was cut");
    scene.stop();
    let (code, report) = verify(&scene, &file, &["--seed", "seed"]);
    assert_eq!(code, Some(1), "the seal skips the line that is gone: {report}");

    let shown = log(&scene, &["show", file.to_str().expect("text"), "--last", "1"]);
    assert_eq!((shown.status.code(), shown.stdout.iter().filter(|&&c| c == b'\n').count()), (Some(0), 1));
}
