//! A server of somebody else, as a process of the lab on loopback. Must not know which.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    guard::{Undo, Undoing, ends_with_the_lab},
    http::get,
    wait_for,
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// One that runs; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Service {
    child: Child,
    _kill: Undoing,
}

impl Service {
    /// Starts it and waits until `/-/ready` at `addr` says so. What it says goes to `log` in `dir`, which is made.
    ///
    /// # Errors
    /// With its log, when it does not become ready.
    pub(super) fn start(mut command: Command, dir: &Path, addr: SocketAddr) -> Result<Self> {
        let program = command.get_program().display().to_string();
        fs::create_dir_all(dir).with_context(|| format!("cannot make the directory of {program}"))?;
        let log = dir.join("log");
        let said = File::create(&log).with_context(|| format!("cannot make the log of {program}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        ends_with_the_lab(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let kill = Undoing::new(Undo::Kill(child.id()));
        let started = Self { child, _kill: kill };
        let is_ready = || matches!(get(addr, "/-/ready"), Ok((200, _))).then_some(());
        wait_for(READY_WITHIN, is_ready).with_context(|| {
            format!("{program} is not ready:\n{}", fs::read_to_string(&log).unwrap_or_default())
        })?;
        Ok(started)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its own child, which nobody has waited for: the pid is still its.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of loopback whose port nobody has.
pub(super) fn free() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no port is free")
}
