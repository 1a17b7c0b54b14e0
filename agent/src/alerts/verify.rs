//! Checks an alert log line by line: numbers, hashes, seals, anchors. Names the first line that does not fit.
//!
//! What it reads may be of an attacker's making. Without a seed it finds what was changed by somebody who did not make
//! all later hashes anew; with the seed, what was changed by anybody; with an anchor, also a tail that is gone.

use super::{
    chain::{self, Head, Line},
    seal::{Checker, Flaw, Seed},
};

/// Why a chain does not hold. Lines count from 1, over all files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error(
        "line {line} of the alert log is not a chained alert: restore it from a copy, or start a new log"
    )]
    Unreadable { line: usize },
    #[error(
        "line {line} of the alert log has number {found} where {expected} is due: lines are missing or were put in"
    )]
    Sequence { line: usize, expected: u64, found: u64 },
    #[error("line {line} of the alert log does not match its hash: it, or a line before it, was changed")]
    Hash { line: usize },
    #[error("line {line} of the alert log has no seal: it was put in, or sealing was switched off")]
    Unsealed { line: usize },
    #[error(
        "line {line} of the alert log has a seal that is not of this seed: it was written by somebody else"
    )]
    Seal { line: usize },
    #[error(
        "line {line} of the alert log is sealed with the key of another time: it was written later than it says, the \
         clock was set back, or lines before it are missing"
    )]
    Epoch { line: usize },
    #[error(
        "line {line} of the alert log is number {seq} and has another hash than the anchor: the log was made anew"
    )]
    Anchor { line: usize, seq: u64 },
    #[error(
        "the alert log ends with number {last}, and the anchor says that there was number {seq}: its end was cut off"
    )]
    Cut { last: u64, seq: u64 },
    #[error(
        "the alert log starts with number {first}, and the anchor is number {seq}: give the older files first"
    )]
    Late { first: u64, seq: u64 },
}

/// Takes lines in order.
pub struct Verifier {
    head: Head,
    lines: usize,
    checker: Option<Checker>,
    sealed: u64,
    /// Not met yet.
    anchors: Vec<Head>,
    first: Option<u64>,
}

/// What a log that holds has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    pub lines: usize,
    pub head: Head,
    /// Lines whose seal was checked.
    pub sealed: u64,
    /// Whether an anchor vouches for the last line: else a tail that was cut off would not show.
    pub anchored: bool,
}

impl Verifier {
    /// From the beginning of a log, or from behind the anchor that comes right before its first line.
    #[must_use]
    pub fn new(seed: Option<&Seed>, anchors: Vec<Head>) -> Self {
        Self {
            head: Head::default(),
            lines: 0,
            checker: seed.map(Checker::new),
            sealed: 0,
            anchors,
            first: None,
        }
    }

    /// From behind a line that is known.
    #[must_use]
    pub const fn after(start: Head) -> Self {
        Self { head: start, lines: 0, checker: None, sealed: 0, anchors: Vec::new(), first: None }
    }

    /// Takes the next line, without its line feed.
    ///
    /// # Errors
    /// When it does not follow from those before it.
    pub fn line(&mut self, text: &str) -> Result<(), Broken> {
        self.lines += 1;
        let line = self.lines;
        let found = chain::parse(text).ok_or(Broken::Unreadable { line })?;
        let Line { head, mark, time_ms } = found;
        if self.first.is_none()
            && let Some(start) =
                self.anchors.iter().find(|anchor| anchor.seq.checked_add(1) == Some(head.seq))
        {
            self.head = *start;
            self.anchors.retain(|anchor| anchor.seq != self.head.seq);
        }
        let expected = self.head.seq.saturating_add(1);
        if head.seq != expected {
            return Err(Broken::Sequence { line, expected, found: head.seq });
        }
        self.first.get_or_insert(head.seq);
        if !chain::follows(text, self.head.hash, &found) {
            return Err(Broken::Hash { line });
        }
        if let Some(checker) = &mut self.checker {
            checker.check(head.seq, time_ms, &head.hash, mark).map_err(|flaw| match flaw {
                Flaw::Missing => Broken::Unsealed { line },
                Flaw::Epoch => Broken::Epoch { line },
                Flaw::Mac => Broken::Seal { line },
            })?;
            self.sealed += u64::from(mark.is_some());
        }
        if self.anchors.iter().any(|anchor| anchor.seq == head.seq && anchor.hash != head.hash) {
            return Err(Broken::Anchor { line, seq: head.seq });
        }
        self.head = head;
        Ok(())
    }

