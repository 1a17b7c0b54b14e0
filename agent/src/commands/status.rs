//! `weighbridge status`, `tail` and `top`: what the running agent sees, read through its socket.

use std::{fmt::Write as _, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{INVALID, OK, Output, UNREACHABLE, print};
use crate::{
    alerts::{human_bytes, printable},
    status::{BudgetRow, FlowRow, HolderRow, Snapshot, Unreachable, Watch, watch},
    yaml,
};

/// Rows of each table.
const ROWS: usize = 12;

/// One screen.
pub(super) fn status(config: &Path, output: Output, colour: bool) -> u8 {
    look(config, "status", |line, snapshot| match output {
        Output::Json => print(line),
        Output::Text => print(&screen(snapshot, colour)),
    })
}

/// The same as it moves, on a terminal; off one a line of JSON each second.
pub(super) fn top(config: &Path, output: Output, is_terminal: bool) -> u8 {
    if output == Output::Text && is_terminal {
        return match lines(config, "top") {
            Ok(lines) => super::top::run(lines),
            Err(code) => code,
        };
    }
    look(config, "top", |line, _: &Snapshot| print(line))
}

/// Alert lines as they are written.
pub(super) fn tail(config: &Path, output: Output, is_terminal: bool) -> u8 {
    look(config, "tail", |line, alert: &Map<String, Value>| {
        if output == Output::Json || !is_terminal {
            return print(line);
        }
        let alert = Value::Object(alert.clone());
        let text =
            |pointer: &str| printable(alert.pointer(pointer).and_then(Value::as_str).unwrap_or_default());
        match alert["skipped"].as_u64() {
            Some(lines) => print(&format!("({lines} alert lines came too fast and were skipped here)\n")),
            None => print(&format!(
                "{:<8}  {}  {}  {}\n",
                text("/severity"),
                text("/unmapped/weighbridge/rule"),
                text("/activity_name"),
                text("/message"),
            )),
        }
    })
}

/// What the running agent says of itself now.
///
/// # Errors
/// In words, when it cannot be asked.
pub(super) fn ask(config: &Path) -> Result<Snapshot, (u8, String)> {
    let config = crate::config::load(config).map_err(|faults| (INVALID, yaml::render(&faults, false)))?;
    let away = |error: Unreachable| (UNREACHABLE, error.to_string());
    first(&mut watch(&config.state_dir, "status").map_err(away)?).map_err(away)
}

/// The first line of an answer.
pub(super) fn first<T: DeserializeOwned>(lines: &mut Watch) -> Result<T, Unreachable> {
    let line = lines.next().unwrap_or_else(|| Err(lines.hung_up()))?;
    serde_json::from_str(&line).map_err(|error| lines.garbage(error))
}

/// Asks the agent of this configuration. The error is the exit code; why was said.
pub(super) fn lines(config: &Path, word: &str) -> Result<Watch, u8> {
    let config = crate::config::load(config).map_err(|faults| {
        eprint!("{}", yaml::render(&faults, false));
        INVALID
    })?;
    watch(&config.state_dir, word).map_err(|error| unreachable(&error))
}

/// Says why the agent cannot be asked; the exit code.
pub(super) fn unreachable(error: &Unreachable) -> u8 {
    eprintln!("error: {error}");
    UNREACHABLE
}

/// Shows each line that makes sense. What does not is not shown in any form: it can be anybody's.
fn look<T: DeserializeOwned>(config: &Path, word: &str, mut show: impl FnMut(&str, &T)) -> u8 {
    let mut lines = match lines(config, word) {
        Ok(lines) => lines,
        Err(code) => return code,
    };
    let mut seen = false;
    while let Some(line) = lines.next() {
        let read = line.and_then(|line| match serde_json::from_str(&line) {
            Ok(what) => Ok((line, what)),
            Err(error) => Err(lines.garbage(error)),
        });
        match read {
            Ok((line, what)) => show(&line, &what),
            Err(error) => return unreachable(&error),
        }
        seen = true;
    }
    if seen && word == "status" { OK } else { unreachable(&lines.hung_up()) }
}

fn screen(now: &Snapshot, colour: bool) -> String {
    let bold = |text: &str| if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
    let seconds = (now.at_ms - now.started_ms).max(0) / 1000;
    let mut out = format!(
        "{}  pid {}  up {}  sensor {}\n",
        bold(&format!("weighbridge {}", printable(&now.version))),
        now.pid,
        since(seconds),
        printable(&now.sensor)
    );
    let mut line = |label: &str, text: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label:<9} {text}");
    };
    let list = |pairs: &[(String, u64)], none: &str| {
        let some: Vec<String> = pairs
            .iter()
            .filter(|(_, n)| *n != 0)
            .map(|(name, n)| format!("{n} {}", printable(name)))
            .collect();
        if some.is_empty() { none.to_owned() } else { some.join(", ") }
    };
    let total: u64 = now.assets.iter().map(|asset| asset.bytes).sum();
    line("assets", format!("{}, {}", now.assets.len(), human_bytes(total)));
    line("findings", format!("{}; {} lines written", list(&now.open, "none open"), now.sequence));
    line("rules", format!("{}, set {}", now.rules, now.rules_digest.get(..12).unwrap_or_default()));
    let dear: Vec<String> = now
        .rule_seconds
        .iter()
        .filter(|(_, seconds)| *seconds > 0.0)
        .take(3)
        .map(|(rule, seconds)| format!("{} {seconds:.3} s", printable(rule)))
        .collect();
    if !dear.is_empty() {
        line("dearest", dear.join(", "));
    }
    line("lost", list(&now.loss, "nothing"));
    for (hook, reason) in &now.missing_hooks {
        line("no hook", format!("{}: {}", printable(hook), printable(reason)));
    }
    let _ = writeln!(out, "\n{}", bold(&format!("holders ({})", now.holder_count)));
    for HolderRow { pid, exe, asset, taken, asset_bytes, exited, .. } in now.holders.iter().take(ROWS) {
        let share = *taken as f64 * 100.0 / (*asset_bytes).max(1) as f64;
        let gone = if *exited { " (ended)" } else { "" };
        let _ = writeln!(
            out,
            "  {:>10}  {share:>5.1} % of {:<16} {} (pid {pid}){gone}",
            human_bytes(*taken),
            printable(asset),
            printable(exe)
        );
    }
    let _ = writeln!(out, "\n{}", bold(&format!("can have reached ({})", now.flow_count)));
    for FlowRow { pid, exe, asset, bound, to, control, .. } in now.flows.iter().take(ROWS) {
        let _ = writeln!(
            out,
            "  {:>10}  {:<12} of {:<16} {}  by {} (pid {pid})",
            human_bytes(*bound),
            printable(control),
            printable(asset),
            printable(to),
            printable(exe)
        );
    }
    let _ = writeln!(out, "\n{}", bold(&format!("budgets ({})", now.budget_count)));
    for row in now.budgets.iter().take(ROWS) {
        let BudgetRow { rule, budget, severity, .. } = row;
        let _ = writeln!(
            out,
            "  {:>10}  {:>7} of {:<10} to {:<8} {} {} of {}",
            amount(row, row.sum),
            used(row),
            amount(row, row.line),
            printable(severity),
            printable(rule),
            printable(budget),
            whose(row)
        );
    }
    out
}

