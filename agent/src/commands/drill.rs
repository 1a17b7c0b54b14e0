//! `weighbridge drill`: a marked test alert through every sink of the running agent, and which of them took it.
//!
//! It goes through the agent and not around it: only the service has its credentials, its spools and its way to the network.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    FOUND, OK, Output, UNREACHABLE, print,
    status::{self, lines, unreachable},
};
use crate::{
    alerts::{DRILL, printable},
    status::{SinkRow, Snapshot},
};

/// A severity, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Grade {
    Informational,
    Low,
    Medium,
    High,
    Critical,
}

impl Grade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Asks for the drill and waits for the sinks, at most `wait`.
pub(super) fn drill(config: &Path, severity: Grade, wait: Duration, output: Output) -> u8 {
    match ask(config, severity, wait) {
        Ok((finding, rows)) => {
            if output == Output::Json {
                print(&format!("{}\n", as_json(severity, &finding, &rows)));
            } else {
                print(&text(severity, &finding, &rows));
            }
            if rows.iter().all(|(_, taken)| *taken) { OK } else { FOUND }
        }
        Err(code) => code,
    }
}

/// The finding's uid, and each sink with whether it took something since. The error is the exit code; why was said.
fn ask(config: &Path, severity: Grade, wait: Duration) -> Result<(String, Vec<(SinkRow, bool)>), u8> {
    let before: Snapshot = first(config, "status")?;
    let answer: Value = first(config, &format!("drill {}", severity.as_str()))?;
    let Some(finding) = answer["finding"].as_str().map(printable) else {
        let why = answer["error"].as_str().unwrap_or("it does not know drills, is it of an older version?");
        eprintln!("error: the agent holds no drill: {}", printable(why));
        return Err(UNREACHABLE);
    };
    let deadline = Instant::now() + wait;
    let mut lines = lines(config, "top")?;
    loop {
        let now: Snapshot = status::first(&mut lines).map_err(|error| unreachable(&error))?;
        let rows: Vec<(SinkRow, bool)> = now.sinks.into_iter().map(|row| taken(&before.sinks, row)).collect();
        if rows.iter().all(|(_, taken)| *taken) || Instant::now() >= deadline {
            return Ok((finding, rows));
        }
    }
}

/// It delivered since then, and nothing waits: the drill was not overtaken.
fn taken(before: &[SinkRow], row: SinkRow) -> (SinkRow, bool) {
    let sent = before.iter().find(|known| known.name == row.name).map_or(0, |known| known.sent);
    let is_taken = row.sent > sent && row.waiting == 0;
    (row, is_taken)
}

/// The first line that is answered to a word.
fn first<T: DeserializeOwned>(config: &Path, word: &str) -> Result<T, u8> {
    status::first(&mut lines(config, word)?).map_err(|error| unreachable(&error))
}

fn text(severity: Grade, finding: &str, rows: &[(SinkRow, bool)]) -> String {
    let mut out = format!("drill {DRILL}, {}, finding {finding}\n", severity.as_str());
    for (row, taken) in rows {
        let name = printable(&row.name);
        out.push_str(&match (taken, row.trouble.as_str()) {
            (true, _) => format!("  taken    {name}\n"),
            (false, "") => format!("  not yet  {name}\n"),
            (false, why) => format!("  not yet  {name}: {}\n", printable(why)),
        });
    }
    out.push_str("A page comes after Alertmanager's group_wait, and its end after `hold` of the sink: see that both arrive.\n");
    out
}

fn as_json(severity: Grade, finding: &str, rows: &[(SinkRow, bool)]) -> Value {
    let sinks: Vec<Value> = rows
        .iter()
        .map(|(row, taken)| json!({"name": row.name, "taken": taken, "trouble": row.trouble}))
        .collect();
    json!({"schema": 1, "rule": DRILL, "severity": severity.as_str(), "finding": finding, "sinks": sinks})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Severity;

    fn row(name: &str, sent: u64, waiting: u64, trouble: &str) -> SinkRow {
        SinkRow { name: name.to_owned(), sent, waiting, trouble: trouble.to_owned() }
    }

    #[test]
    fn a_sink_took_the_drill_when_it_delivered_since_and_nothing_waits() {
        let before = [row("file a", 7, 0, ""), row("webhook b", 7, 0, ""), row("journald", 7, 0, "")];
        let after = [
            row("file a", 9, 0, ""),
            row("webhook b", 8, 1, ""),
            row("journald", 7, 2, "no\u{1b} socket"),
            row("new", 1, 0, ""),
        ];
        let rows: Vec<_> = after.into_iter().map(|row| taken(&before, row)).collect();
        insta::assert_snapshot!(text(Grade::High, "f", &rows), @r"
        drill WB-0000, high, finding f
          taken    file a
          not yet  webhook b
          not yet  journald: no\u{1b} socket
          taken    new
        A page comes after Alertmanager's group_wait, and its end after `hold` of the sink: see that both arrive.
        ");
    }

    #[test]
    fn what_can_be_typed_is_what_there_is() {
        let typed: Vec<&str> =
            <Grade as clap::ValueEnum>::value_variants().iter().map(|one| one.as_str()).collect();
        assert_eq!(typed, Severity::ALL.map(Severity::as_str));
    }
}
