//! Debian's Alertmanager, as a process of the lab on loopback.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    http::get,
    service::{Service, free},
};

/// The name of Debian's program.
pub const PROGRAM: &str = "prometheus-alertmanager";

/// How one instance is run, whether it runs or not.
#[derive(Clone, Debug)]
pub struct Instance {
    dir: PathBuf,
    config: PathBuf,
    pub addr: SocketAddr,
    cluster: SocketAddr,
    peers: Vec<SocketAddr>,
}

/// A running instance; killed when it is dropped.
#[derive(Debug)]
pub struct Alertmanager {
    pub instance: Instance,
    _service: Service,
}

/// Two instances that know each other. They notify `hook`, each alert by itself, soon.
///
/// # Errors
/// When no port is free or no file can be written.
pub fn pair(dir: &Path, hook: SocketAddr) -> Result<[Instance; 2]> {
    pair_that_waits(dir, hook, "1s", "2s")
}

/// The same with Alertmanager's `group_wait` and `group_interval`.
///
/// # Errors
/// When no port is free or no file can be written.
pub fn pair_that_waits(dir: &Path, hook: SocketAddr, wait: &str, interval: &str) -> Result<[Instance; 2]> {
    let config = dir.join("alertmanager.yml");
    let text = format!(
        "route:\n  receiver: hook\n  group_by: ['...']\n  group_wait: {wait}\n  group_interval: {interval}\n  repeat_interval: 1h\n\
         receivers:\n  - name: hook\n    webhook_configs: [{{url: 'http://{hook}/hook', send_resolved: true}}]\n"
    );
    fs::write(&config, text).context("cannot write Alertmanager's configuration")?;
    let [first, second, third, fourth] = [free()?, free()?, free()?, free()?];
    let instance = |name: &str, addr, cluster, peer| Instance {
        dir: dir.join(name),
        config: config.clone(),
        addr,
        cluster,
        peers: vec![peer],
    };
    Ok([instance("am1", first, third, fourth), instance("am2", second, fourth, third)])
}

impl Instance {
    /// The address that an agent is configured with.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Starts it and waits until it is ready; what it stored in an earlier life is there again.
    ///
    /// # Errors
    /// With its log, when it does not become ready.
    pub fn start(&self) -> Result<Alertmanager> {
        let mut command = Command::new(PROGRAM);
        command
            .arg(format!("--config.file={}", self.config.display()))
            .arg(format!("--storage.path={}", self.dir.display()))
            .arg(format!("--web.listen-address={}", self.addr))
            .arg(format!("--cluster.listen-address={}", self.cluster))
            .args(self.peers.iter().map(|peer| format!("--cluster.peer={peer}")))
            .args(["--cluster.settle-timeout=1s", "--cluster.peer-timeout=1s", "--log.level=debug"]);
        let service = Service::start(command, &self.dir, self.addr)?;
        Ok(Alertmanager { instance: self.clone(), _service: service })
    }
}

impl Alertmanager {
    /// Every alert that it holds and that is not resolved.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let (_, page) = get(self.instance.addr, "/api/v2/alerts")?;
        serde_json::from_str(&page).context("the answer of Alertmanager is no JSON")
    }
}
