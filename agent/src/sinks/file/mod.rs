//! The alert log: one JSON line for each alert, appended to a file that only root can change.
//!
//! Knows lines and the end of a hash chain ([`Head`]), not what alerts say. The file is written by a thread of its own;
//! on an error the queue is kept and tried again. When the file was moved away (rotation) the next line opens a new one
//! and the chain goes on in it. Lines reach the disk within a second (`fdatasync`), and at the end of a run.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};

use super::queue::{Counts, Full, Queue, Turn};
use crate::alerts::Head;

mod place;
mod resume;
#[cfg(test)]
mod tests;

use self::place::Place;
pub use self::place::{FileError, check};

/// Enough for a day of trouble: alerts are at most one a second for each finding.
const MOST_LINES: usize = 65_536;
const MOST_BYTES: usize = 64 << 20;

/// The longest that a written line may be missing from the disk.
const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// Between attempts after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// A running alert log. Dropping it stops its thread without waiting for it; [`FileSink::close`] waits.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    queue: Arc<Queue>,
}

/// What [`open`] found.
#[derive(Debug)]
pub struct Opened {
    pub sink: FileSink,
    /// Where the chain of the file stands.
    pub head: Head,
    /// What was wrong with the file and what was done about it: belongs into the next line.
    pub note: Option<String>,
}

/// Opens or creates the alert log and starts its thread.
///
/// # Errors
/// What [`check`] finds, another agent that has the file open, and errors of the filesystem.
pub fn open(path: &Path) -> Result<Opened, FileError> {
    let place = Place::prepare(path)?;
    let file = place.open_log()?;
    let resume::Resumed { file, head, note } = resume::resume(&place, file)?;
    let queue = Arc::new(Queue::new(MOST_LINES, MOST_BYTES));
    let writer = Writer { place, file: Some(file), written: 0, unsynced: None, troubled: false };
    let worker = Arc::clone(&queue);
    thread::Builder::new()
        .name("alert-log".to_owned())
        .spawn(move || {
            writer.run(&worker);
            worker.end();
        })
        .map_err(|source| FileError::Io { doing: "start a thread for", path: path.to_owned(), source })?;
    Ok(Opened { sink: FileSink { path: path.to_owned(), queue }, head, note })
}

impl FileSink {
    /// Queues a line, which has its line feed.
    ///
    /// # Errors
    /// [`Full`] when the queue has no room; the line is counted as dropped.
    pub fn send(&self, line: Bytes) -> Result<(), Full> {
        self.queue.push(line)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until every line is in the file; false if that takes longer than `patience`.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        self.queue.wait_until_empty(patience)
    }

    /// Writes what is queued, syncs and stops. Returns how many lines were left over after `patience`.
    #[must_use]
    pub fn close(self, patience: Duration) -> u64 {
        self.queue.close(patience);
        // A little longer than the lines have, for the last sync.
        self.queue.wait_for_end(Instant::now() + patience + SYNC_WITHIN);
        self.queue.counts().backlog
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.queue.close(Duration::ZERO);
    }
}

/// The thread's side.
struct Writer {
    place: Place,
    /// `None` after the file could not be opened again.
    file: Option<File>,
    /// Bytes of the oldest line that are already in the file.
    written: usize,
    /// When the first line that is not yet on the disk was written.
    unsynced: Option<Instant>,
    /// The last attempt failed, and was logged.
    troubled: bool,
}

impl Writer {
    fn run(mut self, queue: &Queue) {
        loop {
            match queue.next(self.unsynced.map(|since| since + SYNC_WITHIN)) {
                Turn::Line(line) => match self.write(&line) {
                    Ok(()) => {
                        if self.troubled {
                            self.troubled = false;
                            tracing::info!(path = %self.place.path().display(), "the alert log takes lines again");
                        }
                        queue.delivered();
                        self.sync_if_due();
                    }
                    Err(error) => {
                        if !self.troubled {
                            self.troubled = true;
                            tracing::error!(
                                "cannot write to alert log {}, alerts wait in memory: {error}",
                                self.place.path().display()
                            );
                        }
                        queue.failed(PAUSE);
                    }
                },
                Turn::Idle => self.sync_if_due(),
                Turn::Over => {
                    self.sync();
                    return;
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> Result<(), FileError> {
        if !self.is_current() {
            self.sync();
            self.file = None;
            // What is in the old file of a half-written line stays there, and the line starts anew.
            self.written = 0;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.place.open_log()?),
        };
        while self.written < line.len() {
            match file.write(&line[self.written..]) {
                Ok(0) => return Err(self.place.io("append to", io::ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.place.io("append to", error)),
            }
        }
        self.written = 0;
        self.unsynced.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whether the open file is still the one of that name.
    fn is_current(&self) -> bool {
        let Some(file) = &self.file else { return false };
        match (rustix::fs::fstat(file), self.place.stat_log()) {
            (Ok(open), Ok(named)) => (open.st_dev, open.st_ino) == (named.st_dev, named.st_ino),
            _ => false,
        }
    }

    fn sync_if_due(&mut self) {
        if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_WITHIN) {
            self.sync();
        }
    }

    fn sync(&mut self) {
        if self.unsynced.take().is_some()
            && let Some(file) = &self.file
            && let Err(error) = file.sync_data()
        {
            tracing::error!("cannot sync alert log {}: {error}", self.place.path().display());
        }
    }
}
