//! Acts in the words of people, and the devices below assets that they are about.
//!
//! What is set up beside an asset's devices while the agent runs (a snapshot, a mapping) is found when somebody loads a table
//! into the device mapper, when mounts change, and with each scan of the registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::Pipeline;
use crate::{
    event::{Act, ActKind, AssetId, AssetList, AssetSet, BootNs, Dev, Event, HolderId},
    host::{
        channels::Channels,
        mounts::MountTable,
        patience::Patience,
        registry::Registry,
        stores::{Stores, block_device_at},
        sysfs::{DeviceType, Devices},
    },
    sensor::{Reading, SensedAct, Sensor, SensorError, StoreDevice},
};

/// What lies below the assets, as far as the sensor was told of it.
#[derive(Default)]
pub(crate) struct Below {
    devices: Devices,
    channels: Channels,
    /// Configured names of drivers.
    gpu_drivers: Vec<String>,
    stores: Stores,
    /// Devices that are made of the same disks and were there when the agent came: other volumes.
    beside: Option<BTreeSet<Dev>>,
    /// Devices that came later.
    mirrors: BTreeMap<Dev, AssetList>,
    patience: Asking,
    /// An image that did not answer at the last look.
    unanswered: Option<PathBuf>,
    /// That one does not was told of.
    is_told: bool,
}

/// By sysfs, and by whatever an image file lies on.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

/// The first time: whoever has a device open that is not known by then is not weighed.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

/// However many images do not answer, sysfs is asked, and an image that does not hides no other.
struct Asking {
    sysfs: Patience<()>,
    images: Patience<PathBuf>,
}

impl Default for Asking {
    fn default() -> Self {
        Self { sysfs: Patience::new(FOUND_WITHIN), images: Patience::new(ANSWERED_WITHIN) }
    }
}

/// What was found.
struct Found {
    stores: Stores,
    loops: Vec<(Dev, PathBuf)>,
    beside: BTreeMap<Dev, AssetList>,
    channels: Channels,
    /// Sysfs knows no device of an asset: something else is mounted there, or the device is gone.
    is_hidden: bool,
}

impl Below {
    pub(crate) fn new(gpu_drivers: Vec<String>) -> Self {
        Self { gpu_drivers, ..Self::default() }
    }

    /// Looks anew, tells the sensor, and returns the devices that came since the last time.
    pub(super) fn refresh(
        &mut self,
        sensor: &mut Sensor,
        table: &Arc<MountTable>,
        registry: &Registry,
    ) -> Result<Vec<(Dev, AssetList)>, SensorError> {
        let mut of: BTreeMap<Dev, BTreeSet<AssetId>> = BTreeMap::new();
        for (dev, asset) in registry
            .files()
            .iter()
            .map(|file| (file.object.dev, file.asset))
            .chain(registry.directories().iter().map(|directory| (directory.object.dev, directory.asset)))
        {
            of.entry(dev).or_default().insert(asset);
        }
        let of = of.into_iter().map(|(dev, assets)| (dev, assets.into_iter().collect())).collect();
        self.unanswered = None;
        let (devices, table, gpu_drivers) =
            (self.devices.clone(), Arc::clone(table), self.gpu_drivers.clone());
        let Asking { sysfs, images: patience } = &mut self.patience;
        let asked = sysfs.ask((), move || find(&devices, &table, &of, &gpu_drivers));
        sysfs.set_limit(ANSWERED_WITHIN);
        let Some(Found { stores, loops, beside, channels, is_hidden }) = asked else {
            tracing::warn!("sysfs does not answer: devices that were set up since are not known");
            return Ok(Vec::new());
        };
        let images = stores.images.keys().chain(loops.iter().map(|(_, path)| path));
        let blocks: BTreeMap<&PathBuf, Dev> = images
            .filter_map(|path| {
                let image = path.clone();
                let dev = patience.ask(path.clone(), move || block_device_at(&image)).flatten()?;
                Some((path, dev))
            })
            .collect();
        for (&dev, assets) in &stores.blocks {
            sensor.add_store(StoreDevice::Block(dev), assets.marks(), false)?;
        }
        for (&dev, assets) in &stores.chars {
            sensor.add_store(StoreDevice::Char(dev), assets.marks(), false)?;
        }
        for (path, assets) in &stores.images {
            match blocks.get(path) {
                Some(&dev) => sensor.add_store(StoreDevice::Block(dev), assets.marks(), false)?,
                None => {
                    let added = sensor.add_image(path, assets.marks());
                    warn_of(path, added, &mut self.unanswered);
                }
            }
        }
        for (dev, path) in &loops {
            if !stores.blocks.contains_key(dev) && !blocks.contains_key(path) {
                let added = sensor.add_loop(*dev, path).map(|_| ());
                warn_of(path, added, &mut self.unanswered);
            }
        }
        let others = self.beside.get_or_insert_with(|| beside.keys().copied().collect());
        let mut new = Vec::new();
        for (&dev, assets) in beside.iter().filter(|(dev, _)| !others.contains(dev)) {
            sensor.add_store(StoreDevice::Block(dev), assets.marks(), true)?;
            if self.mirrors.insert(dev, assets.clone()).is_none() {
                new.push((dev, assets.clone()));
            }
        }
        // What sysfs does not show then may be there all the same.
        if !is_hidden {
            self.mirrors.retain(|dev, _| beside.contains_key(dev));
            others.retain(|dev| beside.contains_key(dev));
            let mirrors = &self.mirrors;
            sensor.forget_stores(|dev| {
                !stores.blocks.contains_key(&dev)
                    && !mirrors.contains_key(&dev)
                    && !loops.iter().any(|(known, _)| *known == dev)
            })?;
        }
        self.channels = channels;
        for dev in self.channels.devices() {
            if self.channels.kind(dev) == Some(ActKind::GpuShared) {
                sensor.add_gpu(dev)?;
            } else {
                sensor.add_channel(dev)?;
            }
        }
        self.stores = stores;
        if !new.is_empty() {
            sensor.scan_stores()?;
        }
        Ok(new)
    }

