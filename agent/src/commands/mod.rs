//! The command line: what each command prints and which exit code it ends with (DESIGN §4).

mod check;
mod doctor;
mod drill;
mod explain;
#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod guide_tests;
mod inventory;
mod log;
mod manual;
mod recording;
mod rules;
mod status;
mod support;
mod top;
mod unload;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    pipeline::{Failure, Options, prepare_to_run, run},
    sensor, yaml,
};

/// Exit codes, stable.
const OK: u8 = 0;
const FOUND: u8 = 1;
const USAGE: u8 = 2;
const INVALID: u8 = 3;
const UNFIT: u8 = 4;
const UNREACHABLE: u8 = 5;
const INTERNAL: u8 = 70;

/// Weighs every byte of AI model weights that can leave this host.
#[derive(Debug, Parser)]
#[command(
    name = "weighbridge",
    version,
    after_help = "Exit codes: 0 ok, 1 found something, 2 usage, 3 configuration or rules invalid, 4 kernel, permissions or \
                  host unfit, 5 agent not reachable, 70 internal.\n\nExample: weighbridge check --config /etc/weighbridge/weighbridge.yaml && weighbridge run"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to print: text for people, json for programs. Without it `rules` and `explain` print text on a terminal and json off
    /// it, and every other command prints text.
    #[arg(short, long, global = true, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

const DEFAULT_CONFIG: &str = "/etc/weighbridge/weighbridge.yaml";

#[derive(Debug, Subcommand)]
enum Command {
    /// Weigh until SIGTERM or SIGINT; prints `ready` on standard error once every hook has proved itself.
    #[command(after_help = "Example: weighbridge run --config /etc/weighbridge/weighbridge.yaml")]
    Run {
        /// The configuration file.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Show alerts on standard error too, even where it is not this terminal's business (implied on a terminal).
        #[arg(long)]
        show_alerts: bool,
        /// Seconds between two proofs that the hooks fire.
        #[arg(long, hide = true, value_parser = clap::value_parser!(u64).range(1..=3600))]
        prove_every: Option<u64>,
    },
    /// Say everything that is wrong with a configuration and its rules, and start nothing.
    #[command(after_help = "Example: weighbridge check --config agent.yaml -o json")]
    Check {
        /// The configuration file.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Say whether this host can run the agent, what each hook does here, and the remedy for what is wrong.
    #[command(after_help = "Example: weighbridge doctor")]
    Doctor,
    /// List every protected file: asset, path, device, filesystem, encryption, size, format, first seen.
    #[command(after_help = "Example: weighbridge inventory --config agent.yaml -o json")]
    Inventory {
        /// The configuration file.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// How the running agent does, on one screen.
    #[command(after_help = "Example: weighbridge status -o json | jq .open")]
    Status {
        /// The configuration file of the agent that runs.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Alerts of the running agent as they are written.
    #[command(after_help = "Example: weighbridge tail | jq .message")]
    Tail {
        /// The configuration file of the agent that runs.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Who holds what and where it can have gone, as it moves.
    #[command(after_help = "Example: weighbridge top --config agent.yaml")]
    Top {
        /// The configuration file of the agent that runs.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Send a marked test alert through every sink of the running agent, and say which of them took it; ends with 1 when one did
    /// not. Nothing else happens.
    #[command(after_help = "Example: weighbridge drill --severity critical")]
    Drill {
        /// The configuration file of the agent that runs.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The severity that it is to have.
        #[arg(short, long, value_enum, default_value_t = drill::Grade::High)]
        severity: drill::Grade,
        /// How long to wait for the sinks.
        #[arg(long, value_name = "TIME", value_parser = yaml::parse_duration, default_value = "30s")]
        wait: Duration,
    },
    /// Write down what the ledger is told on this host, to judge rules by later; raises nothing, and may run beside the agent.
    #[command(
        after_help = "Example: weighbridge record --config agent.yaml --for 1h --hide-names monday.wbrec"
    )]
    Record {
        /// The configuration file.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Replace paths, command lines, cgroups and units by keyed hashes.
        #[arg(long)]
        hide_names: bool,
        /// Stop after this long (90s, 15m, 8h, 2d); without it at SIGTERM or SIGINT.
        #[arg(long = "for", value_name = "TIME", value_parser = yaml::parse_duration)]
        length: Option<Duration>,
        /// The recording; must not be there yet.
        file: PathBuf,
    },
    /// Put a recording through rules, with the recording's own clock; no rights are needed. Ends with 1 when the recording is
    /// damaged, or when anything differs from --baseline.
    #[command(
        after_help = "Example: weighbridge replay monday.wbrec --rules rules/ --baseline /usr/share/weighbridge/rules"
    )]
    Replay {
        /// Files or folders of rules.
        #[arg(short, long, required = true, num_args = 1..)]
        rules: Vec<PathBuf>,
        /// Files or folders of the rules before a change: only what appears, vanishes or changes is shown.
        #[arg(short, long, num_args = 1..)]
        baseline: Vec<PathBuf>,
        /// The recording.
        file: PathBuf,
    },
    /// Check, test, list and explain rules; needs no rights and no running agent.
    #[command(
        subcommand,
        after_help = "Example: weighbridge rules lint /etc/weighbridge/rules.d && weighbridge rules test /etc/weighbridge/rules.d"
    )]
    Rules(rules::Command),
    /// Say what an alert means: the way of the bytes, who moved them, which line was crossed, why no exception held, and the
    /// exception that could be written.
    #[command(
        after_help = "Exit codes: 0 ok, 2 no such alert, 3 rules that are wrong or a line that is none, 4 a log that cannot be read.\n\n\
                      Example: weighbridge explain wb-0001-46b6afef06f55e71977910f87003539d --log alerts.ndjson"
    )]
    Explain {
        /// The uid of a finding or of a line, the number of a line, or - for a line on standard input.
        alert: String,
        /// The alert log, or several parts of it; without any, the one that the configuration names.
        #[arg(short, long = "log", value_name = "FILE")]
        logs: Vec<PathBuf>,
        #[command(flatten)]
        from: rules::RulesFrom,
    },
    /// Verify and show the alert log, and make the key that seals it.
    #[command(subcommand)]
    Log(log::Log),
    /// Write what the agent and this host say of themselves into one tar, for whoever is asked for help: no weights, no tokens, no command
    /// lines.
    #[command(after_help = "Example: weighbridge support-bundle bundle.tar && tar -tf bundle.tar")]
    SupportBundle {
        /// The configuration file of the agent.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The file to write; must not be there yet.
        file: PathBuf,
    },
    /// Remove what an agent with `pin: true` left in the kernel; nothing weighs on then.
    #[command(after_help = "Example: weighbridge unload --config /etc/weighbridge/weighbridge.yaml")]
    Unload {
        /// Only what belongs to the agent of this configuration; without it, the pins of every agent that does not run.
        #[arg(short, long)]
        config: Option<PathBuf>,
    },
    /// The child of the self-test: moves a file into another and into a socket.
    #[command(hide = true)]
    Canary { path: PathBuf, copy: PathBuf },
    /// Write manual pages and shell completions into a folder, for a package.
    #[command(hide = true)]
    Manual { dir: PathBuf },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run_command(&Cli::parse()))
}

