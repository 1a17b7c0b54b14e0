//! Containers and systemd units from cgroup paths, and cgroup paths from the kernel's cgroup ids.
//!
//! Pure parsing, and one system call for the id. This file must not know of processes.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::mounts::{Mount, MountTable};

/// What a cgroup path says of the processes in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The id that the container runtime knows it by; for LXC and nspawn the name.
    pub container: Option<String>,
    /// The systemd unit of the system manager.
    pub unit: Option<String>,
}

/// Reads a path below the cgroup2 mount (or below a v1 hierarchy).
///
/// The outermost container and the outermost unit count: what is deeper was made by processes to which the cgroup was
/// delegated, and a user or a container could name one `backup.service`. So a unit stands below slices only.
#[must_use]
pub fn placement(path: &str) -> Placement {
    let mut placement = Placement::default();
    let mut parent = "";
    let mut slices_only = true;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if placement.container.is_none() {
            placement.container = container(parent, part);
        }
        if slices_only && is_unit(part) {
            // systemd puts a `_` before a name that would clash with one of the kernel's files.
            placement.unit = Some(part.strip_prefix('_').unwrap_or(part).to_owned());
        }
        slices_only &= part.ends_with(".slice");
        parent = part;
    }
    placement
}

fn is_unit(part: &str) -> bool {
    const TYPES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
    TYPES.iter().any(|kind| part.strip_suffix(kind).is_some_and(|stem| !stem.is_empty()))
}

fn container(parent: &str, part: &str) -> Option<String> {
    // Names of scopes by runtime. Only ids follow them, so that `libpod-conmon-<id>` (podman's monitor, which is outside
    // of the container) is not one.
    const PREFIXES: [&str; 7] =
        ["docker-", "cri-containerd-", "crio-", "libpod-", "nerdctl-", "containerd-", "buildkit-"];
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then(|| name.to_owned());
    }
    if matches!(parent, "lxc" | "lxc.payload") {
        return Some(part.to_owned());
    }
    if let Some(name) = part.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")) {
        return (!name.is_empty()).then(|| name.to_owned());
    }
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    // runc without systemd keeps the `slice:prefix:name` form as it is.
    let stem = stem.rsplit(':').next().unwrap_or(stem);
    let id = PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)).unwrap_or(stem);
    is_id(id).then(|| id.to_owned())
}

/// 64 hexadecimal digits, which every runtime of the OCI family uses.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The cgroup2 mount that shows the most: on hybrid hosts it is not `/sys/fs/cgroup`.
#[must_use]
pub fn cgroup2_mount(table: &MountTable) -> Option<&Mount> {
    table
        .entries()
        .iter()
        .filter(|mount| mount.fstype == "cgroup2" && mount.visible)
        .min_by_key(|mount| (mount.root.as_os_str().len(), mount.point.as_os_str().len()))
}

/// Paths by cgroup id. The id is the inode number, and also the file handle that opens the directory, so that no walk is
/// needed; that takes `CAP_DAC_READ_SEARCH`.
#[derive(Debug)]
pub struct Cgroups {
    mount: PathBuf,
    directory: File,
    /// Ids are never used twice within one boot, so that an entry stays true when its cgroup is gone.
    known: HashMap<u64, String>,
}

/// Entries of [`Cgroups::known`]; when it is full it starts anew.
const KNOWN: usize = 4096;

impl Cgroups {
    /// `None` when there is no cgroup2 mount.
    #[must_use]
    pub fn open(table: &MountTable) -> Option<Self> {
        let mount = cgroup2_mount(table)?.point.clone();
        let directory = File::open(&mount).ok()?;
        Some(Self { mount, directory, known: HashMap::new() })
    }

    /// Where cgroup2 is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The path below the mount (`/` for the root); `None` when the cgroup is gone and was never asked for before.
    pub fn path_of(&mut self, id: u64) -> Option<&str> {
        if !self.known.contains_key(&id) {
            let path = self.resolve(id)?;
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert(id, path);
        }
        self.known.get(&id).map(String::as_str)
    }

    fn resolve(&self, id: u64) -> Option<String> {
        let directory = open_by_id(&self.directory, id)?;
        let path = super::itself::link(&format!("fd/{}", directory.as_raw_fd()))?;
        let below = path.strip_prefix(&self.mount).ok()?;
        // A cgroup that was removed keeps its name with a mark at its end.
        let below = below.to_string_lossy();
        let below = below.strip_suffix(" (deleted)").unwrap_or(&below);
        Some(format!("/{below}"))
    }
}

