//! How long to wait after failures: twice as long each time, up to a quarter of a minute, never quite the same on two
//! hosts. Knows no transport.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    pause: Option<Duration>,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn failed(&mut self) {
        let pause = self.pause.map_or(FIRST, |pause| (pause * 2).min(LONGEST));
        self.pause = Some(pause);
        // A fleet whose server came back must not come all at once; the clock's last digits are random enough.
        let digits = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_micros() % 256;
        self.until = Some(Instant::now() + pause * (205 + digits / 5) / 256);
    }

    pub(super) const fn succeeded(&mut self) {
        (self.pause, self.until) = (None, None);
    }

    /// What is left of the pause.
    pub(super) fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_end_with_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_over());
        let mut before = Duration::ZERO;
        for _ in 0..20 {
            backoff.failed();
            let left = backoff.left();
            assert!(left > before / 2 && left <= LONGEST, "{left:?} after {before:?}");
            before = left;
        }
        assert!(before > LONGEST / 2, "{before:?}");
        backoff.succeeded();
        assert!(backoff.is_over());
    }
}
