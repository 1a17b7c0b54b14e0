//! What one instance of Alertmanager has been told and must still be told. Pure: time and answers come with each call.
//!
//! Alertmanager keeps states, not a log: an alert is a set of labels that fires until it is resolved or not renewed. So
//! each severity that a finding reached is an alert of its own. A lower one keeps firing while its finding is open: a
//! receiver that only gets the lower one must not read "resolved" because it became worse.
//!
//! An alert that is resolved before Alertmanager's groups were flushed is never shown to anybody. So "resolved" goes to
//! an instance only when that instance took the alert as firing and some time (`hold`) passed; an instance that was
//! down while a finding opened and closed is told both, in that order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::notice::{Notice, as_map, as_text};

/// Alerts that are kept for one instance; beyond it the least severe goes, counted.
pub(super) const MOST: usize = 16_384;
/// In one request.
const BATCH: usize = 64;
/// "Resolved" is told again for so long, for an instance that came back with an older state.
const RESOLVED_AGAIN_MS: i64 = 15 * 60 * 1000;
/// The least time from a push to the alert's end, if no other push follows: Alertmanager's own `resolve_timeout`.
const LEAST_LIFE_MS: i64 = 5 * 60 * 1000;
/// Pushes that may fail in a row before an alert that was not renewed ends.
const MISSED_PUSHES: i64 = 5;

/// Of an alert: its identity.
type Labels = Arc<BTreeMap<String, String>>;

/// One severity of one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// `finding_info.uid` of the finding that it belongs to now.
    pub(super) finding: String,
    #[serde(with = "shared")]
    pub(super) labels: Labels,
    #[serde(with = "text")]
    annotations: Arc<str>,
    starts_ms: i64,
    last_ms: i64,
    /// How long it fires after the last match.
    alive_ms: i64,
    /// Its finding is.
    closed: bool,
    /// When the instance first took it as firing.
    accepted_ms: Option<i64>,
    /// When it was resolved, and when the instance took that.
    resolved_ms: Option<i64>,
    resolution_accepted_ms: Option<i64>,
    /// The instance refused its content: it is not sent any more.
    refused: bool,
    #[serde(skip)]
    sent_ms: Option<i64>,
    /// It was in a request that was refused; it goes alone the next time.
    #[serde(skip)]
    suspect: bool,
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
    /// Labels of alerts that it will never take.
    pub(super) refused: Vec<Labels>,
}

#[derive(Debug)]
pub(super) struct Board {
    entries: BTreeMap<u64, Entry>,
    by_labels: HashMap<Labels, u64>,
    by_finding: HashMap<String, BTreeSet<u64>>,
    next: u64,
    resend_ms: i64,
    hold_ms: i64,
    changed: BTreeSet<u64>,
}

