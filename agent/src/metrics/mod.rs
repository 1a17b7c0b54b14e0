//! What the agent counts of itself, for Prometheus: one registry that is passed down, and typed doors to it.
//!
//! All metric code is in this folder, so that the client library can be swapped. A child is created as soon as its
//! labels are known, with 0: a counter that first appears already large contributes nothing to `increase()`, which would
//! hide exactly the bulk copy. Label values are bounded; paths, pids, users and addresses are never among them.

mod assets;
pub mod http;
mod make;
mod process;
mod ring;
mod rules;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use agent_ebpf::LOSSES;
use prometheus::{
    CounterVec, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

pub use self::rules::Outcome;
use self::{
    assets::AssetSeries,
    make::{Maker, count, gauge, now, raise, raise_seconds, set},
    process::ProcessMetrics,
    ring::RingFill,
    rules::RuleMetrics,
};
use crate::{
    event::{Asset, Control, Loss, Record, RecordKind},
    ledger::HostEgress,
    sinks::{Counts, Sinks},
};

/// Stages of user space; those of the kernel are [`LOSSES`]. All exist from the start, for `increase()` does not see the first
/// value of a series. Any other that reports a loss is added.
const STAGES: [&str; 6] =
    ["fact_malformed", "told_full", "aggregate_evicted", "ledger_evicted", "copies_unkept", "sink"];

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
    probe_attached: IntGaugeVec,
    events: IntCounterVec,
    events_lost: IntCounterVec,
    event_latency: Histogram,
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
    last_look: Gauge,
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
    rules: RuleMetrics,
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
            last_look: make.float(
                "last_look_timestamp_seconds",
                "When the agent last took what the kernel weighed, at least once a second, in seconds since 1970: older means that it hangs and tells of nothing.",
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
            rules: RuleMetrics::new(&make)?,
            registry,
        };
        for stage in LOSSES.iter().map(|(stage, _)| *stage).chain(STAGES) {
            count(&metrics.events_lost, &[stage], 0);
        }
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
        metrics.set_sinks(&Sinks::NAMES.map(|name| (name, Counts::default())));
        Ok(metrics)
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
        self.selftest.set(now());
    }

    /// The agent takes what the kernel weighed.
    pub fn set_last_look(&self) {
        self.last_look.set(now());
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
        self.scan_timestamp.set(now());
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
}
