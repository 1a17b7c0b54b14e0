//! The figures of the rule engine: what the agent's own bench target prints, as rows of the table. It must not know what is
//! measured, nor needs it rights.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Row;
use crate::shell;

/// Builds and runs the bench of the agent's package.
pub(super) fn rows(quick: bool) -> Result<Vec<Row>> {
    let mut command = shell::cargo();
    command.args(["bench", "--locked", "-p", "weighbridge", "--bench", "engine", "--"]);
    command.args(quick.then_some("--quick"));
    eprintln!("$ {}", shell::line(&command));
    let done = command.stderr(Stdio::inherit()).output().context("cannot start the bench of the engine")?;
    ensure!(done.status.success(), "the bench of the engine failed with {}", done.status);
    let text = String::from_utf8(done.stdout).context("the bench of the engine printed no text")?;
    // Cargo's own lines go to standard error; an empty one may be left.
    let rows: Vec<Row> = text.lines().filter(|line| !line.is_empty()).map(row).collect::<Result<_>>()?;
    ensure!(!rows.is_empty(), "the bench of the engine measured nothing");
    Ok(rows)
}

fn row(line: &str) -> Result<Row> {
    let figure: Value = serde_json::from_str(line).with_context(|| format!("no figure: {line}"))?;
    let word = |key: &str| figure[key].as_str().with_context(|| format!("a figure without `{key}`: {line}"));
    let values = figure["values"].as_array().with_context(|| format!("a figure without values: {line}"))?;
    Ok(Row {
        name: word("name")?.to_owned(),
        unit: word("unit")?.to_owned(),
        without: Vec::new(),
        with: values.iter().filter_map(Value::as_f64).collect(),
        asked: word("asked")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_row() {
        let row = row(
            r#"{"name": "replay", "unit": "M records/s", "asked": "at least 1.5", "values": [1.5, 2, 1.75]}"#,
        )
        .unwrap();
        assert_eq!(row.figures(), (None, 1.75, None, None));
        assert!(super::row(r#"{"name": "replay"}"#).is_err());
    }
}