    /// The image that did not answer at the last look, once for each time that there is one. Each look asks again.
    pub(super) fn unanswered(&mut self) -> Option<PathBuf> {
        let was_told = std::mem::replace(&mut self.is_told, self.unanswered.is_some());
        self.unanswered.take().filter(|_| !was_told)
    }

    /// An act in the words of people; `None` for what is none by itself.
    fn describe(&self, act: SensedAct) -> Option<(ActKind, Option<String>)> {
        let node = |class, dev: Dev| {
            let path = self.devices.path(class, dev);
            Some(path.map_or_else(|| dev.to_string(), |path| path.to_string_lossy().into_owned()))
        };
        Some(match act {
            SensedAct::Ptrace => (ActKind::Ptrace, None),
            SensedAct::ProcessVmRead => (ActKind::ProcessVmRead, None),
            SensedAct::ProcessVmWrite => (ActKind::ProcessVmWrite, None),
            SensedAct::ProcMem => (ActKind::ProcMem, None),
            SensedAct::ProcFd => (ActKind::ProcFd, None),
            SensedAct::PidfdGetfd => (ActKind::PidfdGetfd, None),
            SensedAct::CoreDump => (ActKind::CoreDump, None),
            SensedAct::RawBlock(dev) => (ActKind::RawDevice, node(DeviceType::Block, dev)),
            SensedAct::RawChar(dev) => (ActKind::RawDevice, node(DeviceType::Char, dev)),
            SensedAct::RawImage(dev) => (ActKind::RawDevice, Some(self.image_on(dev))),
            SensedAct::Loop(dev) => (ActKind::LoopSetup, node(DeviceType::Block, dev)),
            SensedAct::Nbd(dev) => (ActKind::NbdSetup, node(DeviceType::Block, dev)),
            SensedAct::Mapper => return None,
            SensedAct::Socket(family) => {
                let (kind, name) = family_of(family);
                (kind, Some(name.map_or_else(|| format!("address family {family}"), str::to_owned)))
            }
            SensedAct::Device(dev) => {
                (self.channels.kind(dev).unwrap_or(ActKind::RawSocket), node(DeviceType::Char, dev))
            }
            SensedAct::GpuShared(dev) => (ActKind::GpuShared, node(DeviceType::Char, dev)),
        })
    }

    /// Of `assets`, which can be too many because several share a mark, those that lie on the device that the act was done to. Of a
    /// mark of which none is known to lie there all stay.
    fn narrow(&self, act: SensedAct, assets: &AssetList) -> AssetList {
        let lying = match act {
            SensedAct::RawBlock(dev) => self.stores.blocks.get(&dev).or_else(|| self.mirrors.get(&dev)),
            SensedAct::RawChar(dev) => self.stores.chars.get(&dev),
            _ => None,
        };
        let Some(lying) = lying else { return assets.clone() };
        let marks = lying.marks();
        assets.iter().filter(|&asset| lying.contains(asset) || !marks.contains(asset)).collect()
    }

    /// The image below a device, if there is only one; else the filesystem that it lies on.
    fn image_on(&self, dev: Dev) -> String {
        match self.stores.images.keys().collect::<Vec<_>>()[..] {
            [image] => image.to_string_lossy().into_owned(),
            _ => format!("an image on {dev}"),
        }
    }
}

