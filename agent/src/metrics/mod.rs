//! What the agent counts of itself, for Prometheus: one registry that is passed down, and typed doors to it.
//!
//! All metric code is here and in `http`, so that the client library can be swapped. A child is created as soon as its
//! labels are known, with 0: a counter that first appears already large contributes nothing to `increase()`, which would
//! hide exactly the bulk copy. Label values are bounded; paths, pids, users and addresses are never among them.

mod assets;
pub mod http;
mod process;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use agent_ebpf::LOSSES;
use jiff::{civil::Date, tz::TimeZone};
use prometheus::{
    CounterVec, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use self::{assets::AssetSeries, process::ProcessMetrics, ring::RingFill};
use crate::{
    alerts::Alert,
    event::{Asset, Control, Loss, Record, RecordKind},
    ledger::HostEgress,
    rules::{Mode, RuleSet, Severity},
    sinks::{Counts, Sinks},
};

/// Rules beyond this many are counted together as `other`.
const MOST_RULES: usize = 200;

/// Exceptions that have series of their own.
const MOST_EXCEPTIONS: usize = 200;

/// Stages of user space; those of the kernel are [`LOSSES`]. All exist from the start, for `increase()` does not see the first
/// value of a series. Any other that reports a loss is added.
const STAGES: [&str; 6] =
    ["fact_malformed", "told_full", "aggregate_evicted", "ledger_evicted", "copies_unkept", "sink"];

/// What became of a set of rules that was read while the agent ran; label `outcome`.
const RELOADS: [&str; 2] = ["accepted", "refused"];

/// What became of a rule's match; label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Alert,
    Shadow,
    Excepted,
    Suppressed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Alert, Self::Shadow, Self::Excepted, Self::Suppressed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Shadow => "shadow",
            Self::Excepted => "excepted",
            Self::Suppressed => "suppressed",
        }
    }
}

/// What `build_info` says.
#[derive(Clone, Debug)]
pub struct BuildInfo<'a> {
    pub version: &'a str,
    /// Empty when not known.
    pub commit: &'a str,
    pub kernel_release: &'a str,
}

/// Every metric of the agent. Shared by reference; all methods may be called from any thread and none of them blocks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    rules_info: IntGaugeVec,
    probe_attached: IntGaugeVec,
    events: IntCounterVec,
    events_lost: IntCounterVec,
    event_latency: Histogram,
    rule_matches: IntCounterVec,
    rule_seconds: CounterVec,
    alerts: IntCounterVec,
    alerts_active: IntGaugeVec,
    rules_loaded: IntGaugeVec,
    rules_reloads: IntCounterVec,
    rules_reload_successful: IntGauge,
    rules_reload_timestamp: Gauge,
    exception_expiry: IntGaugeVec,
    exception_matches: IntCounterVec,
    assets: IntGauge,
    asset_files: IntGauge,
    of_assets: AssetSeries,
    ring_fill: RingFill,
    probe_runs: IntCounterVec,
    probe_seconds: CounterVec,
    host_egress_bytes: IntCounterVec,
    host_egress_linked_bytes: IntCounterVec,
    egress_unattributed: IntGauge,
    sink_sent: IntCounterVec,
    sink_failed: IntCounterVec,
    sink_backlog: IntGaugeVec,
    sink_failing: IntGaugeVec,
    alert_log_sequence: IntGauge,
    state_commit: Histogram,
    selftest: Gauge,
    selftest_failed: IntCounterVec,
    state_failed: IntCounter,
    state_bytes: IntGauge,
    copies_kept: IntGauge,
    copies_doubted: IntCounter,
    checkpoints: IntCounter,
    scan_duration: Gauge,
    scan_timestamp: Gauge,
    carriers_unsettled: IntGauge,
    process: ProcessMetrics,
    known: Mutex<Known>,
}

/// Label values that have children.
#[derive(Debug, Default)]
struct Known {
    rules: BTreeSet<String>,
    exceptions: BTreeSet<String>,
}

