//! The mount table of the agent's own mount namespace, from `/proc/self/mountinfo`.
//!
//! The device number in mountinfo is `super_block.s_dev`, which is also what the kernel side reports. `st_dev` is not:
//! btrfs gives every subvolume its own, so `st_dev` is never used as the identity of a filesystem. This file must not
//! know what is controlled.

mod line;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, StatxFlags, statx};

pub use self::watch::MountWatch;
use super::read_limited;
use crate::event::Dev;

const MOUNTINFO: &str = "/proc/self/mountinfo";
/// A host with 100,000 mounts has about 20 MB of mountinfo; more is refused rather than read in part.
const LIMIT: u64 = 64 << 20;

/// Generations of mounts that are looked at to tell whether one is covered.
const DEPTH: usize = 256;

/// Why there is no mount table.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot read {MOUNTINFO}: {0}: mount /proc")]
    Read(#[source] std::io::Error),
    #[error("{MOUNTINFO} line {line}: {what}")]
    Line { line: usize, what: &'static str },
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    pub parent: u64,
    /// `super_block.s_dev`.
    pub dev: Dev,
    /// The directory of the filesystem that is mounted (`/`, or more for bind mounts and subvolumes).
    pub root: PathBuf,
    pub point: PathBuf,
    pub fstype: String,
    pub source: String,
    /// Options of the filesystem, as its driver prints them.
    pub super_options: String,
    /// False when another mount lies over it, so that its mount point leads elsewhere.
    pub visible: bool,
}

/// All mounts of the agent's mount namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    entries: Vec<Mount>,
    by_dev: HashMap<Dev, Vec<usize>>,
    by_id: HashMap<u64, usize>,
}

impl MountTable {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// When it cannot be read or has a line that is not in the kernel's format.
    pub fn read() -> Result<Self, MountError> {
        Self::parse(&read_limited(Path::new(MOUNTINFO), LIMIT).map_err(MountError::Read)?)
    }

