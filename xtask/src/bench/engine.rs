//! The figures of the rule engine: what the agent's own bench target prints, as rows of the table. It must not know what is
//! measured, nor needs it rights.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::row::Row;
use crate::shell;

/// Builds the bench of the agent's package; the path of its program, which a change of the tree cannot change any more.
pub(super) fn build() -> Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["bench", "--locked", "-p", "weighbridge", "--bench", "engine", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    eprintln!("$ {}", shell::line(&command));
    let done = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(done.status.success(), "the bench of the engine does not build: the lines above say why");
    let text = String::from_utf8(done.stdout).context("cargo printed no text")?;
    let program = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|said| {
        let is_ours = said["reason"] == "compiler-artifact" && said["target"]["name"] == "engine";
        said["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    program.context("cargo does not say where the bench of the engine is")
}

/// Runs it.
pub(super) fn measure(program: Option<&Path>, quick: bool, rows: &mut Vec<Row>) -> Result<()> {
    let mut command = Command::new(program.context("the bench of the engine was not built")?);
    command.args(quick.then_some("--quick")).current_dir(shell::root().join("agent"));
    let done = command.stderr(Stdio::inherit()).output().context("cannot start the bench of the engine")?;
    // Every line is a figure that is known, whatever came after it.
    let text = String::from_utf8(done.stdout).context("the bench of the engine printed no text")?;
    for line in text.lines().filter(|line| !line.is_empty()) {
        rows.push(row(line)?);
    }
    ensure!(done.status.success(), "the bench of the engine failed with {}", done.status);
    ensure!(!rows.is_empty(), "the bench of the engine measured nothing");
    Ok(())
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
