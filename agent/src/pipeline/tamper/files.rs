//! The files that the agent depends on, and whether somebody changed them. It must not know who.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::is_fresh;
use crate::{event::BootNs, host::patience::Patience, pipeline::own_files::OwnFile};

/// What a change of a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    grows: bool,
}

/// Those files as they were when they were looked at last.
#[derive(Debug)]
pub(in crate::pipeline) struct Files {
    known: HashMap<PathBuf, Option<Facts>>,
    /// When the kernel side last saw somebody open one for writing.
    opened: HashMap<PathBuf, BootNs>,
    /// Of each log, how many bytes were missing.
    shortened: HashMap<PathBuf, u64>,
    /// They lie where anybody can mount what never answers.
    patience: Patience<()>,
    /// They did not all answer at the last look.
    hang: bool,
}

/// By all of them together.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

impl Files {
    pub(super) fn new(files: &[OwnFile]) -> Self {
        let mut new = Self {
            known: HashMap::new(),
            opened: HashMap::new(),
            shortened: HashMap::new(),
            patience: Patience::new(ANSWERED_WITHIN),
            hang: false,
        };
        new.watch(files);
        new
    }

    /// Looks after these too, from what they are now on.
    pub(in crate::pipeline) fn watch(&mut self, files: &[OwnFile]) {
        self.known.extend(files.iter().map(|file| (file.path.clone(), facts(&file.path, file.grows))));
    }

    /// The kernel side saw somebody open one for writing, and that was told of.
    pub(super) fn opened(&mut self, path: PathBuf, at: BootNs) {
        self.opened.insert(path, at);
    }

    /// Those that changed since they were looked at last, without anybody having been seen, or the one that does not answer: what is to
    /// be said of them.
    pub(super) fn changed(&mut self, now: BootNs) -> Vec<String> {
        let asked: Vec<(PathBuf, bool)> = self
            .known
            .iter()
            .map(|(path, known)| (path.clone(), known.is_some_and(|known| known.grows)))
            .collect();
        let at = Arc::new(Mutex::new(PathBuf::new()));
        let asking = Arc::clone(&at);
        let answers = self.patience.ask((), move || {
            let look = |(path, grows): (PathBuf, bool)| {
                asking.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&path);
                let facts = facts(&path, grows);
                (path, facts)
            };
            asked.into_iter().map(look).collect::<Vec<_>>()
        });
        let Some(answers) = answers else {
            if std::mem::replace(&mut self.hang, true) {
                return Vec::new();
            }
            let path = at.lock().unwrap_or_else(PoisonError::into_inner);
            // Where none was asked, no thread began to.
            let what = if path.as_os_str().is_empty() {
                "no thread could look at them".to_owned()
            } else {
                format!("{} does not answer", path.display())
            };
            return vec![format!("{what}: nothing is known of the agent's files")];
        };
        self.hang = false;
        let mut found = Vec::new();
        for (path, facts) in answers {
            let Some(known) = self.known.get_mut(&path) else { continue };
            let is_changed = changed(std::mem::replace(known, facts), facts);
            if is_changed && !self.opened.get(&path).is_some_and(|at| is_fresh(*at, now)) {
                found.push(path.display().to_string());
            }
        }
        found
    }

    /// Whether a log became shorter than what was written into it; once for each time.
    pub(super) fn is_shortened(&mut self, path: &Path, length: u64) -> bool {
        if self.hang {
            return false;
        }
        let asked = path.to_owned();
        let Some(is) = self.patience.ask((), move || fs::metadata(asked).map_or(0, |facts| facts.len()))
        else {
            return false;
        };
        let missing = length.saturating_sub(is);
        missing > self.shortened.insert(path.to_owned(), missing).unwrap_or(0)
    }
}

fn facts(path: &Path, grows: bool) -> Option<Facts> {
    let facts = fs::symlink_metadata(path).ok()?;
    Some(Facts {
        dev: facts.dev(),
        ino: facts.ino(),
        size: facts.size(),
        mtime: (facts.mtime(), facts.mtime_nsec()),
        ctime: (facts.ctime(), facts.ctime_nsec()),
        grows,
    })
}

fn changed(before: Option<Facts>, now: Option<Facts>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) if before.grows => (before.dev, before.ino) != (now.dev, now.ino),
        _ => before != now,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn watched(files: &[PathBuf], logs: &[PathBuf]) -> Files {
        let file = |path: &PathBuf| OwnFile { path: path.clone(), grows: logs.contains(path) };
        Files::new(&files.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_that_is_replaced_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weighbridge.yaml");
        fs::write(&path, "a").unwrap();
        let mut files = watched(from_ref(&path), &[]);
        let new = folder.path().join("new");
        fs::write(&new, "b").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(files.changed(BootNs(1)), [path.display().to_string()]);
        assert_eq!(files.changed(BootNs(2)), [""; 0]);
        fs::remove_file(&path).unwrap();
        assert_eq!(files.changed(BootNs(3)), [path.display().to_string()]);
    }

    #[test]
    fn who_opened_it_was_told_of_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "a").unwrap();
        let mut files = watched(from_ref(&path), &[]);
        files.opened(path.clone(), BootNs(1));
        fs::write(&path, "changed").unwrap();
        assert_eq!(files.changed(BootNs(2)), [""; 0]);
        fs::write(&path, "changed again").unwrap();
        assert_eq!(files.changed(BootNs(20_000_000_002)), [path.display().to_string()]);
    }

    #[test]
    fn a_log_may_grow_and_not_shrink() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.ndjson");
        fs::write(&path, "one\n").unwrap();
        let mut files = watched(from_ref(&path), from_ref(&path));
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(files.changed(BootNs(1)), [""; 0]);
        assert!(!files.is_shortened(&path, 8));
        fs::write(&path, "two\n").unwrap();
        assert!(files.is_shortened(&path, 8));
        fs::write(&path, "two\nthree\n").unwrap();
        assert!(!files.is_shortened(&path, 14), "it is told once, whatever is written after it");
        fs::write(&path, "").unwrap();
        assert!(files.is_shortened(&path, 14), "and again when more is gone");
    }
}
