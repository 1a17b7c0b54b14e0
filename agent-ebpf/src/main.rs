//! The kernel side: attach points in `hooks`, what they do about it in `flow`.
//!
//! Counting happens here, in maps, before anything can be dropped; user space draws conclusions. This file must not hold
//! logic.
#![no_std]
#![no_main]
// Atomic additions: core offers none for this target.
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "maps take keys and values by value too, and would copy them onto a stack of 512 bytes"
)]

mod flow;
mod hooks;
mod kernel;
mod log;
mod maps;
mod scratch;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Both, because some helpers are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
