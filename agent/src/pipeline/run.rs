//! Starting in the order that leaves nothing half-started, then draining until a signal.
//!
//! One task of a current-thread runtime does it all; sinks have their own threads. While bytes move it looks every few
//! milliseconds; when none did for a while it sleeps, and the next byte wakes it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Write as _,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time,
};

use super::{
    Failure, Pipeline, Prepared, RecordTo, Unfit,
    checkpoint::Checkpoint,
    destinations::Destinations,
    identities::Identities,
    keeper::{self, Keeper},
    keeping::Held,
    memory::{self, Memory},
    own_files::{own_files, state_files},
    recorder::Recorder,
    reload::Reload,
    scale::Scale,
    selftest::SelfTest,
    snapshot::Standing,
    tamper::SelfCheck,
};
use crate::{
    alerts::{self, Alerts},
    config::{Config, SinkConfig},
    event::{ActKind, AssetId, AssetSet, BootNs, HolderId, Process},
    host::{
        self,
        cgroup::cgroup2_mount,
        folders::{Appeared, FolderWatch},
        hash::{HashQueue, Hasher},
        mounts::MountWatch,
        registry::{ChangeKind, Object, Registry},
    },
    ledger::Ledger,
    metrics::{
        BuildInfo, Metrics,
        http::{Listener, Readiness},
    },
    rules::{Engine, Severity},
    sensor::{Adopted, Hook, HookKind, Protection, Reading, SensedAct, Sensor, SensorError, Setup},
    sinks::{Sinks, TerminalSink, file, terminal},
    status::{self, Status},
};

/// While bytes move.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Quiet for this long, it sleeps.
const QUIET: Duration = Duration::from_millis(300);
/// Of what passes with time.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Of the registry, for files that changed without being opened since.
const RESCAN_EVERY: Duration = Duration::from_secs(60);
/// While assets are written to, the registry takes at most one part in this many of the time.
const SCAN_SHARE: u32 = 20;
/// Shortest time between two scans for who has new carriers open; until one, every process's reads are looked up.
const CARRIERS_SOON: Duration = Duration::from_secs(1);
/// Longest, for carriers that are empty or closed by now.
const CARRIERS_LATE: Duration = Duration::from_secs(60);
/// For the sinks at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command line adds.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Show alerts on standard error too, when it is a terminal.
    pub show_alerts: bool,
    /// Write down what the ledger is told.
    pub record: Option<RecordTo>,
    /// Between two proofs that the hooks fire; `None` for the default.
    pub prove_every: Option<Duration>,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// When it cannot start, or the sensor fails while it runs.
pub fn run(prepared: Prepared, options: Options) -> Result<(), Failure> {
    keep_descriptors();
    keep_memory();
    memory::share_one_arena();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Unfit::System("start the runtime", error))?;
    runtime.block_on(Agent::serve(prepared, options))
}

/// Its memory holds the key of the log's seal and tokens: no core dump has it, and who runs as the agent's user cannot look into
/// it or stop it by `ptrace`. Who may do that to any process still can.
fn keep_memory() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "others of the agent's user can read its memory");
    }
}

/// Whatever was left open by who started us is not for our children: the canary's would make carriers of it.
fn keep_descriptors() {
    // SAFETY: changes a flag of descriptors from 3 on, and touches no memory.
    let changed = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if changed != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "inherited descriptors stay inheritable");
    }
}

struct Agent {
    config: Config,
    held: Held,
    checkpoint: Checkpoint,
    sensor: Sensor,
    pipeline: Pipeline,
    registry: Registry,
    /// Files that left their asset's place and lie nowhere else in it, with their sizes. Whoever moved them away can still
    /// read them, and a bound is capped by its asset's size: an asset that was moved must not shrink to nothing.
    gone: HashMap<Object, (AssetId, u64)>,
    metrics: Arc<Metrics>,
    mounts: MountWatch,
    /// `None` where the kernel gives none: what is renamed into an asset is then found by the next scan.
    folders: Option<FolderWatch>,
    /// The end of the last scan of the registry, and how long it took.
    scanned_at: Instant,
    scan_took: Duration,
    rescan_at: Instant,
    carriers_at: Instant,
    carriers_every: Duration,
    reload: Reload,
    selftest: SelfTest,
    memory: Memory,
}

