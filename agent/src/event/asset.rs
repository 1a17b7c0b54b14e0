//! What is protected.

use serde::Serialize;

/// Index of a configured asset, in the order of the configuration; below [`agent_ebpf::MAX_ASSETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetId(pub u8);

/// A set of assets, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetSet(pub u64);

impl AssetSet {
    #[must_use]
    pub const fn contains(self, asset: AssetId) -> bool {
        self.0 >> (asset.0 as u32 & 63) & 1 == 1
    }

    pub fn iter(self) -> impl Iterator<Item = AssetId> {
        (0..64).map(AssetId).filter(move |&asset| self.contains(asset))
    }
}

words! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum AssetKind {
        Weights = "weights",
        Associated = "associated",
    }
}

/// What the rest of the agent needs to know of an asset. Replaced as a whole when its size changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    pub id: AssetId,
    pub name: String,
    pub kind: AssetKind,
    /// Total size of its files in bytes.
    pub bytes: u64,
    /// Bytes that were ever in it, as far as the ledger knows: where files were replaced or cut, whoever took what was there
    /// still has it. No bound of what was taken is larger.
    pub most: u64,
    /// Whether a reader list is configured (without one WB-0004 only learns).
    pub has_readers: bool,
}

impl Asset {
    /// Stands where an act touched no asset: the host itself. Its name is empty and its size 0.
    #[must_use]
    pub const fn host() -> Self {
        Self {
            id: AssetId(u8::MAX),
            name: String::new(),
            kind: AssetKind::Associated,
            bytes: 0,
            most: 0,
            has_readers: false,
        }
    }
}
