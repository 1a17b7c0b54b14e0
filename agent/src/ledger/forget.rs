//! Forgetting: what keeps memory bounded over months without a bound ever falling.
//!
//! Contributions are cached with whoever received them, so an exited holder can go as soon as all that was still under
//! way has been reported ([`Limits::grace`]): its carriers keep its share of the cap and the way the bytes took, and so
//! do its children. A carrier nobody is left to feed or read goes when nothing can be left in it: a pipe or socket with
//! as much read as was put in, or a file that holds nothing of an asset. A file with asset bytes stays, for anybody may
//! read it next month. What exceeds the limits nevertheless is evicted, smallest first, and counted as `ledger_evicted`.
//! A holder that lives never is: it can send at any time what it took long ago. The kernel's map has only so much room for them.

use std::{collections::BTreeSet, sync::Arc};

use super::{Holder, Kept, Ledger, carrier_of, domain::Domain};
use crate::event::{AssetId, BootNs, Edge, HolderId, ObjectId, SinkKey, Source};

/// The stage under which evictions are counted.
const EVICTED: &str = "ledger_evicted";

/// How often exited holders are looked for, in ns.
const SWEEP: u64 = 5_000_000_000;

/// How much is remembered. The defaults are about 150 MiB when all are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes that took bytes and exited, with those that live; these alone can be more.
    pub holders: usize,
    /// Files, pipes and sockets that a holder wrote into.
    pub carriers: usize,
    /// (holder, sink) pairs.
    pub flows: usize,
    /// (holder, source) pairs.
    pub intakes: usize,
    /// Resolved sinks.
    pub sinks: usize,
    /// Nanoseconds for which an exited holder may still be referred to by what the sensor has not yet reported.
    pub grace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            holders: 16_384,
            carriers: 65_536,
            flows: 131_072,
            intakes: 131_072,
            sinks: 131_072,
            grace: 60_000_000_000,
        }
    }
}

impl Ledger {
    /// Sweeps every few seconds of event time, and whenever a limit is passed.
    pub(super) fn is_sweep_due(&self) -> bool {
        let full = self.holders.len() > self.most_holders
            || self.carriers.len() > self.limits.carriers
            || self.flows > self.limits.flows
            || self.intakes > self.limits.intakes
            || self.sinks.len() > self.limits.sinks;
        full || self.now.0.saturating_sub(self.swept.0) >= SWEEP
    }

    pub(super) fn sweep(&mut self) {
        self.swept = self.now;
        self.drop_exited();
        self.drop_empty_carriers();
        self.evict_holders();
        self.waiting.forget(&self.holders);
        self.evict_carriers();
        self.fold_flows();
        self.fold_intakes();
        self.drop_sinks();
    }

    fn drop_exited(&mut self) {
        let exited: Vec<HolderId> = self
            .holders
            .iter()
            .filter(|(_, holder)| match holder.exited {
                Some(at) => self.is_settled(at),
                // Only named as a parent, and no child is left: it has nothing of its own that could be lost.
                None => holder.is_bare() && !holder.children.iter().any(|c| self.holders.contains_key(c)),
            })
            .map(|(&id, _)| id)
            .collect();
        for id in exited {
            self.forget_holder(id);
        }
    }

    /// Removes a holder; what it gave stays with those who received it.
    fn forget_holder(&mut self, id: HolderId) {
        let Some(holder) = self.holders.get(&id) else { return };
        let assets: Vec<AssetId> =
            holder.taken.iter().filter(|(_, taken)| taken.total > 0).map(|(&asset, _)| asset).collect();
        let children: Vec<HolderId> = holder.children.iter().copied().collect();
        let ways: Vec<(AssetId, Arc<Vec<Edge>>)> =
            assets.into_iter().filter_map(|asset| Some((asset, Arc::new(self.way_to(id, asset)?)))).collect();
        for child in children {
            self.keep_origin(child, Source::Parent(id), &ways);
            self.keep_origin(child, Source::Reached(id), &ways);
        }
        let keys: Vec<SinkKey> =
            self.holders.get(&id).map_or_else(Vec::new, |h| h.flows.keys().copied().collect());
        for key in keys {
            self.keep_share(id, key, &ways);
        }
        let Some(holder) = self.holders.remove(&id) else { return };
        if let Some(journal) = &mut self.journal {
            journal.taken.extend(holder.taken.keys().map(|&asset| (id, asset)));
        }
        self.flows -= holder.flows.len();
        self.intakes -= holder.sources.len();
        for source in holder.sources.keys() {
            self.unlink(id, *source);
        }
    }

