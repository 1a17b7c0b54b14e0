//! Files of rules: whatever is in one, reading it ends, and what was accepted can be evaluated and shown.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weighbridge::{
    rules::{Engine, RuleSet},
    yaml::render,
};

fuzz_target!(|text: &str| {
    let today = jiff::civil::date(2026, 11, 22);
    match RuleSet::parse(&[("fuzz.yaml".into(), text.to_owned())], today) {
        Ok(set) => {
            for rule in set.rules() {
                let _ = (rule.yaml(), rule.lines(), rule.conditions());
            }
            let _ = Engine::new(Arc::new(set)).group_count();
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let _ = render(&faults, false);
        }
    }
});
