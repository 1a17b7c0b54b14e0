//! Files of assets that come, go, grow or are replaced while the agent runs: found by a scan, or at once where the kernel says that
//! something appeared in a directory. It must not know what is taken from them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{super::Pipeline, now};
use crate::{
    config::Config,
    event::{Asset, AssetId, Dev, ObjectId},
    host::{
        folders::{Appeared, FolderWatch},
        registry::{ChangeKind, Object, Registry},
        state::StateDir,
    },
    metrics::Metrics,
    sensor::{Protection, Sensor, SensorError},
};

/// Of the registry, for files that changed without being opened since.
const RESCAN_EVERY: Duration = Duration::from_secs(60);
/// While assets are written to, the registry takes at most one part in this many of the time.
const SCAN_SHARE: u32 = 20;

pub(super) struct Files {
    registry: Registry,
    /// Files that left their asset's place and lie nowhere else in it, with their sizes. Whoever moved them away can still
    /// read them, and a bound is capped by its asset's size: an asset that was moved must not shrink to nothing.
    gone: HashMap<Object, (AssetId, u64)>,
    /// What the files of the registry grew by since the last scan: a scan takes its time, and a file can be written to in between.
    grown: HashMap<Object, u64>,
    /// Where an inode stands in the registry.
    places: HashMap<(Dev, u64), usize>,
    /// `None` where the kernel gives none: what is renamed into an asset is then found by the next scan.
    folders: Option<FolderWatch>,
    /// The end of the last scan, and how long it took.
    scanned_at: Instant,
    scan_took: Duration,
    rescan_at: Instant,
}

impl Files {
    pub(super) fn new(registry: Registry) -> Self {
        let now = Instant::now();
        Self {
            folders: watch_folders(&registry),
            places: places(&registry),
            registry,
            gone: HashMap::new(),
            grown: HashMap::new(),
            scanned_at: now,
            scan_took: Duration::ZERO,
            rescan_at: now + RESCAN_EVERY,
        }
    }

    pub(super) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Is readable when something appeared in an asset's directory.
    pub(super) fn appeared(&self) -> std::io::Result<Option<OwnedFd>> {
        self.folders.as_ref().map(|folders| folders.as_fd().try_clone_to_owned()).transpose()
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.rescan_at
    }

    /// As soon as its share of the time allows.
    pub(super) fn rescan_soon(&mut self) {
        self.rescan_at = self.rescan_at.min(self.scanned_at + self.scan_took * SCAN_SHARE);
    }

    /// Protects what was renamed or linked into an asset, before it can be taken out by its other name. Whether there is anything that
    /// the registry does not know.
    pub(super) fn follow_folders(&mut self, sensor: &mut Sensor, pipeline: &mut Pipeline) -> bool {
        let Some(folders) = &mut self.folders else { return false };
        let Appeared { files, more } = folders.appeared();
        let some = more || !files.is_empty();
        for (asset, path) in files {
            // What a link leads to is no part of the asset.
            if !fs::symlink_metadata(&path).is_ok_and(|facts| facts.is_file()) {
                continue;
            }
            match sensor.protect(asset, &path, Protection::Appeared) {
                Ok(object) => pipeline.protected(object),
                Err(error) => {
                    tracing::debug!(%error, "what appeared is gone again, or is found by the next scan")
                }
            }
        }
        some
    }

    /// Follows the sizes of files that were written to, without a scan: who copies a file as soon as it has grown is told of with the
    /// asset's size then. Only growth; what else a write changed is for the scan to find.
    pub(super) fn follow_growth(
        &mut self,
        written: impl Iterator<Item = ObjectId>,
        config: &Config,
        pipeline: &mut Pipeline,
    ) {
        let mut of: HashSet<AssetId> = HashSet::new();
        for object in written.collect::<HashSet<_>>() {
            let place = self.places.get(&(object.dev, object.ino));
            let Some(file) = place.and_then(|&place| self.registry.files().get(place)) else { continue };
            // One that was replaced is not this one.
            let Ok(facts) = fs::symlink_metadata(&file.path) else { continue };
            let grown = facts.len().saturating_sub(file.size);
            if facts.is_file()
                && facts.ino() == file.object.ino
                && grown > self.grown.get(&file.object).copied().unwrap_or(0)
            {
                self.grown.insert(file.object, grown);
                of.insert(file.asset);
            }
        }
        if !of.is_empty() {
            let mut assets = self.assets(config);
            assets.retain(|asset| of.contains(&asset.id));
            pipeline.assets(&assets, now());
        }
    }

