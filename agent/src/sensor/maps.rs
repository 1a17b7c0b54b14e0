//! The kernel's maps, typed.

use std::{borrow::BorrowMut, os::fd::AsFd as _};

use agent_ebpf as abi;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf},
};

use super::SensorError;

/// A type of the ABI as a map sees it: bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

/// Types of the ABI that are plain integers without implicit padding, so that any bytes are a value and all its bytes are
/// set.
pub(super) trait Abi: Copy + 'static {}

impl Abi for abi::ObjectKey {}
impl Abi for abi::ObjectValue {}
impl Abi for abi::NameKey {}
impl Abi for abi::HolderKey {}
impl Abi for abi::HolderValue {}
impl Abi for abi::TakeKey {}
impl Abi for abi::TakeValue {}
impl Abi for abi::FlowKey {}
impl Abi for abi::FlowValue {}
impl Abi for abi::acts::ActKey {}
impl Abi for abi::acts::ActValue {}
impl Abi for abi::acts::GpuKey {}
impl Abi for abi::acts::GpuValue {}
impl Abi for abi::acts::ReachKey {}
impl Abi for abi::acts::StoreValue {}
impl Abi for abi::Identity {}
impl Abi for abi::ProcessFact {}
impl Abi for abi::Memory {}
impl Abi for abi::SinkKey {}
impl Abi for abi::SinkFact {}
impl Abi for abi::egress::PeerKey {}
impl Abi for abi::tamper::TamperKey {}
impl Abi for abi::tamper::TamperValue {}
impl Abi for abi::egress::PeerValue {}
impl Abi for abi::Address {}

// SAFETY: `Abi` promises it.
unsafe impl<T: Abi> Pod for Raw<T> {}

pub(super) type Hash<K, V> = HashMap<MapData, Raw<K>, V>;

pub(super) struct Maps {
    pub(super) objects: Hash<abi::ObjectKey, Raw<abi::ObjectValue>>,
    pub(super) names: Hash<abi::NameKey, u32>,
    pub(super) devices: HashMap<MapData, u32, u64>,
    pub(super) holders: Hash<abi::HolderKey, Raw<abi::HolderValue>>,
    pub(super) takes: Hash<abi::TakeKey, Raw<abi::TakeValue>>,
    pub(super) flows: Hash<abi::FlowKey, Raw<abi::FlowValue>>,
    pub(super) acts: Hash<abi::acts::ActKey, Raw<abi::acts::ActValue>>,
    pub(super) gpu_users: Hash<abi::acts::GpuKey, Raw<abi::acts::GpuValue>>,
    pub(super) reached: Hash<abi::acts::ReachKey, Raw<abi::TakeValue>>,
    pub(super) stores: HashMap<MapData, u64, Raw<abi::acts::StoreValue>>,
    pub(super) channels: HashMap<MapData, u32, u32>,
    pub(super) processes: HashMap<MapData, u32, Raw<abi::ProcessFact>>,
    pub(super) memory: Hash<abi::HolderKey, Raw<abi::Memory>>,
    pub(super) images: Hash<abi::HolderKey, Raw<abi::ProcessFact>>,
    pub(super) sinks: Hash<abi::SinkKey, Raw<abi::SinkFact>>,
    pub(super) identities: Array<MapData, Raw<abi::Identity>>,
    pub(super) shared: Array<MapData, u64>,
    pub(super) losses: PerCpuArray<MapData, [u64; abi::LOSSES.len()]>,
    pub(super) facts: RingBuf<MapData>,
    pub(super) peers: Hash<abi::egress::PeerKey, Raw<abi::egress::PeerValue>>,
    pub(super) networks: Hash<abi::egress::PeerKey, Raw<abi::egress::PeerValue>>,
    pub(super) rest: Array<MapData, [u64; abi::egress::REST]>,
    pub(super) scale: Array<MapData, [u64; abi::egress::SCALE_WORDS]>,
    pub(super) half: Array<MapData, u64>,
    pub(super) tampers: Hash<abi::tamper::TamperKey, Raw<abi::tamper::TamperValue>>,
    pub(super) tampered: Array<MapData, u64>,
    pub(super) own_objects: HashMap<MapData, u64, u32>,
    pub(super) own_files: Hash<abi::ObjectKey, u32>,
    pub(super) followed: LpmTrie<MapData, Raw<abi::Address>, u32>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SensorError> {
        Ok(Self {
            objects: HashMap::try_from(named(ebpf, "OBJECTS")?)?,
            names: HashMap::try_from(named(ebpf, "NAMES")?)?,
            devices: HashMap::try_from(named(ebpf, "DEVICES")?)?,
            holders: HashMap::try_from(named(ebpf, "HOLDERS")?)?,
            takes: HashMap::try_from(named(ebpf, "TAKES")?)?,
            flows: HashMap::try_from(named(ebpf, "FLOWS")?)?,
            acts: HashMap::try_from(named(ebpf, "ACTS")?)?,
            gpu_users: HashMap::try_from(named(ebpf, "GPU_USERS")?)?,
            reached: HashMap::try_from(named(ebpf, "REACHED")?)?,
            stores: HashMap::try_from(named(ebpf, "STORES")?)?,
            channels: HashMap::try_from(named(ebpf, "CHANNELS")?)?,
            processes: HashMap::try_from(named(ebpf, "PROCESSES")?)?,
            memory: HashMap::try_from(named(ebpf, "MEMORY")?)?,
            images: HashMap::try_from(named(ebpf, "IMAGES")?)?,
            sinks: HashMap::try_from(named(ebpf, "SINKS")?)?,
            identities: Array::try_from(named(ebpf, "IDENTITIES_OF")?)?,
            shared: Array::try_from(named(ebpf, "SHARED")?)?,
            losses: PerCpuArray::try_from(named(ebpf, "LOSSES_OF")?)?,
            facts: RingBuf::try_from(named(ebpf, "FACTS")?)?,
            peers: HashMap::try_from(named(ebpf, "PEERS")?)?,
            networks: HashMap::try_from(named(ebpf, "NETWORKS")?)?,
            rest: Array::try_from(named(ebpf, "REST_OF")?)?,
            scale: Array::try_from(named(ebpf, "SCALE")?)?,
            half: Array::try_from(named(ebpf, "HALF")?)?,
            tampers: HashMap::try_from(named(ebpf, "TAMPERS")?)?,
            tampered: Array::try_from(named(ebpf, "TAMPERED")?)?,
            own_objects: HashMap::try_from(named(ebpf, "OWN_OBJECTS")?)?,
            own_files: HashMap::try_from(named(ebpf, "OWN_FILES")?)?,
            followed: LpmTrie::try_from(named(ebpf, "FOLLOWED")?)?,
        })
    }

