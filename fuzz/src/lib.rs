//! What each fuzz target does with its input: a plain function, which says whether the input was accepted. A finding is a panic.
//!
//! The programs in `targets/` hand it what libFuzzer makes up. The unit tests of the agent include this very file and hand it the
//! seeds, so that it cannot rot unbuilt; so it must not know libFuzzer, and uses only what the agent depends on.

mod recording;
mod rules;

use std::path::Path;

use weighbridge::{
    alerts::{Told, Verifier, read_anchor, read_head, unfinished},
    config::parse,
    event::{AssetKind, RecordKind},
    sensor::{Reading, read_record},
    yaml::render,
};

pub use self::{recording::recording, rules::rules};

/// The configuration: whatever is in it, reading it ends, and a refusal has a reason.
#[must_use]
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    match parse(Path::new("/etc/weighbridge/agent.yaml"), text, Path::new("/etc/weighbridge")) {
        Ok(config) => {
            assert!(!config.assets.is_empty(), "an agent without assets");
            true
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let _ = render(&faults, false);
            false
        }
    }
}

/// A record of the kernel's ring: whatever its bytes are, it is read or refused.
#[must_use]
pub fn facts(data: &[u8]) -> bool {
    let read = read_record(data);
    // What a process says of itself must not drive the terminal that it is shown on.
    if let Some(Reading::Process(process)) = &read {
        assert!(!process.cmdline.contains(char::is_control), "{:?}", process.cmdline);
    }
    read.is_some()
}

/// The alert log as the verifier, `explain` and the next start of the agent read it.
#[must_use]
pub fn log(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let mut verifier = Verifier::new(None, Vec::new());
    let mut holds = true;
    let mut told = 0;
    for line in text.lines() {
        let _ = (read_head(line), read_anchor(line));
        holds = holds && verifier.line(line).is_ok();
        if let Some(one) = Told::read(line) {
            let _ = one.record(RecordKind::Flow, AssetKind::Weights, true);
            told += 1;
        }
    }
    if holds {
        let _ = verifier.end();
    }
    let _ = unfinished(text.lines().map(str::as_bytes));
    told > 0
}
