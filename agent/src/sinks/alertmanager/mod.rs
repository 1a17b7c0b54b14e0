//! Pushes alerts to instances of Alertmanager (API v2): each severity when it is reached, again while it is active, and
//! resolved at the end. Every instance has its own thread, board and spool: one that is down, slow or hostile stalls
//! neither the others nor the pipeline, and is told everything when it is back.
//!
//! Must not know rules or the ledger; what an alert says is [`Notice`]'s business, what is due the board's.

mod board;
mod notice;
mod record;

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::HeaderMap;
use jiff::Timestamp;

pub(super) use self::notice::Notice;
use self::{
    board::{Batch, Board, Change, Verdict},
    notice::Notice as Item,
    record::{Record, Words},
};
use super::{
    backoff::Backoff,
    http::{Answer, Client, HttpError},
    inbox::{Inbox, Outbox, Stop},
    spool::{self, Spool, SpoolError},
    status::Status,
};
use crate::config::HttpTarget;

/// Asked again at least this often, whatever the board says is next.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Taken from the inbox at once, so that they cost one write of the spool.
const AT_ONCE: usize = 256;

/// What runs for one instance.
struct Instance {
    name: String,
    client: Arc<Client>,
    runbooks: Option<String>,
    board: Board,
    spool: Spool,
    status: Arc<Status>,
    backoff: Backoff,
}

type Attempt = std::pin::Pin<Box<dyn Future<Output = (Batch, Result<Answer, HttpError>)>>>;

/// Starts the thread of one instance. `spools` is the directory of all spools.
///
/// # Errors
/// When no thread can be started, or the address cannot be used.
pub(super) fn start(
    target: &HttpTarget,
    resend: Duration,
    hold: Duration,
    runbooks: Option<String>,
    spools: &Path,
) -> io::Result<Inbox<Notice>> {
    let client = Client::new(target, "/api/v2/alerts").map_err(io::Error::other)?;
    let name = super::spool_name("alertmanager", &target.url.to_string());
    let spool::Opened { mut spool, keys, note } = Spool::open(spools, &name);
    let status = Arc::new(Status::default());
    if let Some(note) = note {
        tracing::error!("{note}");
        status.add_failed();
    }
    let mut board = Board::new(resend, hold);
    for key in keys {
        board.skip(key);
        match record(&mut spool, key) {
            Ok(Some(record)) => board.restore(key, &record),
            Ok(None) => {
                status.add_dropped(1);
                tracing::error!("a record of spool {name} cannot be read and is lost");
                // Where it cannot be removed now it is in nobody's way.
                let _ = spool.write([(key, None)]);
            }
            // It stays for the next run.
            Err(error) => tracing::error!("{error}"),
        }
    }
    let shown = format!("alertmanager {}", target.url);
    let mut instance = Instance {
        name: shown.clone(),
        client: Arc::new(client),
        runbooks,
        board,
        spool,
        status: Arc::clone(&status),
        backoff: Backoff::default(),
    };
    instance.status.set_waiting(instance.board.waiting());
    Inbox::start(&shown, status, move |outbox, stop| async move { instance.run(outbox, stop).await })
}

