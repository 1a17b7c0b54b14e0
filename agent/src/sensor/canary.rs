//! Proof that the hooks fire: a child of our own takes a protected file and puts it into a socket and a file.
//!
//! A program can load, attach and stay silent; only moved bytes prove that bytes are weighed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use agent_ebpf as abi;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Reading, Sensor, SensorError,
    maps::{Maps, Raw, rows},
};
use crate::event::{AssetId, HolderId, SinkKey, Source};

/// Bytes of the canary file.
const BYTES: u64 = 4096;
/// For which a canary's bytes must have come through everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A canary on its way: it is seen again in what the sensor reads.
#[derive(Debug)]
pub struct Canary {
    child: Child,
    since: Instant,
    path: PathBuf,
    copy: PathBuf,
    object: abi::ObjectKey,
    seen: Seen,
}

/// What of a canary came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    exec: bool,
    take: bool,
    file: bool,
    socket: bool,
    exit: bool,
}

/// What has become of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// It is on its way.
    Flying,
    /// Its bytes came through every hook, the maps and the drain.
    Home,
    /// Its time is over, and this hook was the first that did not see it.
    Lost(&'static str),
    /// Its process could not do its part: nothing is known of the hooks.
    Ill,
}

impl Seen {
    /// The first hook that saw nothing.
    const fn missing(self) -> Option<&'static str> {
        match self {
            Self { exec: false, .. } => Some("sched_process_exec"),
            Self { take: false, .. } | Self { file: false, .. } => Some("sys_exit"),
            Self { socket: false, .. } => Some("sock_send_length"),
            Self { exit: false, .. } => Some("sched_process_exit"),
            _ => None,
        }
    }

    fn see(&mut self, reading: &Reading, pid: u32) {
        let ours = |holder: &HolderId| holder.tgid == pid;
        match reading {
            Reading::Process(process) if ours(&process.holder) => self.exec |= !process.cmdline.is_empty(),
            Reading::Take { holder, source: Source::Asset(AssetId::CANARY), bytes: BYTES.., .. }
                if ours(holder) =>
            {
                self.take = true;
            }
            Reading::Flow { holder, sink, assets, bytes: BYTES.., .. }
                if ours(holder) && assets.contains(AssetId::CANARY) =>
            {
                match sink {
                    SinkKey::File(_) => self.file = true,
                    SinkKey::Process(_) => self.socket = true,
                    _ => {}
                }
            }
            Reading::Exit { holder, .. } if ours(holder) => self.exit = true,
            _ => {}
        }
    }
}

impl Canary {
    /// Looks for it in what was read.
    pub fn see(&mut self, readings: &[Reading]) {
        for reading in readings {
            self.seen.see(reading, self.child.id());
        }
        // It waits until it was looked at while it lived.
        if matches!(self.seen, Seen { exec: true, take: true, file: true, socket: true, .. }) {
            drop(self.child.stdin.take());
        }
    }

    /// What has become of it so far.
    pub fn flight(&mut self) -> Flight {
        if self.seen.missing().is_none() {
            return Flight::Home;
        }
        if self.since.elapsed() < PATIENCE {
            return Flight::Flying;
        }
        // One that is stopped or failed tells nothing of the hooks.
        let said = self.child.stdout.as_ref().is_some_and(has_something);
        match self.seen.missing() {
            Some(hook) if said => Flight::Lost(hook),
            Some(_) => Flight::Ill,
            None => Flight::Home,
        }
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // It ends when its input does; one that is stopped does not, and is not waited for.
        drop(self.child.stdin.take());
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether there is something to read now.
fn has_something(pipe: &ChildStdout) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::IN)
}

impl Sensor {
    /// Sends a canary on its way; [`Canary::see`] recognises it in what is drained from now on.
    ///
    /// # Errors
    ///
    /// [`SensorError::Canary`] when it cannot be sent.
    pub fn send_canary(&mut self, directory: &Path) -> Result<Canary, SensorError> {
        let path = directory.join("canary");
        let copy = directory.join("canary.copy");
        let object = self.hatch(&path)?;
        let child = spawn(&path, &copy)?;
        let seen = Seen { socket: !self.counts_sockets(), ..Seen::default() };
        Ok(Canary { child, since: Instant::now(), path, copy, object, seen })
    }

    /// Takes back what [`Sensor::send_canary`] made.
    pub fn end_canary(&mut self, canary: Canary) {
        let _ = self.maps.objects.remove(&Raw(canary.object));
        for file in [&canary.path, &canary.copy] {
            if let Err(error) = fs::remove_file(file) {
                tracing::debug!(%error, file = %file.display(), "canary file stays");
            }
        }
    }

    /// Moves the canary through every hook and checks each count, before anything is drained.
    ///
    /// # Errors
    ///
    /// [`SensorError::Silent`] names the hook that did not see it.
    pub fn prove(&mut self, directory: &Path) -> Result<(), SensorError> {
        let mut canary = self.send_canary(directory)?;
        let result = self.fly(&mut canary.child);
        self.end_canary(canary);
        result?;
        self.prove_egress()
    }

