//! The files for Prometheus and Alertmanager, judged by their own tools, and `/metrics` with them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::expect_ok;
use crate::world::World;

/// So that the metrics of exceptions have a child.
const EXCEPTION: &str = "
schema: 1
pack: site
exceptions:
  - id: EX-1
    rules: [WB-0001]
    match: {service.unit: backup.service}
    owner: storage@example.org
    reason: A backup that the tests know
    expires: {day}
";

pub(super) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}

fn rule_files() -> Vec<PathBuf> {
    let dir = repository().join("rules/prometheus");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("the rules are there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".rules.yml"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 2, "host and fleet");
    files
}

/// `promtool test rules`, `promtool check rules`, `amtool check-config`.
pub(super) fn rules_and_example(w: &mut World) {
    for tool in ["promtool", "amtool"] {
        World::needs(tool);
    }
    let scene = w.prepare_without_ebpf();
    scene.run(Command::new("promtool").args(["check", "rules"]).args(rule_files()));
    let tests = repository().join("rules/prometheus/weighbridge.test.yml");
    scene.run(Command::new("promtool").args(["test", "rules"]).arg(tests));
    scene.run(Command::new("amtool").arg("check-config").arg(repository().join("deploy/alertmanager.yml")));
}

/// `promtool check metrics` finds nothing, and neither rules nor dashboard ask for a metric that the agent does not have.
pub(super) fn metrics(w: &mut World) {
    World::needs("promtool");
    let mut scene = w.prepare();
    let exceptions = scene.work.join("exceptions.yaml");
    let date = Command::new("date").args(["-u", "-d", "+30 days", "+%F"]).output().expect("date runs");
    let text = EXCEPTION.replace("{day}", String::from_utf8_lossy(&date.stdout).trim());
    fs::write(&exceptions, text).expect("an exception can be written");
    scene.config.rules.push(exceptions);
    scene.start();
    let (status, page) = expect_ok(scene.agent().get("/metrics"));
    assert_eq!(status, 200);
    let file = scene.work.join("metrics");
    fs::write(&file, &page).expect("a scratch file");
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).expect("it is there"))
        .stderr(Stdio::piped());
    let output = command.output().expect("promtool runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let have: BTreeSet<String> =
        expect_ok(scene.agent().metrics()).into_iter().map(|sample| sample.name).collect();
    let dashboard = repository().join("deploy/grafana/weighbridge.json");
    for file in rule_files().into_iter().chain([dashboard]) {
        let text = fs::read_to_string(&file).expect("the file can be read");
        for (at, _) in text.match_indices("weighbridge_") {
            // What a recording rule makes has a colon before it.
            let before = text[..at].chars().next_back();
            if before == Some(':') {
                continue;
            }
            let name: String =
                text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(
                have.contains(&name),
                "{} asks for {name}, which the agent does not have",
                file.display()
            );
        }
    }
    scene.stop();
}
