//! A header for the tests of this module and of what reads recordings. It must not know what is tested with it.

use super::Header;

pub(crate) fn header() -> Header {
    Header {
        agent: "0.1.0".to_owned(),
        host: "gpu-1".to_owned(),
        kernel: "6.18".to_owned(),
        sensor: "syscall".to_owned(),
        boot_wall_ms: 1_795_317_000_000,
        propagation_floor: 65_536,
        hidden: false,
    }
}
