//! Who a process is, from `/proc`: for processes that ran before the agent did, and for ancestors.
//!
//! The kernel side knows better for everything it saw start; this file must not know of it.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::OnceLock};

use super::{cgroup, read_limited};
use crate::event::{Ancestor, Process};

/// Bytes of a command line that are kept.
const CMDLINE: usize = 4096;
/// Generations that are followed; a chain of more is an attack on our memory.
const GENERATIONS: usize = 64;

/// Describes a running process; `None` when it is gone, or when its pid was given to another while we looked.
///
/// `start` has the granularity of `/proc` (10 ms, rounded down), so that it equals the kernel's `start_boottime` only to
/// that. `exe_sha256` is left to [`super::hash`].
#[must_use]
pub fn from_proc(pid: u32) -> Option<Process> {
    let stat = Stat::read(pid)?;
    let status = Status::read(pid)?;
    let paths = cgroup_paths(pid).unwrap_or_default();
    let cmdline = cmdline(pid).unwrap_or_default();
    let exe = exe(pid).unwrap_or_default();
    let ancestry = ancestry(stat.parent);
    let placement = paths.placement();
    // The same pid with another start is another process, and then what was read is of both.
    (Stat::read(pid)?.ticks == stat.ticks).then(|| Process {
        pid,
        start: stat.start_ns(),
        exe,
        exe_sha256: None,
        cmdline: if cmdline.is_empty() { format!("[{}]", stat.name) } else { cmdline },
        uid: status.uid,
        auid: login_uid(pid),
        cgroup: paths.unified,
        container: placement.container,
        unit: placement.unit,
        ancestry,
    })
}

/// The chain from `pid` to pid 1; it ends early when an ancestor is gone or out of sight.
#[must_use]
pub fn ancestry(pid: u32) -> Vec<Ancestor> {
    let mut chain = Vec::new();
    let mut next = pid;
    while next != 0 && chain.len() < GENERATIONS {
        let Some(stat) = Stat::read(next) else { break };
        let cmdline = cmdline(next).unwrap_or_default();
        let cmdline = if cmdline.is_empty() { format!("[{}]", stat.name) } else { cmdline };
        chain.push(Ancestor { pid: next, exe: exe(next).unwrap_or_default(), cmdline });
        next = stat.parent;
    }
    chain
}

/// Start of a process in ns since boot, to 10 ms; `None` when it is gone.
#[must_use]
pub fn start_ns(pid: u32) -> Option<u64> {
    Some(Stat::read(pid)?.start_ns())
}

/// What `/proc/PID/stat` has for us.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// The name in parentheses, which the process chooses.
    name: String,
    parent: u32,
    /// Field 22: clock ticks since boot.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&read_limited(&proc_file(pid, "stat"), 4096).ok()?)
    }

    /// The name may contain blanks and parentheses; only the last closing one ends it.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let name = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        // The first of these is field 3, the state.
        let mut fields = rest.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let ticks = fields.nth(17)?.parse().ok()?;
        Some(Self { name, parent, ticks })
    }

    fn start_ns(&self) -> u64 {
        static HERTZ: OnceLock<u64> = OnceLock::new();
        let hertz = *HERTZ.get_or_init(|| procfs::ticks_per_second().max(1));
        let ns = u128::from(self.ticks) * 1_000_000_000 / u128::from(hertz);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

struct Status {
    /// The real user id, which is what the kernel side reports too.
    uid: u32,
}

impl Status {
    fn read(pid: u32) -> Option<Self> {
        let text = read_limited(&proc_file(pid, "status"), 64 << 10).ok()?;
        let text = String::from_utf8_lossy(&text);
        let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some(Self { uid: uids.split_ascii_whitespace().next()?.parse().ok()? })
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct CgroupPaths {
    /// Below the cgroup2 mount.
    unified: Option<String>,
    /// Of the v1 hierarchies, for hosts where runtimes and systemd still use those.
    legacy: Vec<String>,
}

impl CgroupPaths {
    fn parse(text: &str) -> Self {
        let mut paths = Self::default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            match (fields.next(), fields.next(), fields.next()) {
                (Some("0"), Some(""), Some(path)) => paths.unified = Some(path.to_owned()),
                // systemd's own hierarchy tells of units, so it is asked before the controllers.
                (_, Some("name=systemd"), Some(path)) => paths.legacy.insert(0, path.to_owned()),
                (Some(_), Some(_), Some(path)) => paths.legacy.push(path.to_owned()),
                _ => {}
            }
        }
        paths
    }

    fn placement(&self) -> cgroup::Placement {
        let mut found = cgroup::Placement::default();
        for path in self.unified.iter().chain(&self.legacy) {
            let here = cgroup::placement(path);
            found.container = found.container.or(here.container);
            found.unit = found.unit.or(here.unit);
        }
        found
    }
}

fn cgroup_paths(pid: u32) -> Option<CgroupPaths> {
    let text = read_limited(&proc_file(pid, "cgroup"), 64 << 10).ok()?;
    Some(CgroupPaths::parse(&String::from_utf8_lossy(&text)))
}

/// The path of the executable; empty for kernel threads. The kernel marks a file that was removed, and the mark is taken
/// off when the file has no more links: a file may really be called so.
fn exe(pid: u32) -> Option<String> {
    let link = proc_file(pid, "exe");
    let path = fs::read_link(&link).ok()?.to_string_lossy().into_owned();
    match path.strip_suffix(" (deleted)") {
        Some(stem) if fs::metadata(&link).is_ok_and(|facts| facts.nlink() == 0) => Some(stem.to_owned()),
        _ => Some(path),
    }
}

fn cmdline(pid: u32) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(proc_file(pid, "cmdline")).ok()?.take(CMDLINE as u64).read_to_end(&mut bytes).ok()?;
    Some(join_arguments(&bytes))
}

/// Arguments end with a zero byte each.
fn join_arguments(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).replace('\0', " ")
}

