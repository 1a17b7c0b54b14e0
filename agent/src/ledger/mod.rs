//! The ledger: how many bytes of which asset each holder took, and how many can have reached each place.
//!
//! Pure bookkeeping over [`Event`]s: this module must not know how they were gathered, what rules conclude from them, nor
//! any clock but the one that events carry. Three quantities, all of which only grow:
//!
//! - `taken(H, a) = min(asset bytes, Σ over H's sources)`, where an asset's own file gives what was read, a carrier `c`
//!   gives `min(bytes read from c, cap(c, a))`, a parent gives `min(inherited bytes, taken(parent, a))`, and so does a process
//!   that H reached into;
//! - `cap(c, a) = Σ over other holders W that fed c of min(bytes W put into c while it held a, taken(W, a))`;
//! - `bound(H, a, domain) = min(bytes H put into the domain while it held a, taken(H, a), asset bytes)`.
//!
//! At most `taken(H, a)` distinct bytes of `a` can leave through H, whatever the encoding, so the minimum never
//! undercounts. A holder's own feed is left out of the cap of what it reads back: those bytes it had already. The only
//! slack is the propagation floor: a carrier gives nothing while its cap is below it, and all of it from then on. It is a
//! budget: once the carriers below it hold [`FLOORS`] times as much together, each of them gives what it has.
//!
//! Every contribution is cached where it is used, so an event costs only what it changes (`spread`), and what feeds a
//! value may be forgotten without the value falling (`forget`).

mod acts;
mod domain;
mod egress;
mod forget;
mod lineage;
mod past;
mod recall;
mod remembered;
mod spread;
#[cfg(test)]
mod tests;
mod view;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

// Looked up a dozen times for an event: a quicker hash than the standard one, with a random seed too.
use foldhash::HashMap;

use self::{
    domain::Domain,
    past::Journal,
    remembered::{Carrier, Flow, Holder, Intake, Kept, KnownSink, Reach, Taken, carrier_of},
    spread::{Grown, Pull},
};
pub use self::{
    egress::HostEgress,
    forget::Limits,
    recall::Content,
    view::{FlowView, HolderView},
};
use crate::event::{
    Asset, AssetId, AssetList, AssetSet, BootNs, Event, HolderId, Loss, Mark, ObjectId, Process, Record,
    RecordKind, Sink, SinkKey, Source,
};

/// So many floors may be in carriers that hold less than one each, of one asset and since the agent started. What comes after
/// that is followed from its first byte: a thousand channels are no way around the floor.
pub(crate) const FLOORS: u64 = 16;

/// The whole of it. One instance, one task.
#[derive(Debug)]
pub struct Ledger {
    /// Bytes; see [`Ledger::new`].
    floor: u64,
    limits: Limits,
    /// Bytes in carriers that hold less than the floor, by asset, and the assets of which that came to too much.
    small: BTreeMap<AssetId, u64>,
    followed: BTreeSet<AssetId>,
    assets: BTreeMap<AssetId, Arc<Asset>>,
    /// The same, by mark.
    marked: BTreeMap<Mark, Vec<AssetId>>,
    sinks: HashMap<SinkKey, KnownSink>,
    holders: HashMap<HolderId, Holder>,
    carriers: HashMap<ObjectId, Carrier>,
    host: egress::Host,
    /// What events said was lost, and what this module had to evict.
    loss: Loss,
    /// The latest time that any event carried.
    now: BootNs,
    swept: BootNs,
    /// Above so many it is swept before its time.
    most_holders: usize,
    /// Entries of all [`Holder::flows`] and of all [`Holder::sources`], for the limits.
    flows: usize,
    intakes: usize,
    /// Where the bytes of each record went that the last event made; see [`Ledger::trace`].
    emitted: Vec<Option<SinkKey>>,
    /// Acts that are not told yet.
    waiting: waiting::WaitingActs,
    /// What changed since it was last asked for; `None` when nobody asks.
    journal: Option<Journal>,
    /// What an earlier ledger was told is told again: conclusions that are known already do not grow by it.
    restoring: bool,
}

impl Ledger {
    /// An empty ledger. `propagation_floor`: bytes that a carrier must hold before its readers count as holders.
    #[must_use]
    pub fn new(propagation_floor: u64) -> Self {
        Self::with_limits(propagation_floor, Limits::default())
    }

    /// Like [`Ledger::new`] with other limits of memory than the default.
    #[must_use]
    pub fn with_limits(propagation_floor: u64, limits: Limits) -> Self {
        Self {
            floor: propagation_floor,
            limits,
            small: BTreeMap::new(),
            followed: BTreeSet::new(),
            assets: BTreeMap::new(),
            marked: BTreeMap::new(),
            sinks: HashMap::default(),
            holders: HashMap::default(),
            carriers: HashMap::default(),
            host: egress::Host::default(),
            loss: Loss::new(),
            now: BootNs::default(),
            swept: BootNs::default(),
            most_holders: limits.holders,
            flows: 0,
            intakes: 0,
            emitted: Vec::new(),
            waiting: waiting::WaitingActs::default(),
            journal: None,
            restoring: false,
        }
    }