impl Metrics {
    /// Registers every metric and creates every child whose labels are known already.
    ///
    /// # Errors
    /// When two metrics have one name: a mistake in this file that its test would show.
    pub fn new(info: &BuildInfo<'_>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        let started = now();

        let build_info = make.gauges(
            "build_info",
            "Always 1; the labels say which agent on which kernel this is.",
            &["version", "commit", "kernel_release"],
        )?;
        set(&build_info, &[info.version, info.commit, info.kernel_release], 1);
        let start_time =
            make.float("start_time_seconds", "When this agent was started, seconds since 1970.")?;
        start_time.set(started);

        let metrics = Self {
            rules_info: make.gauges(
                "rules_info",
                "Always 1; the labels say which rule set is loaded.",
                &["digest", "pack"],
            )?,
            probe_attached: make.gauges(
                "probe_attached",
                "1 while the hook is attached, as re-checked and not as remembered.",
                &["probe", "kind"],
            )?,
            events: make.counters("events_total", "Facts read from the kernel, by kind.", &["kind"])?,
            events_lost: make.counters(
                "events_lost_total",
                "What was lost, by the stage that lost it.",
                &["stage"],
            )?,
            event_latency: make.histogram(
                "event_latency_seconds",
                "From the kernel's timestamp of a fact to the rules' verdict on it.",
                vec![
                    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0,
                ],
            )?,
            rule_matches: make.counters(
                "rule_matches_total",
                "Matches of rules, by what became of them.",
                &["rule_id", "outcome"],
            )?,
            rule_seconds: make.seconds(
                "rule_seconds_total",
                "Time that a rule took, estimated from samples.",
                &["rule_id"],
            )?,
            alerts: make.counters(
                "alerts_total",
                "Findings that reached a severity; each counts once at every severity it reached.",
                &["rule_id", "severity"],
            )?,
            alerts_active: make.gauges("alerts_active", "Findings that are open.", &["severity"])?,
            rules_loaded: make.gauges("rules_loaded", "Rules of the loaded set.", &["mode"])?,
            rules_reloads: make.counters(
                "rules_reloads_total",
                "Times that rules were read anew, by outcome: those that were refused changed nothing.",
                &["outcome"],
            )?,
            rules_reload_successful: make.gauge(
                "rules_last_reload_successful",
                "0 when the last set that was read was wrong and an older one is in force.",
            )?,
            rules_reload_timestamp: make.float(
                "rules_last_reload_timestamp_seconds",
                "When the rules in force were read, seconds since 1970.",
            )?,
            exception_expiry: make.gauges(
                "exception_expiry_timestamp_seconds",
                "When an exception ends to hold, seconds since 1970.",
                &["exception_id"],
            )?,
            exception_matches: make.counters(
                "exception_matches_total",
                "Matches that an exception kept from being sent; one that is never used stays at 0.",
                &["exception_id"],
            )?,
            assets: make.gauge("assets", "Registered assets.")?,
            asset_files: make.gauge("asset_files", "Files of all registered assets.")?,
            of_assets: AssetSeries::default(),
            ring_fill: RingFill::new(make.float(
                "ringbuf_fill_ratio",
                "The most of the ring of facts that one look emptied in the last minute or two; at 1 facts may be lost.",
            )?),
            probe_runs: make.counters(
                "probe_runs_total",
                "Runs of a program since it was loaded, while the kernel counts them (sysctl kernel.bpf_stats_enabled).",
                &["probe"],
            )?,
            probe_seconds: make.seconds(
                "probe_run_seconds_total",
                "Time that a program ran since it was loaded, while the kernel counts it (sysctl kernel.bpf_stats_enabled).",
                &["probe"],
            )?,
            host_egress_bytes: make.counters(
                "host_egress_bytes_total",
                "Bytes of IP packets that any process of the host sent, headers and retransmissions included, by control of \
                 where to; process is what stayed on the host.",
                &["control"],
            )?,
            host_egress_linked_bytes: make.counters(
                "host_egress_linked_bytes_total",
                "The part of host_egress_bytes_total that processes sent which hold asset bytes.",
                &["control"],
            )?,
            egress_unattributed: make.gauge(
                "egress_unattributed_bytes",
                "Bytes that network interfaces sent since the agent started and that no socket's packets explain, at least: \
                 AF_PACKET, AF_XDP, and what is forwarded for virtual machines and others.",
            )?,
            sink_sent: make.counters("sink_sent_total", "Alerts delivered.", &["sink"])?,
            sink_failed: make.counters(
                "sink_failed_total",
                "Deliveries that failed; those that were given up are also in events_lost_total.",
                &["sink"],
            )?,
            sink_backlog: make.gauges("sink_backlog", "Alerts that wait for delivery.", &["sink"])?,
            sink_failing: make.gauges(
                "sink_failing",
                "Files and instances that cannot be delivered to, or whose spool cannot be written, at the moment.",
                &["sink"],
            )?,
            // A gauge by type, because counters must end in `_total`; `resets()` reads it all the same.
            alert_log_sequence: make.gauge(
                "alert_log_sequence",
                "Number of the last line of the hash-chained alert log; a reset is tampering or a rollback.",
            )?,
            state_commit: make.histogram(
                "state_commit_seconds",
                "How long it took to keep sums and findings for the next start.",
                vec![0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0],
            )?,
            selftest: make.float(
                "selftest_success_timestamp_seconds",
                "When the canary last came through hooks, maps and drain, seconds since 1970.",
            )?,
            selftest_failed: make.counters(
                "selftest_failed_total",
                "Canaries that did not come through, by the first hook that was silent; `canary` where it could not be sent.",
                &["probe"],
            )?,
            checkpoints: make.counter(
                "checkpoints_total",
                "Times that what was told of was kept, so that the next start tells of it no more.",
            )?,
            state_failed: make.counter(
                "state_commit_failed_total",
                "Times that sums and findings could not be kept: after a kill they would start anew.",
            )?,
            state_bytes: make.gauge(
                "state_bytes",
                "Size of the database in the state directory: sums, findings and copies.",
            )?,
            copies_kept: make.gauge(
                "copies_kept",
                "Files outside of assets that can hold asset bytes and are known to the next start, also after a reboot.",
            )?,
            copies_doubted: make.counter(
                "copies_doubted_total",
                "Times that a filesystem said of a copy that it is gone and could not answer for it: the copy is kept.",
            )?,
            scan_duration: make.float(
                "inventory_scan_duration_seconds",
                "How long the last scan for assets took.",
            )?,
            scan_timestamp: make.float(
                "inventory_scan_timestamp_seconds",
                "When the last scan for assets ended, seconds since 1970.",
            )?,
            carriers_unsettled: make.gauge(
                "carriers_unsettled",
                "1 while the reads of every process are looked up, because a carrier came and nobody looked yet who has it open.",
            )?,
            process: ProcessMetrics::new(&registry, started)?,
            known: Mutex::default(),
            registry,
        };
        for stage in LOSSES.iter().map(|(stage, _)| *stage).chain(STAGES) {
            count(&metrics.events_lost, &[stage], 0);
        }
        for outcome in RELOADS {
            count(&metrics.rules_reloads, &[outcome], 0);
        }
        metrics.rules_reload_successful.set(1);
        for probe in [
            "canary",
            "sys_exit",
            "sock_send_length",
            "sched_process_exec",
            "sched_process_exit",
            "cgroup_skb_egress",
        ] {
            count(&metrics.selftest_failed, &[probe], 0);
        }
        metrics.set_host_egress(Control::ALL.map(|control| (control, HostEgress::default())));
        for severity in Severity::ALL {
            set(&metrics.alerts_active, &[severity.as_str()], 0);
        }
        for mode in Mode::ALL {
            set(&metrics.rules_loaded, &[mode.as_str()], 0);
        }
        metrics.set_sinks(&Sinks::NAMES.map(|name| (name, Counts::default())));
        Ok(metrics)
    }

