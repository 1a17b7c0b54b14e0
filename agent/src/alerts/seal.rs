//! Keys that seal the lines of the alert log and cannot seal an earlier one: who takes the agent's key today can add
//! lines, but neither change those that are there nor make one that is dated back.
//!
//! A key's number is the line's number since the key was made plus the minutes since then, so it grows with each line
//! and with time. A key is `HMAC-SHA256(the one before, "evolve")`, and the one before is overwritten. Only the seed,
//! which is taken off the host when it is made, gives all of them. The file with the current key is the agent's business
//! (`pipeline`); this is pure.

use ring::hmac;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::chain::{hex, unhex};

/// A minute, in the milliseconds of a line's `time`.
const MINUTE: i64 = 60_000;
/// Steps of time that one line may make, about two years: a clock that was set to the year 3000 must not cost minutes of
/// computing. The verifier knows this limit too.
const MOST_MINUTES: u64 = 1 << 20;

/// The key for the next line.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealKey {
    schema: u32,
    /// When it was made, milliseconds since 1970.
    born_ms: i64,
    /// The last line before it was made.
    base: u64,
    number: u64,
    minutes: u64,
    /// Hex.
    key: Zeroizing<String>,
    /// The last line that was sealed, and its hash: a log that ends before it was cut.
    pub last: u64,
    pub last_hash: String,
}

/// Where all keys come from. It belongs off the host.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    schema: u32,
    born_ms: i64,
    base: u64,
    seed: Zeroizing<String>,
}

/// What seals one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) epoch: u64,
    pub(super) mac: [u8; 32],
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("SealKey").field("number", &self.number).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Seed {
    /// A seed of random bytes, for the lines after `base`.
    #[must_use]
    pub fn new(mut random: [u8; 32], born_ms: i64, base: u64) -> Self {
        let seed = Zeroizing::new(hex(&random));
        random.zeroize();
        Self { schema: 1, born_ms, base, seed }
    }

    /// The first key.
    #[must_use]
    pub fn key(&self) -> SealKey {
        SealKey {
            schema: 1,
            born_ms: self.born_ms,
            base: self.base,
            number: 0,
            minutes: 0,
            key: Zeroizing::new(hex(&derive(&bytes(&self.seed), b"weighbridge alert log 1"))),
            last: self.base,
            last_hash: String::new(),
        }
    }

    /// Whether it is one: what was read is of somebody's making.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.schema == 1 && unhex(&self.seed).is_some() && self.born_ms >= 0
    }
}

impl SealKey {
    /// Whether it is one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.schema == 1 && unhex(&self.key).is_some() && self.born_ms >= 0 && self.last >= self.base
    }

    /// Grows with each line and with time.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Time passed: the keys of the minutes that are over are gone.
    pub fn pass(&mut self, time_ms: i64) {
        let passed = self.due(time_ms) - self.minutes;
        self.minutes += passed;
        self.evolve(self.number.saturating_add(passed));
    }

    /// Seals a line. Lines of a log that was cut get a later key than is due, so that the cut shows.
    pub(super) fn seal(&mut self, seq: u64, time_ms: i64) -> Sealing {
        let epoch = self.epoch_of(seq, self.due(time_ms)).max(self.number.saturating_add(1));
        self.minutes = self.due(time_ms);
        self.evolve(epoch);
        Sealing { epoch, key: Zeroizing::new(bytes(&self.key)) }
    }

    /// The line that was sealed is this one.
    pub(super) fn sealed(&mut self, seq: u64, hash: &[u8; 32]) {
        (self.last, self.last_hash) = (seq, hex(hash));
    }

    /// The minutes that a line of this time must have: they never fall, and grow by a limited amount at once.
    fn due(&self, time_ms: i64) -> u64 {
        minutes_due(self.born_ms, self.minutes, time_ms)
    }

    fn epoch_of(&self, seq: u64, minutes: u64) -> u64 {
        seq.saturating_sub(self.base).saturating_add(minutes)
    }

    fn evolve(&mut self, number: u64) {
        if number <= self.number {
            return;
        }
        let mut key = Zeroizing::new(bytes(&self.key));
        while self.number < number {
            *key = derive(&key, b"evolve");
            self.number += 1;
        }
        self.key = Zeroizing::new(hex(&key[..]));
    }
}

/// The key of one line, until its hash is known.
pub(super) struct Sealing {
    pub(super) epoch: u64,
    key: Zeroizing<[u8; 32]>,
}

impl Sealing {
    pub(super) fn mark(&self, hash: &[u8; 32]) -> Mark {
        Mark { epoch: self.epoch, mac: derive(&self.key, hash) }
    }
}

/// Checks the marks of lines in order, as far as the seed goes back.
pub(super) struct Checker {
    key: SealKey,
    /// No line was checked yet: how many minutes had passed before it is not known.
    first: bool,
}

/// What is wrong with a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Missing,
    /// The key is not the one that the line's number and time demand.
    Epoch,
    Mac,
}

impl Checker {
    pub(super) fn new(seed: &Seed) -> Self {
        Self { key: seed.key(), first: true }
    }

    pub(super) fn check(
        &mut self,
        seq: u64,
        time_ms: i64,
        hash: &[u8; 32],
        mark: Option<Mark>,
    ) -> Result<(), Flaw> {
        if seq <= self.key.base {
            return Ok(());
        }
        let mark = mark.ok_or(Flaw::Missing)?;
        let due = self.key.due(time_ms);
        let minutes = mark.epoch.checked_sub(seq - self.key.base).ok_or(Flaw::Epoch)?;
        // The first line of a file that does not start at the seed may follow others of a later time.
        let is_later = self.first && seq > self.key.base + 1 && minutes > due;
        if minutes != due && !is_later {
            return Err(Flaw::Epoch);
        }
        // Nobody can make this compute for longer than time has passed.
        if minutes.saturating_sub(self.key.minutes) > MOST_MINUTES {
            return Err(Flaw::Epoch);
        }
        self.first = false;
        self.key.minutes = minutes;
        self.key.evolve(mark.epoch);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes(&self.key.key));
        hmac::verify(&key, hash, &mark.mac).map_err(|_| Flaw::Mac)
    }
}

fn minutes_due(born_ms: i64, before: u64, time_ms: i64) -> u64 {
    let passed = time_ms.saturating_sub(born_ms).max(0) / MINUTE;
    let passed = u64::try_from(passed).unwrap_or(0);
    passed.clamp(before, before.saturating_add(MOST_MINUTES))
}

fn derive(key: &[u8; 32], label: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), label);
    let mut next = [0; 32];
    next.copy_from_slice(tag.as_ref());
    next
}

/// Zeros where it is no hex, which [`SealKey::is_sound`] has ruled out.
fn bytes(text: &str) -> [u8; 32] {
    unhex(text).unwrap_or_default()
}
