//! What is counted of rules: which are loaded, what they matched, what they cost, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{civil::Date, tz::TimeZone};
use prometheus::{CounterVec, Gauge, IntCounterVec, IntGauge, IntGaugeVec};

use super::{
    Metrics,
    make::{Maker, count, now, set, spend},
};
use crate::{
    alerts::Alert,
    rules::{Mode, RuleSet, Severity},
};

/// Rules beyond this many are counted together as `other`.
pub(super) const MOST_RULES: usize = 200;

/// Exceptions that have series of their own.
const MOST_EXCEPTIONS: usize = 200;

/// What became of a set of rules that was read while the agent ran; label `outcome`.
const RELOADS: [&str; 2] = ["accepted", "refused"];

/// What became of a rule's match; label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Alert,
    Shadow,
    Excepted,
    Suppressed,
}

impl Outcome {
    pub(super) const ALL: [Self; 4] = [Self::Alert, Self::Shadow, Self::Excepted, Self::Suppressed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Shadow => "shadow",
            Self::Excepted => "excepted",
            Self::Suppressed => "suppressed",
        }
    }
}

/// The families of rules, and which children they have.
#[derive(Debug)]
pub(super) struct RuleMetrics {
    info: IntGaugeVec,
    matches: IntCounterVec,
    seconds: CounterVec,
    alerts: IntCounterVec,
    active: IntGaugeVec,
    loaded: IntGaugeVec,
    reloads: IntCounterVec,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    pub(super) exception_expiry: IntGaugeVec,
    pub(super) exception_matches: IntCounterVec,
    known: Mutex<Known>,
}

/// Label values that have children.
#[derive(Debug, Default)]
struct Known {
    rules: BTreeSet<String>,
    exceptions: BTreeSet<String>,
}

impl RuleMetrics {
    /// Creates every child whose labels are known already.
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let metrics = Self {
            info: make.gauges(
                "rules_info",
                "Always 1; the labels say which rule set is loaded.",
                &["digest", "pack"],
            )?,
            matches: make.counters(
                "rule_matches_total",
                "Matches of rules, by what became of them.",
                &["rule_id", "outcome"],
            )?,
            seconds: make.seconds(
                "rule_seconds_total",
                "Time that a rule took, estimated from samples.",
                &["rule_id"],
            )?,
            alerts: make.counters(
                "alerts_total",
                "Findings that reached a severity; each counts once at every severity it reached.",
                &["rule_id", "severity"],
            )?,
            active: make.gauges("alerts_active", "Findings that are open.", &["severity"])?,
            loaded: make.gauges("rules_loaded", "Rules of the loaded set.", &["mode"])?,
            reloads: make.counters(
                "rules_reloads_total",
                "Times that rules were read anew, by outcome: those that were refused changed nothing.",
                &["outcome"],
            )?,
            reload_successful: make.gauge(
                "rules_last_reload_successful",
                "0 when the last set that was read was wrong and an older one is in force.",
            )?,
            reload_timestamp: make.float(
                "rules_last_reload_timestamp_seconds",
                "When the rules in force were read, seconds since 1970.",
            )?,
            exception_expiry: make.gauges(
                "exception_expiry_timestamp_seconds",
                "When an exception ends to hold, seconds since 1970.",
                &["exception_id"],
            )?,
            exception_matches: make.counters(
                "exception_matches_total",
                "Matches that an exception kept from being sent; one that is never used stays at 0.",
                &["exception_id"],
            )?,
            known: Mutex::default(),
        };
        for outcome in RELOADS {
            count(&metrics.reloads, &[outcome], 0);
        }
        metrics.reload_successful.set(1);
        for severity in Severity::ALL {
            set(&metrics.active, &[severity.as_str()], 0);
        }
        for mode in Mode::ALL {
            set(&metrics.loaded, &[mode.as_str()], 0);
        }
        Ok(metrics)
    }
}

