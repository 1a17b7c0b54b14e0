//! A sum of bytes over a sliding window of time. It must not know whose bytes they are, nor any clock: time is what the
//! caller says.

use std::{collections::VecDeque, time::Duration};

use crate::event::BootNs;

/// Buckets of one window. Durations are whole milliseconds, and 32 divides a million nanoseconds, so that the buckets
/// are exactly as long as the window.
const BUCKETS: u64 = 32;

/// Covers at least `over` and less than `over` plus one bucket: it may count a byte for one bucket too long and never
/// loses one early. Memory is bounded by [`BUCKETS`] + 1 entries, however many bytes are added.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Length of a bucket in ns.
    bucket: u64,
    /// Index (time / length) and bytes of the buckets that have any, oldest first.
    buckets: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Window {
    pub(crate) fn new(over: Duration) -> Self {
        let over = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
        Self { bucket: over.div_ceil(BUCKETS).max(1), buckets: VecDeque::new(), sum: 0 }
    }

    /// Adds bytes. What comes late (the kernel's queues are drained one after the other) goes into the newest bucket: it
    /// is then counted for longer than it should, never for shorter.
    pub(crate) fn add(&mut self, at: BootNs, bytes: u64) {
        let index = at.0 / self.bucket;
        match self.buckets.back_mut() {
            Some((newest, sum)) if *newest >= index => *sum = sum.saturating_add(bytes),
            _ => self.buckets.push_back((index, bytes)),
        }
        self.sum = self.sum.saturating_add(bytes);
        self.forget(at);
    }

    /// The sum at a time.
    pub(crate) fn sum(&mut self, now: BootNs) -> u64 {
        self.forget(now);
        self.sum
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn forget(&mut self, now: BootNs) {
        let oldest = (now.0 / self.bucket).saturating_sub(BUCKETS);
        if self.buckets.front().is_none_or(|(index, _)| *index >= oldest) {
            return;
        }
        while self.buckets.front().is_some_and(|(index, _)| *index < oldest) {
            self.buckets.pop_front();
        }
        // Summed anew instead of subtracted, for a sum that was saturated cannot be taken back.
        self.sum = self.buckets.iter().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
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
                prop_assert!(window.buckets.len() as u64 <= BUCKETS + 1);
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
