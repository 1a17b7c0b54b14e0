//! Fuzzes files of rules; what must hold is in `fuzz::rules`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = fuzz::rules(data);
});
