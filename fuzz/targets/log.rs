//! Fuzzes the alert log; what must hold is in `fuzz::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = fuzz::log(data);
});