fn login_uid(pid: u32) -> Option<u32> {
    let text = read_limited(&proc_file(pid, "loginuid"), 32).ok()?;
    let uid: u32 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    // Never set.
    (uid != u32::MAX).then_some(uid)
}

fn proc_file(pid: u32, name: &str) -> PathBuf {
    format!("/proc/{pid}/{name}").into()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_child_is_described() {
        let mut command = Command::new("cat");
        command.args(["-", "a b"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A moment after the exec its arguments are not there yet; once it echoes, they are.
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"x").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let process = from_proc(child.id());
        let start = start_ns(child.id());
        drop(child.stdin.take());
        child.wait().unwrap();
        let process = process.unwrap();
        assert!(process.exe.ends_with("/cat"), "{}", process.exe);
        assert_eq!(process.cmdline, "cat - a b");
        assert_eq!(process.uid, rustix::process::getuid().as_raw());
        assert_eq!(Some(process.start), start);
        assert_eq!(process.start % 10_000_000, 0);
        let parent = &process.ancestry[0];
        assert_eq!(parent.pid, std::process::id());
        assert_eq!(parent.exe, fs::read_link("/proc/self/exe").unwrap().to_string_lossy());
        assert_eq!(process.ancestry.last().unwrap().pid, 1);
        assert_eq!(from_proc(child.id()), None);
    }

    #[test]
    fn a_removed_executable_keeps_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("cat");
        fs::copy("/bin/cat", &copy).unwrap();
        let mut child = Command::new(&copy).stdin(Stdio::piped()).spawn().unwrap();
        fs::remove_file(&copy).unwrap();
        let process = from_proc(child.id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(process.unwrap().exe, copy.canonicalize().unwrap_or(copy).to_string_lossy());
    }

    #[test]
    fn names_with_parentheses_do_not_shift_fields() {
        let line = b"42 (a) S 9 (b) R 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        let expected = Stat { name: "a) S 9 (b".to_owned(), parent: 7, ticks: 123_456 };
        assert_eq!(Stat::parse(line), Some(expected));
    }

    #[test]
    fn old_hierarchies_tell_what_the_new_one_does_not() {
        let id = "a".repeat(64);
        let text = format!("4:memory:/docker/{id}\n1:name=systemd:/system.slice/x.service\n0::/\n");
        let paths = CgroupPaths::parse(&text);
        assert_eq!(paths.unified.as_deref(), Some("/"));
        let placement = paths.placement();
        assert_eq!((placement.container, placement.unit), (Some(id), Some("x.service".to_owned())));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in any::<Vec<u8>>(), text in ".{0,60}") {
            let _ = Stat::parse(&bytes);
            let _ = CgroupPaths::parse(&text);
            let _ = join_arguments(&bytes);
        }
    }
}
