//! Finding the files of the assets.
//!
//! The trees may be written by others while we walk as root: directories are opened below the asset's own root without
//! following symbolic links, and what is registered is what was opened.

use std::{
    collections::{HashMap, HashSet, hash_map},
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, openat,
    openat2, statx,
};

use super::{
    super::{
        Problem, Severity,
        control::Classifier,
        format::{self, Recognised},
        ioctl::generation,
        mounts::Mount,
    },
    Directory, Entry, Filesystem, MAX_FILES, Object, Registry,
};
use crate::{
    config::{Config, Placed},
    event::{AssetId, Dev},
};

/// Problems of one kind of severity that are told for one configured path; the rest is counted.
const TOLD: usize = 20;

/// Walks all assets. Goes on after an error, so that everything wrong is said at once.
pub(super) fn walk(
    config: &Config,
    classifier: &Classifier,
    known: &Registry,
    now: Timestamp,
) -> (Registry, Vec<Problem>) {
    let mut walk = Walk {
        config,
        classifier,
        known: Known::new(known),
        now: Timestamp::from_second(now.as_second()).unwrap_or(now),
        registry: Registry::default(),
        found: HashMap::new(),
        visited: 0,
        problems: Vec::new(),
    };
    for (id, asset) in (0_u8..).map(AssetId).zip(&config.assets) {
        let before = walk.registry.files.len();
        let problems = walk.problems.len();
        // Links that lead from one path of the asset to another are followed by the walk itself.
        let roots: Vec<PathBuf> =
            asset.paths.iter().filter_map(|placed| fs::canonicalize(&placed.value).ok()).collect();
        for placed in &asset.paths {
            let mut told = Told { placed, asset: id, counts: [0; 2] };
            walk.root(&roots, &mut told);
            walk.finish(&told);
        }
        if walk.registry.files.len() == before && walk.problems.len() == problems {
            let text = format!("asset {} has no files yet; what appears there is protected", asset.name);
            walk.problems.extend(asset.paths.first().map(|placed| Problem::warning(placed, text)));
        }
    }
    let mut registry = walk.registry;
    registry.sort();
    registry.directories.sort_unstable_by(|a, b| (a.asset, &a.path).cmp(&(b.asset, &b.path)));
    registry.files.shrink_to_fit();
    (registry, walk.problems)
}

struct Walk<'a> {
    config: &'a Config,
    classifier: &'a Classifier,
    known: Known<'a>,
    now: Timestamp,
    registry: Registry,
    /// Where each file is in the registry.
    found: HashMap<FileKey, usize>,
    /// Directory entries seen, files or not.
    visited: usize,
    problems: Vec<Problem>,
}

/// `s_dev`, `st_dev` and the inode number. `st_dev` is part of it because btrfs uses one inode number in several
/// subvolumes.
type FileKey = (Dev, u64, u64);

/// What is told of one configured path.
struct Told<'a> {
    placed: &'a Placed<PathBuf>,
    asset: AssetId,
    /// Warnings and errors so far.
    counts: [usize; 2],
}

/// What an earlier scan knew.
struct Known<'a> {
    by_path: HashMap<&'a Path, &'a Entry>,
    by_content: HashMap<(u64, u64, i64), &'a Entry>,
}

impl<'a> Known<'a> {
    fn new(registry: &'a Registry) -> Self {
        let files = || registry.files.iter();
        Self {
            by_path: files().map(|entry| (&*entry.path, entry)).collect(),
            by_content: files().map(|e| ((e.object.ino, e.size, e.mtime), e)).collect(),
        }
    }
}

