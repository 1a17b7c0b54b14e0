//! The UUID of a filesystem from the first bytes of its block device, for hosts where udev keeps no
//! `/dev/disk/by-uuid`.
//!
//! Strict parsers for ext2/3/4, XFS, btrfs, vfat and exFAT. This file must not know of mounts or of what is controlled.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes from the start of the device that hold every superblock we know (btrfs: at 64 KiB).
const LENGTH: usize = (64 << 10) + 4096;

/// A filesystem that names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub fstype: &'static str,
    /// Lower case, as the configuration holds it: 36 characters, or `1234-abcd` for vfat and exFAT.
    pub uuid: String,
}

/// Reads the superblock of a block device or image; `None` when no known filesystem is there.
#[must_use]
pub fn read(device: &File) -> Option<Superblock> {
    let mut bytes = vec![0; LENGTH];
    let mut filled = 0;
    while filled < LENGTH {
        match device.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A small or a damaged device: what was read may still hold a superblock.
            Err(_) => break,
        }
    }
    bytes.truncate(filled);
    parse(&bytes)
}

/// The same past the page cache, so that the device itself answers; `device` is opened for this alone.
///
/// # Errors
///
/// When the device cannot be read, or not so.
pub fn read_direct(device: &File) -> io::Result<Option<Superblock>> {
    /// No device has larger blocks.
    const ALIGNED: usize = 4096;
    fcntl_setfl(device, fcntl_getfl(device)? | OFlags::DIRECT)?;
    let mut room = vec![0; LENGTH + ALIGNED];
    let from = room.as_ptr().align_offset(ALIGNED).min(ALIGNED);
    let bytes = &mut room[from..from + LENGTH];
    // A device that has less gives less.
    let filled = device.read_at(bytes, 0)?;
    Ok(parse(&bytes[..filled]))
}

/// Parses the first 68 KiB of a device; fewer bytes are allowed.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Superblock> {
    // A device can bear the remains of several filesystems. The order is that of how much a parser asks for.
    let (fstype, uuid) = btrfs(bytes)
        .map(|uuid| ("btrfs", uuid))
        .or_else(|| xfs(bytes).map(|uuid| ("xfs", uuid)))
        .or_else(|| ext(bytes).map(|uuid| ("ext4", uuid)))
        .or_else(|| exfat(bytes).map(|uuid| ("exfat", uuid)))
        .or_else(|| vfat(bytes).map(|uuid| ("vfat", uuid)))?;
    Some(Superblock { fstype, uuid })
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

/// `struct ext4_super_block` at 1024: `s_magic` at 0x38, `s_log_block_size` at 0x18, `s_uuid` at 0x68. An external
/// journal has the same magic but is never mounted.
fn ext(bytes: &[u8]) -> Option<String> {
    let block = bytes.get(1024..2048)?;
    let magic = u16::from_le_bytes(at(block, 0x38)?);
    let log_block_size = u32::from_le_bytes(at(block, 0x18)?);
    if magic != 0xef53 || log_block_size > 6 {
        return None;
    }
    uuid(at(block, 0x68)?)
}

/// `struct xfs_dsb`, big-endian: `sb_magicnum`, `sb_blocksize` at 4, `sb_uuid` at 32.
fn xfs(bytes: &[u8]) -> Option<String> {
    let block_size = u32::from_be_bytes(at(bytes, 4)?);
    if !bytes.starts_with(b"XFSB") || !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
        return None;
    }
    uuid(at(bytes, 32)?)
}

/// `struct btrfs_super_block` at 64 KiB: `fsid` at 0x20, `bytenr` at 0x30, `magic` at 0x40.
fn btrfs(bytes: &[u8]) -> Option<String> {
    let block = bytes.get(0x1_0000..0x1_0400)?;
    if &at::<8>(block, 0x40)? != b"_BHRfS_M" || u64::from_le_bytes(at(block, 0x30)?) != 0x1_0000 {
        return None;
    }
    uuid(at(block, 0x20)?)
}