    /// Moves what a holder fed into a carrier to what the carrier keeps.
    fn keep_share(&mut self, id: HolderId, key: SinkKey, ways: &[(AssetId, Arc<Vec<Edge>>)]) {
        let Some(object) = carrier_of(key) else { return };
        let from = self.process_node(id);
        let to = self.carrier_node(object);
        let Some(carrier) = self.carriers.get_mut(&object) else { return };
        for (asset, bytes) in carrier.writers.remove(&id).unwrap_or_default() {
            if bytes == 0 {
                continue;
            }
            let way = || {
                let mut way =
                    ways.iter().find(|(of, _)| *of == asset).map_or_else(Vec::new, |(_, way)| way.to_vec());
                way.push(Edge { from: from.clone(), to: to.clone(), bytes });
                Arc::new(way)
            };
            match carrier.kept.get_mut(&asset) {
                Some(kept) => {
                    kept.bytes = kept.bytes.saturating_add(bytes);
                    if bytes > kept.largest {
                        kept.largest = bytes;
                        kept.path = way();
                    }
                }
                None => {
                    carrier.kept.insert(asset, Kept { bytes, largest: bytes, path: way() });
                }
            }
        }
    }

    /// Remembers with a receiver the way to a source that is about to be forgotten.
    fn keep_origin(&mut self, receiver: HolderId, source: Source, ways: &[(AssetId, Arc<Vec<Edge>>)]) {
        let intake = self.holders.get_mut(&receiver).and_then(|h| h.sources.get_mut(&source));
        if let Some(intake) = intake {
            intake.origin.extend(ways.iter().map(|(asset, way)| (*asset, Arc::clone(way))));
        }
    }

    /// Forgets that `id` takes from `source`.
    fn unlink(&mut self, id: HolderId, source: Source) {
        match source {
            Source::Asset(_) | Source::Mark(_) | Source::Grown(_) => {}
            Source::Carrier(object) => {
                if let Some(carrier) = self.carriers.get_mut(&object) {
                    carrier.readers.remove(&id);
                }
            }
            Source::Parent(parent) | Source::Reached(parent) => {
                // It may be both.
                let other = match source {
                    Source::Parent(_) => Source::Reached(parent),
                    _ => Source::Parent(parent),
                };
                if self.holders.get(&id).is_some_and(|holder| holder.sources.contains_key(&other)) {
                    return;
                }
                if let Some(parent) = self.holders.get_mut(&parent) {
                    parent.children.remove(&id);
                }
            }
        }
    }

    fn drop_empty_carriers(&mut self) {
        let journal = &mut self.journal;
        self.carriers.retain(|&object, carrier| {
            let emptied = matches!(carrier.key, Some(SinkKey::Process(_))) && carrier.read >= carrier.put;
            let holds = !carrier.kept.is_empty() && !emptied;
            let stays = holds || !carrier.writers.is_empty() || !carrier.readers.is_empty();
            if let Some(journal) = journal.as_mut().filter(|_| !stays) {
                journal.caps.extend(carrier.caps.keys().map(|&asset| (object, asset)));
            }
            stays
        });
    }

    fn evict_holders(&mut self) {
        let limit = self.limits.holders;
        if self.holders.len() > limit {
            let exited = self.holders.iter().filter(|(_, holder)| holder.exited.is_some());
            let mut order: Vec<_> = exited
                .map(|(&id, holder)| {
                    let taken =
                        holder.taken.values().fold(0_u64, |sum, taken| sum.saturating_add(taken.total));
                    (taken, id)
                })
                .collect();
            order.sort_unstable();
            for (_, id) in order.into_iter().take(self.holders.len() - keep(limit)) {
                self.forget_holder(id);
                self.count_evicted(1);
            }
        }
        // Of those that live no sweep makes fewer: the next is not due at once.
        self.most_holders = limit.max(self.holders.len() + limit / 8);
    }

    fn evict_carriers(&mut self) {
        if self.carriers.len() <= self.limits.carriers {
            return;
        }
        let mut order: Vec<_> = self
            .carriers
            .iter()
            .map(|(&object, carrier)| {
                let cap = carrier.caps.values().copied().fold(0, u64::saturating_add);
                let in_use = !carrier.writers.is_empty() || !carrier.readers.is_empty();
                (in_use && cap > 0, cap, object)
            })
            .collect();
        order.sort_unstable();
        for (_, _, object) in order.into_iter().take(self.carriers.len() - keep(self.limits.carriers)) {
            self.evict_carrier(object);
        }
    }

    fn evict_carrier(&mut self, object: ObjectId) {
        self.drop_carrier(object);
        self.count_evicted(1);
    }