impl Agent {
    async fn serve(prepared: Prepared, options: Options) -> Result<(), Failure> {
        // Signals first: one that comes while the agent starts must end it, not be lost.
        let system = |what| move |error| Unfit::System(what, error);
        let mut terminate = signal(SignalKind::terminate()).map_err(system("listen for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listen for SIGINT"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(system("listen for SIGHUP"))?;
        let listener = Listener::bind(prepared.config.listen).map_err(Unfit::from)?;
        let mut prepared = prepared;
        let held = match prepared.held.take() {
            Some(held) => held,
            None => Held::new(&prepared.config)?,
        };
        let metrics = Arc::new(metrics(&prepared)?);
        let readiness = Readiness::new("the sensor starts");
        let address = listener.address();
        let server = tokio::spawn(listener.serve(Arc::clone(&metrics), readiness.clone()));
        let status = Status::default();
        let window =
            status::serve(held.state.path(), status.clone()).map_err(system("make the status socket"))?;
        tokio::spawn(window);
        let length = options.record.as_ref().and_then(|record| record.length);
        let mut agent = Self::start(prepared, held, metrics, status, options)?;
        // From here on what is sent is compared with what is counted.
        agent.weigh_host()?;
        // What starting needed (the kernel's types, the programs, the first scan) goes back to the system.
        agent.memory.give_back();
        readiness.set_ready();
        tracing::info!(%address, assets = agent.config.assets.len(), files = agent.registry.files().len(), "weighing");
        // The line that scripts wait for.
        let _ = writeln!(std::io::stderr(), "ready");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let facts = agent
            .sensor
            .facts()
            // SAFETY: a descriptor that it owns, and so keeps open and never changes.
            .and_then(|ring| Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?))
            .map_err(system("wait for the ring buffer"))?;
        let ended = tokio::select! {
            ended = agent.weigh(&facts, &mut hangup) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = over(length) => Ok(()),
            ended = server => match ended {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => Err(Unfit::System("serve /metrics", error).into()),
                Err(error) => Err(anyhow::Error::from(error).context("the HTTP server ended").into()),
            },
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        agent.stop();
        ended
    }

    fn start(
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
            leaving: super::leaving::Leaving::default(),
            own: SelfCheck::new(&own_files(&config)),
            known: AssetSet::default(),
            below: super::acts::Below::new(config.gpu_drivers.clone()),
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
        checkpoint.recall(&mut pipeline, &mut sensor).map_err(Unfit::from)?;
        pipeline.below.refresh(&mut sensor, &table, &registry).map_err(Unfit::from)?;
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
            pipeline.raise(HolderId::HOST, ActKind::Restarted, Some(how.to_owned()), self::now());
        }
        let soon = Instant::now();
        Ok(Self {
            mounts: MountWatch::new().map_err(Unfit::from)?,
            folders: watch_folders(&registry),
            scanned_at: soon,
            scan_took: Duration::ZERO,
            rescan_at: soon + RESCAN_EVERY,
            carriers_at: soon,
            carriers_every: CARRIERS_SOON,
            reload: Reload::new(config.rules.clone()),
            selftest: SelfTest::new(options.prove_every, &metrics),
            memory: Memory::default(),
            config,
            held,
            checkpoint,
            sensor,
            pipeline,
            registry,
            gone: HashMap::new(),
            metrics,
        })
    }

    /// Never ends but by an error.
    async fn weigh(&mut self, facts: &AsyncFd<OwnedFd>, hangup: &mut Signal) -> Result<(), Failure> {
        let folders = self.folders.as_ref().map(|folders| folders.as_fd().try_clone_to_owned()).transpose();
        let folders = folders.and_then(|folders| match folders {
            Some(folders) => {
                // SAFETY: a descriptor that it owns, and so keeps open and never changes.
                let folders = unsafe { AsyncFd::register_with_interest(folders, Interest::READABLE) }?;
                Ok(Some(folders))
            }
            None => Ok(None),
        });
        let folders = folders.map_err(|error| Unfit::System("watch the assets' directories", error))?;
        let mut moved_at = Instant::now();
        let mut tick_at = Instant::now() + TICK_EVERY;
        loop {
            if self.look()? {
                moved_at = Instant::now();
            }
            if Instant::now() >= tick_at {
                self.tick()?;
                self.reload.poll(&mut self.pipeline, now()).await;
                tick_at = Instant::now() + TICK_EVERY;
            }
            let wait = if moved_at.elapsed() < QUIET {
                LOOK_EVERY
            } else {
                self.sensor.sleep().map_err(Unfit::from)?;
                // What moved between the last look and falling asleep wakes nobody.
                if self.look()? {
                    moved_at = Instant::now();
                    continue;
                }
                self.deadline(tick_at)
            };
            let sleeps = Instant::now();
            tokio::select! {
                readable = time::timeout(wait, facts.readable()) => if let Ok(readable) = readable {
                    readable.map_err(|error| Unfit::System("wait for the ring buffer", error))?.clear_ready();
                },
                () = appeared(folders.as_ref()) => {}
                _ = hangup.recv() => self.reload.request(),
            }
            self.pipeline.slept(wait, sleeps.elapsed());
        }
    }

    /// When to wake although nothing moves.
    fn deadline(&self, tick_at: Instant) -> Duration {
        let tick = tick_at.saturating_duration_since(Instant::now());
        match self.pipeline.next_deadline() {
            Some(deadline) => tick.min(Duration::from_nanos(deadline.0.saturating_sub(now().0))),
            None => tick,
        }
    }

    /// Takes what is new; whether anything was.
    fn look(&mut self) -> Result<bool, Failure> {
        let mut readings: Vec<Reading> = Vec::new();
        let moved = self.sensor.drain(&mut readings).map_err(Unfit::from)?;
        self.selftest.see(&readings);
        // A volume that is mounted, written to and gone within a second is known by what it is called while it is there.
        if readings.iter().any(|reading| self.pipeline.is_of_no_mount(reading)) {
            self.follow_mounts()?;
        }
        // An asset that grew has its new size before anything of it is weighed.
        if readings.iter().any(|reading| self.pipeline.changes_asset(reading)) || self.follow_folders() {
            self.rescan_soon();
        }
        if Instant::now() >= self.rescan_at {
            self.rescan();
            self.look_below(HolderId::HOST)?;
        }
        let mapper = readings.iter().rev().find_map(|reading| match reading {
            Reading::Act { holder, act: SensedAct::Mapper, .. } => Some(*holder),
            _ => None,
        });
        if let Some(holder) = mapper {
            self.look_below(holder)?;
        }
        if !readings.is_empty() {
            // What was mounted a moment ago is written to a moment later: its alert must say where.
            self.follow_mounts()?;
            self.pipeline.step(readings, now());
        }
        for tampering in self.sensor.tampered().map_err(Unfit::from)? {
            self.pipeline.tampered(tampering, now());
        }
        self.scan_carriers()?;
        Ok(moved)
    }

    /// As soon as its share of the time allows.
    fn rescan_soon(&mut self) {
        self.rescan_at = self.rescan_at.min(self.scanned_at + self.scan_took * SCAN_SHARE);
    }

    /// Protects what was renamed or linked into an asset, before it can be taken out by its other name. Whether there is anything that
    /// the registry does not know.
    fn follow_folders(&mut self) -> bool {
        let Some(folders) = &mut self.folders else { return false };
        let Appeared { files, more } = folders.appeared();
        let some = more || !files.is_empty();
        for (asset, path) in files {
            // What a link leads to is no part of the asset.
            if !fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_file()) {
                continue;
            }
            match self.sensor.protect(asset, &path, Protection::Appeared) {
                Ok(object) => self.pipeline.protected(object),
                Err(error) => {
                    tracing::debug!(%error, "what appeared is gone again, or is found by the next scan")
                }
            }
        }
        some
    }