fn open_by_id(mount: &File, id: u64) -> Option<OwnedFd> {
    /// `struct file_handle` with the payload of `FILEID_KERNFS`.
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    const FILEID_KERNFS: libc::c_int = 0xfe;
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the handle has the layout of `struct file_handle` with the eight bytes that `bytes` announces, it lives for
    // the whole call, and the kernel only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast::<libc::file_handle>(),
            libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY,
        )
    };
    // SAFETY: a value that is not negative is a new descriptor, which nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn paths_of_every_runtime() {
        let cases = [
            ("/", None, None),
            ("/system.slice/sshd.service", None, Some("sshd.service")),
            ("/system.slice/docker-ID.scope", Some("ID"), Some("docker-ID.scope")),
            ("/docker/ID", Some("ID"), None),
            ("/docker/ID/init.scope", Some("ID"), None),
            ("/kubepods/burstable/pod12/ID", Some("ID"), None),
            (
                "/kubepods.slice/kubepods-pod12.slice/cri-containerd-ID.scope",
                Some("ID"),
                Some("cri-containerd-ID.scope"),
            ),
            ("/kubepods.slice/kubepods-pod12.slice:cri-containerd:ID", Some("ID"), None),
            ("/kubepods.slice/x.slice/crio-ID.scope/container", Some("ID"), Some("crio-ID.scope")),
            ("/machine.slice/libpod-ID.scope/container", Some("ID"), Some("libpod-ID.scope")),
            ("/machine.slice/libpod-conmon-ID.scope", None, Some("libpod-conmon-ID.scope")),
            ("/default/ID", Some("ID"), None),
            ("/lxc.payload.web/system.slice/backup.service", Some("web"), None),
            ("/lxc.monitor.web", None, None),
            ("/lxc/web", Some("web"), None),
            (
                "/machine.slice/systemd-nspawn@deb.service/payload",
                Some("deb"),
                Some("systemd-nspawn@deb.service"),
            ),
            ("/user.slice/user-1000.slice/session-3.scope", None, Some("session-3.scope")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/backup.service",
                None,
                Some("user@1000.service"),
            ),
            ("/system.slice/_cgroup.service", None, Some("cgroup.service")),
            ("/init.scope", None, Some("init.scope")),
            ("/made-by-hand/backup.service", None, None),
        ];
        for (path, container, unit) in cases {
            let full = |text: &str| text.replace("ID", ID);
            let expected = Placement { container: container.map(full), unit: unit.map(full) };
            assert_eq!(placement(&full(path)), expected, "{path}");
        }
    }

    #[test]
    fn an_id_opens_its_cgroup() {
        let table = MountTable::read().unwrap();
        let Some(mut cgroups) = Cgroups::open(&table) else {
            crate::skipping::skipped("no cgroup2 mount");
            return;
        };
        if !rustix::process::geteuid().is_root() {
            crate::skipping::skipped("needs CAP_DAC_READ_SEARCH");
            return;
        }
        let root = fs::metadata(cgroups.mount()).unwrap().ino();
        assert_eq!(cgroups.path_of(root), Some("/"));
        let name = format!("weighbridge-test-{}", std::process::id());
        let path = cgroups.mount().join(&name);
        fs::create_dir(&path).unwrap();
        let id = fs::metadata(&path).unwrap().ino();
        let found = cgroups.path_of(id).map(ToOwned::to_owned);
        fs::remove_dir(&path).unwrap();
        assert_eq!(found, Some(format!("/{name}")));
        assert_eq!(cgroups.path_of(id), Some(format!("/{name}")).as_deref(), "still known when it is gone");
        assert_eq!(cgroups.path_of(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn any_path_is_answered(path in "(/?[a-z0-9.:@_-]{0,70}){0,6}") {
            let placement = placement(&path);
            prop_assert!(placement.container.is_none_or(|id| !id.is_empty() && path.contains(&id)));
            prop_assert!(placement.unit.is_none_or(|unit| path.contains(&unit)));
        }

        #[test]
        fn an_id_is_found_below_any_slices(
            slices in proptest::collection::vec("[a-z]{1,8}\\.slice", 0..4), id in "[0-9a-f]{64}",
            prefix in prop::sample::select(vec!["docker-", "crio-", "libpod-", "cri-containerd-"]),
        ) {
            let path = format!("/{}/{prefix}{id}.scope", slices.join("/"));
            prop_assert_eq!(placement(&path).container, Some(id));
        }
    }
}
