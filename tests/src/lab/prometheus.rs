//! Debian's Prometheus, as a process of the lab on loopback.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    agent::get,
    guard::{Undo, Undoing},
    wait_for,
};

/// The name of Debian's program.
pub const PROGRAM: &str = "prometheus";
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    addr: SocketAddr,
    child: Child,
    _kill: Undoing,
}

impl Prometheus {
    /// Scrapes `targets` (`host:port`) as job `weighbridge` once a second, evaluates `rules` as often by default, and keeps
    /// what it scraped below `dir`. Returns when it is ready.
    ///
    /// # Errors
    /// With its log, when it does not become ready.
    pub fn start(dir: &Path, targets: &[String], rules: &[&Path]) -> Result<Self> {
        fs::create_dir_all(dir).context("cannot make Prometheus' directory")?;
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("no port is free")?;
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "weighbridge", "static_configs": [{"targets": targets}]}],
        });
        let file = dir.join("prometheus.yml");
        fs::write(&file, config.to_string()).context("cannot write Prometheus' configuration")?;
        let log = dir.join("log");
        let said = File::create(&log).context("cannot make Prometheus' log")?;
        let mut command = Command::new(PROGRAM);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                Ok(())
            })
        };
        let child = command.spawn().with_context(|| format!("cannot start {PROGRAM}"))?;
        let kill = Undoing::new(Undo::Kill(child.id()));
        let started = Self { addr, child, _kill: kill };
        let is_ready = || matches!(get(addr, "/-/ready"), Ok((200, _))).then_some(());
        wait_for(READY_WITHIN, is_ready).with_context(|| {
            format!("{PROGRAM} is not ready:\n{}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok(started)
    }

    /// The samples of an instant query, each an object `{metric, value: [time, text]}`.
    ///
    /// # Errors
    /// When the server refuses the query, with its words.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = self.ask(&format!("/api/v1/query?query={}", escaped(query)))?;
        answer["data"]["result"].as_array().cloned().context("a query without a result")
    }

    /// The value of a query that gives one sample; `None` when it gives none.
    ///
    /// # Errors
    /// When the server refuses the query, or gives more than one.
    pub fn value(&self, query: &str) -> Result<Option<f64>> {
        let samples = self.query(query)?;
        ensure!(samples.len() <= 1, "{query}: {} samples", samples.len());
        let text = samples.first().and_then(|sample| sample["value"][1].as_str());
        text.map(|text| text.parse().with_context(|| format!("{query}: {text}"))).transpose()
    }

    /// Every alert that is pending or fires.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let answer = self.ask("/api/v1/alerts")?;
        answer["data"]["alerts"].as_array().cloned().context("an answer without alerts")
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let (status, page) = get(self.addr, path)?;
        ensure!(status == 200, "{path}: {status} {page}");
        serde_json::from_str(&page).context("the answer of Prometheus is no JSON")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Its own child, which nobody has waited for: the pid is still its.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a value in a query string.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
