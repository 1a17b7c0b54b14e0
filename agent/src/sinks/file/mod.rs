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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};

use super::{
    Trouble,
    queue::{Counts, Full, Queue, Turn},
    status::Status,
};
use crate::alerts::{Head, Unfinished};

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
    status: Arc<Status>,
    length: Arc<AtomicU64>,
}

/// What [`open`] found.
#[derive(Debug)]
pub struct Opened {
    pub sink: FileSink,
    /// Where the chain of the file stands.
    pub head: Head,
    /// What was wrong with the file and what was done about it: belongs into the next line.
    pub note: Option<String>,
    /// Findings that were opened near its end and not closed.
    pub unfinished: Vec<Unfinished>,
}

/// Opens or creates the alert log and starts its thread. A disk that is full or broken now is not the end of it: alerts
/// wait in memory, the sink says so, and it tries again.
///
/// # Errors
/// What [`check`] finds, another agent that has the file open, and errors of the filesystem that do not pass.
pub fn open(path: &Path) -> Result<Opened, FileError> {
    let place = Place::prepare(path)?;
    let status = Arc::new(Status::default());
    let (file, head, note, unfinished) = match place.open_log().and_then(|file| resume::resume(&place, file))
    {
        Ok(resume::Resumed { file, head, note, unfinished }) => (Some(file), head, note, unfinished),
        Err(error) if error.may_pass() => {
            tracing::error!("{error}: alerts wait in memory");
            status.set_delivery(Some(error.to_string()));
            let note = format!("when the agent was started: {error}");
            (None, resume::last_head(&place), Some(note), Vec::new())
        }
        Err(error) => return Err(error),
    };
    let queue = Arc::new(Queue::new(MOST_LINES, MOST_BYTES));
    let length = Arc::new(AtomicU64::new(file.as_ref().map_or(0, length_of)));
    let writer = Writer {
        place,
        file,
        written: 0,
        unsynced: None,
        troubled: false,
        status: Arc::clone(&status),
        length: Arc::clone(&length),
    };
    let worker = Arc::clone(&queue);
    thread::Builder::new()
        .name("alert-log".to_owned())
        .spawn(move || {
            writer.run(&worker);
            worker.end();
        })
        .map_err(|source| FileError::Io { doing: "start a thread for", path: path.to_owned(), source })?;
    Ok(Opened { sink: FileSink { path: path.to_owned(), queue, status, length }, head, note, unfinished })
}

/// Where the chain of a log stands; changes nothing but makes the log's directory if that is missing.
///
/// # Errors
/// What [`check`] finds.
pub fn head(path: &Path) -> Result<Head, FileError> {
    Ok(resume::last_head(&Place::prepare(path)?))
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
        // Lines are counted by the queue, failures to sync by the writer.
        [self.queue.counts(), self.status.counts()].into_iter().sum()
    }

    /// Why lines do not get to the disk at the moment.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.status.trouble()
    }

    /// Bytes that the log has at least, unless somebody shortened or replaced it.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
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

/// A file that cannot be asked counts as empty, which nothing is shorter than.
fn length_of(file: &File) -> u64 {
    file.metadata().map_or(0, |facts| facts.len())
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
    status: Arc<Status>,
    /// Of the file, as far as this wrote it.
    length: Arc<AtomicU64>,
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
                        self.status.set_delivery(None);
                        queue.delivered();
                        self.sync_if_due();
                    }
                    Err(error) => {
                        if !self.troubled {
                            self.troubled = true;
                            tracing::error!("{error}: alerts wait in memory");
                        }
                        self.status.set_delivery(Some(format!(
                            "{error}: alerts wait in memory, free the disk or mend the path before they are lost"
                        )));
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
            // A rest that a full disk left is set aside first: it must not become a part of this line.
            None => {
                let opened = resume::resume(&self.place, self.place.open_log()?)?;
                self.length.store(length_of(&opened.file), Ordering::Release);
                self.file.insert(opened.file)
            }
        };
        while self.written < line.len() {
            match file.write(&line[self.written..]) {
                Ok(0) => return Err(self.place.io("append to", io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.written += count;
                    self.length.fetch_add(count as u64, Ordering::AcqRel);
                }
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
        if self.unsynced.take().is_none() {
            return;
        }
        let Some(file) = &self.file else { return };
        match file.sync_data() {
            Ok(()) => self.status.set_spool(None),
            Err(error) => {
                // The kernel forgets what it could not write: only a copy elsewhere has those lines for sure.
                let why = format!("cannot sync alert log {}: {error}", self.place.path().display());
                tracing::error!("{why}");
                self.status.add_failed();
                self.status.set_spool(Some(format!("{why}; its last lines may be lost, look at the disk")));
            }
        }
    }
}
