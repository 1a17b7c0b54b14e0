//! What outlives the agent and the boot, in one embedded database in the state directory: named spaces of keys and values.
//!
//! Knows no meaning of what it keeps. A space is read once and then written as a whole; only what differs goes to the disk, and
//! everything that is saved together is there together after a crash, or none of it.
//!
//! Times in it lie on a time line that goes on over reboots, see [`Clock`].

mod clock;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs,
    hash::{BuildHasher as _, RandomState},
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use thiserror::Error;

pub use self::clock::Clock;
use super::state::StateDir;

/// Below the state directory.
pub const FILE: &str = "state.redb";
/// Of what is kept, and how: a file of a later one is set aside.
const VERSION: u64 = 1;
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROWS: TableDefinition<'_, (&str, &[u8]), &[u8]> = TableDefinition::new("rows");
/// A larger file is not ours: the ceilings of what is kept are far below.
const LARGEST: u64 = 1 << 30;
/// Of one row.
const LARGEST_VALUE: usize = 1 << 22;
/// Rows of a space that are read.
const MOST_ROWS: usize = 1 << 20;
/// Files that are set aside and kept.
const SET_ASIDE: u32 = 9;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What a space is to hold.
pub type Rows<'a> = Box<dyn Iterator<Item = Row> + 'a>;

/// A space, a key, and the print of its new value, if it is to have one.
type Change = (&'static str, Vec<u8>, Option<u64>);

/// A key, and its new value if it is to have one.
pub type Update = (Vec<u8>, Option<Vec<u8>>);

/// Why nothing could be kept.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot {what} the state in {}: {source}", path.display())]
    Database { what: &'static str, path: PathBuf, source: Box<redb::Error> },
    #[error("the state in {} cannot be used: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    database: Closing,
    /// The same file, to look at.
    file: fs::File,
    path: PathBuf,
    /// What each space holds, so that only what differs is written.
    known: HashMap<&'static str, HashMap<Vec<u8>, Stored>>,
    /// How often rows were saved.
    turn: u64,
    /// Of a random seed: no two values that follow each other have one print.
    prints: RandomState,
}

/// What is known of a row that is on the disk.
#[derive(Debug)]
struct Stored {
    /// Of its value, which would be as much memory as all that is kept.
    print: u64,
    /// When it was last among the rows.
    turn: u64,
}

/// A database that is closed with care: its file may make no sense any more, and then redb's own locks are poisoned.
#[derive(Debug)]
struct Closing(Option<Database>);

impl Closing {
    /// # Errors
    ///
    /// Never while the database is in use.
    fn get(&self) -> Result<&Database, redb::Error> {
        self.0.as_ref().ok_or_else(|| redb::Error::Corrupted("it is closed".to_owned()))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let database = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("the state's database could not be closed: its contents make no sense");
        }
    }
}

impl Store {
    /// Opens the database of `state`, or makes one. One that is broken or of a later version is set aside, and the note says
    /// so: the agent goes on with an empty one.
    ///
    /// # Errors
    ///
    /// When not even an empty one can be made.
    pub fn open(state: &StateDir) -> Result<(Self, Option<String>), StoreError> {
        let path = state.path().join(FILE);
        let (why, fault) = match Self::try_open(&path) {
            Ok(store) => return Ok((store, None)),
            Err(error @ StoreError::Unusable { .. }) => (error.to_string(), error),
            Err(error) => (error.to_string(), error),
        };
        let Some(aside) = set_aside(&path) else { return Err(fault) };
        let store = Self::try_open(&path)?;
        Ok((
            store,
            Some(format!("{why}; it was set aside as {} and the agent goes on without it", aside.display())),
        ))
    }

