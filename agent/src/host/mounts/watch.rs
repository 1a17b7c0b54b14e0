//! When the mount table may have changed.

use std::{fs::File, os::fd::AsFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{MOUNTINFO, MountError};

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

#[cfg(test)]
mod tests {
    use super::super::{MountTable, MountWatch};

    #[test]
    fn a_watch_sees_a_mount() {
        if !rustix::process::geteuid().is_root() {
            crate::skipping::skipped("needs root to mount");
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
}
