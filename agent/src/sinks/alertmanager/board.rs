//! What one instance of Alertmanager has been told and must still be told. Pure: time and answers come with each call.
//!
//! Alertmanager keeps states, not a log: an alert is a set of labels that fires until it is resolved or not renewed. So
//! each severity that a finding reached is an alert of its own. A lower one keeps firing while its finding is open: a
//! receiver that only gets the lower one must not read "resolved" because it became worse.
//!
//! An alert that is resolved before Alertmanager's groups were flushed is never shown to anybody. So "resolved" goes to
//! an instance only when that instance took the alert as firing and some time (`hold`) passed; an instance that was
//! down while a finding opened and closed is told both, in that order.
//!
//! Thousands of alerts can wait, so only their times are here, and prints of what they are known by. Their words are in the
//! spool: what changes is handed out to be kept there ([`Board::changes`]), and read back when it is sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::{
    notice::Notice,
    record::{Print, Record, SEVERITY, Times, Words, others, rank},
};

/// Alerts that are kept for one instance; beyond it the least severe goes, counted.
pub(super) const MOST: usize = 16_384;
/// In one request.
const BATCH: usize = 64;
/// "Resolved" is told again for so long, for an instance that came back with an older state.
const RESOLVED_AGAIN_MS: i64 = 15 * 60 * 1000;

/// The same without its words.
#[derive(Clone, Copy, Debug)]
struct Entry {
    finding: Print,
    labels: Print,
    /// Of the labels but the severity.
    others: Print,
    /// Of the severity.
    rank: u8,
    times: Times,
    sent_ms: Option<i64>,
    /// It was in a request that was refused; it goes alone the next time.
    suspect: bool,
}

/// What became of an alert and is to be kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Gone,
    /// Its words are those that are kept.
    Moved(Times),
    Said(Record),
}

/// What one request says; what became of it is told with [`Board::answered`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Each with whether it says "resolved".
    said: Vec<(u64, bool)>,
    pub(super) body: Value,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    /// The content was refused.
    Refused,
    /// Anything else: as if it had not been sent.
    Failed,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Messages that the instance took for the first time.
    pub(super) delivered: u64,
    /// Alerts that it will never take.
    pub(super) refused: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct Board {
    entries: BTreeMap<u64, Entry>,
    by_labels: HashMap<Print, u64>,
    by_finding: BTreeSet<(Print, u64)>,
    next: u64,
    resend_ms: i64,
    hold_ms: i64,
    /// What is not kept yet, with its words if they are new.
    changed: BTreeMap<u64, Option<Words>>,
}

