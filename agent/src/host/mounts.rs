//! The mount table of the agent's own mount namespace, from `/proc/self/mountinfo`.
//!
//! The device number in mountinfo is `super_block.s_dev`, which is also what the kernel side reports. `st_dev` is not:
//! btrfs gives every subvolume its own, so `st_dev` is never used as the identity of a filesystem. This file must not
//! know what is controlled.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs::File,
    os::{fd::AsFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, StatxFlags, statx},
};

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
                entries.push(parse_line(line).map_err(|what| MountError::Line { line: index + 1, what })?);
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

/// Tells when the mount table may have changed.
#[derive(Debug)]
pub struct MountWatch {
    file: File,
}

impl MountWatch {
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be opened.
    pub fn new() -> Result<Self, MountError> {
        Ok(Self { file: File::open(MOUNTINFO).map_err(MountError::Read)? })
    }

    /// Whether a mount came or went since the last call. Does not block; one system call.
    pub fn changed(&mut self) -> bool {
        // The kernel keeps the last seen event number per open file, so that nothing is missed between two calls. An
        // error counts as a change: reading again is the safe answer.
        let mut fds = [PollFd::new(&self.file, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(_) => fds[0].revents().intersects(PollFlags::PRI | PollFlags::ERR),
            Err(_) => true,
        }
    }
}

impl AsFd for MountWatch {
    /// For an event loop: readable priority data means changed.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn parse_line(line: &[u8]) -> Result<Mount, &'static str> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut next = |what| fields.next().filter(|field| !field.is_empty()).ok_or(what);
    let id = number(next("no mount id")?).ok_or("mount id is not a number")?;
    let parent = number(next("no parent id")?).ok_or("parent id is not a number")?;
    let dev = parse_dev(next("no device number")?).ok_or("device number is not major:minor")?;
    let root = unescape(next("no root")?).ok_or("bad escape in the root")?;
    let point = unescape(next("no mount point")?).ok_or("bad escape in the mount point")?;
    next("no mount options")?;
    // Optional fields, of which there may come more, end with a single hyphen.
    while next("no separator")? != b"-" {}
    let fstype = unescape(next("no filesystem type")?).ok_or("bad escape in the filesystem type")?;
    // The source may be empty: `mount -t tmpfs "" /mnt`.
    let source = fields.next().ok_or("no source")?;
    let source = unescape(source).ok_or("bad escape in the source")?;
    let options = fields.next().ok_or("no filesystem options")?;
    Ok(Mount {
        id,
        parent,
        dev,
        root: root.into(),
        point: point.into(),
        fstype: fstype.to_string_lossy().into_owned(),
        source: source.to_string_lossy().into_owned(),
        super_options: String::from_utf8_lossy(options).into_owned(),
        visible: true,
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn parse_dev(field: &[u8]) -> Option<Dev> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    let (major, minor): (u32, u32) = (number(&field[..colon])?, number(&field[colon + 1..])?);
    (major < 1 << 12 && minor < 1 << 20).then(|| Dev::new(major, minor))
}

/// Undoes the kernel's `mangle`: a backslash and three octal digits stand for one byte.
fn unescape(field: &[u8]) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\' {
            let digits = after.get(..3)?;
            if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
                return None;
            }
            let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(u8::try_from(value).ok()?);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Some(OsString::from_vec(bytes))
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

/// The path as the kernel's `mangle` prints it; the inverse of [`unescape`].
#[cfg(test)]
fn escape(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in text {
        if b" \t\n\\#".contains(&byte) {
            escaped.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            escaped.push(byte);
        }
    }
    escaped
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
    fn bad_lines_are_named() {
        let error = |text: &str| MountTable::parse(text.as_bytes()).unwrap_err().to_string();
        insta::assert_snapshot!(error("21 27 0:21 / /proc rw - proc proc rw\n22 x"),
            @"/proc/self/mountinfo line 2: parent id is not a number");
        insta::assert_snapshot!(error("21 27 0:21 / /a\\04 rw - proc proc rw"),
            @"/proc/self/mountinfo line 1: bad escape in the mount point");
        insta::assert_snapshot!(error("21 27 0:21 / /a rw shared:1"), @"/proc/self/mountinfo line 1: no separator");
        insta::assert_snapshot!(error("21 27 4096:21 / /a rw - a b c"),
            @"/proc/self/mountinfo line 1: device number is not major:minor");
    }

    #[test]
    fn this_host_has_a_root() {
        let table = MountTable::read().unwrap();
        let root = table.at(Path::new("/")).unwrap();
        assert!(root.visible);
        assert_eq!(table.of_path(Path::new("/")).unwrap().id, root.id);
        assert_eq!(table.of_path(Path::new("/proc/self/status")).unwrap().fstype, "proc");
    }

    #[test]
    fn a_watch_sees_a_mount() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to mount");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut watch = MountWatch::new().unwrap();
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount("none", directory.path(), "tmpfs", flags, None).unwrap();
        let changed = watch.changed();
        let table = MountTable::read().unwrap();
        rustix::mount::unmount(directory.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(changed);
        assert_eq!(table.of_path(directory.path()).map(|_| ()), Some(()));
        let mount = table.at(directory.path()).unwrap();
        assert_eq!((mount.fstype.as_str(), mount.visible), ("tmpfs", true));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<Vec<u8>>()) {
            let _ = MountTable::parse(&text);
        }

        #[test]
        fn lines_of_words_never_panic(text in "([0-9]{1,3} ){2}[0-9]{1,4}:[0-9]{1,4} (/[a-z\\\\0-7]{0,6} ){2}rw( -)?( [a-z]{1,3}){0,4}") {
            let _ = MountTable::parse(text.as_bytes());
        }

        #[test]
        fn escapes_round_trip(name in proptest::collection::vec(1_u8.., 1..40)) {
            let mut line = b"1 0 8:1 / /".to_vec();
            line.extend(escape(&name));
            line.extend(b" rw - ext4 /dev/sda rw\n");
            let table = MountTable::parse(&line).unwrap();
            prop_assert_eq!(table.entries()[0].point.as_os_str().as_encoded_bytes(), [b"/", &name[..]].concat());
        }

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
