//! Adds up what Rust's test harness prints. Knows nothing of cargo, and counts a binary that died without its result line.

use std::collections::{BTreeMap, BTreeSet};

/// Outcomes of tests, whoever ran them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: Vec<String>,
    /// (name, reason)
    pub(crate) skipped: Vec<(String, String)>,
    /// Passed, but not the first time: (name, what it failed with)
    pub(crate) repeated: Vec<(String, String)>,
}

impl Tally {
    /// Takes what tests said themselves that cannot run here: a line each with a test, a tab and a reason. The harness counted them as
    /// passed, unless they failed at what they could run.
    pub(crate) fn say_skipped(&mut self, text: &str) {
        let mut reasons: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, reason) in text.lines().filter_map(|line| line.split_once('\t')) {
            reasons.entry(name).or_default().insert(reason);
        }
        for (name, reasons) in reasons {
            if self.failed.iter().all(|failed| failed != name) {
                self.passed = self.passed.saturating_sub(1);
                let reasons: Vec<&str> = reasons.into_iter().collect();
                self.skipped.push((name.to_owned(), reasons.join("; ")));
            }
        }
    }
}

/// Reads the standard output of `cargo test`, line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    open: Option<Binary>,
}

/// One test binary that has said `running N tests` and not yet its result.
#[derive(Debug, Default)]
struct Binary {
    announced: u64,
    failed: BTreeSet<String>,
    ignored: Vec<(String, String)>,
}

impl Reader {
    /// Takes one line, without its line feed.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(announced) = announcement(line) {
            self.close_dead();
            self.open = Some(Binary { announced, ..Binary::default() });
            return;
        }
        let Some(binary) = &mut self.open else { return };
        if let Some(counts) = result(line) {
            self.tally.passed += counts.passed;
            // The result line has the truth in numbers: names are lost where a test's own output runs into its line.
            let mut failed: Vec<String> = std::mem::take(&mut binary.failed).into_iter().collect();
            failed.resize(counts.failed, "a test that the harness did not name".to_owned());
            let mut ignored = std::mem::take(&mut binary.ignored);
            ignored
                .resize(counts.ignored, ("a test that the harness did not name".to_owned(), String::new()));
            self.tally.failed.extend(failed);
            self.tally.skipped.extend(ignored);
            self.open = None;
        } else if let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        {
            if outcome == "FAILED" {
                binary.failed.insert(name.to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                let reason = if reason.is_empty() { "marked #[ignore]" } else { reason };
                binary.ignored.push((name.to_owned(), reason.to_owned()));
            }
        }
    }

    /// What was counted in all.
    pub(crate) fn finish(mut self) -> Tally {
        self.close_dead();
        self.tally
    }

    /// A binary without a result line was killed or aborted: one failure, whatever it had passed before.
    fn close_dead(&mut self) {
        if let Some(binary) = self.open.take() {
            self.tally
                .failed
                .push(format!("a test binary of {} tests that died before its result", binary.announced));
        }
    }
}

/// N of `running N tests`.
fn announcement(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("running ")?;
    rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"))?.parse().ok()
}

struct Counts {
    passed: u64,
    failed: usize,
    ignored: usize,
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(word)?.strip_suffix(' ')?.parse::<usize>().ok())
    };
    Some(Counts { passed: count("passed")? as u64, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tally {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    #[test]
    fn binaries_add_up_and_names_are_kept() {
        let tally = read(
            "\nrunning 4 tests\n\
             test a::one ... ok\n\
             test a::two ... FAILED\n\
             test a::live ... ignored, needs root\n\
             test a::slow ... ignored\n\
             \nfailures:\n\n---- a::two stdout ----\nboom\n\n\
             test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             \nrunning 1 test\n\
             test src/lib.rs - f (line 3) ... ok\n\
             \ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.20s\n",
        );
        let skipped = [("a::live", "needs root"), ("a::slow", "marked #[ignore]")];
        let skipped = skipped.map(|(name, reason)| (name.to_owned(), reason.to_owned())).to_vec();
        assert_eq!(
            tally,
            Tally { passed: 2, failed: vec!["a::two".to_owned()], skipped, ..Tally::default() }
        );
    }

    #[test]
    fn what_says_that_it_cannot_run_has_not_passed() {
        let mut tally = Tally { passed: 3, failed: vec!["a::broken".to_owned()], ..Tally::default() };
        tally.say_skipped("a::loops\tneeds mkfs.xfs\na::broken\tneeds root\na::loops\tneeds mkfs.btrfs\n");
        let skipped = vec![("a::loops".to_owned(), "needs mkfs.btrfs; needs mkfs.xfs".to_owned())];
        assert_eq!(
            tally,
            Tally { passed: 2, failed: vec!["a::broken".to_owned()], skipped, ..Tally::default() }
        );
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let tally = read(
            "running 2 tests\ntest one ... ok\n\
             running 1 test\ntest three ... ok\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             running 9 tests\n",
        );
        assert_eq!(tally.passed, 1);
        assert_eq!(
            tally.failed,
            [
                "a test binary of 2 tests that died before its result",
                "a test binary of 9 tests that died before its result"
            ]
        );
    }

    #[test]
    fn the_result_line_wins_over_names() {
        let tally = read(
            "running 2 tests\n\
             test noisy ... hello FAILED\n\
             test loud ... FAILED\n\
             test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(tally.failed, ["loud", "a test that the harness did not name"]);
    }

    #[test]
    fn what_tests_print_is_not_taken_for_the_harness() {
        assert_eq!(
            read("test result: ok. 5 passed; 0 failed; 0 ignored\nrunning late tests\n"),
            Tally::default()
        );
    }
}