/// The FAT boot sector: the extended signature 0x29 and the type stand after the serial number, at 0x42 for FAT32 and
/// at 0x26 for FAT12 and FAT16.
fn vfat(bytes: &[u8]) -> Option<String> {
    if at::<2>(bytes, 0x1fe)? != [0x55, 0xaa] {
        return None;
    }
    let serial = if bytes[0x42] == 0x29 && &at::<8>(bytes, 0x52)? == b"FAT32   " {
        at(bytes, 0x43)?
    } else if bytes[0x26] == 0x29 && matches!(&at::<8>(bytes, 0x36)?, b"FAT12   " | b"FAT16   ") {
        at(bytes, 0x27)?
    } else {
        return None;
    };
    Some(volume_serial(serial))
}

fn exfat(bytes: &[u8]) -> Option<String> {
    if &at::<8>(bytes, 3)? != b"EXFAT   " || at::<2>(bytes, 0x1fe)? != [0x55, 0xaa] {
        return None;
    }
    Some(volume_serial(at(bytes, 0x64)?))
}

fn volume_serial(bytes: [u8; 4]) -> String {
    let serial = u32::from_le_bytes(bytes);
    format!("{:04x}-{:04x}", serial >> 16, serial & 0xffff)
}

/// The usual 36 characters; `None` for all zeros, which identify nothing.
pub(super) fn uuid(bytes: [u8; 16]) -> Option<String> {
    if bytes == [0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f";

    /// Formats a sparse image with the real tool and returns what is recognised; `None` when the tool is not installed.
    fn formatted(tool: &str, megabytes: u64, arguments: &[&str]) -> Option<Option<Superblock>> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        let Ok(output) = Command::new(tool).args(arguments).arg(image.path()).output() else {
            crate::skipping::skipped(format_args!("{tool} is not installed"));
            return None;
        };
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
        Some(read(image.as_file()))
    }

    #[test]
    fn filesystems_made_by_the_real_tools_are_recognised() {
        let cases: [(&str, u64, &[&str], &str, &str); 6] = [
            ("mkfs.ext4", 8, &["-q", "-U", UUID], "ext4", UUID),
            ("mkfs.ext2", 8, &["-q", "-U", UUID], "ext4", UUID),
            ("mkfs.xfs", 320, &["-q", "-m", "uuid=3f1c2d4e-5a6b-4c7d-8e9f-0a1b2c3d4e5f"], "xfs", UUID),
            ("mkfs.btrfs", 128, &["-q", "-U", UUID], "btrfs", UUID),
            ("mkfs.vfat", 8, &["-i", "1234ABCD"], "vfat", "1234-abcd"),
            ("mkfs.vfat", 64, &["-F", "32", "-i", "1234ABCD"], "vfat", "1234-abcd"),
        ];
        for (tool, megabytes, arguments, fstype, uuid) in cases {
            if let Some(found) = formatted(tool, megabytes, arguments) {
                assert_eq!(found, Some(Superblock { fstype, uuid: uuid.to_owned() }), "{tool}");
            }
        }
    }

    #[test]
    fn a_magic_alone_is_not_a_filesystem() {
        let mut bytes = vec![0; LENGTH];
        bytes[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(parse(&bytes), None, "a UUID of zeros identifies nothing");
        bytes[1024 + 0x68] = 1;
        assert_eq!(parse(&bytes).unwrap().uuid, "01000000-0000-0000-0000-000000000000");
        bytes[1024 + 0x18] = 7;
        assert_eq!(parse(&bytes), None);
        assert_eq!(parse(b"XFSB"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn exfat_has_its_serial_at_100() {
        let mut bytes = vec![0; 512];
        bytes[3..11].copy_from_slice(b"EXFAT   ");
        bytes[100..104].copy_from_slice(&0x1234_abcd_u32.to_le_bytes());
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(parse(&bytes), Some(Superblock { fstype: "exfat", uuid: "1234-abcd".to_owned() }));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..2100), offset in 0_usize..70_000,
            magic in prop::sample::select(vec![&b"XFSB"[..], b"_BHRfS_M", b"FAT32   ", b"EXFAT   ", b"\x53\xef"]),
        ) {
            let _ = parse(&bytes);
            let mut large = vec![0; offset];
            large.extend_from_slice(magic);
            let _ = parse(&large);
        }
    }
}
