//! The file: a magic number, then blocks, each with its lengths and the hash of its packed bytes.
//!
//! A block is written whole, so a recording that is cut or damaged can be read up to the damage, and one that is written
//! to can be read meanwhile. Layout, little-endian: `WBREC\0` and the format as u16; then for each block u32 raw length, u32
//! packed length, 16 bytes of SHA-256 over the packed bytes, the packed bytes (LZ4 block format). The first block is the
//! [`Header`], every other one a run of entries (postcard). It must not know what is done with them.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};
use thiserror::Error;

use super::wire::{Entry, Header, Statement};
use crate::event::{BootNs, Event};

const MAGIC: [u8; 6] = *b"WBREC\0";
const FORMAT: u16 = 3;
const HASH: usize = 16;
const HEAD: usize = 8 + HASH;
/// A block is written once it has this many bytes, or is this old.
const BLOCK: usize = 64 << 10;
const BLOCK_AGE: Duration = Duration::from_secs(1);
/// Longest block that is read, raw or packed: no recording of ours has a longer one.
const MOST: usize = 4 << 20;

#[derive(Debug, Error)]
pub enum RecordingError {
    #[error("cannot {what} the recording {}: {error}", path.display())]
    File { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{} is no recording of Weighbridge: it does not start with WBREC", .0.display())]
    NoRecording(PathBuf),
    #[error("{} has format {format}, and this version reads {FORMAT}; use the version that recorded it", path.display())]
    Format { path: PathBuf, format: u16 },
    #[error("the head of the recording {} is damaged: {reason}", path.display())]
    Header { path: PathBuf, reason: &'static str },
    #[error("a statement cannot be written: {0}")]
    Encode(#[from] postcard::Error),
}

/// Where a recording stops making sense, and why; everything before it was read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("damaged at byte {at}: {reason}; {read} statements before it were read")]
pub struct Damage {
    pub at: u64,
    pub reason: &'static str,
    pub read: u64,
}

/// Writes one recording. What is not written when it is dropped is lost; [`Writer::flush`] first.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    block: Vec<u8>,
    since: Instant,
    bytes: u64,
    statements: u64,
}

impl Writer {
    /// A new file, readable by its owner only: it names processes and paths.
    ///
    /// # Errors
    ///
    /// When the file is there already or cannot be made.
    pub fn create(path: &Path, header: &Header) -> Result<Self, RecordingError> {
        let failed = |error| RecordingError::File { what: "create", path: path.to_owned(), error };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        file.write_all(&MAGIC).and_then(|()| file.write_all(&FORMAT.to_le_bytes())).map_err(failed)?;
        let mut writer = Self {
            path: path.to_owned(),
            file,
            block: postcard::to_stdvec(header)?,
            since: Instant::now(),
            bytes: 8,
            statements: 0,
        };
        writer.flush()?;
        Ok(writer)
    }

    /// Adds what the ledger is told at `at`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&mut self, at: BootNs, event: &Event) -> Result<(), RecordingError> {
        if self.block.is_empty() {
            self.since = Instant::now();
        }
        self.block = postcard::to_extend(&Entry::of(at, event), std::mem::take(&mut self.block))?;
        self.statements += 1;
        if self.block.len() >= BLOCK || self.since.elapsed() >= BLOCK_AGE { self.flush() } else { Ok(()) }
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = lz4_flex::block::compress(&self.block);
        let mut out = Vec::with_capacity(HEAD + packed.len());
        // Far below 4 GiB both: a block is as long as one statement more than BLOCK.
        out.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        out.extend_from_slice(&digest(&SHA256, &packed).as_ref()[..HASH]);
        out.extend_from_slice(&packed);
        self.block.clear();
        self.bytes += out.len() as u64;
        self.file.write_all(&out).map_err(|error| RecordingError::File {
            what: "write",
            path: self.path.clone(),
            error,
        })
    }

    /// Bytes of the file, and statements in it.
    #[must_use]
    pub const fn size(&self) -> (u64, u64) {
        (self.bytes, self.statements)
    }
}

/// Reads one recording, statement by statement, up to its end or its first damage.
#[derive(Debug)]
pub struct Reader<R = BufReader<File>> {
    input: R,
    header: Header,
    /// Of the block that is read now, and how far.
    block: Vec<u8>,
    used: usize,
    /// Where the next block starts.
    at: u64,
    read: u64,
    damage: Option<Damage>,
}

impl Reader {
    /// Opens a recording and reads its head.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no recording, or is of another format.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(|error| RecordingError::File {
            what: "open",
            path: path.to_owned(),
            error,
        })?;
        Self::new(BufReader::new(file), path)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the head of what `input` gives; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`].
    pub fn new(mut input: R, path: &Path) -> Result<Self, RecordingError> {
        let mut head = [0; MAGIC.len() + 2];
        match input.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(RecordingError::NoRecording(path.to_owned()));
            }
            Err(error) => return Err(RecordingError::File { what: "read", path: path.to_owned(), error }),
        }
        if head[..MAGIC.len()] != MAGIC {
            return Err(RecordingError::NoRecording(path.to_owned()));
        }
        let format = u16::from_le_bytes([head[6], head[7]]);
        if format != FORMAT {
            return Err(RecordingError::Format { path: path.to_owned(), format });
        }
        let damaged = |reason| RecordingError::Header { path: path.to_owned(), reason };
        let mut at = head.len() as u64;
        let block = match read_block(&mut input, &mut at) {
            Ok(Some(block)) => block,
            Ok(None) => return Err(damaged("it ends before its header")),
            Err(reason) => return Err(damaged(reason)),
        };
        let header = postcard::from_bytes(&block).map_err(|_| damaged("its header cannot be decoded"))?;
        Ok(Self { input, header, block: Vec::new(), used: 0, at, read: 0, damage: None })
    }

    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What stopped the reading; `None` while nothing did, and after a clean end.
    #[must_use]
    pub const fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    fn stop(&mut self, at: u64, reason: &'static str) {
        self.damage = Some(Damage { at, reason, read: self.read });
        self.block.clear();
        self.used = 0;
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Statement;

    fn next(&mut self) -> Option<Statement> {
        if self.damage.is_some() {
            return None;
        }
        if self.used == self.block.len() {
            let start = self.at;
            match read_block(&mut self.input, &mut self.at) {
                Ok(Some(block)) => (self.block, self.used) = (block, 0),
                Ok(None) => return None,
                Err(reason) => {
                    self.stop(start, reason);
                    return None;
                }
            }
        }
        let rest = &self.block[self.used..];
        let Ok((entry, left)) = postcard::take_from_bytes::<Entry>(rest) else {
            self.stop(self.at, "a statement of this block cannot be decoded");
            return None;
        };
        self.used = self.block.len() - left.len();
        let Some(statement) = entry.into_statement() else {
            self.stop(self.at, "a statement has a number that this version does not know");
            return None;
        };
        self.read += 1;
        Some(statement)
    }
}

/// The next block, raw; `None` at the end. `at` counts the bytes read.
fn read_block(input: &mut impl Read, at: &mut u64) -> Result<Option<Vec<u8>>, &'static str> {
    let mut head = [0; HEAD];
    match fill(input, &mut head)? {
        0 => return Ok(None),
        HEAD => {}
        _ => return Err("it ends within a block's head"),
    }
    let word = |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
    let (raw, packed) = (word(0) as usize, word(4) as usize);
    if raw == 0 || raw > MOST || packed == 0 || packed > MOST {
        return Err("a block says that it is longer than any can be");
    }
    let mut bytes = vec![0; packed];
    if fill(input, &mut bytes)? != packed {
        return Err("it ends within a block");
    }
    if digest(&SHA256, &bytes).as_ref()[..HASH] != head[8..] {
        return Err("a block's bytes are not those that were written");
    }
    *at += (HEAD + packed) as u64;
    let block = lz4_flex::block::decompress(&bytes, raw).map_err(|_| "a block cannot be unpacked")?;
    if block.len() == raw { Ok(Some(block)) } else { Err("a block is not as long as it says") }
}

/// Reads until `buffer` is full or the input ends.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, &'static str> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err("it cannot be read any further"),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{AssetSet, Dev, HolderId, ObjectId, SinkKey},
        recording::fixtures::header,
    };

    fn flow(bytes: u64) -> Event {
        Event::Flow {
            holder: HolderId { tgid: 7, exec: 1, start: BootNs(9) },
            sink: SinkKey::File(ObjectId { dev: Dev::new(8, 16), ino: 12, generation: 3 }),
            assets: AssetSet(1),
            bytes,
            at: BootNs(bytes),
        }
    }

    /// A recording of `count` flows, as bytes.
    fn recorded(count: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let mut writer = Writer::create(&path, &header()).unwrap();
        for bytes in 1..=count {
            writer.write(BootNs(bytes), &flow(bytes)).unwrap();
        }
        writer.flush().unwrap();
        assert_eq!(writer.size().1, count);
        std::fs::read(&path).unwrap()
    }

    fn read(bytes: &[u8]) -> (Vec<u64>, Option<Damage>) {
        let mut reader = Reader::new(bytes, Path::new("r")).unwrap();
        assert_eq!(reader.header(), &header());
        let flows = reader
            .by_ref()
            .map(|statement| match statement.event {
                Event::Flow { bytes, at, .. } if at == statement.at => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        (flows, reader.damage().cloned())
    }

    #[test]
    fn what_was_written_is_read() {
        let (flows, damage) = read(&recorded(10_000));
        assert_eq!(flows, (1..=10_000).collect::<Vec<_>>());
        assert_eq!(damage, None);
    }

    #[test]
    fn an_existing_file_is_not_written_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Writer::create(file.path(), &header()).unwrap_err();
        assert!(matches!(error, RecordingError::File { what: "create", .. }));
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let refused = |bytes: &[u8]| Reader::new(bytes, Path::new("r")).unwrap_err().to_string();
        assert_eq!(
            refused(b"hello, world"),
            "r is no recording of Weighbridge: it does not start with WBREC"
        );
        assert_eq!(refused(b""), "r is no recording of Weighbridge: it does not start with WBREC");
        assert_eq!(
            refused(b"WBREC\0\x09\0rest"),
            "r has format 9, and this version reads 3; use the version that recorded it"
        );
        assert_eq!(
            refused(b"WBREC\0\x03\0"),
            "the head of the recording r is damaged: it ends before its header"
        );
    }

    proptest::proptest! {
        /// A cut or changed byte never makes anything up: what is read is a beginning of what was written.
        #[test]
        fn damage_ends_the_reading_and_nothing_is_made_up(cut in 150_usize..200_000, flip in 0_u8..=255) {
            let whole = recorded(5_000);
            let cut = 150 + cut % (whole.len() - 150);
            let (flows, damage) = read(&whole[..cut]);
            proptest::prop_assert_eq!(&flows, &(1..=flows.len() as u64).collect::<Vec<_>>());
            proptest::prop_assert!(damage.is_some() || flows.len() < 5_000);
            let mut changed = whole;
            changed[cut] ^= flip;
            let (flows, damage) = read(&changed);
            proptest::prop_assert_eq!(&flows, &(1..=flows.len() as u64).collect::<Vec<_>>());
            proptest::prop_assert_eq!(damage.is_none(), flip == 0);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut framed = b"WBREC\0\x02\0".to_vec();
            framed.extend_from_slice(&bytes);
            if let Ok(reader) = Reader::new(framed.as_slice(), Path::new("r")) {
                reader.for_each(drop);
            }
        }
    }
}
