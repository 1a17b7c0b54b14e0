//! Attach points only: each translates its arguments into calls of `flow`.

use aya_ebpf::EbpfContext;

use crate::kernel::read;

pub(crate) mod acts;
mod call;
pub(crate) mod channel;
pub(crate) mod connection;
pub(crate) mod egress;
pub(crate) mod loopback;
pub(crate) mod orders;
pub(crate) mod process;
pub(crate) mod registers;
pub(crate) mod scan;
pub(crate) mod socket;
pub(crate) mod syscall;
pub(crate) mod tamper;
pub(crate) mod uring;

/// Word `index` of a program's context, as a plain number.
///
/// VERIFIER: read directly it would be a trusted pointer, which a global function does not take («R1 is not a scalar», «Caller
/// passes invalid args into func#1 ('flow_send')»); global functions keep the verifier from walking the engine once for
/// each call («BPF program is too large. Processed 1000001 insn»).
#[inline(always)]
fn word(context: &impl EbpfContext, index: usize) -> u64 {
    // A context has as many words as its prototype has arguments.
    read(context.as_ptr() as u64 + 8 * index as u64)
}
