//! An alert for a person at a terminal: a few lines that answer what, how much, by whom, where to.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};

use super::{Activity, Alert, own, words};
use crate::rules::{Mode, Severity};

/// The alert as text that ends with a line feed; with ANSI colours if `colour`. Contains no control characters of
/// anybody else.
#[must_use]
pub fn render(alert: &Alert, colour: bool) -> String {
    let matched = &*alert.matched;
    let paint = |code: &str, text: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let what = match alert.activity {
        Activity::Create => "",
        Activity::Update => " (update)",
        Activity::Close => " (closed)",
    };
    let shadow = match (&matched.exception, matched.mode) {
        (Some(exception), _) => format!(" [excepted by {}]", words::printable(&exception.id)),
        (None, Mode::Shadow) => " [shadow]".to_owned(),
        (None, _) => String::new(),
    };
    let process = words::largest(matched);
    let mut out = format!(
        "{}  {}  {}{shadow}{what}  {}\n",
        utc(alert.finding.time),
        paint(severity_code(matched.severity), matched.severity.as_str()),
        paint("1", &matched.rule.id),
        words::printable(&matched.rule.title),
    );
    let mut line = |label: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "    {} {text}", paint("2", &format!("{label:<8}")));
    };
    if own::is_own(matched) {
        line("what", &words::printable(&alert.finding.message));
        return out;
    }
    let record = &matched.record;
    if let Some(act) = &record.act {
        line("what", &words::deed(act, record.victim.as_deref()));
    }
    match (&record.act, record.asset.name.is_empty()) {
        (_, true) => {}
        (Some(_), false) if matched.bound_bytes == 0 => {
            line("asset", &words::printable(&record.asset.name));
        }
        (Some(_), false) => line("in reach", &format!("up to {}", words::how_much(matched))),
        (None, false) => line("how much", &format!("up to {}", words::how_much(matched))),
    }
    match record.sink.as_deref() {
        Some(sink) => line("where to", &words::destination(sink)),
        None if record.act.is_none() => line("where to", "nowhere yet: it was taken"),
        None => {}
    }
    if process.pid == 0 {
        line("by", "the host as a whole");
    } else {
        line("by", &words::who(process));
    }
    if !process.cmdline.is_empty() {
        line("command", &short(&words::printable(&process.cmdline)));
    }
    if matched.folded > 0 {
        line("floods", &format!("{} matches of other identities are told as this one", matched.folded));
    }
    if matched.contributors.count > 1 {
        line("with", &format!("{} processes in all", matched.contributors.count));
    }
    let ancestry: Vec<String> = process
        .ancestry
        .iter()
        .map(|a| {
            let name = a.exe.rsplit('/').next().unwrap_or_default();
            format!("{} {}", if name.is_empty() { "?".to_owned() } else { words::printable(name) }, a.pid)
        })
        .collect();
    if !ancestry.is_empty() {
        line("below", &short(&ancestry.join(" < ")));
    }
    let loss = alert.finding.loss();
    if !loss.is_empty() {
        let lost: Vec<String> = loss.iter().map(|(stage, count)| format!("{count} at {stage}")).collect();
        line("lost", &lost.join(", "));
    }
    out
}

const fn severity_code(severity: Severity) -> &'static str {
    match severity {
        Severity::Informational => "2",
        Severity::Low => "36",
        Severity::Medium => "33",
        Severity::High => "31",
        Severity::Critical => "1;41;97",
    }
}

/// `2026-11-22 05:43:55.123Z`.
fn utc(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

/// At most one line of an ordinary terminal, by characters.
fn short(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}
