//! The ABI that both sides share: keys and values of the maps, facts in the ring, numbers with a meaning.
#![no_std]

/// Most assets that one agent can protect: one bit each in [`HolderValue::assets`].
pub const MAX_ASSETS: usize = 64;
