//! What recordings say a site could list: readers, controlled networks, egress budgets, each with its evidence.
//!
//! It only proposes what cannot hide a theft that is in the recording: whatever would cover as many bytes as a model to a place
//! that is not controlled becomes a warning. A thief can have been at work while it was recorded, so a person decides. It must
//! not know how proposals are written down.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io::Read,
    net::IpAddr,
    path::Path,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::file::Reader as RecordingReader;
use crate::{
    event::{Asset, Control, HolderId, Process, Record, RecordKind, Sink, SinkKind},
    ledger::Ledger,
    rules::{Window, peer_address},
};

/// Most different readers, addresses and flows that are told apart; what comes after is counted and warned of.
const MOST: usize = 16_384;
/// Processes and users that the evidence names.
const NAMED: usize = 8;
/// From here on it can be the model: the share of the asset, and the least.
const MODEL_SHARE: u64 = 100;
const MODEL_LEAST: u64 = 16 << 20;
/// Shortest prefixes that are proposed.
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;
/// Budgets: the name, the window, and the least that is proposed.
const BUDGETS: [(&str, Duration, u64); 2] =
    [("hour", Duration::from_secs(3600), 1 << 20), ("day", Duration::from_secs(86_400), 4 << 20)];

/// Programs that do whatever they are told: as a reader, one stands for everybody.
const GENERAL: [&str; 34] = [
    "awk",
    "base64",
    "bash",
    "busybox",
    "bzip2",
    "cat",
    "cp",
    "curl",
    "dash",
    "dd",
    "gzip",
    "head",
    "java",
    "lua",
    "mv",
    "nc",
    "ncat",
    "node",
    "openssl",
    "perl",
    "php",
    "rclone",
    "rsync",
    "ruby",
    "scp",
    "sftp-server",
    "sh",
    "socat",
    "ssh",
    "tail",
    "tar",
    "wget",
    "xz",
    "zstd",
];

/// What speaks for a proposal. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Processes that did it.
    pub times: u64,
    pub bytes: u64,
    pub first_ms: i64,
    pub last_ms: i64,
    /// Some of them.
    pub processes: BTreeSet<String>,
    pub users: BTreeSet<u32>,
}

/// Who could be put on a reader list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    Exe(String),
    Unit(String),
}

/// What could be written down, or why it should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    pub what: Proposal,
    pub evidence: Evidence,
    /// Why it is a warning and no proposal.
    pub warning: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposal {
    Reader {
        asset: String,
        who: Who,
    },
    Network(IpNet),
    /// Most bytes of an asset that left within an hour and within a day, and the lines that are proposed for both.
    Budget {
        asset: String,
        seen: [u64; 2],
        lines: [u64; 2],
    },
}

/// Gathers from any number of recordings.
#[derive(Debug, Default)]
pub struct Suggester {
    /// By asset and reader.
    readers: BTreeMap<(String, Who), Seen>,
    peers: BTreeMap<IpAddr, Seen>,
    budgets: BTreeMap<String, Budget>,
    /// Sizes of assets, the largest that was seen.
    sizes: BTreeMap<String, u64>,
    /// Bytes of an asset that a reader moved to places that are not controlled.
    leaked: HashMap<(String, Who), u64>,
    /// What found no room.
    pub dropped: u64,
    /// Recordings whose names were replaced by hashes: nobody can be listed by one.
    pub hidden: u64,
}

#[derive(Debug, Default)]
struct Seen {
    evidence: Evidence,
    holders: HashSet<HolderId>,
    /// By asset, for what more than one can have gone to.
    bytes: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Budget {
    evidence: Seen,
    most: [u64; 2],
}

impl Suggester {
    /// Reads a recording to its end or first damage.
    pub fn read<R: Read>(&mut self, reader: &mut RecordingReader<R>) {
        let header = reader.header().clone();
        self.hidden += u64::from(header.hidden);
        let mut ledger = Ledger::new(header.propagation_floor);
        let mut records = Vec::new();
        let mut windows: HashMap<String, [Window; 2]> = HashMap::new();
        for statement in reader.by_ref() {
            ledger.apply(statement.event, &mut records);
            for record in records.drain(..) {
                let ms = header.boot_wall_ms.saturating_add(record.at.0.cast_signed() / 1_000_000);
                self.see(&record, ms, &mut windows, header.hidden);
            }
        }
    }

