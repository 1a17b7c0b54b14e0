//! How growth spreads: from a source to its holder, from a holder to its bounds, its carriers and its children.
//!
//! A work list of single contributions ("pulls"). All values only grow and are clamped, so it ends; cycles of processes
//! that chat over pipes could make it end late, which [`MOST_PULLS`] prevents. Must not know when things are forgotten.

use std::collections::{BTreeMap, VecDeque};

use agent_ebpf::UNCOUNTED;
use foldhash::{HashMap, HashSet};

use super::{FLOORS, Ledger, carrier_of, domain::Domain};
use crate::event::{AssetId, HolderId, ObjectId, SinkKey, Source};

/// How often one contribution is recomputed for one event before it is set to all that the flows allow. Two processes
/// that echo bytes to each other raise each other's `taken` lap by lap until a flow or the asset's size stops them; a
/// terabyte in laps of a floor would be millions. The jump can only overshoot, so the bound stays sound.
const MOST_PULLS: u32 = 1000;

/// One contribution to recompute: what `source` gives of `asset` to `holder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pull {
    pub(super) holder: HolderId,
    pub(super) source: Source,
    pub(super) asset: AssetId,
}

/// What grew during one event, in bytes.
#[derive(Debug, Default)]
pub(super) struct Grown {
    pub(super) takes: BTreeMap<(HolderId, AssetId), u64>,
    pub(super) flows: BTreeMap<(HolderId, AssetId, Domain), u64>,
    /// Who came to have something of an asset from a source that had given him nothing of it. Kept while acts wait for that.
    pub(super) firsts: Vec<(HolderId, AssetId)>,
}

impl Ledger {
    /// Recomputes `pulls` and all that depends on them.
    pub(super) fn spread(&mut self, pulls: Vec<Pull>, grown: &mut Grown) {
        if pulls.is_empty() {
            return;
        }
        let mut waiting: HashSet<Pull> = pulls.iter().copied().collect();
        let mut queue = VecDeque::from(pulls);
        let mut times: HashMap<Pull, u32> = HashMap::default();
        let mut next = Vec::new();
        while let Some(pull) = queue.pop_front() {
            waiting.remove(&pull);
            let times = times.entry(pull).or_insert(0);
            *times += 1;
            let offer = self.offer(pull, *times >= MOST_PULLS);
            self.accept(pull, offer, grown, &mut next);
            queue.extend(next.drain(..).filter(|pull| waiting.insert(*pull)));
        }
    }

    /// The size of `asset` changed: all that was clamped to the old one may grow.
    pub(super) fn resize(&mut self, asset: AssetId, grown: &mut Grown) {
        let holders: Vec<HolderId> =
            self.holders.iter().filter(|(_, h)| h.taken.contains_key(&asset)).map(|(&id, _)| id).collect();
        let mut pulls = Vec::new();
        for id in holders {
            self.retotal(id, asset, grown, &mut pulls);
        }
        self.spread(pulls, grown);
    }

    /// Raises the bound of one domain if its flow, the take and the asset's size allow more.
    pub(super) fn raise_bound(&mut self, id: HolderId, asset: AssetId, domain: Domain, grown: &mut Grown) {
        let Some(most) = self.assets.get(&asset).map(|asset| asset.most) else { return };
        let Some(holder) = self.holders.get_mut(&id) else { return };
        let taken = holder.taken.get(&asset).map_or(0, |taken| taken.total);
        let Some(reach) = holder.reach.get(&(asset.mark(), domain)) else { return };
        let bound = reach.flow.min(taken).min(most);
        let known = holder.bounds.get(&(asset, domain)).copied().unwrap_or(0);
        if bound > known {
            *grown.flows.entry((id, asset, domain)).or_insert(0) += bound - known;
            holder.bounds.insert((asset, domain), bound);
        }
    }

    /// `id` feeds the carrier behind `key`, with how much of which asset is for [`Ledger::feed`] to say.
    pub(super) fn join(&mut self, id: HolderId, key: SinkKey) {
        let Some(object) = carrier_of(key) else { return };
        let carrier = self.carriers.entry(object).or_default();
        // A file that is also shared memory keeps the name of the file.
        if !matches!(carrier.key, Some(SinkKey::File(_))) {
            carrier.key = Some(key);
        }
        carrier.writers.entry(id).or_default();
    }

