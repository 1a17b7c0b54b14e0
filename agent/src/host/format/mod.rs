//! What a file is, from its first 64 KiB and its size: weight formats, and the containers in which a copy may hide.
//!
//! By content only; a name proves nothing. This file reads no files and must not know of assets: callers bring bytes.

mod safetensors;

use std::fmt;

/// Bytes from the start of a file that [`recognise`] looks at; more changes nothing.
pub const HEAD: usize = 64 << 10;

/// Below this a weak magic (a few bytes that chance can bring about) says nothing.
const WEAK: u64 = 1 << 20;

words! {
    /// Formats that are told apart. The names of [`Format::as_str`] are stable: they are in the inventory and on disk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Format {
        Safetensors = "safetensors",
        Gguf = "gguf",
        PytorchZip = "pytorch-zip",
        PytorchLegacy = "pytorch-legacy",
        Ggml = "ggml",
        Npy = "npy",
        Npz = "npz",
        Hdf5 = "hdf5",
        Onnx = "onnx",
        Tensorizer = "tensorizer",
        Age = "age",
        Gpg = "gpg",
        OpensslSalted = "openssl",
        Luks = "luks",
        Zip = "zip",
        Zstd = "zstd",
        Gzip = "gzip",
        Xz = "xz",
        Bzip2 = "bzip2",
        SevenZip = "7z",
        Empty = "empty",
        Unknown = "unknown",
    }
}

words! {
    /// Whether all of the file is there, as far as its header tells.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Extent {
        Whole = "whole",
        /// The header announces more bytes than the file has: a copy under way, or a part of one.
        Truncated = "truncated",
        /// More bytes than the header announces.
        Trailing = "trailing",
        /// The format does not say in its first 64 KiB.
        Unknown = "unknown",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recognised {
    pub format: Format,
    pub extent: Extent,
}

impl fmt::Display for Recognised {
    /// `safetensors`, or `safetensors (truncated)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extent {
            Extent::Whole | Extent::Unknown => f.pad(self.format.as_str()),
            Extent::Truncated | Extent::Trailing => {
                f.pad(&format!("{} ({})", self.format.as_str(), self.extent.as_str()))
            }
        }
    }
}

/// Recognises a file of `size` bytes by `head`, its first [`HEAD`] bytes or all of them.
#[must_use]
pub fn recognise(head: &[u8], size: u64) -> Recognised {
    let head = &head[..head.len().min(HEAD)];
    if size == 0 {
        return Recognised { format: Format::Empty, extent: Extent::Whole };
    }
    if let Some(extent) = safetensors::extent(head, size) {
        return Recognised { format: Format::Safetensors, extent };
    }
    let format = strong(head).or_else(|| zip(head)).or_else(|| weak(head, size)).unwrap_or(Format::Unknown);
    Recognised { format, extent: Extent::Unknown }
}

/// Formats whose first bytes do not come about by chance.
fn strong(head: &[u8]) -> Option<Format> {
    const MAGICS: &[(&[u8], Format)] = &[
        // A pickle of torch's magic number 0x1950a86a20f9469cfc6c.
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", Format::PytorchLegacy),
        (b"age-encryption.org/v1\n", Format::Age),
        (b"-----BEGIN AGE ENCRYPTED FILE-----", Format::Age),
        (b"-----BEGIN PGP MESSAGE-----", Format::Gpg),
        (b"Salted__", Format::OpensslSalted),
        (b"LUKS\xba\xbe", Format::Luks),
        (b"\x28\xb5\x2f\xfd", Format::Zstd),
        (b"\xfd7zXZ\x00", Format::Xz),
        (b"7z\xbc\xaf\x27\x1c", Format::SevenZip),
        (b"\x1f\x8b\x08", Format::Gzip),
    ];
    if let Some((_, format)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(*format);
    }
    if head.starts_with(b"GGUF") && gguf(head) {
        return Some(Format::Gguf);
    }
    if head.starts_with(b"\x93NUMPY") && matches!(head.get(6), Some(1..=3)) {
        return Some(Format::Npy);
    }
    if head.starts_with(b"|TZR|") && matches!(u32_at(head, 5), Some(1..=4)) {
        return Some(Format::Tensorizer);
    }
    if head.starts_with(b"BZh")
        && matches!(head.get(3), Some(b'1'..=b'9'))
        && head.get(4..10) == Some(b"1AY&SY")
    {
        return Some(Format::Bzip2);
    }
    // A user block of 512 bytes or a power of two more may stand before the HDF5 superblock.
    let offsets = std::iter::successors(Some(512_usize), |offset| Some(offset * 2));
    let mut offsets = std::iter::once(0).chain(offsets.take_while(|&offset| offset < HEAD));
    offsets
        .any(|offset| head.get(offset..).is_some_and(|rest| rest.starts_with(b"\x89HDF\r\n\x1a\n")))
        .then_some(Format::Hdf5)
}

