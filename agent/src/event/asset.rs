//! What is protected.

use std::sync::Arc;

use agent_ebpf as abi;
use serde::Serialize;

/// Index of a configured asset, in the order of the configuration; below [`abi::MAX_ASSETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetId(pub u16);

impl AssetId {
    /// What the canary file stands for.
    pub const CANARY: Self = Self(abi::CANARY_ASSET as u16);

    /// Its bit in the kernel's sets, which it shares with others where more than [`abi::ASSET_MARKS`] are configured.
    #[must_use]
    pub const fn mark(self) -> Mark {
        Mark(abi::asset_mark(self.0 as u32) as u8)
    }
}

/// A bit of an [`AssetSet`]: up to 16 assets have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u8);

/// A set of assets as the kernel knows it, by their marks: it holds each asset that it should, and can seem to hold others that share
/// a mark with one. So it is for what is counted. What excuses, or is told once, needs an [`AssetList`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssetSet(pub u64);

impl AssetSet {
    /// The canary alone.
    pub const CANARY: Self = Self(abi::CANARY_SET);

    /// Whether `asset` can be in it.
    #[must_use]
    pub const fn contains(self, asset: AssetId) -> bool {
        self.has(asset.mark())
    }

    #[must_use]
    pub const fn has(self, mark: Mark) -> bool {
        self.0 >> (mark.0 as u32 % abi::SET_BITS) & 1 == 1
    }

    /// This set with the mark of `asset`.
    #[must_use]
    pub const fn with(self, asset: AssetId) -> Self {
        Self(self.0 | 1 << (asset.mark().0 as u32 % abi::SET_BITS))
    }

    pub fn marks(self) -> impl Iterator<Item = Mark> {
        (0..abi::SET_BITS as u8).map(Mark).filter(move |&mark| self.has(mark))
    }
}

/// Exactly these assets. Of its own type, so that nobody takes an [`AssetSet`] for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssetList(Arc<[AssetId]>);

impl AssetList {
    #[must_use]
    pub fn contains(&self, asset: AssetId) -> bool {
        self.0.binary_search(&asset).is_ok()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = AssetId> {
        self.0.iter().copied()
    }

    /// The marks of all of them.
    #[must_use]
    pub fn marks(&self) -> AssetSet {
        self.iter().fold(AssetSet::default(), AssetSet::with)
    }

    /// These and `others`.
    #[must_use]
    pub fn joined(&self, others: &Self) -> Self {
        if others.iter().all(|asset| self.contains(asset)) {
            return self.clone();
        }
        self.iter().chain(others.iter()).collect()
    }
}

impl FromIterator<AssetId> for AssetList {
    fn from_iter<I: IntoIterator<Item = AssetId>>(assets: I) -> Self {
        let mut assets: Vec<AssetId> = assets.into_iter().collect();
        assets.sort_unstable();
        assets.dedup();
        Self(assets.into())
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
            id: AssetId(u16::MAX),
            name: String::new(),
            kind: AssetKind::Associated,
            bytes: 0,
            most: 0,
            has_readers: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_63_have_a_mark_each_and_the_rest_share_them() {
        let marks = |ids: std::ops::Range<u16>| ids.map(|id| AssetId(id).mark().0).collect::<Vec<_>>();
        assert_eq!(marks(0..63), (0..63).collect::<Vec<_>>());
        assert_eq!(marks(63..126), (0..63).collect::<Vec<_>>());
        assert_eq!(marks(1007..1008), [62]);
        // The canary's is nobody else's, and what stands where no asset does is no asset's either.
        assert_eq!(AssetId::CANARY.mark(), Mark(63));
        assert!((0..abi::MAX_ASSETS as u16).all(|id| AssetId(id).mark() != Mark(63)));
        assert_eq!(Asset::host().id.mark(), Mark(63));
        for which in [abi::ANY_ASSET, abi::GROWN_ASSET] {
            assert!((0..64).all(|mark| abi::asset_mark(which + mark) == mark));
        }
    }

    #[test]
    fn a_set_of_marks_can_seem_to_hold_more_and_a_list_never_does() {
        let (first, twin, other) = (AssetId(0), AssetId(63), AssetId(1));
        let set = AssetSet::default().with(twin);
        assert_eq!([first, twin, other].map(|asset| set.contains(asset)), [true, true, false]);
        let list: AssetList = [twin].into_iter().collect();
        assert_eq!([first, twin, other].map(|asset| list.contains(asset)), [false, true, false]);
        assert_eq!((list.marks(), set.marks().collect::<Vec<_>>()), (set, vec![Mark(0)]));
        let all = list.joined(&[other, twin, first].into_iter().collect());
        assert_eq!(all.iter().collect::<Vec<_>>(), [first, other, twin]);
    }
}
