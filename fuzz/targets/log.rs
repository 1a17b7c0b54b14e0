//! The alert log as the verifier, `explain` and the next start of the agent read it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weighbridge::{
    alerts::{Told, Verifier, read_anchor, read_head, unfinished},
    event::{AssetKind, RecordKind},
};

fuzz_target!(|text: &str| {
    let mut verifier = Verifier::new(None, Vec::new());
    let mut holds = true;
    for line in text.lines() {
        let _ = (read_head(line), read_anchor(line));
        holds = holds && verifier.line(line).is_ok();
        if let Some(told) = Told::read(line) {
            let _ = told.record(RecordKind::Flow, AssetKind::Weights, true);
        }
    }
    if holds {
        let _ = verifier.end();
    }
    let _ = unfinished(text.lines().map(str::as_bytes));
});
