//! `e2e`: runs the end-to-end tests against the running kernel, one after the other.
//!
//! Own small runner because a test can be skipped for a reason that only shows while it runs, and that reason must be
//! counted and listed. It must not know what any test is about. `e2e move` is the tests' own mover of bytes.

mod bad_input;
mod benign;
mod confine;
mod delivery;
mod expect;
mod lab_checks;
mod life;
mod looking;
mod moves;
mod pressure;
mod score;
mod sharers;
mod techniques;
mod work;
mod world;

use std::{
    cell::RefCell,
    fs::File,
    io::{IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::world::{Run, Skipped, Test, World};

const USAGE: &str = "\
usage: e2e [--list] [--long] [--agent PATH] [--package PATH] [--report FILE] [--record DIR] [FILTER…]

Runs the tests whose name contains one of the filters, or all. As root. What failed runs a second time at the end; what passes
then is listed with what it failed with at first.
  --list          print the names and run nothing
  --long          give the tests under pressure their full time: a minute of senders, ten of forks
  --agent PATH    the weighbridge binary; default: the release build beside this one
  --package PATH  the Debian package to try; without one its test is skipped
  --report FILE   write one JSON line per test to FILE
  --record DIR    record what each test does, with names hidden, to DIR, a file for each (of several scenes, the last)
example: e2e --report /run/e2e.ndjson techniques::tools";

/// Where to add a file of tests: its `mod` line, its name and its list.
const GROUPS: &[(&str, &[Test])] = &[
    ("lab", lab_checks::TESTS),
    ("techniques::tools", techniques::tools::TESTS),
    ("techniques::calls", techniques::calls::TESTS),
    ("techniques::python", techniques::python::TESTS),
    ("techniques::i386", techniques::i386::TESTS),
    ("techniques::network", techniques::network::TESTS),
    ("techniques::many", techniques::many::TESTS),
    ("techniques::names", techniques::names::TESTS),
    ("techniques::named", techniques::named::TESTS),
    ("techniques::descriptors", techniques::descriptors::TESTS),
    ("techniques::relays", techniques::relays::TESTS),
    ("techniques::remade", techniques::remade::TESTS),
    ("techniques::passing", techniques::passing::TESTS),
    ("techniques::uring", techniques::uring::TESTS),
    ("techniques::local_sockets", techniques::local_sockets::TESTS),
    ("techniques::namespaces", techniques::namespaces::TESTS),
    ("techniques::insider", techniques::insider::TESTS),
    ("techniques::shared_memory", techniques::shared_memory::TESTS),
    ("techniques::second_asset", techniques::second_asset::TESTS),
    ("techniques::amounts", techniques::amounts::TESTS),
    ("techniques::archives", techniques::archives::TESTS),
    ("techniques::remote", techniques::remote::TESTS),
    ("techniques::filesystems", techniques::filesystems::TESTS),
    ("techniques::disguise", techniques::disguise::TESTS),
    ("techniques::pace", techniques::pace::TESTS),
    ("techniques::gpu", techniques::gpu::TESTS),
    ("techniques::reach", techniques::reach::TESTS),
    ("techniques::below", techniques::below::TESTS),
    ("techniques::channels", techniques::channels::TESTS),
    ("techniques::host_egress", techniques::host_egress::TESTS),
    ("techniques::tamper", techniques::tamper::TESTS),
    ("pressure", pressure::TESTS),
    ("benign", benign::TESTS),
    ("benign::training", benign::training::TESTS),
    ("benign::operations", benign::operations::TESTS),
    ("benign::acts", benign::acts::TESTS),
    ("life", life::TESTS),
    ("looking", looking::TESTS),
    ("life::away", life::away::TESTS),
    ("life::hanging", life::hanging::TESTS),
    ("life::waiting", life::waiting::TESTS),
    ("life::service", life::service::TESTS),
    ("life::package", life::package::TESTS),
    ("life::state", life::state::TESTS),
    ("life::reboot", life::reboot::TESTS),
    ("bad_input", bad_input::TESTS),
    ("delivery", delivery::TESTS),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// A run with more failures than this is broken, not unlucky: nothing is repeated.
const MOST_REPEATED: usize = 8;

/// What came of one attempt.
#[derive(Clone)]
struct Ran {
    outcome: Outcome,
    /// Why it failed or was skipped.
    reason: String,
    seconds: f64,
    findings: Vec<Value>,
    /// It demanded that nothing be raised.
    silent: bool,
}

struct Options {
    list: bool,
    agent: Option<PathBuf>,
    package: Option<PathBuf>,
    report: Option<PathBuf>,
    record: Option<PathBuf>,
    filters: Vec<String>,
}

thread_local! {
    /// Where the last panic was raised and what it said; the hook runs before the unwinding, the runner after it.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(copy) = std::env::var_os("WEIGHBRIDGE_LAB_COPY") {
        return sharers::copy_what_was_handed_over(copy.as_ref());
    }
    let outcome = match arguments.first().map(String::as_str) {
        Some("move") => moves::main(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        Some("share") => sharers::main(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        Some("work") => work::main(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        Some("confine") => confine::main(&arguments[1..]).map(|()| ExitCode::SUCCESS),
        Some("hold") => lab_checks::hold().map(|()| ExitCode::SUCCESS),
        Some("-h" | "--help") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => match Options::parse(&arguments) {
            Ok(options) => run(&options),
            Err(error) => {
                eprintln!("e2e: {error:#}\n{USAGE}");
                return ExitCode::from(2);
            }
        },
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("e2e: {error:#}");
        ExitCode::FAILURE
    })
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options =
            Self { list: false, agent: None, package: None, report: None, record: None, filters: Vec::new() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} wants a path"));
            match argument.as_str() {
                "--list" => options.list = true,
                "--long" => world::LONG.store(true, Ordering::Relaxed),
                "--agent" => options.agent = Some(PathBuf::from(value()?)),
                "--package" => options.package = Some(PathBuf::from(value()?)),
                "--report" => options.report = Some(PathBuf::from(value()?)),
                "--record" => options.record = Some(PathBuf::from(value()?)),
                flag if flag.starts_with('-') => bail!("unknown flag {flag}"),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let chosen: Vec<(String, Run)> = GROUPS
        .iter()
        .flat_map(|(group, tests)| tests.iter().map(move |(name, test)| (format!("{group}::{name}"), *test)))
        .filter(|(name, _)| {
            options.filters.is_empty() || options.filters.iter().any(|filter| name.contains(filter))
        })
        .collect();
    if options.list {
        for (name, _) in &chosen {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = options
        .report
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot write the report {}", path.display())))
        .transpose()?;
    let mut world = if rustix::process::geteuid().is_root() {
        let package = options.package.as_ref().map(|path| path.canonicalize()).transpose();
        let package = package.context("there is no such package")?;
        let mut world =
            World::new(agent_binary(options.agent.clone())?, package).context("cannot set up the lab")?;
        world.record.clone_from(&options.record);
        Some(world)
    } else {
        None
    };
    std::panic::set_hook(Box::new(|info| {
        let said = info.payload_as_str().unwrap_or_default();
        let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        LAST_PANIC.set(format!("{said}{}", place.unwrap_or_default()));
    }));
    let colour = std::io::stdout().is_terminal();
    let mut outcomes = Vec::new();
    let mut listed = Vec::new();
    let mut to_repeat = Vec::new();
    for (name, test) in chosen {
        let ran = Ran::of(&name, test, world.as_mut());
        ran.print(&name, colour);
        if ran.outcome == Outcome::Failed {
            to_repeat.push((name, test, ran));
            continue;
        }
        if ran.outcome == Outcome::Skipped {
            listed.push(format!("skipped: {name}: {}", ran.reason));
        }
        ran.write(&mut report, &name, "")?;
        outcomes.push(ran.outcome);
    }
    let is_worth_it = to_repeat.len() <= MOST_REPEATED;
    for (name, test, first) in to_repeat {
        let last = if is_worth_it { Ran::of(&name, test, world.as_mut()) } else { first.clone() };
        if is_worth_it {
            last.print(&format!("{name}, again"), colour);
        }
        if last.outcome == Outcome::Passed {
            listed.push(format!("passed at the second attempt: {name}: {}", first.reason));
        }
        last.write(&mut report, &name, &first.reason)?;
        outcomes.push(last.outcome);
    }
    for line in listed {
        println!("{line}");
    }
    let count = |wanted| outcomes.iter().filter(|&&outcome| outcome == wanted).count();
    let failed = count(Outcome::Failed);
    println!("{} passed, {failed} failed, {} skipped", count(Outcome::Passed), count(Outcome::Skipped));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Ran {
    fn of(name: &str, test: Run, world: Option<&mut World>) -> Self {
        let start = Instant::now();
        let (outcome, reason) = match world {
            Some(world) => {
                world.test = name.replace("::", "-");
                one(test, world)
            }
            None => (Outcome::Skipped, "needs root".to_owned()),
        };
        let (findings, silent) = score::take();
        Self { outcome, reason, seconds: start.elapsed().as_secs_f64(), findings, silent }
    }

    fn print(&self, name: &str, colour: bool) {
        let after = if self.reason.is_empty() { String::new() } else { format!("\n    {}", self.reason) };
        println!("{} {name} ({:.1} s){after}", self.outcome.word(colour), self.seconds);
    }

    /// `first` is what an earlier attempt failed with.
    fn write(&self, report: &mut Option<File>, name: &str, first: &str) -> Result<()> {
        let Some(report) = report else { return Ok(()) };
        let line = json!({
            "name": name,
            "outcome": self.outcome.word(false).trim(),
            "reason": self.reason,
            "first": first,
            "seconds": self.seconds,
            "findings": self.findings,
            "silent": self.silent,
        });
        writeln!(report, "{line}").context("cannot write the report")
    }
}

fn one(test: Run, world: &mut World) -> (Outcome, String) {
    // A test may leave nothing of its own in the world: every scene has folders of its own.
    match catch_unwind(AssertUnwindSafe(|| test(world))) {
        Ok(()) => (Outcome::Passed, String::new()),
        Err(payload) => match payload.downcast::<Skipped>() {
            Ok(skipped) => (Outcome::Skipped, skipped.0),
            Err(_) => (Outcome::Failed, LAST_PANIC.take()),
        },
    }
}

impl Outcome {
    fn word(self, colour: bool) -> &'static str {
        match (self, colour) {
            (Self::Passed, false) => "passed ",
            (Self::Passed, true) => "\x1b[32mpassed \x1b[0m",
            (Self::Failed, false) => "failed ",
            (Self::Failed, true) => "\x1b[31mfailed \x1b[0m",
            (Self::Skipped, false) => "skipped",
            (Self::Skipped, true) => "\x1b[33mskipped\x1b[0m",
        }
    }
}

/// The release build beside this one: cargo puts both below one target directory, whichever profile this one has. Whether
/// it is there shows when a test wants it.
fn agent_binary(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("no agent at {}", path.display()));
    }
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let target = own
        .parent()
        .and_then(|profile| profile.parent())
        .context("this program lies in no target directory")?;
    Ok(target.join("release/weighbridge"))
}