    /// As large as they are known to be.
    fn assets(&self, config: &Config) -> Vec<Asset> {
        let mut assets = self.registry.assets(config);
        let of = |object: &Object| {
            let place = self.places.get(&(object.dev, object.ino))?;
            self.registry.files().get(*place).map(|file| file.asset)
        };
        let grown = self.grown.iter().filter_map(|(object, more)| Some((of(object)?, *more)));
        for (asset, size) in self.gone.values().copied().chain(grown) {
            if let Some(asset) = assets.iter_mut().find(|known| known.id == asset) {
                asset.bytes = asset.bytes.saturating_add(size);
            }
        }
        assets
    }

    /// Follows files that came, went, grew or were replaced.
    pub(super) fn rescan(
        &mut self,
        sensor: &mut Sensor,
        pipeline: &mut Pipeline,
        config: &Config,
        state: &StateDir,
        metrics: &Metrics,
    ) {
        let started = Instant::now();
        let classifier = pipeline.destinations().classifier();
        let (changes, problems) = self.registry.rescan(config, classifier, Timestamp::now());
        self.scanned_at = Instant::now();
        self.scan_took = self.scanned_at - started;
        self.rescan_at = self.scanned_at + RESCAN_EVERY;
        metrics.set_scan(self.scan_took);
        if let Some(folders) = &mut self.folders {
            folders.follow(self.registry.directories());
        }
        if let Err(error) = protect_mounted(sensor, &self.registry) {
            tracing::warn!(%error, "a volume mounted in an asset's directory is protected file by file only");
        }
        for problem in problems {
            tracing::warn!("{}", problem.text);
        }
        if changes.is_empty() {
            self.places = places(&self.registry);
            return;
        }
        // By asset, bytes that took the place of others.
        let mut renewed: HashMap<AssetId, u64> = HashMap::new();
        for change in changes {
            if matches!(change.kind, ChangeKind::Replaced { .. } | ChangeKind::Rewritten { .. }) {
                *renewed.entry(change.asset).or_insert(0) += change.size;
            }
            tracing::info!(path = %change.path.display(), kind = ?change.kind, "a protected file changed");
            if matches!(change.kind, ChangeKind::Removed) {
                self.gone.insert(change.object, (change.asset, change.size));
                // Whoever has it open still reads it: its inode stays protected.
                continue;
            }
            match sensor.protect(change.asset, &change.path, Protection::File) {
                Ok(object) => pipeline.protected(object),
                Err(error) => {
                    tracing::warn!(%error, "a changed file could not be protected by its inode; its directory still does");
                }
            }
        }
        let present: HashSet<Object> = self.registry.files().iter().map(|file| file.object).collect();
        self.gone.retain(|object, _| !present.contains(object));
        self.grown.clear();
        self.places = places(&self.registry);
        let assets = self.assets(config);
        // First without what is new: whoever took what was there before can take that too.
        let mut rest = assets.clone();
        rest.retain_mut(|asset| {
            let renewed = renewed.get(&asset.id).copied().unwrap_or(0);
            asset.bytes = asset.bytes.saturating_sub(renewed);
            renewed != 0
        });
        pipeline.assets(&rest, now());
        pipeline.assets(&assets, now());
        metrics.set_asset_files(self.registry.files().len() as u64);
        if let Err(error) = self.registry.save(state, config) {
            tracing::error!(%error, "the registry could not be stored");
        }
    }
}

fn places(registry: &Registry) -> HashMap<(Dev, u64), usize> {
    let files = registry.files().iter().enumerate();
    files.map(|(place, file)| ((file.object.dev, file.object.ino), place)).collect()
}

fn watch_folders(registry: &Registry) -> Option<FolderWatch> {
    match FolderWatch::new() {
        Ok(mut folders) => {
            folders.follow(registry.directories());
            Some(folders)
        }
        Err(error) => {
            tracing::warn!(%error, "what is renamed into an asset is found within a minute (fs.inotify.max_user_instances)");
            None
        }
    }
}

/// A walk to the directory that protects a file ends at the root of its volume: of volumes that are mounted in an asset the topmost
/// directory is protected itself.
pub(super) fn protect_mounted(sensor: &mut Sensor, registry: &Registry) -> Result<(), SensorError> {
    let known: HashSet<_> =
        registry.directories().iter().map(|folder| (&*folder.path, folder.object.dev)).collect();
    for folder in registry.directories() {
        let above = folder.path.parent().is_some_and(|above| known.contains(&(above, folder.object.dev)));
        if !above {
            match sensor.protect(folder.asset, &folder.path, Protection::Directory) {
                Err(SensorError::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
                protected => drop(protected?),
            }
        }
    }
    Ok(())
}
