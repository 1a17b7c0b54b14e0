//! One figure of the bench, and how figures are shown. It must not know how they were measured.

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// One figure.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: String,
    /// One value per round; empty where there is nothing to compare with.
    pub(super) without: Vec<f64>,
    pub(super) with: Vec<f64>,
    /// What is asked for, in words.
    pub(super) asked: String,
}

/// What is known so far. Every part's rows are shown when the part has ended, and written when the report is.
pub(super) struct Report {
    rows: Vec<Row>,
    failed: Vec<String>,
    json: bool,
    quick: bool,
    write: Option<PathBuf>,
}

impl Report {
    pub(super) const fn new(json: bool, quick: bool, write: Option<PathBuf>) -> Self {
        Self { rows: Vec::new(), failed: Vec::new(), json, quick, write }
    }

    /// Measures one part. One that fails is named at the end, with the rows that it had by then.
    pub(super) fn part(&mut self, name: &str, measure: impl FnOnce(&mut Vec<Row>) -> Result<()>) {
        let mut rows = Vec::new();
        let done = measure(&mut rows);
        let is_first = self.rows.is_empty();
        let text = lines(&rows);
        let text = if is_first { format!("{HEAD}{text}") } else { text };
        // With JSON standard output is one value, at the end.
        if self.json {
            eprint!("{text}")
        } else {
            print!("{text}")
        }
        self.rows.extend(rows);
        let written = self.write.as_ref().map_or(Ok(()), |path| {
            fs::write(path, document(&self.rows, self.quick))
                .with_context(|| format!("cannot write {}", path.display()))
        });
        for error in [done, written].into_iter().filter_map(Result::err) {
            eprintln!("error: {name}: {error:#}");
            self.failed.push(name.to_owned());
        }
    }

    /// The last words.
    pub(super) fn end(self) -> Result<ExitCode> {
        if self.json {
            let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
            println!(
                "{}",
                json!({"quick": self.quick, "machine": machine(), "failed": self.failed, "rows": rows})
            );
        }
        if self.failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("error: not measured: {}", self.failed.join(", "));
        Ok(ExitCode::FAILURE)
    }
}

/// The median with the spread, and the 99th percentile, of values that are a trial each.
pub(super) fn percentiles(
    rows: &mut Vec<Row>,
    name: &str,
    unit: &str,
    mut all: Vec<f64>,
    asked: &str,
) -> Result<()> {
    ensure!(!all.is_empty(), "no trial of `{name}` was run");
    all.sort_by(f64::total_cmp);
    let trials = all.len();
    let late = all[((trials as f64 * 0.99).ceil() as usize).clamp(1, trials) - 1];
    rows.push(Row::single(format!("{name}, median of {trials}"), unit, all, ""));
    rows.push(Row::single(format!("{name}, p99 of {trials}"), unit, vec![late], asked));
    Ok(())
}

impl Row {
    pub(super) fn single(name: String, unit: &str, with: Vec<f64>, asked: &str) -> Self {
        Self { name, unit: unit.to_owned(), without: Vec::new(), with, asked: asked.to_owned() }
    }

    /// Median without, median with, difference, ratio; as far as there is something to compare with.
    pub(super) fn figures(&self) -> (Option<f64>, f64, Option<f64>, Option<f64>) {
        let with = median(&self.with);
        let without = (!self.without.is_empty()).then(|| median(&self.without));
        (without, with, without.map(|base| with - base), without.map(|base| with / base))
    }

    /// Half of the distance between the quartiles of the rounds, as a share of the median: the larger of both sides.
    fn spread(&self) -> f64 {
        let of = |values: &[f64]| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            match sorted.as_slice() {
                [] | [_] => 0.0,
                sorted => {
                    let quarter = sorted.len() / 4;
                    (sorted[sorted.len() - 1 - quarter] - sorted[quarter]) / 2.0 / median(values)
                }
            }
        };
        of(&self.with).max(of(&self.without))
    }

    fn json(&self) -> Value {
        let (without, with, added, ratio) = self.figures();
        json!({"name": self.name, "unit": self.unit, "without": without, "with": with, "added": added, "ratio": ratio,
            "spread": self.spread(), "asked": self.asked,
            "rounds": {"without": self.without, "with": self.with}})
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

const HEAD: &str =
    "| what | unit | without | with | added | ratio | spread | asked |\n|---|---|--:|--:|--:|--:|--:|---|\n";

fn lines(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (without, with, added, ratio) = row.figures();
        let number =
            |value: Option<f64>, digits: usize| value.map_or_else(String::new, |v| format!("{v:.digits$}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | ±{:.1} % | {} |",
            row.name,
            row.unit,
            number(without, 1),
            number(Some(with), if with < 10.0 { 3 } else { 1 }),
            number(added, 1),
            number(ratio, 3),
            100.0 * row.spread(),
            row.asked,
        );
    }
    text
}

fn document(rows: &[Row], quick: bool) -> String {
    let quick = if quick { " With `--quick`: small sizes, not to be quoted." } else { "" };
    format!(
        "# What the agent costs\n\nWritten by `cargo xtask bench`. Medians of rounds without and with the agent in turn; the spread is half \
         of the\ndistance between the quartiles.{quick} Measured on {}.\n\n{}",
        machine(),
        HEAD.to_owned() + &lines(rows)
    )
}

/// Kernel, processor and number of cores: without them no figure means anything.
fn machine() -> String {
    let uname = rustix::system::uname();
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = model.unwrap_or_else(|| "an unknown processor".to_owned());
    format!("Linux {}, {cores} cores of {model}", uname.release().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_row_compares_medians() {
        let row = Row {
            name: "x".to_owned(),
            unit: "ns".to_owned(),
            without: vec![100.0, 110.0, 90.0],
            with: vec![150.0, 160.0, 140.0],
            asked: String::new(),
        };
        assert_eq!(row.figures(), (Some(100.0), 150.0, Some(50.0), Some(1.5)));
        let single = Row::single("y".to_owned(), "MiB", vec![12.0], "at most 32");
        assert_eq!(single.figures(), (None, 12.0, None, None));
        assert_eq!(single.spread(), 0.0);
    }

    #[test]
    fn the_table_has_one_line_per_row() {
        let text = lines(&[Row::single("memory".to_owned(), "MiB", vec![12.0], "at most 32")]);
        assert_eq!(text.lines().next(), Some("| memory | MiB |  | 12.0 |  |  | ±0.0 % | at most 32 |"));
    }
}
