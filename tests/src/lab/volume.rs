//! Scratch filesystems: an image file, a loop device, a mount. Must not know what is stored on them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

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
    /// Empty if it is in memory.
    image: PathBuf,
    /// Others that were put into its place, so that it got another number.
    decoys: Vec<Self>,
    /// Before the image: fields are dropped in their order.
    /// `None` while it is not mounted.
    unmount: Option<Undoing>,
    _image: Option<Undoing>,
}

impl Volume {
    /// An ext4 filesystem called `name` on a sparse image of `size` bytes. Only the process's own mount namespace sees
    /// it, and the loop device is set to vanish with the mount, so that even SIGKILL leaves nothing behind but the image.
    ///
    /// # Errors
    /// When `mkfs.ext4` or `mount` is missing or fails; with the tool's own words.
    pub fn ext4(lab: &Lab, name: &str, size: u64) -> Result<Self> {
        let image = lab.scratch().join(format!("{name}.img"));
        Self::on(lab, name, "ext4", &[], &image, size)
    }

    /// A filesystem in memory of at most `size` bytes: nothing that is read from it waits for a disk, and it is not written back.
    ///
    /// # Errors
    /// When `mount` fails; with its own words.
    pub fn memory(lab: &Lab, name: &str, size: u64) -> Result<Self> {
        let mount = lab.scratch().join(name);
        std::fs::create_dir_all(&mount)
            .with_context(|| format!("cannot make the mount point of volume {name}"))?;
        let options = format!("size={size},noatime");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&mount))?;
        let unmount = Undoing::new(Undo::Unmount(mount.clone()));
        let (device, image, decoys) = (device_of(&mount)?, PathBuf::new(), Vec::new());
        Ok(Self { mount, fstype: "tmpfs", device, image, decoys, unmount: Some(unmount), _image: None })
    }

    /// One on an image as [`Volume::ext4`] makes, of another kind (`ext4`, `xfs`, `btrfs`), with more words for its `mkfs`; its image
    /// goes with it. XFS wants 300 MiB, btrfs 109 MiB.
    ///
    /// # Errors
    /// When `mkfs` for that kind or `mount` is missing or fails; with the tool's own words.
    pub fn of_kind(lab: &Lab, name: &str, fstype: &'static str, words: &[&str], size: u64) -> Result<Self> {
        let folder = lab.scratch().join(format!("{name}-image"));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make the folder of volume {name}"))?;
        let remove = Undoing::new(Undo::Remove(folder.clone()));
        let mut volume = Self::on(lab, name, fstype, words, &folder.join("image"), size)?;
        volume._image = Some(remove);
        Ok(volume)
    }

    fn on(
        lab: &Lab,
        name: &str,
        fstype: &'static str,
        words: &[&str],
        image: &Path,
        size: u64,
    ) -> Result<Self> {
        File::create_new(image)
            .and_then(|file| file.set_len(size))
            .with_context(|| format!("cannot make the image of volume {name}"))?;
        // Without discard the image stays sparse all the same, and mkfs does not wait for the host.
        let flags: &[&str] = match fstype {
            "ext4" => &["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"],
            "xfs" => &["-q", "-f", "-K"],
            "btrfs" => &["-q", "-f", "-K"],
            other => bail!("no flags are known for mkfs.{other}"),
        };
        run(Command::new(format!("mkfs.{fstype}")).args(flags).args(words).arg(image))?;
        let mount = lab.scratch().join(name);
        std::fs::create_dir_all(&mount)
            .with_context(|| format!("cannot make the mount point of volume {name}"))?;
        run(Command::new("mount").args(["-t", fstype, "-o", "loop,noatime"]).arg(image).arg(&mount))?;
        let unmount = Undoing::new(Undo::Unmount(mount.clone()));
        let (device, image, decoys) = (device_of(&mount)?, image.to_path_buf(), Vec::new());
        Ok(Self { mount, fstype, device, image, decoys, unmount: Some(unmount), _image: None })
    }

    /// As over a reboot: unmounted, and mounted again in the same place under another device number.
    ///
    /// # Errors
    /// When it is busy, or gets its old number again and again.
    pub fn renumber(&mut self, lab: &Lab) -> Result<()> {
        const TRIES: usize = 8;
        self.take_out()?;
        for _ in 0..TRIES {
            // Takes the number that is free now: of a loop device, or one that stands for none.
            let (kind, size) = if self.fstype == "btrfs" { ("btrfs", 128 << 20) } else { ("ext4", 16 << 20) };
            let name = format!(
                "{}-decoy{}",
                self.mount.file_name().unwrap_or_default().display(),
                self.decoys.len()
            );
            let before = self.device.clone();
            self.decoys.push(Self::of_kind(lab, &name, kind, &[], size)?);
            self.put_in()?;
            if self.device != before {
                return Ok(());
            }
            self.take_out()?;
        }
        bail!("the volume has its old number {} again", self.device)
    }

    /// Unmounts it, for good or until it is put in again.
    ///
    /// # Errors
    /// When it is busy.
    pub fn take_out(&mut self) -> Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        if let Some(unmount) = self.unmount.take() {
            unmount.done();
        }
        Ok(())
    }

    /// Mounts it again.
    ///
    /// # Errors
    /// When `mount` fails.
    pub fn put_in(&mut self) -> Result<()> {
        let (image, mount) = (&self.image, &self.mount);
        run(Command::new("mount").args(["-t", self.fstype, "-o", "loop,noatime"]).arg(image).arg(mount))?;
        self.unmount = Some(Undoing::new(Undo::Unmount(mount.clone())));
        self.device = device_of(mount)?;
        Ok(())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The file that it lies on.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
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

/// `major:minor` of what is mounted at a path, newest first. Not from `stat`: on btrfs every subvolume has a number of its own.
///
/// # Errors
/// When nothing is mounted there.
pub fn device_of(mount: &Path) -> Result<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    table
        .lines()
        .rev()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(4).is_some_and(|at| Path::new(at) == mount))
        .and_then(|fields| fields.get(2).map(|device| (*device).to_owned()))
        .with_context(|| format!("nothing is mounted at {}", mount.display()))
}