fn run_command(cli: &Cli) -> u8 {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let output = cli.output.unwrap_or(Output::Text);
    match &cli.command {
        Command::Run { config, show_alerts, prove_every } => {
            let show_alerts = *show_alerts || io::stderr().is_terminal();
            let prove_every = prove_every.map(Duration::from_secs);
            agent(config, Options { show_alerts, prove_every, ..Options::default() }, output)
        }
        Command::Check { config } => check::check(config, output),
        Command::Doctor => {
            log();
            doctor::doctor(output, colour)
        }
        Command::Inventory { config } => inventory::inventory(config, output),
        Command::Rules(command) => rules::run(command, cli.output.unwrap_or_else(by_terminal), colour),
        Command::Explain { alert, logs, from } => {
            explain::explain(alert, logs, from, cli.output.unwrap_or_else(by_terminal), colour)
        }
        Command::Status { config } => status::status(config, output, colour),
        Command::Tail { config } => status::tail(config, output, io::stdout().is_terminal()),
        Command::Top { config } => status::top(config, output, io::stdout().is_terminal()),
        Command::Drill { config, severity, wait } => drill::drill(config, *severity, *wait, output),
        Command::Record { config, hide_names, length, file } => {
            recording::record(config, file.clone(), *hide_names, *length, output)
        }
        Command::Replay { rules, baseline, file } => {
            recording::replay_file(file, rules, baseline, output, colour)
        }
        Command::Log(command) => log::log(command, output),
        Command::SupportBundle { config, file } => support::bundle(config, file, output),
        Command::Unload { config } => unload::unload(config.as_deref(), output),
        Command::Manual { dir } => manual::manual(dir),
        Command::Canary { path, copy } => sensor::run_canary(path, copy).map_or(INTERNAL, |()| OK),
    }
}

/// Text for whoever looks, JSON for a pipe.
fn by_terminal() -> Output {
    if io::stdout().is_terminal() { Output::Text } else { Output::Json }
}

fn agent(config: &Path, options: Options, output: Output) -> u8 {
    log();
    let ran =
        doctor::rights().and_then(|()| prepare_to_run(config)).and_then(|prepared| run(prepared, options));
    match ran {
        Ok(()) => OK,
        Err(failure) => fail(&failure, output),
    }
}

/// Says why on standard error, and gives the exit code.
fn fail(failure: &Failure, output: Output) -> u8 {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut err = io::stderr().lock();
    // When standard error is closed there is nobody to tell; the exit code still says it.
    let _ = match failure {
        Failure::Invalid { faults, .. } if output == Output::Json => {
            serde_json::to_string(&serde_json::json!({"schema": 1, "faults": faults}))
                .map_err(io::Error::from)
                .and_then(|text| writeln!(err, "{text}"))
        }
        Failure::Invalid { faults, .. } => write!(err, "{}", yaml::render(faults, colour)),
        Failure::Unfit(unfit) => writeln!(err, "error: {unfit}"),
        Failure::Internal(error) => writeln!(err, "internal error: {error:#}"),
    };
    match failure {
        Failure::Invalid { .. } => INVALID,
        Failure::Unfit(_) => UNFIT,
        Failure::Internal(_) => INTERNAL,
    }
}

/// Diagnostics on standard error; `WEIGHBRIDGE_LOG` sets what is shown.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEIGHBRIDGE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}

/// Prints to standard output; a reader that went away is its own affair.
fn print(text: &str) {
    if cfg!(test) {
        // What the harness of the tests catches.
        print!("{text}");
        return;
    }
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
