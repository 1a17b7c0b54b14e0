//! Recordings: what the ledger was told on a live host, so that a change of the rules is judged on what really happened.
//!
//! `wire` is the form of one statement, `file` the form of the file, `hide` what is taken out of it on request, `replay` puts
//! a recording through the same ledger and rules with the recording's own clock, `suggest` says what a site could list. None of it knows the sensor, and nothing
//! here needs rights.

mod file;
#[cfg(test)]
pub(crate) mod fixtures;
mod hide;
mod replay;
mod suggest;
mod wire;

pub use self::{
    file::{Damage, Reader, RecordingError, Writer},
    hide::Hider,
    replay::{Change, Found, Replayed, compare, replay},
    suggest::{Evidence, Proposal, Suggester, Suggestion, Who},
    wire::{Header, Statement},
};
