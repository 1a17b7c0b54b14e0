//! How full the ring of facts was at most, for several who scrape at their own pace: a high-water mark that one of them resets
//! would be hidden from the others, so it stands for a minute at least and for two at most.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::Gauge;

const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct RingFill {
    gauge: Gauge,
    marks: Mutex<Marks>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// Of the minute before, and of this one.
    before: f64,
    now: f64,
    since: Option<Instant>,
}

impl Marks {
    fn at(&mut self, now: Instant) {
        let passed = self.since.map_or(EVERY * 2, |since| now.saturating_duration_since(since));
        if passed >= EVERY {
            *self =
                Self { before: if passed < EVERY * 2 { self.now } else { 0.0 }, now: 0.0, since: Some(now) };
        }
    }
}

impl RingFill {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, marks: Mutex::default() }
    }

    pub(super) fn see(&self, ratio: f64, now: Instant) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.at(now);
        marks.now = marks.now.max(ratio.clamp(0.0, 1.0));
    }

    /// Brings the gauge up to date.
    pub(super) fn show(&self, now: Instant) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.at(now);
        self.gauge.set(marks.before.max(marks.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_for_a_minute_or_two() {
        let fill = RingFill::new(Gauge::new("x", "x").unwrap());
        let start = Instant::now();
        let shown = |seconds| {
            fill.show(start + Duration::from_secs(seconds));
            fill.gauge.get()
        };
        assert!(shown(0).abs() < f64::EPSILON);
        fill.see(0.5, start + Duration::from_secs(1));
        fill.see(0.25, start + Duration::from_secs(2));
        for seconds in [2, 3, 61, 119] {
            assert!((shown(seconds) - 0.5).abs() < f64::EPSILON, "{seconds}");
        }
        assert!(shown(130).abs() < f64::EPSILON);
        fill.see(7.0, start + Duration::from_secs(131));
        assert!((shown(131) - 1.0).abs() < f64::EPSILON);
        assert!(shown(1000).abs() < f64::EPSILON);
    }
}