impl Board {
    /// With what an earlier run left. Whatever finding was open then is not known to this run: it counts as closed
    /// until somebody speaks of it.
    pub(super) fn new(records: BTreeMap<u64, Entry>, resend: Duration, hold: Duration) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let mut board = Self {
            entries: BTreeMap::new(),
            by_labels: HashMap::new(),
            by_finding: HashMap::new(),
            next: 0,
            resend_ms: millis(resend),
            hold_ms: millis(hold),
            changed: BTreeSet::new(),
        };
        for (key, mut entry) in records {
            entry.closed = true;
            board.by_labels.insert(Arc::clone(&entry.labels), key);
            board.by_finding.entry(entry.finding.clone()).or_default().insert(key);
            board.entries.insert(key, entry);
            board.next = key + 1;
        }
        board
    }

    /// Takes what an alert says. Returns how many alerts had to make room.
    pub(super) fn observe(&mut self, mut notice: Notice) -> u64 {
        let siblings = self.by_finding.get(&notice.finding).cloned().unwrap_or_default();
        // The first line of a finding decides all labels but the severity: what else changes is no identity.
        if let Some(first) = siblings.first().and_then(|key| self.entries.get(key)) {
            let severity = notice.labels.get("severity").cloned();
            let mut labels = (*first.labels).clone();
            labels.extend(severity.map(|severity| ("severity".to_owned(), severity)));
            notice.labels = Arc::new(labels);
        }
        for key in siblings {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.last_ms = entry.last_ms.max(notice.last_ms);
            if notice.closes {
                entry.closed = true;
            }
            if entry.labels == notice.labels {
                entry.annotations.clone_from(&notice.annotations);
            }
            self.changed.insert(key);
        }
        match self.by_labels.get(&notice.labels) {
            Some(key) => {
                let key = *key;
                if let Some(entry) = self.entries.get_mut(&key) {
                    let before = entry.finding.clone();
                    entry.renew(&notice);
                    if entry.finding != before {
                        unlist(&mut self.by_finding, &before, key);
                        self.by_finding.entry(notice.finding).or_default().insert(key);
                    }
                    self.changed.insert(key);
                }
                0
            }
            None => self.add(notice),
        }
    }

    fn add(&mut self, notice: Notice) -> u64 {
        let mut dropped = 0;
        if self.entries.len() >= MOST {
            let weakest = self.entries.iter().min_by_key(|(_, entry)| entry.worth()).map(|(&key, _)| key);
            let is_worth_more = weakest
                .and_then(|key| self.entries.get(&key))
                .is_some_and(|entry| entry.worth() < (Standing::Open, rank(&notice.labels)));
            let Some(key) = weakest.filter(|_| is_worth_more) else { return 1 };
            dropped += u64::from(self.entries.get(&key).is_some_and(Entry::waits));
            self.remove(key);
        }
        let key = self.next;
        self.next += 1;
        let alive_ms = notice.suppress_ms.unwrap_or(self.hold_ms);
        let entry = Entry {
            finding: notice.finding,
            labels: Arc::clone(&notice.labels),
            annotations: notice.annotations,
            starts_ms: notice.starts_ms,
            last_ms: notice.last_ms,
            alive_ms,
            closed: notice.closes,
            accepted_ms: None,
            resolved_ms: None,
            resolution_accepted_ms: None,
            refused: false,
            sent_ms: None,
            suspect: false,
        };
        self.by_finding.entry(entry.finding.clone()).or_default().insert(key);
        self.entries.insert(key, entry);
        self.by_labels.insert(notice.labels, key);
        self.changed.insert(key);
        dropped
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.entries.remove(&key) {
            self.by_labels.remove(&entry.labels);
            unlist(&mut self.by_finding, &entry.finding, key);
        }
        self.changed.insert(key);
    }

    /// Resolves and forgets what is due.
    pub(super) fn advance(&mut self, now_ms: i64) {
        let hold_ms = self.hold_ms;
        let mut done = Vec::new();
        for (&key, entry) in &mut self.entries {
            if entry.refused {
                if entry.closed {
                    done.push(key);
                }
            } else if let Some(accepted_ms) = entry.resolution_accepted_ms {
                if now_ms.saturating_sub(accepted_ms) >= RESOLVED_AGAIN_MS {
                    done.push(key);
                }
            } else if entry.resolved_ms.is_none() && entry.resolves_at(hold_ms).is_some_and(|at| at <= now_ms)
            {
                entry.resolved_ms = Some(now_ms);
                entry.sent_ms = None;
                self.changed.insert(key);
            }
        }
        for key in done {
            self.remove(key);
        }
    }

    /// The next request, oldest first; `None` when nothing is due.
    pub(super) fn batch(&self, now_ms: i64) -> Option<Batch> {
        let mut said = Vec::new();
        let mut alerts = Vec::new();
        for (&key, entry) in self.entries.iter().filter(|(_, entry)| entry.is_due(now_ms, self.resend_ms)) {
            if entry.suspect && !said.is_empty() {
                break;
            }
            said.push((key, entry.resolved_ms.is_some()));
            alerts.push(entry.to_json(now_ms, self.resend_ms));
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
            match verdict {
                Verdict::Failed => continue,
                Verdict::Refused if alone => {
                    entry.refused = true;
                    outcome.refused.push(Arc::clone(&entry.labels));
                }
                Verdict::Refused => {
                    entry.suspect = true;
                    continue;
                }
                Verdict::Taken if resolved != entry.resolved_ms.is_some() => continue,
                Verdict::Taken => {
                    entry.suspect = false;
                    entry.sent_ms = Some(now_ms);
                    let first =
                        if resolved { &mut entry.resolution_accepted_ms } else { &mut entry.accepted_ms };
                    if first.is_some() {
                        continue;
                    }
                    *first = Some(now_ms);
                    outcome.delivered += 1;
                }
            }
            self.changed.insert(key);
        }
        outcome
    }

    /// When something is due next, milliseconds since 1970.
    pub(super) fn next_ms(&self) -> Option<i64> {
        let next = |entry: &Entry| {
            if entry.refused {
                return None;
            }
            let send = entry.sent_ms.map_or(0, |sent| sent.saturating_add(self.resend_ms));
            let resolve = entry.resolved_ms.is_none().then(|| entry.resolves_at(self.hold_ms)).flatten();
            Some(resolve.map_or(send, |resolve| resolve.min(send)))
        };
        self.entries.values().filter_map(next).min()
    }

    /// How many messages the instance has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.waits()).count()
    }

    /// What changed since the last call; `None` is gone.
    pub(super) fn changes(&mut self) -> Vec<(u64, Option<&Entry>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key, self.entries.get(&key))).collect()
    }
}