    /// # Errors
    /// The first line that is not in the kernel's format (`proc_pid_mountinfo(5)`).
    pub fn parse(text: &[u8]) -> Result<Self, MountError> {
        let mut entries = Vec::new();
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if !line.is_empty() {
                entries.push(line::parse(line).map_err(|what| MountError::Line { line: index + 1, what })?);
            }
        }
        mark_visible(&mut entries);
        let mut by_dev: HashMap<Dev, Vec<usize>> = HashMap::new();
        for (index, mount) in entries.iter().enumerate() {
            by_dev.entry(mount.dev).or_default().push(index);
        }
        let by_id = entries.iter().enumerate().map(|(index, mount)| (mount.id, index)).collect();
        Ok(Self { entries, by_dev, by_id })
    }

    #[must_use]
    pub fn entries(&self) -> &[Mount] {
        &self.entries
    }

    /// Every mount of one filesystem, in the order of mountinfo.
    pub fn all_of(&self, dev: Dev) -> impl Iterator<Item = &Mount> {
        self.by_dev.get(&dev).into_iter().flatten().map(|&index| &self.entries[index])
    }

    /// The mount that shows most of a filesystem: visible first, shortest root, then shortest mount point.
    #[must_use]
    pub fn by_dev(&self, dev: Dev) -> Option<&Mount> {
        self.all_of(dev)
            .min_by_key(|mount| (!mount.visible, mount.root.as_os_str().len(), mount.point.as_os_str().len()))
    }

    /// The topmost mount at exactly this mount point.
    #[must_use]
    pub fn at(&self, point: &Path) -> Option<&Mount> {
        // Normalised by components, so that `/models/` finds `/models`.
        let mut found: Option<&Mount> = None;
        for mount in self.entries.iter().filter(|mount| mount.point.components().eq(point.components())) {
            if mount.visible || found.is_none() {
                found = Some(mount);
            }
        }
        found
    }

    /// The mount with this id, as `statx` reports it.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.by_id.get(&id).map(|&index| &self.entries[index])
    }

    /// The mount that an existing path is on; the path's symbolic links are followed.
    #[must_use]
    pub fn of_path(&self, path: &Path) -> Option<&Mount> {
        let facts = statx(rustix::fs::CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        // Since Linux 5.8; where it is missing the longest mount point wins.
        if facts.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
            return self.by_id(facts.stx_mnt_id);
        }
        let path = path.canonicalize().ok()?;
        self.entries
            .iter()
            .filter(|mount| mount.visible && path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len())
    }

    /// Mounts below `/proc` and `/sys` but for the kernel's own at their usual places: what shows something else there than the kernel
    /// says. Also those at `/proc` and `/sys` themselves, which are what they ought to be only if they were there first: another one can be
    /// of other processes.
    pub fn hiding(&self) -> impl Iterator<Item = &Mount> {
        /// Those that are mounted there by themselves, and where.
        const USUAL: [(&str, &str); 17] = [
            ("autofs", "/proc/sys/fs/binfmt_misc"),
            ("binfmt_misc", "/proc/sys/fs/binfmt_misc"),
            ("bpf", "/sys/fs/bpf"),
            ("configfs", "/sys/kernel/config"),
            ("debugfs", "/sys/kernel/debug"),
            ("efivarfs", "/sys/firmware/efi/efivars"),
            ("fusectl", "/sys/fs/fuse/connections"),
            ("nfsd", "/proc/fs/nfs"),
            ("nfsd", "/proc/fs/nfsd"),
            ("pstore", "/sys/fs/pstore"),
            ("resctrl", "/sys/fs/resctrl"),
            ("securityfs", "/sys/kernel/security"),
            ("selinuxfs", "/sys/fs/selinux"),
            ("smackfs", "/sys/fs/smackfs"),
            ("tracefs", "/sys/kernel/debug/tracing"),
            ("tracefs", "/sys/kernel/tracing"),
            ("xenfs", "/proc/xen"),
        ];
        let is_usual = |mount: &Mount| {
            // Of one in another namespace of cgroups the root is another.
            if mount.fstype == "cgroup" || mount.fstype == "cgroup2" {
                return mount.point.starts_with("/sys/fs/cgroup");
            }
            let is_at =
                |&(fstype, point): &(&str, &str)| mount.fstype == fstype && mount.point == Path::new(point);
            mount.root.as_os_str() == "/" && USUAL.iter().any(is_at)
        };
        let is_below = |mount: &Mount| mount.point.starts_with("/proc") || mount.point.starts_with("/sys");
        self.entries.iter().filter(move |mount| is_below(mount) && !is_usual(mount))
    }

    /// The path at which a file of `dev` can be seen; see [`Self::locate`].
    #[must_use]
    pub fn path_of(&self, dev: Dev, fs_relative: &str) -> Option<String> {
        self.locate(dev, fs_relative).map(|(_, path)| path)
    }

    /// The mount that shows a file, and the file's path there, from its path inside the filesystem: the mount whose
    /// root is the longest prefix, then the shortest mount point. Mounts that are covered by another come last. `None`
    /// when no mount shows that part of the filesystem.
    #[must_use]
    pub fn locate(&self, dev: Dev, fs_relative: &str) -> Option<(&Mount, String)> {
        let path = Path::new(fs_relative);
        let (mount, rest) = self
            .all_of(dev)
            .filter_map(|mount| Some((mount, path.strip_prefix(&mount.root).ok()?)))
            .min_by_key(|(mount, _)| {
                let root = mount.root.as_os_str().len();
                (!mount.visible, std::cmp::Reverse(root), mount.point.as_os_str().len())
            })?;
        // `join` of an empty path would add a slash, which is wrong where the mount point is a file.
        let joined = if rest.as_os_str().is_empty() { mount.point.clone() } else { mount.point.join(rest) };
        Some((mount, joined.to_string_lossy().into_owned()))
    }
}

