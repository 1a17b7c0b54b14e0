//! `cargo xtask demo`: a model on a scratch volume, three thefts and one honest load, and what the agent says of each.
//!
//! Everything is real: filesystems, a network, tools, the agent. It knows the agent by its contract only and checks what it
//! shows: an alert that is missing or weighs wrong is exit code 1.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tests::lab::{
    GIB, Lab, MIB,
    agent::{Agent, Config, Fitness, fitness},
    alert::{Alert, findings},
    outside::{Outside, UNCONTROLLED},
    process::{Finished, Running},
    recording::Recording,
    volume::Volume,
    weights::Weights,
};

use crate::{UNFIT, build, setup, shell};

const SHARDS: u32 = 3;
const SHARD: u64 = 32 * MIB;
/// No step of the demo takes longer, by far.
const PATIENCE: Duration = Duration::from_secs(60);
/// The contract says 2 s after the last byte; the rest is for a busy machine.
const ALERT_WITHIN: Duration = Duration::from_secs(10);

const SENDFILE: &str = "\
import os, socket, sys
source = os.open(sys.argv[1], os.O_RDONLY)
peer = socket.create_connection((sys.argv[2], int(sys.argv[3])))
offset = 0
while n := os.sendfile(peer.fileno(), source, offset, 1 << 20):
    offset += n
";
const LOAD: &str = "\
import mmap, sys
maps = []
for name in sys.argv[1:]:
    with open(name, 'rb') as shard:
        maps.append(mmap.mmap(shard.fileno(), 0, prot=mmap.PROT_READ))
print(sum(sum(one[::4096]) for one in maps))
";

/// Runs the chore.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    if !shell::is_root() {
        eprintln!(
            "error: the demo mounts scratch volumes and loads eBPF programs: run it as root, `sudo -E cargo xtask demo`"
        );
        return Ok(ExitCode::from(UNFIT));
    }
    setup::ensure()?;
    let (Some(binary), Some(runner)) = (build::release()?, build::runner()?) else {
        return Ok(ExitCode::FAILURE);
    };
    if let Fitness::Unfit(reason) = fitness(&binary)? {
        eprintln!("error: this kernel does not let the agent weigh: {reason}");
        eprintln!("`{} doctor` says what is needed, line by line", binary.display());
        return Ok(ExitCode::from(UNFIT));
    }
    let built = started.elapsed();
    let good = play(&binary, runner, None)?;
    println!(
        "\nEverything was cleaned up. {:.1} s, {:.1} s of them for looking after the build.",
        started.elapsed().as_secs_f64(),
        built.as_secs_f64()
    );
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether everything was weighed as it should be. With `record` a recorder runs beside the agent and writes there, with
/// names hidden.
pub(crate) fn play(binary: &Path, runner: PathBuf, record: Option<&Path>) -> Result<bool> {
    Demo::set_up(binary, runner, record)?.play()
}

struct Demo {
    runner: PathBuf,
    python: PathBuf,
    model: Weights,
    agent: Agent,
    recording: Option<Recording>,
    /// Alert lines that were shown or are none of a person's business.
    seen: usize,
    outside: Outside,
    uncontrolled: Volume,
    _controlled: Volume,
    /// After the volumes: fields are dropped in their order, and the scratch directory goes last.
    lab: Lab,
}

/// One theft, and what must have been weighed.
struct Theft {
    rule: &'static str,
    bytes: u64,
    pid: u32,
}