    fn see(&mut self, record: &Record, ms: i64, windows: &mut HashMap<String, [Window; 2]>, hidden: bool) {
        let asset = &*record.asset;
        let size = self.sizes.entry(asset.name.clone()).or_default();
        *size = asset.bytes.max(*size);
        let who = who(&record.process);
        match (record.kind, record.sink.as_deref()) {
            (RecordKind::Take, _) if !hidden && !record.listed => {
                let Some(who) = who else { return };
                let key = (asset.name.clone(), who);
                if let Some(seen) = room(&mut self.readers, key, &mut self.dropped) {
                    seen.add(record, ms);
                }
            }
            (RecordKind::Flow, Some(sink)) if is_out(sink) => {
                if let Some(who) = who {
                    let key = (asset.name.clone(), who);
                    if self.leaked.len() < MOST || self.leaked.contains_key(&key) {
                        let sum = self.leaked.entry(key).or_default();
                        *sum = sum.saturating_add(record.bytes);
                    } else {
                        self.dropped += 1;
                    }
                }
                if let Some(address) = sink.peer.as_deref().and_then(peer_address)
                    && let Some(seen) = room(&mut self.peers, address, &mut self.dropped)
                {
                    seen.add(record, ms);
                }
                self.spend(asset, record, ms, windows);
            }
            _ => {}
        }
    }

    fn spend(&mut self, asset: &Asset, record: &Record, ms: i64, windows: &mut HashMap<String, [Window; 2]>) {
        let Some(budget) = room(&mut self.budgets, asset.name.clone(), &mut self.dropped) else { return };
        budget.evidence.add(record, ms);
        let windows = windows
            .entry(asset.name.clone())
            .or_insert_with(|| BUDGETS.map(|(_, over, _)| Window::new(over)));
        for (window, most) in windows.iter_mut().zip(&mut budget.most) {
            window.add(record.at, record.bytes);
            *most = window.sum(record.at).max(*most);
        }
    }

    /// Everything that was gathered, proposals and warnings.
    #[must_use]
    pub fn suggestions(&self) -> Vec<Suggestion> {
        let readers = self.readers.iter().map(|(key, seen)| self.reader(key, seen));
        let budgets = self.budgets.iter().filter_map(|(asset, budget)| self.budget(asset, budget));
        readers.chain(self.networks()).chain(budgets).collect()
    }

    fn reader(&self, key: &(String, Who), seen: &Seen) -> Suggestion {
        let (asset, who) = key;
        let leaked = self.leaked.get(key).copied().unwrap_or(0);
        let warning = if leaked >= self.model(asset) {
            Some(format!(
                "it also moved {leaked} bytes to places that are not controlled, which can be the model"
            ))
        } else if let Who::Exe(exe) = who {
            unfit(exe).map(str::to_owned)
        } else {
            None
        };
        let what = Proposal::Reader { asset: asset.clone(), who: who.clone() };
        Suggestion { what, evidence: seen.evidence.clone(), warning }
    }

    /// Private addresses that are near each other, as the smallest network that has all of them.
    fn networks(&self) -> Vec<Suggestion> {
        let mut near: BTreeMap<IpNet, Vec<(&IpAddr, &Seen)>> = BTreeMap::new();
        for (address, seen) in self.peers.iter().filter(|(address, _)| is_private(**address)) {
            let length = if address.is_ipv4() { V4_PREFIX } else { V6_PREFIX };
            if let Ok(network) = IpNet::new(*address, length) {
                near.entry(network.trunc()).or_default().push((address, seen));
            }
        }
        let mut all = Vec::new();
        for members in near.values() {
            let mut evidence = Evidence::default();
            let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
            let mut holders: HashSet<&HolderId> = HashSet::new();
            for (_, seen) in members {
                evidence.join(&seen.evidence);
                holders.extend(&seen.holders);
                for (asset, sum) in &seen.bytes {
                    let total = bytes.entry(asset).or_default();
                    *total = sum.saturating_add(*total);
                }
            }
            evidence.times = holders.len() as u64;
            let large = bytes.iter().find(|(asset, sum)| **sum >= self.model(asset));
            let warning = large.map(|(asset, sum)| {
                format!("{sum} bytes of {asset} went there, which can be the model: list it only if you know it as yours")
            });
            if let Some(network) = smallest(members.iter().map(|(address, _)| **address)) {
                all.push(Suggestion { what: Proposal::Network(network), evidence, warning });
            }
        }
        all
    }

    /// Twice what was seen. `None` where nothing left.
    fn budget(&self, asset: &str, budget: &Budget) -> Option<Suggestion> {
        if budget.most == [0, 0] {
            return None;
        }
        let mut lines = [0; 2];
        for ((line, most), (_, _, least)) in lines.iter_mut().zip(budget.most).zip(BUDGETS) {
            *line = most.saturating_mul(2).max(least);
        }
        let model = self.model(asset);
        let warning = (lines[1] >= model).then(|| {
            format!(
                "a budget with room for what was seen would let {} bytes pass, which can be the model",
                lines[1]
            )
        });
        let what = Proposal::Budget { asset: asset.to_owned(), seen: budget.most, lines };
        Some(Suggestion { what, evidence: budget.evidence.evidence.clone(), warning })
    }

