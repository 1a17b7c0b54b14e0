//! An explained alert for a terminal. Every text that came from the log goes through [`printable`]: whoever named a file wrote
//! some of it.

use jiff::Timestamp;

use super::{Considered, Explained, stanza, tree};
use crate::{
    alerts::{destination, human_bytes, percent, printable},
    commands::rules::table::{paint, severity_code},
    event::Process,
};

pub(super) fn render(explained: &Explained, colour: bool) -> String {
    let (told, detail) = (&explained.told, explained.told.detail());
    let head = |text: &str| paint(colour, "1", text);
    let mut out = format!(
        "{}  {}  {}\n",
        paint(colour, severity_code(detail.severity), detail.severity.as_str()),
        head(&printable(&detail.rule)),
        printable(told.title())
    );
    let host = told.host().map(|host| format!(" on {}", printable(host))).unwrap_or_default();
    let mode = if detail.mode == "alert" { String::new() } else { format!(", {}", printable(&detail.mode)) };
    out += &format!(
        "finding {}, line {}, {}{host}{mode}\n",
        printable(told.finding()),
        told.seq(),
        time(told.time)
    );
    out += &format!("\n{}\n  {}\n", head("What happened"), printable(&told.message));
    for step in explained.steps.iter().filter(|_| explained.count > 1) {
        let what = match step.activity_id {
            1 => "opened at",
            3 => "closed at",
            _ => "became",
        };
        let (severity, bytes) = (step.detail().severity.as_str(), human_bytes(step.detail().bound_bytes));
        out += &format!("  {}  {what} {severity}, {bytes}\n", time(step.time));
    }
    if detail.folded > 0 {
        out += &format!("  {} matches of other identities are told as this one\n", detail.folded);
    }
    if !detail.lineage.is_empty() {
        out += &format!("\n{}\n{}", head("The way of the bytes"), indented(&tree::draw(&detail.lineage)));
    }
    if let Some(sink) = &detail.sink {
        out += &format!("  to {}\n", destination(sink));
    }
    if let Some(process) = &detail.process {
        out += &format!("\n{}\n{}", head("Who"), indented(&who(process)));
    }
    if let Some(victim) = &detail.victim {
        out += &format!("\n{}\n{}", head("Whom it reached into"), indented(&who(victim)));
    }
    out += &format!("\n{}\n{}", head("Which line"), indented(&line(explained)));
    for (stage, count) in told.loss() {
        out += &format!("  {count} lost at {} meanwhile: the truth can be more\n", printable(stage));
    }
    out += &format!("\n{}\n{}", head("Exceptions"), indented(&exceptions(explained)));
    if let Some(runbook) = told.runbook() {
        out += &format!("\n{}\n  {}\n", head("Runbook"), printable(runbook));
    }
    match stanza::stanza(told, &explained.record) {
        Some(stanza) => {
            out += &format!("\n{}\n{stanza}", head("If this is wanted, fill in and put into a file of rules"))
        }
        None => out += "\nNothing in this alert tells its doer apart, so no exception is offered.\n",
    }
    for note in &explained.notes {
        out += &format!("\n{} {note}\n", paint(colour, "33", "note:"));
    }
    out
}

fn who(process: &Process) -> String {
    let named = |exe: &str| if exe.is_empty() { "an unknown program".to_owned() } else { printable(exe) };
    let mut out = format!("{} (pid {})\n", named(&process.exe), process.pid);
    if !process.cmdline.is_empty() {
        out += &format!("command  {}\n", printable(&process.cmdline));
    }
    if let Some(sha256) = &process.exe_sha256 {
        out += &format!("sha256   {}\n", printable(sha256));
    }
    let login = process.auid.map_or_else(|| "no login".to_owned(), |auid| format!("login {auid}"));
    out += &format!("user     {}, {login}\n", process.uid);
    for (label, value) in
        [("unit    ", &process.unit), ("container", &process.container), ("cgroup  ", &process.cgroup)]
    {
        if let Some(value) = value {
            out += &format!("{label} {}\n", printable(value));
        }
    }
    for (depth, above) in process.ancestry.iter().enumerate() {
        let label = if depth == 0 { "below   " } else { "        " };
        out += &format!("{label} {} (pid {})\n", named(&above.exe), above.pid);
    }
    out
}

fn line(explained: &Explained) -> String {
    let detail = explained.told.detail();
    let mut out = String::new();
    if let Some(line) = &detail.crossed {
        let amount = |value: u64| match line.measure.as_str() {
            "count" | "distinct" => value.to_string(),
            _ => format!("{} ({value} bytes)", human_bytes(value)),
        };
        let budget =
            line.budget.as_ref().map(|name| format!(" of budget {}", printable(name))).unwrap_or_default();
        out += &format!(
            "{} {} reached {}{budget} within {} s: {}\n",
            printable(&line.measure),
            amount(line.value),
            amount(line.line),
            line.over_seconds,
            detail.severity.as_str()
        );
    }
    if let Some(share) = detail.share {
        out += &format!(
            "at most {} of {} ({})\n",
            percent(share),
            printable(&detail.asset),
            human_bytes(detail.asset_bytes)
        );
    }
    for known in explained.rule().into_iter().flat_map(crate::rules::Rule::lines) {
        out += &format!("the rule has {known}\n");
    }
    if out.is_empty() { "the alert does not say\n".to_owned() } else { out }
}

fn exceptions(explained: &Explained) -> String {
    let mut out = String::new();
    if let Some(one) = &explained.told.detail().exception {
        out += &format!(
            "{} covered it then, until {}, by {}: {}\n",
            printable(&one.id),
            printable(&one.expires),
            printable(&one.owner),
            printable(&one.reason)
        );
    }
    for one in explained.considered() {
        out += &verdict(&one);
    }
    if out.is_empty() { "none names this rule\n".to_owned() } else { out }
}

fn verdict(one: &Considered<'_>) -> String {
    let facts = &one.exception.facts;
    let mut out = match (one.in_force, one.covers) {
        (true, true) => format!("{} applies, until {}, by {}\n", facts.id, facts.expires, facts.owner),
        (true, false) => format!("{} does not apply:\n", facts.id),
        (false, true) => format!("{} would apply, but expired on {}\n", facts.id, facts.expires),
        (false, false) => format!("{} expired on {}, and would not apply:\n", facts.id, facts.expires),
    };
    for weighed in one.conditions.iter().filter(|weighed| !weighed.holds) {
        let is = match &weighed.found {
            Some((field, Some(value))) => format!("; {field} is {}", printable(value)),
            Some((field, None)) => format!("; {field} is not known"),
            None => String::new(),
        };
        let (first, rest) =
            weighed.condition.split_first().map_or(("", [].as_slice()), |(one, more)| (one.as_str(), more));
        out += &format!("  it asks that {first}{is}\n");
        rest.iter().for_each(|line| out += &format!("    {line}\n"));
    }
    out
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