/// Bytes, or a number of events or values.
pub(super) fn amount(row: &BudgetRow, value: u64) -> String {
    if matches!(row.measure.as_str(), "count" | "distinct") { value.to_string() } else { human_bytes(value) }
}

/// How much of a budget is used up.
pub(super) fn used(row: &BudgetRow) -> String {
    format!("{:.1} %", row.sum as f64 / row.line.max(1) as f64 * 100.0)
}

/// What a budget is kept for.
pub(super) fn whose(row: &BudgetRow) -> String {
    let of = if row.of.is_empty() { "the host".to_owned() } else { printable(&row.of) };
    if row.exception.is_empty() { of } else { format!("{of} (excepted: {})", printable(&row.exception)) }
}

/// `3 d 4 h`, `12 m 7 s`.
pub(super) fn since(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} m {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} m"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen_says_it_all_and_cannot_drive_a_terminal() {
        let now = Snapshot {
            schema: 1,
            version: "0.1.0".to_owned(),
            pid: 812,
            at_ms: 1_000_000_000 + 11_520_000,
            started_ms: 1_000_000_000,
            sensor: "syscall".to_owned(),
            missing_hooks: vec![],
            rules: 10,
            rules_digest: "ab".repeat(32),
            rule_seconds: vec![("WB-0003".to_owned(), 1.25), ("WB-0001".to_owned(), 0.0)],
            sequence: 240,
            open: vec![("critical".to_owned(), 1), ("low".to_owned(), 0)],
            assets: vec![crate::status::AssetRow {
                name: "llm".to_owned(),
                kind: "weights".to_owned(),
                bytes: 1 << 30,
            }],
            holders: vec![HolderRow {
                pid: 7,
                exe: "/usr/bin/c\x1b[2Jp".to_owned(),
                cmdline: String::new(),
                uid: 0,
                asset: "llm".to_owned(),
                taken: 1 << 29,
                asset_bytes: 1 << 30,
                exited: true,
            }],
            holder_count: 1,
            flows: vec![],
            flow_count: 0,
            budgets: vec![BudgetRow {
                rule: "WB-0003".to_owned(),
                budget: "day".to_owned(),
                exception: String::new(),
                of: "llm".to_owned(),
                over_seconds: 86_400,
                measure: "bound".to_owned(),
                sum: 96 << 20,
                line: 128 << 20,
                severity: "high".to_owned(),
                is_reached: false,
            }],
            budget_count: 1,
            loss: vec![],
            sinks: vec![],
        };
        insta::assert_snapshot!(screen(&now, false), @r#"
        weighbridge 0.1.0  pid 812  up 3 h 12 m  sensor syscall
        assets    1, 1.0 GiB
        findings  1 critical; 240 lines written
        rules     10, set abababababab
        dearest   WB-0003 1.250 s
        lost      nothing

        holders (1)
           512.0 MiB   50.0 % of llm              /usr/bin/c\u{1b}[2Jp (pid 7) (ended)

        can have reached (0)

        budgets (1)
            96.0 MiB   75.0 % of 128.0 MiB  to high     WB-0003 day of llm
        "#);
    }
}
