//! What one sink, or one instance of it, says of itself: counts, and what stands in its way. Knows no transport.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::Counts;

/// Why a sink does not deliver at the moment.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When the first attempt failed.
    pub since: Instant,
    /// What the last attempt failed with, and the remedy.
    pub why: String,
}

/// Shared between a sink's thread and whoever asks.
#[derive(Debug, Default)]
pub(super) struct Status {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    waiting: AtomicU64,
    /// Delivering, or keeping what cannot be delivered: two things that can be wrong at once.
    delivery: Mutex<Option<Trouble>>,
    spool: Mutex<Option<Trouble>>,
}

impl Status {
    pub(super) fn add_sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set_waiting(&self, count: usize) {
        self.waiting.store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            backlog: self.waiting.load(Ordering::Relaxed),
            failing: u64::from(self.trouble().is_some()),
        }
    }

    /// An attempt to deliver ended; `None` is success.
    pub(super) fn set_delivery(&self, why: Option<String>) {
        set(&mut lock(&self.delivery), why);
    }

    /// The same of the spool.
    pub(super) fn set_spool(&self, why: Option<String>) {
        set(&mut lock(&self.spool), why);
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        lock(&self.delivery).clone().or_else(|| lock(&self.spool).clone())
    }
}

fn set(slot: &mut Option<Trouble>, why: Option<String>) {
    let since = slot.as_ref().map_or_else(Instant::now, |trouble| trouble.since);
    *slot = why.map(|why| Trouble { since, why });
}

fn lock(slot: &Mutex<Option<Trouble>>) -> MutexGuard<'_, Option<Trouble>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