    /// A fresh file, never one that somebody put in its place, under the protection of an asset of its own.
    fn hatch(&mut self, path: &Path) -> Result<abi::ObjectKey, SensorError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SensorError::Canary(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(SensorError::Canary)?;
        file.write_all(&[0x5a; BYTES as usize]).map_err(SensorError::Canary)?;
        let identity = self.read_identity(&file, path)?;
        self.insert(&identity, AssetId::CANARY, abi::OBJECT_FILE)?;
        Ok(identity.key)
    }

    /// What the kernel says that a read of `path` reads, of which `file` is open. On overlayfs that is the file below, whose inode
    /// number is not the one that `stat` tells; so no answer of an earlier open may be left that could be taken for this one's.
    fn read_identity(&mut self, file: &File, path: &Path) -> Result<abi::Identity, SensorError> {
        const TRIES: usize = 16;
        const NO_ANSWER: abi::Identity = abi::Identity {
            key: abi::ObjectKey { dev: 0, generation: 0, ino: 0 },
            size: 0,
            magic: 0,
            mode: 0,
            serial: 0,
        };
        for _ in 0..TRIES {
            let next = file.try_clone().map_err(SensorError::Canary)?.as_raw_fd();
            let Ok(descriptor) = u32::try_from(next) else { continue };
            if descriptor >= abi::IDENTITIES {
                break;
            }
            self.maps.identities.set(descriptor, Raw(NO_ANSWER), 0)?;
            let opened = File::open(path).map_err(SensorError::Canary)?;
            let Raw(identity) = self.maps.identities.get(&descriptor, 0)?;
            // Another thread may have been given that number.
            if opened.as_raw_fd() == next && identity.serial != 0 {
                return Ok(identity);
            }
        }
        Err(SensorError::NoIdentity(path.display().to_string()))
    }

    fn counts_sockets(&self) -> bool {
        self.hooks.iter().any(|report| report.hook.name == "sock_send_length" && report.result.is_ok())
    }

    fn fly(&self, child: &mut Child) -> Result<(), SensorError> {
        // The child moves its bytes, says so, and waits until it was looked at.
        let said = child.stdout.take().map(|mut out| out.read(&mut [0; 16]));
        let checked = check(&self.maps, child.id());
        drop(child.stdin.take());
        let status = child.wait().map_err(SensorError::Canary)?;
        match said {
            Some(Ok(1..)) => checked?,
            _ => {
                return Err(SensorError::Canary(io::Error::other(format!(
                    "its process ended with {status}"
                ))));
            }
        }
        let ended = rows(&self.maps.holders, usize::MAX)?
            .into_iter()
            .any(|(key, Raw(value))| key.tgid == child.id() && value.ended != 0);
        if ended { Ok(()) } else { Err(SensorError::Silent("sched_process_exit")) }
    }
}

fn spawn(path: &Path, copy: &Path) -> Result<Child, SensorError> {
    Command::new("/proc/self/exe")
        .arg("canary")
        .args([path, copy])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(SensorError::Canary)
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
    // More than that while programs that were just replaced still run beside the new ones: the kernel lets go of them later.
    if taken < BYTES {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AssetSet, BootNs, Dev, ObjectId};

    const PID: u32 = 7;

    fn holder(tgid: u32) -> HolderId {
        HolderId { tgid, exec: 2, start: BootNs(1) }
    }

    fn take(tgid: u32, asset: AssetId, bytes: u64) -> Reading {
        let source = Source::Asset(asset);
        Reading::Take { holder: holder(tgid), source, bytes, at: BootNs(1) }
    }

    fn flow(tgid: u32, sink: SinkKey, bytes: u64) -> Reading {
        let assets = AssetSet::CANARY;
        Reading::Flow { holder: holder(tgid), sink, magic: 0, assets, bytes, at: BootNs(1) }
    }

    #[test]
    fn the_first_hook_that_saw_nothing_is_named() {
        let object = ObjectId { dev: Dev(1), ino: 2, generation: 3 };
        let mut seen = Seen { exec: true, ..Seen::default() };
        assert_eq!(seen.missing(), Some("sys_exit"));
        // Of another process, another asset, and too few.
        for not in [
            take(8, AssetId::CANARY, BYTES),
            take(PID, AssetId(63), BYTES),
            take(PID, AssetId::CANARY, 4095),
            flow(8, SinkKey::File(object), BYTES),
        ] {
            seen.see(&not, PID);
        }
        assert_eq!(seen, Seen { exec: true, ..Seen::default() });
        seen.see(&take(PID, AssetId::CANARY, BYTES), PID);
        seen.see(&flow(PID, SinkKey::File(object), BYTES), PID);
        assert_eq!(seen.missing(), Some("sock_send_length"));
        seen.see(&flow(PID, SinkKey::Process(object), BYTES), PID);
        assert_eq!(seen.missing(), Some("sched_process_exit"));
        seen.see(&Reading::Exit { holder: holder(PID), at: BootNs(2) }, PID);
        assert_eq!(seen.missing(), None);
        assert_eq!(Seen::default().missing(), Some("sched_process_exec"));
    }
}
