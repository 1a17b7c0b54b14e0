//! Who may work with the state and the pins of an agent: one process at a time, from before it reads an asset.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Failure, Unfit};
use crate::{
    config::Config,
    host::{
        self,
        mounts::MountTable,
        state::{Lock, StateDir},
    },
    sensor::{Keep, Label, PinError, Pins, Sensor},
};

/// The locks of a running agent.
pub(super) struct Held {
    pub(super) state: StateDir,
    _lock: Lock,
    pub(super) pins: Option<Pins>,
}

/// Where an earlier agent's programs still weigh, takes the locks and tells them who the agent is now: what `prepare` reads of
/// the assets must not make a holder of us. `None` when there is nothing to go on with.
///
/// # Errors
///
/// When another agent runs, or the pins cannot be used.
pub(super) fn hold(config: &Config) -> Result<Option<Held>, Failure> {
    let Some(bpffs) = bpffs()? else { return Ok(None) };
    if fs::symlink_metadata(&config.state_dir).is_err() {
        return Ok(None);
    }
    let state = StateDir::open(&config.state_dir).map_err(Unfit::from)?;
    let lock = state.lock().map_err(Unfit::from)?;
    let found = Pins::find(&bpffs, state.path()).map_err(|error| Unfit::Sensor(error.into()))?;
    let Some(pins) = found else { return Ok(None) };
    Sensor::claim(&pins).map_err(Unfit::from)?;
    Ok(Some(Held { state, _lock: lock, pins: Some(pins) }))
}

impl Held {
    /// Takes what [`hold`] did not find: a first start.
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        let state = StateDir::open(&config.state_dir).map_err(Unfit::from)?;
        let lock = state.lock().map_err(Unfit::from)?;
        Ok(Self { state, _lock: lock, pins: None })
    }

    /// What the sensor is to keep, or to go on with.
    pub(super) fn keep(&mut self, config: &Config) -> Result<Option<Keep>, Failure> {
        let pins = match self.pins.take() {
            Some(pins) => pins,
            None if !config.pin => return Ok(None),
            None => {
                let bpffs = bpffs()?.ok_or(Unfit::Sensor(PinError::NoFilesystem.into()))?;
                Pins::open(&bpffs, self.state.path()).map_err(|error| Unfit::Sensor(error.into()))?
            }
        };
        let label = |asset: &crate::config::AssetConfig| Label {
            name: asset.name.clone(),
            paths: asset.paths.iter().map(|path| path.value.to_string_lossy().into_owned()).collect(),
        };
        Ok(Some(Keep {
            pins,
            boot: host::facts().boot_id,
            assets: config.assets.iter().map(label).collect(),
            renew: false,
        }))
    }
}

/// Where the BPF filesystem is mounted: in its usual place if it is there.
///
/// # Errors
///
/// When the mounts cannot be read.
pub fn bpffs() -> Result<Option<PathBuf>, Failure> {
    let table = MountTable::read().map_err(Unfit::from)?;
    let usual = Path::new("/sys/fs/bpf");
    let mut all = table.entries().iter().filter(|mount| mount.fstype == "bpf" && mount.visible);
    let found = all.clone().find(|mount| mount.point == usual).or_else(|| all.next());
    Ok(found.map(|mount| mount.point.clone()))
}
