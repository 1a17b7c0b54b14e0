//! What a sink has not delivered yet, on disk: numbered records that survive a crash and a reboot.
//!
//! The caller remembers the numbers and bounds them; the records themselves are here alone, so that thousands that wait
//! take no memory. Every change is durable (`fsync`) before it returns. When the disk does not take a change, it is kept
//! here and tried again: the sink goes on with it from memory, and its trouble is said aloud. Must not know what the
//! records are.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("spool");
/// Pages that redb may keep in memory, for each spool; its default is a gibibyte.
const CACHE: usize = 1 << 20;
/// Between attempts to write what the disk did not take.
const AGAIN: Duration = Duration::from_secs(2);
/// A larger file is not ours: the records are bounded far below, and redb needs at most a few times their size.
const LARGEST_FILE: u64 = 1 << 30;

/// An open spool.
pub(super) struct Spool {
    path: PathBuf,
    /// `None` after an error: redb wants to be opened anew then.
    database: Option<Careful>,
    /// What is not on the disk yet; `None` is a removal.
    unsaved: BTreeMap<u64, Option<Bytes>>,
    again: Instant,
}

/// What [`Spool::open`] found.
pub(super) struct Opened {
    pub(super) spool: Spool,
    /// The numbers of the records that are there.
    pub(super) keys: Vec<u64>,
    /// What was wrong with the file, and what became of it.
    pub(super) note: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("the spool {path} cannot be used, new alerts wait in memory: {reason}", path = path.display())]
    Unusable { path: PathBuf, reason: String },
}

/// Why the database did not do what it was asked to.
enum Fault {
    /// The disk or the system: another time it may.
    System(String),
    /// What the file holds makes no sense.
    Contents(String),
}

impl Spool {
    /// Opens or creates the spool `name` in `dir`, which only the agent can write. One that cannot be read is set aside;
    /// one that cannot be made now is made later.
    pub(super) fn open(dir: &Path, name: &str) -> Opened {
        let path = dir.join(format!("{name}.redb"));
        let mut note = None;
        let mut found = look(&path);
        if let Err(fault) = &found
            && path.exists()
        {
            note = Some(set_aside(&path, fault.reason()));
            found = look(&path);
        }
        let (database, keys) = match found {
            Ok((database, keys)) => (Some(database), keys),
            Err(fault) => {
                let reason = fault.reason();
                note.get_or_insert_with(|| format!("the spool {} cannot be made: {reason}", path.display()));
                (None, Vec::new())
            }
        };
        let spool = Self { path, database, unsaved: BTreeMap::new(), again: Instant::now() };
        Opened { spool, keys, note }
    }

