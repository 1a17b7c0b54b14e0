//! Rules: parse → check → compile → evaluate (`RULES.md` has the grammar, of which this is a subset; what is not built
//! yet is refused with its place).
//!
//! It knows [`Record`](crate::event::Record)s and YAML files. It must not know sensors, alerts, clocks or sinks: time is
//! what the records say.
