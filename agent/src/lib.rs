//! The user side of Weighbridge, as a library: everything but the command line, so that tests reach it.
//!
//! Dependencies point one way: `pipeline → {sensor, ledger, rules, alerts, sinks, metrics} → event → agent_ebpf`.
//! Only `sensor` names aya; `ledger`, `rules` and `alerts` know nothing of aya, tokio or files.

pub mod alerts;
pub mod commands;
pub mod config;
pub mod event;
pub mod host;
pub mod ledger;
pub mod metrics;
pub mod pipeline;
pub mod recording;
pub mod rules;
pub mod sensor;
pub mod sinks;
pub mod status;
pub mod yaml;
