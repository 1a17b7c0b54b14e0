//! The lines of `weighbridge doctor`, for people and for scripts. It must not know what is looked at.

use std::fmt::Write as _;

use serde::Serialize;

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable, for scripts: lower case, words joined by `_`.
    pub name: &'static str,
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do; `None` when there is nothing to do.
    pub remedy: Option<String>,
}

words! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Status {
        Ok = "ok",
        /// A limit that no host can lift; named so that nobody believes otherwise.
        Info = "info",
        /// The agent works, but sees less or the host is weaker than it need be.
        Warn = "warn",
        /// The agent cannot work.
        Fail = "fail",
    }
}

impl Status {
    /// The terminal's colour: green, blue, yellow, red.
    const fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Info => "34",
            Self::Warn => "33",
            Self::Fail => "31",
        }
    }
}

impl Check {
    #[must_use]
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    #[must_use]
    pub fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    #[must_use]
    pub fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    #[must_use]
    pub fn info(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Info, detail: detail.into(), remedy: None }
    }
}

/// The worst status of all; [`Status::Ok`] for none.
#[must_use]
pub fn worst(checks: &[Check]) -> Status {
    checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
}

/// One line per check, and a line with the remedy below those that have one.
#[must_use]
pub fn render(checks: &[Check], colour: bool) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Check { name, status, detail, remedy } in checks {
        let word = format!("{:<4}", status.as_str());
        let word = if colour { format!("\x1b[{}m{word}\x1b[0m", status.colour()) } else { word };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{word}  {name:<width$}  {detail}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:6}{:width$}  -> {remedy}", "", "");
        }
    }
    text
}

/// One JSON document: `schema`, the worst `status`, and the `checks`.
///
/// # Errors
/// Those of serde_json, which has none for this type.
pub fn json(checks: &[Check]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        schema: u32,
        status: Status,
        checks: &'a [Check],
    }
    serde_json::to_string_pretty(&Report { schema: 1, status: worst(checks), checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_stand_below_their_lines() {
        let checks = [Check::ok("arch", "x86_64"), Check::warn("swap", "on", "swapoff -a")];
        insta::assert_snapshot!(render(&checks, false), @r"
        ok    arch  x86_64
        warn  swap  on
                    -> swapoff -a
        ");
        assert!(render(&checks, true).starts_with("\x1b[32mok  \x1b[0m  arch"));
        let parsed: serde_json::Value = serde_json::from_str(&json(&checks).unwrap()).unwrap();
        assert_eq!((parsed["schema"].as_u64(), parsed["status"].as_str()), (Some(1), Some("warn")));
        assert_eq!(parsed["checks"][1]["remedy"], "swapoff -a");
    }
}
