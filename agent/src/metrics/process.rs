//! The five `process_*` metrics that every exporter has, from `/proc/self` and two system calls.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{Counter, Gauge, IntGauge, Registry};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use super::make::gauge;
use crate::host::patience::Patience;

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    /// Whoever makes `/proc` wait must not keep a scrape from saying that the agent hangs.
    patience: Mutex<Patience<()>>,
}

/// By `/proc`.
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);

impl ProcessMetrics {
    pub(super) fn new(registry: &Registry, started: f64) -> prometheus::Result<Self> {
        let metrics = Self {
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "User and system time spent, in seconds.",
            )?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Resident memory in bytes.")?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Most file descriptors that may be open.")?,
            patience: Mutex::new(Patience::new(ANSWERED_WITHIN)),
        };
        let start =
            Gauge::new("process_start_time_seconds", "When the process was started, seconds since 1970.")?;
        start.set(started);
        registry.register(Box::new(metrics.cpu_seconds.clone()))?;
        registry.register(Box::new(metrics.resident_bytes.clone()))?;
        registry.register(Box::new(metrics.open_fds.clone()))?;
        registry.register(Box::new(metrics.max_fds.clone()))?;
        registry.register(Box::new(start))?;
        metrics.refresh();
        Ok(metrics)
    }

    /// Reads the values anew. One that cannot be read keeps its last.
    pub(super) fn refresh(&self) {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let spent = cpu - self.cpu_seconds.get();
        // The library panics on a negative step.
        if spent > 0.0 {
            self.cpu_seconds.inc_by(spent);
        }
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = patience.ask((), || {
            let status = fs::read_to_string("/proc/self/status").ok();
            let fds = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
            (status.as_deref().and_then(resident_bytes), fds)
        });
        let (resident, fds) = asked.unwrap_or_default();
        if let Some(bytes) = resident {
            self.resident_bytes.set(gauge(bytes));
        }
        if let Some(fds) = fds {
            self.open_fds.set(gauge(fds as u64));
        }
        self.max_fds.set(gauge(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)));
    }
}

/// `VmRSS:      1234 kB` of `/proc/PID/status`, in bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident_bytes("VmSize:\t  9 kB\nVmRSS:\t    1234 kB\n"), Some(1_263_616));
        assert_eq!(resident_bytes("VmRSS:\t many kB\n"), None);
        assert_eq!(resident_bytes(""), None);
    }
}
