//! Fuzzes recordings; what must hold is in `fuzz::recording`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = fuzz::recording(data);
});
