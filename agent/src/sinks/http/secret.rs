//! Tokens, keys and certificates, from files or systemd credentials; never from the configuration itself.
//!
//! Read anew whenever they are used, so that a rotated secret needs no restart. Must not know what they are for.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use crate::config::SecretSource;

/// Certificates of a whole trust store are some hundred kilobytes.
const MOST_BYTES: u64 = 4 << 20;
/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(
        "{name} needs the environment variable {CREDENTIALS}, which systemd sets: add `LoadCredential={name}:FILE` to the unit, or name a file"
    )]
    NoCredentials { name: String },
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a regular file: name a file", path = path.display())]
    NotAFile { path: PathBuf },
    #[error("{path} can be {what} by others than its owner (mode {mode:04o}): run `chmod 600 {path}`", path = path.display())]
    Open { path: PathBuf, what: &'static str, mode: u32 },
    #[error("{path} belongs to user {uid}, who could replace it: `chown root {path}`", path = path.display())]
    Foreign { path: PathBuf, uid: u32 },
    #[error("{path} has more than {MOST_BYTES} bytes: name the file that holds the secret", path = path.display())]
    Large { path: PathBuf },
    #[error("{path} is empty: write the secret into it", path = path.display())]
    Empty { path: PathBuf },
}

impl SecretError {
    /// Only the service can tell: outside of it systemd's variable is missing.
    #[must_use]
    pub const fn is_for_the_service(&self) -> bool {
        matches!(self, Self::NoCredentials { .. })
    }
}

/// Whether others may read the file: a certificate is public, a key is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sinks) enum Kept {
    Secret,
    Public,
}

impl SecretSource {
    /// Where it lies.
    ///
    /// # Errors
    /// [`SecretError::NoCredentials`] outside of a service.
    pub(in crate::sinks) fn path(&self) -> Result<PathBuf, SecretError> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Credential(name) => match std::env::var_os(CREDENTIALS) {
                Some(dir) if !dir.is_empty() => Ok(PathBuf::from(dir).join(name)),
                _ => Err(SecretError::NoCredentials { name: name.clone() }),
            },
        }
    }

    /// Its bytes, from a file that nobody but root and the agent can change (and, if `kept` says so, read).
    ///
    /// # Errors
    /// With the remedy.
    pub(in crate::sinks) fn read(&self, kept: Kept) -> Result<Vec<u8>, SecretError> {
        let path = self.path()?;
        let failed = |source| SecretError::Io { path: path.clone(), source };
        // NONBLOCK, so that a FIFO of that name cannot hang us. Links are followed: Kubernetes makes secrets of them,
        // and what is checked is what was opened.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if !facts.is_file() {
            return Err(SecretError::NotAFile { path });
        }
        let (mode, uid) = (facts.mode() & 0o7777, facts.uid());
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(SecretError::Foreign { path, uid });
        }
        if mode & 0o022 != 0 {
            return Err(SecretError::Open { path, what: "written", mode });
        }
        if kept == Kept::Secret && mode & 0o004 != 0 {
            return Err(SecretError::Open { path, what: "read", mode });
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(SecretError::Large { path });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SecretError::Empty { path });
        }
        Ok(bytes)
    }

    /// Its text without the line feed that editors add.
    ///
    /// # Errors
    /// Those of [`SecretSource::read`].
    pub(in crate::sinks) fn read_trimmed(&self) -> Result<Vec<u8>, SecretError> {
        Ok(self.read(Kept::Secret)?.trim_ascii().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_or_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let source = SecretSource::File(path.clone());
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&path, "s3cret\n").unwrap();
        mode(0o600);
        assert_eq!(source.read_trimmed().unwrap(), b"s3cret");
        mode(0o644);
        let said = source.read_trimmed().unwrap_err().to_string().replace(&path.display().to_string(), "…");
        insta::assert_snapshot!(said, @"… can be read by others than its owner (mode 0644): run `chmod 600 …`");
        assert!(source.read(Kept::Public).is_ok());
        mode(0o620);
        assert!(matches!(source.read(Kept::Public), Err(SecretError::Open { what: "written", .. })));
        mode(0o600);
        fs::write(&path, " \n").unwrap();
        assert!(matches!(source.read_trimmed(), Err(SecretError::Empty { .. })));
        assert!(matches!(
            SecretSource::File(dir.path().to_owned()).read(Kept::Public),
            Err(SecretError::NotAFile { .. })
        ));
    }
}
