//! One statement to the ledger as bytes: the same as [`Event`], in types whose form only changes with the format's number.
//!
//! Kept apart from `event` on purpose: a field that is added there must not silently change what old recordings mean. This
//! file must not know how statements lie in a file. `holders` and `sinks` are what statements are made of.

mod holders;
mod sinks;

use std::{net::IpAddr, sync::Arc};

use agent_ebpf as abi;
use serde::{Deserialize, Serialize};

use self::{
    holders::{Holder, Origin, Who, from_holder, to_holder},
    sinks::{Key, Where, number_of},
};
use crate::event::{
    Act, ActKind, Asset, AssetId, AssetKind, AssetList, AssetSet, BootNs, Control, Event, Loss, Remote,
};

/// What the first block of a recording says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Of the agent that wrote it.
    pub agent: String,
    pub host: String,
    pub kernel: String,
    pub sensor: String,
    /// Milliseconds since 1970 at boot; wall = boot + time of a statement.
    pub boot_wall_ms: i64,
    /// Bytes, as configured.
    pub propagation_floor: u64,
    /// Whether paths, command lines and names were replaced by hashes.
    pub hidden: bool,
}

/// What the ledger was told, and when, ns since boot.
#[derive(Clone, Debug)]
pub struct Statement {
    pub at: BootNs,
    pub event: Event,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    at: u64,
    event: Said,
}

/// New kinds go to the end.
#[derive(Serialize, Deserialize)]
enum Said {
    Process(Holder, Box<Who>),
    Sink(Key, Where),
    Asset {
        id: u16,
        name: String,
        associated: bool,
        bytes: u64,
        has_readers: bool,
    },
    Take {
        holder: Holder,
        source: Origin,
        bytes: u64,
        listed: u64,
        at: u64,
    },
    Flow {
        holder: Holder,
        sink: Key,
        assets: u64,
        bytes: u64,
        at: u64,
    },
    Exit {
        holder: Holder,
        at: u64,
    },
    Loss(Vec<(String, u64)>),
    Act {
        holder: Holder,
        kind: String,
        victim: Option<Holder>,
        target: Option<String>,
        assets: u64,
        at: u64,
    },
    Egress {
        to: Far,
        control: u8,
        bytes: u64,
        at: u64,
    },
    /// As `Take` and `Act`, where sets of 64 are too small.
    TakeOfMany {
        holder: Holder,
        source: Origin,
        bytes: u64,
        listed: Vec<u16>,
        at: u64,
    },
    ActOnMany {
        holder: Holder,
        kind: String,
        victim: Option<Holder>,
        target: Option<String>,
        assets: Vec<u16>,
        at: u64,
    },
}

#[derive(Serialize, Deserialize)]
enum Far {
    Address(IpAddr),
    Network(IpAddr, u8),
    Unread,
    Unattributed,
}

impl Entry {
    pub(super) fn of(at: BootNs, event: &Event) -> Self {
        Self { at: at.0, event: Said::of(event) }
    }

    /// `None`: a number in it stands for nothing that this version knows.
    pub(super) fn into_statement(self) -> Option<Statement> {
        Some(Statement { at: BootNs(self.at), event: self.event.into_event()? })
    }
}

