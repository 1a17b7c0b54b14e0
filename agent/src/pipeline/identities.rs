//! From what the kernel saw of a process to who it is: paths with their mount point, hash, container, ancestry.
//!
//! The kernel's word is taken first, because it was there; `/proc` only fills what the kernel did not say.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{AssetConfig, Reader},
    event::{Ancestor, AssetId, AssetList, Dev, HolderId, Process},
    host::{
        cgroup::{self, Cgroups},
        hash::{HashQueue, Hasher},
        mounts::MountTable,
        patience::Patience,
        process,
    },
    sensor::ProcessReading,
};

/// Ancestors kept; a chain that long is a loop.
const GENERATIONS: usize = 64;
/// Executables up to this size are hashed at once (some 50 ms at most); larger ones by the queue's thread, and the alert is renewed.
const HASHED_AT_ONCE: u64 = 64 << 20;
/// How the name of a file begins that `memfd_create` made.
const MEMFD: &str = "/memfd:";
/// By the filesystem of a program, which whoever takes bytes chooses. The first alert does without what did not come.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);
/// By the programs on the reader lists, for who is on none by mistake is told of.
const LISTED_WITHIN: Duration = Duration::from_secs(5);
/// Process images remembered; beyond it those that are gone and hold nothing are dropped.
const REMEMBERED: usize = 16_384;

pub(crate) struct Identities {
    mounts: Arc<MountTable>,
    cgroups: Option<Cgroups>,
    hasher: Hasher,
    queue: HashQueue,
    patience: Patience<Asked>,
    /// For the programs on the reader lists.
    listing: Patience<()>,
    /// For each asset, in the order of the configuration.
    readers: Arc<[Vec<Reader>]>,
    images: HashMap<HolderId, ProcessReading>,
    /// The newest image of each thread group.
    newest: HashMap<u32, HolderId>,
    introduced: HashMap<HolderId, Introduced>,
    unhashed: HashSet<HolderId>,
    /// Those of whom it is not known yet whether they are on a reader list.
    unlisted: HashSet<HolderId>,
}

/// Whom an answer is waited for from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    /// The filesystem of a program that runs.
    Executable(Dev),
    /// The kernel, about this process.
    Process(u32),
}

/// What is known of an executable's content.
enum Content {
    Hash(String),
    /// There is none to be had any more.
    Gone,
    /// It takes a while.
    Large,
    Unreadable,
}

/// What was said of a holder.
struct Introduced {
    process: Arc<Process>,
    /// The assets on whose reader list it is: an image runs what it was executed from, so this is looked up until there is an answer.
    listed: AssetList,
}

impl Identities {
    pub(super) fn new(
        assets: &[AssetConfig],
        mounts: Arc<MountTable>,
        hasher: Hasher,
        queue: HashQueue,
    ) -> Self {
        let cgroups = Cgroups::open(&mounts);
        Self {
            mounts,
            cgroups,
            hasher,
            queue,
            patience: Patience::new(ANSWERED_WITHIN),
            listing: Patience::new(LISTED_WITHIN),
            readers: assets.iter().map(|asset| asset.readers.clone()).collect(),
            images: HashMap::new(),
            newest: HashMap::new(),
            introduced: HashMap::new(),
            unhashed: HashSet::new(),
            unlisted: HashSet::new(),
        }
    }

    /// Takes the kernel's word on a process image.
    pub(super) fn learn(&mut self, reading: ProcessReading) {
        if self.images.len() >= REMEMBERED {
            self.drop_gone();
        }
        self.newest.insert(reading.holder.tgid, reading.holder);
        self.images.insert(reading.holder, reading);
    }

    pub(super) fn introduced(&self, holder: HolderId) -> bool {
        self.introduced.contains_key(&holder)
    }

    /// Who `holder` is, as far as it is known now.
    pub(super) fn introduce(&mut self, holder: HolderId) -> Arc<Process> {
        let process = Arc::new(self.describe(holder));
        let image = self.images.get(&holder).cloned();
        self.listing.set_limit(LISTED_WITHIN);
        let listed = self.reader_lists(holder, &process, image.as_ref());
        self.introduced.insert(holder, Introduced { process: Arc::clone(&process), listed });
        process
    }

    /// Who `holder` is, without keeping it: of a process that is no holder.
    pub(super) fn look_up(&mut self, holder: HolderId) -> Arc<Process> {
        match self.introduced.get(&holder) {
            Some(known) => Arc::clone(&known.process),
            None => Arc::new(self.describe(holder)),
        }
    }

