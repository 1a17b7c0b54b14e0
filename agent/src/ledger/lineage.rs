//! The way of bytes from an asset to a sink, edge by edge, for people who must believe an alert.
//!
//! At each step the largest contribution is followed first; a step that only leads back into the way itself (an echo) is
//! given up for the next largest. Must not change any value.

use std::{collections::HashSet, sync::Arc};

use super::{Carrier, Ledger, domain, domain::Domain};
use crate::event::{
    AssetId, Control, Edge, HolderId, Node, ObjectId, Process, Sink, SinkKey, SinkKind, Source,
};

/// Edges that a way may have: more than that explains nothing.
const LONGEST: usize = 64;

/// Holders that are looked at in search of a way.
const MOST_SEEN: usize = 512;

impl Ledger {
    /// Edges from `asset` through `holder`, to `sink` if one is given. When nothing told where the holder's bytes came
    /// from, only the last edge is there.
    #[must_use]
    pub fn lineage(&self, holder: HolderId, asset: AssetId, sink: Option<SinkKey>) -> Vec<Edge> {
        let mut edges = self.way_to(holder, asset).unwrap_or_default();
        if let Some(key) = sink {
            let bytes = self.bound(holder, asset, key).min(self.put_into(holder, asset, key));
            edges.push(Edge { from: self.process_node(holder), to: self.sink_node(key), bytes });
        }
        edges
    }

    /// The way from `asset` to `holder`.
    pub(super) fn way_to(&self, holder: HolderId, asset: AssetId) -> Option<Vec<Edge>> {
        self.way_to_holder(holder, asset, &mut HashSet::new())
    }

    /// The way from `asset` to a carrier.
    pub(super) fn way_into(&self, object: ObjectId, asset: AssetId) -> Option<Vec<Edge>> {
        self.way_to_carrier(object, asset, &mut HashSet::new())
    }

    fn way_to_holder(&self, id: HolderId, asset: AssetId, seen: &mut HashSet<HolderId>) -> Option<Vec<Edge>> {
        if seen.len() >= MOST_SEEN || !seen.insert(id) {
            return None;
        }
        let holder = self.holders.get(&id)?;
        let mut sources: Vec<_> = holder
            .sources
            .iter()
            .filter_map(|(&source, intake)| Some((*intake.gives.get(&asset)?, source, intake)))
            .collect();
        sources.sort_by_key(|&(bytes, source, _)| (std::cmp::Reverse(bytes), source));
        for (bytes, source, intake) in sources {
            let origin = || intake.origin.get(&asset).map(|way| way.to_vec());
            let (way, from) = match source {
                Source::Asset(_) | Source::Mark(_) | Source::Grown(_) => {
                    (Some(Vec::new()), self.asset_node(asset))
                }
                Source::Parent(parent) | Source::Reached(parent) => {
                    (self.way_to_holder(parent, asset, seen).or_else(origin), self.process_node(parent))
                }
                Source::Carrier(object) => {
                    (self.way_to_carrier(object, asset, seen).or_else(origin), self.carrier_node(object))
                }
            };
            if let Some(mut way) = way {
                // Where the way was kept from earlier, its last end knows the name that the source had.
                let from = way.last().map_or(from, |edge: &Edge| edge.to.clone());
                way.push(Edge { from, to: self.process_node(id), bytes });
                shorten(&mut way);
                return Some(way);
            }
        }
        None
    }

    fn way_to_carrier(
        &self,
        object: ObjectId,
        asset: AssetId,
        seen: &mut HashSet<HolderId>,
    ) -> Option<Vec<Edge>> {
        let carrier = self.carriers.get(&object)?;
        let mut writers: Vec<(u64, HolderId)> = carrier
            .writers
            .iter()
            .filter_map(|(&writer, fed)| Some((*fed.get(&asset)?, writer)))
            .filter(|&(bytes, _)| bytes > 0)
            .collect();
        writers.sort_by_key(|&(bytes, writer)| (std::cmp::Reverse(bytes), writer));
        let kept = carrier.kept.get(&asset);
        for (bytes, writer) in writers {
            if let Some(kept) = kept
                && kept.largest > bytes
            {
                break;
            }
            if let Some(mut way) = self.way_to_holder(writer, asset, seen) {
                way.push(Edge { from: self.process_node(writer), to: self.carrier_node(object), bytes });
                shorten(&mut way);
                return Some(way);
            }
        }
        kept.map(|kept| kept.path.to_vec())
    }