impl Said {
    fn of(event: &Event) -> Self {
        match event {
            Event::Process { holder, process } => {
                Self::Process(from_holder(*holder), Box::new(Who::of(process)))
            }
            Event::Sink { key, sink } => Self::Sink(Key::of(*key), Where::of(sink)),
            Event::Asset(asset) => Self::Asset {
                id: asset.id.0,
                name: asset.name.clone(),
                associated: asset.kind == AssetKind::Associated,
                bytes: asset.bytes,
                has_readers: asset.has_readers,
            },
            Event::Take { holder, source, bytes, listed, at } => {
                let (holder, source, bytes, at) = (from_holder(*holder), Origin::of(*source), *bytes, at.0);
                match bits(listed) {
                    Some(listed) => Self::Take { holder, source, bytes, listed, at },
                    None => Self::TakeOfMany { holder, source, bytes, listed: numbers(listed), at },
                }
            }
            Event::Flow { holder, sink, assets, bytes, at } => Self::Flow {
                holder: from_holder(*holder),
                sink: Key::of(*sink),
                assets: assets.0,
                bytes: *bytes,
                at: at.0,
            },
            Event::Exit { holder, at } => Self::Exit { holder: from_holder(*holder), at: at.0 },
            Event::Loss(loss) => {
                Self::Loss(loss.iter().map(|(stage, count)| ((*stage).to_owned(), *count)).collect())
            }
            Event::Act { holder, act, assets, at } => {
                let (holder, kind, at) = (from_holder(*holder), act.kind.as_str().to_owned(), at.0);
                let (victim, target) = (act.victim.map(from_holder), act.target.clone());
                match bits(assets) {
                    Some(assets) => Self::Act { holder, kind, victim, target, assets, at },
                    None => Self::ActOnMany { holder, kind, victim, target, assets: numbers(assets), at },
                }
            }
            Event::Egress { to, control, bytes, at } => Self::Egress {
                to: match *to {
                    Remote::Address(ip) => Far::Address(ip),
                    Remote::Network(ip, prefix) => Far::Network(ip, prefix),
                    Remote::Unread => Far::Unread,
                    Remote::Unattributed => Far::Unattributed,
                },
                control: number_of(&Control::ALL, control),
                bytes: *bytes,
                at: at.0,
            },
        }
    }

    fn into_event(self) -> Option<Event> {
        Some(match self {
            Self::Process(holder, who) => {
                Event::Process { holder: to_holder(holder), process: Arc::new(who.into_process()) }
            }
            Self::Sink(key, place) => {
                Event::Sink { key: key.into_key()?, sink: Arc::new(place.into_sink()?) }
            }
            Self::Asset { id, name, associated, bytes, has_readers } => Event::Asset(Arc::new(Asset {
                id: AssetId(id),
                name,
                kind: if associated { AssetKind::Associated } else { AssetKind::Weights },
                bytes,
                most: bytes,
                has_readers,
            })),
            Self::Take { holder, source, bytes, listed, at } => {
                to_take(holder, source, bytes, of_bits(listed), at)?
            }
            Self::TakeOfMany { holder, source, bytes, listed, at } => {
                to_take(holder, source, bytes, of_numbers(listed), at)?
            }
            Self::Flow { holder, sink, assets, bytes, at } => Event::Flow {
                holder: to_holder(holder),
                sink: sink.into_key()?,
                assets: AssetSet(assets),
                bytes,
                at: BootNs(at),
            },
            Self::Exit { holder, at } => Event::Exit { holder: to_holder(holder), at: BootNs(at) },
            Self::Loss(stages) => Event::Loss(to_loss(stages)),
            Self::Act { holder, kind, victim, target, assets, at } => {
                to_act(holder, &kind, victim, target, of_bits(assets), at)?
            }
            Self::ActOnMany { holder, kind, victim, target, assets, at } => {
                to_act(holder, &kind, victim, target, of_numbers(assets), at)?
            }
            Self::Egress { to, control, bytes, at } => Event::Egress {
                to: match to {
                    Far::Address(ip) => Remote::Address(ip),
                    Far::Network(ip, prefix) => Remote::Network(ip, prefix),
                    Far::Unread => Remote::Unread,
                    Far::Unattributed => Remote::Unattributed,
                },
                control: *Control::ALL.get(usize::from(control))?,
                bytes,
                at: BootNs(at),
            },
        })
    }
}

fn to_take(holder: Holder, source: Origin, bytes: u64, listed: AssetList, at: u64) -> Option<Event> {
    let (holder, source, at) = (to_holder(holder), source.into_source()?, BootNs(at));
    Some(Event::Take { holder, source, bytes, listed, at })
}

fn to_act(
    holder: Holder,
    kind: &str,
    victim: Option<Holder>,
    target: Option<String>,
    assets: AssetList,
    at: u64,
) -> Option<Event> {
    let act = Act { kind: ActKind::of_word(kind)?, victim: victim.map(to_holder), target };
    Some(Event::Act { holder: to_holder(holder), act, assets, at: BootNs(at) })
}

