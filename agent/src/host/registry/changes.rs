//! What changed between two scans.

use std::{collections::HashMap, path::Path};

use super::{Entry, Object, Registry};
use crate::event::AssetId;

/// One protected file that came, went or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    pub asset: AssetId,
    /// Where it is now; for a removed one where it was.
    pub path: Box<Path>,
    pub object: Object,
    /// Bytes now; for a removed one bytes then.
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Removed,
    /// The same file has more bytes than it had.
    Grown {
        from: u64,
    },
    /// The same file was written to and has not grown.
    Rewritten {
        from: u64,
    },
    /// The same file has another path. A change of its size is a second [`Change`].
    Renamed {
        from: Box<Path>,
    },
    /// Another file has taken the path.
    Replaced {
        was: Object,
    },
}

/// Additions and changes in the order of `new`, then removals in the order of `old`.
pub(super) fn between(old: &Registry, new: &Registry) -> Vec<Change> {
    fn by_path(registry: &Registry) -> HashMap<(AssetId, &Path), &Entry> {
        registry.files.iter().map(|entry| ((entry.asset, &*entry.path), entry)).collect()
    }
    let (old_paths, new_paths) = (by_path(old), by_path(new));
    // Only files whose path is free can have been renamed.
    let mut gone: HashMap<(AssetId, Object), &Entry> = old
        .files
        .iter()
        .filter(|entry| !new_paths.contains_key(&(entry.asset, &*entry.path)))
        .map(|entry| ((entry.asset, entry.object), entry))
        .collect();
    let mut changes = Vec::new();
    for entry in &new.files {
        let mut push = |kind| changes.push(change(kind, entry));
        let before = match old_paths.get(&(entry.asset, &*entry.path)) {
            Some(before) if before.object != entry.object => {
                push(ChangeKind::Replaced { was: before.object });
                continue;
            }
            Some(before) => before,
            None => {
                let Some(before) = gone.remove(&(entry.asset, entry.object)) else {
                    push(ChangeKind::Added);
                    continue;
                };
                push(ChangeKind::Renamed { from: before.path.clone() });
                before
            }
        };
        if entry.size > before.size {
            push(ChangeKind::Grown { from: before.size });
        } else if entry.size < before.size || entry.mtime != before.mtime {
            push(ChangeKind::Rewritten { from: before.size });
        }
    }
    for entry in &old.files {
        if gone.contains_key(&(entry.asset, entry.object))
            && !new_paths.contains_key(&(entry.asset, &*entry.path))
        {
            changes.push(change(ChangeKind::Removed, entry));
        }
    }
    changes
}

fn change(kind: ChangeKind, entry: &Entry) -> Change {
    let Entry { asset, ref path, object, size, .. } = *entry;
    Change { kind, asset, path: path.clone(), object, size }
}