impl Metrics {
    /// The loaded rule set: hex digest, packs, and each rule's id and mode.
    pub fn set_rules<'a>(
        &self,
        digest: &str,
        packs: impl IntoIterator<Item = &'a str>,
        rules: impl IntoIterator<Item = (&'a str, Mode)>,
    ) {
        self.rules.info.reset();
        for pack in packs {
            set(&self.rules.info, &[digest, pack], 1);
        }
        let mut loaded = BTreeMap::from(Mode::ALL.map(|mode| (mode, 0)));
        for (id, mode) in rules {
            *loaded.entry(mode).or_insert(0) += 1;
            self.know_rule(id);
        }
        for (mode, count) in loaded {
            set(&self.rules.loaded, &[mode.as_str()], count);
        }
    }

    /// The same, from the set itself.
    pub fn set_rule_set(&self, rules: &RuleSet) {
        let ids = rules.rules().iter().map(|rule| (rule.facts.id.as_str(), rule.facts.mode));
        self.set_rules(rules.digest(), rules.packs().iter().map(String::as_str), ids);
        self.rules.exception_expiry.reset();
        let ids = &mut self.known().exceptions;
        for exception in rules.exceptions().iter().take(MOST_EXCEPTIONS) {
            let id = exception.facts.id.as_str();
            set(&self.rules.exception_expiry, &[id], end_of(exception.facts.expires));
            count(&self.rules.exception_matches, &[id], 0);
            ids.insert(id.to_owned());
        }
        self.rules.reload_timestamp.set(now());
    }

    /// An exception kept a match from being sent.
    pub fn add_excepted(&self, exception: &str) {
        if self.known().exceptions.contains(exception) {
            count(&self.rules.exception_matches, &[exception], 1);
        }
    }

    /// Rules were read anew, and taken or not.
    pub fn add_reload(&self, accepted: bool) {
        count(&self.rules.reloads, &[RELOADS[usize::from(!accepted)]], 1);
        self.rules.reload_successful.set(i64::from(accepted));
    }

    /// Creates the children of a rule, of the set or of the agent itself.
    pub fn know_rule(&self, id: &str) {
        let id = self.rule_label(id);
        for outcome in Outcome::ALL {
            count(&self.rules.matches, &[&id, outcome.as_str()], 0);
        }
        for severity in Severity::ALL {
            count(&self.rules.alerts, &[&id, severity.as_str()], 0);
        }
        spend(&self.rules.seconds, &[&id], Duration::ZERO);
    }

    /// A rule took so much longer, see [`crate::rules::Engine::take_costs`].
    pub fn add_rule_time(&self, rule: &str, took: Duration) {
        spend(&self.rules.seconds, &[&self.rule_label(rule)], took);
    }

    /// A rule matched.
    pub fn add_match(&self, rule: &str, outcome: Outcome) {
        count(&self.rules.matches, &[&self.rule_label(rule), outcome.as_str()], 1);
    }

    /// An alert was made. Lines that only renew a finding, and shadow findings, are not counted.
    pub fn add_alert(&self, alert: &Alert) {
        if alert.raised && alert.matched.mode == Mode::Alert {
            let rule = self.rule_label(&alert.matched.rule.id);
            count(&self.rules.alerts, &[&rule, alert.matched.severity.as_str()], 1);
        }
    }

    /// Open findings by severity, see [`crate::alerts::Alerts::active`].
    pub fn set_active(&self, active: &BTreeMap<Severity, u64>) {
        for (severity, &findings) in active {
            set(&self.rules.active, &[severity.as_str()], findings);
        }
    }

    /// The label of a rule: its id, while there is room.
    fn rule_label(&self, id: &str) -> String {
        let mut known = self.known();
        if known.rules.contains(id) {
            return id.to_owned();
        }
        if known.rules.len() >= MOST_RULES {
            return "other".to_owned();
        }
        known.rules.insert(id.to_owned());
        id.to_owned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.rules.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970 until the end of a day in UTC; 0 for a day that has none.
fn end_of(day: Date) -> u64 {
    let end = day.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC));
    end.map_or(0, |end| u64::try_from(end.timestamp().as_second()).unwrap_or(0))
}
