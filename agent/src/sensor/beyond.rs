//! Bytes that found no room for rows of their own: the kernel side adds them up in the row of their holder, and they are told
//! as upper bounds. It must not know what is controlled.

use std::collections::HashMap;

use agent_ebpf as abi;

use super::{
    reading::{self, Reading},
    told::Told,
};
use crate::event::{AssetSet, BootNs, SinkKey, Source};

/// Under which it is kept what was told of, beside the rows: keys that the kernel side never makes.
const TAKEN: abi::ObjectKey = abi::ObjectKey { dev: abi::DEV_ASSET, generation: 1, ino: u64::MAX };
const PUT: abi::SinkKey = nowhere(abi::SINK_FILE);
const SENT: abi::SinkKey = nowhere(abi::SINK_PEER);

const fn nowhere(kind: u8) -> abi::SinkKey {
    abi::SinkKey { kind, protocol: 0, port: 0, dev: u32::MAX, generation: 1, reserved: u32::MAX, id: [0; 16] }
}

/// Sums of one holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beyond {
    /// All that it touched.
    assets: u64,
    taken: u64,
    put: u64,
    sent: u64,
}

impl Beyond {
    pub(super) const fn of(value: &abi::HolderValue) -> Self {
        Self {
            assets: value.assets,
            taken: value.taken_beyond,
            put: value.put_beyond,
            sent: value.sent_beyond,
        }
    }

    /// What an earlier agent told of.
    pub(super) fn told(told: &Told, key: abi::HolderKey, value: &abi::HolderValue) -> Self {
        let flow = |sink| told.flow(&abi::FlowKey { holder: key, assets: 0, sink });
        let now = Self::of(value);
        Self {
            assets: now.assets,
            taken: told.take(&abi::TakeKey { holder: key, source: TAKEN }).min(now.taken),
            put: flow(PUT).min(now.put),
            sent: flow(SENT).min(now.sent),
        }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        self.taken == 0 && self.put == 0 && self.sent == 0
    }

    /// What to add to a row of takes from `source`: what found no room can be of any asset of a mark.
    pub(super) fn on_top(&self, source: &abi::ObjectKey) -> u64 {
        if matches!(reading::source(source), Source::Mark(_)) { self.taken } else { 0 }
    }

    /// Taken from every asset that the holder touched, and gone to places that nobody listed. `takes` are the rows of `key`.
    pub(super) fn tell(
        &self,
        key: &abi::HolderKey,
        takes: &HashMap<abi::ObjectKey, u64>,
        at: BootNs,
        readings: &mut Vec<Reading>,
    ) {
        let (holder, assets) = (reading::holder(key), AssetSet(self.assets));
        if self.taken != 0 {
            for mark in assets.marks() {
                let ino = u64::from(abi::ANY_ASSET) + u64::from(mark.0);
                let key = abi::ObjectKey { dev: abi::DEV_ASSET, generation: 0, ino };
                let bytes = takes.get(&key).copied().unwrap_or(0).saturating_add(self.taken);
                readings.push(Reading::Take { holder, source: Source::Mark(mark), bytes, at });
            }
        }
        for (sink, bytes) in [(SinkKey::FILE_BEYOND, self.put), (SinkKey::PEER_BEYOND, self.sent)] {
            if bytes != 0 {
                readings.push(Reading::Flow { holder, sink, magic: 0, assets, bytes, at });
            }
        }
    }

    /// The keys under which it is kept.
    pub(super) const fn keys(key: abi::HolderKey) -> (abi::TakeKey, [abi::FlowKey; 2]) {
        let (put, sent) = (
            abi::FlowKey { holder: key, assets: 0, sink: PUT },
            abi::FlowKey { holder: key, assets: 0, sink: SENT },
        );
        (abi::TakeKey { holder: key, source: TAKEN }, [put, sent])
    }

    /// The sum that is kept under the key of a take; `None` when that is a row of the kernel's.
    pub(super) fn kept_take(&self, source: &abi::ObjectKey) -> Option<u64> {
        (*source == TAKEN).then_some(self.taken)
    }

    /// The same of a flow.
    pub(super) fn kept_flow(&self, sink: &abi::SinkKey) -> Option<u64> {
        match *sink {
            PUT => Some(self.put),
            SENT => Some(self.sent),
            _ => None,
        }
    }
}

/// Whether a row says nothing yet: the one that waits for those who find no room.
pub(super) fn waits(key: &abi::HolderKey, value: &abi::HolderValue) -> bool {
    *key == abi::OVERFLOW && value.assets == 0 && value.put_beyond == 0
}

/// `CLOCK_BOOTTIME`, as the kernel side stamps its rows.
pub(super) fn now() -> BootNs {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootNs(now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000) + now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: abi::HolderKey = abi::HolderKey { tgid: 7, exec: 1, start: 5 };

    #[test]
    fn what_found_no_room_counts_for_each_asset_and_as_gone() {
        let beyond = Beyond { assets: 0b11, taken: 100, put: 30, sent: 0 };
        let first = abi::ObjectKey { dev: abi::DEV_ASSET, generation: 0, ino: u64::from(abi::ANY_ASSET) };
        let mut readings = Vec::new();
        beyond.tell(&HOLDER, &HashMap::from([(first, 5)]), BootNs(9), &mut readings);
        let told: Vec<(Option<u8>, u64)> = readings
            .iter()
            .map(|reading| match reading {
                Reading::Take { source: Source::Mark(mark), bytes, .. } => (Some(mark.0), *bytes),
                Reading::Flow { sink: SinkKey::FILE_BEYOND, bytes, .. } => (None, *bytes),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(Some(0), 105), (Some(1), 100), (None, 30)]);
        assert_eq!((beyond.on_top(&first), beyond.on_top(&abi::ObjectKey { dev: 1, ..first })), (100, 0));
        // The asset's own row is another source, to which that is added.
        assert_eq!(beyond.on_top(&abi::ObjectKey { ino: 0, ..first }), 0);
    }

    #[test]
    fn what_is_kept_is_found_under_its_keys() {
        let beyond = Beyond { assets: 1, taken: 1, put: 2, sent: 3 };
        let (take, flows) = Beyond::keys(HOLDER);
        assert_eq!(beyond.kept_take(&take.source), Some(1));
        assert_eq!(flows.map(|flow| beyond.kept_flow(&flow.sink)), [Some(2), Some(3)]);
        assert_eq!(beyond.kept_take(&abi::ObjectKey { generation: 0, ..TAKEN }), None);
    }
}
