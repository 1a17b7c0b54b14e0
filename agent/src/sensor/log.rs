//! Debug lines of the kernel side, into the agent's own log under the target `kernel`.
//!
//! Only for people who look for a fault: nothing is concluded from them, and what finds no room in their ring is gone. They
//! are off unless `WEIGHBRIDGE_LOG` has `kernel=debug`; then the verifier removes them from the programs.

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::SensorError;

/// What a filter of the log names them by.
pub(super) const TARGET: &str = "kernel";

pub(super) struct KernelLog(EbpfLogger<Bridge>);

impl KernelLog {
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self, SensorError> {
        Ok(Self(EbpfLogger::init_with_logger(ebpf, Bridge)?))
    }

    /// Writes what came since the last time.
    pub(super) fn forward(&mut self) {
        self.0.flush();
    }
}

/// aya-log speaks to the `log` crate, the agent to `tracing`.
struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: TARGET, "{}", record.args());
    }

    fn flush(&self) {}
}
