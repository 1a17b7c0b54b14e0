//! Objects that a holder wrote into: who reads them becomes a holder.

use crate::maps::{OBJECTS, PROPAGATION_FLOOR, SHARED, add, join, lose, shared};
use agent_ebpf::{
    LOSS_OBJECTS_FULL, OBJECT_CARRIER, ObjectKey, ObjectValue, SHARED_CARRIERS, SHARED_SETTLED,
};

/// `object` was fed `total` bytes in all by one holder, who took `taken`. Below the floor it stays clean: the documented
/// slack, without which every process of a host would be a holder soon.
#[inline(always)]
pub(crate) fn feed(object: &ObjectKey, kind: u32, assets: u64, total: u64, taken: u64) {
    let floor = PROPAGATION_FLOOR.load();
    if total < floor || taken < floor {
        return;
    }
    if let Some(row) = OBJECTS.get_ptr_mut(object) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            if (*row).kind >= OBJECT_CARRIER && (*row).assets & assets != assets {
                join(&raw mut (*row).assets, assets);
            }
        }
        return;
    }
    let value = ObjectValue { assets, kind, asset: 0, seen: 0, reserved: 0 };
    if OBJECTS.insert(object, &value, 1).is_err() && OBJECTS.get_ptr(object).is_none() {
        lose(LOSS_OBJECTS_FULL, 1);
        return;
    }
    if let Some(made) = SHARED.get_ptr_mut(SHARED_CARRIERS) {
        // SAFETY: a word of an array map.
        unsafe { add(made, 1) };
    }
}

/// Whether some process may read a carrier that it never opened while it was one.
#[inline(always)]
pub(crate) fn alive() -> bool {
    shared(SHARED_CARRIERS) != shared(SHARED_SETTLED)
}
