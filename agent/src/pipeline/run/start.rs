//! From what was prepared to an agent that weighs, in the order that leaves nothing half-started. It must not know what the agent does
//! once it runs.

use std::{collections::HashSet, fs, path::Path, sync::Arc, time::Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{
    super::{
        Failure, Pipeline, Prepared, Unfit,
        acts::Below,
        checkpoint::Checkpoint,
        destinations::Destinations,
        identities::Identities,
        keeper::{self, Keeper},
        keeping::Held,
        leaving::Leaving,
        memory::Memory,
        own_files::{own_files, state_files},
        recorder::Recorder,
        reload::Reload,
        scale::Scale,
        selftest::SelfTest,
        snapshot::Standing,
        tamper::SelfCheck,
    },
    Agent, CARRIERS_SOON, Options,
    files::{Files, protect_mounted},
    kind_of, now,
};
use crate::{
    alerts::{self, Alerts},
    config::{Config, SinkConfig},
    event::{ActKind, AssetId, AssetSet, HolderId, Process},
    host::{
        self,
        cgroup::cgroup2_mount,
        hash::{HashQueue, Hasher},
        mounts::MountWatch,
        registry::Registry,
    },
    ledger::Ledger,
    metrics::{BuildInfo, Metrics},
    rules::{Engine, Severity},
    sensor::{Adopted, Protection, Sensor, SensorError, Setup},
    sinks::{Sinks, TerminalSink, file, terminal},
    status::Status,
};

impl Agent {
    /// Loads, restores, protects and finds what is open already. Nothing is announced yet.
    pub(super) fn start(
        prepared: Prepared,
        mut held: Held,
        metrics: Arc<Metrics>,
        status: Status,
        options: Options,
    ) -> Result<Self, Failure> {
        let Prepared { config, rules, classifier, registry, renewed, scan_took, warnings, held: _ } =
            prepared;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let mut sinks = Sinks::default();
        let mut opened = None;
        for sink in &config.sinks {
            let SinkConfig::File { path } = sink else { continue };
            let file::Opened { sink, head, note, unfinished } =
                file::open(&path.value).map_err(|error| Failure::Invalid {
                    file: config.file.clone(),
                    faults: vec![config.fault_at(path, error.to_string(), "")],
                })?;
            sinks.files.push(sink);
            // Every file gets the same lines; the chain goes on from the first.
            opened.get_or_insert((head, note, unfinished));
        }
        sinks
            .start(&config.sinks, held.state.path())
            .map_err(|error| Unfit::System("start the sinks", error))?;
        if options.show_alerts {
            sinks.terminal = TerminalSink::detect(terminal::Stream::Stderr)
                .map_err(|error| Unfit::System("open the terminal", error))?;
        }
        // Without a file there is nothing to seal.
        let sealed = opened.as_ref().map(|(head, ..)| keeper::load(&held.state, *head));
        let keeper::Loaded { key, fault } = sealed.unwrap_or(keeper::Loaded { key: None, fault: None });
        let keeper = key.is_some().then(|| Keeper::start(held.state.clone())).transpose()?;
        let (head, note, unfinished) = opened.unwrap_or_default();
        // Before the first scrape: a zero there would look like a log that went back.
        metrics.set_sequence(head.seq);
        let note = note.or_else(|| fault.clone());
        let mounts = Arc::clone(classifier.table());
        let hasher = Hasher::default();
        let queue =
            HashQueue::start(hasher.clone()).map_err(|error| Unfit::System("start a thread", error))?;
        let mut pipeline = Pipeline {
            identities: Identities::new(&config.assets, mounts, hasher, queue),
            destinations: Destinations::new(classifier),
            ledger: Ledger::new(config.propagation_floor),
            engine: Engine::new(Arc::clone(&rules)),
            alerts: Alerts::new(alerts::Context { key, ..context(rules.digest(), head, note)? }),
            agent: Arc::new(own_process()),
            keeper,
            kept: None,
            sinks,
            metrics: Arc::clone(&metrics),
            scale: Scale::new(),
            leaving: Leaving::default(),
            own: SelfCheck::new(&own_files(&config)),
            known: AssetSet::default(),
            below: Below::new(config.gpu_drivers.clone()),
            protected: HashSet::new(),
            records: Vec::new(),
            matches: Vec::new(),
            recorder: options.record.map(|to| Recorder::start(to, config.propagation_floor)).transpose()?,
            status,
            standing: Standing { started_ms: Timestamp::now().as_millisecond(), missing_hooks: Vec::new() },
            restoring: false,
            moved: false,
            unkept: 0,
        };
        pipeline.ledger.keep_journal();
        let now = now();
        if let Some(text) = fault {
            tracing::error!("{text}");
            let what = "alert log".to_owned();
            let kind = ActKind::FilesChanged;
            pipeline.fault(&alerts::Fault { what, kind, severity: Severity::Critical, text }, now);
        }
        pipeline.assets(&registry.assets(&config), now);
        metrics.set_asset_files(registry.files().len() as u64);
        metrics.set_scan(scan_took);
        // Until the first scan has said otherwise.
        metrics.set_unsettled(true);
        let keep = held.keep(&config)?;
        let mut checkpoint = Checkpoint::open(&held.state, &host::facts().boot_id);
        checkpoint.restore_assets(&mut pipeline, &renewed);
        let setup = Setup {
            propagation_floor: config.propagation_floor,
            limits: config.limits,
            cgroup: cgroup2_mount(pipeline.destinations.classifier().table())
                .map(|mount| mount.point.clone()),
        };
        let mut sensor = Sensor::start(setup, keep).map_err(Unfit::from)?;
        sensor.follow(&config.controlled.networks).map_err(Unfit::from)?;
        match sensor.prove(held.state.path()) {
            Err(SensorError::Silent(hook)) if sensor.adopted().is_some_and(|adopted| !adopted.replaced) => {
                pipeline.silent(hook, now);
                sensor = sensor.renew().map_err(Unfit::from)?;
                sensor.prove(held.state.path()).map_err(Unfit::from)?;
            }
            proved => proved.map_err(Unfit::from)?,
        }
        if sensor.is_pinned() {
            pipeline.restore(sensor.past().map_err(Unfit::from)?, now);
        }
        checkpoint.restore(&mut pipeline, unfinished);
        // Not before: a sum that began at 0 would look like one that went back.
        metrics.set_egress_windows(pipeline.leaving.sums(now));
        for report in sensor.hooks() {
            metrics.set_probe(report.hook.name, kind_of(report.hook), report.result.is_ok());
            if let Err(reason) = &report.result {
                let missing = (report.hook.name.to_owned(), reason.clone());
                pipeline.standing.missing_hooks.push(missing);
                tracing::warn!(
                    hook = report.hook.name,
                    reason,
                    without = report.hook.without,
                    "a hook is missing"
                );
            }
        }
        if let Some(adopted) = sensor.adopted() {
            say_adopted(adopted, &mut pipeline);
        }
        protect(&mut sensor, &mut pipeline, &config, &registry)?;
        let table = Arc::clone(pipeline.destinations.classifier().table());
        pipeline.below.refresh(&mut sensor, &table, &registry).map_err(Unfit::from)?;
        if sensor.is_pinned() {
            // Once devices have names, and before anybody takes more.
            pipeline.restore_acts(sensor.past_acts().map_err(Unfit::from)?, now);
        }
        checkpoint.recall(&mut pipeline, &mut sensor).map_err(Unfit::from)?;
        sensor.scan_existing().map_err(Unfit::from)?;
        if config.pin {
            sensor.settle().map_err(Unfit::from)?;
        } else {
            sensor.unpin().map_err(Unfit::from)?;
        }
        registry.save(&held.state, &config).map_err(Unfit::from)?;
        watch(&mut sensor, &mut pipeline, &config, held.state.path())?;
        let ended = held.state.begin_run().map_err(Unfit::from)?;
        checkpoint.tell(&mut pipeline, head.seq, ended.is_none());
        if let Some(how) = ended {
            pipeline.raise(HolderId::HOST, ActKind::Restarted, Some(how.to_owned()), super::now());
        }
        let soon = Instant::now();
        Ok(Self {
            mounts: MountWatch::new().map_err(Unfit::from)?,
            files: Files::new(registry, &config),
            carriers_at: soon,
            carriers_every: CARRIERS_SOON,
            reload: Reload::new(config.rules.clone()),
            selftest: SelfTest::new(options.prove_every, &metrics),
            memory: Memory::default(),
            asked: None,
            config,
            held,
            checkpoint,
            sensor,
            pipeline,
            metrics,
        })
    }
}

fn say_adopted(adopted: &Adopted, pipeline: &mut Pipeline) {
    tracing::info!(replaced = adopted.replaced, "goes on where an earlier agent stopped");
    for hook in &adopted.gaps {
        let target = format!("{hook} was detached while no agent ran");
        pipeline.raise(HolderId::HOST, ActKind::LinksTouched, Some(target), now());
    }
    if !adopted.gaps.is_empty() {
        tracing::error!(
            hooks = ?adopted.gaps,
            "hooks were detached while no agent ran: what moved meanwhile is not known, and all that is open counts in full"
        );
    }
}

fn protect(
    sensor: &mut Sensor,
    pipeline: &mut Pipeline,
    config: &Config,
    registry: &Registry,
) -> Result<(), Failure> {
    for (asset, configured) in config.assets.iter().enumerate() {
        let asset = AssetId(u16::try_from(asset).context("more assets than an id can name")?);
        for path in &configured.paths {
            let real = path.value.canonicalize().unwrap_or_else(|_| path.value.clone());
            if real.is_dir() {
                sensor.protect(asset, &real, Protection::Directory).map_err(Unfit::from)?;
            } else {
                sensor.protect_name(asset, &path.value).map_err(Unfit::from)?;
                sensor.protect_name(asset, &real).map_err(Unfit::from)?;
            }
        }
    }
    protect_mounted(sensor, registry).map_err(Unfit::from)?;
    for file in registry.files() {
        match sensor.protect(file.asset, &file.path, Protection::File) {
            Ok(object) => pipeline.protected(object),
            // Gone since it was registered; what comes in its place is found by its directory.
            Err(SensorError::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Unfit::from(error).into()),
        }
    }
    Ok(())
}

/// From here on what others do to the agent's own objects and files is noticed.
fn watch(
    sensor: &mut Sensor,
    pipeline: &mut Pipeline,
    config: &Config,
    state_dir: &Path,
) -> Result<(), Failure> {
    sensor.watch_self().map_err(Unfit::from)?;
    let kept = state_files(state_dir);
    pipeline.own.files.watch(&kept);
    for file in own_files(config).iter().chain(&kept).filter(|file| file.path.is_file()) {
        if let Err(error) = sensor.watch_file(&file.path) {
            tracing::warn!(%error, "who writes into a file of the agent will not be known");
        }
    }
    Ok(())
}

pub(super) fn metrics(prepared: &Prepared) -> Result<Metrics, Failure> {
    let facts = host::facts();
    let info = BuildInfo { version: env!("CARGO_PKG_VERSION"), commit: "", kernel_release: &facts.kernel };
    let metrics = Metrics::new(&info).context("a metric is defined twice")?;
    metrics.set_rule_set(&prepared.rules);
    metrics.know_rule(alerts::OWN_RULE);
    metrics.know_rule(alerts::DRILL);
    Ok(metrics)
}

fn context(digest: &str, head: alerts::Head, note: Option<String>) -> Result<alerts::Context, Failure> {
    let facts = host::facts();
    let mut run = [0; 16];
    SystemRandom::new().fill(&mut run).map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
    Ok(alerts::Context {
        host: facts.hostname,
        host_uid: machine_id(),
        kernel_release: facts.kernel,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sensor: "syscall".to_owned(),
        rules_digest: digest.to_owned(),
        boot_wall_ms: Timestamp::now().as_millisecond()
            - i64::try_from(now().0 / 1_000_000).unwrap_or(i64::MAX),
        run,
        head,
        key: None,
        note,
    })
}

/// The agent as alerts about itself name it; what cannot be read is left out.
fn own_process() -> Process {
    host::process::from_proc(std::process::id()).unwrap_or_else(|| Process {
        pid: std::process::id(),
        start: 0,
        exe: String::new(),
        exe_sha256: None,
        cmdline: String::new(),
        uid: rustix::process::geteuid().as_raw(),
        auid: None,
        cgroup: None,
        container: None,
        unit: None,
        ancestry: Vec::new(),
    })
}

fn machine_id() -> Option<String> {
    let id = fs::read_to_string(Path::new("/etc/machine-id")).ok()?;
    let id = id.trim();
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}
