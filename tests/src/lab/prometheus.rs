//! Debian's Prometheus, as a process of the lab on loopback.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    http::get,
    service::{Service, free},
};

/// The name of Debian's program.
pub const PROGRAM: &str = "prometheus";

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    addr: SocketAddr,
    _service: Service,
}

impl Prometheus {
    /// Scrapes `targets` (`host:port`) as job `weighbridge` once a second, evaluates `rules` as often by default, and keeps
    /// what it scraped below `dir`. Returns when it is ready.
    ///
    /// # Errors
    /// With its log, when it does not become ready.
    pub fn start(dir: &Path, targets: &[String], rules: &[&Path]) -> Result<Self> {
        fs::create_dir_all(dir).context("cannot make Prometheus' directory")?;
        let addr = free()?;
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "weighbridge", "static_configs": [{"targets": targets}]}],
        });
        let file = dir.join("prometheus.yml");
        fs::write(&file, config.to_string()).context("cannot write Prometheus' configuration")?;
        let mut command = Command::new(PROGRAM);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={addr}"));
        Ok(Self { addr, _service: Service::start(command, dir, addr)? })
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

/// As a value in a query string.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
