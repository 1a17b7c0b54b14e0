//! Model files as the frameworks write them, with contents that a seed determines.
//!
//! Sizes are those of whole files. The payload looks like bf16 weights: incompressible mantissas, few exponents.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::KIB;

/// The files of one model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The directory that holds them.
    pub dir: PathBuf,
    pub files: Vec<PathBuf>,
    /// Sum of their sizes.
    pub bytes: u64,
}

impl Weights {
    /// Makes the directory `dir` with `shards` safetensors files of `bytes` each.
    ///
    /// # Errors
    /// When the directory exists, a size is below 1 KiB, or the disk is full.
    pub fn safetensors(dir: &Path, shards: u32, bytes: u64, seed: u64) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut files = Vec::new();
        for shard in 1..=shards {
            let file = dir.join(format!("model-{shard:05}-of-{shards:05}.safetensors"));
            safetensors(&file, bytes, seed.wrapping_add(u64::from(shard)))?;
            files.push(file);
        }
        Ok(Self { dir: dir.to_path_buf(), files, bytes: bytes * u64::from(shards) })
    }
}

/// A safetensors file: length of the header, JSON header padded with spaces, one tensor.
///
/// # Errors
/// When `bytes` is below 1 KiB or the file cannot be written.
pub fn safetensors(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    ensure!(
        bytes >= KIB,
        "a safetensors file of {bytes} bytes has no room for a tensor: ask for 1 KiB or more"
    );
    const HEADER: usize = 248;
    let payload = bytes - 8 - HEADER as u64;
    // One U8 tensor where the payload is odd: a bf16 tensor has an even number of bytes.
    let (dtype, count) = if payload.is_multiple_of(2) { ("BF16", payload / 2) } else { ("U8", payload) };
    let json = serde_json::json!({
        "__metadata__": {"format": "pt"},
        "model.layers.0.mlp.down_proj.weight": {"dtype": dtype, "shape": [count], "data_offsets": [0, payload]},
    });
    let header = format!("{:<HEADER$}", json.to_string());
    ensure!(header.len() == HEADER, "the safetensors header outgrew its {HEADER} bytes");
    create(path, |out| {
        out.write_all(&(HEADER as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        write_payload(out, payload, seed)
    })
}

/// A GGUF version 3 file with one key and one tensor.
///
/// # Errors
/// When `bytes` is below 1 KiB or the file cannot be written.
pub fn gguf(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    ensure!(bytes >= KIB, "a GGUF file of {bytes} bytes has no room for a tensor: ask for 1 KiB or more");
    const ALIGNMENT: usize = 32;
    let string = |head: &mut Vec<u8>, text: &str| {
        head.extend((text.len() as u64).to_le_bytes());
        head.extend(text.as_bytes());
    };
    let mut head = b"GGUF".to_vec();
    head.extend(3_u32.to_le_bytes());
    head.extend(1_u64.to_le_bytes()); // tensors
    head.extend(1_u64.to_le_bytes()); // keys
    string(&mut head, "general.architecture");
    head.extend(8_u32.to_le_bytes()); // a string follows
    string(&mut head, "llama");
    string(&mut head, "blk.0.ffn_down.weight");
    head.extend(1_u32.to_le_bytes()); // dimensions
    let end = (head.len() + 20).next_multiple_of(ALIGNMENT);
    let payload = bytes - end as u64;
    head.extend(payload.to_le_bytes());
    head.extend(24_u32.to_le_bytes()); // I8: any number of bytes is a whole number of elements
    head.extend(0_u64.to_le_bytes()); // offset
    head.resize(end, 0);
    create(path, |out| {
        out.write_all(&head)?;
        write_payload(out, payload, seed)
    })
}

/// What `torch.save` writes: a zip archive with `data.pkl` and one stored storage.
///
/// # Errors
/// When `bytes` is below 1 KiB or above 4 GiB (this maker writes no zip64), or the file cannot be written.
pub fn pytorch(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    ensure!(bytes >= KIB, "a PyTorch file of {bytes} bytes has no room for a tensor: ask for 1 KiB or more");
    ensure!(u32::try_from(bytes).is_ok(), "a PyTorch file above 4 GiB would need zip64: ask for less");
    // Protocol 2, an empty state dict: the storage below is what counts here.
    let members: [(&str, &[u8]); 3] = [
        ("archive/data.pkl", b"\x80\x02}q\x00."),
        ("archive/version", b"3\n"),
        ("archive/byteorder", b"little"),
    ];
    let overhead: usize = members
        .iter()
        .map(|(name, data)| 30 + 46 + 2 * name.len() + data.len())
        .chain([30 + 46 + 2 * "archive/data/0".len(), 22])
        .sum();
    let storage = usize::try_from(bytes)? - overhead;
    let mut payload = Vec::with_capacity(storage);
    write_payload(&mut payload, storage as u64, seed).context("cannot make the payload")?;

    let mut body = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in members.into_iter().chain([("archive/data/0", payload.as_slice())]) {
        let offset = u32::try_from(body.len())?;
        let length = u32::try_from(data.len())?;
        // Both headers share these fields: version 20, no flags, stored, no time, CRC, sizes, lengths of the names.
        let mut shared = Vec::new();
        for field in [20_u16, 0, 0, 0, 0x21] {
            shared.extend(field.to_le_bytes());
        }
        for field in [crc32(data), length, length] {
            shared.extend(field.to_le_bytes());
        }
        shared.extend(u16::try_from(name.len())?.to_le_bytes());
        shared.extend(0_u16.to_le_bytes());
        body.extend(b"PK\x03\x04");
        body.extend(&shared);
        body.extend(name.as_bytes());
        body.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&shared);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    create(path, |out| {
        out.write_all(&body)?;
        out.write_all(&directory)?;
        out.write_all(b"PK\x05\x06\0\0\0\0\x04\0\x04\0")?;
        out.write_all(&u32_of(directory.len()).to_le_bytes())?;
        out.write_all(&u32_of(body.len()).to_le_bytes())?;
        out.write_all(&[0, 0])
    })
}

fn create(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out).and_then(|()| out.flush()).with_context(|| format!("cannot write {}", path.display()))
}

/// Sizes were checked against 4 GiB by the caller.
fn u32_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// bf16 values between 2^-7 and 2, with random signs and mantissas.
fn write_payload(out: &mut dyn Write, bytes: u64, seed: u64) -> std::io::Result<()> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15 | 1;
    let mut block = vec![0_u8; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        for lane in block.chunks_exact_mut(8) {
            // xorshift64: enough to be incompressible and the same on every machine.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            lane.copy_from_slice(&(state & 0x83ff_83ff_83ff_83ff | 0x3c00_3c00_3c00_3c00).to_le_bytes());
        }
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        out.write_all(&block[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// CRC-32 as zip wants it, four bits at a time: small files only, so that no table of 256 is worth its lines.
fn crc32(data: &[u8]) -> u32 {
    let table: [u32; 16] = std::array::from_fn(|n| {
        (0..4).fold(n as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    !data.iter().fold(!0, |crc, &byte| {
        let crc = crc ^ u32::from(byte);
        let crc = table[(crc & 15) as usize] ^ crc >> 4;
        table[(crc & 15) as usize] ^ crc >> 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn sizes_are_exact_and_contents_deterministic() {
        let folder = tempfile::tempdir().unwrap();
        type Maker = fn(&Path, u64, u64) -> Result<()>;
        let makers: [(&str, Maker); 3] =
            [("a.safetensors", safetensors), ("a.gguf", gguf), ("a.pt", pytorch)];
        for (name, make) in makers {
            for bytes in [1024, 1_048_577, 3_000_000] {
                let path = folder.path().join(name);
                make(&path, bytes, 7).unwrap();
                let first = fs::read(&path).unwrap();
                assert_eq!(first.len() as u64, bytes, "{name}");
                fs::remove_file(&path).unwrap();
                make(&path, bytes, 7).unwrap();
                assert!(first == fs::read(&path).unwrap(), "{name} differs between two makings");
                fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn the_safetensors_header_describes_the_payload() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        safetensors(&path, 5000, 1).unwrap();
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let end = header["model.layers.0.mlp.down_proj.weight"]["data_offsets"][1].as_u64().unwrap();
        assert_eq!(8 + length as u64 + end, 5000);
    }

    #[test]
    fn shards_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let weights = Weights::safetensors(&folder.path().join("m"), 3, 2000, 1).unwrap();
        let sum: u64 = weights.files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert_eq!((weights.bytes, weights.files.len()), (sum, 3));
    }
}
