//! What this host is: its mounts, which sinks are controlled, where the asset files lie, who a process is, and whether
//! the kernel is fit for the agent.
//!
//! Nothing here knows of hooks, maps or the ledger: it reads `/proc`, `/sys` and filesystems, and answers questions.
//! Everything read is treated as hostile: reads are limited and lengths are checked before use.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
};

use serde::Serialize;

use crate::config::Placed;

pub mod cgroup;
pub mod channels;
pub mod control;
pub mod doctor;
pub mod folders;
pub mod format;
pub mod handles;
pub mod hash;
pub mod interfaces;
pub mod inventory;
mod ioctl;
pub mod itself;
pub mod mounts;
pub mod patience;
pub mod process;
pub mod registry;
pub mod state;
pub mod store;
pub mod stores;
pub mod superblock;
pub mod sysfs;
pub mod volumes;

/// What is wrong between the configuration and this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Line and column in the configuration file, both from 1; `None` when no line of it is the cause.
    pub place: Option<(u32, u32)>,
    /// A lower-case fragment: the thing, the place, the remedy.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The agent can run, but weighs something else than the operator may think.
    Warning,
    /// The agent must not start.
    Error,
}

impl Problem {
    /// The agent must not start because of `placed`.
    #[must_use]
    pub fn error<T>(placed: &Placed<T>, text: String) -> Self {
        Self { severity: Severity::Error, place: Some((placed.line, placed.column)), text }
    }

    /// The operator should know this of `placed`.
    #[must_use]
    pub fn warning<T>(placed: &Placed<T>, text: String) -> Self {
        Self { severity: Severity::Warning, place: Some((placed.line, placed.column)), text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        match self.place {
            Some((line, column)) => write!(f, "{line}:{column}: {word}: {}", self.text),
            None => write!(f, "{word}: {}", self.text),
        }
    }
}

/// What identifies this host and this boot in every alert and report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    pub hostname: String,
    /// As `uname -r` prints it.
    pub kernel: String,
    /// Machine architecture, as `uname -m` prints it.
    pub arch: String,
    /// Seconds since the epoch.
    pub boot_time: u64,
    /// The kernel's random id of this boot; empty when `/proc` does not tell.
    pub boot_id: String,
}

/// Reads the [`Facts`]; what cannot be read is empty or 0.
#[must_use]
pub fn facts() -> Facts {
    let boot_id = read_limited(Path::new("/proc/sys/kernel/random/boot_id"), 64)
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    Facts {
        hostname: sysinfo::System::host_name().unwrap_or_default(),
        kernel: sysinfo::System::kernel_version().unwrap_or_default(),
        arch: rustix::system::uname().machine().to_string_lossy().into_owned(),
        boot_time: sysinfo::System::boot_time().unwrap_or_default(),
        boot_id: boot_id.unwrap_or_default(),
    }
}

/// The whole of a small file.
///
/// # Errors
/// Those of opening and reading, and `FileTooLarge` when it has more than `limit` bytes: a truncated answer would be a
/// wrong one.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = match path.strip_prefix("/proc/self") {
        Ok(name) => itself::open(name)?,
        Err(_) => fs::File::open(path)?,
    };
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{} has more than {limit} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// A file of `/proc` or `/sys` as text without its last line feed; `None` when it is absent or cannot be read.
pub(crate) fn read_fact(path: &Path) -> Option<String> {
    let bytes = read_limited(path, 64 << 10).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_name_this_host() {
        let facts = facts();
        assert!(!facts.hostname.is_empty());
        assert!(facts.kernel.contains('.'));
        assert!(facts.boot_time > 1_500_000_000);
        assert_eq!(facts.boot_id.len(), 36);
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"12345").unwrap();
        assert_eq!(read_limited(file.path(), 5).unwrap(), b"12345");
        assert_eq!(read_limited(file.path(), 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
