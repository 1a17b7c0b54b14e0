//! Hands alerts to one place, oldest first, each until it was taken: what webhook and journald have in common.
//!
//! A line is in the spool before it is tried, and leaves it once it was taken, so each arrives at least once. Must not
//! know how a line is delivered ([`Transport`]) nor what is in it.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    backoff::Backoff,
    inbox::{Inbox, Outbox, Stop},
    spool::{self, Spool, SpoolError},
    status::Status,
};
use crate::rules::Severity;

/// What is kept for one place; beyond it the least severe goes, counted.
const MOST_LINES: usize = 16_384;
const MOST_BYTES: usize = 32 << 20;
/// Taken from the inbox at once, so that they cost one write of the spool.
const AT_ONCE: usize = 256;
/// Nothing has to be looked at more often.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// One line for one place, in the form in which it is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) severity: Severity,
    pub(super) payload: Bytes,
}

/// What became of an attempt; the words are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    /// This content will never be taken.
    Refused(String),
    /// Not now.
    Failed(String),
}

/// A way to deliver.
pub(super) trait Transport: Send + Sync + 'static {
    /// Tries once; ends within seconds whatever the other side does.
    fn deliver(self: Arc<Self>, payload: Bytes) -> Attempt;
}

pub(super) type Attempt = Pin<Box<dyn Future<Output = Verdict>>>;

struct Relay<T> {
    name: String,
    transport: Arc<T>,
    spool: Spool,
    status: Arc<Status>,
    backoff: Backoff,
    /// Oldest first. The lines themselves are in the spool.
    waiting: VecDeque<Waiting>,
    bytes: usize,
    next: u64,
    /// The number of the line that is under way.
    trying: Option<u64>,
    changes: Vec<(u64, Option<Bytes>)>,
}

/// A line of the spool, by its number there.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: u64,
    severity: Severity,
    bytes: usize,
}

/// Starts the thread of one place, with what an earlier run left for it. `shown` is its name for people.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start<T: Transport>(
    transport: T,
    shown: &str,
    spools: &Path,
    name: &str,
) -> io::Result<Inbox<Parcel>> {
    let spool::Opened { spool, keys, note } = Spool::open(spools, name);
    let status = Arc::new(Status::default());
    if let Some(note) = note {
        tracing::error!("{note}");
        status.add_failed();
    }
    let mut relay = Relay {
        name: shown.to_owned(),
        transport: Arc::new(transport),
        spool,
        status: Arc::clone(&status),
        backoff: Backoff::default(),
        waiting: VecDeque::new(),
        bytes: 0,
        next: 0,
        trying: None,
        changes: Vec::new(),
    };
    for key in keys {
        relay.next = key + 1;
        match relay.read(key) {
            Ok(Some(Parcel { severity, payload })) => {
                relay.bytes += payload.len();
                relay.waiting.push_back(Waiting { key, severity, bytes: payload.len() });
            }
            Ok(None) => {
                relay.status.add_dropped(1);
                relay.changes.push((key, None));
                tracing::error!("a record of spool {name} cannot be read and is lost");
            }
            // It stays for the next run.
            Err(error) => tracing::error!("{error}"),
        }
    }
    relay.status.set_waiting(relay.waiting.len());
    Inbox::start(shown, status, move |outbox, stop| async move { relay.run(outbox, stop).await })
}