    /// From how many bytes on it can be the model. While the size is not known, from the least on.
    fn model(&self, asset: &str) -> u64 {
        self.sizes.get(asset).map_or(0, |size| size / MODEL_SHARE).max(MODEL_LEAST)
    }
}

/// The value of a key, which is made while there is room.
fn room<'m, K: Ord, V: Default>(map: &'m mut BTreeMap<K, V>, key: K, dropped: &mut u64) -> Option<&'m mut V> {
    if map.len() >= MOST && !map.contains_key(&key) {
        *dropped += 1;
        return None;
    }
    Some(map.entry(key).or_default())
}

impl Seen {
    fn add(&mut self, record: &Record, ms: i64) {
        let evidence = &mut self.evidence;
        if self.holders.len() < MOST && self.holders.insert(record.holder) {
            evidence.times += 1;
        }
        if evidence.first_ms == 0 || ms < evidence.first_ms {
            evidence.first_ms = ms;
        }
        evidence.last_ms = evidence.last_ms.max(ms);
        evidence.bytes = evidence.bytes.saturating_add(record.bytes);
        if evidence.processes.len() < NAMED && !record.process.exe.is_empty() {
            evidence.processes.insert(record.process.exe.clone());
        }
        if evidence.users.len() < NAMED {
            evidence.users.insert(record.process.uid);
        }
        let sum = self.bytes.entry(record.asset.name.clone()).or_default();
        *sum = sum.saturating_add(record.bytes);
    }
}

impl Evidence {
    fn join(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.first_ms = if self.first_ms == 0 { other.first_ms } else { self.first_ms.min(other.first_ms) };
        self.last_ms = self.last_ms.max(other.last_ms);
        let join = |mine: &mut BTreeSet<String>| {
            mine.extend(other.processes.iter().take(NAMED - mine.len().min(NAMED)).cloned());
        };
        join(&mut self.processes);
        self.users.extend(other.users.iter().take(NAMED - self.users.len().min(NAMED)));
    }
}

/// A service is known by its unit, anything else by its program; `None` where neither is known.
fn who(process: &Process) -> Option<Who> {
    // Whoever logs in can have a unit of any name below his own slice.
    let is_system = process.cgroup.as_deref().is_some_and(|cgroup| cgroup.starts_with("/system.slice/"));
    let is_name = |unit: &&str| unit.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    let unit = process.unit.as_deref().filter(|unit| is_system && unit.ends_with(".service")).filter(is_name);
    match unit {
        Some(unit) => Some(Who::Unit(unit.to_owned())),
        None => (!process.exe.is_empty()).then(|| Who::Exe(process.exe.clone())),
    }
}

/// Why a program should not be on a reader list.
fn unfit(exe: &str) -> Option<&'static str> {
    let name = exe.rsplit('/').next().unwrap_or_default();
    let is_python = name.starts_with("python");
    if is_python || GENERAL.contains(&name) {
        return Some(
            "it does whatever it is told, so that listing it would list everybody: run it as a service and list its unit",
        );
    }
    let is_loose = exe.starts_with("/memfd:")
        || ["/tmp", "/var/tmp", "/dev/shm", "/home"].iter().any(|at| Path::new(exe).starts_with(at));
    let is_odd = exe.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
    if is_odd {
        return Some("its path has characters that no configuration takes");
    }
    if is_loose || !exe.starts_with('/') || exe.ends_with(" (deleted)") {
        return Some("it lies where others than root can put a program, or is gone");
    }
    None
}

/// Whether bytes can leave this host's control there.
const fn is_out(sink: &Sink) -> bool {
    !matches!(sink.control, Control::Controlled | Control::Memory | Control::Process)
        && !matches!(sink.kind, SinkKind::Process)
}

const fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

fn smallest(addresses: impl Iterator<Item = IpAddr>) -> Option<IpNet> {
    let all: Vec<IpAddr> = addresses.collect();
    let (first, last) = (all.iter().min()?, all.iter().max()?);
    Some(match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let same = (u32::from(*a) ^ u32::from(*b)).leading_zeros();
            IpNet::V4(Ipv4Net::new(*a, same as u8).ok()?.trunc())
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let same = (u128::from(*a) ^ u128::from(*b)).leading_zeros();
            IpNet::V6(Ipv6Net::new(*a, same as u8).ok()?.trunc())
        }
        _ => return None,
    })
}