/// Formats that a few bytes stand for; small files are left alone.
fn weak(head: &[u8], size: u64) -> Option<Format> {
    if size < WEAK {
        return None;
    }
    // Little-endian "ggml", "ggmf", "ggjt", "ggla".
    if [&b"lmgg"[..], b"fmgg", b"tjgg", b"algg"].iter().any(|magic| head.starts_with(magic)) {
        return Some(Format::Ggml);
    }
    if onnx(head) {
        return Some(Format::Onnx);
    }
    gpg(head).then_some(Format::Gpg)
}

/// The version, in either byte order.
fn gguf(head: &[u8]) -> bool {
    u32_at(head, 4)
        .is_some_and(|version| (1..=3).contains(&version) || (1..=3).contains(&version.swap_bytes()))
}

/// Walks the local headers for as long as they tell the size of their entry, and decides by the names.
fn zip(head: &[u8]) -> Option<Format> {
    const ENTRIES: usize = 32;
    let mut rest = head;
    let mut format = None;
    for _ in 0..ENTRIES {
        if !rest.starts_with(b"PK\x03\x04") {
            break;
        }
        format = format.or(Some(Format::Zip));
        let (Some(flags), Some(packed)) = (u16_at(rest, 6), u32_at(rest, 18)) else { break };
        let (Some(name_length), Some(extra)) = (u16_at(rest, 26), u16_at(rest, 28)) else { break };
        let (name_length, extra) = (usize::from(name_length), usize::from(extra));
        let Some(name) = rest.get(30..30 + name_length) else { break };
        if name == b"data.pkl" || name.ends_with(b"/data.pkl") {
            return Some(Format::PytorchZip);
        }
        if name.ends_with(b".npy") {
            return Some(Format::Npz);
        }
        // Bit 3: the size stands after the data. All ones: it stands in a zip64 field.
        if flags & 8 != 0 || packed == u32::MAX {
            break;
        }
        let skip = (30 + name_length + extra).checked_add(packed as usize);
        let Some(next) = skip.and_then(|skip| rest.get(skip..)) else { break };
        rest = next;
    }
    format
}

/// `ModelProto`: `ir_version` (field 1, varint), then `producer_name` (field 2) and perhaps more short strings, or the
/// graph (field 7).
fn onnx(head: &[u8]) -> bool {
    let [0x08, ir_version @ 1..=20, tag, length, ..] = *head else { return false };
    match tag {
        0x12 => head.get(4..4 + usize::from(length)).is_some_and(|producer| {
            (1..=64).contains(&length) && producer.iter().all(|byte| (b' '..=b'~').contains(byte))
        }),
        0x3a => ir_version >= 3,
        _ => false,
    }
}

