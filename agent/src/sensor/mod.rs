//! The syscall sensor: loads the eBPF programs, proves them, drains maps and ring into [`crate::event::Event`]s.
//!
//! The only part that names aya. It must not know rules, alerts or files of assets.

pub mod load;
pub mod offsets;
