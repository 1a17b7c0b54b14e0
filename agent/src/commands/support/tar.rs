//! Writes a tar archive (POSIX ustar) of a few small files. It must not know what they hold.

use std::io::{self, Write};

const BLOCK: usize = 512;
/// Eleven octal digits.
const LARGEST: usize = 1 << 33;

/// Appends a file that only its owner can read. `name` is short and relative; `at` is in seconds since 1970.
///
/// # Errors
///
/// Those of writing, and a name or file that the format has no room for.
pub(super) fn append(out: &mut impl Write, name: &str, bytes: &[u8], at: u64) -> io::Result<()> {
    if name.is_empty() || name.len() > 100 || name.starts_with('/') || bytes.len() >= LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} does not fit into a tar")));
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", bytes.len()).as_bytes());
    put(136, format!("{:011o}\0", at.min(LARGEST as u64 - 1)).as_bytes());
    // The sum is made as if its own field were blank.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header)?;
    out.write_all(bytes)?;
    out.write_all(&[0; BLOCK][..bytes.len().next_multiple_of(BLOCK) - bytes.len()])
}

/// Ends the archive.
///
/// # Errors
///
/// Those of writing.
pub(super) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_itself_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        let mut out = Vec::new();
        append(&mut out, "x/small", b"one\n", 1_795_317_240).unwrap();
        append(&mut out, "x/whole", &[b'a'; BLOCK], 0).unwrap();
        append(&mut out, "x/empty", b"", u64::MAX).unwrap();
        end(&mut out).unwrap();
        std::fs::write(&file, out).unwrap();
        let ran = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(dir.path()).status().unwrap();
        assert!(ran.success());
        let sizes = ["small", "whole", "empty"]
            .map(|name| std::fs::read(dir.path().join("x").join(name)).unwrap().len());
        assert_eq!(sizes, [4, BLOCK, 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for name in ["", "/etc/shadow", &"x".repeat(101)] {
            append(&mut Vec::new(), name, b"", 0).unwrap_err();
        }
    }
}
