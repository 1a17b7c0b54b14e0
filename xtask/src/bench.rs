//! `cargo xtask bench`: what the agent costs. Every figure is measured without and with the agent in alternating rounds, so
//! that a change of the machine's mood hits both; medians, their ratio, and the spread of the rounds are shown.
//!
//! It reports and never fails: on a shared host a time is no test. It writes nothing into the tree unless told to.

mod engine;

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
// The leading colons: this file has a module of the same name.
use ::tests::lab::{
    GIB, Lab, MIB,
    agent::{Agent, Config, Fitness, fitness},
    alert::Alert,
    process::{self, Finished, Running},
    volume::Volume,
    weights::{Weights, safetensors},
};

use crate::{UNFIT, build, setup, shell};

/// A load of 4 GiB from a cold cache on a slow disk.
const PATIENCE: Duration = Duration::from_secs(600);
const ALERT_WITHIN: Duration = Duration::from_secs(10);
/// Below the agent's limit of 64 assets.
const ASSETS_PER_RUN: usize = 50;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Small sizes and few rounds: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Only the figures of the rule engine, which need neither root nor eBPF
    #[arg(long)]
    engine: bool,
    /// How to print the results
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
    /// Also write the results as a document, for instance docs/bench.md
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// How much is measured.
struct Sizes {
    rounds: usize,
    calls: u32,
    /// Each of the model's two shards; one of them is what cp copies.
    shard: u64,
    registered: u32,
    idle: Duration,
    latency_runs: usize,
}

const FULL: Sizes = Sizes {
    rounds: 9,
    calls: 1_000_000,
    shard: 2 * GIB,
    registered: 10_000,
    idle: Duration::from_secs(60),
    latency_runs: 3,
};
const QUICK: Sizes = Sizes {
    rounds: 3,
    calls: 200_000,
    shard: 128 * MIB,
    registered: 1_000,
    idle: Duration::from_secs(5),
    latency_runs: 1,
};

/// One figure.
struct Row {
    name: String,
    unit: String,
    /// One value per round; empty where there is nothing to compare with.
    without: Vec<f64>,
    with: Vec<f64>,
    /// What is asked for, in words.
    asked: String,
}

/// Runs the chore.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.engine {
        setup::ensure()?;
        return show(&engine::rows(args.quick)?, args);
    }
    if !shell::is_root() {
        eprintln!(
            "error: the bench mounts scratch volumes and loads eBPF programs: run it as root, `sudo -E cargo xtask bench`"
        );
        return Ok(ExitCode::from(UNFIT));
    }
    setup::ensure()?;
    let (Some(binary), Some(runner)) = (build::release()?, build::runner()?) else {
        return Ok(ExitCode::FAILURE);
    };
    if let Fitness::Unfit(reason) = fitness(&binary)? {
        eprintln!("error: this kernel does not let the agent weigh: {reason}");
        return Ok(ExitCode::from(UNFIT));
    }
    let others = agents_running();
    if others > 0 {
        eprintln!(
            "warning: {others} agents run on this host already: nothing below was measured without one"
        );
    }
    let sizes = if args.quick { &QUICK } else { &FULL };
    let mut rows = Vec::new();
    {
        let bench = Bench::set_up(binary, runner, sizes)?;
        bench.rounds(&mut rows)?;
        bench.idle(&mut rows)?;
        bench.latency(&mut rows)?;
    }
    rows.extend(engine::rows(args.quick)?);
    show(&rows, args)
}

