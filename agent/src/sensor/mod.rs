//! The syscall sensor: loads the eBPF programs, proves them, and drains maps and ring into [`Reading`]s.
//!
//! The only part that names aya. It must not know rules, alerts, the names of assets, or what is controlled.

mod acts;
mod adopt;
mod beyond;
pub mod btf;
mod canary;
mod cost;
mod direct;
mod drain;
mod egress;
mod facts;
mod gpus;
mod hooks;
mod layout;
mod load;
mod log;
mod maps;
mod memory;
mod neighbours;
pub mod offsets;
mod pins;
mod protect;
mod reading;
mod recall;
mod scan;
mod stores;
mod tamper;
mod told;

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Mutex,
};

use agent_ebpf as abi;
use aya::{
    Ebpf,
    maps::{Array, MapData, MapError},
    programs::links::FdLink,
};
use thiserror::Error;

pub use self::{
    adopt::{Adopted, Keep},
    canary::{Canary, Flight, run_child as run_canary},
    drain::Past,
    egress::{Sent, Totals},
    facts::read_record,
    hooks::{HOOKS, Hook, HookKind, HookReport},
    layout::{Label, Mismatch},
    load::{KERNEL_BTF, Setup},
    pins::{PinError, Pins},
    protect::Protection,
    reading::{FsPath, ProcessReading, Reading, SensedAct},
    stores::StoreDevice,
    tamper::{ChangedLink, Tampered, Tampering},
};
use self::{
    drain::Drain,
    layout::Layout,
    load::Purpose,
    log::KernelLog,
    maps::{Maps, Raw, row},
    told::Told,
};
use crate::{event::Conclusions, host::patience::Patience};

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
    #[error(transparent)]
    Pins(#[from] PinError),
    #[error(
        "{mismatch}; what they hold (who took how much, and where it went) cannot be understood any more: `weighbridge unload` \
         removes {} and the next start weighs anew, with what is open and mapped then counted in full", path.display()
    )]
    Layout { mismatch: Mismatch, path: PathBuf },
    #[error(
        "the paths of the assets take {0} bytes, and pins have room for {room}: name directories, or set pin: false",
        room = layout::TEXT_BYTES
    )]
    TooManyPaths(usize),
    #[error("a scan failed: {0}")]
    Scan(#[source] anyhow::Error),
    #[error("the canary was not seen by {0}: the hook attached and does not fire")]
    Silent(&'static str),
    #[error("the canary could not be sent: {0}")]
    Canary(#[source] io::Error),
}

impl SensorError {
    /// Whether a path did not answer, or was not asked because too many others did not.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::File { error, .. } if error.kind() == io::ErrorKind::TimedOut)
    }
}

const NOTHING_HELD: abi::HolderValue = abi::HolderValue {
    assets: 0,
    taken: 0,
    parent: abi::HolderKey { tgid: 0, exec: 0, start: 0 },
    inherited: 0,
    since: 0,
    ended: 0,
    spreads: 0,
    told: 0,
    taken_beyond: 0,
    put_beyond: 0,
    sent_beyond: 0,
    mapped: 0,
};

/// What a kernel does with the programs.
pub struct Probed {
    pub hooks: Vec<HookReport>,
    /// They load from the kernel's memory themselves, and need no call of a helper for each word.
    pub reads_directly: bool,
}

/// A running sensor. Detached and gone when dropped, unless it is pinned.
pub struct Sensor {
    /// Holds the programs.
    ebpf: Ebpf,
    /// Keep the hooks attached while nothing is pinned.
    _links: Vec<FdLink>,
    maps: Maps,
    drain: Drain,
    hooks: Vec<HookReport>,
    log: Option<KernelLog>,
    setup: Setup,
    scale: egress::Scale,
    own: tamper::Own,
    /// Carriers, with the epoch of the first scan that saw them.
    carriers: HashMap<abi::ObjectKey, u64>,
    /// Bytes in carriers that were forgotten because they held little.
    forgotten: u64,
    /// There are carriers of which nobody looked yet who has them open.
    recalled: Option<u32>,
    /// Changes of mappings as of the last scan of them.
    mappings: u64,
    adopted: Option<Adopted>,
    kept: Option<(Keep, Layout)>,
    /// Start of this process, in ticks since boot.
    born: u64,
    /// Opens paths that others can have mounted something over; `None` while the agent starts.
    opener: Option<Mutex<Patience<PathBuf>>>,
    /// The same for images and what else lies below assets: however many of those do not answer, what appears in assets is opened.
    opener_below: Option<Mutex<Patience<PathBuf>>>,
}

impl Sensor {
    /// Loads and attaches all hooks, or takes over what an earlier agent pinned. With `keep` they weigh on when this one ends.
    ///
    /// # Errors
    ///
    /// When the kernel has no BTF, lacks a field, or refuses a hook that is required; when what is pinned cannot be adopted.
    pub fn start(setup: Setup, keep: Option<Keep>) -> Result<Self, SensorError> {
        let born = born()?;
        let load::Loaded { mut ebpf, hooks, links, log, adopted, layout, .. } =
            load::load(&setup, Purpose::Run(keep.as_ref()))?;
        let mut maps = Maps::take(&mut ebpf)?;
        make_overflow(&mut maps)?;
        // From 1: a holder that was never told of has 0.
        let looks = maps.shared(abi::SHARED_LOOK)?;
        maps.set_shared(abi::SHARED_LOOK, looks + 1)?;
        let told = keep.as_ref().map(|keep| Told::open(&keep.pins)).transpose()?;
        let scale = egress::Scale::adopt(&maps)?;
        let (drain, carriers) = (Drain::new(told), HashMap::new());
        let kept = keep.zip(layout);
        let mut sensor = Self {
            ebpf,
            _links: links,
            maps,
            drain,
            hooks,
            log,
            setup,
            scale,
            own: tamper::Own::default(),
            carriers,
            forgotten: 0,
            recalled: None,
            mappings: 0,
            adopted,
            kept,
            born,
            opener: None,
            opener_below: None,
        };
        sensor.maps.set_shared(abi::SHARED_CHARGED, 0)?;
        sensor.exempt()?;
        Ok(sensor)
    }

    /// Tells the programs that an earlier agent pinned who the agent is now, so that it does not count as a holder while it
    /// reads assets before it has taken them over.
    ///
    /// # Errors
    ///
    /// When the map is there and cannot be written.
    pub fn claim(pins: &Pins) -> Result<(), SensorError> {
        if !pins.has("SHARED") {
            return Ok(());
        }
        let mut shared: Array<MapData, u64> = told::array(MapData::from_pin(pins.place("SHARED"))?)?;
        if shared.len() > abi::SHARED_AGENT_START {
            shared.set(abi::SHARED_AGENT_START, born()?, 0)?;
            shared.set(abi::SHARED_AGENT, u64::from(std::process::id()), 0)?;
        }
        tamper::forget_own(pins)
    }

    /// Whether this process is still the one that the programs take for the agent; makes it so again.
    ///
    /// # Errors
    ///
    /// When the map cannot be used.
    pub fn is_exempt(&mut self) -> Result<bool, SensorError> {
        let (tgid, born) = (self.maps.shared(abi::SHARED_AGENT)?, self.maps.shared(abi::SHARED_AGENT_START)?);
        self.exempt()?;
        Ok(tgid == u64::from(std::process::id()) && born == self.born)
    }

    fn exempt(&mut self) -> Result<(), SensorError> {
        self.maps.set_shared(abi::SHARED_AGENT_START, self.born)?;
        self.maps.set_shared(abi::SHARED_AGENT, u64::from(std::process::id()))
    }

    /// Attaches programs of its own in place of those that were taken over and do not fire.
    ///
    /// # Errors
    ///
    /// As [`Sensor::start`].
    pub fn renew(mut self) -> Result<Self, SensorError> {
        let (setup, kept) = (std::mem::take(&mut self.setup), self.kept.take());
        drop(self);
        let keep = kept.map(|(keep, _)| Keep { renew: true, ..keep });
        Self::start(setup, keep)
    }

    /// What was taken over from an earlier agent; `None` when this is a new start.
    #[must_use]
    pub const fn adopted(&self) -> Option<&Adopted> {
        self.adopted.as_ref()
    }

    /// What the earlier agent had told of. Call it once, before the first [`Sensor::drain`], which tells of the growth since.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn past(&mut self) -> Result<Past, SensorError> {
        self.drain.past(&self.maps)
    }

    /// The acts that the earlier agent had heard of, with all assets that they touch by now: nobody knows with which they were told. The
    /// first [`Sensor::drain`] tells of those since.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn past_acts(&mut self) -> Result<Vec<Reading>, SensorError> {
        self.drain.past_acts(&self.maps)
    }

    /// From now on a later agent can take over: everything is protected, proved and scanned.
    ///
    /// # Errors
    ///
    /// When the layout cannot be pinned.
    pub fn settle(&self) -> Result<(), SensorError> {
        match &self.kept {
            Some((keep, layout)) => adopt::store(&keep.pins, layout),
            None => Ok(()),
        }
    }

    /// Removes the pins and goes on without them: nothing is left when this agent ends.
    ///
    /// # Errors
    ///
    /// When a pin cannot be removed.
    pub fn unpin(&mut self) -> Result<(), SensorError> {
        if let Some((keep, _)) = self.kept.take() {
            self.drain.untold();
            keep.pins.remove()?;
        }
        Ok(())
    }

    /// Whether anything waits for [`Sensor::commit`].
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.kept.is_some()
    }

    /// What was drained until now was told of, with these conclusions of the ledger: a later agent tells of it no more.
    ///
    /// # Errors
    ///
    /// When a map cannot be written.
    pub fn commit(&mut self, conclusions: &Conclusions) -> Result<(), SensorError> {
        self.commit_sent()?;
        self.drain.commit(conclusions)
    }

    /// Loads every hook and attaches none: what `doctor` shows.
    ///
    /// # Errors
    ///
    /// As [`Sensor::start`].
    pub fn probe() -> Result<Probed, SensorError> {
        let load::Loaded { hooks, reads_directly, .. } = load::load(&Setup::default(), Purpose::Probe)?;
        Ok(Probed { hooks, reads_directly })
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

/// The row where all are counted who find no room: it must be there before there is none. One that is there stays as it is.
fn make_overflow(maps: &mut Maps) -> Result<(), SensorError> {
    if row(&maps.holders, abi::OVERFLOW)?.is_none() {
        maps.holders.insert(Raw(abi::OVERFLOW), Raw(NOTHING_HELD), 0)?;
    }
    Ok(())
}

/// Start of this process in ticks since boot, as `/proc/self/stat` counts them.
fn born() -> Result<u64, SensorError> {
    let missing =
        |error| SensorError::File { what: "cannot read", path: "/proc/self/stat".to_owned(), error };
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(missing)?;
    // The command may contain brackets and spaces; the start is the 20th field behind its closing one.
    let ticks = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok());
    ticks.ok_or_else(|| missing(io::ErrorKind::InvalidData.into()))
}

#[cfg(test)]
mod stack;
#[cfg(test)]
mod tests;
