//! What the agent has told of, kept in pinned maps of its own beside the kernel's counts: the next agent tells of the growth
//! since, and of nothing twice.
//!
//! A kill can come between two writes. What the ledger concluded is written first and the counts that it rests on last: then
//! what is told again is told twice, and never not at all.

use std::collections::HashSet;

use agent_ebpf as abi;
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use super::{
    SensorError,
    maps::{Abi, Hash, Raw, rows},
    pins::{PinError, Pins},
    reading,
};
use crate::event::{AssetId, Conclusions};

/// Rows of each map: as many as the kernel counts.
const ROWS: u32 = 1 << 18;
const NO_PREALLOC: u32 = 1;

/// What the ledger knows of a holder and an asset.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TakenKey {
    holder: abi::HolderKey,
    asset: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TakenValue {
    fresh: u64,
    total: u64,
}

/// What the ledger knows of a carrier and an asset.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct CapKey {
    object: abi::ObjectKey,
    asset: u64,
}

impl Abi for TakenKey {}
impl Abi for TakenValue {}
impl Abi for CapKey {}

pub(super) struct Told {
    takes: Hash<abi::TakeKey, u64>,
    flows: Hash<abi::FlowKey, u64>,
    taken: Hash<TakenKey, Raw<TakenValue>>,
    caps: Hash<CapKey, u64>,
    /// Rows that were read and not told of yet.
    new_takes: HashSet<abi::TakeKey>,
    new_flows: HashSet<abi::FlowKey>,
    /// Rows that found no room.
    pub(super) lost: u64,
}

impl Told {
    /// Opens the pinned maps, or makes and pins them.
    pub(super) fn open(pins: &Pins) -> Result<Self, SensorError> {
        Ok(Self {
            takes: hash(pins, "TOLD_TAKES")?,
            flows: hash(pins, "TOLD_FLOWS")?,
            taken: hash(pins, "TOLD_TAKEN")?,
            caps: hash(pins, "TOLD_CAPS")?,
            new_takes: HashSet::new(),
            new_flows: HashSet::new(),
            lost: 0,
        })
    }

    pub(super) fn read_take(&mut self, key: abi::TakeKey) {
        self.new_takes.insert(key);
    }

    pub(super) fn read_flow(&mut self, key: abi::FlowKey) {
        self.new_flows.insert(key);
    }

    /// Of these holders, those with rows that were not told of yet.
    pub(super) fn untold(&self, holders: &[abi::HolderKey]) -> HashSet<abi::HolderKey> {
        if holders.is_empty() {
            return HashSet::new();
        }
        self.new_takes
            .iter()
            .map(|key| key.holder)
            .chain(self.new_flows.iter().map(|key| key.holder))
            .collect()
    }

    pub(super) fn take(&self, key: &abi::TakeKey) -> u64 {
        self.takes.get(&Raw(*key), 0).unwrap_or(0)
    }

    pub(super) fn flow(&self, key: &abi::FlowKey) -> u64 {
        self.flows.get(&Raw(*key), 0).unwrap_or(0)
    }

    /// Everything that the ledger had concluded.
    pub(super) fn conclusions(&self) -> Result<Conclusions, SensorError> {
        let asset = |asset: u64| u16::try_from(asset).ok().map(AssetId);
        let mut all = Conclusions::default();
        for (key, Raw(value)) in rows(&self.taken, ROWS as usize * 2)? {
            let Some(asset) = asset(key.asset) else { continue };
            all.taken.push((reading::holder(&key.holder), asset, Some((value.fresh, value.total))));
        }
        for (key, bytes) in rows(&self.caps, ROWS as usize * 2)? {
            let Some(asset) = asset(key.asset) else { continue };
            all.caps.push((reading::object(&key.object), asset, Some(bytes)));
        }
        Ok(all)
    }

    /// Everything that was read until now was told of.
    pub(super) fn commit(
        &mut self,
        conclusions: &Conclusions,
        take: impl Fn(&abi::TakeKey) -> Option<u64>,
        flow: impl Fn(&abi::FlowKey) -> Option<u64>,
    ) -> Result<(), SensorError> {
        for &(holder, asset, value) in &conclusions.taken {
            let key = TakenKey { holder: reading::holder_key(&holder), asset: u64::from(asset.0) };
            let value = value.map(|(fresh, total)| Raw(TakenValue { fresh, total }));
            self.lost += write(&mut self.taken, key, value)?;
        }
        for &(object, asset, cap) in &conclusions.caps {
            let key = CapKey { object: reading::object_key(&object), asset: u64::from(asset.0) };
            self.lost += write(&mut self.caps, key, cap)?;
        }
        for key in self.new_takes.drain() {
            self.lost += write(&mut self.takes, key, take(&key))?;
        }
        for key in self.new_flows.drain() {
            self.lost += write(&mut self.flows, key, flow(&key))?;
        }
        Ok(())
    }

    pub(super) fn forget_take(&mut self, key: abi::TakeKey) -> Result<(), SensorError> {
        write(&mut self.takes, key, None).map(drop)
    }

    pub(super) fn forget_flow(&mut self, key: abi::FlowKey) -> Result<(), SensorError> {
        write(&mut self.flows, key, None).map(drop)
    }
}

/// Returns 1 when there was no room.
fn write<K: Abi, V: Pod>(map: &mut Hash<K, V>, key: K, value: Option<V>) -> Result<u64, SensorError> {
    let result = match value {
        Some(value) => map.insert(Raw(key), value, 0),
        None => map.remove(&Raw(key)),
    };
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(0),
        Err(MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
            Some(libc::ENOENT) => Ok(0),
            Some(libc::E2BIG | libc::ENOMEM) => Ok(1),
            _ => Err(MapError::SyscallError(error).into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn hash<K: Abi, V: Pod>(pins: &Pins, name: &str) -> Result<Hash<K, V>, SensorError> {
    if !pins.has(name) {
        let map: Hash<K, V> = HashMap::create(ROWS, NO_PREALLOC)?;
        map.pin(pins.place(name)).map_err(|error| PinError::Pin {
            what: format!("map {name}"),
            path: pins.path().to_owned(),
            source: error.into(),
        })?;
    }
    // The sizes are those that the kernel tells of the map, and they are compared with those of the types.
    Ok(HashMap::try_from(Map::from_map_data(MapData::from_pin(pins.place(name))?)?)?)
}

/// A pinned array, its sizes checked.
pub(super) fn array<V: Pod>(data: MapData) -> Result<Array<MapData, V>, SensorError> {
    Ok(Array::try_from(Map::from_map_data(data)?)?)
}
