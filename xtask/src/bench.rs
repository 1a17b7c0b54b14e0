//! `cargo xtask bench`: what the agent costs. Every figure is measured without and with the agent in alternating rounds, so
//! that a change of the machine's mood hits both; medians of the least of some tries, their ratio, and the spread of the rounds are
//! shown.
//!
//! It reports and never judges: on a shared host a time is no test. It writes nothing into the tree unless told to. What it
//! needs is built before the first measurement, and each part's figures are shown as soon as they are known, so that a part
//! that fails costs no other part's figures.

mod delivery;
mod engine;
mod row;

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
// The leading colons: this file has a module of the same name.
use ::tests::lab::{
    GIB, Lab, MIB,
    agent::{Agent, Config, Fitness, fitness},
    alert::Alert,
    process::{self, Finished, Running},
    volume::Volume,
    weights::{Weights, safetensors},
};

use self::row::{Report, Row};
use crate::{UNFIT, build, setup, shell};

/// For a load of 4 GiB on a slow machine.
const PATIENCE: Duration = Duration::from_secs(600);
const ALERT_WITHIN: Duration = Duration::from_secs(10);
/// Each of them has a mark of its own.
const ASSETS_PER_RUN: usize = 50;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Small sizes and few rounds: to see that it works, not to quote
    #[arg(long)]
    quick: bool,
    /// Only the figures of the rule engine, which need neither root nor eBPF
    #[arg(long)]
    engine: bool,
    /// Only what concerns alerts on their way and the service: a real Alertmanager, the queue, the scrape, the start
    #[arg(long, conflicts_with = "engine")]
    delivery: bool,
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
    /// Alerts that wait while no Alertmanager runs.
    queued: u32,
    scrapes: usize,
    starts: usize,
}

const FULL: Sizes = Sizes {
    rounds: 9,
    calls: 1_000_000,
    shard: 2 * GIB,
    registered: 10_000,
    idle: Duration::from_secs(60),
    latency_runs: 3,
    queued: 10_000,
    scrapes: 500,
    starts: 15,
};
const QUICK: Sizes = Sizes {
    rounds: 3,
    calls: 200_000,
    shard: 128 * MIB,
    registered: 1_000,
    idle: Duration::from_secs(5),
    latency_runs: 1,
    queued: 1_000,
    scrapes: 50,
    starts: 3,
};

/// Runs the chore.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.engine && !shell::is_root() {
        eprintln!(
            "error: the bench mounts scratch volumes and loads eBPF programs: run it as root, `sudo -E cargo xtask bench`"
        );
        return Ok(ExitCode::from(UNFIT));
    }
    setup::ensure()?;
    // All of it first: what does not build must not show when half of it is measured.
    let engine = if args.delivery { None } else { Some(engine::build()?) };
    let mut report = Report::new(args.output == "json", args.quick, args.write.clone());
    if args.engine {
        report.part("the rule engine", |rows| engine::measure(engine.as_deref(), args.quick, rows));
        return report.end();
    }
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
    {
        let bench = Bench::set_up(binary, runner, sizes)?;
        if !args.delivery {
            report.part("with and without the agent", |rows| bench.rounds(rows));
            report.part("the idle agent", |rows| bench.idle(rows));
            report.part("from a byte to its alert", |rows| bench.latency(rows));
        }
        report.part("from a byte to Alertmanager's receiver", |rows| bench.receiver(rows));
        report.part("the queue", |rows| bench.queue(rows));
        report.part("the scrape", |rows| bench.scrape(rows));
        report.part("the start", |rows| bench.start(rows));
    }
    if !args.delivery {
        report.part("the rule engine", |rows| engine::measure(engine.as_deref(), args.quick, rows));
    }
    report.end()
}

struct Bench {
    binary: PathBuf,
    runner: PathBuf,
    sizes: &'static Sizes,
    uncontrolled: Volume,
    controlled: Volume,
    /// After the volumes: fields are dropped in their order, and the scratch directory goes last.
    lab: Lab,
}