impl Instance {
    async fn run(&mut self, mut outbox: Outbox<Item>, mut stop: Stop) -> usize {
        let mut attempt: Option<Attempt> = None;
        let mut closing: Option<Instant> = None;
        let mut open = true;
        loop {
            self.board.advance(now_ms());
            self.keep();
            if attempt.is_none() && self.backoff.is_over() {
                attempt = self.attempt();
            }
            if let Some(deadline) = closing {
                // An instance that fails now will be told by the next run.
                let idle = attempt.is_none() && (self.board.waiting() == 0 || self.backoff.is_waiting());
                if idle || Instant::now() >= deadline {
                    break;
                }
            }
            let sleep = if attempt.is_some() { LONGEST_SLEEP } else { self.sleep() };
            let wake = closing.unwrap_or_else(|| Instant::now() + sleep);
            tokio::select! {
                biased;
                deadline = &mut stop, if closing.is_none() => {
                    // The sender is dropped with the sink: then there is no patience at all.
                    closing = Some(deadline.unwrap_or_else(|_| Instant::now()));
                    while let Some(notice) = outbox.now() {
                        self.observe(notice);
                    }
                    open = false;
                }
                notice = outbox.next(), if open => match notice {
                    Some(notice) => {
                        self.observe(notice);
                        for _ in 0..AT_ONCE {
                            let Some(notice) = outbox.now() else { break };
                            self.observe(notice);
                        }
                    }
                    None => open = false,
                },
                (batch, answer) = under_way(&mut attempt) => {
                    attempt = None;
                    self.answered(&batch, answer);
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        self.keep();
        self.spool.unsaved().min(self.board.waiting())
    }

    fn observe(&mut self, mut notice: Item) {
        if let Some(runbooks) = &self.runbooks {
            notice.find_runbooks_at(runbooks);
        }
        let spool = &mut self.spool;
        // Words that cannot be read now only decide under which labels it is told.
        let dropped = self.board.observe(notice, &mut |key| words(spool, key).ok().flatten());
        if dropped != 0 {
            self.status.add_dropped(dropped);
            tracing::error!(
                "{} is behind by {} alerts, and the least severe is given up",
                self.name,
                board::MOST
            );
        }
    }

    /// Makes durable what changed.
    fn keep(&mut self) {
        let mut changes: Vec<(u64, Option<Bytes>)> = Vec::new();
        let mut gone = Vec::new();
        for (key, change) in self.board.changes() {
            let record = match change {
                Change::Gone => None,
                Change::Said(record) => Some(record),
                Change::Moved(times) => match words(&mut self.spool, key) {
                    Ok(Some(words)) => Some(Record { words, times }),
                    Ok(None) => {
                        gone.push(key);
                        continue;
                    }
                    // Until the next change an older state is kept: after a crash it is told again.
                    Err(_) => continue,
                },
            };
            changes.push((key, record.and_then(|record| serde_json::to_vec(&record).ok()).map(Bytes::from)));
        }
        self.lose(gone);
        self.status.set_waiting(self.board.waiting());
        super::keep(&mut self.spool, changes, &self.status);
    }

    /// Forgets alerts that the spool does not have any more.
    fn lose(&mut self, gone: Vec<u64>) {
        for key in gone {
            let waited = self.board.lose(key);
            self.status.add_dropped(u64::from(waited));
            tracing::error!("an alert for {} is not in its spool any more and is given up", self.name);
        }
    }

    fn attempt(&mut self) -> Option<Attempt> {
        let (mut gone, mut fault) = (Vec::new(), None);
        let spool = &mut self.spool;
        let batch = self.board.batch(now_ms(), &mut |key| match words(spool, key) {
            Ok(Some(words)) => Some(words),
            Ok(None) => {
                gone.push(key);
                None
            }
            Err(error) => {
                fault = Some(error);
                None
            }
        });
        self.lose(gone);
        if let Some(error) = fault {
            self.status.set_spool(Some(error.to_string()));
            self.backoff.failed();
        }
        let batch = batch?;
        let client = Arc::clone(&self.client);
        let body = Bytes::from(batch.body.to_string());
        Some(Box::pin(async move {
            let answer = client.post(HeaderMap::new(), body).await;
            (batch, answer)
        }))
    }

    fn answered(&mut self, batch: &Batch, answer: Result<Answer, HttpError>) {
        let (verdict, why) = match answer {
            Ok(answer) if answer.is_success() => (Verdict::Taken, None),
            Ok(answer) if answer.refuses_content() => (Verdict::Refused, Some(answer.words())),
            Ok(answer) => (Verdict::Failed, Some(answer.words())),
            Err(error) => (Verdict::Failed, Some(error.to_string())),
        };
        let outcome = self.board.answered(batch, verdict, now_ms());
        self.status.add_sent(outcome.delivered);
        self.status.add_dropped(outcome.refused.len() as u64);
        for key in &outcome.refused {
            let why = why.as_deref().unwrap_or_default();
            let labels = words(&mut self.spool, *key).ok().flatten().map(|words| words.labels);
            tracing::error!(?labels, "{} refuses this alert for good: {why}", self.name);
        }
        let troubled = self.status.trouble().is_some();
        match (verdict, why) {
            (Verdict::Failed, why) => {
                self.status.add_failed();
                let why = format!(
                    "{} does not take alerts, they wait in the spool: {}",
                    self.name,
                    why.unwrap_or_default()
                );
                if !troubled {
                    tracing::error!("{why}");
                }
                self.status.set_delivery(Some(why));
                self.backoff.failed();
            }
            // It answers, and knows what it does not like.
            (Verdict::Taken | Verdict::Refused, _) => {
                if troubled && verdict == Verdict::Taken {
                    tracing::info!("{} takes alerts again", self.name);
                }
                self.status.set_delivery(None);
                self.backoff.succeeded();
            }
        }
    }

    fn sleep(&self) -> Duration {
        let due = self.board.next_ms().map(|at| at.saturating_sub(now_ms()).max(0).unsigned_abs());
        let due = due.map_or(LONGEST_SLEEP, Duration::from_millis);
        // What is due while a failure is fresh waits for the end of the pause.
        due.max(self.backoff.left()).max(Duration::from_millis(5)).min(LONGEST_SLEEP)
    }
}

/// The record of this number; `None` when there is none, or none that makes sense.
fn record(spool: &mut Spool, key: u64) -> Result<Option<Record>, SpoolError> {
    Ok(spool.read(key)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn words(spool: &mut Spool, key: u64) -> Result<Option<Words>, SpoolError> {
    Ok(record(spool, key)?.map(|record| record.words))
}

/// The attempt that is under way, or never.
async fn under_way(attempt: &mut Option<Attempt>) -> (Batch, Result<Answer, HttpError>) {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
