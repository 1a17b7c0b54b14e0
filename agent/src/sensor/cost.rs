//! What the programs cost, as the kernel counts it, and how full the ring of facts became. It must not know who asks.

use std::{fs::File, os::unix::fs::FileExt as _, sync::OnceLock, time::Duration};

use agent_ebpf as abi;

use super::Sensor;

/// `sysctl kernel.bpf_stats_enabled`: counting costs, so that it is the operator's to switch on.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Sensor {
    /// Each program that this agent loaded, how often it ran and for how long; nothing while the kernel does not count.
    #[must_use]
    pub fn probe_runs(&self) -> Vec<(&'static str, u64, Duration)> {
        // Not opened again: whoever mounts something over it must not make anybody wait for it.
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let mut text = [0; 1];
        let file = FILE.get_or_init(|| File::open(SWITCH).ok()).as_ref();
        if file.is_none_or(|file| file.read_at(&mut text, 0).is_err()) || text != *b"1" {
            return Vec::new();
        }
        let runs = |name: &'static str| {
            // One that an earlier agent left is not in our hands.
            let info = self.ebpf.program(name)?.info().ok()?;
            Some((name, info.run_count(), info.run_time()))
        };
        self.hooks.iter().filter_map(|report| runs(report.hook.name)).collect()
    }

    /// The most of the ring that a look took out of it since the last call, as a share of its size.
    pub fn ring_fill(&mut self) -> f64 {
        std::mem::take(&mut self.drain.most_taken) as f64 / f64::from(abi::FACTS_BYTES)
    }

    /// The hook whose program has this id.
    pub(super) fn hook_of(&self, program: u32) -> Option<&'static str> {
        let has = |name: &str| self.ebpf.program(name)?.info().ok().map(|info| info.id() == program);
        self.hooks.iter().map(|report| report.hook.name).find(|name| has(name) == Some(true))
    }
}
