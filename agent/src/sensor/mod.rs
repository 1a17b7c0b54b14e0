//! The syscall sensor: loads the eBPF programs, proves them, and drains maps and ring into [`Reading`]s.
//!
//! The only part that names aya. It must not know rules, alerts, the names of assets, or what is controlled.

pub mod btf;
mod canary;
mod drain;
mod facts;
mod load;
mod log;
mod maps;
mod memory;
pub mod offsets;
mod protect;
mod reading;
mod scan;

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use agent_ebpf as abi;
use aya::{Ebpf, maps::MapError};
use thiserror::Error;

pub use self::{
    canary::run_child as run_canary,
    load::{HOOKS, Hook, HookKind, HookReport, KERNEL_BTF},
    protect::Protection,
    reading::{FsPath, ProcessReading, Reading},
};
use self::{drain::Drain, log::KernelLog, maps::Maps};

#[derive(Debug, Error)]
pub enum SensorError {
    #[error("kernel has no BTF at {KERNEL_BTF}: {0}; it must be built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf(#[source] io::Error),
    #[error(transparent)]
    Offsets(#[from] offsets::OffsetError),
    #[error(
        "the kernel refuses eBPF: {0:#}; run as root or with CAP_BPF and CAP_PERFMON, and see `weighbridge doctor`"
    )]
    Refused(#[source] anyhow::Error),
    #[error("hook {hook} does not start: {reason}; see `weighbridge doctor`")]
    Hook { hook: &'static str, reason: String },
    #[error("the eBPF object has no map {0}: the binary was built wrongly")]
    NoMap(&'static str),
    #[error("a map of the sensor cannot be used: {0}")]
    Map(#[from] MapError),
    #[error("the log of the kernel side cannot be read: {0}")]
    Log(#[from] aya_log::Error),
    #[error("{what} {path}: {error}")]
    File { what: &'static str, path: String, error: io::Error },
    #[error("the kernel did not report the identity of {0}: the hook sys_exit does not fire")]
    NoIdentity(String),
    #[error("a scan failed: {0}")]
    Scan(#[source] anyhow::Error),
    #[error("the canary was not seen by {0}: the hook attached and does not fire")]
    Silent(&'static str),
    #[error("the canary could not be sent: {0}")]
    Canary(#[source] io::Error),
}

/// A running sensor. Detached and gone when dropped.
pub struct Sensor {
    /// Holds the programs and their links.
    ebpf: Ebpf,
    maps: Maps,
    drain: Drain,
    hooks: Vec<HookReport>,
    log: Option<KernelLog>,
    /// Propagation floor, bytes.
    floor: u64,
    /// Carriers, with the epoch of the first scan that saw them.
    carriers: HashMap<abi::ObjectKey, u64>,
    /// Bytes in carriers that were forgotten because they held little.
    forgotten: u64,
    /// Changes of mappings as of the last scan of them.
    mappings: u64,
}

impl Sensor {
    /// Loads and attaches all hooks. Nothing is protected yet.
    ///
    /// # Errors
    ///
    /// When the kernel has no BTF, lacks a field, or refuses a hook that is required.
    pub fn start(propagation_floor: u64) -> Result<Self, SensorError> {
        let load::Loaded { mut ebpf, hooks, log } = load::load(propagation_floor, true)?;
        let mut maps = Maps::take(&mut ebpf)?;
        // From 1: a holder that was never told of has 0.
        let looks = maps.shared(abi::SHARED_LOOK)?;
        maps.set_shared(abi::SHARED_LOOK, looks + 1)?;
        let (drain, carriers) = (Drain::default(), HashMap::new());
        Ok(Self {
            ebpf,
            maps,
            drain,
            hooks,
            log,
            floor: propagation_floor,
            carriers,
            forgotten: 0,
            mappings: 0,
        })
    }

    /// Loads every hook and attaches none: what `doctor` shows.
    ///
    /// # Errors
    ///
    /// As [`Sensor::start`].
    pub fn probe() -> Result<Vec<HookReport>, SensorError> {
        Ok(load::load(0, false)?.hooks)
    }

    #[must_use]
    pub fn hooks(&self) -> &[HookReport] {
        &self.hooks
    }

    /// Puts all that is new into `readings`; returns whether bytes moved or a process came or went.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn drain(&mut self, readings: &mut Vec<Reading>) -> Result<bool, SensorError> {
        if let Some(log) = &mut self.log {
            log.forward();
        }
        self.drain.run(&mut self.maps, readings)
    }

    /// From now on the next byte that a holder moves makes the ring readable. Drain once more after it: what moved before
    /// does not.
    ///
    /// # Errors
    ///
    /// When the map cannot be written.
    pub fn sleep(&mut self) -> Result<(), SensorError> {
        self.maps.set_shared(abi::SHARED_ASLEEP, 1)
    }

    /// A descriptor that becomes readable when a fact arrives; the caller's own, to wait on without borrowing the sensor.
    ///
    /// # Errors
    ///
    /// When there is no room for another descriptor.
    pub fn facts(&self) -> io::Result<OwnedFd> {
        self.maps.facts.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod stack;
#[cfg(test)]
mod tests;