    /// There are no more lines.
    ///
    /// # Errors
    /// When an anchor says that there were, or that it comes before the first.
    pub fn end(self) -> Result<Verified, Broken> {
        let first = self.first.unwrap_or(0);
        if let Some(anchor) = self.anchors.iter().find(|anchor| anchor.seq > self.head.seq) {
            return Err(Broken::Cut { last: self.head.seq, seq: anchor.seq });
        }
        if let Some(anchor) = self.anchors.iter().find(|anchor| anchor.seq < first) {
            return Err(Broken::Late { first, seq: anchor.seq });
        }
        Ok(Verified {
            lines: self.lines,
            head: self.head,
            sealed: self.sealed,
            anchored: self.anchors.iter().any(|anchor| anchor.seq == self.head.seq),
        })
    }
}

/// Checks lines in order, from the line after `start` on, and returns where they end.
///
/// # Errors
/// [`Broken`] names the first line that does not follow from those before it; lines count from 1.
pub fn verify<'a>(start: Head, lines: impl IntoIterator<Item = &'a str>) -> Result<Head, Broken> {
    let mut verifier = Verifier::after(start);
    for line in lines {
        verifier.line(line)?;
    }
    verifier.end().map(|verified| verified.head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        alerts::{
            Alerts, Context, SealKey,
            fixtures::{context, matched},
        },
        event::{BootNs, Loss},
        rules::Severity,
    };

    const SECOND: u64 = 1_000_000_000;

    fn seed(base: u64) -> Seed {
        Seed::new([9; 32], context().boot_wall_ms, base)
    }

    /// Lines at these seconds since boot, and the key that is left when they are written.
    fn write(key: Option<SealKey>, head: Head, seconds: &[u64]) -> (Vec<String>, Option<SealKey>, Head) {
        let mut alerts = Alerts::new(Context { key, head, ..context() });
        let mut lines = Vec::new();
        for (n, &at) in seconds.iter().enumerate() {
            let mut one = matched(Severity::Low, 1 << 20, at * SECOND);
            // A name that tries to look like the seal.
            one.group[0].1 = format!(r#"{}-{n}","mac":"","hash":"","x":""#, head.seq);
            for alert in alerts.observe(&one, BootNs(at * SECOND), &Loss::new()) {
                lines.push(String::from_utf8(alert.line.to_vec()).unwrap().trim_end().to_owned());
            }
        }
        let now = BootNs(seconds.last().copied().unwrap_or(0) * SECOND);
        let head = alerts.head();
        (lines, alerts.key(now).cloned(), head)
    }

    fn verify_all(lines: &[String], seed: Option<&Seed>, anchors: Vec<Head>) -> Result<Verified, Broken> {
        let mut verifier = Verifier::new(seed, anchors);
        for line in lines {
            verifier.line(line)?;
        }
        verifier.end()
    }

    fn times() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(0..200_000_u64, 2..12).prop_map(|mut times| {
            times.sort_unstable();
            times
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_untouched_log_holds_and_any_touch_is_named(
            seconds in times(), at in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
        ) {
            let seed = seed(0);
            let (lines, _, head) = write(Some(seed.key()), Head::default(), &seconds);
            let whole = verify_all(&lines, Some(&seed), vec![head]).unwrap();
            prop_assert_eq!(whole, Verified { lines: lines.len(), head, sealed: lines.len() as u64, anchored: true });
            let check = |lines: &[String]| verify_all(lines, Some(&seed), vec![head]);
            let line_of = |broken: &Broken| match *broken {
                Broken::Unreadable { line } | Broken::Sequence { line, .. } | Broken::Hash { line } | Broken::Unsealed { line }
                | Broken::Seal { line } | Broken::Epoch { line } | Broken::Anchor { line, .. } => line,
                Broken::Cut { .. } | Broken::Late { .. } => 0,
            };
            let at = at.index(lines.len());

            let mut edited = lines.clone();
            let place = byte.index(edited[at].len());
            let old = edited[at].as_bytes()[place];
            let new = if old == b'7' { "8" } else { "7" };
            edited[at].replace_range(place..=place, new);
            prop_assert_eq!(line_of(&check(&edited).unwrap_err()), at + 1, "{}", old as char);

            let mut missing = lines.clone();
            missing.remove(at);
            let broken = check(&missing).unwrap_err();
            let is_last = at + 1 == lines.len();
            prop_assert_eq!(line_of(&broken), if is_last { 0 } else { at + 1 });
            prop_assert!(!is_last || matches!(broken, Broken::Cut { .. }), "truncated");

            let other = other.index(lines.len());
            if other != at {
                let mut swapped = lines.clone();
                swapped.swap(at, other);
                prop_assert_eq!(line_of(&check(&swapped).unwrap_err()), at.min(other) + 1);
            }

            let mut doubled = lines.clone();
            doubled.insert(at, lines[at].clone());
            prop_assert_eq!(line_of(&check(&doubled).unwrap_err()), at + 2);
        }

        /// Who takes the key that is on the host can make all hashes anew, and is found by the seed.
        #[test]
        fn a_forger_with_the_present_key_cannot_rewrite_the_past(seconds in times(), at in any::<prop::sample::Index>()) {
            let seed = seed(0);
            let (lines, key, _) = write(Some(seed.key()), Head::default(), &seconds);
            let at = at.index(lines.len());
            let head = at.checked_sub(1).map_or_else(Head::default, |at| chain::read(&lines[at]).unwrap());
            let (forged, _, _) = write(key, head, &seconds[at..]);
            let log: Vec<String> = lines[..at].iter().cloned().chain(forged).collect();
            prop_assert!(verify_all(&log, None, Vec::new()).is_ok(), "the hashes alone do not show it");
            let broken = verify_all(&log, Some(&seed), Vec::new()).unwrap_err();
            prop_assert_eq!(broken, Broken::Epoch { line: at + 1 });
            let (bare, _, _) = write(None, head, &seconds[at..]);
            let log: Vec<String> = lines[..at].iter().cloned().chain(bare).collect();
            prop_assert_eq!(verify_all(&log, Some(&seed), Vec::new()).unwrap_err(), Broken::Unsealed { line: at + 1 });
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}", seq in any::<u64>(), epoch in any::<u64>(), time in any::<i64>()) {
            let _ = verify_all(&[text], Some(&seed(0)), Vec::new());
            let hash = "0".repeat(64);
            let line = format!(r#"{{"time":{time},"unmapped":{{"weighbridge":{{"chain":{{"seq":{seq},"epoch":{epoch},"mac":"{hash}","hash":"{hash}"}}}}}}}}"#);
            prop_assert!(verify_all(&[line], Some(&seed(0)), Vec::new()).is_err());
        }
    }

    /// The FSS lesson (CVE-2023-31439): the key of the present must not vouch for a line of the past.
    #[test]
    fn a_line_that_is_dated_back_is_found() {
        let seed = seed(0);
        let (mut lines, key, head) = write(Some(seed.key()), Head::default(), &[10, 20]);
        let mut key = key.unwrap();
        // A day passes, somebody breaks in, and writes a line of one hour after the last.
        key.pass(context().boot_wall_ms + 86_400_000);
        let (forged, _, _) = write(Some(key), head, &[3600]);
        lines.extend(forged);
        assert_eq!(verify_all(&lines, Some(&seed), Vec::new()), Err(Broken::Epoch { line: 3 }));
    }

    #[test]
    fn rotated_files_anchors_and_logs_that_were_there_before_the_seal() {
        let (mut lines, _, head) = write(None, Head::default(), &[1, 2]);
        let seed = seed(head.seq);
        let (more, _, end) = write(Some(seed.key()), head, &[100, 200, 300]);
        lines.extend(more);
        assert_eq!(verify_all(&lines, Some(&seed), Vec::new()).unwrap().sealed, 3);
        let rest = &lines[3..];
        let start = chain::read(&lines[2]).unwrap();
        assert_eq!(verify_all(rest, Some(&seed), vec![start, end]).unwrap().lines, 2);
        assert_eq!(
            verify_all(rest, Some(&seed), vec![end]),
            Err(Broken::Sequence { line: 1, expected: 1, found: 4 })
        );
        let forged = Head { hash: [1; 32], ..end };
        assert_eq!(verify_all(&lines, None, vec![forged]), Err(Broken::Anchor { line: 5, seq: 5 }));
        assert_eq!(verify_all(&lines[..4], None, vec![end]), Err(Broken::Cut { last: 4, seq: 5 }));
        assert!(!verify_all(&lines[..4], None, Vec::new()).unwrap().anchored);
    }

    #[test]
    fn a_clock_in_the_far_future_costs_seconds_and_not_minutes() {
        let mut key = seed(0).key();
        key.pass(i64::MAX);
        assert_eq!(key.number(), 1 << 20);
    }
}
