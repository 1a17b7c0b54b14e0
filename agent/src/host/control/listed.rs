//! The filesystems of the operator's list: what a line names now, and whether that is still what it named first. It must not
//! know what is written to them.

use std::{collections::HashMap, path::Path};

use crate::{
    config::{FilesystemSelector, Placed},
    event::Dev,
    host::{
        Problem,
        mounts::{Mount, MountTable},
    },
};

/// Filesystems whose mount source names a server or a share; a `source` selector looks at these only. Elsewhere the
/// source is free text of whoever mounted it.
const NETWORK: &[&str] = &[
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "virtiofs",
    "wekafs",
];

/// A selector and the filesystem that it named first.
///
/// Control belongs to that filesystem. Otherwise, whoever mounts a stick over `/models` would have made it controlled.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    selector: Placed<FilesystemSelector>,
    first: Option<(Dev, Identity)>,
}

/// What must stay the same when a filesystem is mounted again. An adversary with root can forge the UUID of a fixed
/// disk; that is a limit of every list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) fstype: String,
    /// The UUID, or the mount source where there is none.
    pub(super) name: String,
    pub(super) removable: Option<bool>,
}

impl Listed {
    pub(super) fn new(selector: &Placed<FilesystemSelector>) -> Self {
        Self { selector: selector.clone(), first: None }
    }

    pub(super) const fn is_by_uuid(&self) -> bool {
        matches!(self.selector.value, FilesystemSelector::Uuid(_))
    }

    /// The filesystems that the selector makes controlled now.
    pub(super) fn resolve(
        &mut self,
        table: &MountTable,
        uuids: &HashMap<Dev, String>,
        identity: impl Fn(&Mount) -> Identity,
        problems: &mut Vec<Problem>,
    ) -> Vec<Dev> {
        let placed = &self.selector;
        let starting = self.first.is_none();
        let mut named: Vec<&Mount> = match &placed.value {
            FilesystemSelector::Mount(point) => table.at(point).into_iter().collect(),
            FilesystemSelector::Uuid(uuid) => table
                .entries()
                .iter()
                .filter(|mount| uuids.get(&mount.dev).is_some_and(|found| found.eq_ignore_ascii_case(uuid)))
                .collect(),
            FilesystemSelector::Source(source) => table
                .entries()
                .iter()
                .filter(|mount| mount.source == *source && is_network(&mount.fstype))
                .collect(),
        };
        // The first one keeps its right for as long as it is mounted anywhere, even when it is covered.
        let held = self.first.as_ref().and_then(|(dev, known)| {
            let mount = table.by_dev(*dev)?;
            (identity(mount) == *known).then_some(*dev)
        });
        named.sort_by_key(|mount| (Some(mount.dev) != held, mount.id));
        named.dedup_by_key(|mount| mount.dev);
        let mut devs: Vec<Dev> = held.into_iter().collect();
        let name = placed.value.describe();
        for mount in named {
            if devs.contains(&mount.dev) {
                continue;
            }
            // Several exports of one server may share a source; every other selector names one filesystem only.
            let several = matches!(placed.value, FilesystemSelector::Source(_));
            let found = identity(mount);
            let same = self.first.as_ref().is_none_or(|(_, known)| *known == found);
            if same && (devs.is_empty() || several) {
                self.first.get_or_insert((mount.dev, found)).0 = mount.dev;
                devs.push(mount.dev);
                continue;
            }
            let point = mount.point.display();
            problems.push(Problem::warning(
                placed,
                format!(
                    "{name} now also names another filesystem ({} {} on {}, mounted at {point}), which stays \
                     uncontrolled: unmount it, or restart the agent if it is meant",
                    mount.fstype, mount.source, mount.dev
                ),
            ));
        }
        if starting {
            problems.extend(self.surprises(table, &devs));
        }
        devs
    }

    /// What the operator should know when a selector is first used.
    fn surprises(&self, table: &MountTable, devs: &[Dev]) -> Vec<Problem> {
        let name = self.selector.value.describe();
        let mut problems = Vec::new();
        if devs.is_empty() {
            let text = format!(
                "{name} names no mounted filesystem, so nothing is controlled by this line: mount it, or correct the \
                 line"
            );
            problems.push(Problem::warning(&self.selector, text));
        }
        for mount in devs.iter().filter_map(|&dev| table.by_dev(dev)) {
            if mount.fstype.starts_with("fuse") {
                let text = format!(
                    "{name} is a {} mount, whose bytes go wherever its server puts them: list it only if you control \
                     that server",
                    mount.fstype
                );
                problems.push(Problem::warning(&self.selector, text));
            }
        }
        if let FilesystemSelector::Mount(point) = &self.selector.value
            && let Some(mount) = table.at(point).filter(|mount| devs.contains(&mount.dev))
            && mount.root != Path::new("/")
        {
            let others: Vec<String> = table
                .all_of(mount.dev)
                .filter(|other| other.id != mount.id)
                .take(3)
                .map(|other| other.point.display().to_string())
                .collect();
            if !others.is_empty() {
                let text = format!(
                    "{name} shows only {} of its filesystem; all of it is controlled, also at {}: give the weights a \
                     filesystem of their own",
                    mount.root.display(),
                    others.join(", ")
                );
                problems.push(Problem::warning(&self.selector, text));
            }
        }
        problems
    }
}

impl FilesystemSelector {
    fn describe(&self) -> String {
        match self {
            Self::Mount(point) => format!("mount {}", point.display()),
            Self::Uuid(uuid) => format!("uuid {uuid}"),
            Self::Source(source) => format!("source {source}"),
        }
    }
}

fn is_network(fstype: &str) -> bool {
    NETWORK.contains(&fstype) || fstype == "fuse" || fstype.starts_with("fuse.")
}
