//! Arguments of a system call from `struct pt_regs` (x86-64, which is ABI: `arch/x86/include/uapi/asm/ptrace.h`).

use crate::kernel::read;

pub(crate) const ORIG_AX: u64 = 120;
/// `ax`: what the call returns.
pub(crate) const RESULT: u64 = 80;

/// r10 where C has rcx, because `syscall` overwrites that.
const ARGUMENTS_64: [u64; 6] = [112, 104, 96, 56, 72, 64];
/// bx, cx, dx, si, di, bp.
const ARGUMENTS_32: [u64; 6] = [40, 88, 96, 104, 112, 32];

/// Argument `index` (0–5) of a call through the 64-bit entry.
#[inline(always)]
pub(crate) fn argument_64(registers: u64, index: usize) -> u64 {
    read(registers + ARGUMENTS_64[index])
}

/// The same through the 32-bit entry; the upper halves are not its.
#[inline(always)]
pub(crate) fn argument_32(registers: u64, index: usize) -> u64 {
    u64::from(read::<u32>(registers + ARGUMENTS_32[index]))
}
