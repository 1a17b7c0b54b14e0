//! Finding the files of the assets.
//!
//! The trees may be written by others while we walk as root: directories are opened below the asset's own root without
//! following symbolic links, and what is registered is what was opened. `file` says what a file is in the registry.

mod file;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
    },
    io::Errno,
};

use self::file::{FileKey, Known};
use super::{
    super::{Problem, Severity, control::Classifier, ioctl::generation, mounts::Mount},
    Directory, MAX_FILES, Object, Registry,
};
use crate::{
    config::{Config, Placed},
    event::{AssetId, Dev},
};

/// Problems of one kind of severity that are told for one configured path; the rest is counted.
const TOLD: usize = 20;

/// Where a walk is, and after how many entries of directories: of one that gets no further, what it waits for.
#[derive(Debug, Default)]
pub struct Progress(Mutex<(PathBuf, usize)>);

impl Progress {
    /// The directory that is read, and how many entries were seen by then.
    #[must_use]
    pub fn now(&self) -> (PathBuf, usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn at(&self, path: &Path, visited: usize) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 != path {
            now.0 = path.to_owned();
        }
        now.1 = visited;
    }
}

/// Walks all assets. Goes on after an error, so that everything wrong is said at once.
pub(super) fn walk(
    config: &Config,
    classifier: &Classifier,
    known: &Registry,
    now: Timestamp,
    progress: &Progress,
) -> (Registry, Vec<Problem>) {
    let mut walk = Walk {
        config,
        classifier,
        progress,
        known: Known::new(known),
        now: Timestamp::from_second(now.as_second()).unwrap_or(now),
        registry: Registry::default(),
        found: HashMap::new(),
        visited: 0,
        problems: Vec::new(),
    };
    for (id, asset) in (0_u16..).map(AssetId).zip(&config.assets) {
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
    progress: &'a Progress,
    known: Known<'a>,
    now: Timestamp,
    registry: Registry,
    /// Where each file is in the registry.
    found: HashMap<FileKey, usize>,
    /// Directory entries seen, files or not.
    visited: usize,
    problems: Vec<Problem>,
}

/// What is told of one configured path.
struct Told<'a> {
    placed: &'a Placed<PathBuf>,
    asset: AssetId,
    /// Warnings and errors so far.
    counts: [usize; 2],
}

impl<'a> Walk<'a> {
    fn root(&mut self, roots: &[PathBuf], told: &mut Told<'_>) {
        let path = &told.placed.value;
        self.progress.at(path, self.visited);
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
            self.progress.at(&path, self.visited);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let directory = match openat2(root, &relative, flags, Mode::empty(), resolve) {
                Ok(directory) => directory,
                // Gone, or no longer a directory, since its parent was read.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
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
                self.progress.at(&here, self.visited);
                let facts = match statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
                    Ok(facts) => facts,
                    Err(Errno::NOENT) => continue,
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
        let error = error.into();
        let remedy = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::UCLEAN | Errno::BADMSG | Errno::IO) => {
                "the filesystem or its disk is damaged: the kernel's log says more, and fsck may mend it"
            }
            _ => "run the agent as root, and on a network filesystem let root read",
        };
        let name = self.asset_name(told.asset);
        let text = format!("asset {name}: cannot read {}: {error}: {remedy}", path.display());
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