/// The first packet of an OpenPGP message: encrypted to a key (tag 1) or by a passphrase (tag 3).
fn gpg(head: &[u8]) -> bool {
    let body = match head {
        // Old format, two bytes and one byte of length.
        [0x85, _, _, body @ ..] | [0x84 | 0x8c, _, body @ ..] => body,
        // New format, one byte of length.
        [0xc1 | 0xc3, length, body @ ..] if *length < 192 => body,
        _ => return false,
    };
    match head[0] {
        0x84 | 0x85 | 0xc1 => {
            // Version 3: key id of 8 bytes, then a public-key algorithm.
            body.first() == Some(&3) && matches!(body.get(9), Some(1..=3 | 16 | 18 | 25))
        }
        // Version, cipher, kind of string-to-key.
        _ => matches!(body, [4 | 5, 1..=13, 0 | 1 | 3 | 4, ..]),
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> String {
        recognise(bytes, bytes.len() as u64).to_string()
    }

    fn padded(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes.resize(2 << 20, 0);
        bytes
    }

    /// One stored entry per name, as `zipfile` writes it.
    fn zip_file(names: &[&str], flags: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in names {
            bytes.extend_from_slice(b"PK\x03\x04\x14\x00");
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(&[5, 0, 0, 0, 5, 0, 0, 0]);
            bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b"hello");
        }
        bytes
    }

    #[test]
    fn weight_formats_are_told_apart() {
        let gguf = [&b"GGUF"[..], &3_u32.to_le_bytes(), &[0; 16]].concat();
        assert_eq!(of(&gguf), "gguf");
        assert_eq!(of(&[&b"GGUF"[..], &3_u32.to_be_bytes(), &[0; 16]].concat()), "gguf");
        assert_eq!(of(b"GGUF\x09\0\0\0"), "unknown");
        assert_eq!(of(&zip_file(&["archive/data.pkl", "archive/version"], 0)), "pytorch-zip");
        assert_eq!(of(&zip_file(&["archive/.format_version", "archive/data.pkl"], 0)), "pytorch-zip");
        assert_eq!(of(&zip_file(&["arr_0.npy"], 0)), "npz");
        assert_eq!(of(&zip_file(&["readme.txt"], 8)), "zip");
        assert_eq!(of(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e\x80"), "pytorch-legacy");
        assert_eq!(of(b"\x93NUMPY\x01\x00v\x00"), "npy");
        assert_eq!(of(b"\x89HDF\r\n\x1a\n"), "hdf5");
        assert_eq!(of(&[&[0; 2048][..], b"\x89HDF\r\n\x1a\n"].concat()), "hdf5");
        assert_eq!(of(&[&b"|TZR|"[..], &2_u32.to_le_bytes()].concat()), "tensorizer");
        assert_eq!(of(&padded(b"tjgg\x03\0\0\0")), "ggml");
        assert_eq!(of(&padded(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0")), "onnx");
        assert_eq!(of(b"tjgg\x03\0\0\0"), "unknown", "too small for a weak magic");
        assert_eq!(of(b""), "empty");
        assert_eq!(of(&padded(b"plain text")), "unknown");
    }

    #[test]
    fn containers_are_told_apart() {
        assert_eq!(of(b"age-encryption.org/v1\n-> X25519 "), "age");
        assert_eq!(of(b"Salted__12345678"), "openssl");
        assert_eq!(of(b"LUKS\xba\xbe\x00\x02"), "luks");
        assert_eq!(of(b"\x28\xb5\x2f\xfd\x04"), "zstd");
        assert_eq!(of(b"\xfd7zXZ\x00\x00\x04"), "xz");
        assert_eq!(of(b"7z\xbc\xaf\x27\x1c\x00\x04"), "7z");
        assert_eq!(of(&padded(b"\x8c\x0d\x04\x09\x03\x08")), "gpg");
        let to_a_key = [&b"\x85\x02\x0c\x03"[..], &[7; 8], b"\x01"].concat();
        assert_eq!(of(&padded(&to_a_key)), "gpg");
    }

    #[test]
    fn the_real_compressors_are_recognised() {
        let input = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(input.path(), b"weights weights weights").unwrap();
        for (tool, name) in [("gzip", "gzip"), ("xz", "xz"), ("bzip2", "bzip2"), ("zstd", "zstd")] {
            match Command::new(tool).arg("-c").arg(input.path()).output() {
                Ok(output) => assert_eq!(of(&output.stdout), name),
                Err(_) => crate::skipping::skipped(format_args!("{tool} is not installed")),
            }
        }
    }

    #[test]
    fn names_round_trip() {
        assert_eq!(Format::WORDS, Format::ALL.map(Format::as_str));
        assert_eq!(Format::WORDS.map(Format::of_word), Format::ALL.map(Some));
        assert_eq!(Format::of_word("nonsense"), None);
        assert_eq!(Extent::of_word("truncated"), Some(Extent::Truncated));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), size in any::<u64>()) {
            let _ = recognise(&bytes, size);
        }

        #[test]
        fn no_bytes_after_a_magic_make_it_panic(
            magic in prop::sample::select(vec![
                &b"PK\x03\x04"[..], b"GGUF", b"\x93NUMPY", b"|TZR|", b"\x08\x08\x12", b"\x85", b"\x8c", b"\xc3", b"BZh9",
                b"\x40\0\0\0\0\0\0\0{", b"\xff\xff\xff\xff\xff\xff\xff\xff{",
            ]),
            tail in proptest::collection::vec(any::<u8>(), 0..200), size in any::<u64>(),
        ) {
            let _ = recognise(&[magic, &tail].concat(), size);
        }
    }
}