impl Bench {
    fn set_up(binary: PathBuf, runner: PathBuf, sizes: &'static Sizes) -> Result<Self> {
        let lab = Lab::enter()?;
        let controlled = Volume::ext4(&lab, "controlled", 8 * GIB)?;
        let uncontrolled = Volume::ext4(&lab, "uncontrolled", 6 * GIB)?;
        Ok(Self { binary, runner, sizes, uncontrolled, controlled, lab })
    }

    /// Two shards in `dir`.
    fn model(&self, dir: PathBuf) -> Result<Weights> {
        eprintln!("making a model of {} MiB", 2 * self.sizes.shard / MIB);
        let bytes = self.sizes.shard.to_string();
        let mut make = Command::new(&self.runner);
        make.args(["work", "weights"]).arg(&dir).args(["2", &bytes]);
        Running::start(&mut make)?.finish(PATIENCE)?.success()?;
        let mut files: Vec<PathBuf> = fs::read_dir(&dir)
            .context("cannot list the model")?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        Ok(Weights { dir, files, bytes: 2 * self.sizes.shard })
    }

    /// A directory of many small registered files, made once.
    fn many(&self) -> Result<PathBuf> {
        let dir = self.controlled.path().join("many");
        if dir.is_dir() {
            return Ok(dir);
        }
        fs::create_dir(&dir).context("cannot make a directory for many files")?;
        for number in 0..self.sizes.registered {
            safetensors(&dir.join(format!("{number:05}.safetensors")), 1024, u64::from(number))?;
        }
        Ok(dir)
    }