/// Marks the mounts whose mount point leads elsewhere. A mount is covered by a child at its own mount point, and it and
/// everything below it is hidden when a sibling (same parent) lies at a directory above it: had the sibling been there
/// first, it would be the parent.
fn mark_visible(entries: &mut [Mount]) {
    let taken: HashSet<(u64, &Path)> = entries
        .iter()
        .filter(|mount| mount.id != mount.parent)
        .map(|m| (m.parent, m.point.as_path()))
        .collect();
    let index: HashMap<u64, usize> = entries.iter().enumerate().map(|(i, mount)| (mount.id, i)).collect();
    let reachable =
        |mount: &Mount| !mount.point.ancestors().skip(1).any(|above| taken.contains(&(mount.parent, above)));
    let visible: Vec<bool> = entries
        .iter()
        .map(|mount| {
            if taken.contains(&(mount.id, mount.point.as_path())) {
                return false;
            }
            let mut current = mount;
            // The bound is against loops, and against the cost of a tower of mounts: what is deeper counts as visible.
            for _ in 0..DEPTH {
                if !reachable(current) {
                    return false;
                }
                match index.get(&current.parent) {
                    Some(&parent) if parent != index[&current.id] => current = &entries[parent],
                    _ => break,
                }
            }
            true
        })
        .collect();
    for (mount, visible) in entries.iter_mut().zip(visible) {
        mount.visible = visible;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
21 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
40 27 0:45 /@users /users rw - btrfs /dev/sdb rw,subvol=/@users
41 27 0:45 /@users/a /srv/a rw - btrfs /dev/sdb rw,subvol=/@users/a
42 27 0:45 /@ /btr\\040fs rw - btrfs /dev/sdb rw,subvol=/@
50 27 8:1 / /mnt rw - vfat /dev/sda1 rw
51 50 8:2 / /mnt rw - ext4 /dev/sda2 rw
52 27 8:3 / /deep/er rw - ext4 /dev/sda3 rw
53 27 8:4 / /deep rw - ext4 /dev/sda4 rw
";

    fn table() -> MountTable {
        MountTable::parse(TABLE.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_taken_apart() {
        let table = table();
        let root = table.by_dev(Dev::new(254, 0)).unwrap();
        assert_eq!((root.point.as_path(), root.fstype.as_str()), (Path::new("/"), "ext4"));
        assert_eq!((root.source.as_str(), root.super_options.as_str()), ("/dev/vda", "rw,discard"));
        assert_eq!(table.at(Path::new("/btr fs/")).unwrap().root, Path::new("/@"));
    }

    #[test]
    fn paths_go_through_the_mount_that_shows_them() {
        let table = table();
        let btrfs = Dev::new(0, 45);
        assert_eq!(table.path_of(btrfs, "/@users/x/y").unwrap(), "/users/x/y");
        assert_eq!(table.path_of(btrfs, "/@users/a/y").unwrap(), "/srv/a/y");
        assert_eq!(table.path_of(btrfs, "/@users/ab").unwrap(), "/users/ab");
        assert_eq!(table.path_of(btrfs, "/@users").unwrap(), "/users");
        assert_eq!(table.path_of(btrfs, "/@snapshots/z"), None);
        assert_eq!(table.path_of(Dev::new(254, 0), "/etc/passwd").unwrap(), "/etc/passwd");
        assert_eq!(table.path_of(Dev::new(9, 9), "/x"), None);
    }

    #[test]
    fn covered_mounts_are_not_visible() {
        let table = table();
        let hidden: Vec<String> = table
            .entries()
            .iter()
            .filter(|mount| !mount.visible)
            .map(|mount| mount.dev.to_string())
            .collect();
        assert_eq!(hidden, ["8:1", "8:3"]);
        assert_eq!(table.at(Path::new("/mnt")).unwrap().dev, Dev::new(8, 2));
    }

    #[test]
    fn what_hides_the_kernels_word_is_told_from_what_the_kernel_says() {
        let text = "\
21 27 0:21 / /proc rw - proc proc rw
22 27 0:22 / /sys rw - sysfs sysfs rw
23 22 0:23 / /sys/fs/bpf rw - bpf bpf rw
24 21 0:24 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
30 21 0:21 /7/status /proc/812/status rw - proc proc rw
31 22 0:31 / /sys/fs/cgroup rw - tmpfs none rw
32 27 0:32 / /proc rw - fuse bindfs rw
33 27 0:33 / /procedures rw - ext4 x rw
34 22 0:22 /kernel /sys/fs rw - sysfs sysfs rw
35 22 0:35 / /sys/dev/block rw - tracefs none rw
36 21 0:36 / /proc rw - proc none rw
37 22 0:37 / /sys/class rw - autofs none rw
38 21 0:21 /sys /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
39 22 0:39 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
40 22 0:40 / /sys/kernel/debug/tracing rw - tracefs tracefs rw
";
        let table = MountTable::parse(text.as_bytes()).unwrap();
        let hiding: Vec<u64> = table.hiding().map(|mount| mount.id).collect();
        // The first two are there before the agent is.
        assert_eq!(hiding, [21, 22, 30, 31, 32, 34, 35, 36, 37, 38]);
    }

    #[test]
    fn this_host_has_a_root() {
        let table = MountTable::read().unwrap();
        let root = table.at(Path::new("/")).unwrap();
        assert!(root.visible);
        assert_eq!(table.of_path(Path::new("/")).unwrap().id, root.id);
        assert_eq!(table.of_path(Path::new("/proc/self/status")).unwrap().fstype, "proc");
    }

    proptest! {
        #[test]
        fn a_path_below_the_root_lands_below_the_mount_point(
            roots in proptest::collection::vec("(/[ab]{1,2}){1,3}", 1..5), path in "(/[ab]{1,2}){1,5}",
        ) {
            let text: String = roots.iter().enumerate()
                .map(|(i, root)| format!("{} 1 8:1 {root} /m{i} rw - ext4 x rw\n", i + 2)).collect();
            let table = MountTable::parse(text.as_bytes()).unwrap();
            let longest = roots.iter().filter(|root| Path::new(&path).starts_with(root)).map(String::len).max();
            match (table.path_of(Dev::new(8, 1), &path), longest) {
                (None, None) => {}
                (Some(seen), Some(longest)) => prop_assert!(seen[3..] == path[longest..]),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