fn unlist(by_finding: &mut HashMap<String, BTreeSet<u64>>, finding: &str, key: u64) {
    if let Some(keys) = by_finding.get_mut(finding) {
        keys.remove(&key);
        if keys.is_empty() {
            by_finding.remove(finding);
        }
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
    fn renew(&mut self, notice: &Notice) {
        if notice.closes {
            return;
        }
        self.finding.clone_from(&notice.finding);
        self.annotations.clone_from(&notice.annotations);
        self.last_ms = self.last_ms.max(notice.last_ms);
        self.closed = false;
        if self.resolved_ms.take().is_some() {
            // It fires anew: the instance must hear of that as of any other.
            self.starts_ms = notice.starts_ms;
            self.accepted_ms = None;
            self.resolution_accepted_ms = None;
            self.sent_ms = None;
        }
    }

    /// When it is over; `None` while its finding is open or the instance has not taken it.
    fn resolves_at(&self, hold_ms: i64) -> Option<i64> {
        let accepted_ms = self.accepted_ms.filter(|_| self.closed)?;
        Some(self.last_ms.saturating_add(self.alive_ms).max(accepted_ms.saturating_add(hold_ms)))
    }

    fn is_due(&self, now_ms: i64, resend_ms: i64) -> bool {
        // A clock that was set back must not silence it.
        let is_renewed = |sent: i64| (0..resend_ms).contains(&now_ms.saturating_sub(sent));
        !self.refused && !self.sent_ms.is_some_and(is_renewed)
    }

    const fn waits(&self) -> bool {
        !self.refused
            && (self.accepted_ms.is_none()
                || (self.resolved_ms.is_some() && self.resolution_accepted_ms.is_none()))
    }

    fn worth(&self) -> (Standing, u8) {
        let is_done = self.refused || self.resolution_accepted_ms.is_some();
        (if is_done { Standing::Done } else { Standing::Open }, rank(&self.labels))
    }

    fn to_json(&self, now_ms: i64, resend_ms: i64) -> Value {
        let life_ms = resend_ms.saturating_mul(MISSED_PUSHES).max(LEAST_LIFE_MS);
        let ends_ms = self.resolved_ms.unwrap_or_else(|| now_ms.saturating_add(life_ms));
        json!({
            "labels": *self.labels,
            "annotations": as_map(&self.annotations),
            // An end before the start is refused; a clock that was set back would make one.
            "startsAt": rfc3339(self.starts_ms.min(ends_ms)),
            "endsAt": rfc3339(ends_ms),
        })
    }
}

/// Labels in the spool: a map.
mod shared {
    use std::{collections::BTreeMap, sync::Arc};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(labels: &super::Labels, to: S) -> Result<S::Ok, S::Error> {
        labels.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<super::Labels, D::Error> {
        BTreeMap::deserialize(from).map(Arc::new)
    }
}

/// Annotations in the spool: a map, too.
mod text {
    use std::{collections::BTreeMap, sync::Arc};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(annotations: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        super::as_map(annotations).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        BTreeMap::deserialize(from).map(|map| super::as_text(&map))
    }
}

/// Place of a severity, lowest first.
fn rank(labels: &BTreeMap<String, String>) -> u8 {
    let severity = labels.get("severity").map_or("", String::as_str);
    let place = crate::rules::Severity::ALL.iter().position(|known| known.as_str() == severity);
    place.map_or(0, |place| u8::try_from(place).unwrap_or(u8::MAX))
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