    /// The loaded rule set: hex digest, packs, and each rule's id and mode.
    pub fn set_rules<'a>(
        &self,
        digest: &str,
        packs: impl IntoIterator<Item = &'a str>,
        rules: impl IntoIterator<Item = (&'a str, Mode)>,
    ) {
        self.rules_info.reset();
        for pack in packs {
            set(&self.rules_info, &[digest, pack], 1);
        }
        let mut loaded = BTreeMap::from(Mode::ALL.map(|mode| (mode, 0)));
        for (id, mode) in rules {
            *loaded.entry(mode).or_insert(0) += 1;
            self.know_rule(id);
        }
        for (mode, count) in loaded {
            set(&self.rules_loaded, &[mode.as_str()], count);
        }
    }

    /// The same, from the set itself.
    pub fn set_rule_set(&self, rules: &RuleSet) {
        let ids = rules.rules().iter().map(|rule| (rule.facts.id.as_str(), rule.facts.mode));
        self.set_rules(rules.digest(), rules.packs().iter().map(String::as_str), ids);
        self.exception_expiry.reset();
        let ids = &mut self.known().exceptions;
        for exception in rules.exceptions().iter().take(MOST_EXCEPTIONS) {
            let id = exception.facts.id.as_str();
            set(&self.exception_expiry, &[id], end_of(exception.facts.expires));
            count(&self.exception_matches, &[id], 0);
            ids.insert(id.to_owned());
        }
        self.rules_reload_timestamp.set(now());
    }

    /// An exception kept a match from being sent.
    pub fn add_excepted(&self, exception: &str) {
        if self.known().exceptions.contains(exception) {
            count(&self.exception_matches, &[exception], 1);
        }
    }