    /// The record of this number; `None` when there is none (any more).
    ///
    /// # Errors
    /// When the disk does not give it now.
    pub(super) fn read(&mut self, key: u64) -> Result<Option<Bytes>, SpoolError> {
        if let Some(unsaved) = self.unsaved.get(&key) {
            return Ok(unsaved.clone());
        }
        let done = self.using(|database| {
            let table = database.begin_read()?.open_table(RECORDS);
            match table {
                Ok(table) => Ok(table.get(key)?.map(|record| Bytes::copy_from_slice(record.value()))),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        match done {
            Err(fault) => self.failed(fault).map(|()| None),
            Ok(record) => Ok(record),
        }
    }

    /// Makes changes durable, all or none; `None` removes a record.
    ///
    /// # Errors
    /// When the disk does not take them now. They are kept, and tried again with the next call.
    pub(super) fn write(
        &mut self,
        changes: impl IntoIterator<Item = (u64, Option<Bytes>)>,
    ) -> Result<(), SpoolError> {
        self.unsaved.extend(changes);
        if self.unsaved.is_empty() && self.database.is_some() {
            return Ok(());
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        let mut done = self.using(|database| commit(database, &unsaved));
        self.unsaved = unsaved;
        if let Err(fault @ Fault::Contents(_)) = done {
            self.failed(fault)?;
            let unsaved = std::mem::take(&mut self.unsaved);
            done = self.using(|database| commit(database, &unsaved));
            self.unsaved = unsaved;
        }
        match done {
            Ok(()) => {
                self.unsaved.clear();
                Ok(())
            }
            Err(fault) => self.failed(fault),
        }
    }

    /// How many changes are only in memory.
    pub(super) fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// Does something with the database, which is opened anew if need be. After an error it is closed.
    fn using<T>(&mut self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Fault> {
        if self.database.is_none() {
            if Instant::now() < self.again {
                return Err(Fault::System("the last attempt failed".to_owned()));
            }
            self.again = Instant::now() + AGAIN;
            self.database = Some(create(&self.path)?);
        }
        let Some(Careful(Some(database))) = &self.database else {
            return Err(Fault::System("it is closed".to_owned()));
        };
        let done = guarded(|| work(database));
        if done.is_err() {
            self.database = None;
            self.again = Instant::now() + AGAIN;
        }
        done
    }

    /// Sets a file aside that makes no sense, so that a new one can be made; what was only there is gone.
    fn failed(&mut self, fault: Fault) -> Result<(), SpoolError> {
        match fault {
            Fault::System(reason) => Err(SpoolError::Unusable { path: self.path.clone(), reason }),
            Fault::Contents(reason) => {
                self.database = None;
                self.again = Instant::now();
                // Not within the macro: what nobody listens to is not evaluated.
                let note = set_aside(&self.path, &reason);
                tracing::error!("{note}");
                Ok(())
            }
        }
    }
}

impl Fault {
    fn reason(&self) -> &str {
        match self {
            Self::System(reason) | Self::Contents(reason) => reason,
        }
    }
}

/// A database that is closed with care: its file may make no sense any more, and then redb's own locks are poisoned.
struct Careful(Option<Database>);

impl Drop for Careful {
    fn drop(&mut self) {
        let database = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("a spool could not be closed: its contents make no sense");
        }
    }
}

/// Opens the database, reads all of it, and keeps the numbers.
fn look(path: &Path) -> Result<(Careful, Vec<u64>), Fault> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| Fault::System(error.to_string()))?;
    }
    if let Ok(facts) = fs::symlink_metadata(path)
        && (!facts.is_file() || facts.len() > LARGEST_FILE)
    {
        return Err(Fault::Contents("it is no file of ours".to_owned()));
    }
    let careful = create(path)?;
    let Careful(Some(database)) = &careful else { return Err(Fault::System("it is closed".to_owned())) };
    let keys = guarded(|| {
        let mut keys = Vec::new();
        match database.begin_read()?.open_table(RECORDS) {
            Ok(table) => {
                for row in table.iter()? {
                    let (key, value) = row?;
                    // Read for the sake of whether it can be.
                    let _ = value.value();
                    keys.push(key.value());
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(keys)
    })?;
    Ok((careful, keys))
}

fn create(path: &Path) -> Result<Careful, Fault> {
    guarded(|| Ok(Careful(Some(Database::builder().set_cache_size(CACHE).create(path)?))))
}

fn commit(database: &Database, changes: &BTreeMap<u64, Option<Bytes>>) -> Result<(), redb::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in changes {
            match value {
                Some(value) => table.insert(key, value.as_ref())?,
                None => table.remove(key)?,
            };
        }
    }
    Ok(transaction.commit()?)
}

/// Makes an error of a panic: a file that was tampered with must not end the thread of a sink.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let is_contents = match &error {
                redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => true,
                redb::Error::UpgradeRequired(_) => true,
                // Redb's own: no call of the system failed.
                redb::Error::Io(error) => error.raw_os_error().is_none(),
                _ => false,
            };
            let reason = error.to_string();
            Err(if is_contents { Fault::Contents(reason) } else { Fault::System(reason) })
        }
        Err(_) => Err(Fault::Contents("its contents make no sense".to_owned())),
    }
}

