//! `cargo xtask score`: every technique and every benign look-alike that this machine can stage, what the agent said of
//! each, and how that compares with the truth. It writes docs/coverage.md, whose form is stable, so that the run of another
//! kernel or sensor can be laid beside it.
//!
//! It counts what the end-to-end tests report. What a technique is and what must be raised is theirs to know.

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{UNFIT, build, setup, shell, test};

/// Which techniques of the catalogue which tests stage, and why the others cannot be: `id | technique | tests or reason`.
const CATALOGUE: &str = include_str!("../../tests/catalogue.txt");
/// Two groups of tests of the end-to-end runner.
const TECHNIQUES: &str = "techniques::";
const BENIGN: &str = "benign::";
/// How reasons of skips start that are no skips for the score: `hole` and `unsettled` of the tests' world say so.
const MISSED: [&str; 2] = ["a hole that docs/limits.md names", "fails now and then"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stage only what contains this, and leave docs/coverage.md as it is
    filter: Option<String>,
    /// Read the report of an end-to-end run that is over (`e2e --report FILE`) instead of running anything
    #[arg(long, value_name = "FILE", conflicts_with = "filter")]
    from: Option<PathBuf>,
    /// Where to write the table
    #[arg(long, value_name = "FILE", default_value = "docs/coverage.md")]
    write: PathBuf,
}

/// Runs the chore. The last line on stdout has the form `93 of 97 techniques, 20 of 20 benign`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let text = match &args.from {
        Some(file) => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => match stage(args.filter.as_deref())? {
            Ok(report) => report,
            Err(code) => return Ok(code),
        },
    };
    let score = Score::read(&text, &Catalogue::parse(CATALOGUE)?)?;
    let page = score.page(&kernel());
    if args.filter.is_none() {
        fs::write(&args.write, &page).with_context(|| format!("cannot write {}", args.write.display()))?;
    }
    print!("{page}");
    Ok(if score.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds, runs the tests, and gives their report, or the exit code with which it cannot be had.
fn stage(filter: Option<&str>) -> Result<Result<String, ExitCode>> {
    if !shell::is_root() {
        eprintln!(
            "error: techniques are staged on scratch volumes and weighed by eBPF programs: run it as root"
        );
        return Ok(Err(ExitCode::from(UNFIT)));
    }
    setup::ensure_for_tests()?;
    let Some(binary) = build::release()? else { return Ok(Err(ExitCode::FAILURE)) };
    let filters = filter.map_or_else(|| vec![TECHNIQUES, BENIGN], |filter| vec![filter]);
    let live = test::live(&binary, &filters)?;
    live.report.context("the end-to-end runner left no report").map(Ok)
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        // Major and minor version: the rest names a machine.
        |release| release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join("."),
    )
}

/// One line of the catalogue.
struct Technique {
    id: String,
    title: String,
    staged: Staged,
}

enum Staged {
    /// Parts of test names.
    By(Vec<String>),
    No(String),
}

struct Catalogue(Vec<Technique>);