    /// Every row of a space, by key.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn load(&mut self, space: &'static str) -> Result<Vec<Row>, StoreError> {
        let rows = guarded(&self.path, || {
            let read = self.database.get()?.begin_read()?;
            let table = read.open_table(ROWS)?;
            let mut rows = Vec::new();
            for row in table.range((space, &[][..])..)?.take(MOST_ROWS) {
                let (key, value) = row?;
                let (of, key) = key.value();
                if of != space {
                    break;
                }
                if value.value().len() <= LARGEST_VALUE {
                    rows.push((key.to_vec(), value.value().to_vec()));
                }
            }
            Ok(rows)
        })?;
        let stored = |value: &Vec<u8>| Stored { print: self.prints.hash_one(value), turn: 0 };
        self.known.insert(space, rows.iter().map(|(key, value)| (key.clone(), stored(value))).collect());
        Ok(rows)
    }

    /// Shows each row of a space whose key begins with `prefix`, by key, without remembering it; what is larger than `largest`
    /// bytes is passed over, and no more than `most` rows are shown. For spaces that are written by [`Store::update`].
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn visit(
        &self,
        space: &'static str,
        prefix: &[u8],
        (most, largest): (usize, usize),
        mut show: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let read = self.database.get()?.begin_read()?;
            let table = read.open_table(ROWS)?;
            for row in table.range((space, prefix)..)?.take(most) {
                let (key, value) = row?;
                let (of, key) = key.value();
                if of != space || !key.starts_with(prefix) {
                    break;
                }
                if value.value().len() <= largest {
                    show(key, value.value());
                }
            }
            Ok(())
        })
    }

    /// One row.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn get(&self, space: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(&self.path, || {
            let read = self.database.get()?.begin_read()?;
            let value = read.open_table(ROWS)?.get((space, key))?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    /// Bytes that the database takes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Not by its path: something that does not answer can be mounted there by now.
        self.file.metadata().map_or(0, |facts| facts.len())
    }

    /// When something was saved last; `None` before the first time.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn clock(&self) -> Result<Option<Clock>, StoreError> {
        let text = guarded(&self.path, || {
            let read = self.database.get()?.begin_read()?;
            let table = read.open_table(META)?;
            let text = table.get("clock")?;
            Ok(text.map(|text| text.value().to_vec()))
        })?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// From now on each of these spaces holds exactly these rows, on the disk when this returns. Returns whether anything had
    /// to be written. Rows are looked at one by one, and of those that did not change nothing is kept.
    ///
    /// # Errors
    ///
    /// When it cannot be written; then all is as it was.
    pub fn save(&mut self, spaces: Vec<(&'static str, Rows<'_>)>, clock: &Clock) -> Result<bool, StoreError> {
        self.update(spaces, ("", &[]), clock)
    }

    /// The same, and of one further space single rows: what is not named there stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Store::save`].
    pub fn update(
        &mut self,
        spaces: Vec<(&'static str, Rows<'_>)>,
        (single, updates): (&'static str, &[Update]),
        clock: &Clock,
    ) -> Result<bool, StoreError> {
        let Self { database, path, known, turn, prints, file: _ } = self;
        *turn += 1;
        let none = HashMap::new();
        let changes = guarded(path, || {
            // What is new goes through here row by row: thousands of findings are as many kilobytes.
            let mut changes: Vec<Change> = Vec::new();
            let write = database.get()?.begin_write()?;
            let mut table = write.open_table(ROWS)?;
            for (space, rows) in spaces {
                for (key, value) in rows.filter(|(_, value)| value.len() <= LARGEST_VALUE) {
                    let print = prints.hash_one(&value);
                    let stored = known.get_mut(space).and_then(|known| known.get_mut(&key));
                    let is_kept = stored.is_some_and(|stored| {
                        stored.turn = *turn;
                        stored.print == print
                    });
                    if !is_kept {
                        table.insert((space, key.as_slice()), value.as_slice())?;
                        changes.push((space, key, Some(print)));
                    }
                }
                let gone = known.get(space).unwrap_or(&none).iter();
                for (key, _) in gone.filter(|(_, stored)| stored.turn != *turn) {
                    table.remove((space, key.as_slice()))?;
                    changes.push((space, key.clone(), None));
                }
            }
            for (key, value) in updates {
                match value {
                    Some(value) => drop(table.insert((single, key.as_slice()), value.as_slice())?),
                    None => drop(table.remove((single, key.as_slice()))?),
                }
            }
            drop(table);
            if changes.is_empty() && updates.is_empty() {
                write.abort()?;
                return Ok(changes);
            }
            let clock = serde_json::to_vec(clock).unwrap_or_default();
            write.open_table(META)?.insert("clock", clock.as_slice())?;
            // Durable: redb waits for the disk.
            write.commit()?;
            Ok(changes)
        })?;
        let is_changed = !changes.is_empty() || !updates.is_empty();
        for (space, key, print) in changes {
            let known = known.entry(space).or_default();
            match print {
                Some(print) => drop(known.insert(key, Stored { print, turn: *turn })),
                None => drop(known.remove(&key)),
            }
        }
        Ok(is_changed)
    }

    fn try_open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |why: String| StoreError::Unusable { path: path.to_owned(), why };
        match fs::symlink_metadata(path) {
            Ok(facts) if !facts.is_file() => return Err(unusable("it is not a file".to_owned())),
            Ok(facts) if facts.len() > LARGEST => {
                return Err(unusable(format!("it has {} bytes", facts.len())));
            }
            _ => {}
        }
        let database =
            Closing(Some(guarded(path, || Ok(Database::builder().set_cache_size(4 << 20).create(path)?))?));
        let version = guarded(path, || {
            let write = database.get()?.begin_write()?;
            let mut version = VERSION.to_be_bytes().to_vec();
            {
                let mut table = write.open_table(META)?;
                let known = table.get("version")?.map(|known| known.value().to_vec());
                match known {
                    Some(known) => version = known,
                    None => drop(table.insert("version", version.as_slice())?),
                }
                write.open_table(ROWS)?;
            }
            write.commit()?;
            Ok(version)
        })?;
        let version = version.try_into().map_or(0, u64::from_be_bytes);
        if version != VERSION {
            return Err(unusable(format!("it is of version {version}, and this agent knows {VERSION}")));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|error| unusable(error.to_string()))?;
        let file = fs::File::open(path).map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            database,
            file,
            path: path.to_owned(),
            known: HashMap::new(),
            turn: 0,
            prints: RandomState::new(),
        })
    }
}

/// Runs something of the database, and makes an error of a panic: a file that was tampered with must not stop the agent.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => {
            Err(StoreError::Database { what: "use", path: path.to_owned(), source: Box::new(source) })
        }
        Err(_) => {
            Err(StoreError::Unusable { path: path.to_owned(), why: "its contents make no sense".to_owned() })
        }
    }
}

/// Renames the file, so that it can be looked at; the place that it has now.
fn set_aside(path: &Path) -> Option<PathBuf> {
    let names = (1..=SET_ASIDE).map(|number| path.with_extension(format!("redb.unusable-{number}")));
    let mut places: Vec<PathBuf> = names.collect();
    let free =
        places.iter().position(|place| fs::symlink_metadata(place).is_err()).unwrap_or(places.len() - 1);
    let place = places.swap_remove(free);
    fs::rename(path, &place).ok().map(|()| place)
}
