//! The words that every part of the agent shares (DESIGN §1): who holds, what was taken, where it went.
//!
//! Plain data only: an [`Event`] is what the ledger is told, a [`Record`] what it says of it. Nothing here knows how facts are
//! gathered (`sensor`, `host`) nor what is concluded from them (`ledger`, `rules`, `alerts`).

mod act;
mod asset;
mod object;
mod process;
mod record;
mod sink;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    act::{Act, ActClass, ActKind},
    asset::{Asset, AssetId, AssetKind, AssetList, AssetSet, Mark},
    object::{Dev, ObjectId},
    process::{Ancestor, HolderId, Process},
    record::{Edge, Node, Record, RecordKind},
    sink::{Control, Proto, Remote, Sink, SinkKey, SinkKind},
};

/// Nanoseconds since boot (`CLOCK_BOOTTIME`): the only clock that windows and budgets use, for it cannot be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootNs(pub u64);

/// Where a holder got bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// One of the asset's own files.
    Asset(AssetId),
    /// Some asset of a mark, it is not told which: each of them.
    Mark(Mark),
    /// A mapping that grew, of an asset of a mark: each of those that the holder has something of.
    Grown(Mark),
    /// A file, pipe or socket that another holder wrote into.
    Carrier(ObjectId),
    /// The process that it was forked from.
    Parent(HolderId),
    /// A process whose memory it reached into, or that wrote into its.
    Reached(HolderId),
}

/// What was lost so far, by stage; the sum since the agent started. Empty when nothing was.
pub type Loss = BTreeMap<&'static str, u64>;

/// Bytes that a holder took itself, and in all.
pub type Took = (u64, u64);

/// What the ledger concluded and cannot conclude again once the rows that it rests on are forgotten; `None` for what it has
/// forgotten itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conclusions {
    /// Bytes of an asset that a holder took itself, and in all.
    pub taken: Vec<(HolderId, AssetId, Option<Took>)>,
    /// Bytes of an asset that a carrier can hold.
    pub caps: Vec<(ObjectId, AssetId, Option<u64>)>,
}

impl Conclusions {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.caps.is_empty()
    }
}

/// One statement of the sensor. Byte counts are cumulative and never fall: applying one twice changes nothing.
#[derive(Clone, Debug)]
pub enum Event {
    /// Identity of a holder; comes before its first `Take` or `Flow`, and again after an exec.
    Process { holder: HolderId, process: Arc<Process> },
    /// A sink resolved; comes before its first `Flow`, and again when its control or its path changed.
    Sink { key: SinkKey, sink: Arc<Sink> },
    /// An asset registered, or its size changed.
    Asset(Arc<Asset>),
    /// `holder` has taken `bytes` in all from `source` (for a parent: what the parent had taken at the fork).
    /// `listed`: the assets on whose reader list the holder is, whatever the source.
    Take { holder: HolderId, source: Source, bytes: u64, listed: AssetList, at: BootNs },
    /// `holder` has put `bytes` in all into `sink` while it held exactly the marks of `assets`.
    Flow { holder: HolderId, sink: SinkKey, assets: AssetSet, bytes: u64, at: BootNs },
    /// `holder` did something that matters by itself, whatever bytes moved; `assets` are those that it touched.
    Act { holder: HolderId, act: Act, assets: AssetList, at: BootNs },
    /// This host has sent `bytes` more, whoever sent them; control says whether the place is a listed one. The only count that
    /// is a growth: applied twice, it counts twice.
    Egress { to: Remote, control: Control, bytes: u64, at: BootNs },
    /// The process is gone and all its bytes were reported.
    Exit { holder: HolderId, at: BootNs },
    /// Something was lost.
    Loss(Loss),
}
