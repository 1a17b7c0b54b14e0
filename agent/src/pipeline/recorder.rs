//! Writes down what the ledger is told. It must not know what the ledger makes of it.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

use super::run::now;
use crate::{
    event::{BootNs, Event},
    host,
    recording::{Header, Hider, RecordingError, Writer},
};

/// Where to, and what of it.
#[derive(Clone, Debug)]
pub struct RecordTo {
    pub file: PathBuf,
    /// Replace names by hashes.
    pub hide: bool,
    /// `None`: until a signal.
    pub length: Option<Duration>,
}

/// A recording that is being written. After its first failure it writes no more.
pub(super) struct Recorder {
    writer: Writer,
    hider: Option<Hider>,
    broken: bool,
    failure: Option<RecordingError>,
}

impl Recorder {
    pub(super) fn start(to: RecordTo, propagation_floor: u64) -> anyhow::Result<Self> {
        let facts = host::facts();
        let hider = to
            .hide
            .then(|| Hider::new().map_err(|_| anyhow::anyhow!("the system has no random bytes")))
            .transpose()?;
        let header = Header {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            host: if to.hide { String::new() } else { facts.hostname },
            // What follows the version can name a provider's image.
            kernel: if to.hide { version(&facts.kernel) } else { facts.kernel },
            sensor: "syscall".to_owned(),
            boot_wall_ms: Timestamp::now().as_millisecond()
                - i64::try_from(now().0 / 1_000_000).unwrap_or(i64::MAX),
            propagation_floor,
            hidden: to.hide,
        };
        Ok(Self { writer: Writer::create(&to.file, &header)?, hider, broken: false, failure: None })
    }

    pub(super) fn write(&mut self, at: BootNs, event: &Event) {
        let result = match &self.hider {
            Some(hider) => self.writer.write(at, &hider.hide(event)),
            None => self.writer.write(at, event),
        };
        self.note(result);
    }

    /// Why it stopped, once; and writes what waits.
    pub(super) fn failed(&mut self) -> Option<RecordingError> {
        if !self.broken {
            let result = self.writer.flush();
            self.note(result);
        }
        self.failure.take()
    }

    fn note(&mut self, result: Result<(), RecordingError>) {
        if let Err(error) = result
            && !self.broken
        {
            self.broken = true;
            self.failure = Some(error);
        }
    }
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> String {
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(error) = self.failed() {
            tracing::error!(%error, "the end of the recording is lost");
            return;
        }
        let (bytes, statements) = self.writer.size();
        tracing::info!(bytes, statements, "recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!(["6.18.44-lab-v1", "6.1", ""].map(version), ["6.18", "6.1", ""]);
    }
}
