//! A sum, or a number of different values, over a sliding window of time. It must not know whose bytes they are, nor any clock: time is what the
//! caller says.

use std::{collections::HashMap, time::Duration};

use crate::event::BootNs;

/// Buckets of one window. Durations are whole milliseconds, and 32 divides a million nanoseconds, so that the buckets
/// are exactly as long as the window.
const BUCKETS: u64 = 32;

/// Added to every time, so that what an earlier boot of this host saw has a place before this one's zero. A multiple of
/// every length of a bucket that is a whole number of seconds.
const BEFORE_BOOT: u64 = 400 * 86_400 * 1_000_000_000;

/// Most values that one window tells apart.
pub(crate) const MAX_DISTINCT: usize = 4096;

/// Covers at least `over` and less than `over` plus one bucket: it may count a byte for one bucket too long and never
/// loses one early. Memory is bounded by [`BUCKETS`] + 1 entries, however many bytes are added.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Length of a bucket in ns.
    bucket: u64,
    /// Index (time / length) of the newest bucket that anything was added to.
    newest: u64,
    /// The buckets that anything was added to: bit n stands for the one that is n before the newest.
    present: u64,
    /// What was added to each of these, oldest first.
    sums: Vec<u64>,
    sum: u64,
}

impl Window {
    pub(crate) fn new(over: Duration) -> Self {
        let over = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
        Self { bucket: over.div_ceil(BUCKETS).max(1), newest: 0, present: 0, sums: Vec::new(), sum: 0 }
    }

    /// Adds bytes. What comes late (the kernel's queues are drained one after the other) goes into the newest bucket: it
    /// is then counted for longer than it should, never for shorter.
    pub(crate) fn add(&mut self, at: BootNs, bytes: u64) {
        let index = self.index(at);
        self.put(index, bytes);
        self.forget(index);
    }

    /// The sum at a time.
    pub(crate) fn sum(&mut self, now: BootNs) -> u64 {
        self.forget(self.index(now));
        self.sum
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Its buckets, oldest first: the last nanosecond of each, on the clock of this boot (below zero: before it), and
    /// the sum.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (i64, u64)> {
        let places = (0..=BUCKETS).rev().filter(|before| self.present >> before & 1 == 1);
        places.zip(&self.sums).map(|(before, sum)| {
            let index = self.newest.saturating_sub(before);
            let end = index.saturating_add(1).saturating_mul(self.bucket).saturating_sub(1);
            (end.cast_signed().saturating_sub(BEFORE_BOOT.cast_signed()), *sum)
        })
    }

    /// Puts an entry of [`Window::entries`] back, entries oldest first. Nothing is later than `now`, so that a clock that
    /// stepped back keeps no byte for ever.
    pub(crate) fn restore(&mut self, end: i64, sum: u64, now: BootNs) {
        let shifted = end.saturating_add(BEFORE_BOOT.cast_signed());
        // So long ago that no window reaches it.
        let Ok(shifted) = u64::try_from(shifted) else { return };
        let now = self.index(now);
        self.put((shifted / self.bucket).min(now), sum);
        self.forget(now);
    }

    /// Adds to a bucket, or to the newest if that is later.
    fn put(&mut self, index: u64, bytes: u64) {
        if self.is_empty() {
            self.newest = index;
        }
        let ahead = index.saturating_sub(self.newest);
        match self.sums.last_mut() {
            Some(last) if ahead == 0 => *last = last.saturating_add(bytes),
            _ => {
                self.forget(index);
                // What is as far ahead as a number has bits leaves nothing behind it.
                let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
                self.present = self.present.checked_shl(ahead).unwrap_or(0) | 1;
                self.newest = index;
                self.make_room();
                self.sums.push(bytes);
            }
        }
        self.sum = self.sum.saturating_add(bytes);
    }

    /// For one more; for exactly as many as there can be at the end, where doubling would take half as many again.
    fn make_room(&mut self) {
        const MOST: usize = BUCKETS as usize + 1;
        if self.sums.len() == self.sums.capacity() {
            self.sums.reserve_exact(self.sums.len().min(MOST.saturating_sub(self.sums.len())).max(1));
        }
    }

    const fn index(&self, at: BootNs) -> u64 {
        at.0.saturating_add(BEFORE_BOOT) / self.bucket
    }

    /// Forgets what is too old when `now` is the index of the time.
    fn forget(&mut self, now: u64) {
        let Some(most) = BUCKETS.checked_sub(now.saturating_sub(self.newest)) else {
            self.present = 0;
            self.sums.clear();
            self.sum = 0;
            return;
        };
        let kept = self.present & ((2 << most) - 1);
        if kept == self.present {
            return;
        }
        self.sums.drain(..(self.present & !kept).count_ones() as usize);
        self.present = kept;
        // Summed anew instead of subtracted, for a sum that was saturated cannot be taken back.
        self.sum = self.sums.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    }
}

/// The different values that were seen within `over`. When it is full the oldest makes room: the number stays at
/// [`MAX_DISTINCT`], above every line that a rule can have.
#[derive(Clone, Debug)]
pub(crate) struct Distinct {
    over: u64,
    seen: HashMap<String, BootNs>,
}

impl Distinct {
    pub(crate) fn new(over: Duration) -> Self {
        Self { over: u64::try_from(over.as_nanos()).unwrap_or(u64::MAX), seen: HashMap::new() }
    }

