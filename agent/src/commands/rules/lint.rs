//! `rules lint` and `rules test`: what a pipeline runs before rules reach a host.

use std::io::{self, IsTerminal as _};

use serde_json::{Value, json};

use super::{
    super::{FOUND, INVALID, OK, Output, fail, print},
    sarif,
    table::paint,
};
use crate::{
    pipeline::Failure,
    rules::{RuleSet, run_tests},
    yaml::{self, Diagnostic, Weight},
};

pub(super) fn lint(loaded: Result<RuleSet, Failure>, strict: bool, sarif: bool, output: Output) -> u8 {
    let (faults, rules) = match loaded {
        Ok(set) => (set.warnings().to_vec(), Some(set.rules().len())),
        Err(Failure::Invalid { faults, .. }) => (faults, None),
        Err(other) => return fail(&other, output),
    };
    let count = |weight: Weight| faults.iter().filter(|fault| fault.weight == weight).count();
    let (errors, warnings) = (count(Weight::Error), count(Weight::Warning));
    if sarif {
        print(&format!("{:#}\n", sarif::report(&faults)));
    } else if output == Output::Json {
        let report =
            json!({"schema": 1, "errors": errors, "warnings": warnings, "rules": rules, "faults": faults});
        print(&format!("{report}\n"));
    } else {
        report(&faults);
        let rules = rules.map(|rules| format!("{rules} rules, ")).unwrap_or_default();
        print(&format!("{rules}{errors} errors, {warnings} warnings\n"));
    }
    match (errors, warnings) {
        (0, 0) => OK,
        (0, _) if !strict => OK,
        (0, _) => FOUND,
        _ => INVALID,
    }
}

pub(super) fn test(set: &RuleSet, output: Output, colour: bool) -> u8 {
    let outcomes = run_tests(set);
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    let skipped = outcomes.iter().filter(|outcome| outcome.skipped.is_some()).count();
    let passed = outcomes.len() - failed - skipped;
    if output == Output::Json {
        let tests: Vec<Value> = outcomes
            .iter()
            .map(|outcome| {
                let ended = match (&outcome.failure, outcome.skipped) {
                    (Some(_), _) => "failed",
                    (None, Some(_)) => "skipped",
                    (None, None) => "passed",
                };
                json!({"rule": outcome.rule, "name": outcome.name, "outcome": ended, "skipped": outcome.skipped,
                    "failure": outcome.failure})
            })
            .collect();
        let report =
            json!({"schema": 1, "passed": passed, "failed": failed, "skipped": skipped, "tests": tests});
        print(&format!("{report}\n"));
    } else {
        let failures: Vec<Diagnostic> =
            outcomes.iter().filter_map(|outcome| outcome.failure.clone()).collect();
        report(&failures);
        for outcome in outcomes.iter().filter(|outcome| outcome.failure.is_none()) {
            let (word, why) = match outcome.skipped {
                Some(why) => (paint(colour, "33", "skipped"), format!(" ({why})")),
                None => (paint(colour, "32", "passed "), String::new()),
            };
            print(&format!("{word}  {}  {}{why}\n", outcome.rule, outcome.name));
        }
        print(&format!("{passed} passed, {failed} failed, {skipped} skipped\n"));
    }
    if failed > 0 { FOUND } else { OK }
}

/// Faults for people, on standard error.
fn report(faults: &[Diagnostic]) {
    if !faults.is_empty() {
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        eprintln!("{}\n", yaml::render(faults, colour));
    }
}
