//! What a sink has not delivered yet, on disk: numbered records that survive a crash and a reboot.
//!
//! The caller keeps the same records in memory and bounds them; this makes every change durable (`fsync`) before it
//! returns. When the disk does not take a change, it is kept here and tried again: the sink goes on delivering from
//! memory, and its trouble is said aloud. Must not know what the records are.

use std::{
    collections::BTreeMap,
    fs,
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
    database: Option<Database>,
    /// What is not on the disk yet; `None` is a removal.
    unsaved: BTreeMap<u64, Option<Bytes>>,
    again: Instant,
}

/// What [`Spool::open`] found.
pub(super) struct Opened {
    pub(super) spool: Spool,
    pub(super) records: BTreeMap<u64, Vec<u8>>,
    /// What was wrong with the file, and what became of it.
    pub(super) note: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("the spool {path} cannot be written, alerts wait in memory: {reason}", path = path.display())]
    Write { path: PathBuf, reason: String },
}

impl Spool {
    /// Opens or creates the spool `name` in `dir`, which only the agent can write. One that cannot be read is set aside;
    /// one that cannot be made now is made later.
    pub(super) fn open(dir: &Path, name: &str) -> Opened {
        let path = dir.join(format!("{name}.redb"));
        let mut note = None;
        let mut read = Self::read(&path);
        if let Err(reason) = &read
            && path.exists()
        {
            let aside = dir.join(format!("{name}.damaged"));
            let moved = fs::rename(&path, &aside);
            let became = match moved {
                Ok(()) => format!("moved to {}", aside.display()),
                Err(error) => format!("left there ({error})"),
            };
            note = Some(format!("the spool {} cannot be read ({reason}) and was {became}", path.display()));
            read = Self::read(&path);
        }
        let (database, records) = match read {
            Ok((database, records)) => (Some(database), records),
            Err(reason) => {
                note.get_or_insert_with(|| format!("the spool {} cannot be made: {reason}", path.display()));
                (None, BTreeMap::new())
            }
        };
        let spool = Self { path, database, unsaved: BTreeMap::new(), again: Instant::now() };
        Opened { spool, records, note }
    }

    fn read(path: &Path) -> Result<(Database, BTreeMap<u64, Vec<u8>>), String> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        }
        if let Ok(facts) = fs::symlink_metadata(path)
            && (!facts.is_file() || facts.len() > LARGEST_FILE)
        {
            return Err("it is no file of ours".to_owned());
        }
        let database = create(path)?;
        let mut records = BTreeMap::new();
        let transaction = database.begin_read().map_err(|error| error.to_string())?;
        match transaction.open_table(RECORDS) {
            Ok(table) => {
                for row in table.iter().map_err(|error| error.to_string())? {
                    let (key, value) = row.map_err(|error| error.to_string())?;
                    records.insert(key.value(), value.value().to_vec());
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
        drop(transaction);
        Ok((database, records))
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
        if self.unsaved.is_empty() {
            return Ok(());
        }
        if self.database.is_none() {
            if Instant::now() < self.again {
                return Err(self.error("the last attempt failed"));
            }
            self.again = Instant::now() + AGAIN;
            self.database = Some(create(&self.path).map_err(|reason| self.error(&reason))?);
        }
        let Some(database) = &self.database else { return Ok(()) };
        if let Err(error) = commit(database, &self.unsaved) {
            let reason = error.to_string();
            self.database = None;
            self.again = Instant::now() + AGAIN;
            return Err(self.error(&reason));
        }
        self.unsaved.clear();
        Ok(())
    }

    /// How many changes are only in memory.
    pub(super) fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    fn error(&self, reason: &str) -> SpoolError {
        SpoolError::Write { path: self.path.clone(), reason: reason.to_owned() }
    }
}

fn create(path: &Path) -> Result<Database, String> {
    Database::builder().set_cache_size(CACHE).create(path).map_err(|error| error.to_string())
}

fn commit(database: &Database, changes: &BTreeMap<u64, Option<Bytes>>) -> Result<(), redb::Error> {
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
        assert_eq!((again.note, again.records), (None, BTreeMap::from([(7, b"x".to_vec())])));
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
        fs::remove_file(&blocked).unwrap();
        fs::create_dir(&blocked).unwrap();
        spool.again = Instant::now();
        spool.write([(2, Some(Bytes::from_static(b"b")))]).unwrap();
        drop(spool);
        assert_eq!(
            Spool::open(&blocked, "am").records,
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
                prop_assert_eq!(&opened.records, &expected);
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
