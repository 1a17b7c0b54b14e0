//! The user side of Weighbridge, as a library: everything but the command line, so that tests reach it.
//!
//! Dependencies point one way: `pipeline → {sensor, ledger, rules, alerts, sinks, metrics} → event → agent_ebpf`.
//! Only `sensor` names aya; `ledger`, `rules` and `alerts` know nothing of aya, tokio or files.

// The fuzz targets call this crate by its name, also where its own tests include them.
#[cfg(test)]
extern crate self as weighbridge;

#[macro_use]
mod words;

pub mod alerts;
pub mod commands;
pub mod config;
pub mod event;
#[cfg(test)]
mod fuzz_seeds;
pub mod host;
pub mod ledger;
pub mod metrics;
pub mod pipeline;
pub mod recording;
pub mod rules;
pub mod sensor;
pub mod sinks;
#[cfg(test)]
mod skipping;
pub mod status;
pub mod yaml;
