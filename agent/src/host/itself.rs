//! What the kernel says of this process below `/proc/self`, past whatever was mounted over it since the start. It must not know what is
//! asked for.
//!
//! A lie is as easily told there as a wait is made: `mount --bind FILE /proc/PID/status`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2, readlinkat};

/// `PROC_SUPER_MAGIC` (`include/uapi/linux/magic.h`).
const PROC: u64 = 0x9fa0;
/// The longest of its files by far has a line for each mapping of the process.
const LARGEST: u64 = 4 << 20;

/// `/proc` as it was when it was first asked for; `None` where that was none of the kernel's.
fn root() -> Option<&'static OwnedFd> {
    static ROOT: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, "/proc", flags, Mode::empty()).ok()?;
        (fstatfs(&root).ok()?.f_type as u64 == PROC).then_some(root)
    };
    ROOT.get_or_init(open).as_ref()
}

/// Opens `/proc/self/NAME` for reading.
///
/// # Errors
/// Those of opening; `EXDEV` when something is mounted there or on the way.
pub fn open(name: &Path) -> io::Result<File> {
    let path = Path::new("self").join(name);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match root() {
        Some(root) => openat2(root, path, flags, Mode::empty(), ResolveFlags::NO_XDEV)?,
        None => openat(CWD, Path::new("/proc").join(path), flags, Mode::empty())?,
    };
    Ok(File::from(file))
}

/// The whole of `/proc/self/NAME` as text; empty when it cannot be read.
#[must_use]
pub fn text(name: &str) -> String {
    let mut bytes = Vec::new();
    let read = open(Path::new(name)).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() }
}

/// Where the link `/proc/self/NAME` leads.
#[must_use]
pub fn link(name: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let path = Path::new("self").join(name);
    let target = match root() {
        Some(root) => readlinkat(root, path, Vec::new()),
        None => readlinkat(CWD, Path::new("/proc").join(path), Vec::new()),
    };
    Some(std::ffi::OsString::from_vec(target.ok()?.into_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        assert!(text("status").lines().any(|line| line == format!("Pid:\t{}", std::process::id())));
        assert!(text("net/dev").contains("lo:"));
        assert_eq!(link("exe"), std::env::current_exe().ok());
        assert_eq!(text("no-such-file"), "");
    }

    #[test]
    fn what_is_mounted_over_it_is_not_believed() {
        if !rustix::process::geteuid().is_root() {
            crate::skipping::skipped("needs root to mount");
            return;
        }
        let lie = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(lie.path(), "TracerPid:\t0\n").unwrap();
        let place = format!("/proc/{}/oom_adj", std::process::id());
        rustix::mount::mount_bind(lie.path(), &*place).unwrap();
        let (believed, told) = (std::fs::read_to_string(&place), open(Path::new("oom_adj")));
        rustix::mount::unmount(&*place, rustix::mount::UnmountFlags::empty()).unwrap();
        assert_eq!(believed.unwrap(), "TracerPid:\t0\n");
        assert_eq!(told.unwrap_err().raw_os_error(), Some(libc::EXDEV));
        assert!(!text("oom_adj").is_empty());
    }
}
