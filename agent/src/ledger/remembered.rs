//! What the ledger remembers: of each holder what it took, whence, and where it put it; of each carrier who fed and who read it.
//!
//! Rows with sums in them, and no rule of how they grow: that is `spread`'s, and what may be forgotten of them `forget`'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::domain::Domain;
use crate::event::{
    AssetId, AssetList, AssetSet, BootNs, Edge, HolderId, Mark, ObjectId, Process, Sink, SinkKey, Source,
};

/// A process that took bytes, or that something refers to.
#[derive(Debug, Default)]
pub(super) struct Holder {
    /// `None` when its identity was never told.
    pub(super) process: Option<Arc<Process>>,
    /// The assets on whose reader list it is, as its last take said.
    pub(super) listed: AssetList,
    pub(super) sources: BTreeMap<Source, Intake>,
    pub(super) taken: BTreeMap<AssetId, Taken>,
    pub(super) flows: BTreeMap<SinkKey, Flow>,
    pub(super) reach: BTreeMap<(Mark, Domain), Reach>,
    /// What can have reached a domain; none where nothing can.
    pub(super) bounds: BTreeMap<(AssetId, Domain), u64>,
    pub(super) children: BTreeSet<HolderId>,
    pub(super) exited: Option<BootNs>,
}

/// One source of one holder.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// All that was read from it, of whatever asset.
    pub(super) bytes: u64,
    pub(super) at: BootNs,
    /// What it contributes to `taken`, by asset.
    pub(super) gives: BTreeMap<AssetId, u64>,
    /// The way from the asset to the source, kept when the source itself was forgotten.
    pub(super) origin: BTreeMap<AssetId, Arc<Vec<Edge>>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Unclamped sums of what sources give: the asset's files and carriers; parents.
    pub(super) fresh_sum: u64,
    pub(super) inherited_sum: u64,
    /// Clamped to the asset's size, and never falling.
    pub(super) fresh: u64,
    pub(super) total: u64,
}

/// What one holder put into one sink.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) sets: BTreeMap<AssetSet, u64>,
    pub(super) at: BootNs,
}

impl Flow {
    /// Bytes that moved while `asset` was held.
    pub(super) fn of(&self, asset: AssetId) -> u64 {
        self.sets
            .iter()
            .filter(|(set, _)| set.contains(asset))
            .fold(0, |sum: u64, (_, &bytes)| sum.saturating_add(bytes))
    }
}

/// What one holder put into one domain while it held some asset of one mark.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) flow: u64,
    /// The sink of this domain that grew last.
    pub(super) sink: SinkKey,
}

#[derive(Debug, Default)]
pub(super) struct Carrier {
    /// How it is named as a sink; `None` while it was only read from.
    pub(super) key: Option<SinkKey>,
    /// `min(flow, taken)` of each holder that feeds it, by asset.
    pub(super) writers: BTreeMap<HolderId, BTreeMap<AssetId, u64>>,
    /// The same, summed over holders that were forgotten.
    pub(super) kept: BTreeMap<AssetId, Kept>,
    /// The sum of both.
    pub(super) caps: BTreeMap<AssetId, u64>,
    pub(super) readers: BTreeSet<HolderId>,
    /// All bytes that went in and that came out: a pipe with as much out as in is empty.
    pub(super) put: u64,
    pub(super) read: u64,
}

/// What forgotten holders had put into a carrier.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// The largest single contribution and the way it took, to the carrier.
    pub(super) largest: u64,
    pub(super) path: Arc<Vec<Edge>>,
}

#[derive(Debug)]
pub(super) struct KnownSink {
    pub(super) sink: Arc<Sink>,
    /// When it was told; the oldest go first.
    pub(super) since: BootNs,
}

/// The carrier that a sink is, when others can read from it.
pub(super) const fn carrier_of(key: SinkKey) -> Option<ObjectId> {
    match key {
        SinkKey::File(object) | SinkKey::Process(object) => Some(object),
        _ => None,
    }
}