impl<T: Transport> Relay<T> {
    async fn run(&mut self, mut outbox: Outbox<Parcel>, mut stop: Stop) -> usize {
        let mut attempt: Option<Attempt> = None;
        let mut closing: Option<Instant> = None;
        let mut open = true;
        loop {
            self.keep();
            if attempt.is_none() && self.backoff.is_over() {
                attempt = self.attempt();
            }
            if let Some(deadline) = closing
                && (attempt.is_none() || Instant::now() >= deadline)
            {
                // Empty, or failing now: the next run goes on.
                break;
            }
            let sleep = if attempt.is_some() || self.waiting.is_empty() {
                LONGEST_SLEEP
            } else {
                self.backoff.left().max(Duration::from_millis(1))
            };
            let wake = closing.unwrap_or_else(|| Instant::now() + sleep);
            tokio::select! {
                biased;
                deadline = &mut stop, if closing.is_none() => {
                    // The sender is dropped with the sink: then there is no patience at all.
                    closing = Some(deadline.unwrap_or_else(|_| Instant::now()));
                    open = false;
                    while let Some(parcel) = outbox.now() {
                        self.add(parcel);
                    }
                }
                parcel = outbox.next(), if open => match parcel {
                    Some(parcel) => {
                        self.add(parcel);
                        for _ in 0..AT_ONCE {
                            let Some(parcel) = outbox.now() else { break };
                            self.add(parcel);
                        }
                    }
                    None => open = false,
                },
                verdict = under_way(&mut attempt) => {
                    attempt = None;
                    self.tried(verdict);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.keep();
        self.spool.unsaved().min(self.waiting.len())
    }

    /// Tries the oldest line.
    fn attempt(&mut self) -> Option<Attempt> {
        while let Some(Waiting { key, .. }) = self.waiting.front().copied() {
            match self.read(key) {
                Ok(Some(parcel)) => {
                    self.trying = Some(key);
                    return Some(Arc::clone(&self.transport).deliver(parcel.payload));
                }
                Ok(None) => {
                    self.status.add_dropped(1);
                    tracing::error!(
                        "an alert for {} is not in its spool any more and is given up",
                        self.name
                    );
                    self.remove(0);
                }
                Err(error) => {
                    self.status.set_spool(Some(error.to_string()));
                    self.backoff.failed();
                    return None;
                }
            }
        }
        None
    }

    /// The line of this number; `None` when there is none, or none that makes sense.
    fn read(&mut self, key: u64) -> Result<Option<Parcel>, SpoolError> {
        Ok(self.spool.read(key)?.and_then(|record| Parcel::from_record(&record)))
    }

    fn add(&mut self, parcel: Parcel) {
        while self.waiting.len() >= MOST_LINES || self.bytes + parcel.payload.len() > MOST_BYTES {
            // The first of the least severe; never the one that is under way.
            let trying = self.trying;
            let candidates = self.waiting.iter().enumerate().filter(|(_, other)| Some(other.key) != trying);
            let weakest = candidates.min_by_key(|(_, other)| other.severity);
            self.status.add_dropped(1);
            tracing::error!("{} is too far behind, and the least severe alert is given up", self.name);
            let Some((at, _)) = weakest.filter(|(_, other)| other.severity < parcel.severity) else {
                return;
            };
            self.remove(at);
        }
        let key = self.next;
        self.next += 1;
        let bytes = parcel.payload.len();
        self.bytes += bytes;
        self.changes.push((key, Some(parcel.to_record())));
        self.waiting.push_back(Waiting { key, severity: parcel.severity, bytes });
    }

    fn remove(&mut self, at: usize) {
        if let Some(Waiting { key, bytes, .. }) = self.waiting.remove(at) {
            self.bytes -= bytes;
            self.changes.push((key, None));
        }
    }

    fn tried(&mut self, verdict: Verdict) {
        let troubled = self.status.trouble().is_some();
        let first = self.trying.take() == self.waiting.front().map(|first| first.key);
        match verdict {
            Verdict::Taken => {
                self.status.add_sent(1);
                if troubled {
                    tracing::info!("{} takes alerts again", self.name);
                }
            }
            Verdict::Refused(why) => {
                self.status.add_dropped(1);
                tracing::error!("{} refuses an alert for good: {why}", self.name);
            }
            Verdict::Failed(why) => {
                self.status.add_failed();
                let why = format!("{} does not take alerts, they wait in the spool: {why}", self.name);
                if !troubled {
                    tracing::error!("{why}");
                }
                self.status.set_delivery(Some(why));
                self.backoff.failed();
                return;
            }
        }
        if first {
            self.remove(0);
        }
        self.status.set_delivery(None);
        self.backoff.succeeded();
    }

    fn keep(&mut self) {
        self.status.set_waiting(self.waiting.len());
        super::keep(&mut self.spool, std::mem::take(&mut self.changes), &self.status);
    }
}

impl Parcel {
    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        self.payload.len() + 64
    }

    /// One byte for the severity, then the payload.
    fn to_record(&self) -> Bytes {
        let mut record = BytesMut::with_capacity(self.payload.len() + 1);
        record.put_u8(Severity::ALL.iter().position(|known| *known == self.severity).unwrap_or(0) as u8);
        record.put_slice(&self.payload);
        record.freeze()
    }

    fn from_record(record: &Bytes) -> Option<Self> {
        let severity = *Severity::ALL.get(usize::from(*record.first()?))?;
        Some(Self { severity, payload: record.slice(1..) })
    }
}

/// The attempt that is under way, or never.
async fn under_way(attempt: &mut Option<Attempt>) -> Verdict {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Answers as told, then takes everything.
    #[derive(Debug, Default)]
    struct Place {
        verdicts: Mutex<VecDeque<Verdict>>,
        taken: Mutex<Vec<Bytes>>,
    }

    impl Transport for Arc<Place> {
        fn deliver(self: Arc<Self>, payload: Bytes) -> Attempt {
            let verdict = self.verdicts.lock().unwrap().pop_front().unwrap_or(Verdict::Taken);
            if verdict == Verdict::Taken {
                self.taken.lock().unwrap().push(payload);
            }
            Box::pin(std::future::ready(verdict))
        }
    }

    fn parcel(severity: Severity, text: &'static str) -> Parcel {
        Parcel { severity, payload: Bytes::from_static(text.as_bytes()) }
    }

    fn stop(mut inbox: Inbox<Parcel>, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        inbox.stop(deadline);
        inbox.wait(deadline + PATIENCE)
    }

    #[test]
    fn lines_arrive_in_order_whatever_fails_and_a_refused_one_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let place = Arc::new(Place::default());
        place.verdicts.lock().unwrap().extend([
            Verdict::Failed("down".to_owned()),
            Verdict::Taken,
            Verdict::Refused("bad".to_owned()),
        ]);
        let inbox = start(Arc::clone(&place), "place", dir.path(), "place").unwrap();
        for text in ["a", "b", "c", "d"] {
            inbox.send(1, parcel(Severity::Low, text)).unwrap();
        }
        while inbox.status().counts().backlog != 0 || inbox.status().counts().sent == 0 {
            thread_yield();
        }
        let counts = inbox.status().counts();
        assert_eq!((counts.sent, counts.failed, counts.dropped, counts.failing), (3, 1, 1, 0));
        assert_eq!(stop(inbox, PATIENCE), 0);
        assert_eq!(*place.taken.lock().unwrap(), ["a", "c", "d"]);
    }

    #[test]
    fn what_was_not_taken_is_delivered_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let down = Arc::new(Place::default());
        down.verdicts.lock().unwrap().extend((0..100).map(|_| Verdict::Failed("down".to_owned())));
        let inbox = start(Arc::clone(&down), "place", dir.path(), "place").unwrap();
        inbox.send(1, parcel(Severity::High, "a")).unwrap();
        inbox.send(1, parcel(Severity::Low, "b")).unwrap();
        assert_eq!(stop(inbox, PATIENCE), 0, "kept, not lost");
        let up = Arc::new(Place::default());
        let inbox = start(Arc::clone(&up), "place", dir.path(), "place").unwrap();
        assert_eq!(stop(inbox, PATIENCE), 0);
        assert_eq!(*up.taken.lock().unwrap(), ["a", "b"]);
        assert!(Spool::open(dir.path(), "place").keys.is_empty());
    }

    #[test]
    fn records_of_any_bytes_are_read_or_refused() {
        let one = parcel(Severity::Critical, "x");
        assert_eq!(Parcel::from_record(&one.to_record()), Some(one));
        for odd in [&b""[..], b"\x05x", b"\xff"] {
            assert_eq!(Parcel::from_record(&Bytes::copy_from_slice(odd)), None);
        }
    }

    fn thread_yield() {
        std::thread::yield_now();
    }
}