    pub(crate) fn add(&mut self, at: BootNs, value: &str) {
        if let Some(last) = self.seen.get_mut(value) {
            *last = at.max(*last);
            return;
        }
        if self.seen.len() >= MAX_DISTINCT
            && let Some(oldest) =
                self.seen.iter().min_by_key(|(_, last)| **last).map(|(value, _)| value.clone())
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(value.to_owned(), at);
    }

    /// How many there are at a time.
    pub(crate) fn count(&mut self, now: BootNs) -> u64 {
        self.seen.retain(|_, last| now.0.saturating_sub(last.0) <= self.over);
        self.seen.len() as u64
    }

    /// The values, with when each was seen last.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, BootNs)> {
        self.seen.iter().map(|(value, last)| (value.as_str(), *last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_leave_after_the_window_and_within_one_bucket() {
        let over = Duration::from_secs(32);
        let second = |s: u64| BootNs(s * 1_000_000_000);
        let mut window = Window::new(over);
        window.add(second(100), 7);
        assert_eq!(window.sum(second(132)), 7);
        assert_eq!(window.sum(second(133)), 0);
        assert!(window.is_empty());
    }

    #[test]
    fn a_saturated_sum_recovers() {
        let mut window = Window::new(Duration::from_millis(32));
        window.add(BootNs(0), u64::MAX);
        window.add(BootNs(10_000_000), 5);
        assert_eq!(window.sum(BootNs(10_000_000)), u64::MAX);
        assert_eq!(window.sum(BootNs(40_000_000)), 5);
    }

    #[test]
    fn a_window_comes_back_as_it_was_and_nothing_comes_from_the_future() {
        let second = |s: u64| BootNs(s * 1_000_000_000);
        let mut before = Window::new(Duration::from_secs(32));
        before.add(second(100), 7);
        before.add(second(110), 5);
        let mut after = Window::new(Duration::from_secs(32));
        for (end, sum) in before.entries() {
            after.restore(end, sum, second(120));
        }
        for at in [120, 132, 133, 142, 143] {
            assert_eq!(after.sum(second(at)), before.sum(second(at)), "at {at}");
        }
        // Seen by an earlier boot: what its clock called 130 s is zero on ours.
        let mut before = Window::new(Duration::from_secs(32));
        before.add(second(100), 7);
        let mut after = Window::new(Duration::from_secs(32));
        for (end, sum) in before.entries() {
            after.restore(end - 130 * 1_000_000_000, sum, second(1));
        }
        assert_eq!((after.sum(second(2)), after.sum(second(3))), (7, 0));
        let mut future = Window::new(Duration::from_secs(32));
        future.restore(1_000_000_000_000, 7, second(100));
        assert_eq!((future.sum(second(132)), future.sum(second(133))), (7, 0));
    }

    #[test]
    fn distinct_values_leave_after_the_window_and_are_bounded() {
        let mut distinct = Distinct::new(Duration::from_nanos(10));
        for (at, value) in [(0, "a"), (5, "b"), (6, "a")] {
            distinct.add(BootNs(at), value);
        }
        assert_eq!(
            (distinct.count(BootNs(15)), distinct.count(BootNs(16)), distinct.count(BootNs(17))),
            (2, 1, 0)
        );
        for n in 0..=MAX_DISTINCT {
            distinct.add(BootNs(20), &n.to_string());
        }
        assert_eq!(distinct.count(BootNs(20)), MAX_DISTINCT as u64);
    }

    /// The sum of what was added in `(now - length, now]`.
    fn reference(added: &[(u64, u64)], now: u64, length: u64) -> u64 {
        added.iter().filter(|(at, _)| *at <= now && at + length > now).map(|(_, bytes)| bytes).sum()
    }

    proptest! {
        #[test]
        fn a_window_covers_what_it_should_and_at_most_a_bucket_more(
            over_ms in 1u64..100_000,
            start in 0u64..1_000_000_000_000,
            steps in prop::collection::vec((0u64..40_000_000_000, 0u64..1_000_000, any::<bool>()), 1..200),
        ) {
            let over = over_ms * 1_000_000;
            let mut window = Window::new(Duration::from_millis(over_ms));
            let (mut now, mut added) = (start, Vec::new());
            for (step, bytes, quick) in steps {
                // Some steps are within a bucket, others skip whole windows.
                now += if quick { step % (over / 8 + 1) } else { step };
                window.add(BootNs(now), bytes);
                added.push((now, bytes));
                let sum = window.sum(BootNs(now));
                prop_assert!(sum >= reference(&added, now, over));
                prop_assert!(sum <= reference(&added, now, over + window.bucket));
                prop_assert!(window.sums.len() as u64 <= BUCKETS + 1);
            }
        }

        #[test]
        fn late_bytes_are_never_undercounted(
            steps in prop::collection::vec((0u64..2_000_000, 0u64..3_000_000, 1u64..1_000), 1..200),
        ) {
            let over = 32_000_000;
            let mut window = Window::new(Duration::from_millis(32));
            let (mut now, mut added) = (0, Vec::new());
            for (step, late, bytes) in steps {
                now += step;
                let at = u64::saturating_sub(now, late);
                window.add(BootNs(at), bytes);
                added.push((at, bytes));
                prop_assert!(window.sum(BootNs(now)) >= reference(&added, now, over));
            }
        }
    }
}
