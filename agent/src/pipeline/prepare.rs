//! All that must be right before anything starts, and why it is not. `check` stops here; `run` goes on.

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use thiserror::Error;

use super::keeping::{self, Held};
use crate::{
    config::{Config, SinkConfig},
    event::AssetId,
    host::{
        Problem, Severity,
        control::Classifier,
        mounts::{MountError, MountTable},
        registry::Registry,
        state::{StateDir, StateError},
        sysfs::Devices,
    },
    metrics::http::BindError,
    rules::{RuleSet, run_tests},
    sensor::SensorError,
    sinks::{self, file},
    yaml::Diagnostic,
};

/// Why nothing was started.
#[derive(Debug, Error)]
pub enum Failure {
    /// The configuration or a rule is wrong: exit code 3.
    #[error("{} is wrong in {} places", file.display(), faults.len())]
    Invalid { file: PathBuf, faults: Vec<Diagnostic> },
    /// The kernel, the permissions or something else of this host does not allow it: exit code 4.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// A mistake of ours: exit code 70.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

#[derive(Debug, Error)]
pub enum Unfit {
    #[error(
        "not enough rights to load eBPF: {0}; run as root, or give the service these capabilities (`weighbridge doctor` lists all)"
    )]
    Rights(String),
    #[error(transparent)]
    Sensor(#[from] SensorError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Listen(#[from] BindError),
    #[error(transparent)]
    Mounts(#[from] MountError),
    #[error("cannot {0}: {1}")]
    System(&'static str, #[source] io::Error),
}

/// A configuration that was checked against this host.
pub struct Prepared {
    pub config: Config,
    pub rules: Arc<RuleSet>,
    pub classifier: Classifier,
    pub registry: Registry,
    /// Bytes of each asset that took the place of others since the registry was stored.
    pub(super) renewed: HashMap<AssetId, u64>,
    /// How long it took to find the assets' files.
    pub(super) scan_took: Duration,
    /// What the operator should know; nothing that stops the agent.
    pub warnings: Vec<String>,
    /// The locks of an agent that goes on where an earlier one stopped.
    pub(super) held: Option<Held>,
}

impl Prepared {
    /// Raises nothing, listens nowhere that is known, and keeps its state apart from that of an agent that runs.
    pub fn for_recording(&mut self) {
        self.config.sinks.clear();
        self.config.state_dir.push("recording");
        self.config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.config.pin = false;
    }
}

/// Reads and checks everything that `run` needs, and starts nothing. Says all that is wrong at once.
///
/// # Errors
///
/// [`Failure::Invalid`] with every fault, or [`Failure::Unfit`] when this host cannot even be asked.
pub fn prepare(file: &Path) -> Result<Prepared, Failure> {
    prepare_held(file, |_| Ok(None))
}

/// The same for an agent that starts next: where an earlier one's programs still weigh, they are told first that it is the
/// agent that reads the assets.
///
/// # Errors
///
/// As [`prepare`]; also when another agent runs.
pub fn prepare_to_run(file: &Path) -> Result<Prepared, Failure> {
    prepare_held(file, keeping::hold)
}

/// Whether a user that is not this one owns the state directory, and so is who the agent runs as.
fn is_the_agents(uid: u32, state_dir: &Path) -> bool {
    rustix::process::geteuid().is_root()
        && fs::symlink_metadata(state_dir).is_ok_and(|meta| meta.uid() == uid)
}

fn prepare_held(
    file: &Path,
    hold: impl FnOnce(&Config) -> Result<Option<Held>, Failure>,
) -> Result<Prepared, Failure> {
    let invalid = |faults| Failure::Invalid { file: file.to_owned(), faults };
    let config = crate::config::load(file).map_err(invalid)?;
    let held = hold(&config)?;
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let rules = match RuleSet::load(&config.rules, today()) {
        Ok(rules) => {
            warnings.extend(rules.warnings().iter().map(ToString::to_string));
            faults.extend(run_tests(&rules).into_iter().filter_map(|outcome| outcome.failure));
            Some(rules)
        }
        Err(wrong) => {
            faults.extend(wrong);
            None
        }
    };
    for sink in &config.sinks {
        let SinkConfig::File { path } = sink else { continue };
        if let Err(error) = file::check(&path.value) {
            // Root asks about a service that runs as a user of its own. Whoever opens the log looks again.
            if error.foreign().is_some_and(|uid| is_the_agents(uid, &config.state_dir)) {
                continue;
            }
            faults.push(config.fault_at(
                path,
                error.to_string(),
                "change this path, or what the message names",
            ));
        }
    }
    for (place, error) in sinks::faults(&config.sinks) {
        // Systemd gives credentials to the service only: what `check` cannot see is no fault yet.
        if error.is_for_the_service() {
            warnings.push(error.to_string());
        } else {
            let help = "change this sink, or what the message names";
            faults.push(config.fault_at(&place, error.to_string(), help));
        }
    }
    if !config.listen.ip().is_loopback() {
        warnings.push(format!(
            "/metrics is served on {} in the clear, with the names of assets and rules in it: listen on 127.0.0.1 behind a proxy that \
             speaks TLS, or let only the scraper through (IPAddressAllow= in the unit, a firewall)",
            config.listen
        ));
    }
    let table = Arc::new(MountTable::read().map_err(Unfit::from)?);
    let (classifier, problems) = Classifier::new(&config.controlled, table, Devices::default());
    let mut sort = |problems: Vec<Problem>| {
        for problem in problems {
            match problem.severity {
                Severity::Error => faults.push(place(&config, &problem)),
                Severity::Warning => warnings.push(problem.text),
            }
        }
    };
    sort(problems);
    let known = stored(&config);
    let started = Instant::now();
    let registry = match Registry::scan(&config, &classifier, &known, Timestamp::now()) {
        Ok((registry, problems)) => {
            sort(problems);
            for filesystem in
                registry.filesystems().iter().filter(|filesystem| filesystem.fstype == "overlay")
            {
                faults.push(overlay(&config, &filesystem.mount));
            }
            Some(registry)
        }
        Err(problems) => {
            sort(problems);
            None
        }
    };
    let scan_took = started.elapsed();
    match (rules, registry) {
        (Some(rules), Some(registry)) if faults.is_empty() => {
            let renewed = registry.renewed_since(&known);
            let rules = Arc::new(rules);
            Ok(Prepared { rules, classifier, registry, renewed, scan_took, warnings, config, held })
        }
        _ => Err(invalid(faults)),
    }
}

/// The date in UTC, by which overrides and exceptions of rules expire.
pub(crate) fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// What an earlier run stored. Whatever is wrong with it costs first-seen times, never the start.
fn stored(config: &Config) -> Registry {
    if fs::symlink_metadata(&config.state_dir).is_err() {
        return Registry::default();
    }
    let opened = StateDir::open(&config.state_dir);
    match opened.map(|state| Registry::load(&state, config)) {
        Ok(Ok(registry)) => registry,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the stored registry cannot be used: files are first seen now");
            Registry::default()
        }
        // `run` will say so itself.
        Err(_) => Registry::default(),
    }
}

/// The kernel reads an overlay's files by their inodes below it, which the paths of an asset do not name.
fn overlay(config: &Config, mount: &Path) -> Diagnostic {
    let first =
        config.assets.iter().flat_map(|asset| &asset.paths).find(|path| path.value.starts_with(mount));
    let message = format!("an asset lies on the overlay at {}", mount.display());
    let help = "name its place in the directory below the overlay (lowerdir or upperdir of the mount)";
    match first {
        Some(path) => config.fault_at(path, message, help),
        None => Diagnostic::of_file(&config.file, message).help(help),
    }
}

fn place(config: &Config, problem: &Problem) -> Diagnostic {
    let (line, column) = problem.place.unwrap_or((1, 1));
    let at = crate::config::Placed { value: (), line, column };
    let (message, remedy) =
        problem.text.split_once(": ").unwrap_or((&problem.text, "change this line of the configuration"));
    config.fault_at(&at, message, remedy)
}
