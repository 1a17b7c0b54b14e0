//! Debian's Alertmanager, as a process of the lab on loopback.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    agent::get,
    guard::{Undo, Undoing},
    wait_for,
};

/// The name of Debian's program.
pub const PROGRAM: &str = "prometheus-alertmanager";
const READY_WITHIN: Duration = Duration::from_secs(30);

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
    child: Child,
    _kill: Undoing,
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
        fs::create_dir_all(&self.dir).context("cannot make Alertmanager's directory")?;
        let log = self.dir.join("log");
        let said = File::create(&log).context("cannot make Alertmanager's log")?;
        let mut command = Command::new(PROGRAM);
        command
            .arg(format!("--config.file={}", self.config.display()))
            .arg(format!("--storage.path={}", self.dir.display()))
            .arg(format!("--web.listen-address={}", self.addr))
            .arg(format!("--cluster.listen-address={}", self.cluster))
            .args(self.peers.iter().map(|peer| format!("--cluster.peer={peer}")))
            .args(["--cluster.settle-timeout=1s", "--cluster.peer-timeout=1s", "--log.level=debug"])
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
        let started = Alertmanager { instance: self.clone(), child, _kill: kill };
        let is_ready = || matches!(get(self.addr, "/-/ready"), Ok((200, _))).then_some(());
        wait_for(READY_WITHIN, is_ready).with_context(|| {
            format!("{PROGRAM} is not ready:\n{}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok(started)
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

impl Drop for Alertmanager {
    fn drop(&mut self) {
        // Its own child, which nobody has waited for: the pid is still its.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no port is free")
}