    /// What stores the assets now; `holder` set something up, if it is not the host itself.
    fn look_below(&mut self, holder: HolderId) -> Result<(), Failure> {
        let table = Arc::clone(self.pipeline.destinations.classifier().table());
        let new =
            self.pipeline.below.refresh(&mut self.sensor, &table, &self.registry).map_err(Unfit::from)?;
        self.pipeline.mirrored(holder, new, now());
        Ok(())
    }

    /// At once when a carrier was made, though not more often than once a second; else ever more seldom.
    fn scan_carriers(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.carriers_at);
        let due = since >= self.carriers_every
            || (since >= CARRIERS_SOON && self.sensor.unsettled().map_err(Unfit::from)?);
        if due {
            let changed = self.sensor.scan_carriers().map_err(Unfit::from)?;
            self.carriers_at = now;
            self.carriers_every =
                if changed { CARRIERS_SOON } else { (self.carriers_every * 2).min(CARRIERS_LATE) };
        }
        self.metrics.set_unsettled(self.sensor.looks_at_all().map_err(Unfit::from)?);
        Ok(())
    }

    fn follow_mounts(&mut self) -> Result<(), Failure> {
        if self.mounts.changed() {
            self.pipeline.mounts_changed(now());
            self.checkpoint.mounts_changed(&mut self.pipeline, &mut self.sensor).map_err(Unfit::from)?;
            self.look_below(HolderId::HOST)?;
            // One of them can lie in an asset.
            self.rescan_soon();
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Failure> {
        self.follow_mounts()?;
        self.weigh_host()?;
        let changed = self.sensor.changed_links();
        for hook in changed.iter().filter_map(|link| link.hook) {
            if let Some(report) = self.sensor.hooks().iter().find(|report| report.hook.name == hook) {
                self.metrics.set_probe(hook, kind_of(report.hook), false);
            }
        }
        let changed = changed.into_iter().map(|link| (ActKind::LinksTouched, link.name));
        let removed = self.sensor.removed_pins().into_iter().map(|pin| (ActKind::PinsTouched, pin));
        for (kind, what) in changed.chain(removed).collect::<Vec<_>>() {
            let how = if kind == ActKind::PinsTouched { "was removed" } else { "changed" };
            self.pipeline.raise(HolderId::HOST, kind, Some(format!("{what} {how}")), now());
        }
        self.memory.look();
        self.metrics.set_ring_fill(self.sensor.ring_fill());
        for (probe, runs, took) in self.sensor.probe_runs() {
            self.metrics.set_probe_runs(probe, runs, took);
        }
        self.pipeline.check_self(now());
        self.pipeline.tick(now());
        self.checkpoint.look(&mut self.pipeline, &mut self.sensor).map_err(Unfit::from)?;
        self.selftest.tick(&mut self.sensor, &mut self.pipeline, self.held.state.path(), &self.metrics);
        self.checkpoint
            .save_if_due(&mut self.pipeline, &mut self.sensor, &self.metrics)
            .map_err(Unfit::from)?;
        match self.pipeline.recording_failed() {
            Some(error) => Err(anyhow::Error::from(error).into()),
            None => Ok(()),
        }
    }

    fn weigh_host(&mut self) -> Result<(), Failure> {
        if let Some(totals) = self.sensor.host_totals().map_err(Unfit::from)? {
            let sent = self.sensor.sent(now()).map_err(Unfit::from)?;
            self.pipeline.weigh_host(&sent, totals, now());
        }
        Ok(())
    }

    /// Follows files that came, went, grew or were replaced.
    fn rescan(&mut self) {
        let started = Instant::now();
        let classifier = self.pipeline.destinations().classifier();
        let (changes, problems) = self.registry.rescan(&self.config, classifier, Timestamp::now());
        self.scanned_at = Instant::now();
        self.scan_took = self.scanned_at - started;
        self.rescan_at = self.scanned_at + RESCAN_EVERY;
        self.metrics.set_scan(self.scan_took);
        if let Some(folders) = &mut self.folders {
            folders.follow(self.registry.directories());
        }
        if let Err(error) = protect_mounted(&mut self.sensor, &self.registry) {
            tracing::warn!(%error, "a volume mounted in an asset's directory is protected file by file only");
        }
        for problem in problems {
            tracing::warn!("{}", problem.text);
        }
        if changes.is_empty() {
            return;
        }
        // By asset, bytes that took the place of others.
        let mut renewed: HashMap<AssetId, u64> = HashMap::new();
        for change in changes {
            if matches!(change.kind, ChangeKind::Replaced { .. } | ChangeKind::Rewritten { .. }) {
                *renewed.entry(change.asset).or_insert(0) += change.size;
            }
            tracing::info!(path = %change.path.display(), kind = ?change.kind, "a protected file changed");
            if matches!(change.kind, ChangeKind::Removed) {
                self.gone.insert(change.object, (change.asset, change.size));
                // Whoever has it open still reads it: its inode stays protected.
                continue;
            }
            match self.sensor.protect(change.asset, &change.path, Protection::File) {
                Ok(object) => self.pipeline.protected(object),
                Err(error) => {
                    tracing::warn!(%error, "a changed file could not be protected by its inode; its directory still does");
                }
            }
        }
        let present: HashSet<Object> = self.registry.files().iter().map(|file| file.object).collect();
        self.gone.retain(|object, _| !present.contains(object));
        let mut assets = self.registry.assets(&self.config);
        for (asset, size) in self.gone.values() {
            if let Some(asset) = assets.iter_mut().find(|known| known.id == *asset) {
                asset.bytes = asset.bytes.saturating_add(*size);
            }
        }
        // First without what is new: whoever took what was there before can take that too.
        let mut rest = assets.clone();
        rest.retain_mut(|asset| {
            let renewed = renewed.get(&asset.id).copied().unwrap_or(0);
            asset.bytes = asset.bytes.saturating_sub(renewed);
            renewed != 0
        });
        self.pipeline.assets(&rest, now());
        self.pipeline.assets(&assets, now());
        self.metrics.set_asset_files(self.registry.files().len() as u64);
        if let Err(error) = self.registry.save(&self.held.state, &self.config) {
            tracing::error!(%error, "the registry could not be stored");
        }
    }

    /// Takes what moved until now, and says it.
    fn stop(mut self) {
        // Twice: images that ended are told of in the look after the one that saw it.
        for _ in 0..2 {
            if let Err(error) = self.look() {
                tracing::error!(%error, "the last look failed");
            }
            if let Err(error) = self.weigh_host() {
                tracing::error!(%error, "the last look at what the host sent failed");
            }
        }
        if let Err(error) = self.held.state.end_run() {
            tracing::error!(%error, "the next start will say that this agent was killed");
        }
        // What no file has is not told of, and the next start tells of it again.
        if self.pipeline.flush(now(), PATIENCE)
            && let Err(error) = self.checkpoint.save(&mut self.pipeline, &mut self.sensor, &self.metrics)
        {
            tracing::error!(%error, "what was told of could not be kept: the next start tells of it again");
        }
        if self.sensor.is_pinned() {
            tracing::info!("the kernel weighs on; `weighbridge unload` ends that");
        }
        drop(self.sensor);
        let left = self.pipeline.close(now(), PATIENCE);
        if left != 0 {
            tracing::error!(left, "alerts could not be delivered before the end");
        }
    }
}

/// The label of a hook's kind.
const fn kind_of(hook: Hook) -> &'static str {
    match hook.kind {
        HookKind::Tracepoint | HookKind::TracepointAs(_) => "tp_btf",
        HookKind::Iterator(_) => "iter",
        HookKind::Egress => "cgroup_skb",
    }
}

