//! Acts: records that no bound stands behind. It must not know how they were noticed.

use std::sync::Arc;

use super::Ledger;
use crate::event::{Act, Asset, AssetId, AssetSet, HolderId, Record, RecordKind};

impl Ledger {
    /// One record for each asset that the act touched; for one that touched none (against the agent itself), one with the
    /// host as its asset. Reaching into a holder touches all that it holds.
    pub(super) fn act(&self, id: HolderId, act: &Act, assets: AssetSet, out: &mut Vec<Record>) {
        let held = act
            .victim
            .and_then(|victim| self.holders.get(&victim))
            .map_or(0, |victim| victim.taken.keys().fold(0, |set, asset| set | 1 << asset.0));
        let touched = AssetSet(assets.0 | held);
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
