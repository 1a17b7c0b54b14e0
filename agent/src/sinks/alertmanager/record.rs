//! One alert as the spool keeps it: what is said of it, and when. What comes of time passing is the board's business.

use std::{collections::BTreeMap, sync::Arc};

use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::notice::{as_map, as_text};

/// The least time from a push to the alert's end, if no other push follows: Alertmanager's own `resolve_timeout`.
pub(super) const LEAST_LIFE_MS: i64 = 5 * 60 * 1000;
/// Pushes that may fail in a row before an alert that was not renewed ends.
const MISSED_PUSHES: i64 = 5;

pub(super) const SEVERITY: &str = "severity";

/// Of an alert: its identity.
type Labels = Arc<BTreeMap<String, String>>;

/// What is said of one severity of one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Words {
    /// `finding_info.uid` of the finding that it belongs to now.
    pub(super) finding: String,
    #[serde(with = "shared")]
    pub(super) labels: Labels,
    #[serde(with = "text")]
    pub(super) annotations: Arc<str>,
}

/// When what was and is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Times {
    pub(super) starts_ms: i64,
    pub(super) last_ms: i64,
    /// How long it fires after the last match.
    pub(super) alive_ms: i64,
    /// Its finding is.
    pub(super) closed: bool,
    /// When the instance first took it as firing.
    pub(super) accepted_ms: Option<i64>,
    /// When it was resolved, and when the instance took that.
    pub(super) resolved_ms: Option<i64>,
    pub(super) resolution_accepted_ms: Option<i64>,
    /// The instance refused its content: it is not sent any more.
    pub(super) refused: bool,
}

/// One severity of one finding, as the spool keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) words: Words,
    #[serde(flatten)]
    pub(super) times: Times,
}

/// Half of a SHA-256: nobody finds two texts with one print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Print(u128);

impl Times {
    /// When it is over; `None` while its finding is open or the instance has not taken it.
    pub(super) fn resolves_at(&self, hold_ms: i64) -> Option<i64> {
        let accepted_ms = self.accepted_ms.filter(|_| self.closed)?;
        Some(self.last_ms.saturating_add(self.alive_ms).max(accepted_ms.saturating_add(hold_ms)))
    }

    pub(super) fn to_json(self, words: &Words, now_ms: i64, resend_ms: i64) -> Value {
        let life_ms = resend_ms.saturating_mul(MISSED_PUSHES).max(LEAST_LIFE_MS);
        let ends_ms = self.resolved_ms.unwrap_or_else(|| now_ms.saturating_add(life_ms));
        json!({
            "labels": *words.labels,
            "annotations": as_map(&words.annotations),
            // An end before the start is refused; a clock that was set back would make one.
            "startsAt": rfc3339(self.starts_ms.min(ends_ms)),
            "endsAt": rfc3339(ends_ms),
        })
    }
}

impl Print {
    pub(super) fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for text in texts {
            // With its length, so that two texts are never one.
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
        let mut half = [0; 16];
        half.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(u128::from_le_bytes(half))
    }

    pub(super) fn with(self, text: &str) -> Self {
        Self::of([format!("{:032x}", self.0).as_str(), text])
    }
}

/// The print of labels but the severity.
pub(super) fn others(labels: &BTreeMap<String, String>) -> Print {
    let others = labels.iter().filter(|(name, _)| *name != SEVERITY);
    Print::of(others.flat_map(|(name, value)| [name.as_str(), value.as_str()]))
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
pub(super) fn rank(severity: &str) -> u8 {
    let place = crate::rules::Severity::ALL.iter().position(|known| known.as_str() == severity);
    place.map_or(0, |place| u8::try_from(place).unwrap_or(u8::MAX))
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}