/// Renames a file that cannot be used, and says what became of it.
fn set_aside(path: &Path, reason: &str) -> String {
    let aside = path.with_extension("damaged");
    let became = match fs::rename(path, &aside) {
        Ok(()) => format!("moved to {}", aside.display()),
        Err(error) => format!("left there ({error})"),
    };
    format!("the spool {} cannot be read ({reason}) and was {became}", path.display())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_damaged_spool_is_set_aside_and_a_new_one_works() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("am.redb"), "not a database").unwrap();
        let mut opened = Spool::open(dir.path(), "am");
        assert!(opened.note.is_some());
        assert_eq!(fs::read(dir.path().join("am.damaged")).unwrap(), b"not a database");
        opened.spool.write([(7, Some(Bytes::from_static(b"x")))]).unwrap();
        drop(opened);
        let again = Spool::open(dir.path(), "am");
        assert_eq!(again.note, None);
        assert_eq!(all(again), BTreeMap::from([(7, b"x".to_vec())]));
    }

    /// Every record that is there.
    fn all(opened: Opened) -> BTreeMap<u64, Vec<u8>> {
        let Opened { mut spool, keys, .. } = opened;
        keys.into_iter().map(|key| (key, spool.read(key).unwrap().expect("a record").to_vec())).collect()
    }

    /// Whoever can write the state directory can spoil it while the agent runs: what was there is missed, and what comes
    /// is kept.
    #[test]
    fn a_spool_that_is_spoilt_while_it_is_open_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), "am").spool;
        let record = |byte: u8| Some(Bytes::from(vec![byte; 4000]));
        spool.write((0..1000).map(|key| (key, record(key as u8)))).unwrap();
        let path = dir.path().join("am.redb");
        let length = fs::metadata(&path).unwrap().len();
        // Over it, not in its place: it stays the file that is open.
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
        let mut missing = 0;
        for key in 0..1000 {
            match spool.read(key) {
                // What redb has in its cache is still right.
                Ok(Some(found)) => assert_eq!(Some(found), record(key as u8)),
                Ok(None) => missing += 1,
                Err(_) => spool.again = Instant::now(),
            }
        }
        assert!(missing > 0, "nothing was spoilt");
        spool.again = Instant::now();
        spool.write([(2000, record(7))]).unwrap();
        assert_eq!(spool.read(2000).unwrap(), record(7));
        drop(spool);
        assert_eq!(all(Spool::open(dir.path(), "am")).keys().copied().collect::<Vec<_>>(), [2000]);
    }

    #[test]
    fn what_the_disk_does_not_take_is_kept_and_written_later() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the directory should be: nothing can be made below it.
        let blocked = dir.path().join("spool");
        fs::write(&blocked, "").unwrap();
        let mut spool = Spool::open(&blocked, "am").spool;
        spool.again = Instant::now();
        assert!(spool.write([(1, Some(Bytes::from_static(b"a")))]).is_err());
        assert_eq!(spool.unsaved(), 1);
        assert_eq!(spool.read(1).unwrap().unwrap(), "a", "and is there all the same");
        fs::remove_file(&blocked).unwrap();
        fs::create_dir(&blocked).unwrap();
        spool.again = Instant::now();
        spool.write([(2, Some(Bytes::from_static(b"b")))]).unwrap();
        drop(spool);
        assert_eq!(
            all(Spool::open(&blocked, "am")),
            BTreeMap::from([(1, b"a".to_vec()), (2, b"b".to_vec())])
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_written_is_there_after_a_crash(
            steps in prop::collection::vec(prop::collection::vec((0..8_u64, prop::option::of(prop::collection::vec(any::<u8>(), 0..64))), 0..4), 0..8),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::new();
            for changes in steps {
                // Opened anew each time, and never closed in an orderly way: the copy is what a crash leaves.
                let mut opened = Spool::open(dir.path(), "am");
                let keys = std::mem::take(&mut opened.keys);
                for key in &keys {
                    let record = opened.spool.read(*key).unwrap().map(|record| record.to_vec());
                    prop_assert_eq!(record.as_ref(), expected.get(key));
                }
                prop_assert_eq!(keys.len(), expected.len());
                for (key, value) in &changes {
                    match value {
                        Some(value) => expected.insert(*key, value.clone()),
                        None => expected.remove(key),
                    };
                }
                opened.spool.write(changes.into_iter().map(|(key, value)| (key, value.map(Bytes::from)))).unwrap();
                let copy = fs::read(dir.path().join("am.redb")).unwrap();
                drop(opened);
                fs::write(dir.path().join("am.redb"), copy).unwrap();
            }
        }
    }
}