    /// Takes one statement of the sensor and appends what grew because of it: at most one take record for each (holder,
    /// asset) and one flow record for each (holder, asset, domain), takes first. A repeated event appends nothing. Their lineage is
    /// for [`Ledger::trace`] to find: few are ever looked at, and finding it costs more than all the rest.
    pub fn apply(&mut self, event: Event, out: &mut Vec<Record>) {
        let mut grown = Grown::default();
        let taker = if let Event::Take { holder, .. } = &event { Some(*holder) } else { None };
        let first = out.len();
        self.emitted.clear();
        match event {
            Event::Process { holder, process } => {
                let holder = self.holders.entry(holder).or_default();
                holder.process = Some(process);
            }
            Event::Sink { key, sink } => {
                self.sinks.insert(key, KnownSink { sink, since: self.now });
            }
            Event::Asset(asset) => {
                let id = asset.id;
                let (most, before) = self.assets.get(&id).map_or((0, 0), |known| (known.most, known.bytes));
                // What it shrank by was taken perhaps, and what it grows by is new. An earlier ledger may have known more.
                let most = most.saturating_add(asset.bytes.saturating_sub(before)).max(asset.most);
                let known = self.assets.insert(id, Arc::new(Asset { most, ..(*asset).clone() }));
                if known.is_none() {
                    self.marked.entry(id.mark()).or_default().push(id);
                }
                // Of a thousand assets few change at once, and each look is one at all holders.
                if known.is_none_or(|known| known.most != most) {
                    self.resize(id, &mut grown);
                }
            }
            Event::Take { holder, source, bytes, listed, at } => {
                self.now = self.now.max(at);
                self.take(holder, source, bytes, listed, &mut grown);
            }
            Event::Flow { holder, sink, assets, bytes, at } => {
                self.now = self.now.max(at);
                self.flow(holder, sink, assets, bytes, &mut grown);
            }
            Event::Act { holder, act, assets, at } => {
                self.now = self.now.max(at);
                self.act_or_wait(holder, act, assets, out);
            }
            Event::Egress { to, control, bytes, at } => {
                self.now = self.now.max(at);
                self.egress(to, control, bytes, out);
            }
            Event::Exit { holder, at } => {
                self.now = self.now.max(at);
                if let Some(holder) = self.holders.get_mut(&holder) {
                    holder.exited.get_or_insert(at);
                }
            }
            Event::Loss(loss) => {
                // Counts are sums since the start: the larger one is the newer one.
                for (stage, count) in loss {
                    let known = self.loss.entry(stage).or_insert(0);
                    *known = count.max(*known);
                }
            }
        }
        let firsts = std::mem::take(&mut grown.firsts);
        self.emit(grown, out);
        self.tell_waiting(taker, &firsts, out);
        if self.is_sweep_due() {
            // What is forgotten now cannot be followed later.
            out[first..].iter_mut().enumerate().for_each(|(nth, record)| self.trace(nth, record));
            self.emitted.clear();
            self.sweep();
        }
    }

    /// Fills in the way that the bytes of a record took: of the `nth` that the last [`Ledger::apply`] appended, from 0.
    pub fn trace(&self, nth: usize, record: &mut Record) {
        if let Some(&sink) = self.emitted.get(nth) {
            record.lineage = Arc::new(self.lineage(record.holder, record.asset.id, sink));
        }
    }

