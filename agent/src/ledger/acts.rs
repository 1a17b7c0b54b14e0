//! Acts: records that no bound stands behind. It must not know how they were noticed.

use std::sync::Arc;

use super::{
    Intake, Ledger,
    waiting::{ANCESTORS, Waiting},
};
use crate::event::{
    Act, ActClass, Asset, AssetId, AssetList, Dev, HolderId, ObjectId, Record, RecordKind, Source,
};

/// Acts that wait; one more is told at once.
const WAITING: usize = 1024;

/// What listeners hear: all that holders send through the network stack.
const HEARD: ObjectId =
    ObjectId { dev: Dev(agent_ebpf::DEV_CLASS), generation: 0, ino: agent_ebpf::CLASS_PACKETS };

impl Ledger {
    /// As [`Ledger::act`]. That a holder has a channel says something once it took bytes that could go through: the sensor takes
    /// whoever shares memory with a holder for one, and who listens to a device has a socket for it, whatever he hears.
    ///
    /// Who reached into a holder touched what that holds: of assets that share a mark those that it took, and the others once
    /// it takes them.
    pub(super) fn act_or_wait(
        &mut self,
        holder: HolderId,
        act: Act,
        assets: AssetList,
        out: &mut Vec<Record>,
    ) {
        let known: Vec<AssetId> = assets.iter().filter(|&asset| self.knows(asset)).collect();
        let is_full = self.waiting.len() >= WAITING;
        let (now, later): (Vec<AssetId>, Vec<AssetId>) = match (act.kind.class(), act.victim) {
            (ActClass::Channel, _) if !is_full => (Vec::new(), known),
            (ActClass::Reach, Some(victim)) if !is_full => known.into_iter().partition(|&asset| {
                self.taken(victim, asset) != 0
                    || self.of_mark(asset.mark()).all(|twin| self.taken(victim, twin) == 0)
            }),
            _ => (known, Vec::new()),
        };
        // One that touched no asset is told of all the same.
        if !now.is_empty() || later.is_empty() {
            self.act(holder, &act, &now.into_iter().collect(), out);
        }
        if !later.is_empty() {
            let whom = self.waiting.add(Waiting { holder, act, assets: later.into_iter().collect() });
            self.tell_due(whom, None, out);
        }
    }

    /// An act that an earlier ledger knew: it was told there, or waits here on, for the assets that its doer has not taken yet. Nothing
    /// is told, however many wait: the rows that they come from are limited.
    pub fn restore_act(&mut self, holder: HolderId, act: Act, assets: &AssetList) {
        let waits = |&asset: &AssetId| self.knows(asset) && !self.has(holder, asset, ANCESTORS);
        let assets: AssetList = assets.iter().filter(waits).collect();
        if act.kind.class() == ActClass::Channel && !assets.is_empty() {
            self.waiting.add(Waiting { holder, act, assets });
        }
    }

    /// Whether a process has bytes of an asset from anywhere but what it heard. What no source that is known gave it (an earlier agent's
    /// conclusion, a parent that is gone) it has.
    pub(super) fn has(&self, id: HolderId, asset: AssetId, ancestors: u32) -> bool {
        let Some(holder) = self.holders.get(&id) else { return false };
        let gives = |(source, intake): (&Source, &Intake)| {
            intake.gives.get(&asset).is_some_and(|&bytes| bytes != 0)
                && match source {
                    Source::Carrier(object) => *object != HEARD,
                    Source::Parent(parent) if ancestors != 0 && self.holders.contains_key(parent) => {
                        self.has(*parent, asset, ancestors - 1)
                    }
                    Source::Asset(_)
                    | Source::Mark(_)
                    | Source::Grown(_)
                    | Source::Parent(_)
                    | Source::Reached(_) => true,
                }
        };
        let from = |(source, intake): (&Source, &Intake)| match source {
            // All that he heard: how much of it was an asset's may rest on what is forgotten by now.
            Source::Carrier(object) if *object == HEARD => intake.bytes,
            _ => intake.gives.get(&asset).copied().unwrap_or(0),
        };
        let given = holder.sources.iter().map(from).fold(0, u64::saturating_add);
        holder.taken.get(&asset).is_some_and(|taken| taken.total > given) || holder.sources.iter().any(gives)
    }

    /// One record for each asset that the act touched; for one that touched none (against the agent itself), one with the
    /// host as its asset. Reaching into a holder touches all that it holds.
    pub(super) fn act(&self, id: HolderId, act: &Act, assets: &AssetList, out: &mut Vec<Record>) {
        let victim = act.victim.and_then(|victim| self.holders.get(&victim));
        let held = victim.into_iter().flat_map(|victim| victim.taken.keys().copied());
        self.tell_act(id, act, &assets.iter().chain(held).collect(), out);
    }

    pub(super) fn tell_act(&self, id: HolderId, act: &Act, touched: &AssetList, out: &mut Vec<Record>) {
        let mut records = touched.iter().filter_map(|asset| {
            let known = self.assets.get(&asset)?;
            let bytes = act.victim.map_or(0, |victim| self.taken(victim, asset));
            Some(self.act_record(id, act, Arc::clone(known), bytes))
        });
        match records.next() {
            Some(first) => {
                out.push(first);
                out.extend(records);
            }
            None => out.push(self.act_record(id, act, Arc::new(Asset::host()), 0)),
        }
    }

    fn act_record(&self, id: HolderId, act: &Act, asset: Arc<Asset>, bytes: u64) -> Record {
        let listed = self.holders.get(&id).is_some_and(|holder| holder.listed.contains(asset.id));
        let lineage = act.victim.map_or_else(Vec::new, |victim| self.lineage(victim, asset.id, None));
        Record {
            kind: RecordKind::Act,
            at: self.now,
            asset,
            holder: id,
            process: self.process(id),
            sink: None,
            bytes,
            act: Some(act.clone()),
            victim: act.victim.map(|victim| self.process(victim)),
            listed,
            lineage: Arc::new(lineage),
        }
    }

    /// Whether `asset` is one of those that are registered.
    #[must_use]
    pub fn knows(&self, asset: AssetId) -> bool {
        self.assets.contains_key(&asset)
    }
}
