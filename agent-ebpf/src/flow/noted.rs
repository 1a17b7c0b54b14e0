//! Requests of io_uring under way, by the name that they were submitted with. It must not know what a request moves.

use agent_ebpf::{RequestKey, RequestValue};

use crate::{
    kernel::Task,
    maps::{REQUESTS, add},
};

/// Notes a request of the running task until it completes; 0 when there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_request_note(
    ring: u64,
    user_data: u64,
    kind: u64,
    file: u64,
    input: u64,
) -> u64 {
    let key = RequestKey { ring, user_data };
    if let Some(row) = REQUESTS.get_ptr_mut(&key) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            add(&raw mut (*row).count, 1);
            (*row).kind |= kind;
            if (*row).file != file {
                (*row).file = 0;
            }
            if (*row).input != input {
                (*row).input = 0;
            }
        }
        return 1;
    }
    let value = RequestValue { count: 1, kind, file, input, task: Task::current().0 };
    u64::from(REQUESTS.insert(&key, &value, 0).is_ok())
}

/// The file of a noted request is known.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_request_name(ring: u64, user_data: u64, file: u64, is_input: u64) -> u64 {
    if let Some(row) = REQUESTS.get_ptr_mut(&RequestKey { ring, user_data }) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            let several = (*row).count > 1;
            let named = if is_input != 0 { &raw mut (*row).input } else { &raw mut (*row).file };
            if *named != file {
                *named = if several { 0 } else { file };
            }
        }
    }
    0
}

/// A noted request is over. Returns the file that a splice took from; 0 when it is not known.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_request_release(ring: u64, user_data: u64) -> u64 {
    let key = RequestKey { ring, user_data };
    let Some(row) = REQUESTS.get_ptr_mut(&key) else { return 0 };
    // SAFETY: the row stays valid until the program ends. Adding all ones subtracts one.
    let (left, input) = unsafe {
        add(&raw mut (*row).count, u64::MAX);
        (core::ptr::read_volatile(&raw const (*row).count), (*row).input)
    };
    if left == 0 || left > u64::from(u32::MAX) {
        let _ = REQUESTS.remove(&key);
    }
    input
}