impl Demo {
    fn set_up(binary: &Path, runner: PathBuf, record: Option<&Path>) -> Result<Self> {
        let python = python()?;
        let lab = Lab::enter()?;
        let controlled = Volume::ext4(&lab, "controlled", GIB)?;
        let uncontrolled = Volume::ext4(&lab, "uncontrolled", GIB)?;
        let outside = Outside::new()?;
        let model = Weights::safetensors(&controlled.path().join("llm-demo"), SHARDS, SHARD, 1)?;
        for (name, text) in [("sendfile.py", SENDFILE), ("load.py", LOAD)] {
            fs::write(lab.scratch().join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        let config = Config::new(lab.scratch(), controlled.path())?.asset("llm-demo", &model.dir);
        println!("Scratch volumes and a network of our own, which nobody else on this host can see:");
        println!(
            "  controlled    {}  ext4, holds llm-demo: {SHARDS} safetensors shards, {} MiB in all",
            controlled.path().display(),
            model.bytes / MIB
        );
        println!("  uncontrolled  {}  ext4, listed nowhere", uncontrolled.path().display());
        println!("  outside       {UNCONTROLLED}, listed nowhere");
        let start = Instant::now();
        let file = lab.scratch().join("weighbridge.yaml");
        let agent = Agent::start(binary, config, &file)?;
        println!("The agent is ready after {:.1} s.", start.elapsed().as_secs_f64());
        let recording = record.map(|to| Recording::start(binary, &file, to, true)).transpose()?;
        Ok(Self {
            runner,
            python,
            model,
            agent,
            recording,
            seen: 0,
            outside,
            uncontrolled,
            _controlled: controlled,
            lab,
        })
    }

    /// Whether everything was weighed as it should be.
    fn play(mut self) -> Result<bool> {
        let shards = self.model.files.clone();
        let mut thefts = Vec::new();

        let copy = self.uncontrolled.path().join("holiday.mov");
        title(1, "cp copies one shard to the uncontrolled volume, under another name");
        thefts.push(self.theft("WB-0001", Command::new("cp").arg(&shards[0]).arg(&copy), || {
            Ok(fs::metadata(&copy).context("the copy is not there")?.len())
        })?);

        title(2, "Python sends one shard to the outside with sendfile: no read, no write");
        let receiver = self.outside.tcp(UNCONTROLLED)?;
        let addr = receiver.addr;
        let mut sendfile = Command::new(&self.python);
        sendfile.arg(self.lab.scratch().join("sendfile.py")).arg(&shards[1]);
        sendfile.arg(addr.ip().to_string()).arg(addr.port().to_string());
        thefts.push(self.theft("WB-0002", &mut sendfile, || Ok(receiver.finish()?.bytes))?);

        let copy = self.uncontrolled.path().join("notes.bin");
        title(3, "Another tool maps one shard and writes from memory: nothing ever reads the file");
        let mut mover = Command::new(&self.runner);
        mover.args(["move", "mmap", "write"]).arg(&shards[2]).arg(&copy);
        thefts.push(self.theft("WB-0001", &mut mover, || {
            Ok(fs::metadata(&copy).context("the copy is not there")?.len())
        })?);

        title(4, "An honest load: Python maps every shard and touches every page");
        let mut load = Command::new(&self.python);
        load.arg(self.lab.scratch().join("load.py")).args(&shards);
        let loader = self.start(&mut load)?.finish(PATIENCE).and_then(Finished::success)?;

        // Everything was weighed by the agent's end: only then can it be said that something raised nothing.
        let (mut alerts, _) = self.agent.stop().context("the agent did not end well")?;
        // That it was ended, and by whom, is its last word; it was us.
        let own = u64::from(std::process::id());
        alerts.retain(|alert| alert.rule() != "WB-0011" || alert.number("/process/pid") != Some(own));
        // Only now: an agent says who ends another one.
        if let Some(recording) = self.recording.take() {
            recording.stop()?;
        }
        show(&alerts[self.seen..], None);
        let newest = findings(&alerts);
        let loads: Vec<&Alert> = newest
            .iter()
            .filter(|alert| alert.alarms() && alert.number("/process/pid") == loader.pid.map(u64::from))
            .collect();
        let mut good = loads.is_empty();
        println!("    {} alerts. It was weighed all the same:", loads.len());
        for learnt in newest.iter().filter(|alert| !alert.alarms() && alert.rule() == "WB-0004") {
            println!("      WB-0004, learning: {}", sentence(learnt));
        }

        println!("\nWeighed against what really arrived:");
        // Both copies went to one volume: one finding, whose bound is their sum.
        for rule in ["WB-0001", "WB-0002"] {
            let truth: u64 = thefts.iter().filter(|theft| theft.rule == rule).map(|theft| theft.bytes).sum();
            let weighed: u64 =
                newest.iter().filter(|alert| alert.alarms() && alert.rule() == rule).map(Alert::bound).sum();
            let verdict = if truth == weighed { "exact" } else { "WRONG" };
            good &= truth == weighed;
            println!("  {rule}  arrived {truth:>10} bytes  weighed {weighed:>10} bytes  {verdict}");
        }
        let expected: Vec<u32> = thefts.iter().map(|theft| theft.pid).collect();
        let strangers = newest
            .iter()
            .filter(|alert| alert.alarms())
            .filter(|alert| !expected.iter().any(|&pid| alert.number("/process/pid") == Some(u64::from(pid))))
            .count();
        ensure!(strangers == 0, "{strangers} alerts name a process that took no part");
        Ok(good)
    }

    /// Runs a theft, asks how many bytes arrived, and shows the alerts until that many were weighed.
    fn theft(
        &mut self,
        rule: &'static str,
        command: &mut Command,
        arrived: impl FnOnce() -> Result<u64>,
    ) -> Result<Theft> {
        let before: u64 = self.weighed(rule)?;
        let start = Instant::now();
        let running = self.start(command)?;
        let pid = running.identity.pid.context("the process has no pid")?;
        running.finish(PATIENCE)?.success()?;
        let bytes = arrived()?;
        let mut seen = self.seen;
        let came = self.agent.wait(ALERT_WITHIN, |alerts| {
            show(&alerts[seen..], Some(start));
            seen = alerts.len();
            (sum(alerts, rule) >= before + bytes).then_some(())
        })?;
        self.seen = seen;
        if came.is_none() {
            println!("    no {rule} for all {bytes} bytes within {} s", ALERT_WITHIN.as_secs());
        }
        Ok(Theft { rule, bytes, pid })
    }

    /// Shows and starts a command, with paths that are relative to the scratch directory: they are easier to read.
    fn start(&self, command: &mut Command) -> Result<Running> {
        let mut shown = Command::new(command.get_program());
        shown.args(command.get_args().map(|argument| {
            let path = Path::new(argument);
            path.strip_prefix(self.lab.scratch()).unwrap_or(path)
        }));
        println!("    $ {}", shell::line(&shown));
        Running::start(shown.current_dir(self.lab.scratch()))
    }

    fn weighed(&mut self, rule: &str) -> Result<u64> {
        Ok(sum(self.agent.alerts()?, rule))
    }
}

fn sum(alerts: &[Alert], rule: &str) -> u64 {
    findings(alerts).iter().filter(|alert| alert.alarms() && alert.rule() == rule).map(Alert::bound).sum()
}

fn title(number: u32, text: &str) {
    println!("\n{number}. {text}");
}

/// Prints what alarms; `since` is when the theft began.
fn show(alerts: &[Alert], since: Option<Instant>) {
    // 3 is Close: nothing new for a person who watches.
    for alert in alerts.iter().filter(|alert| alert.alarms() && alert.activity() != Some(3)) {
        let after =
            since.map_or_else(String::new, |since| format!("{:.2} s  ", since.elapsed().as_secs_f64()));
        let update = if alert.activity() == Some(2) { " (update)" } else { "" };
        println!("    {after}{}  {}{update}: {}", alert.rule(), alert.text("/severity"), sentence(alert));
    }
}

/// The alert's own sentence: what, how much of which asset, by whom, where to.
fn sentence(alert: &Alert) -> &str {
    alert.0["message"].as_str().unwrap_or("an alert without a message")
}

/// The interpreter itself: on some hosts `python3` is a shell script that looks for one.
fn python() -> Result<PathBuf> {
    let output = Command::new("python3")
        .args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"])
        .output()
        .context("cannot run python3: `cargo xtask setup` installs it")?;
    ensure!(output.status.success(), "python3 does not work: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
