//! Proof that the hooks fire: a child of our own takes a protected file and puts it into a socket and a file.
//!
//! A program can load, attach and stay silent; only moved bytes prove that bytes are weighed.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use agent_ebpf as abi;

use super::{
    Protection, Sensor, SensorError,
    maps::{Maps, Raw, rows},
};
use crate::event::AssetId;

/// Bytes of the canary file.
const BYTES: u64 = 4096;

impl Sensor {
    /// Moves the canary through every hook and checks each count.
    ///
    /// # Errors
    ///
    /// [`SensorError::Silent`] names the hook that did not see it.
    pub fn prove(&mut self, directory: &Path) -> Result<(), SensorError> {
        let path = directory.join("canary");
        let copy = directory.join("canary.copy");
        fs::write(&path, [0x5a; BYTES as usize]).map_err(SensorError::Canary)?;
        let object = self.protect(AssetId(abi::CANARY_ASSET as u8), &path, Protection::File)?;
        let result = self.send(&path, &copy);
        let _ = self.maps.objects.remove(&Raw(super::reading::object_key(&object)));
        for file in [&path, &copy] {
            if let Err(error) = fs::remove_file(file) {
                tracing::debug!(%error, file = %file.display(), "canary file stays");
            }
        }
        result
    }

    fn send(&self, path: &Path, copy: &Path) -> Result<(), SensorError> {
        let mut child = Command::new("/proc/self/exe")
            .arg("canary")
            .args([path, copy])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(SensorError::Canary)?;
        // The child moves its bytes, says so, and waits until it was looked at.
        let said = child.stdout.take().map(|mut out| out.read(&mut [0; 16]));
        let checked = check(&self.maps, child.id());
        drop(child.stdin.take());
        let status = child.wait().map_err(SensorError::Canary)?;
        match said {
            Some(Ok(1..)) => checked?,
            _ => {
                return Err(SensorError::Canary(io::Error::other(format!("its process ended with {status}"))));
            }
        }
        let ended = rows(&self.maps.holders, usize::MAX)?
            .into_iter()
            .any(|(key, Raw(value))| key.tgid == child.id() && value.ended != 0);
        if ended { Ok(()) } else { Err(SensorError::Silent("sched_process_exit")) }
    }
}

fn check(maps: &Maps, pid: u32) -> Result<(), SensorError> {
    if maps.processes.get(&pid, 0).map_or(0, |Raw(process)| process.argv_len) == 0 {
        return Err(SensorError::Silent("sched_process_exec"));
    }
    let taken: u64 = rows(&maps.takes, usize::MAX)?
        .iter()
        .filter(|(key, _)| {
            key.holder.tgid == pid
                && key.source.dev == abi::DEV_ASSET
                && key.source.ino == u64::from(abi::CANARY_ASSET)
        })
        .map(|(_, Raw(value))| value.bytes)
        .sum();
    if taken != BYTES {
        return Err(SensorError::Silent("sys_exit"));
    }
    for (kind, hook) in [(abi::SINK_FILE, "sys_exit"), (abi::SINK_PROCESS, "sock_send_length")] {
        let put: u64 = rows(&maps.flows, usize::MAX)?
            .iter()
            .filter(|(key, _)| key.holder.tgid == pid && key.sink.kind == kind)
            .map(|(_, Raw(value))| value.bytes)
            .sum();
        if put < BYTES {
            return Err(SensorError::Silent(hook));
        }
    }
    Ok(())
}

/// The child's part: reads `path`, writes it into `copy` and into a socket, says so on its output, waits for its input to
/// end.
///
/// # Errors
///
/// When any of that fails.
pub fn run_child(path: &Path, copy: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    File::create(copy)?.write_all(&bytes)?;
    let (mut near, _far) = UnixStream::pair()?;
    near.write_all(&bytes)?;
    let mut out = io::stdout().lock();
    out.write_all(b"moved\n")?;
    out.flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(|_| ())
}
