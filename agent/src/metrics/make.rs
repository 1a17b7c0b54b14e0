//! Makes metrics and moves them: the only place that knows how the client library names things and what it panics on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{
    CounterVec, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Makes metrics with our prefix and registers them.
pub(super) struct Maker<'a> {
    pub(super) registry: &'a Registry,
}

impl Maker<'_> {
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<CounterVec> {
        let metric = CounterVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let metric = IntCounter::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(options(name, help), labels)?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let metric = IntGauge::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn float(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        let metric = Gauge::with_opts(options(name, help))?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> prometheus::Result<Histogram> {
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

pub(super) fn count(family: &IntCounterVec, labels: &[&str], by: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(by),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

pub(super) fn spend(family: &CounterVec, labels: &[&str], took: Duration) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(took.as_secs_f64()),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

/// Brings a counter up to a sum that somebody else keeps.
pub(super) fn raise(family: &IntCounterVec, labels: &[&str], total: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.inc_by(total.saturating_sub(child.get())),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

pub(super) fn raise_seconds(family: &CounterVec, labels: &[&str], total: Duration) {
    match family.get_metric_with_label_values(labels) {
        // The library panics on a negative step.
        Ok(child) => child.inc_by((total.as_secs_f64() - child.get()).max(0.0)),
        Err(error) => tracing::error!("a metric was not counted: {error}"),
    }
}

pub(super) fn set(family: &IntGaugeVec, labels: &[&str], value: u64) {
    match family.get_metric_with_label_values(labels) {
        Ok(child) => child.set(gauge(value)),
        Err(error) => tracing::error!("a metric was not set: {error}"),
    }
}

pub(super) fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