impl<'a> Walk<'a> {
    fn root(&mut self, roots: &[PathBuf], told: &mut Told<'_>) {
        let path = &told.placed.value;
        let name = self.asset_name(told.asset).to_owned();
        // The operator named this path, so that links in it are followed, once.
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) => {
                let remedy = "create it, mount its filesystem, or correct the path";
                let text = format!("asset {name}: cannot find {}: {error}: {remedy}", path.display());
                return self.tell(told, Severity::Error, text);
            }
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let facts = match statx(CWD, &real, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
            Ok(facts) => facts,
            Err(error) => return self.unreadable(told, &real, error),
        };
        let Some(mount) = self.mount_of(&facts, &real) else {
            let text = format!("asset {name}: {} is on no mount that this agent sees", real.display());
            return self.tell(told, Severity::Error, text);
        };
        if !self.classifier.controls(mount.dev) {
            let text = format!(
                "asset {name}: {} is on {} {} (mounted at {}), which is not controlled: add `{{mount: {}}}` to \
                 controlled.filesystems, or move the files to a filesystem that is",
                real.display(),
                mount.fstype,
                mount.source,
                mount.point.display(),
                mount.point.display(),
            );
            self.tell(told, Severity::Error, text);
        }
        match FileType::from_raw_mode(facts.stx_mode.into()) {
            FileType::RegularFile => self.file(told, CWD, real.as_os_str(), &real, &facts, mount),
            FileType::Directory => match openat(CWD, &real, flags | OFlags::DIRECTORY, Mode::empty()) {
                Ok(root) => self.tree(roots, told, &File::from(root), &real, mount.dev),
                Err(error) => self.unreadable(told, &real, error),
            },
            _ => {
                let text = format!(
                    "asset {name}: {} is neither a file nor a directory: correct the path",
                    real.display()
                );
                self.tell(told, Severity::Error, text);
            }
        }
    }

    fn tree(&mut self, roots: &[PathBuf], told: &mut Told<'_>, root: &File, real: &Path, dev: Dev) {
        let mut open = vec![PathBuf::from(".")];
        let mut foreign: HashSet<Dev> = HashSet::from([dev]);
        while let Some(relative) = open.pop() {
            let path = real.join(relative.strip_prefix(".").unwrap_or(&relative));
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let directory = match openat2(root, &relative, flags, Mode::empty(), resolve) {
                Ok(directory) => directory,
                // Gone, or no longer a directory, since its parent was read.
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                    continue;
                }
                Err(error) => {
                    self.unreadable(told, &path, error);
                    continue;
                }
            };
            let directory = File::from(directory);
            self.directory(told.asset, &directory, &path);
            let entries = match Dir::read_from(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable(told, &path, error);
                    continue;
                }
            };
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.unreadable(told, &path, error);
                        break;
                    }
                };
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                self.visited += 1;
                if self.visited > MAX_FILES {
                    // Once is enough, whichever path is the last straw.
                    if self.visited == MAX_FILES + 1 {
                        let text = format!(
                            "more than {MAX_FILES} files and directories below the assets' paths: name the \
                             directories that hold the weights"
                        );
                        self.tell(told, Severity::Error, text);
                    }
                    return;
                }
                let here = path.join(name);
                let facts = match statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
                    Ok(facts) => facts,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => {
                        self.unreadable(told, &here, error);
                        continue;
                    }
                };
                let kind = FileType::from_raw_mode(facts.stx_mode.into());
                if kind == FileType::Symlink {
                    self.link(roots, told, &here);
                    continue;
                }
                if !matches!(kind, FileType::RegularFile | FileType::Directory) {
                    continue;
                }
                let Some(mount) = self.mount_of(&facts, &here) else { continue };
                if foreign.insert(mount.dev) && !self.classifier.controls(mount.dev) {
                    let text = format!(
                        "asset {}: {} is on {} {}, which is not controlled: its files are protected, but they already \
                         are where they must not be; list it under controlled.filesystems or move them",
                        self.asset_name(told.asset),
                        here.display(),
                        mount.fstype,
                        mount.source
                    );
                    self.tell(told, Severity::Warning, text);
                }
                if kind == FileType::Directory {
                    open.push(relative.join(name));
                } else {
                    self.file(told, directory.as_fd(), name, &here, &facts, mount);
                }
            }
        }
    }

    fn directory(&mut self, asset: AssetId, directory: &File, path: &Path) {
        // What fails here fails again, and is told, when the directory is read.
        let Ok(facts) = statx(directory, "", AtFlags::EMPTY_PATH, WANTED) else { return };
        let Some(mount) = self.mount_of(&facts, path) else { return };
        let generation = generation(directory, &mount.fstype, facts.stx_ino);
        let object = Object { dev: mount.dev, ino: facts.stx_ino, generation };
        self.registry.directories.push(Directory { asset, path: path.into(), object });
    }

    /// A link to a file elsewhere protects that file: the Hugging Face cache keeps all weights so.
    fn link(&mut self, roots: &[PathBuf], told: &mut Told<'_>, link: &Path) {
        let asset = self.asset_name(told.asset).to_owned();
        let link_name = link.display();
        let target = match fs::canonicalize(link) {
            Ok(target) => target,
            Err(error) => {
                let text = format!(
                    "asset {asset}: the link {link_name} leads nowhere ({error}): remove it, or restore its target"
                );
                return self.tell(told, Severity::Warning, text);
            }
        };
        if roots.iter().any(|root| target.starts_with(root)) {
            return;
        }
        let name = target.display();
        let Ok(facts) = statx(CWD, &target, AtFlags::SYMLINK_NOFOLLOW, WANTED) else { return };
        let Some(mount) = self.mount_of(&facts, &target) else { return };
        let problem = match FileType::from_raw_mode(facts.stx_mode.into()) {
            FileType::RegularFile if self.classifier.controls(mount.dev) => {
                return self.file(told, CWD, target.as_os_str(), &target, &facts, mount);
            }
            FileType::RegularFile => {
                format!(
                    "to {name} on {} {}, which is not controlled: move the file, or list the filesystem",
                    mount.fstype, mount.source
                )
            }
            FileType::Directory => format!("to the directory {name}: name it as a path of the asset"),
            _ => format!("to {name}, which is not a file: remove it"),
        };
        let text = format!(
            "asset {asset}: the link {link_name} leads out of the asset and is not followed, {problem}"
        );
        self.tell(told, Severity::Warning, text);
    }

    /// `facts` are those of `name` in the directory `at`.
    fn file(
        &mut self,
        told: &mut Told<'_>,
        at: impl AsFd,
        name: &OsStr,
        path: &Path,
        facts: &Statx,
        mount: &Mount,
    ) {
        match self.entry(told.asset, at, name, path, facts, mount) {
            Ok(Some((entry, key))) => self.register(told, entry, key),
            // Gone, or no longer a file, since its directory was read.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unreadable(told, path, error),
        }
    }

    fn entry(
        &mut self,
        asset: AssetId,
        at: impl AsFd,
        name: &OsStr,
        path: &Path,
        facts: &Statx,
        mount: &Mount,
    ) -> io::Result<Option<(Entry, FileKey)>> {
        let before = self.known.by_path.get(path).filter(|entry| entry.object.ino == facts.stx_ino);
        let size_and_times =
            |facts: &Statx| (facts.stx_size, nanoseconds(facts.stx_mtime), nanoseconds(facts.stx_ctime));
        let (size, mtime, ctime) = size_and_times(facts);
        let first_seen = before
            .or_else(|| self.known.by_content.get(&(facts.stx_ino, size, mtime)))
            .map_or(self.now, |entry| entry.first_seen);
        let (facts, generation, format) = match before {
            Some(before) if before.untouched(facts.stx_ino, size, mtime, ctime) => {
                (*facts, before.object.generation, before.format)
            }
            _ => {
                let flags =
                    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
                let file = File::from(openat(at, name, flags, Mode::empty())?);
                let opened = statx(&file, "", AtFlags::EMPTY_PATH, WANTED)?;
                let regular = FileType::from_raw_mode(opened.stx_mode.into()) == FileType::RegularFile;
                // Something else took its place since the directory was read; the next scan sees it.
                if !regular || opened.stx_mnt_id != facts.stx_mnt_id {
                    return Ok(None);
                }
                let generation = generation(&file, &mount.fstype, opened.stx_ino);
                (opened, generation, recognise(&file, opened.stx_size)?)
            }
        };
        let (size, mtime, ctime) = size_and_times(&facts);
        let st_dev = rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor);
        let entry = Entry {
            asset,
            path: path.into(),
            object: Object { dev: mount.dev, ino: facts.stx_ino, generation },
            size,
            format,
            first_seen,
            mtime,
            ctime,
            fscrypt: facts.stx_attributes.contains(StatxAttributes::ENCRYPTED),
            filesystem: self.filesystem(mount),
        };
        Ok(Some((entry, (mount.dev, st_dev, facts.stx_ino))))
    }

    fn register(&mut self, told: &mut Told<'_>, entry: Entry, key: FileKey) {
        match self.found.entry(key) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(self.registry.files.len());
                self.registry.files.push(entry);
            }
            hash_map::Entry::Occupied(occupied) => {
                let first = &mut self.registry.files[*occupied.get()];
                if first.asset != entry.asset {
                    let text = format!(
                        "asset {}: {} is also in asset {} as {}: a file belongs to one asset, take it out of the other",
                        self.config.assets[usize::from(entry.asset.0)].name,
                        entry.path.display(),
                        self.config.assets[usize::from(first.asset.0)].name,
                        first.path.display()
                    );
                    self.tell(told, Severity::Error, text);
                } else if entry.path < first.path {
                    // The order of directories is chance; the registry must not depend on it.
                    *first = entry;
                }
            }
        }
    }

    fn filesystem(&mut self, mount: &Mount) -> u32 {
        let known = self.registry.filesystems.iter().position(|filesystem| filesystem.dev == mount.dev);
        if let Some(index) = known.and_then(|index| u32::try_from(index).ok()) {
            return index;
        }
        self.registry.index_of(&Filesystem {
            dev: mount.dev,
            fstype: mount.fstype.clone(),
            mount: mount.point.clone(),
            encryption: self.classifier.devices().encryption(mount),
        })
    }

    fn mount_of(&self, facts: &Statx, path: &Path) -> Option<&'a Mount> {
        let table = self.classifier.table();
        if facts.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return table.by_id(facts.stx_mnt_id);
        }
        table.of_path(path)
    }

    fn asset_name(&self, asset: AssetId) -> &str {
        &self.config.assets[usize::from(asset.0)].name
    }

    fn unreadable(&mut self, told: &mut Told<'_>, path: &Path, error: impl Into<io::Error>) {
        let text = format!(
            "asset {}: cannot read {}: {}: run the agent as root, and on a network filesystem let root read",
            self.asset_name(told.asset),
            path.display(),
            error.into()
        );
        self.tell(told, Severity::Error, text);
    }

    fn tell(&mut self, told: &mut Told<'_>, severity: Severity, text: String) {
        let count = &mut told.counts[severity as usize];
        *count += 1;
        if *count <= TOLD {
            let Placed { line, column, .. } = *told.placed;
            self.problems.push(Problem { severity, place: Some((line, column)), text });
        }
    }

    fn finish(&mut self, told: &Told<'_>) {
        for severity in [Severity::Warning, Severity::Error] {
            let rest = told.counts[severity as usize].saturating_sub(TOLD);
            if rest > 0 {
                let text = format!("asset {}: and {rest} more like these", self.asset_name(told.asset));
                let Placed { line, column, .. } = *told.placed;
                self.problems.push(Problem { severity, place: Some((line, column)), text });
            }
        }
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

fn recognise(mut file: &File, size: u64) -> io::Result<Recognised> {
    let mut head = Vec::with_capacity(format::HEAD.min(usize::try_from(size).unwrap_or(usize::MAX)));
    (&mut file).take(format::HEAD as u64).read_to_end(&mut head)?;
    Ok(format::recognise(&head, size))
}

fn nanoseconds(time: rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.into())
}