fn show(rows: &[Row], args: &Args) -> Result<ExitCode> {
    if args.output == "json" {
        println!(
            "{}",
            json!({"quick": args.quick, "machine": machine(), "rows": rows.iter().map(Row::json).collect::<Vec<_>>()})
        );
    } else {
        print!("{}", table(rows));
    }
    if let Some(path) = &args.write {
        fs::write(path, document(rows, args.quick))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    binary: PathBuf,
    runner: PathBuf,
    sizes: &'static Sizes,
    model: Weights,
    uncontrolled: Volume,
    controlled: Volume,
    /// After the volumes: fields are dropped in their order, and the scratch directory goes last.
    lab: Lab,
}

impl Bench {
    fn set_up(binary: PathBuf, runner: PathBuf, sizes: &'static Sizes) -> Result<Self> {
        let lab = Lab::enter()?;
        let controlled = Volume::ext4(&lab, "controlled", 3 * sizes.shard + 2 * GIB)?;
        let uncontrolled = Volume::ext4(&lab, "uncontrolled", 2 * sizes.shard + 2 * GIB)?;
        let dir = controlled.path().join("model");
        eprintln!("making a model of {} MiB", 2 * sizes.shard / MIB);
        let bytes = sizes.shard.to_string();
        let mut make = Command::new(&runner);
        make.args(["work", "weights"]).arg(&dir).args(["2", &bytes]);
        Running::start(&mut make)?.finish(PATIENCE)?.success()?;
        let mut files: Vec<PathBuf> = fs::read_dir(&dir)
            .context("cannot list the model")?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        fs::write(controlled.path().join("page"), [7_u8; 4096]).context("cannot make a page to read")?;
        let model = Weights { dir, files, bytes: 2 * sizes.shard };
        let bench = Self { binary, runner, sizes, model, uncontrolled, controlled, lab };
        // Every round then reads from the page cache, where a cost shows most.
        bench.load("load-read")?;
        Ok(bench)
    }

    /// Everything that is compared with a host that has no agent.
    fn rounds(&self, rows: &mut Vec<Row>) -> Result<()> {
        let page = self.controlled.path().join("page").display().to_string();
        let first = rows.len();
        let mut measure = |round: usize, with: bool| -> Result<()> {
            let agent =
                with.then(|| self.agent(self.config()?.asset("model", &self.model.dir))).transpose()?;
            let calls = self.sizes.calls.to_string();
            let added = "at most 60 ns added";
            let figures = [
                ("getppid", "ns", added, self.work(&["getppid", &calls])?),
                ("read of 1 byte", "ns", added, self.work(&["read", &calls, "/dev/zero"])?),
                ("pread of 4 KiB", "ns", added, self.work(&["pread", &calls, &page])?),
                ("model load by mmap", "ms", "at most 1.01", self.load("load-mmap")? / 1e6),
                ("model load by 1 MiB reads", "ms", "at most 1.01", self.load("load-read")? / 1e6),
                ("model load with O_DIRECT", "ms", "at most 1.01", self.load("load-direct")? / 1e6),
                ("cp of one shard", "ms", "at most 1.02", self.copy()? / 1e6),
            ];
            for (at, (name, unit, asked, value)) in figures.into_iter().enumerate() {
                if rows.len() == first + at {
                    rows.push(Row {
                        name: name.to_owned(),
                        unit: unit.to_owned(),
                        without: Vec::new(),
                        with: Vec::new(),
                        asked: asked.to_owned(),
                    });
                }
                let row = &mut rows[first + at];
                if with { &mut row.with } else { &mut row.without }.push(value);
            }
            eprintln!(
                "round {} of {} {} the agent",
                round + 1,
                self.sizes.rounds,
                if with { "with" } else { "without" }
            );
            agent.map_or(Ok(()), |agent| agent.stop().map(drop))
        };
        for round in 0..self.sizes.rounds {
            // The order changes every round: whoever comes second finds a warmer machine.
            let order = if round % 2 == 0 { [false, true] } else { [true, false] };
            for with in order {
                measure(round, with)?;
            }
        }
        Ok(())
    }

    /// An agent with many registered files and nothing to do.
    fn idle(&self, rows: &mut Vec<Row>) -> Result<()> {
        let dir = self.controlled.path().join("many");
        fs::create_dir(&dir).context("cannot make a directory for many files")?;
        for number in 0..self.sizes.registered {
            safetensors(&dir.join(format!("{number:05}.safetensors")), 1024, u64::from(number))?;
        }
        eprintln!("idle for {} s with {} registered files", self.sizes.idle.as_secs(), self.sizes.registered);
        let agent = self.agent(self.config()?.asset("many", &dir))?;
        let ticks = || process::cpu_ticks(agent.pid()).context("the agent is gone");
        let (before, start) = (ticks()?, Instant::now());
        std::thread::sleep(self.sizes.idle);
        let used = (ticks()? - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
        let share = 100.0 * used / start.elapsed().as_secs_f64();
        let resident = process::resident(agent.pid()).context("the agent is gone")? as f64 / MIB as f64;
        agent.stop()?;
        let files = self.sizes.registered;
        rows.push(Row::single(format!("idle, {files} files"), "% of a core", vec![share], "under 0.2"));
        rows.push(Row::single(format!("memory, {files} files"), "MiB", vec![resident], "at most 32"));
        Ok(())
    }

    /// From just before the write that crosses the line to the line in the file. Each trial has an asset of its own, for
    /// only the first alert of a finding comes at once.
    fn latency(&self, rows: &mut Vec<Row>) -> Result<()> {
        let mut all = Vec::new();
        for run in 0..self.sizes.latency_runs {
            eprintln!("latency, run {} of {}", run + 1, self.sizes.latency_runs);
            let base = self.controlled.path().join(format!("latency{run}"));
            let mut config = self.config()?;
            let mut models = Vec::new();
            for number in 0..ASSETS_PER_RUN {
                let name = format!("asset{number}");
                let model = Weights::safetensors(&base.join(&name), 1, 2 * MIB, number as u64)?;
                config = config.asset(&name, &model.dir);
                models.push((name, model));
            }
            let mut agent = self.agent(config)?;
            for (name, model) in &models {
                let copy = self.uncontrolled.path().join(name);
                let mut part = Command::new(&self.runner);
                part.args(["work", "part"]).arg(&model.files[0]).arg(&copy).arg(MIB.to_string());
                let running = Running::start(&mut part)?;
                let seen = agent.wait(ALERT_WITHIN, |alerts| {
                    let wanted = |alert: &&Alert| alert.asset() == name && alert.rule() == "WB-0001";
                    alerts.iter().find(wanted).map(|_| process::boot_ns())
                })?;
                let seen = seen.with_context(|| format!("no alert for {name} within {ALERT_WITHIN:?}"))?;
                let finished = running.finish(PATIENCE)?;
                let crossed: u64 = finished
                    .stdout
                    .trim()
                    .parse()
                    .with_context(|| format!("no time came: {}", finished.stderr))?;
                all.push(seen.saturating_sub(crossed) as f64 / 1e6);
            }
            agent.stop()?;
        }
        ensure!(!all.is_empty(), "no trial of the latency was run");
        all.sort_by(f64::total_cmp);
        let trials = all.len();
        for (name, at, asked) in [("p50", 0.50, ""), ("p99", 0.99, "at most 100")] {
            let value = all[((trials as f64 * at).ceil() as usize).clamp(1, trials) - 1];
            rows.push(Row::single(
                format!("byte to alert line, {name} of {trials}"),
                "ms",
                vec![value],
                asked,
            ));
        }
        Ok(())
    }

    fn config(&self) -> Result<Config> {
        // A fresh state directory for every agent, so that none works on what an earlier one left.
        let work = self.lab.scratch().join(format!("agent{}", process::boot_ns()));
        fs::create_dir(&work).context("cannot make a folder for the agent")?;
        Config::new(&work, self.controlled.path())
    }

    fn agent(&self, config: Config) -> Result<Agent> {
        let file = config.alerts.with_file_name("weighbridge.yaml");
        Agent::start(&self.binary, config, &file)
    }

    fn load(&self, way: &str) -> Result<f64> {
        let files: Vec<String> = self.model.files.iter().map(|file| file.display().to_string()).collect();
        let words: Vec<&str> = std::iter::once(way).chain(files.iter().map(String::as_str)).collect();
        self.work(&words)
    }

    /// Nanoseconds that `cp` of the first shard to the uncontrolled volume takes, from its start to its end.
    fn copy(&self) -> Result<f64> {
        let copy = self.uncontrolled.path().join("copy");
        let start = Instant::now();
        let cp = Running::start(Command::new("cp").arg(&self.model.files[0]).arg(&copy))?;
        cp.finish(PATIENCE)?.success()?;
        let took = start.elapsed().as_nanos() as f64;
        fs::remove_file(&copy).context("cannot remove the copy")?;
        // What is still to be written back must not slow the next figure down.
        rustix::fs::sync();
        Ok(took)
    }

    /// The number that `e2e work` prints.
    fn work(&self, words: &[&str]) -> Result<f64> {
        let running = Running::start(Command::new(&self.runner).arg("work").args(words))?;
        let finished: Finished = running.finish(PATIENCE)?;
        finished
            .stdout
            .trim()
            .parse()
            .with_context(|| format!("{words:?} gave no number: {}", finished.stderr))
    }
}

impl Row {
    fn single(name: String, unit: &str, with: Vec<f64>, asked: &str) -> Self {
        Self { name, unit: unit.to_owned(), without: Vec::new(), with, asked: asked.to_owned() }
    }

    /// Median without, median with, difference, ratio; as far as there is something to compare with.
    fn figures(&self) -> (Option<f64>, f64, Option<f64>, Option<f64>) {
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

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | unit | without | with | added | ratio | spread | asked |\n|---|---|--:|--:|--:|--:|--:|---|\n",
    );
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
        table(rows)
    )
}

/// Agents that are none of the bench's own.
fn agents_running() -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let named = |comm: String| comm.trim_end() == "weighbridge";
    processes.flatten().filter(|one| fs::read_to_string(one.path().join("comm")).is_ok_and(named)).count()
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
        let text = table(&[Row::single("memory".to_owned(), "MiB", vec![12.0], "at most 32")]);
        assert_eq!(text.lines().nth(2), Some("| memory | MiB |  | 12.0 |  |  | ±0.0 % | at most 32 |"));
    }
}