impl Catalogue {
    /// Lines of `id | technique | test, test` or `id | technique | not: reason`; `#` starts a comment.
    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let techniques = lines.map(|(number, line)| {
            let place =
                || format!("line {} of tests/catalogue.txt is not `id | technique | tests`", number + 1);
            let [id, title, staged] =
                line.splitn(3, '|').map(str::trim).collect::<Vec<_>>().try_into().ok().with_context(place)?;
            let staged = match staged.strip_prefix("not:") {
                Some(reason) => Staged::No(reason.trim().to_owned()),
                None => Staged::By(staged.split(',').map(|test| test.trim().to_owned()).collect()),
            };
            Ok(Technique { id: id.to_owned(), title: title.to_owned(), staged })
        });
        techniques.collect::<Result<_>>().map(Self)
    }

    /// Ids of the techniques that a test stages.
    fn ids(&self, test: &str) -> String {
        let stages = |technique: &&Technique| match &technique.staged {
            Staged::By(tests) => tests.iter().any(|one| test.ends_with(one.as_str())),
            Staged::No(_) => false,
        };
        self.0.iter().filter(stages).map(|one| one.id.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// One test.
struct Row {
    name: String,
    ids: String,
    outcome: String,
    reason: String,
    /// It failed before it was run again.
    repeated: bool,
    findings: Vec<Finding>,
}

struct Finding {
    rule: String,
    truth: u64,
    at_most: u64,
    bound: Option<u64>,
    latency_ms: Option<u64>,
}

struct Score {
    techniques: Vec<Row>,
    benign: Vec<Row>,
    not_staged: Vec<(String, String, String)>,
}

impl Score {
    fn read(report: &str, catalogue: &Catalogue) -> Result<Self> {
        let mut score = Self { techniques: Vec::new(), benign: Vec::new(), not_staged: Vec::new() };
        for (number, line) in report.lines().enumerate() {
            let value: Value = serde_json::from_str(line)
                .with_context(|| format!("line {} of the end-to-end report", number + 1))?;
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let name = text("name");
            let findings: Vec<Finding> = value["findings"]
                .as_array()
                .map(|all| all.iter().map(Finding::read).collect())
                .unwrap_or_default();
            if !name.starts_with(TECHNIQUES) && !name.starts_with(BENIGN) {
                continue;
            }
            let row = Row {
                ids: catalogue.ids(&name),
                name,
                outcome: text("outcome"),
                reason: text("reason"),
                repeated: !text("first").is_empty(),
                findings,
            };
            if row.outcome == "skipped" && !row.is_missed() {
                score.not_staged.push((row.ids, row.name, row.reason));
            } else if row.name.starts_with(TECHNIQUES) && !(value["silent"] == true && row.passed()) {
                score.techniques.push(row);
            } else {
                score.benign.push(row);
            }
        }
        for technique in &catalogue.0 {
            if let Staged::No(reason) = &technique.staged {
                score.not_staged.push((technique.id.clone(), technique.title.clone(), reason.clone()));
            }
        }
        Ok(score)
    }

    fn is_whole(&self) -> bool {
        self.techniques.iter().chain(&self.benign).all(Row::passed)
    }

    /// The whole document; its last line is the total.
    fn page(&self, kernel: &str) -> String {
        let mut page = format!(
            "# Coverage\n\nWritten by `cargo xtask score` on Linux {kernel} with the syscall sensor. Each row is an end-to-end test that moved \
             real bytes: `truth` is what arrived at the destination (for a mapping or another upper bound: the least that is right), `bound` what \
             the alert said, `latency` the time from the byte to the first alert line. Several findings of one test are several \
             values. A row that failed says so.\n\n## Techniques\n\n\
             | technique | catalogue | detected by | truth (bytes) | bound (bytes) | latency (ms) |\n|---|---|---|---|---|---|\n"
        );
        for row in &self.techniques {
            let findings =
                |value: fn(&Finding) -> String| row.findings.iter().map(value).collect::<Vec<_>>().join(", ");
            let by = match (row.passed(), row.repeated) {
                (true, false) if row.findings.is_empty() => "what the test asserts itself".to_owned(),
                (true, false) => findings(Finding::said),
                (true, true) => format!("{} (at the second attempt)", findings(Finding::said)),
                (false, _) => format!("**failed**: {}", row.brief()),
            };
            let _ = writeln!(
                page,
                "| {} | {} | {by} | {} | {} | {} |",
                row.name.trim_start_matches(TECHNIQUES),
                row.ids,
                findings(|f| f.truth.to_string()),
                findings(|f| f.bound.map_or_else(|| "none".to_owned(), |bound| bound.to_string())),
                findings(|f| f.latency_ms.map_or_else(String::new, |ms| ms.to_string())),
            );
        }
        page.push_str(
            "\n## Benign, and below every line\n\n| activity | catalogue | alerts |\n|---|---|---|\n",
        );
        for row in &self.benign {
            let alerts =
                if row.passed() { "none".to_owned() } else { format!("**failed**: {}", row.brief()) };
            let _ = writeln!(page, "| {} | {} | {alerts} |", row.name, row.ids);
        }
        page.push_str("\n## Not staged here\n\n| catalogue | technique | why |\n|---|---|---|\n");
        for (ids, name, reason) in &self.not_staged {
            let _ = writeln!(page, "| {ids} | {name} | {reason} |");
        }
        let mut latencies: Vec<u64> =
            self.techniques.iter().flat_map(|row| &row.findings).filter_map(|f| f.latency_ms).collect();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        let close = self.techniques.iter().flat_map(|row| &row.findings).filter(|f| f.is_close()).count();
        let all = self.techniques.iter().map(|row| row.findings.len()).sum::<usize>();
        let passed = |rows: &[Row]| rows.iter().filter(|row| row.passed()).count();
        let _ = write!(
            page,
            "\nFirst alert line after its byte: median {} ms, 99th percentile {} ms. Bounds between the truth and 1 % above it, or as far above as \
             a mapping allows: {close} of {all}.\n\n{} of {} techniques, {} of {} benign\n",
            at(0.5),
            at(0.99),
            passed(&self.techniques),
            self.techniques.len(),
            passed(&self.benign),
            self.benign.len(),
        );
        page
    }
}

impl Row {
    fn passed(&self) -> bool {
        self.outcome == "passed"
    }

    /// The runner does not fail for it, but bytes went unweighed.
    fn is_missed(&self) -> bool {
        MISSED.iter().any(|reason| self.reason.starts_with(reason))
    }

    /// The first line of why it failed, fit for a cell.
    fn brief(&self) -> String {
        let line = self.reason.lines().next().unwrap_or_default().replace('|', "/");
        // Paths name the machine that it ran on.
        let words =
            line.split(' ').map(|word| if word.contains("=/") || word.starts_with('/') { "…" } else { word });
        words.collect::<Vec<_>>().join(" ").chars().take(160).collect()
    }
}

impl Finding {
    fn read(value: &Value) -> Self {
        Self {
            rule: value["rule"].as_str().unwrap_or_default().to_owned(),
            truth: value["truth"].as_u64().unwrap_or(0),
            at_most: value["at_most"].as_u64().unwrap_or(0),
            bound: value["bound"].as_u64(),
            latency_ms: value["latency_ms"].as_u64(),
        }
    }

    fn said(&self) -> String {
        if self.bound.is_some() { self.rule.clone() } else { format!("~~{}~~", self.rule) }
    }

    fn is_close(&self) -> bool {
        self.bound.is_some_and(|bound| {
            bound >= self.truth && bound <= self.at_most.max(self.truth.saturating_add(self.truth / 100))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"name": "techniques::tools::cp", "outcome": "passed", "reason": "", "findings": [{"rule": "WB-0001", "truth": 100, "at_most": 100, "bound": 100, "latency_ms": 7}]}
{"name": "techniques::calls::mmap", "outcome": "failed", "reason": "not raised\nmore", "findings": [{"rule": "WB-0001", "truth": 5, "at_most": 9, "bound": null, "latency_ms": null}]}
{"name": "techniques::amounts::small", "outcome": "passed", "reason": "", "silent": true, "findings": []}
{"name": "techniques::tamper::pins", "outcome": "passed", "reason": "", "silent": false, "findings": []}
{"name": "techniques::tools::rsync", "outcome": "skipped", "reason": "needs rsync", "findings": []}
{"name": "techniques::remote::scp", "outcome": "passed", "reason": "", "first": "short", "findings": [{"rule": "WB-0002", "truth": 100, "at_most": 100, "bound": 100, "latency_ms": 9}]}
{"name": "techniques::filesystems::fuse", "outcome": "skipped", "reason": "a hole that docs/limits.md names: FUSE", "findings": []}
{"name": "benign::load", "outcome": "passed", "reason": "", "findings": []}
"#;
    const LIST: &str = "# a comment\nR01 | cp | tools::cp\nE18 | RDMA | not: no device\n";

    #[test]
    fn rows_fall_where_they_belong() {
        let score = Score::read(REPORT, &Catalogue::parse(LIST).unwrap()).unwrap();
        let names = |rows: &[Row]| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            names(&score.techniques),
            [
                "techniques::tools::cp",
                "techniques::calls::mmap",
                "techniques::tamper::pins",
                "techniques::remote::scp",
                "techniques::filesystems::fuse"
            ]
        );
        assert_eq!(names(&score.benign), ["techniques::amounts::small", "benign::load"]);
        assert_eq!(score.techniques[0].ids, "R01");
        assert_eq!(score.not_staged.len(), 2);
        assert!(!score.is_whole());
        let page = score.page("6.18");
        assert_eq!(page.lines().last(), Some("3 of 5 techniques, 2 of 2 benign"));
        assert!(page.contains("| remote::scp |  | WB-0002 (at the second attempt) | 100 | 100 | 9 |"));
        assert!(page.contains("| **failed**: a hole that docs/limits.md names: FUSE |"));
        assert!(page.contains("| tools::cp | R01 | WB-0001 | 100 | 100 | 7 |"));
        assert!(page.contains("| calls::mmap |  | **failed**: not raised | 5 | none |  |"));
    }

    #[test]
    fn every_line_of_the_catalogue_can_be_read_and_every_id_is_there_once() {
        let catalogue = Catalogue::parse(CATALOGUE).unwrap();
        let mut ids: Vec<&str> = catalogue.0.iter().map(|technique| technique.id.as_str()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all);
        assert!(Catalogue::parse("R01 cp").is_err());
    }
}
