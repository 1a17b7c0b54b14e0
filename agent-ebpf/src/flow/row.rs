//! Tells user space of new rows, so that it need not walk whole maps to find them.
//!
//! Once for each row, after it is there and after the facts that explain it. What finds no room in the ring is counted, and
//! makes user space walk.

use agent_ebpf::{
    FACT_ROW, FlowKey, HolderKey, LOSS_RING_FULL, ObjectKey, ROW_CARRIER, ROW_FLOW, ROW_HOLDER, ROW_TAKE,
    RowFact, TakeKey,
};

use crate::maps::{FACTS, lose, zero};

/// `BPF_RB_NO_WAKEUP`: [`super::wake`] follows when there is something to look at.
const NO_WAKEUP: u64 = 1;

#[inline(always)]
pub(crate) fn holder(key: &HolderKey) {
    tell(ROW_HOLDER, key, |_| {});
}

#[inline(always)]
pub(crate) fn take(key: &TakeKey) {
    // SAFETY: of `tell`.
    tell(ROW_TAKE, &key.holder, |fact| unsafe { (*fact).object = key.source });
}

#[inline(always)]
pub(crate) fn flow(key: &FlowKey) {
    // SAFETY: of `tell`.
    tell(ROW_FLOW, &key.holder, |fact| unsafe {
        (*fact).assets = key.assets;
        (*fact).sink = key.sink;
    });
}

#[inline(always)]
pub(crate) fn carrier(key: &ObjectKey) {
    let nobody = HolderKey { tgid: 0, exec: 0, start: zero() };
    // SAFETY: of `tell`.
    tell(ROW_CARRIER, &nobody, |fact| unsafe { (*fact).object = *key });
}

/// Sends a row. What has no meaning for its map is not written: zeros would be a call of `memset`, and so 32 bytes of stack below
/// every caller. The memory that `rest` writes to is the ring's, ours until it is submitted.
#[inline(always)]
fn tell(map: u32, holder: &HolderKey, rest: impl FnOnce(*mut RowFact)) {
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
    }
    rest(fact);
    entry.submit(NO_WAKEUP);
}
