//! `weighbridge record` and `weighbridge replay`: what happened, kept, and put through other rules later.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;

use super::{FOUND, OK, Output, UNFIT, doctor, fail, log, print};
use crate::{
    alerts::render,
    pipeline::{Failure, Options, RecordTo, prepare, run, today},
    recording::{Change, Found, Reader, Replayed, compare, replay},
    rules::{Mode, RuleSet},
};

/// Weighs as `run` does and writes down what the ledger is told; raises nothing, and may run beside the agent.
pub(super) fn record(
    config: &Path,
    file: PathBuf,
    hide: bool,
    length: Option<Duration>,
    output: Output,
) -> u8 {
    log();
    let ran = doctor::rights().and_then(|()| prepare(config)).and_then(|mut prepared| {
        prepared.for_recording();
        run(prepared, Options { record: Some(RecordTo { file, hide, length }), ..Options::default() })
    });
    match ran {
        Ok(()) => OK,
        Err(failure) => fail(&failure, output),
    }
}

/// What `rules` say of a recording, and with `baseline` what is different from before.
pub(super) fn replay_file(
    file: &Path,
    rules: &[PathBuf],
    baseline: &[PathBuf],
    output: Output,
    colour: bool,
) -> u8 {
    let load = |paths: &[PathBuf]| {
        let read = RuleSet::load(paths, today()).map(Arc::new);
        read.map_err(|faults| fail(&Failure::Invalid { file: file.to_owned(), faults }, output))
    };
    let put_through = |rules: &Arc<RuleSet>| open(file).map(|mut reader| replay(&mut reader, rules));
    let result = load(rules).and_then(|rules| put_through(&rules)).and_then(|now| {
        if baseline.is_empty() {
            return Ok(show(&now, output, colour));
        }
        let before = load(baseline).and_then(|rules| put_through(&rules))?;
        Ok(show_changes(&compare(&before, &now), output))
    });
    result.unwrap_or_else(|code| code)
}

/// Opens a recording, or says why not.
pub(super) fn open(file: &Path) -> Result<Reader, u8> {
    Reader::open(file).map_err(|error| {
        eprintln!("error: {error}");
        UNFIT
    })
}

/// 1 when the recording was damaged: what is shown is not all of it.
fn show(replayed: &Replayed, output: Output, colour: bool) -> u8 {
    match output {
        Output::Json => replayed.alerts.iter().for_each(|alert| print(&String::from_utf8_lossy(&alert.line))),
        Output::Text => {
            replayed.alerts.iter().for_each(|alert| print(&render(alert, colour)));
            let findings = replayed.findings();
            let shadow = findings.iter().filter(|found| found.mode == Mode::Shadow).count();
            let seconds = replayed.span.map_or(0, |(first, last)| (last.0 - first.0) / 1_000_000_000);
            print(&format!(
                "{} statements of {seconds} s, {} records: {} findings, {shadow} of them in shadow\n",
                replayed.statements,
                replayed.records,
                findings.len(),
            ));
        }
    }
    if replayed.dropped != 0 {
        eprintln!("warning: {} alert lines more than are kept were left out", replayed.dropped);
    }
    match &replayed.damage {
        Some(damage) => {
            eprintln!("warning: the recording is {damage}");
            FOUND
        }
        None => OK,
    }
}

/// 1 when anything changed, as `diff` does.
fn show_changes(changes: &[Change], output: Output) -> u8 {
    if output == Output::Json {
        let found = |found: &Found| json!({"rule": found.rule, "group": found.group, "severity": found.severity, "mode": found.mode});
        let changes: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Appears(now) => json!({"change": "appears", "after": found(now)}),
                Change::Vanishes(before) => json!({"change": "vanishes", "before": found(before)}),
                Change::Becomes(before, now) => {
                    json!({"change": "becomes", "before": found(before), "after": found(now)})
                }
            })
            .collect();
        print(&format!("{}\n", json!({"schema": 1, "changes": changes})));
    } else {
        let place = |found: &Found| {
            let group: Vec<String> =
                found.group.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{}  {}", found.rule, group.join(" "))
        };
        let level = |found: &Found| {
            let shadow = if found.mode == Mode::Shadow { " (shadow)" } else { "" };
            format!("{}{shadow}", found.severity.as_str())
        };
        for change in changes {
            print(&match change {
                Change::Appears(now) => format!("+ {:<24} {}\n", level(now), place(now)),
                Change::Vanishes(before) => format!("- {:<24} {}\n", level(before), place(before)),
                Change::Becomes(before, now) => {
                    format!("~ {:<24} {}\n", format!("{} → {}", level(before), level(now)), place(now))
                }
            });
        }
        print(&format!("{} findings differ\n", changes.len()));
    }
    if changes.is_empty() { OK } else { FOUND }
}