    /// Holders whose executable was hashed since they were introduced.
    pub(super) fn hashed(&mut self) -> Vec<HolderId> {
        let Self { hasher, images, introduced, patience, .. } = self;
        self.unhashed
            .extract_if(|holder| match (introduced.get(holder), images.get(holder)) {
                (Some(Introduced { process, .. }), Some(image)) => {
                    let (hasher, tgid) = (hasher.clone(), holder.tgid);
                    let exe = PathBuf::from(&process.exe);
                    let (dev, ino) = image.exe.map_or((Dev(0), 0), |exe| (exe.dev, exe.ino));
                    let known = patience
                        .ask(Asked::Executable(dev), move || hasher.remembered(tgid, &exe, ino).is_some());
                    known == Some(true)
                }
                _ => true,
            })
            .collect()
    }

    /// Asks again about those whose reader lists did not answer; what they take from then on is told with the answer.
    pub(super) fn list_late(&mut self) {
        self.listing.set_limit(ANSWERED_WITHIN);
        for holder in std::mem::take(&mut self.unlisted) {
            let Some(process) = self.introduced.get(&holder).map(|known| Arc::clone(&known.process)) else {
                continue;
            };
            let image = self.images.get(&holder).cloned();
            let listed = self.reader_lists(holder, &process, image.as_ref());
            if let Some(known) = self.introduced.get_mut(&holder) {
                known.listed = listed;
            }
        }
    }

    /// The assets on whose reader list `holder` is; none before it was introduced.
    pub(super) fn listed_assets(&self, holder: HolderId) -> AssetList {
        self.introduced.get(&holder).map_or_else(AssetList::default, |introduced| introduced.listed.clone())
    }

    pub(super) fn forget(&mut self, holder: HolderId) {
        self.introduced.remove(&holder);
        self.unhashed.remove(&holder);
        self.unlisted.remove(&holder);
    }

    pub(super) fn set_mounts(&mut self, mounts: Arc<MountTable>) {
        if self.cgroups.is_none() {
            self.cgroups = Cgroups::open(&mounts);
        }
        self.mounts = mounts;
    }

    fn reader_lists(
        &mut self,
        holder: HolderId,
        process: &Arc<Process>,
        image: Option<&ProcessReading>,
    ) -> AssetList {
        let lists = |readers: &[Vec<Reader>], is: &dyn Fn(&Reader) -> bool| -> AssetList {
            let lists = (0..).map(AssetId).zip(readers);
            lists.filter(|(_, readers)| readers.iter().any(is)).map(|(asset, _)| asset).collect()
        };
        let is_unit = |reader: &Reader, process: &Process| match reader {
            Reader::Exe(_) => false,
            Reader::Unit(unit) => process.unit.as_deref() == Some(unit),
        };
        let is_exe = |reader: &Reader| matches!(reader, Reader::Exe(_));
        let by_unit = lists(&self.readers, &|reader| is_unit(reader, process));
        if !self.readers.iter().flatten().any(is_exe) {
            return by_unit;
        }
        let (readers, process) = (Arc::clone(&self.readers), Arc::clone(process));
        let running = image.and_then(|image| image.exe).map(|exe| exe.ino);
        let asked = self.listing.ask((), move || {
            lists(&readers, &|reader| match reader {
                Reader::Exe(exe) => is_executable(exe, &process, running),
                Reader::Unit(_) => is_unit(reader, &process),
            })
        });
        // Who cannot be found on a list is on none until the list answers.
        asked.unwrap_or_else(|| {
            self.unlisted.insert(holder);
            by_unit
        })
    }

    fn describe(&mut self, holder: HolderId) -> Process {
        let Some(image) = self.images.get(&holder).cloned() else { return self.unseen(holder) };
        let exe = self.path(&image);
        let cgroup = self.cgroup(&image);
        let placement = cgroup.as_deref().map(cgroup::placement);
        let mut exe_sha256 = self.hash(holder, &image, Path::new(&exe));
        if exe_sha256.is_none() && exe.starts_with(MEMFD) && !self.unhashed.contains(&holder) {
            exe_sha256 = Some(Process::NO_HASH.to_owned());
        }
        Process {
            pid: holder.tgid,
            start: holder.start.0,
            exe,
            exe_sha256,
            cmdline: image.cmdline.clone(),
            uid: image.uid,
            auid: image.auid,
            cgroup,
            container: placement.as_ref().and_then(|placement| placement.container.clone()),
            unit: placement.and_then(|placement| placement.unit),
            ancestry: self.ancestry(image.parent_tgid),
        }
    }

    /// A process that the kernel did not describe (its identity found no room): what `/proc` says while it lives.
    fn unseen(&mut self, holder: HolderId) -> Process {
        let start = holder.start.0;
        let hasher = self.hasher.clone();
        let known = self.shown(holder);
        match known {
            Some(process) => {
                let (tgid, exe) = (holder.tgid, PathBuf::from(&process.exe));
                let exe_sha256 =
                    self.patience.ask(Asked::Process(tgid), move || hasher.hash_exe(tgid, &exe, 0)).flatten();
                Process { start, exe_sha256, ..process }
            }
            None => Process {
                pid: holder.tgid,
                start,
                exe: String::new(),
                exe_sha256: None,
                cmdline: String::new(),
                uid: u32::MAX,
                auid: None,
                cgroup: None,
                container: None,
                unit: None,
                ancestry: Vec::new(),
            },
        }
    }