impl Board {
    pub(super) fn new(resend: Duration, hold: Duration) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self {
            entries: BTreeMap::new(),
            by_labels: HashMap::new(),
            by_finding: BTreeSet::new(),
            next: 0,
            resend_ms: millis(resend),
            hold_ms: millis(hold),
            changed: BTreeMap::new(),
        }
    }

    /// Takes over what an earlier run left. Whatever finding was open then is not known to this run: it counts as closed
    /// until somebody speaks of it.
    pub(super) fn restore(&mut self, key: u64, record: &Record) {
        let entry = Entry::new(&record.words, Times { closed: true, ..record.times });
        self.insert(key, entry);
    }

    /// A number that is in use and not known to be of an alert.
    pub(super) fn skip(&mut self, key: u64) {
        self.next = self.next.max(key + 1);
    }

    /// Takes what an alert says. Returns how many alerts had to make room. `read` gives the words of an alert that are kept.
    pub(super) fn observe(&mut self, notice: Notice, read: &mut dyn FnMut(u64) -> Option<Words>) -> u64 {
        let Notice { closes, finding, mut labels, annotations, starts_ms, last_ms, suppress_ms } = notice;
        let of_finding = Print::of([finding.as_str()]);
        let siblings: Vec<u64> =
            self.by_finding.range((of_finding, 0)..=(of_finding, u64::MAX)).map(|(_, key)| *key).collect();
        // The first line of a finding decides all labels but the severity: what else changes is no identity.
        if let Some(first) = siblings.first()
            && self.entries.get(first).is_some_and(|entry| entry.others != others(&labels))
            && let Some(words) = self.words(*first, read)
        {
            let severity = labels.get(SEVERITY).cloned();
            let mut first = (*words.labels).clone();
            first.extend(severity.map(|severity| (SEVERITY.to_owned(), severity)));
            labels = Arc::new(first);
        }
        let words = Words { finding, labels, annotations };
        let times = Times {
            starts_ms,
            last_ms,
            alive_ms: suppress_ms.unwrap_or(self.hold_ms),
            closed: closes,
            accepted_ms: None,
            resolved_ms: None,
            resolution_accepted_ms: None,
            refused: false,
        };
        let new = Entry::new(&words, times);
        for key in siblings {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.times.last_ms = entry.times.last_ms.max(last_ms);
            entry.times.closed |= closes;
            if entry.labels == new.labels {
                self.changed.insert(key, Some(words.clone()));
            } else {
                self.changed.entry(key).or_default();
            }
        }
        let Some(&key) = self.by_labels.get(&new.labels) else { return self.add(new, words) };
        if let Some(entry) = self.entries.get_mut(&key)
            && !closes
        {
            self.by_finding.remove(&(entry.finding, key));
            self.by_finding.insert((new.finding, key));
            entry.renew(&new);
            self.changed.insert(key, Some(words));
        }
        0
    }

    fn add(&mut self, entry: Entry, words: Words) -> u64 {
        let mut dropped = 0;
        if self.entries.len() >= MOST {
            let weakest = self.entries.iter().min_by_key(|(_, entry)| entry.worth()).map(|(&key, _)| key);
            let is_worth_more = weakest
                .and_then(|key| self.entries.get(&key))
                .is_some_and(|weakest| weakest.worth() < (Standing::Open, entry.rank));
            let Some(key) = weakest.filter(|_| is_worth_more) else { return 1 };
            dropped += u64::from(self.entries.get(&key).is_some_and(Entry::waits));
            self.remove(key);
        }
        let key = self.next;
        self.insert(key, entry);
        self.changed.insert(key, Some(words));
        dropped
    }

    fn insert(&mut self, key: u64, entry: Entry) {
        self.skip(key);
        self.by_labels.insert(entry.labels, key);
        self.by_finding.insert((entry.finding, key));
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.by_labels.remove(&entry.labels);
            self.by_finding.remove(&(entry.finding, key));
        }
        self.changed.insert(key, None);
    }

    /// Forgets an alert whose words are nowhere any more. Whether it was to be told.
    pub(super) fn lose(&mut self, key: u64) -> bool {
        let waited = self.entries.get(&key).is_some_and(Entry::waits);
        self.remove(key);
        waited
    }

    /// Those that are not kept yet, else those that are.
    fn words(&self, key: u64, read: &mut dyn FnMut(u64) -> Option<Words>) -> Option<Words> {
        match self.changed.get(&key) {
            Some(Some(words)) => Some(words.clone()),
            _ => read(key),
        }
    }

    /// Resolves and forgets what is due.
    pub(super) fn advance(&mut self, now_ms: i64) {
        let hold_ms = self.hold_ms;
        let mut done = Vec::new();
        for (&key, entry) in &mut self.entries {
            let times = &mut entry.times;
            if times.refused {
                if times.closed {
                    done.push(key);
                }
            } else if let Some(accepted_ms) = times.resolution_accepted_ms {
                if now_ms.saturating_sub(accepted_ms) >= RESOLVED_AGAIN_MS {
                    done.push(key);
                }
            } else if times.resolved_ms.is_none() && times.resolves_at(hold_ms).is_some_and(|at| at <= now_ms)
            {
                times.resolved_ms = Some(now_ms);
                entry.sent_ms = None;
                self.changed.entry(key).or_default();
            }
        }
        for key in done {
            self.remove(key);
        }
    }

    /// The next request, oldest first; `None` when nothing is due. What `read` has no words for is left out.
    pub(super) fn batch(&self, now_ms: i64, read: &mut dyn FnMut(u64) -> Option<Words>) -> Option<Batch> {
        let mut said = Vec::new();
        let mut alerts = Vec::new();
        for (&key, entry) in self.entries.iter().filter(|(_, entry)| entry.is_due(now_ms, self.resend_ms)) {
            if entry.suspect && !said.is_empty() {
                break;
            }
            let Some(words) = self.words(key, read) else { continue };
            said.push((key, entry.times.resolved_ms.is_some()));
            alerts.push(entry.times.to_json(&words, now_ms, self.resend_ms));
            if entry.suspect || said.len() >= BATCH {
                break;
            }
        }
        (!said.is_empty()).then_some(Batch { said, body: Value::Array(alerts) })
    }

    /// What became of a batch.
    pub(super) fn answered(&mut self, batch: &Batch, verdict: Verdict, now_ms: i64) -> Outcome {
        let mut outcome = Outcome::default();
        let alone = batch.said.len() == 1;
        for &(key, resolved) in &batch.said {
            // It may have made room, or have been renewed, while the request was under way.
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let times = &mut entry.times;
            match verdict {
                Verdict::Failed => continue,
                Verdict::Refused if alone => {
                    times.refused = true;
                    outcome.refused.push(key);
                }
                Verdict::Refused => {
                    entry.suspect = true;
                    continue;
                }
                Verdict::Taken if resolved != times.resolved_ms.is_some() => continue,
                Verdict::Taken => {
                    entry.suspect = false;
                    entry.sent_ms = Some(now_ms);
                    let first =
                        if resolved { &mut times.resolution_accepted_ms } else { &mut times.accepted_ms };
                    if first.is_some() {
                        continue;
                    }
                    *first = Some(now_ms);
                    outcome.delivered += 1;
                }
            }
            self.changed.entry(key).or_default();
        }
        outcome
    }

    /// When something is due next, milliseconds since 1970.
    pub(super) fn next_ms(&self) -> Option<i64> {
        let next = |entry: &Entry| {
            if entry.times.refused {
                return None;
            }
            let send = entry.sent_ms.map_or(0, |sent| sent.saturating_add(self.resend_ms));
            let is_open = entry.times.resolved_ms.is_none();
            let resolve = is_open.then(|| entry.times.resolves_at(self.hold_ms)).flatten();
            Some(resolve.map_or(send, |resolve| resolve.min(send)))
        };
        self.entries.values().filter_map(next).min()
    }

    /// How many messages the instance has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.waits()).count()
    }

    /// What changed since the last call, and is to be kept before anything else is asked of the board.
    pub(super) fn changes(&mut self) -> Vec<(u64, Change)> {
        let changed = std::mem::take(&mut self.changed);
        let change = |(key, words): (u64, Option<Words>)| {
            let change = match (self.entries.get(&key), words) {
                (None, _) => Change::Gone,
                (Some(entry), None) => Change::Moved(entry.times),
                (Some(entry), Some(words)) => Change::Said(Record { words, times: entry.times }),
            };
            (key, change)
        };
        changed.into_iter().map(change).collect()
    }
}

