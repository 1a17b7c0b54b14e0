//! The agent while it runs: draining until a signal.
//!
//! One task of a current-thread runtime does it all; sinks have their own threads. While bytes move it looks every few
//! milliseconds; when none did for a while it sleeps, and the next byte wakes it.

mod closed;
mod files;
mod start;

use std::{
    convert::Infallible,
    io::{self, Write as _},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time,
};

use self::{
    closed::{keep_descriptors, keep_memory},
    files::Files,
};
use super::{
    Failure, Pipeline, Prepared, RecordTo, Unfit,
    checkpoint::Checkpoint,
    keeping::Held,
    memory::{self, Memory},
    reload::Reload,
    selftest::SelfTest,
};
use crate::{
    config::Config,
    event::{ActKind, BootNs, HolderId},
    host::mounts::MountWatch,
    metrics::{
        Metrics,
        http::{Listener, Readiness},
    },
    sensor::{Hook, HookKind, HookReport, Reading, SensedAct, Sensor},
    status::{self, Status},
};

/// While bytes move.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Quiet for this long, it sleeps.
const QUIET: Duration = Duration::from_millis(300);
/// Of what passes with time.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two scans for who has new carriers open; until one, every process's reads are looked up.
const CARRIERS_SOON: Duration = Duration::from_secs(1);
/// Longest, for carriers that are empty or closed by now.
const CARRIERS_LATE: Duration = Duration::from_secs(60);
/// The hook that sees who sends the agent a signal. Not every kernel has it.
const SIGNALS: &str = "signal_generate";
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