    fn put_into(&self, holder: HolderId, asset: AssetId, key: SinkKey) -> u64 {
        let Some(holder) = self.holders.get(&holder) else { return 0 };
        match holder.flows.get(&key) {
            Some(flow) => flow.of(asset),
            // The flow was folded into its domain.
            None => holder.reach.get(&(asset.mark(), Domain::of(key))).map_or(0, |reach| reach.flow),
        }
    }

    pub(super) fn asset_node(&self, asset: AssetId) -> Node {
        let name = self.assets.get(&asset).map_or_else(|| asset.0.to_string(), |asset| asset.name.clone());
        Node { kind: "asset", name, pid: None }
    }

    pub(super) fn process_node(&self, id: HolderId) -> Node {
        let name = self
            .holders
            .get(&id)
            .and_then(|holder| holder.process.as_deref())
            .and_then(|process| process.exe.rsplit('/').next())
            .filter(|name| !name.is_empty())
            .map_or_else(|| id.tgid.to_string(), str::to_owned);
        Node { kind: "process", name, pid: Some(id.tgid) }
    }

    pub(super) fn carrier_node(&self, object: ObjectId) -> Node {
        match self.carriers.get(&object) {
            Some(Carrier { key: Some(key), .. }) => self.sink_node(*key),
            _ => Node { kind: "file", name: object_name(object), pid: None },
        }
    }

    pub(super) fn file_node(&self, object: ObjectId) -> Node {
        self.sink_node(SinkKey::File(object))
    }

    fn sink_node(&self, key: SinkKey) -> Node {
        let known = self.sinks.get(&key).map(|known| Arc::clone(&known.sink));
        let sink = known.unwrap_or_else(|| Arc::new(domain::unknown_sink(key)));
        Node { kind: node_kind(&sink), name: node_name(key, &sink), pid: None }
    }
}

/// A process of which only the numbers are known.
pub(super) const fn unknown_process(id: HolderId) -> Process {
    Process {
        pid: id.tgid,
        start: id.start.0,
        exe: String::new(),
        exe_sha256: None,
        cmdline: String::new(),
        // Not root by default: a rule must not take «unknown» for uid 0. The kernel's own invalid uid.
        uid: u32::MAX,
        auid: None,
        cgroup: None,
        container: None,
        unit: None,
        ancestry: Vec::new(),
    }
}

fn node_kind(sink: &Sink) -> &'static str {
    match sink.kind {
        SinkKind::File => {
            // A file of memory without a path is in no folder: a memfd, or memory without a name.
            let shared = |path: &str| path.starts_with("/dev/shm/") || path.starts_with("/memfd:");
            let memory = sink.control == Control::Memory && sink.path.as_deref().is_none_or(shared);
            if memory { "shm" } else { "file" }
        }
        SinkKind::Process => match sink.channel.as_deref() {
            Some("unix") => "unix",
            Some("loopback" | "vsock" | "sent" | "tunnel") => "peer",
            Some("terminal") => "device",
            Some("shm") => "shm",
            _ => "pipe",
        },
        SinkKind::Peer => "peer",
        SinkKind::BlockDevice | SinkKind::CharDevice | SinkKind::Terminal | SinkKind::Unmetered => "device",
    }
}

fn node_name(key: SinkKey, sink: &Sink) -> String {
    if let Some(name) = sink.path.as_ref().or(sink.peer.as_ref()) {
        return name.clone();
    }
    match key {
        SinkKey::File(object) | SinkKey::Process(object) => object_name(object),
        SinkKey::BlockDevice(dev) | SinkKey::CharDevice(dev) | SinkKey::Terminal(dev) => dev.to_string(),
        SinkKey::Peer { ip, .. } => ip.to_string(),
        SinkKey::Unmetered => sink.channel.clone().unwrap_or_else(|| "unmetered".to_owned()),
    }
}

fn object_name(object: ObjectId) -> String {
    format!("{}:{}", object.dev, object.ino)
}

/// Keeps the first edge, which names the asset, and the last ones.
fn shorten(way: &mut Vec<Edge>) {
    if way.len() > LONGEST {
        way.drain(1..=way.len() - LONGEST);
    }
}
