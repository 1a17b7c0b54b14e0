//! The lab: a controlled volume, an uncontrolled one, an outside, weights and the agent, all of them real.
//!
//! The end-to-end runner (`main.rs`), `cargo xtask demo` and `cargo xtask bench` share it. It must not know what any
//! single test asserts, nor anything of the agent but DESIGN §4: its command line, its files, its addresses.

pub mod lab;