struct Agent {
    config: Config,
    held: Held,
    checkpoint: Checkpoint,
    sensor: Sensor,
    pipeline: Pipeline,
    files: Files,
    metrics: Arc<Metrics>,
    mounts: MountWatch,
    carriers_at: Instant,
    carriers_every: Duration,
    reload: Reload,
    selftest: SelfTest,
    memory: Memory,
    /// By which signal it was asked to end.
    asked: Option<&'static str>,
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
        let metrics = Arc::new(start::metrics(&prepared)?);
        let readiness = Readiness::new("the sensor starts");
        let address = listener.address();
        let status = Status::default();
        let window =
            status::serve(held.state.path(), status.clone()).map_err(system("make the status socket"))?;
        tokio::spawn(window);
        let length = options.record.as_ref().and_then(|record| record.length);
        let mut agent = Self::start(prepared, held, Arc::clone(&metrics), status, options)?;
        metrics.set_last_look();
        // Not before: what is not restored yet would be scraped as zeros. Until now a scrape waits for its connection to be taken.
        let server = answer_aside(listener, metrics, readiness.clone())
            .map_err(system("start a thread for /metrics"))?;
        // A signal that came meanwhile may be older than the hook that sees who sends one: it ends the agent without a claim.
        let is_ending = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            () = time::sleep(LOOK_EVERY) => false,
        };
        // From here on what is sent is compared with what is counted.
        agent.weigh_host()?;
        // What starting needed (the kernel's types, the programs, the first scan) goes back to the system.
        agent.memory.give_back();
        readiness.set_ready();
        tracing::info!(%address, assets = agent.config.assets.len(), files = agent.files.registry().files().len(), "weighing");
        // The line that scripts wait for.
        let _ = writeln!(io::stderr(), "ready");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let facts = agent
            .sensor
            .facts()
            // SAFETY: a descriptor that it owns, and so keeps open and never changes.
            .and_then(|ring| Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?))
            .map_err(system("wait for the ring buffer"))?;
        let ended = tokio::select! {
            () = std::future::ready(()), if is_ending => Ok(()),
            ended = agent.weigh(&facts, &mut hangup) => ended,
            _ = terminate.recv() => { agent.asked = Some("SIGTERM"); Ok(()) }
            _ = interrupt.recv() => { agent.asked = Some("SIGINT"); Ok(()) }
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

    /// Never ends but by an error.
    async fn weigh(&mut self, facts: &AsyncFd<OwnedFd>, hangup: &mut Signal) -> Result<(), Failure> {
        let folders = self.files.appeared().and_then(|folders| match folders {
            Some(folders) => {
                // SAFETY: a descriptor that it owns, and so keeps open and never changes.
                let folders = unsafe { AsyncFd::register_with_interest(folders, Interest::READABLE) }?;
                Ok(Some(folders))
            }
            None => Ok(None),
        });
        let folders = folders.map_err(|error| Unfit::System("watch the assets' directories", error))?;
        let mut moved_at = Instant::now();
        let mut awake = Instant::now();
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
            self.pipeline.worked(sleeps.duration_since(awake));
            tokio::select! {
                readable = time::timeout(wait, facts.readable()) => if let Ok(readable) = readable {
                    readable.map_err(|error| Unfit::System("wait for the ring buffer", error))?.clear_ready();
                },
                () = appeared(folders.as_ref()) => {}
                _ = hangup.recv() => self.reload.request(),
            }
            self.pipeline.slept(wait, sleeps.elapsed());
            awake = Instant::now();
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
        self.metrics.set_last_look();
        let mut readings: Vec<Reading> = Vec::new();
        let moved = self.sensor.drain(&mut readings).map_err(Unfit::from)?;
        self.selftest.see(&readings);
        // A volume that is mounted, written to and gone within a second is known by what it is called while it is there.
        if readings.iter().any(|reading| self.pipeline.is_of_no_mount(reading)) {
            self.follow_mounts()?;
        }
        // An asset that grew has its new size before anything of it is weighed.
        if readings.iter().any(|reading| self.pipeline.changes_asset(reading))
            || self.files.follow_folders(&mut self.sensor, &mut self.pipeline)
        {
            self.files.rescan_soon();
        }
        if self.files.is_due() {
            let Self { sensor, pipeline, held, metrics, .. } = self;
            if self.files.rescan(sensor, pipeline, &held.state, metrics) {
                self.look_below(HolderId::HOST)?;
            }
        }
        let mapper = readings.iter().rev().find_map(|reading| match reading {
            Reading::Act { holder, act: SensedAct::Mapper, .. } => Some(*holder),
            _ => None,
        });
        if let Some(holder) = mapper {
            self.look_below(holder)?;
        }
        let written =
            readings.iter().filter_map(|reading| self.pipeline.written(reading)).collect::<Vec<_>>();
        if !written.is_empty() {
            self.files.follow_growth(written.into_iter(), &self.config, &mut self.pipeline);
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

    /// What stores the assets now; `holder` set something up, if it is not the host itself.
    fn look_below(&mut self, holder: HolderId) -> Result<(), Failure> {
        let table = Arc::clone(self.pipeline.destinations.classifier().table());
        let new = self
            .pipeline
            .below
            .refresh(&mut self.sensor, &table, self.files.registry())
            .map_err(Unfit::from)?;
        if let Some(path) = self.pipeline.below.unanswered() {
            let text = format!("{} does not answer: an image below a device is not watched", path.display());
            self.pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now());
        }
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
        if self.mounts.changed() || self.pipeline.destinations().are_behind() {
            self.pipeline.mounts_changed(now());
            self.checkpoint.mounts_changed(&mut self.pipeline, &mut self.sensor).map_err(Unfit::from)?;
            self.look_below(HolderId::HOST)?;
            // One of them can lie in an asset.
            self.files.rescan_soon();
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
        let changed =
            changed.into_iter().map(|link| (ActKind::LinksTouched, format!("{} changed", link.name)));
        let removed = self.sensor.removed_pins().into_iter().map(|what| (ActKind::PinsTouched, what));
        for (kind, what) in changed.chain(removed).collect::<Vec<_>>() {
            self.pipeline.raise(HolderId::HOST, kind, Some(what), now());
        }
        self.files.protect_late(&mut self.sensor, &mut self.pipeline);
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
        let is_seen = |report: &HookReport| report.hook.name == SIGNALS && report.result.is_ok();
        if let Some(signal) = self.asked
            && self.sensor.hooks().iter().any(is_seen)
        {
            self.pipeline.asked_to_end(signal, now());
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

/// Answers scrapes on a thread of its own: one that the agent could not answer while it waits for something would say nothing of that.
/// The receiver has why it ended.
fn answer_aside(
    listener: Listener,
    metrics: Arc<Metrics>,
    readiness: Readiness,
) -> io::Result<oneshot::Receiver<io::Result<Infallible>>> {
    let (sender, ended) = oneshot::channel();
    thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let end = runtime.and_then(|runtime| runtime.block_on(listener.serve(metrics, readiness)));
        // The agent may have ended.
        let _ = sender.send(end);
    })?;
    Ok(ended)
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

/// `CLOCK_BOOTTIME`, as the kernel side stamps.
pub(crate) fn now() -> BootNs {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    BootNs(seconds.saturating_mul(1_000_000_000) + u64::try_from(now.tv_nsec).unwrap_or(0))
}
