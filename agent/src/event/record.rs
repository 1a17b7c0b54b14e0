//! What the ledger says and rules see.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Act, Asset, BootNs, HolderId, Process, Sink};

/// What rules see: the growth of one bound, an act, or the growth of what the host sent. One asset each; several assets
/// in one flow give one record each.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: RecordKind,
    pub at: BootNs,
    pub asset: Arc<Asset>,
    pub holder: HolderId,
    pub process: Arc<Process>,
    /// Where to; `None` for a take and for an act.
    pub sink: Option<Arc<Sink>>,
    /// Growth, in bytes, of the flow's bound (kind flow), of what the holder took (kind take) or of what the host sent
    /// (kind egress); for an act what the process that was reached into had taken.
    pub bytes: u64,
    /// What was done (kind act), and to whom.
    pub act: Option<Act>,
    pub victim: Option<Arc<Process>>,
    /// Whether the process is on the asset's reader list.
    pub listed: bool,
    /// Edges from asset to sink, in order.
    pub lineage: Arc<Vec<Edge>>,
}

words! {
    /// The event kinds of the rule grammar's `on:`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum RecordKind {
        Flow = "flow",
        Take = "take",
        /// Something that matters by itself ([`Act`]).
        Act = "act",
        /// What the whole host sent to addresses that are not controlled, with no holder: one record for each asset.
        Egress = "egress",
    }
}

/// One step from asset to sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    pub from: Node,
    pub to: Node,
    pub bytes: u64,
}

/// An end of an [`Edge`]. `kind` is one of `asset process file pipe unix shm peer device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl<'d> Deserialize<'d> for Node {
    fn deserialize<D: Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        const KINDS: [&str; 8] = ["asset", "process", "file", "pipe", "unix", "shm", "peer", "device"];
        #[derive(Deserialize)]
        struct Written {
            #[serde(rename = "type")]
            kind: String,
            name: String,
            pid: Option<u32>,
        }
        let Written { kind, name, pid } = Written::deserialize(from)?;
        match KINDS.into_iter().find(|known| *known == kind) {
            Some(kind) => Ok(Self { kind, name, pid }),
            None => Err(serde::de::Error::unknown_variant(&kind, &KINDS)),
        }
    }
}