/// Assets that a set of bits in a recording can hold. Of the format, and not of what sets the kernel side has today.
const IN_BITS: u16 = 63;

/// As a set of bits, which is how recordings had them when there were no more; `None` when one has no bit.
fn bits(assets: &AssetList) -> Option<u64> {
    assets.iter().try_fold(0, |set, AssetId(id)| (id < IN_BITS).then(|| set | 1 << id))
}

fn of_bits(set: u64) -> AssetList {
    (0..=IN_BITS).filter(|id| set >> id & 1 == 1).map(AssetId).collect()
}

fn numbers(assets: &AssetList) -> Vec<u16> {
    assets.iter().map(|asset| asset.0).collect()
}

fn of_numbers(assets: Vec<u16>) -> AssetList {
    assets.into_iter().map(AssetId).collect()
}

/// Stages that this version does not know are added up under one name.
fn to_loss(stages: Vec<(String, u64)>) -> Loss {
    let known = |stage: &str| abi::LOSSES.iter().map(|(name, _)| *name).find(|name| *name == stage);
    let mut loss = Loss::new();
    for (stage, count) in stages {
        let total = loss.entry(known(&stage).unwrap_or("other")).or_insert(0);
        *total = count.saturating_add(*total);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{HolderId, Mark, Source};

    const HOLDER: HolderId = HolderId { tgid: 7, exec: 1, start: BootNs(5) };

    fn list(ids: &[u16]) -> AssetList {
        ids.iter().copied().map(AssetId).collect()
    }

    fn take(source: Source, listed: AssetList) -> Event {
        Event::Take { holder: HOLDER, source, bytes: 9, listed, at: BootNs(3) }
    }

    fn act(assets: AssetList) -> Event {
        let act = Act { kind: ActKind::Ptrace, victim: None, target: None };
        Event::Act { holder: HOLDER, act, assets, at: BootNs(3) }
    }

    fn written(event: &Event) -> Vec<u8> {
        postcard::to_stdvec(&Entry::of(BootNs(3), event)).unwrap()
    }

    fn again(event: &Event) -> Event {
        postcard::from_bytes::<Entry>(&written(event)).unwrap().into_statement().unwrap().event
    }

    #[test]
    fn many_assets_come_back_as_they_were() {
        for ids in [&[][..], &[0, 62], &[63], &[0, 63, 1007]] {
            let Event::Take { listed, .. } = again(&take(Source::Asset(AssetId(63)), list(ids))) else {
                panic!("no take")
            };
            assert_eq!(listed, list(ids));
            let Event::Act { assets, .. } = again(&act(list(ids))) else { panic!("no act") };
            assert_eq!(assets, list(ids));
        }
        for known in [Source::Asset(AssetId(1007)), Source::Mark(Mark(62)), Source::Grown(Mark(0))] {
            let Event::Take { source, .. } = again(&take(known, AssetList::default())) else {
                panic!("no take")
            };
            assert_eq!(source, known);
        }
    }

    /// Bytes of a version that had sets of 64.
    #[test]
    fn up_to_63_assets_are_written_as_they_always_were() {
        let bytes = written(&take(Source::Asset(AssetId(62)), list(&[1, 2])));
        assert_eq!(bytes, [3, 3, 7, 1, 5, 0, 62, 9, 0b110, 3]);
        let bytes = written(&act(list(&[0])));
        assert_eq!(bytes, [&[3, 7, 7, 1, 5, 6][..], b"ptrace", &[0, 0, 1, 3]].concat());
    }

    #[test]
    fn a_mark_that_there_is_not_is_refused() {
        let mut bytes = written(&take(Source::Mark(Mark(63)), AssetList::default()));
        let at = bytes.iter().position(|&byte| byte == 63).unwrap();
        bytes[at] = 64;
        assert!(postcard::from_bytes::<Entry>(&bytes).unwrap().into_statement().is_none());
    }
}
