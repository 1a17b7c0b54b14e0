//! Tells user space of new rows, so that it need not walk whole maps to find them.
//!
//! Once for each row, after it is there and after the facts that explain it. What finds no room in the ring is counted, and
//! makes user space walk.

use agent_ebpf::{
    FACT_ROW, FlowKey, HolderKey, LOSS_RING_FULL, ObjectKey, ROW_CARRIER, ROW_FLOW, ROW_HOLDER, ROW_TAKE,
    RowFact, SinkKey, TakeKey,
};

use crate::maps::{FACTS, lose};

/// `BPF_RB_NO_WAKEUP`: [`super::wake`] follows when there is something to look at.
const NO_WAKEUP: u64 = 1;
const NO_HOLDER: HolderKey = HolderKey { tgid: 0, exec: 0, start: 0 };
const NO_OBJECT: ObjectKey = ObjectKey { dev: 0, generation: 0, ino: 0 };
const NO_SINK: SinkKey =
    SinkKey { kind: 0, protocol: 0, port: 0, dev: 0, generation: 0, reserved: 0, id: [0; 16] };

#[inline(always)]
pub(crate) fn holder(key: &HolderKey) {
    tell(ROW_HOLDER, key, &NO_OBJECT, 0, &NO_SINK);
}

#[inline(always)]
pub(crate) fn take(key: &TakeKey) {
    tell(ROW_TAKE, &key.holder, &key.source, 0, &NO_SINK);
}

#[inline(always)]
pub(crate) fn flow(key: &FlowKey) {
    tell(ROW_FLOW, &key.holder, &NO_OBJECT, key.assets, &key.sink);
}

#[inline(always)]
pub(crate) fn carrier(key: &ObjectKey) {
    tell(ROW_CARRIER, &NO_HOLDER, key, 0, &NO_SINK);
}

#[inline(always)]
fn tell(map: u32, holder: &HolderKey, object: &ObjectKey, assets: u64, sink: &SinkKey) {
    let Some(mut entry) = FACTS.reserve::<RowFact>(0) else {
        lose(LOSS_RING_FULL, 1);
        return;
    };
    let fact = entry.as_mut_ptr();
    // SAFETY: memory of the ring that is ours until it is submitted, written member by member.
    unsafe {
        (*fact).fact = FACT_ROW;
        (*fact).map = map;
        (*fact).holder = *holder;
        (*fact).object = *object;
        (*fact).assets = assets;
        (*fact).sink = *sink;
    }
    entry.submit(NO_WAKEUP);
}