    /// What `/proc` says of a process, as far as it answers: what it runs can lie behind a server that hangs.
    fn shown(&mut self, holder: HolderId) -> Option<Process> {
        let tgid = holder.tgid;
        let known = self.patience.ask(Asked::Process(tgid), move || process::from_proc(tgid)).flatten();
        // /proc counts in ticks of 10 ms; further apart it is another process under the same id.
        known.filter(|process| process.start.abs_diff(holder.start.0) < 20_000_000)
    }

    /// Where the executable is, with its mount point; a filesystem that we do not see (another mount namespace) leaves the
    /// path from its root.
    fn path(&self, image: &ProcessReading) -> String {
        let Some(exe) = image.exe else { return String::new() };
        let text = &image.exe_path.text;
        match self.mounts.path_of(exe.dev, text) {
            Some(path) => path,
            // As `/proc/PID/exe` has it: such a file lies in no directory.
            None if text.starts_with(MEMFD) => format!("{text} (deleted)"),
            None => text.clone(),
        }
    }

    fn cgroup(&mut self, image: &ProcessReading) -> Option<String> {
        if image.cgroup == 0 {
            return self.shown(image.holder).and_then(|process| process.cgroup);
        }
        self.cgroups.as_mut()?.path_of(image.cgroup).map(str::to_owned)
    }

    fn hash(&mut self, holder: HolderId, image: &ProcessReading, exe: &Path) -> Option<String> {
        let at = image.exe?;
        let (hasher, path, tgid, ino) = (self.hasher.clone(), exe.to_owned(), holder.tgid, at.ino);
        let is_memfd = exe.starts_with(MEMFD);
        let content = self
            .patience
            .ask(Asked::Executable(at.dev), move || content(&hasher, tgid, &path, ino, is_memfd));
        match content {
            Some(Content::Hash(hash)) => Some(hash),
            Some(Content::Gone | Content::Unreadable) => None,
            Some(Content::Large) => {
                self.queue.request(tgid, exe, ino);
                self.unhashed.insert(holder);
                None
            }
            // It goes on meanwhile, and the alert is renewed when it is done.
            None => {
                self.unhashed.insert(holder);
                None
            }
        }
    }

    fn ancestry(&mut self, parent: u32) -> Vec<Ancestor> {
        let mut chain = Vec::new();
        let mut next = parent;
        while next != 0 && chain.len() < GENERATIONS {
            let Some(image) = self.newest.get(&next).and_then(|holder| self.images.get(holder)) else {
                let rest = self.patience.ask(Asked::Process(next), move || process::ancestry(next));
                chain.extend(rest.into_iter().flatten());
                break;
            };
            chain.push(Ancestor { pid: next, exe: self.path(image), cmdline: image.cmdline.clone() });
            next = image.parent_tgid;
        }
        chain
    }

    fn drop_gone(&mut self) {
        let introduced = &self.introduced;
        self.images.retain(|holder, _| {
            introduced.contains_key(holder) || Path::new(&format!("/proc/{}", holder.tgid)).exists()
        });
        let images = &self.images;
        self.newest.retain(|_, holder| images.contains_key(holder));
    }
}

/// Waits for the filesystem of the executable.
fn content(hasher: &Hasher, tgid: u32, exe: &Path, ino: u64, is_memfd: bool) -> Content {
    if let Some(hash) = hasher.remembered(tgid, exe, ino) {
        return Content::Hash(hash);
    }
    // One that lies in no directory (`memfd_create`) is there for as long as its process is.
    let by_pid = format!("/proc/{tgid}/exe");
    let facts = [exe, Path::new(&by_pid)].into_iter().find_map(|path| {
        let facts = fs::metadata(path).ok()?;
        (facts.ino() == ino).then_some(facts)
    });
    // What is gone cannot be hashed later either.
    if facts.is_none() && is_memfd {
        return Content::Gone;
    }
    let size = facts.map_or(u64::MAX, |facts| facts.len());
    if size > HASHED_AT_ONCE {
        return Content::Large;
    }
    hasher.hash_exe(tgid, exe, ino).map_or(Content::Unreadable, Content::Hash)
}

/// By path and, while the configured file is there, by its inode too: a path alone can be mounted over.
fn is_executable(exe: &Path, process: &Process, running: Option<u64>) -> bool {
    let real = exe.canonicalize().unwrap_or_else(|_| PathBuf::from(exe));
    if Path::new(&process.exe) != real {
        return false;
    }
    running.is_some_and(|running| fs::metadata(&real).is_ok_and(|facts| facts.ino() == running))
}