    /// Rules were read anew, and taken or not.
    pub fn add_reload(&self, accepted: bool) {
        count(&self.rules_reloads, &[RELOADS[usize::from(!accepted)]], 1);
        self.rules_reload_successful.set(i64::from(accepted));
    }

    /// Creates the children of a rule, of the set or of the agent itself.
    pub fn know_rule(&self, id: &str) {
        let id = self.rule_label(id);
        for outcome in Outcome::ALL {
            count(&self.rule_matches, &[&id, outcome.as_str()], 0);
        }
        for severity in Severity::ALL {
            count(&self.alerts, &[&id, severity.as_str()], 0);
        }
        spend(&self.rule_seconds, &[&id], Duration::ZERO);
    }

    /// A rule took so much longer, see [`crate::rules::Engine::take_costs`].
    pub fn add_rule_time(&self, rule: &str, took: Duration) {
        spend(&self.rule_seconds, &[&self.rule_label(rule)], took);
    }

    /// An asset was registered, or its size changed.
    pub fn set_asset(&self, asset: &Asset) {
        let registered = self.of_assets.set_bytes(&asset.name, asset.bytes);
        self.assets.set(gauge(registered as u64));
    }

    /// Files of all assets together.
    pub fn set_asset_files(&self, files: u64) {
        self.asset_files.set(gauge(files));
    }

