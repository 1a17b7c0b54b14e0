//! Tests that sit inside rules: events at relative times under a virtual clock, and the complete list of what they must
//! raise. It must not know files nor how results are shown.
//!
//! A test of a rule runs against that rule, with the exceptions of its own file, and whatever other rules of that file it
//! expects to fire: so neither another rule nor what a site says can break it. A test of an exception or an override runs
//! against the rules that it names as they are in force. What is expected are findings: an identity (rule, group, mode and
//! exception) counts once, at the highest severity that it reached; its time is when it first reached that.

mod parse;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

pub(crate) use self::parse::read;
use super::{
    Engine, RuleSet,
    rule::{Mode, Rule, Severity},
};
use crate::{
    event::{BootNs, Record},
    yaml::{Diagnostic, Source, Span, format_duration},
};

/// Most events of one test, repetitions included.
const MAX_EVENTS: u64 = 100_000;

/// One test of one rule.
#[derive(Debug)]
pub(crate) struct RuleTest {
    name: String,
    span: Span,
    events: Vec<Repeated>,
    pub(crate) expect: Vec<Expected>,
}

/// An event at `at`, and again `times - 1` times every `every`.
#[derive(Debug)]
struct Repeated {
    at: Duration,
    every: Duration,
    times: u64,
    record: Record,
}

#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) rule: String,
    pub(crate) span: Span,
    severity: Severity,
    mode: Mode,
    pub(crate) exception: Option<String>,
    count: usize,
    /// First and last time at which it may be raised.
    between: Option<(Duration, Duration)>,
}

/// How one test ended.
#[derive(Clone, Debug)]
pub struct TestOutcome {
    /// The rule that holds the test.
    pub rule: String,
    pub name: String,
    /// Why it did not run, if so.
    pub skipped: Option<&'static str>,
    /// What was expected and what came, at the test's place; `None` when it passed.
    pub failure: Option<Diagnostic>,
}

/// Tests that run against the same rules.
#[derive(Debug)]
pub(crate) struct Suite {
    /// The rule or exception that holds them.
    pub(crate) owner: String,
    /// Ids of the rules that they are about.
    pub(crate) about: Vec<String>,
    /// All that they may name.
    pub(crate) rules: Arc<[Arc<Rule>]>,
    pub(crate) tests: Arc<[RuleTest]>,
    pub(crate) source: Arc<Source>,
    /// Why they do not run, if so.
    pub(crate) skipped: Option<&'static str>,
}

/// What was raised: rule, severity, mode and exception, with the times at which each finding first reached it.
type Raised = BTreeMap<(String, Severity, Mode, Option<String>), Vec<Duration>>;

/// Runs the tests of every rule, exception and override.
#[must_use]
pub fn run_tests(rules: &RuleSet) -> Vec<TestOutcome> {
    let mut outcomes = Vec::new();
    for suite in &rules.suites {
        for test in suite.tests.iter() {
            outcomes.push(TestOutcome {
                rule: suite.owner.clone(),
                name: test.name.clone(),
                skipped: suite.skipped,
                failure: if suite.skipped.is_some() { None } else { run(suite, test) },
            });
        }
    }
    outcomes
}

fn run(suite: &Suite, test: &RuleTest) -> Option<Diagnostic> {
    let is_named = |rule: &Rule| {
        let id = &rule.facts.id;
        suite.about.contains(id) || test.expect.iter().any(|expected| expected.rule == *id)
    };
    let rules = suite.rules.iter().filter(|rule| is_named(rule)).cloned().collect();
    let raised = raise(Arc::new(RuleSet::of(rules)), test);
    let mut is_as_expected = raised.len() == test.expect.len();
    for expected in &test.expect {
        let key = (expected.rule.clone(), expected.severity, expected.mode, expected.exception.clone());
        let is_met = raised.get(&key).is_some_and(|times| {
            let in_time = |at: &Duration| expected.between.is_none_or(|(from, to)| (from..=to).contains(at));
            times.len() == expected.count && times.iter().all(in_time)
        });
        is_as_expected &= is_met;
    }
    if is_as_expected {
        return None;
    }
    let wanted = test.expect.iter().map(|expected| {
        let exception = expected.exception.as_deref();
        let mut text = describe(expected.count, &expected.rule, expected.severity, expected.mode, exception);
        if let Some((from, to)) = expected.between {
            text += &format!(" between {} and {}", format_duration(from), format_duration(to));
        }
        text
    });
    let got = raised.iter().map(|((rule, severity, mode, exception), times)| {
        let first = format_duration(times.first().copied().unwrap_or_default());
        format!("{} at {first}", describe(times.len(), rule, *severity, *mode, exception.as_deref()))
    });
    let message =
        format!("test `{}` failed: expected {}, got {}", test.name, or_silence(wanted), or_silence(got));
    Some(Diagnostic::at(&suite.source, test.span, message).help("correct the rule or what the test expects"))
}

/// Plays the events of a test.
fn raise(rules: Arc<RuleSet>, test: &RuleTest) -> Raised {
    let mut times: Vec<(Duration, &Record)> = test
        .events
        .iter()
        .flat_map(|event| {
            (0..event.times).map(|n| {
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                (event.at.saturating_add(event.every.saturating_mul(n)), &event.record)
            })
        })
        .collect();
    times.sort_by_key(|(at, _)| *at);
    let mut engine = Engine::new(rules);
    let mut findings: HashMap<_, (Severity, Duration)> = HashMap::new();
    let mut matches = Vec::new();
    for (at, record) in times {
        let at_ns = BootNs(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        engine.observe(&Record { at: at_ns, ..record.clone() }, &mut matches);
        for found in matches.drain(..) {
            let exception = found.exception.as_ref().map(|exception| exception.id.clone());
            let identity = (found.rule.id.clone(), found.mode, exception, found.group);
            let finding = findings.entry(identity).or_insert((found.severity, at));
            if found.severity > finding.0 {
                *finding = (found.severity, at);
            }
        }
    }
    let mut raised = Raised::new();
    for ((rule, mode, exception, _), (severity, at)) in findings {
        raised.entry((rule, severity, mode, exception)).or_default().push(at);
    }
    raised.values_mut().for_each(|times| times.sort_unstable());
    raised
}

fn describe(count: usize, rule: &str, severity: Severity, mode: Mode, exception: Option<&str>) -> String {
    let how = exception.map_or_else(|| mode.as_str().to_owned(), |id| format!("excepted by {id}"));
    format!("{count} × {rule} {} {how}", severity.as_str())
}

fn or_silence(items: impl Iterator<Item = String>) -> String {
    let text = items.collect::<Vec<_>>().join(" and ");
    if text.is_empty() { "silence".to_owned() } else { text }
}