    /// Raises what `id` contributes to the carrier behind `key`, and appends who must look again.
    pub(super) fn feed(&mut self, id: HolderId, key: SinkKey, asset: AssetId, pulls: &mut Vec<Pull>) {
        let Some(object) = carrier_of(key) else { return };
        let Some(holder) = self.holders.get(&id) else { return };
        let taken = holder.taken.get(&asset).map_or(0, |taken| taken.total);
        let put = holder.flows.get(&key).map_or(0, |flow| flow.of(asset));
        // Of memory that several share, what came out of it went in by another of them, who is counted himself: else two that
        // look at each other's stores would have everything in the end.
        let echo = if put >= UNCOUNTED {
            let intake = holder.sources.get(&Source::Carrier(object));
            intake.and_then(|intake| intake.gives.get(&asset)).copied().unwrap_or(0)
        } else {
            0
        };
        let put = put.min(taken.saturating_sub(echo));
        self.join(id, key);
        let Some(carrier) = self.carriers.get_mut(&object) else { return };
        let known = carrier.writers.entry(id).or_default().entry(asset).or_insert(0);
        if put <= *known {
            return;
        }
        let growth = put - *known;
        *known = put;
        if self.restoring {
            return;
        }
        self.raise_cap(object, asset, growth, Some(id), pulls);
    }

    /// A carrier can hold `growth` bytes more, of whomever. Appends who must look again; `by` has what he put there.
    pub(super) fn raise_cap(
        &mut self,
        object: ObjectId,
        asset: AssetId,
        growth: u64,
        by: Option<HolderId>,
        pulls: &mut Vec<Pull>,
    ) {
        if let Some(journal) = &mut self.journal {
            journal.caps.insert((object, asset));
        }
        let carrier = self.carriers.entry(object).or_default();
        let cap = carrier.caps.entry(asset).or_insert(0);
        let before = *cap;
        *cap = cap.saturating_add(growth);
        let small = self.small.entry(asset).or_insert(0);
        *small = match (before < self.floor, *cap < self.floor) {
            (true, true) => small.saturating_add(growth),
            (true, false) => small.saturating_sub(before),
            _ => *small,
        };
        let exhausted = !self.followed.contains(&asset) && *small >= self.floor.saturating_mul(FLOORS);
        if exhausted {
            self.followed.insert(asset);
            self.pull_all(asset, pulls);
        } else if *cap >= self.floor || self.followed.contains(&asset) {
            pulls.extend(carrier.readers.iter().filter(|&&reader| Some(reader) != by).map(|&holder| Pull {
                holder,
                source: Source::Carrier(object),
                asset,
            }));
        }
    }

    /// What the source can give now. `all` leaves out what its feeders took, see [`MOST_PULLS`].
    fn offer(&self, pull: Pull, all: bool) -> u64 {
        let Pull { holder, source, asset } = pull;
        let Some(bytes) =
            self.holders.get(&holder).and_then(|h| h.sources.get(&source)).map(|intake| intake.bytes)
        else {
            return 0;
        };
        match source {
            Source::Asset(_) | Source::Mark(_) => bytes,
            // What a process has mapped it has taken of before.
            Source::Grown(_) if self.is_alone(asset) || self.taken(holder, asset) != 0 => bytes,
            Source::Grown(_) => 0,
            Source::Parent(_) | Source::Reached(_) if all => bytes,
            Source::Parent(parent) | Source::Reached(parent) => bytes.min(self.taken(parent, asset)),
            Source::Carrier(object) => {
                let cap = if all {
                    self.most_in(object, holder, asset)
                } else {
                    self.cap_for(object, holder, asset)
                };
                if cap < self.floor && !self.followed.contains(&asset) { 0 } else { bytes.min(cap) }
            }
        }
    }

    /// What others than `reader` can have put of `asset` into a carrier.
    fn cap_for(&self, object: ObjectId, reader: HolderId, asset: AssetId) -> u64 {
        let Some(carrier) = self.carriers.get(&object) else { return 0 };
        let own = carrier.writers.get(&reader).and_then(|fed| fed.get(&asset)).copied().unwrap_or(0);
        carrier.caps.get(&asset).map_or(0, |cap| cap.saturating_sub(own))
    }

