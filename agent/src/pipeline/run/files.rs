//! Files of assets that come, go, grow or are replaced while the agent runs: found by a scan, or at once where the kernel says that
//! something appeared in a directory. It must not know what is taken from them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{super::Pipeline, now};
use crate::{
    config::Config,
    event::{ActKind, Asset, AssetId, Dev, HolderId, ObjectId},
    host::{
        Problem,
        folders::{Appeared, FolderWatch, Watched},
        patience::Patience,
        registry::{Change, ChangeKind, Object, Progress, Registry},
        state::StateDir,
    },
    metrics::Metrics,
    sensor::{Protection, Sensor, SensorError},
};

/// Of the registry, for files that changed without being opened since.
const RESCAN_EVERY: Duration = Duration::from_secs(60);
/// While assets are written to, the registry takes at most one part in this many of the time, over a while.
const SCAN_SHARE: u32 = 20;
/// What it saves up while they are not, so that a small asset is looked at at once, and again at once.
const MOST_CREDIT: Duration = Duration::from_millis(500);
/// A scan is waited for for so long, so that what is weighed next has the sizes of now; one that takes longer comes when it does.
const SCANNED_WITHIN: Duration = Duration::from_secs(1);
/// By the filesystem of one file.
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);
/// One that is no further by then waits for something that does not answer.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Files that are remembered because they did not answer.
const MOST_UNANSWERED: usize = 4096;
/// How long those are asked again, each second.
const LATE_FOR: Duration = Duration::from_millis(500);

pub(super) struct Files {
    registry: Arc<Registry>,
    /// Nobody changes it while the agent runs.
    config: Arc<Config>,
    /// What is mounted in an asset can be somebody's who never answers.
    scan: Option<Scan>,
    /// There was reason for another one since it began.
    again: bool,
    /// The registry is not what was stored last.
    unsaved: bool,
    storing: Patience<()>,
    patience: Patience<AssetId>,
    /// The time that scans may take, in ns, as of the end of the last one; what it took beyond is owed.
    credit: i64,
    /// How large files were found to be that grew since the scan began that is under way.
    meanwhile: HashMap<Object, u64>,
    /// Files that left their asset's place and lie nowhere else in it, with their sizes. Whoever moved them away can still
    /// read them, and a bound is capped by its asset's size: an asset that was moved must not shrink to nothing.
    gone: HashMap<Object, (AssetId, u64)>,
    /// What the files of the registry grew by since the last scan: a scan takes its time, and a file can be written to in between.
    grown: HashMap<Object, u64>,
    /// Where an inode stands in the registry.
    places: HashMap<(Dev, u64), usize>,
    /// Files that did not answer when they were to be protected.
    unanswered: HashMap<PathBuf, (AssetId, Protection)>,
    /// That there are some was told of.
    is_told: bool,
    /// A volume that is mounted in an asset did not answer when it was to be protected. Each scan asks again.
    folders_hang: bool,
    /// `None` where the kernel gives none: what is renamed into an asset is then found by the next scan.
    folders: Option<FolderWatch>,
    scanned_at: Instant,
    rescan_at: Instant,
}

/// A scan that is under way on a thread of its own.
struct Scan {
    scanned: Receiver<Scanned>,
    progress: Arc<Progress>,
    /// Where it was when it was last looked at, and since when.
    at: (PathBuf, usize),
    since: Instant,
    /// That it hangs was told of.
    is_told: bool,
}

struct Scanned {
    registry: Registry,
    changes: Vec<Change>,
    problems: Vec<Problem>,
    watched: Watched,
    took: Duration,
}

/// What a file is by its path now.
struct Facts {
    is_file: bool,
    ino: u64,
    size: u64,
}

