//! Fuzzes records of the kernel's ring; what must hold is in `fuzz::facts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = fuzz::facts(data);
});