/// Ends when something appeared in an asset's directory.
async fn appeared(folders: Option<&AsyncFd<OwnedFd>>) {
    match folders {
        Some(folders) => {
            if let Ok(mut readable) = folders.readable().await {
                readable.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

/// Ends when a recording is as long as it was asked to be.
async fn over(length: Option<Duration>) {
    match length {
        Some(length) => time::sleep(length).await,
        None => std::future::pending().await,
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

fn watch_folders(registry: &Registry) -> Option<FolderWatch> {
    match FolderWatch::new() {
        Ok(mut folders) => {
            folders.follow(registry.directories());
            Some(folders)
        }
        Err(error) => {
            tracing::warn!(%error, "what is renamed into an asset is found within a minute (fs.inotify.max_user_instances)");
            None
        }
    }
}

/// A walk to the directory that protects a file ends at the root of its volume: of volumes that are mounted in an asset the topmost
/// directory is protected itself.
fn protect_mounted(sensor: &mut Sensor, registry: &Registry) -> Result<(), SensorError> {
    let known: HashSet<_> =
        registry.directories().iter().map(|folder| (&*folder.path, folder.object.dev)).collect();
    for folder in registry.directories() {
        let above = folder.path.parent().is_some_and(|above| known.contains(&(above, folder.object.dev)));
        if !above {
            match sensor.protect(folder.asset, &folder.path, Protection::Directory) {
                Err(SensorError::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
                protected => drop(protected?),
            }
        }
    }
    Ok(())
}

fn protect(
    sensor: &mut Sensor,
    pipeline: &mut Pipeline,
    config: &Config,
    registry: &Registry,
) -> Result<(), Failure> {
    for (asset, configured) in config.assets.iter().enumerate() {
        let asset = AssetId(u8::try_from(asset).context("more assets than an id can name")?);
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

fn metrics(prepared: &Prepared) -> Result<Metrics, Failure> {
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

/// `CLOCK_BOOTTIME`, as the kernel side stamps.
pub(crate) fn now() -> BootNs {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    BootNs(seconds.saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0))
}