    /// The same if every feeder had taken the whole asset.
    fn most_in(&self, object: ObjectId, reader: HolderId, asset: AssetId) -> u64 {
        let Some(carrier) = self.carriers.get(&object) else { return 0 };
        let kept = carrier.kept.get(&asset).map_or(0, |kept| kept.bytes);
        let keys = [SinkKey::File(object), SinkKey::Process(object)];
        carrier
            .writers
            .keys()
            .filter(|&&writer| writer != reader)
            .filter_map(|writer| self.holders.get(writer))
            .flat_map(|holder| keys.iter().filter_map(|key| holder.flows.get(key)))
            .fold(kept, |sum, flow| sum.saturating_add(flow.of(asset)))
    }

    /// From now on carriers give what they hold of `asset` however little it is, also to who read before.
    fn pull_all(&self, asset: AssetId, pulls: &mut Vec<Pull>) {
        for (&object, carrier) in &self.carriers {
            if carrier.caps.get(&asset).is_some_and(|&cap| cap > 0) {
                pulls.extend(carrier.readers.iter().map(|&holder| Pull {
                    holder,
                    source: Source::Carrier(object),
                    asset,
                }));
            }
        }
    }

    /// Books a contribution, if it is more than was known.
    fn accept(&mut self, pull: Pull, offer: u64, grown: &mut Grown, next: &mut Vec<Pull>) {
        let Some(holder) = self.holders.get_mut(&pull.holder) else { return };
        let Some(intake) = holder.sources.get_mut(&pull.source) else { return };
        let known = intake.gives.get(&pull.asset).copied().unwrap_or(0);
        if offer <= known {
            return;
        }
        intake.gives.insert(pull.asset, offer);
        if known == 0 && !self.waiting.is_empty() {
            grown.firsts.push((pull.holder, pull.asset));
        }
        let taken = holder.taken.entry(pull.asset).or_default();
        let sum = match pull.source {
            // Reaching is taking: whoever does it is asked for on the reader list.
            Source::Asset(_)
            | Source::Mark(_)
            | Source::Grown(_)
            | Source::Carrier(_)
            | Source::Reached(_) => &mut taken.fresh_sum,
            Source::Parent(_) => &mut taken.inherited_sum,
        };
        *sum = sum.saturating_add(offer - known);
        self.retotal(pull.holder, pull.asset, grown, next);
    }

    /// Clamps one holder's sums anew and passes growth on to its bounds, carriers and children.
    fn retotal(&mut self, id: HolderId, asset: AssetId, grown: &mut Grown, next: &mut Vec<Pull>) {
        let Some(most) = self.assets.get(&asset).map(|asset| asset.most) else { return };
        let Some(holder) = self.holders.get_mut(&id) else { return };
        let Some(taken) = holder.taken.get_mut(&asset) else { return };
        let fresh = taken.fresh_sum.min(most);
        let known = taken.fresh;
        if fresh > known {
            *grown.takes.entry((id, asset)).or_insert(0) += fresh - known;
            taken.fresh = fresh;
        }
        let before = taken.total;
        taken.total = before.max(taken.fresh_sum.saturating_add(taken.inherited_sum).min(most));
        // A larger asset can raise a bound although nothing more was taken, so bounds are looked at in any case.
        let after = taken.total;
        let bound = |domain| holder.bounds.get(&(asset, domain)).copied().unwrap_or(0);
        let bounds: Vec<Domain> = holder
            .reach
            .range((asset.mark(), Domain::MIN)..)
            .take_while(|((of, _), _)| *of == asset.mark())
            .filter(|&(&(_, domain), reach)| reach.flow > bound(domain))
            .map(|(&(_, domain), _)| domain)
            .collect();
        if (fresh > known || after > before)
            && let Some(journal) = &mut self.journal
        {
            journal.taken.insert((id, asset));
        }
        let fed: Vec<SinkKey> = if after > before {
            // Only a flow larger than the old take was held back by it.
            holder
                .flows
                .iter()
                .filter(|(key, flow)| carrier_of(**key).is_some() && flow.of(asset) > before)
                .map(|(&key, _)| key)
                .collect()
        } else {
            Vec::new()
        };
        if before == 0 && after > 0 {
            if !self.waiting.is_empty() {
                grown.firsts.push((id, asset));
            }
            let source = Source::Grown(asset.mark());
            next.extend(holder.sources.contains_key(&source).then_some(Pull { holder: id, source, asset }));
        }
        if after > before {
            next.extend(holder.children.iter().flat_map(|&holder| {
                [Source::Parent(id), Source::Reached(id)].map(|source| Pull { holder, source, asset })
            }));
        }
        for domain in bounds {
            self.raise_bound(id, asset, domain, grown);
        }
        for key in fed {
            self.feed(id, key, asset, next);
        }
    }
}