/// Waits for sysfs.
fn find(
    devices: &Devices,
    table: &MountTable,
    of: &BTreeMap<Dev, AssetList>,
    gpu_drivers: &[String],
) -> Found {
    let stores = Stores::below(devices, table, of);
    let (loops, beside) = (devices.loops(), stores.beside(devices));
    let shows = |dev: Dev| devices.knows(DeviceType::Block, dev);
    let is_hidden = of.keys().any(|&dev| dev.major() != 0 && !shows(dev));
    Found { stores, loops, beside, channels: Channels::read(gpu_drivers), is_hidden }
}

/// One image that cannot be looked at does not stop the agent; the devices above it are watched all the same. One that does not answer is
/// kept in `unanswered`.
fn warn_of(path: &Path, result: Result<(), SensorError>, unanswered: &mut Option<PathBuf>) {
    if let Err(error) = result {
        if error.is_unanswered() {
            unanswered.get_or_insert_with(|| path.to_owned());
        }
        tracing::debug!(%error, path = %path.display(), "an image below a device is not watched");
    }
}

/// By the numbers of `include/linux/socket.h`.
const fn family_of(family: u32) -> (ActKind, Option<&'static str>) {
    match family {
        17 => (ActKind::Packet, Some("AF_PACKET")),
        44 => (ActKind::Xdp, Some("AF_XDP")),
        21 => (ActKind::Rdma, Some("AF_RDS")),
        43 => (ActKind::Rdma, Some("AF_SMC")),
        29 => (ActKind::RawSocket, Some("AF_CAN")),
        30 => (ActKind::RawSocket, Some("AF_TIPC")),
        31 => (ActKind::RawSocket, Some("AF_BLUETOOTH")),
        _ => (ActKind::RawSocket, None),
    }
}

impl Pipeline {
    /// Takes an act of the sensor's.
    pub(super) fn act(
        &mut self,
        holder: HolderId,
        victim: Option<HolderId>,
        act: SensedAct,
        assets: AssetSet,
        at: BootNs,
        now: BootNs,
    ) {
        let Some((kind, target)) = self.below.describe(act) else { return };
        let assets = self.below.narrow(act, &self.ledger.all_of(assets));
        // The canary's own.
        if assets.is_empty() {
            return;
        }
        self.introduce_if_new(holder, now);
        if let Some(victim) = victim {
            self.introduce_if_new(victim, now);
        }
        let act = Act { kind, victim, target };
        if self.restoring {
            self.ledger.restore_act(holder, act, &assets);
        } else {
            self.apply(Event::Act { holder, act, assets, at }, now);
        }
    }

    /// Takes the acts that an earlier agent had heard of: those that it could not tell yet wait on.
    pub(super) fn restore_acts(&mut self, acts: Vec<Reading>, now: BootNs) {
        self.restoring = true;
        self.step(acts, now);
        self.restoring = false;
    }

    /// Devices that show assets were set up, by `holder` if that is known.
    pub(super) fn mirrored(&mut self, holder: HolderId, devices: Vec<(Dev, AssetList)>, now: BootNs) {
        for (dev, assets) in devices {
            let path = self.below.devices.path(DeviceType::Block, dev);
            let target = path.map_or_else(|| dev.to_string(), |path| path.to_string_lossy().into_owned());
            if holder != HolderId::HOST {
                self.introduce_if_new(holder, now);
            }
            let act = Act { kind: ActKind::Snapshot, victim: None, target: Some(target) };
            self.apply(Event::Act { holder, act, assets, at: now }, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_does_not_answer_is_told_once_for_each_time() {
        let mut below = Below::default();
        let mut look = |unanswered: Option<&str>| {
            below.unanswered = unanswered.map(PathBuf::from);
            below.unanswered().is_some()
        };
        assert_eq!(
            [Some("a"), Some("a"), Some("b"), None, Some("a")].map(&mut look),
            [true, false, false, false, true]
        );
    }

    /// Assets 0, 63 and 126 share a mark, and so do 1 and 64.
    #[test]
    fn an_act_on_a_device_names_what_lies_there() {
        let list = |ids: &[u16]| ids.iter().copied().map(AssetId).collect::<AssetList>();
        let (disk, node, other) = (Dev::new(8, 0), Dev::new(21, 0), Dev::new(8, 16));
        let mut below = Below::default();
        below.stores.blocks.insert(disk, list(&[63]));
        below.stores.chars.insert(node, list(&[0, 126]));
        let touched = list(&[0, 63, 126]);
        assert_eq!(below.narrow(SensedAct::RawBlock(disk), &touched), list(&[63]));
        assert_eq!(below.narrow(SensedAct::RawChar(node), &touched), list(&[0, 126]));
        // Of a mark, or a device, of which nothing is known all stay.
        assert_eq!(below.narrow(SensedAct::RawBlock(disk), &list(&[1, 63, 64])), list(&[1, 63, 64]));
        assert_eq!(below.narrow(SensedAct::RawBlock(other), &touched), touched);
        assert_eq!(below.narrow(SensedAct::Loop(disk), &touched), touched);
    }
}
