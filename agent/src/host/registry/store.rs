//! The registry on disk: `registry.json` in the state directory. It keeps the first-seen times and saves reading files
//! that did not change; it is never trusted for what a file is now.

use std::{borrow::Cow, io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, ser::SerializeSeq as _};

use super::{
    super::{
        format::{Extent, Format, Recognised},
        state::{StateDir, StateError},
    },
    Entry, MAX_FILES, Object, Registry,
};
use crate::{
    config::Config,
    event::{AssetId, Dev},
};

/// Name of the file in the state directory.
pub const STORE: &str = "registry.json";
const SCHEMA: u32 = 1;
/// About 500 bytes for each of [`MAX_FILES`].
const LIMIT: u64 = 500 * MAX_FILES as u64;

/// Why the stored registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{STORE} is damaged ({0}): move it away to start the first-seen times anew")]
    Damaged(#[source] serde_json::Error),
    #[error(
        "{STORE} has schema {0}, this agent reads {SCHEMA}: upgrade the agent, or move the file away to start the \
         first-seen times anew"
    )]
    Schema(u32),
}

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    files: Files<'a>,
}

/// Serialises entry by entry, so that no second copy of the registry is made.
struct Files<'a>(&'a Registry, &'a Config);

/// One file. Owned strings when read, for borrowed ones cannot hold escapes.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    asset: Cow<'a, str>,
    path: Cow<'a, str>,
    dev: u32,
    ino: u64,
    generation: Option<u32>,
    size: u64,
    mtime: i64,
    ctime: i64,
    format: Cow<'a, str>,
    extent: Cow<'a, str>,
    /// RFC 3339.
    first_seen: Cow<'a, str>,
}

impl Registry {
    /// Writes the registry as a whole or not at all. An asset is stored by its name, for the order may change.
    ///
    /// # Errors
    /// Those of writing; the old file is then still there.
    pub fn save(&self, state: &StateDir, config: &Config) -> Result<(), StateError> {
        let document = Document { schema: SCHEMA, files: Files(self, config) };
        state.replace(STORE, |file| serde_json::to_writer(file, &document).map_err(io::Error::from))
    }

    /// Reads what [`Self::save`] wrote; an empty registry when there is nothing. Files of assets that are no longer
    /// configured are left out. The result is for [`Self::scan`] only: nobody looked whether it is still true.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or is of a later version.
    pub fn load(state: &StateDir, config: &Config) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            files: Vec<Stored<'a>>,
        }
        let Some(bytes) = state.read(STORE, LIMIT)? else { return Ok(Self::default()) };
        let Version { schema } = serde_json::from_slice(&bytes).map_err(StoreError::Damaged)?;
        if schema != SCHEMA {
            return Err(StoreError::Schema(schema));
        }
        let content: Content<'_> = serde_json::from_slice(&bytes).map_err(StoreError::Damaged)?;
        let files = content.files.into_iter().filter_map(|stored| entry(stored, config)).collect();
        Ok(Self { files, ..Self::default() })
    }
}

impl Serialize for Files<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(registry, config) = self;
        let mut sequence = serializer.serialize_seq(Some(registry.files.len()))?;
        for entry in &registry.files {
            let Some(asset) = config.assets.get(usize::from(entry.asset.0)) else { continue };
            sequence.serialize_element(&Stored {
                asset: asset.name.as_str().into(),
                path: entry.path.to_string_lossy(),
                dev: entry.object.dev.0,
                ino: entry.object.ino,
                generation: entry.object.generation,
                size: entry.size,
                mtime: entry.mtime,
                ctime: entry.ctime,
                format: entry.format.format.as_str().into(),
                extent: entry.format.extent.as_str().into(),
                first_seen: entry.first_seen.to_string().into(),
            })?;
        }
        sequence.end()
    }
}

fn entry(stored: Stored<'_>, config: &Config) -> Option<Entry> {
    let asset = config.assets.iter().position(|asset| asset.name == stored.asset)?;
    Some(Entry {
        asset: AssetId(u16::try_from(asset).ok()?),
        path: Path::new(&*stored.path).into(),
        object: Object { dev: Dev(stored.dev), ino: stored.ino, generation: stored.generation },
        size: stored.size,
        // A name that this version does not know: not whole, so that the file is read again.
        format: Format::of_word(&stored.format)
            .zip(Extent::of_word(&stored.extent))
            .map_or(Recognised { format: Format::Unknown, extent: Extent::Truncated }, |(format, extent)| {
                Recognised { format, extent }
            }),
        first_seen: stored.first_seen.parse::<Timestamp>().ok()?,
        mtime: stored.mtime,
        ctime: stored.ctime,
        fscrypt: false,
        filesystem: u32::MAX,
    })
}