    /// Per stage, the sum over all CPUs.
    pub(super) fn losses(&self) -> Result<[u64; abi::LOSSES.len()], SensorError> {
        let mut sums = [0; abi::LOSSES.len()];
        for cpu in self.losses.get(&0, 0)?.iter() {
            for (sum, count) in sums.iter_mut().zip(cpu) {
                *sum += count;
            }
        }
        Ok(sums)
    }

    pub(super) fn shared(&self, word: u32) -> Result<u64, SensorError> {
        Ok(self.shared.get(&word, 0)?)
    }

    pub(super) fn set_shared(&mut self, word: u32, value: u64) -> Result<(), SensorError> {
        Ok(self.shared.set(word, value, 0)?)
    }
}

/// The map as the kernel describes it: one that was pinned can be another than the programs declare, and its rows would be
/// written past the room that is made for them.
fn named(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, SensorError> {
    let map = ebpf.take_map(name).ok_or(SensorError::NoMap(name))?;
    let fd = match &map {
        Map::HashMap(data) | Map::Array(data) | Map::PerCpuArray(data) => data.fd(),
        // Its size is checked by the kernel, when it is mapped.
        _ => return Ok(map),
    };
    let fd = fd.as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
    Ok(Map::from_map_data(MapData::from_fd(fd)?)?)
}

/// The rows of a map, all of them: this costs as much as the map has buckets. Rows that come or go meanwhile may or may not
/// be among them; a walk that restarts because its row was deleted is cut at `limit` steps.
pub(super) fn rows<K: Abi, V: Pod>(
    map: &HashMap<impl BorrowMut<MapData>, Raw<K>, V>,
    limit: usize,
) -> Result<Vec<(K, V)>, SensorError> {
    let rows = map.iter().take(limit).map(|row| {
        let (key, value) = row?;
        Ok((key.0, value))
    });
    rows.collect()
}

/// The row of `key`, if there is one.
pub(super) fn row<K: Abi, V: Pod>(
    map: &HashMap<impl BorrowMut<MapData>, Raw<K>, V>,
    key: K,
) -> Result<Option<V>, SensorError> {
    match map.get(&Raw(key), 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What came of removing a row: that it was gone already is no error.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), SensorError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
