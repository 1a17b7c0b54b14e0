//! The real agent: configured, started, listened to, stopped. Knows its contract (DESIGN §4) and nothing of its inside.

mod config;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use self::config::{AssetConfig, Config, Start};
use super::{
    alert::{Alert, Reader},
    guard::{Undo, Undoing, ends_with_the_lab},
    http::get,
    metrics::{self, Sample},
    wait_for,
};

/// Loading and proving the hooks takes a fraction of a second; a busy machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// A running agent; killed when dropped without [`Agent::stop`].
#[derive(Debug)]
pub struct Agent {
    pid: u32,
    config: Config,
    child: Child,
    kill: Option<Undoing>,
    stderr: Arc<Mutex<Vec<String>>>,
    reader: Reader,
}

impl Agent {
    /// Writes the configuration to `file`, starts the agent and waits until it says `ready`.
    ///
    /// # Errors
    /// When it ends or stays silent instead; with its stderr.
    pub fn start(binary: &Path, config: Config, file: &Path) -> Result<Self> {
        config.write(file)?;
        let Start { launcher, arguments, variables } = &config.start;
        let mut line = launcher.iter().map(PathBuf::as_path).chain([binary]);
        let mut command = Command::new(line.next().unwrap_or(binary));
        command.args(line).arg("run").arg("--config").arg(file).args(arguments);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        ends_with_the_lab(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let kill = Undoing::new(Undo::Kill(child.id()));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (said, wait_said) = mpsc::channel();
        let pipe = child.stderr.take().context("the agent has no stderr")?;
        let kept = Arc::clone(&stderr);
        thread::Builder::new()
            .name("agent-stderr".into())
            .spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    // Nobody waits any more once it was ready.
                    let _ = said.send(line == "ready");
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            })
            .context("cannot start the thread that reads the agent's stderr")?;
        let mut agent = Self {
            pid: child.id(),
            reader: Reader::new(&config.alerts),
            config,
            child,
            kill: Some(kill),
            stderr,
        };
        let end = Instant::now() + READY_WITHIN;
        loop {
            match wait_said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(true) => return Ok(agent),
                Ok(false) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("the agent was not ready within {READY_WITHIN:?}:\n{}", agent.stderr())
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = agent.exit(STOPPED_WITHIN)?;
                    bail!("the agent ended with {status} instead of being ready:\n{}", agent.stderr())
                }
            }
        }
    }

    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What it said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Every alert line so far.
    ///
    /// # Errors
    /// When the alert file cannot be read or holds a line that is no JSON.
    pub fn alerts(&mut self) -> Result<&[Alert]> {
        self.reader.read()
    }

    /// Waits until `condition` says something about the alert lines so far.
    ///
    /// # Errors
    /// When `limit` passes first, or the agent ends.
    pub fn wait<T>(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut(&[Alert]) -> Option<T>,
    ) -> Result<Option<T>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = condition(self.reader.read()?) {
                return Ok(Some(found));
            }
            if let Some(status) = self.child.try_wait().context("cannot look at the agent")? {
                bail!("the agent ended with {status}:\n{}", self.stderr());
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every sample of `/metrics`.
    ///
    /// # Errors
    /// When the agent does not answer with 200 or the page is not the text format.
    pub fn metrics(&self) -> Result<Vec<Sample>> {
        samples(self.config.listen)
    }

    /// Status of a page of its HTTP server, and the page.
    ///
    /// # Errors
    /// When nobody listens or the answer is no HTTP.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(self.config.listen, path)
    }

    /// SIGTERM, then waits; every alert line it ever wrote, and what it said on stderr.
    ///
    /// # Errors
    /// When it does not end in time, or not with exit code 0.
    pub fn stop(mut self) -> Result<(Vec<Alert>, String)> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("the agent has no pid")?;
        kill_process(pid, Signal::TERM).context("the agent is gone already")?;
        let status = self.exit(STOPPED_WITHIN)?;
        ensure!(status.success(), "the agent ended with {status} after SIGTERM:\n{}", self.stderr());
        Ok((self.reader.read()?.to_vec(), self.stderr()))
    }

    /// SIGKILL, then waits; every alert line it ever wrote.
    ///
    /// # Errors
    /// When it is gone already, or a line is no JSON.
    pub fn kill(mut self) -> Result<Vec<Alert>> {
        self.child.kill().context("cannot kill the agent")?;
        self.exit(STOPPED_WITHIN)?;
        Ok(self.reader.read()?.to_vec())
    }

    fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait_for(limit, || self.child.try_wait().transpose())
            .with_context(|| format!("the agent still runs after {limit:?}:\n{}", self.stderr()))?
            .context("cannot wait for the agent")?;
        if let Some(kill) = self.kill.take() {
            kill.done();
        }
        Ok(status)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            drop(kill);
            // It was killed: reap it, so that its pid is not kept.
            let _ = self.child.wait();
        }
    }
}

/// Every sample of the `/metrics` of the agent that listens at an address.
///
/// # Errors
/// When it does not answer with 200 or the page is not the text format.
pub fn samples(listen: SocketAddr) -> Result<Vec<Sample>> {
    let (status, page) = get(listen, "/metrics")?;
    ensure!(status == 200, "/metrics answered {status}");
    metrics::parse(&page)
}

/// Whether the agent can run here at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fitness {
    Fit,
    /// What `weighbridge doctor` finds unfit, with its remedies.
    Unfit(String),
}

/// Asks `weighbridge doctor`.
///
/// # Errors
/// When it cannot be run or ends with a code that is no answer.
pub fn fitness(binary: &Path) -> Result<Fitness> {
    let output = Command::new(binary)
        .args(["doctor", "-o", "json"])
        .output()
        .with_context(|| format!("cannot run {}: build it with `cargo xtask build`", binary.display()))?;
    match output.status.code() {
        // 1 is «found something»: a posture that could be better, and still fit.
        Some(0 | 1) => Ok(Fitness::Fit),
        Some(4) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let reasons =
                serde_json::from_slice(&output.stdout).map_or_else(|_| Vec::new(), |v| failures(&v));
            let reason = if reasons.is_empty() { stderr.trim().to_owned() } else { reasons.join("; ") };
            Ok(Fitness::Unfit(reason))
        }
        code => bail!(
            "weighbridge doctor ended with {code:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// `name: detail (remedy)` of every check with status `fail`, wherever the report keeps them.
fn failures(report: &Value) -> Vec<String> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    match report {
        Value::Array(items) => items.iter().flat_map(failures).collect(),
        Value::Object(_) if report["status"] == "fail" => {
            vec![format!("{}: {} ({})", text(report, "name"), text(report, "detail"), text(report, "remedy"))]
        }
        Value::Object(fields) => fields.values().flat_map(failures).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_check_is_found_wherever_it_is() {
        let report = json!({"checks": [
            {"name": "btf", "status": "ok", "detail": "present", "remedy": null},
            {"name": "bpf", "status": "fail", "detail": "refused", "remedy": "run as root"},
        ]});
        assert_eq!(failures(&report), ["bpf: refused (run as root)"]);
    }
}