    /// What was lost so far at every stage that reports here; empty when nothing was.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.loss.iter().filter(|&(_, &count)| count > 0).map(|(&stage, &count)| (stage, count)).collect()
    }

    /// Bytes of `asset` that `holder` took, an upper bound.
    #[must_use]
    pub fn taken(&self, holder: HolderId, asset: AssetId) -> u64 {
        self.holders.get(&holder).and_then(|h| h.taken.get(&asset)).map_or(0, |taken| taken.total)
    }

    /// Bytes of `asset` that can have reached `sink`'s domain through `holder`. A domain is a filesystem, a device, a
    /// peer's address, or the object at the other end.
    #[must_use]
    pub fn bound(&self, holder: HolderId, asset: AssetId, sink: SinkKey) -> u64 {
        self.holders.get(&holder).and_then(|h| h.bounds.get(&(asset, Domain::of(sink)))).copied().unwrap_or(0)
    }

    /// All registered assets that a set of the kernel's can hold.
    #[must_use]
    pub fn all_of(&self, set: AssetSet) -> AssetList {
        set.marks().flat_map(|mark| self.of_mark(mark)).collect()
    }

    fn of_mark(&self, mark: Mark) -> impl Iterator<Item = AssetId> {
        self.marked.get(&mark).into_iter().flatten().copied()
    }

    /// Whether no other registered asset has the mark of this one: then it says which it is.
    fn is_alone(&self, asset: AssetId) -> bool {
        self.marked.get(&asset.mark()).is_none_or(|assets| assets.len() == 1)
    }

    /// The registered assets, by id.
    pub fn assets(&self) -> impl Iterator<Item = &Arc<Asset>> {
        self.assets.values()
    }

    fn take(&mut self, id: HolderId, source: Source, bytes: u64, listed: AssetList, grown: &mut Grown) {
        let now = self.now;
        let holder = self.holders.entry(id).or_default();
        holder.listed = listed;
        let intake = holder.sources.entry(source).or_insert_with(|| {
            self.intakes += 1;
            Intake::default()
        });
        if bytes <= intake.bytes {
            return;
        }
        let growth = bytes - intake.bytes;
        intake.bytes = bytes;
        intake.at = now;
        let assets: Vec<AssetId> = match source {
            Source::Asset(asset) => vec![asset],
            Source::Mark(mark) | Source::Grown(mark) => self.of_mark(mark).collect(),
            Source::Carrier(object) => {
                let carrier = self.carriers.entry(object).or_default();
                carrier.readers.insert(id);
                carrier.read = carrier.read.saturating_add(growth);
                carrier.caps.keys().copied().collect()
            }
            Source::Parent(parent) | Source::Reached(parent) => {
                let parent = self.holders.entry(parent).or_default();
                parent.children.insert(id);
                parent.taken.keys().copied().collect()
            }
        };
        self.spread(assets.into_iter().map(|asset| Pull { holder: id, source, asset }).collect(), grown);
    }

    fn flow(&mut self, id: HolderId, key: SinkKey, set: AssetSet, bytes: u64, grown: &mut Grown) {
        let now = self.now;
        let holder = self.holders.entry(id).or_default();
        let flow = holder.flows.entry(key).or_insert_with(|| {
            self.flows += 1;
            Flow::default()
        });
        let known = flow.sets.entry(set).or_insert(0);
        if bytes <= *known {
            return;
        }
        let growth = bytes - *known;
        *known = bytes;
        flow.at = now;
        if let SinkKey::Peer { ip, .. } = key {
            self.host.expect(ip, growth);
        }
        // A set can hold more than what is registered: the sensor's own canary.
        for mark in set.marks().filter(|mark| self.marked.contains_key(mark)) {
            let reach = holder.reach.entry((mark, Domain::of(key))).or_insert(Reach { flow: 0, sink: key });
            reach.flow = reach.flow.saturating_add(growth);
            reach.sink = key;
        }
        // Of what it never took nothing can be there, whatever shares a mark.
        let taken: Vec<AssetId> = holder.taken.keys().copied().filter(|&asset| set.contains(asset)).collect();
        let mut pulls = Vec::new();
        self.join(id, key);
        for asset in taken {
            self.raise_bound(id, asset, Domain::of(key), grown);
            self.feed(id, key, asset, &mut pulls);
        }
        if let Some(object) = carrier_of(key)
            && let Some(carrier) = self.carriers.get_mut(&object)
        {
            carrier.put = carrier.put.saturating_add(growth);
        }
        self.spread(pulls, grown);
    }

    /// Turns growth into records, takes first.
    fn emit(&mut self, grown: Grown, out: &mut Vec<Record>) {
        for ((id, asset), bytes) in grown.takes {
            self.say(RecordKind::Take, id, asset, None, bytes, out);
        }
        for ((id, asset, domain), bytes) in grown.flows {
            let sink = self
                .holders
                .get(&id)
                .and_then(|h| h.reach.get(&(asset.mark(), domain)))
                .map(|reach| reach.sink);
            self.say(RecordKind::Flow, id, asset, sink, bytes, out);
        }
    }

    fn say(
        &mut self,
        kind: RecordKind,
        id: HolderId,
        asset: AssetId,
        sink: Option<SinkKey>,
        bytes: u64,
        out: &mut Vec<Record>,
    ) {
        let (Some(holder), Some(asset)) = (self.holders.get(&id), self.assets.get(&asset)) else { return };
        out.push(Record {
            kind,
            at: self.now,
            asset: Arc::clone(asset),
            holder: id,
            process: self.process(id),
            sink: sink.map(|key| self.sink(key)),
            bytes,
            act: None,
            victim: None,
            listed: holder.listed.contains(asset.id),
            lineage: Arc::default(),
        });
        self.emitted.push(sink);
    }

    fn process(&self, id: HolderId) -> Arc<Process> {
        match self.holders.get(&id).and_then(|holder| holder.process.as_ref()) {
            Some(process) => Arc::clone(process),
            None => Arc::new(lineage::unknown_process(id)),
        }
    }

    fn sink(&self, key: SinkKey) -> Arc<Sink> {
        match self.sinks.get(&key) {
            Some(known) => Arc::clone(&known.sink),
            None => Arc::new(domain::unknown_sink(key)),
        }
    }
}