    /// Everything that is compared with a host that has no agent. The model lies in memory, and so does its copy: there a cost
    /// shows most, and neither a disk nor the reclaim of a page cache is measured instead.
    fn rounds(&self, rows: &mut Vec<Row>) -> Result<()> {
        let inside = Volume::memory(&self.lab, "memory", 2 * self.sizes.shard + 64 * MIB)?;
        let outside = Volume::memory(&self.lab, "memory-outside", self.sizes.shard + 64 * MIB)?;
        let model = self.model(inside.path().join("model"))?;
        let page = self.controlled.path().join("page");
        fs::write(&page, [7_u8; 4096]).context("cannot make a page to read")?;
        let page = page.display().to_string();
        let shard = model.files[0].display().to_string();
        let mut measure = |round: usize, with: bool| -> Result<()> {
            let mut config = self.config()?.asset("model", &model.dir);
            config.controlled.push(inside.path().to_path_buf());
            let agent = with.then(|| self.agent(config)).transpose()?;
            let calls = self.sizes.calls.to_string();
            let added = "at most 60 ns added";
            let work = |words: &[&str]| least(|| self.work(words));
            let load = |way: &str| least(|| Ok(self.load(way, &model)? / 1e6));
            let figures = [
                ("getppid", "ns", added, work(&["getppid", &calls])?),
                ("read of 1 byte", "ns", added, work(&["read", &calls, "/dev/zero"])?),
                ("pread of 4 KiB", "ns", added, work(&["pread", &calls, &page])?),
                ("pread of 4 KiB of the model", "ns", "", work(&["pread", &calls, &shard])?),
                ("model load by mmap", "ms", "at most 1.01", load("load-mmap")?),
                ("model load by 1 MiB reads", "ms", "at most 1.01", load("load-read")?),
                ("model load with O_DIRECT", "ms", "at most 1.01", load("load-direct")?),
                ("cp of one shard", "ms", "at most 1.02", least(|| copy(&model, &outside))?),
            ];
            for (at, (name, unit, asked, value)) in figures.into_iter().enumerate() {
                if rows.len() == at {
                    rows.push(Row {
                        name: name.to_owned(),
                        unit: unit.to_owned(),
                        without: Vec::new(),
                        with: Vec::new(),
                        asked: asked.to_owned(),
                    });
                }
                let row = &mut rows[at];
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
        let dir = self.many()?;
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
            let (config, models) = self.assets(&format!("latency{run}"), ASSETS_PER_RUN, self.config()?)?;
            let mut agent = self.agent(config)?;
            for (name, model) in &models {
                let running = self.steal_part(name, model)?;
                let seen = agent.wait(ALERT_WITHIN, |alerts| {
                    let wanted = |alert: &&Alert| alert.asset() == name && alert.rule() == "WB-0001";
                    alerts.iter().find(wanted).map(|_| process::boot_ns())
                })?;
                let seen = seen.with_context(|| format!("no alert for {name} within {ALERT_WITHIN:?}"))?;
                all.push(seen.saturating_sub(crossed(running)?) as f64 / 1e6);
            }
            agent.stop()?;
        }
        row::percentiles(rows, "byte to alert line", "ms", all, "at most 100")
    }

    /// Assets of one shard each, so that every trial has one of its own.
    fn assets(&self, folder: &str, count: usize, config: Config) -> Result<(Config, Vec<(String, Weights)>)> {
        self.assets_of(2 * MIB, folder, count, config)
    }

    /// The same of `bytes` each.
    fn assets_of(
        &self,
        bytes: u64,
        folder: &str,
        count: usize,
        config: Config,
    ) -> Result<(Config, Vec<(String, Weights)>)> {
        let base = self.controlled.path().join(folder);
        let (mut config, mut models) = (config, Vec::new());
        for number in 0..count {
            let name = format!("asset{number}");
            let model = Weights::safetensors(&base.join(&name), 1, bytes, number as u64)?;
            config = config.asset(&name, &model.dir);
            models.push((name, model));
        }
        Ok((config, models))
    }

    /// Starts a copy of the part of a model that crosses the lowest line; see [`crossed`].
    fn steal_part(&self, name: &str, model: &Weights) -> Result<Running> {
        let mut part = Command::new(&self.runner);
        part.args(["work", "part"]).arg(&model.files[0]).arg(self.uncontrolled.path().join(name));
        Running::start(part.arg(MIB.to_string()))
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

    fn load(&self, way: &str, model: &Weights) -> Result<f64> {
        let files: Vec<String> = model.files.iter().map(|file| file.display().to_string()).collect();
        let words: Vec<&str> = std::iter::once(way).chain(files.iter().map(String::as_str)).collect();
        self.work(&words)
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

/// The least of some tries: what comes on top of it is the machine's.
fn least(measure: impl Fn() -> Result<f64>) -> Result<f64> {
    const TRIES: usize = 5;
    (0..TRIES).try_fold(f64::INFINITY, |least, _| Ok(measure()?.min(least)))
}

/// Milliseconds that `cp` of the first shard takes, from its start to its end.
fn copy(model: &Weights, to: &Volume) -> Result<f64> {
    let copy = to.path().join("copy");
    let start = Instant::now();
    let cp = Running::start(Command::new("cp").arg(&model.files[0]).arg(&copy))?;
    cp.finish(PATIENCE)?.success()?;
    let took = start.elapsed().as_nanos() as f64 / 1e6;
    fs::remove_file(&copy).context("cannot remove the copy")?;
    Ok(took)
}

/// When the mover wrote the byte that crossed the line, in ns since boot, which it prints.
fn crossed(running: Running) -> Result<u64> {
    let finished = running.finish(PATIENCE)?;
    finished.stdout.trim().parse().with_context(|| format!("no time came: {}", finished.stderr))
}

/// Agents that are none of the bench's own.
fn agents_running() -> usize {
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let named = |comm: String| comm.trim_end() == "weighbridge";
    processes.flatten().filter(|one| fs::read_to_string(one.path().join("comm")).is_ok_and(named)).count()
}
