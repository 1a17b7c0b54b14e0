//! The configuration: whatever is in it, reading it ends, and a refusal has a reason.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weighbridge::{config::parse, yaml::render};

fuzz_target!(|text: &str| {
    match parse(Path::new("/etc/weighbridge/agent.yaml"), text, Path::new("/etc/weighbridge")) {
        Ok(config) => assert!(!config.assets.is_empty(), "an agent without assets"),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let _ = render(&faults, false);
        }
    }
});