/// What is kept longest comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Nothing is left to tell.
    Done,
    Open,
}

impl Entry {
    fn new(words: &Words, times: Times) -> Self {
        let others = others(&words.labels);
        let severity = words.labels.get(SEVERITY).map_or("", String::as_str);
        Self {
            finding: Print::of([words.finding.as_str()]),
            labels: others.with(severity),
            others,
            rank: rank(severity),
            times,
            sent_ms: None,
            suspect: false,
        }
    }

    /// Somebody speaks of it again.
    fn renew(&mut self, new: &Self) {
        self.finding = new.finding;
        let times = &mut self.times;
        times.last_ms = times.last_ms.max(new.times.last_ms);
        times.closed = false;
        if times.resolved_ms.take().is_some() {
            // It fires anew: the instance must hear of that as of any other.
            times.starts_ms = new.times.starts_ms;
            times.accepted_ms = None;
            times.resolution_accepted_ms = None;
            self.sent_ms = None;
        }
    }

    fn is_due(&self, now_ms: i64, resend_ms: i64) -> bool {
        // A clock that was set back must not silence it.
        let is_renewed = |sent: i64| (0..resend_ms).contains(&now_ms.saturating_sub(sent));
        !self.times.refused && !self.sent_ms.is_some_and(is_renewed)
    }

    const fn waits(&self) -> bool {
        let times = &self.times;
        !times.refused
            && (times.accepted_ms.is_none()
                || (times.resolved_ms.is_some() && times.resolution_accepted_ms.is_none()))
    }

    const fn worth(&self) -> (Standing, u8) {
        let is_done = self.times.refused || self.times.resolution_accepted_ms.is_some();
        (if is_done { Standing::Done } else { Standing::Open }, self.rank)
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
