//! What the ledger holds now, largest first: for people who look. It changes nothing.

use std::cmp::Reverse;

use super::Ledger;
use crate::event::{AssetId, HolderId, Process, Sink};
use std::sync::Arc;

/// A process that holds bytes of an asset.
#[derive(Clone, Debug)]
pub struct HolderView {
    pub process: Arc<Process>,
    pub asset: String,
    pub taken: u64,
    pub asset_bytes: u64,
    pub exited: bool,
}

/// What can have reached one place through one process.
#[derive(Clone, Debug)]
pub struct FlowView {
    pub process: Arc<Process>,
    pub asset: String,
    pub sink: Arc<Sink>,
    pub bound: u64,
}

impl Ledger {
    /// The `most` holders that took the largest share, and how many there are in all.
    #[must_use]
    pub fn holders(&self, most: usize) -> (Vec<HolderView>, usize) {
        let mut all: Vec<(u64, HolderId, AssetId)> = self
            .holders
            .iter()
            .flat_map(|(&id, holder)| {
                holder.taken.iter().map(move |(&asset, taken)| (taken.total, id, asset))
            })
            .filter(|(taken, ..)| *taken != 0)
            .collect();
        let count = all.len();
        all.sort_unstable_by_key(|&(taken, id, asset)| (Reverse(taken), id, asset));
        all.truncate(most);
        let views = all.into_iter().filter_map(|(taken, id, asset)| {
            let known = self.assets.get(&asset)?;
            Some(HolderView {
                process: self.process(id),
                asset: known.name.clone(),
                taken,
                asset_bytes: known.bytes,
                exited: self.holders.get(&id).is_some_and(|holder| holder.exited.is_some()),
            })
        });
        (views.collect(), count)
    }

    /// The `most` largest bounds, and how many there are in all.
    #[must_use]
    pub fn bounds(&self, most: usize) -> (Vec<FlowView>, usize) {
        let mut all = Vec::new();
        for (&id, holder) in &self.holders {
            for (&(asset, domain), &bound) in &holder.bounds {
                if let Some(reach) = holder.reach.get(&(asset.mark(), domain)) {
                    all.push((bound, id, asset, reach.sink));
                }
            }
        }
        let count = all.len();
        all.sort_unstable_by_key(|&(bound, id, asset, sink)| (Reverse(bound), id, asset, sink));
        all.truncate(most);
        let views = all.into_iter().filter_map(|(bound, id, asset, sink)| {
            let asset = self.assets.get(&asset)?.name.clone();
            Some(FlowView { process: self.process(id), asset, sink: self.sink(sink), bound })
        });
        (views.collect(), count)
    }
}