impl Files {
    pub(super) fn new(registry: Registry, config: &Config) -> Self {
        let now = Instant::now();
        Self {
            folders: watch_folders(&registry),
            places: places(&registry),
            registry: Arc::new(registry),
            config: Arc::new(config.clone()),
            scan: None,
            again: false,
            unanswered: HashMap::new(),
            is_told: false,
            folders_hang: false,
            unsaved: false,
            storing: Patience::new(ANSWERED_WITHIN),
            patience: Patience::new(ANSWERED_WITHIN),
            credit: nanoseconds(MOST_CREDIT),
            meanwhile: HashMap::new(),
            gone: HashMap::new(),
            grown: HashMap::new(),
            scanned_at: now,
            rescan_at: now + RESCAN_EVERY,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Is readable when something appeared in an asset's directory.
    pub(super) fn appeared(&self) -> std::io::Result<Option<OwnedFd>> {
        self.folders.as_ref().map(|folders| folders.as_fd().try_clone_to_owned()).transpose()
    }

    pub(super) fn is_due(&self) -> bool {
        self.scan.is_some() || Instant::now() >= self.rescan_at
    }

    /// As soon as its share of the time allows.
    pub(super) fn rescan_soon(&mut self) {
        // One that is under way may be past it.
        self.again |= self.scan.is_some();
        let owed = u64::try_from(self.credit.saturating_neg()).unwrap_or(0);
        let rest = Duration::from_nanos(owed).saturating_mul(SCAN_SHARE);
        self.rescan_at = self.rescan_at.min(self.scanned_at + rest);
    }

    /// Of one file of an asset, if it is there; `None` when its filesystem does not answer.
    fn facts(&mut self, asset: AssetId, path: &Path) -> Option<Option<Facts>> {
        let path = path.to_owned();
        self.patience.ask(asset, move || {
            let facts = fs::symlink_metadata(path).ok()?;
            Some(Facts { is_file: facts.is_file(), ino: facts.ino(), size: facts.len() })
        })
    }

    /// Protects what was renamed or linked into an asset, before it can be taken out by its other name. Whether there is anything that
    /// the registry does not know.
    pub(super) fn follow_folders(&mut self, sensor: &mut Sensor, pipeline: &mut Pipeline) -> bool {
        let Some(folders) = &mut self.folders else { return false };
        let Appeared { files, more } = folders.appeared();
        let some = more || !files.is_empty();
        for (asset, path) in files {
            match self.facts(asset, &path) {
                Some(Some(Facts { is_file: true, .. })) => {}
                // What a link leads to is no part of the asset.
                Some(_) => continue,
                None => {
                    self.unanswers(path, asset, Protection::Appeared, pipeline);
                    continue;
                }
            }
            match sensor.protect(asset, &path, Protection::Appeared) {
                Ok(object) => pipeline.protected(object),
                Err(error) if error.is_unanswered() => {
                    self.unanswers(path, asset, Protection::Appeared, pipeline);
                }
                Err(error) => {
                    tracing::debug!(%error, "what appeared is gone again, or is found by the next scan")
                }
            }
        }
        some
    }

    /// A file could not be protected because it does not answer, or too many others do not.
    fn unanswers(&mut self, path: PathBuf, asset: AssetId, protection: Protection, pipeline: &mut Pipeline) {
        if !std::mem::replace(&mut self.is_told, true) {
            let text =
                format!("{} does not answer: what appears in an asset is not protected", path.display());
            pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now());
        }
        // What is beyond is for the next scans: their directory protects those that were made there.
        if self.unanswered.len() < MOST_UNANSWERED {
            self.unanswered.insert(path, (asset, protection));
        }
    }

    /// Protects what did not answer when it was to be. Who does not answer now either is asked again when it has answered.
    pub(super) fn protect_late(&mut self, sensor: &mut Sensor, pipeline: &mut Pipeline) {
        let end = Instant::now() + LATE_FOR;
        for (path, (asset, protection)) in std::mem::take(&mut self.unanswered) {
            let facts = if Instant::now() < end { self.facts(asset, &path) } else { None };
            let protected = match facts {
                // As when it appeared; what the registry names may be a link.
                Some(Some(facts)) if facts.is_file || protection == Protection::File => {
                    sensor.protect(asset, &path, protection)
                }
                Some(_) => continue,
                None => {
                    self.unanswered.insert(path, (asset, protection));
                    continue;
                }
            };
            match protected {
                Ok(object) => pipeline.protected(object),
                Err(error) if error.is_unanswered() => {
                    self.unanswered.insert(path, (asset, protection));
                }
                Err(error) => tracing::debug!(%error, "what did not answer is gone"),
            }
        }
        self.is_told &= !self.unanswered.is_empty();
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
            let registry = Arc::clone(&self.registry);
            let place = self.places.get(&(object.dev, object.ino));
            let Some(file) = place.and_then(|&place| registry.files().get(place)) else { continue };
            // One that was replaced is not this one.
            let Some(facts) = self.facts(file.asset, &file.path).flatten() else { continue };
            let grown = facts.size.saturating_sub(file.size);
            if facts.is_file
                && facts.ino == file.object.ino
                && grown > self.grown.get(&file.object).copied().unwrap_or(0)
            {
                self.grown.insert(file.object, grown);
                self.meanwhile.insert(file.object, facts.size);
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

    /// Follows files that came, went, grew or were replaced, once a scan that is begun now or was before is over. Whether one is.
    pub(super) fn rescan(
        &mut self,
        sensor: &mut Sensor,
        pipeline: &mut Pipeline,
        state: &StateDir,
        metrics: &Metrics,
    ) -> bool {
        let Some(Scanned { registry, changes, problems, watched, took }) = self.scanned(pipeline) else {
            return false;
        };
        let rested = nanoseconds(self.scanned_at.elapsed().saturating_sub(took)) / i64::from(SCAN_SHARE);
        let saved = self.credit.saturating_add(rested).min(nanoseconds(MOST_CREDIT));
        self.credit = saved.saturating_sub(nanoseconds(took));
        self.scanned_at = Instant::now();
        self.rescan_at = self.scanned_at + RESCAN_EVERY;
        if std::mem::take(&mut self.again) {
            self.rescan_soon();
        }
        self.registry = Arc::new(registry);
        let config = Arc::clone(&self.config);
        metrics.set_scan(took);
        if let Some(folders) = &mut self.folders {
            folders.take(watched);
        }
        let mounted = protect_mounted(sensor, &self.registry);
        let hang = mounted.as_ref().is_err_and(SensorError::is_unanswered);
        let was_told = std::mem::replace(&mut self.folders_hang, hang);
        if let Err(error) = mounted {
            if hang && !was_told {
                let text = format!("a volume mounted in an asset does not answer: {error}");
                pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now());
            }
            tracing::warn!(%error, "a volume mounted in an asset's directory is protected file by file only");
        }
        for problem in problems {
            tracing::warn!("{}", problem.text);
        }
        let meanwhile = std::mem::take(&mut self.meanwhile);
        self.unsaved |= !changes.is_empty();
        self.save(state);
        if changes.is_empty() {
            self.places = places(&self.registry);
            return true;
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
                Err(error) if error.is_unanswered() => {
                    self.unanswers(change.path.into(), change.asset, Protection::File, pipeline);
                }
                Err(error) => {
                    tracing::warn!(%error, "a changed file could not be protected by its inode; its directory still does");
                }
            }
        }
        let present: HashSet<Object> = self.registry.files().iter().map(|file| file.object).collect();
        self.gone.retain(|object, _| !present.contains(object));
        self.places = places(&self.registry);
        // What the scan saw before it grew.
        self.grown = meanwhile.into_iter().filter_map(|(object, size)| self.grown_to(object, size)).collect();
        let assets = self.assets(&config);
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
        true
    }

    /// Stores the registry if it changed. Where that takes its time the next scan's changes go with it.
    fn save(&mut self, state: &StateDir) {
        if !self.unsaved || self.storing.waits_for(&()) {
            return;
        }
        self.unsaved = false;
        let (registry, config, state) = (Arc::clone(&self.registry), Arc::clone(&self.config), state.clone());
        self.storing.ask((), move || {
            if let Err(error) = registry.save(&state, &config) {
                tracing::error!(%error, "the registry could not be stored");
            }
        });
    }

    /// By how much a file is larger than the registry says.
    fn grown_to(&self, object: Object, size: u64) -> Option<(Object, u64)> {
        let place = *self.places.get(&(object.dev, object.ino))?;
        let more = size.saturating_sub(self.registry.files().get(place)?.size);
        (more != 0).then_some((object, more))
    }

    /// What a scan found, if one is over. Begins one where none is under way.
    fn scanned(&mut self, pipeline: &mut Pipeline) -> Option<Scanned> {
        let scanned = match &self.scan {
            Some(scan) => match scan.scanned.try_recv() {
                Ok(scanned) => Some(scanned),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return self.failed(),
            },
            None => {
                self.scan = Some(self.begin(pipeline)?);
                match self.scan.as_ref()?.scanned.recv_timeout(SCANNED_WITHIN) {
                    Ok(scanned) => Some(scanned),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return self.failed(),
                }
            }
        };
        if scanned.is_some() {
            self.scan = None;
            return scanned;
        }
        let scan = self.scan.as_mut()?;
        let at = scan.progress.now();
        if at != scan.at {
            (scan.at, scan.since) = (at, Instant::now());
        } else if scan.since.elapsed() >= HANGS_AFTER && !std::mem::replace(&mut scan.is_told, true) {
            let text = format!(
                "{} does not answer: what comes into the assets is protected, and their sizes are the last that were known",
                scan.at.0.display()
            );
            pipeline.raise(HolderId::HOST, ActKind::FilesChanged, Some(text), now());
        }
        None
    }

    fn begin(&mut self, pipeline: &Pipeline) -> Option<Scan> {
        self.meanwhile.clear();
        let (sender, scanned) = sync_channel(1);
        let progress = Arc::new(Progress::default());
        let (known, config, shown) =
            (Arc::clone(&self.registry), Arc::clone(&self.config), Arc::clone(&progress));
        let classifier = pipeline.destinations().classifier().clone();
        let watcher = self.folders.as_ref().and_then(|folders| folders.watcher().ok());
        let scan = move || {
            let started = Instant::now();
            let (registry, changes, problems) = known.renewed(&config, &classifier, Timestamp::now(), &shown);
            let watched =
                watcher.map_or_else(Watched::default, |watcher| watcher.watch(registry.directories()));
            let took = started.elapsed();
            // The agent may have ended.
            let _ = sender.send(Scanned { registry, changes, problems, watched, took });
        };
        match thread::Builder::new().name("scan".to_owned()).spawn(scan) {
            Ok(_) => {
                let (at, since) = (progress.now(), Instant::now());
                Some(Scan { scanned, progress, at, since, is_told: false })
            }
            Err(error) => {
                tracing::error!(%error, "no thread can be started to look for the assets' files");
                self.rescan_at = Instant::now() + RESCAN_EVERY;
                None
            }
        }
    }

    /// A scan ended without a word, as by a panic, which is in the log.
    fn failed(&mut self) -> Option<Scanned> {
        self.scan = None;
        self.rescan_at = Instant::now() + RESCAN_EVERY;
        None
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
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
    let mut failed = None;
    for folder in registry.directories() {
        let above = folder.path.parent().is_some_and(|above| known.contains(&(above, folder.object.dev)));
        if !above {
            match sensor.protect(folder.asset, &folder.path, Protection::Directory) {
                Err(SensorError::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => drop(failed.get_or_insert(error)),
                Ok(_) => {}
            }
        }
    }
    // One that does not answer keeps none of the others from being protected.
    failed.map_or(Ok(()), Err)
}
