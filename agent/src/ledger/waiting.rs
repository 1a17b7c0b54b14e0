//! Acts that wait until somebody has something of an asset, by whom they wait for: what a holder takes costs what waits for him, however
//! many others wait. It must not know what an act says.

use std::collections::{BTreeSet, HashSet};

use foldhash::HashMap;

use super::{Holder, Ledger};
use crate::event::{Act, AssetId, AssetList, HolderId, Record, Source};

/// Ancestors that are asked for where they have what they handed down.
pub(super) const ANCESTORS: u32 = 64;

/// An act that says something of these assets once a process has something of them.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) holder: HolderId,
    pub(super) act: Act,
    pub(super) assets: AssetList,
}

impl Waiting {
    /// Whose takes it waits for.
    fn for_whom(&self) -> HolderId {
        self.act.victim.unwrap_or(self.holder)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct WaitingActs {
    by_holder: HashMap<HolderId, Waiter>,
    /// Of all waiters together.
    acts: usize,
}

/// What waits for one holder.
#[derive(Debug, Default)]
struct Waiter {
    acts: Vec<Waiting>,
    /// Something was forgotten since all of it was looked at: what he has by then need not have grown.
    stale: bool,
}

impl WaitingActs {
    pub(super) const fn len(&self) -> usize {
        self.acts
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.acts == 0
    }

    /// Returns whose takes it waits for.
    pub(super) fn add(&mut self, waiting: Waiting) -> HolderId {
        let whom = waiting.for_whom();
        let waiter = self.by_holder.entry(whom).or_default();
        waiter.stale = true;
        waiter.acts.push(waiting);
        self.acts += 1;
        whom
    }

    fn is_for(&self, id: HolderId) -> bool {
        self.by_holder.contains_key(&id)
    }

    fn is_stale(&self, id: HolderId) -> bool {
        self.by_holder.get(&id).is_some_and(|waiter| waiter.stale)
    }

    /// Takes out what waits for a holder, to be looked at and put back.
    fn take(&mut self, id: HolderId) -> Waiter {
        let waiter = self.by_holder.remove(&id).unwrap_or_default();
        self.acts -= waiter.acts.len();
        waiter
    }

    fn put_back(&mut self, id: HolderId, waiter: Waiter) {
        if !waiter.acts.is_empty() {
            self.acts += waiter.acts.len();
            self.by_holder.insert(id, waiter);
        }
    }

    /// Forgets the acts of who is forgotten; of the others all is looked at anew when they next take something.
    pub(super) fn forget(&mut self, holders: &HashMap<HolderId, Holder>) {
        self.by_holder.retain(|id, _| holders.contains_key(id));
        self.by_holder.values_mut().for_each(|waiter| waiter.stale = true);
        self.acts = self.by_holder.values().map(|waiter| waiter.acts.len()).sum();
    }
}

impl Ledger {
    /// Tells of the acts that waited for what one event changed: `taker` took something, and `firsts` came to have something of an
    /// asset by a source that gave them nothing of it before.
    pub(super) fn tell_waiting(
        &mut self,
        taker: Option<HolderId>,
        firsts: &[(HolderId, AssetId)],
        out: &mut Vec<Record>,
    ) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(taker) = taker.filter(|&taker| self.waiting.is_stale(taker)) {
            self.tell_due(taker, None, out);
        }
        let mut looked_at: BTreeSet<(HolderId, AssetId)> = BTreeSet::new();
        for &(id, asset) in firsts {
            for whom in self.heirs_who_wait(id) {
                if looked_at.insert((whom, asset)) {
                    self.tell_due(whom, Some(asset), out);
                }
            }
        }
    }

    /// Tells of what waits for `whom` and need not wait any longer; of `asset` alone, or of all.
    pub(super) fn tell_due(&mut self, whom: HolderId, asset: Option<AssetId>, out: &mut Vec<Record>) {
        let mut waiter = self.waiting.take(whom);
        waiter.stale &= asset.is_some();
        waiter.acts.retain_mut(|waiting| {
            let due: AssetList = match asset {
                Some(asset) => waiting.assets.contains(asset).then_some(asset).into_iter().collect(),
                None => waiting.assets.clone(),
            };
            let due: AssetList = due.iter().filter(|&asset| self.is_due(waiting, asset)).collect();
            if due.is_empty() {
                return true;
            }
            self.tell_act(waiting.holder, &waiting.act, &due, out);
            waiting.assets = waiting.assets.iter().filter(|&asset| !due.contains(asset)).collect();
            !waiting.assets.is_empty()
        });
        self.waiting.put_back(whom, waiter);
    }

    fn is_due(&self, waiting: &Waiting, asset: AssetId) -> bool {
        match waiting.act.victim {
            Some(victim) => self.taken(victim, asset) != 0,
            None => self.has(waiting.holder, asset, ANCESTORS),
        }
    }

    /// `id` and who inherited of it, as far as acts wait for them. A child may have something only once its parent has it other than by
    /// hearing, although nothing more came over. It costs no more than spreading does, which looks at all children too.
    fn heirs_who_wait(&self, id: HolderId) -> Vec<HolderId> {
        let mut seen = HashSet::from([id]);
        let mut generation = vec![id];
        let mut found = Vec::new();
        for _ in 0..=ANCESTORS {
            found.extend(generation.iter().copied().filter(|&id| self.waiting.is_for(id)));
            let parents = std::mem::take(&mut generation);
            for parent in parents {
                let children = self.holders.get(&parent).into_iter().flat_map(|holder| &holder.children);
                generation
                    .extend(children.filter(|&&child| self.inherits(child, parent) && seen.insert(child)));
            }
            if generation.is_empty() {
                break;
            }
        }
        found
    }

    fn inherits(&self, child: HolderId, parent: HolderId) -> bool {
        self.holders.get(&child).is_some_and(|holder| holder.sources.contains_key(&Source::Parent(parent)))
    }

    /// Acts that could be told and wait on.
    #[cfg(test)]
    pub(super) fn overdue(&self) -> usize {
        let acts = self.waiting.by_holder.values().flat_map(|waiter| &waiter.acts);
        acts.filter(|waiting| waiting.assets.iter().any(|asset| self.is_due(waiting, asset))).count()
    }
}
