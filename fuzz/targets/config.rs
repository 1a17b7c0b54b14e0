//! Fuzzes the configuration; what must hold is in `fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = fuzz::config(data);
});
