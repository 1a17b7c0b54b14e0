//! `e2e work`: loops and loads for `cargo xtask bench`, in a process that does nothing else.
//!
//! `getppid N`, `read N FILE` (1 byte), `pread N FILE` (4 KiB) print nanoseconds per call; `load-mmap FILE…`,
//! `load-read FILE…` (1 MiB) and `load-direct FILE…` (`O_DIRECT`, 1 MiB) print nanoseconds for all files;
//! `weights DIR SHARDS BYTES` makes a model; `part SOURCE DESTINATION BYTES` copies so many bytes and prints the boot
//! time at which the last write was started; `forks SECONDS` forks and reaps for so long and prints how often.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tests::lab::{process::boot_ns, weights::Weights};

/// Runs `e2e work` with what follows these words.
///
/// # Errors
/// When a word is not known or a file cannot be read.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["getppid", count] => per_call(count, || Ok(rustix::process::getppid())),
        ["read", count, file] => {
            // /dev/zero never ends, so a one-byte read always returns one byte.
            let file = File::open(file).with_context(|| format!("cannot open {file}"))?;
            let mut byte = [0_u8; 1];
            per_call(count, || rustix::io::read(&file, &mut byte))
        }
        ["pread", count, file] => {
            let file = File::open(file).with_context(|| format!("cannot open {file}"))?;
            let mut page = [0_u8; 4096];
            per_call(count, || rustix::io::pread(&file, &mut page, 0))
        }
        ["load-mmap", files @ ..] => timed(files, load_mapped),
        ["load-read", files @ ..] => timed(files, |file| load_read(file, 0)),
        ["load-direct", files @ ..] => timed(files, |file| load_read(file, libc::O_DIRECT)),
        ["weights", dir, shards, bytes] => {
            let (shards, bytes) = (shards.parse().context("SHARDS")?, bytes.parse().context("BYTES")?);
            Weights::safetensors(Path::new(dir), shards, bytes, 1).map(drop)
        }
        ["part", source, destination, bytes] => part(source, destination, bytes.parse().context("BYTES")?),
        ["forks", seconds] => forks(seconds.parse().context("SECONDS")?),
        _ => bail!("unknown work: {}", arguments.join(" ")),
    }
}

/// Best of five rounds, so that a round that was preempted does not count.
fn per_call<T>(count: &str, mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<()> {
    let count: u32 = count.parse().context("N must be a number")?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..count {
            black_box(call()?);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    println!("{best:.2}");
    Ok(())
}

fn forks(seconds: u64) -> Result<()> {
    let end = Instant::now() + std::time::Duration::from_secs(seconds);
    let mut count = 0_u64;
    while Instant::now() < end {
        // SAFETY: this process has one thread, and the child only exits.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child at once, without handlers.
            0 => unsafe { libc::_exit(0) },
            child if child > 0 => {
                let mut status = 0;
                // SAFETY: `status` outlives the call.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                count += 1;
            }
            _ => bail!("cannot fork: {}", std::io::Error::last_os_error()),
        }
    }
    println!("{count}");
    Ok(())
}

fn timed(files: &[&str], load: impl Fn(&str) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for file in files {
        load(file).with_context(|| format!("cannot load {file}"))?;
    }
    println!("{}", start.elapsed().as_nanos());
    Ok(())
}

/// Touches every page, as a loader does that copies tensors to a device.
fn load_mapped(path: &str) -> Result<()> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())?;
    // SAFETY: a new mapping at an address of the kernel's choice, read only below and unmapped before it goes out of
    // scope; nobody truncates the file meanwhile.
    unsafe {
        let map = mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0)?;
        let bytes = std::slice::from_raw_parts(map.cast::<u8>(), length);
        black_box(bytes.iter().step_by(4096).fold(0_u64, |sum, &byte| sum + u64::from(byte)));
        munmap(map, length)?;
    }
    Ok(())
}

fn load_read(path: &str, flags: i32) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // O_DIRECT wants an aligned buffer.
    let mut room = vec![0_u8; CHUNK + 4096];
    let skip = room.as_ptr().align_offset(4096);
    let buffer = &mut room[skip..skip + CHUNK];
    let mut offset = 0;
    loop {
        let n = file.read_at(buffer, offset)?;
        black_box(&buffer[..n]);
        offset += n as u64;
        // With O_DIRECT a short read is the end: the next offset would not be aligned.
        if n < CHUNK {
            return Ok(());
        }
    }
}

fn part(source: &str, destination: &str, bytes: u64) -> Result<()> {
    let source = File::open(source).with_context(|| format!("cannot open {source}"))?;
    let copy = File::create(destination).with_context(|| format!("cannot make {destination}"))?;
    let mut taken = vec![0; usize::try_from(bytes)?];
    source.read_exact_at(&mut taken, 0).context("the source is too short")?;
    let crossed = boot_ns();
    copy.write_all_at(&taken, 0).context("cannot write")?;
    println!("{crossed}");
    Ok(())
}
