//! The end of a scene: everything the agent ever wrote against the complete list of what was expected. An alert that nobody
//! expected fails the test.

use std::collections::BTreeSet;

use tests::lab::{
    MIB,
    alert::{Alert, findings},
};

use super::{Expected, shape};
use crate::{
    score,
    world::{ALERT_WITHIN, MARKER, Scene},
};

impl Scene<'_> {
    /// Waits for the alerts, stops the agent, and compares everything it ever wrote with the complete list of findings.
    pub(crate) fn expect(self, expected: &[Expected]) {
        self.settle(expected, |_| false);
    }

    /// The same where the way leads over copies on the controlled volume: that WB-0007 names them is not what is asked.
    pub(crate) fn expect_beside_copies(self, expected: &[Expected]) {
        self.settle(expected, |alert| alert.rule() == "WB-0007");
    }

    /// The same where the test changed the agent's own files.
    pub(crate) fn expect_beside_changes(self, expected: &[Expected]) {
        self.settle(expected, |alert| {
            alert.rule() == "WB-0010" && ["files_changed", "rules_refused"].contains(&alert.text("/act/kind"))
        });
    }

    /// The same where the test stopped the agent for a while.
    pub(crate) fn expect_beside_signals(self, expected: &[Expected]) {
        self.settle(expected, |alert| {
            alert.rule() == "WB-0010"
                && ["stopped", "signalled", "hook_silent"].contains(&alert.text("/act/kind"))
        });
    }

    /// Whatever happened so far is somebody's daily work: nothing may have been raised that is medium or worse.
    pub(crate) fn expect_no_incident(mut self) {
        self.mark();
        self.settle(&[], |alert| ["informational", "low"].contains(&alert.text("/severity")));
    }

    fn settle(mut self, expected: &[Expected], beside: fn(&Alert) -> bool) {
        if expected.is_empty() {
            score::note_silence();
        }
        // Waiting first shows that alerts come while the agent runs and not only at its end. Whether they are right is
        // looked at after the end, when nothing can change any more.
        let waited = self.agent().wait(ALERT_WITHIN, |alerts| {
            let newest = findings(alerts);
            expected
                .iter()
                .all(|one| {
                    one.may_be_missing()
                        || newest.iter().any(|alert| one.concerns(alert) && alert.bound() >= one.bound.0)
                })
                .then_some(())
        });
        let in_time = waited.unwrap_or_else(|error| panic!("{error:#}")).is_some();
        let alerts = self.stop();
        self.check_truth();
        let mut faults = shape::faults(&alerts);
        let mut rest: Vec<Alert> =
            findings(&alerts).into_iter().filter(|alert| alert.alarms() && alert.asset() != MARKER).collect();
        // Every scene ends its agent.
        rest.retain(|alert| alert.rule() != "WB-0011" && !(self.starts > 1 && is_of_the_time_between(alert)));
        for one in expected {
            note_score(one, &alerts);
            match rest.iter().position(|alert| one.concerns(alert)) {
                Some(at) => one.compare(&rest.remove(at), &mut faults),
                None if one.may_be_missing() => {}
                None => faults.push(format!("{} for asset {} was not raised", one.rule, one.asset)),
            }
        }
        rest.retain(|alert| !beside(alert));
        drips(expected, &mut rest, &mut faults);
        faults.extend(rest.iter().map(|alert| format!("nobody expected {alert}")));
        if !in_time && faults.is_empty() {
            faults.push(format!(
                "the alerts were right only after the agent's end, not within {ALERT_WITHIN:?}"
            ));
        }
        assert!(faults.is_empty(), "{}", faults.join("\n    "));
    }

    /// Nothing may have been raised, by anything that happened so far.
    pub(crate) fn expect_silence(mut self) {
        self.mark();
        self.expect(&[]);
    }
}

/// What an agent says of the end of the one before it, and of what the test did before it was started again.
fn is_of_the_time_between(alert: &Alert) -> bool {
    let target = alert.text("/act/target");
    alert.rule() == "WB-0010"
        && match alert.text("/act/kind") {
            "restarted" => true,
            "signalled" => target == "SIGKILL",
            "links_touched" | "maps_touched" | "files_changed" => target.ends_with("while no agent ran"),
            _ => false,
        }
}

/// WB-0003 sums what the other rules found of an asset, so what it says follows from what was expected of them. Takes its
/// findings out of `rest`.
fn drips(expected: &[Expected], rest: &mut Vec<Alert>, faults: &mut Vec<String>) {
    let assets: BTreeSet<&str> = expected.iter().map(|one| one.asset).collect();
    for asset in assets {
        let leaving =
            || expected.iter().filter(|one| one.asset == asset && ["WB-0001", "WB-0002"].contains(&one.rule));
        let size = leaving().filter_map(|one| one.asset_bytes).max().unwrap_or(u64::MAX);
        let sum = |of: fn(&Expected) -> u64| {
            leaving().fold(0, |sum: u64, one| sum.saturating_add(of(one))).min(size)
        };
        let (from, to) = (sum(|one| one.bound.0), sum(|one| one.bound.1));
        let line = (size.div_ceil(2000)).max(32 * MIB);
        match rest.iter().position(|alert| alert.rule() == "WB-0003" && alert.asset() == asset) {
            Some(at) => {
                let bound = rest.remove(at).bound();
                // What is below the lines of the other rules counts too, up to a megabyte for each place.
                if bound < line || !(from..=to.saturating_add(4 * MIB)).contains(&bound) {
                    faults.push(format!("WB-0003 bound_bytes is {bound}, should be {from}..={to}"));
                }
            }
            None if from >= line => faults.push(format!("WB-0003 for asset {asset} was not raised")),
            None => {}
        }
    }
}

/// For the score: the finding that is this one, if any.
fn note_score(expected: &Expected, alerts: &[Alert]) {
    let first = alerts.iter().find(|alert| alert.alarms() && expected.concerns(alert));
    let lines: Vec<&Alert> = first
        .map_or_else(Vec::new, |first| alerts.iter().filter(|alert| alert.uid() == first.uid()).collect());
    score::note(expected.rule, expected.bound, &lines);
}