    /// The canary came through.
    pub fn set_selftest(&self) {
        self.selftest.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// The canary did not come through.
    pub fn add_silent(&self, probe: &str) {
        count(&self.selftest_failed, &[probe], 1);
    }

    /// What was told of is kept.
    pub fn add_checkpoint(&self) {
        self.checkpoints.inc();
    }

    /// Sums and findings were kept, or could not be.
    pub fn set_state(&self, took: Duration, kept: bool) {
        if kept {
            self.state_commit.observe(took.as_secs_f64());
        } else {
            self.state_failed.inc();
        }
    }

    /// What the database takes on the disk, and how many copies are in it.
    pub fn set_state_size(&self, bytes: u64, copies: usize) {
        self.state_bytes.set(gauge(bytes));
        self.copies_kept.set(gauge(copies as u64));
    }

    /// Times since the start that a copy was said to be gone and is kept.
    pub fn set_copies_doubted(&self, times: u64) {
        self.copies_doubted.inc_by(times.saturating_sub(self.copies_doubted.get()));
    }

    /// A scan for assets that has just ended took this long.
    pub fn set_scan(&self, duration: Duration) {
        self.scan_duration.set(duration.as_secs_f64());
        self.scan_timestamp
            .set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// Sums of what of an asset left, by window.
    pub fn set_egress_windows<'a>(&self, sums: impl IntoIterator<Item = (&'a str, &'static str, u64)>) {
        self.of_assets.set_windows(sums);
    }

    /// One look took this part of the ring, at most 1.
    pub fn set_ring_fill(&self, ratio: f64) {
        self.ring_fill.see(ratio, Instant::now());
    }

    /// How often a program ran so far and for how long, as the kernel counts it.
    pub fn set_probe_runs(&self, probe: &str, runs: u64, took: Duration) {
        raise(&self.probe_runs, &[probe], runs);
        raise_seconds(&self.probe_seconds, &[probe], took);
    }

    /// Whether the reads of every process are looked up.
    pub fn set_unsettled(&self, unsettled: bool) {
        self.carriers_unsettled.set(i64::from(unsettled));
    }

    /// Whether a hook is attached; `kind` is what it is attached to, such as `fentry`.
    pub fn set_probe(&self, probe: &str, kind: &str, attached: bool) {
        set(&self.probe_attached, &[probe, kind], u64::from(attached));
        count(&self.probe_runs, &[probe], 0);
        raise_seconds(&self.probe_seconds, &[probe], Duration::ZERO);
    }

    /// Facts of one kind were read; with 0 the kind only becomes known.
    pub fn add_events(&self, kind: &'static str, events: u64) {
        count(&self.events, &[kind], events);
    }

    /// Time from a fact in the kernel to the verdict on it.
    pub fn observe_latency(&self, latency: Duration) {
        self.event_latency.observe(latency.as_secs_f64());
    }

    /// The sums of everything that was lost so far.
    pub fn set_loss(&self, loss: &Loss) {
        for (stage, &total) in loss {
            raise(&self.events_lost, &[stage], total);
        }
    }

    /// Counts a flow record; takes are no flows and change nothing.
    pub fn add_record(&self, record: &Record) {
        let (RecordKind::Flow, Some(sink)) = (record.kind, &record.sink) else { return };
        self.of_assets.add(&record.asset.name, sink.control, record.bytes, sink.leaves_the_host());
    }

    /// A rule matched.
    pub fn add_match(&self, rule: &str, outcome: Outcome) {
        count(&self.rule_matches, &[&self.rule_label(rule), outcome.as_str()], 1);
    }

    /// An alert was made. Lines that only renew a finding, and shadow findings, are not counted.
    pub fn add_alert(&self, alert: &Alert) {
        if alert.raised && alert.matched.mode == Mode::Alert {
            let rule = self.rule_label(&alert.matched.rule.id);
            count(&self.alerts, &[&rule, alert.matched.severity.as_str()], 1);
        }
    }

    /// Open findings by severity, see [`crate::alerts::Alerts::active`].
    pub fn set_active(&self, active: &BTreeMap<Severity, u64>) {
        for (severity, &findings) in active {
            set(&self.alerts_active, &[severity.as_str()], findings);
        }
    }

    /// What sinks have done, see [`Sinks::counts`].
    pub fn set_sinks(&self, sinks: &[(&'static str, Counts)]) {
        let mut dropped = 0;
        for (name, counts) in sinks {
            raise(&self.sink_sent, &[name], counts.sent);
            raise(&self.sink_failed, &[name], counts.failed + counts.dropped);
            set(&self.sink_backlog, &[name], counts.backlog);
            set(&self.sink_failing, &[name], counts.failing);
            dropped += counts.dropped;
        }
        raise(&self.events_lost, &["sink"], dropped);
    }

    /// Sums of what the whole host sent.
    pub fn set_host_egress(&self, sums: impl IntoIterator<Item = (Control, HostEgress)>) {
        for (control, sum) in sums {
            raise(&self.host_egress_bytes, &[control.as_str()], sum.bytes);
            raise(&self.host_egress_linked_bytes, &[control.as_str()], sum.linked);
        }
    }

    /// Sum of what interfaces sent and nothing explains.
    pub fn set_unattributed(&self, bytes: u64) {
        self.egress_unattributed.set(gauge(bytes));
    }

    /// The number of the alert log's last line.
    pub fn set_sequence(&self, seq: u64) {
        self.alert_log_sequence.set(gauge(seq).max(self.alert_log_sequence.get()));
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// When the library cannot encode what it gathered.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        self.process.refresh();
        self.ring_fill.show(Instant::now());
        let mut text = String::with_capacity(64 << 10);
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        self.of_assets.write(&mut text);
        Ok(text.into_bytes())
    }

    /// The label of a rule: its id, while there is room.
    fn rule_label(&self, id: &str) -> String {
        let mut known = self.known();
        if known.rules.contains(id) {
            return id.to_owned();
        }
        if known.rules.len() >= MOST_RULES {
            return "other".to_owned();
        }
        known.rules.insert(id.to_owned());
        id.to_owned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Seconds since 1970 until the end of a day in UTC; 0 for a day that has none.
fn end_of(day: Date) -> u64 {
    let end = day.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC));
    end.map_or(0, |end| u64::try_from(end.timestamp().as_second()).unwrap_or(0))
}

/// Makes metrics with our prefix and registers them.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        let metric = CounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let metric = IntCounter::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let metric = IntGauge::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        let metric = Gauge::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> prometheus::Result<Histogram> {
        let metric = Histogram::with_opts(HistogramOpts::from(options(name, help)).buckets(buckets))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("weighbridge")
}

// The library's `with_label_values` panics on a wrong number of labels. These log instead: that is a mistake in this
// file, and no reason to stop weighing.

fn count(family: &IntCounterVec, labels: &[&str], by: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(by),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

fn spend(family: &CounterVec, labels: &[&str], took: Duration) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(took.as_secs_f64()),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

/// Brings a counter up to a sum that somebody else keeps.
fn raise(family: &IntCounterVec, labels: &[&str], total: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(total.saturating_sub(child.get())),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

fn raise_seconds(family: &CounterVec, labels: &[&str], total: Duration) {
    match family.get_metric_with_label_values(labels) {
        // The library panics on a negative step.
        Ok(child) => child.inc_by((total.as_secs_f64() - child.get()).max(0.0)),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

fn set(family: &IntGaugeVec, labels: &[&str], value: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.set(gauge(value)),
        Err(error) => tracing::error!("a metric was not set: {error}"),
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