    /// Removes a carrier; who took from it keeps the way.
    pub(super) fn drop_carrier(&mut self, object: ObjectId) {
        let Some(carrier) = self.carriers.get(&object) else { return };
        let assets: Vec<AssetId> = carrier.caps.keys().copied().collect();
        let readers: Vec<HolderId> = carrier.readers.iter().copied().collect();
        let ways: Vec<_> = assets
            .into_iter()
            .filter_map(|asset| Some((asset, Arc::new(self.way_into(object, asset)?))))
            .collect();
        for reader in readers {
            self.keep_origin(reader, Source::Carrier(object), &ways);
        }
        if let Some(removed) = self.carriers.remove(&object)
            && let Some(journal) = &mut self.journal
        {
            journal.caps.extend(removed.caps.keys().map(|&asset| (object, asset)));
        }
    }

    /// Drops the flows that have been still for longest, such as closed connections. Their bytes stay in the sums of
    /// their domains and carriers; if one moves again it counts anew, which overstates. Only one that moved just now is
    /// counted as evicted.
    fn fold_flows(&mut self) {
        if self.flows <= self.limits.flows {
            return;
        }
        let mut order: Vec<_> = self
            .holders
            .iter()
            .flat_map(|(&id, holder)| holder.flows.iter().map(move |(&key, flow)| (flow.at, id, key)))
            .collect();
        order.sort_unstable();
        let mut touched = BTreeSet::new();
        for (at, id, key) in order.into_iter().take(self.flows - keep(self.limits.flows)) {
            let ways: Vec<_> = match (carrier_of(key), self.holders.get(&id)) {
                (Some(_), Some(holder)) => holder
                    .taken
                    .keys()
                    .filter_map(|&asset| Some((asset, Arc::new(self.way_to(id, asset)?))))
                    .collect(),
                _ => Vec::new(),
            };
            self.keep_share(id, key, &ways);
            if let Some(holder) = self.holders.get_mut(&id)
                && holder.flows.remove(&key).is_some()
            {
                self.flows -= 1;
                self.count_evicted(u64::from(!self.is_settled(at)));
                touched.insert(id);
            }
        }
        for id in touched {
            if let Some(holder) = self.holders.get_mut(&id) {
                let domains: BTreeSet<Domain> = holder.flows.keys().map(|&key| Domain::of(key)).collect();
                holder.reach.retain(|(_, domain), _| domains.contains(domain));
                holder.bounds.retain(|(_, domain), _| domains.contains(domain));
            }
        }
    }

    /// Drops the sources that have been still for longest. What they gave stays in the holder's sums. Only one that gave
    /// just now is counted as evicted.
    fn fold_intakes(&mut self) {
        if self.intakes <= self.limits.intakes {
            return;
        }
        let mut order: Vec<_> = self
            .holders
            .iter()
            .flat_map(|(&id, holder)| holder.sources.iter().map(move |(&from, intake)| (intake.at, id, from)))
            .collect();
        order.sort_unstable();
        for (at, id, source) in order.into_iter().take(self.intakes - keep(self.limits.intakes)) {
            if let Some(holder) = self.holders.get_mut(&id)
                && holder.sources.remove(&source).is_some()
            {
                self.intakes -= 1;
                self.unlink(id, source);
                self.count_evicted(u64::from(!self.is_settled(at)));
            }
        }
    }

    /// Drops the names of sinks that nothing refers to, oldest first. They are not counted: no bytes go with them, and
    /// a sink that nobody named again shows as a placeholder.
    fn drop_sinks(&mut self) {
        if self.sinks.len() <= self.limits.sinks {
            return;
        }
        let used: BTreeSet<SinkKey> = self
            .holders
            .values()
            .flat_map(|holder| holder.flows.keys().chain(holder.reach.values().map(|reach| &reach.sink)))
            .chain(self.carriers.values().filter_map(|carrier| carrier.key.as_ref()))
            .copied()
            .collect();
        let mut order: Vec<_> =
            self.sinks.iter().map(|(&key, known)| (used.contains(&key), known.since, key)).collect();
        order.sort_unstable();
        for (used, _, key) in order.into_iter().take(self.sinks.len() - keep(self.limits.sinks)) {
            self.sinks.remove(&key);
            self.count_evicted(u64::from(used));
        }
    }

    /// Whether something that moved last at `at` has been still for so long that no report of it is under way.
    const fn is_settled(&self, at: BootNs) -> bool {
        self.now.0.saturating_sub(at.0) >= self.limits.grace
    }

    fn count_evicted(&mut self, count: u64) {
        if count > 0 {
            *self.loss.entry(EVICTED).or_insert(0) += count;
        }
    }
}

impl Holder {
    /// Nothing is known of it but its name in somebody else's source.
    fn is_bare(&self) -> bool {
        self.process.is_none() && self.sources.is_empty() && self.flows.is_empty()
    }
}

/// Down to how many an eviction goes: by a batch, so that the next one is not due at once.
const fn keep(limit: usize) -> usize {
    limit - limit / 8
}
