//! A time line that goes on over reboots. It must not know what is dated by it.

use serde::{Deserialize, Serialize};

use crate::event::BootNs;

/// When something was saved, by every clock that there is, and the time line that goes on over reboots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The kernel's random id of the boot.
    pub boot: String,
    /// ns since that boot.
    pub now: BootNs,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: i64,
    /// Where this boot began on the time line, ns.
    pub base: u64,
}

impl Clock {
    /// This clock, on the time line of an earlier one.
    ///
    /// In one boot nothing changes, whatever the wall clock was set to. Over a reboot only the wall clock knows how long it
    /// took, and it can be set: one that went back says that no time passed but what the new boot has lasted, so that nothing
    /// leaves a window too early.
    #[must_use]
    pub fn following(mut self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        if earlier.boot == self.boot {
            self.base = earlier.base;
            return self;
        }
        let passed = u64::try_from(self.wall_ms.saturating_sub(earlier.wall_ms)).unwrap_or(0);
        let passed = passed.saturating_mul(1_000_000).max(self.now.0);
        self.base = earlier.line(earlier.now).saturating_add(passed).saturating_sub(self.now.0);
        self
    }

    /// `at` on the time line.
    #[must_use]
    pub const fn line(&self, at: BootNs) -> u64 {
        self.base.saturating_add(at.0)
    }

    /// The time of this boot that `line` is on the time line; its begin for what was before it.
    #[must_use]
    pub const fn boot_time(&self, line: u64) -> BootNs {
        BootNs(line.saturating_sub(self.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_steps_back_reopens_no_window() {
        const HOUR: u64 = 3_600_000_000_000;
        let clock = |boot: &str, now, wall_hours: i64| Clock {
            boot: boot.to_owned(),
            now: BootNs(now * HOUR),
            wall_ms: wall_hours * 3_600_000,
            base: 0,
        };
        let saved = clock("b1", 100, 1000);
        let at = saved.line(BootNs(99 * HOUR));
        let age = |now: Clock| (now.line(now.now) - at) / HOUR;
        // The same boot: the wall clock does not matter.
        assert_eq!(age(clock("b1", 101, 5).following(Some(&saved))), 2);
        // A reboot: five hours passed, of which the new boot has lasted four.
        let next = clock("b2", 4, 1005).following(Some(&saved));
        assert_eq!((age(next.clone()), next.boot_time(at)), (6, BootNs(0)));
        assert_eq!(next.boot_time(next.line(BootNs(3 * HOUR))), BootNs(3 * HOUR));
        // Set back over the reboot: as if no more time had passed than the new boot has lasted.
        assert_eq!(age(clock("b2", 4, 10).following(Some(&saved))), 5);
        // And once more: the time line goes on.
        assert_eq!(age(clock("b3", 1, 1010).following(Some(&next))), 11);
    }
}
