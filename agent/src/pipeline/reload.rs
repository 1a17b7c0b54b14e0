//! Another set of rules while the agent runs (SIGHUP, or a day on which an exception or override expires): parse, check,
//! run the embedded tests, and only then swap. On any error the old set stays, and a metric, a log line and an act say so.

use std::{path::PathBuf, sync::Arc};

use jiff::civil::Date;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Pipeline, prepare::today};
use crate::{
    event::{Act, ActKind, AssetList, BootNs, Event, HolderId, Process},
    rules::{RuleSet, run_tests},
    yaml::{self, Diagnostic},
};

type Read = Result<Arc<RuleSet>, Vec<Diagnostic>>;

/// What is read anew, on a thread of its own: tests take their time, and weighing must not wait for them.
pub(super) struct Reload {
    paths: Vec<PathBuf>,
    reading: Option<JoinHandle<Read>>,
    /// Asked for while it was reading.
    again: bool,
    /// The day on which the set in force was last looked at.
    seen_on: Date,
}

impl Reload {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, reading: None, again: false, seen_on: today() }
    }

    /// Reads the files; [`Reload::poll`] gives what came of it.
    pub(super) fn request(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return;
        }
        let paths = self.paths.clone();
        tracing::info!("the rules are read anew");
        self.reading = Some(spawn_blocking(move || tested(RuleSet::load(&paths, today()))));
    }

    /// Puts in force what was read since, and what a new day changes. To be called now and then.
    pub(super) async fn poll(&mut self, pipeline: &mut Pipeline, now: BootNs) {
        if self.reading.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(reading) = self.reading.take()
        {
            let read = reading.await.unwrap_or_else(|error| {
                Err(vec![Diagnostic::of_file("rules", format!("reading the rules failed: {error}"))])
            });
            pipeline.take_rules(read, now);
            if std::mem::take(&mut self.again) {
                self.request();
            }
        }
        let day = today();
        if day != self.seen_on && self.reading.is_none() {
            self.seen_on = day;
            let rules = Arc::clone(pipeline.engine.rules());
            // Not the files: what is in them now was not asked for.
            self.reading = rules.renewed(day).map(|renewed| spawn_blocking(move || tested(renewed)));
        }
    }
}

fn tested(read: Result<RuleSet, Vec<Diagnostic>>) -> Read {
    let set = read?;
    let failures: Vec<Diagnostic> = run_tests(&set).into_iter().filter_map(|test| test.failure).collect();
    if failures.is_empty() { Ok(Arc::new(set)) } else { Err(failures) }
}

impl Pipeline {
    /// Swaps the rules and keeps every window that measures the same; or says why the old ones stay.
    fn take_rules(&mut self, read: Read, now: BootNs) {
        match read {
            Ok(rules) => {
                for warning in rules.warnings() {
                    tracing::warn!("{warning}");
                }
                tracing::info!(
                    rules = rules.rules().len(),
                    digest = rules.digest(),
                    "the new rules are in force"
                );
                self.metrics.add_reload(true);
                self.metrics.set_rule_set(&rules);
                self.alerts.set_rules_digest(rules.digest().to_owned());
                self.engine.replace_rules(rules, now);
            }
            Err(faults) => {
                tracing::error!(
                    "the new rules are wrong and the old ones stay:\n{}",
                    yaml::render(&faults, false)
                );
                self.metrics.add_reload(false);
                let first = faults.first().map(ToString::to_string);
                let holder = HolderId::HOST;
                self.apply(Event::Process { holder, process: Arc::new(Process::host()) }, now);
                let act = Act { kind: ActKind::RulesRefused, victim: None, target: first };
                self.apply(Event::Act { holder, act, assets: AssetList::default(), at: now }, now);
            }
        }
    }
}
