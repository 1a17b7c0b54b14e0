//! Records of the kernel's ring: whatever their bytes are, they are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weighbridge::sensor::{Reading, read_record};

fuzz_target!(|data: &[u8]| {
    // What a process says of itself must not drive the terminal that it is shown on.
    if let Some(Reading::Process(process)) = read_record(data) {
        assert!(!process.cmdline.contains(char::is_control), "{:?}", process.cmdline);
    }
});
