//! Scratch filesystems: an image file, a loop device, a mount. Must not know what is stored on them.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Lab,
    guard::{Undo, Undoing},
    run,
};

/// A mounted scratch filesystem; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    mount: PathBuf,
    fstype: &'static str,
    device: String,
    _unmount: Undoing,
}

impl Volume {
    /// An ext4 filesystem called `name` on a sparse image of `size` bytes. Only the process's own mount namespace sees
    /// it, and the loop device is set to vanish with the mount, so that even SIGKILL leaves nothing behind but the image.
    ///
    /// # Errors
    /// When `mkfs.ext4` or `mount` is missing or fails; with the tool's own words.
    pub fn ext4(lab: &Lab, name: &str, size: u64) -> Result<Self> {
        let image = lab.scratch().join(format!("{name}.img"));
        File::create_new(&image)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot make the image of volume {name}"))?;
        // Without discard the image stays sparse all the same, and mkfs does not wait for the host.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"])
            .arg(&image))?;
        let mount = lab.scratch().join(name);
        std::fs::create_dir(&mount)
            .with_context(|| format!("cannot make the mount point of volume {name}"))?;
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop,noatime"]).arg(&image).arg(&mount))?;
        let unmount = Undoing::new(Undo::Unmount(mount.clone()));
        let dev = std::fs::metadata(&mount).context("cannot look at the new volume")?.dev();
        let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
        Ok(Self { mount, fstype: "ext4", device, _unmount: unmount })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    #[must_use]
    pub const fn fstype(&self) -> &'static str {
        self.fstype
    }

    /// `major:minor`, as alerts print it.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }
}
