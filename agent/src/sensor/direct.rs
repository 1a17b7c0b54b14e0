//! Lets the programs load from the kernel's memory by themselves, where the kernel allows it.
//!
//! `bpf_rdonly_cast` makes of any number an address from which a program may load; cast to `void`, whatever stands there (6.17,
//! «rdonly_untrusted_mem» in `kernel/bpf/verifier.c`). The verifier makes a move between two registers of the call, and the
//! compiler in the kernel a load of it that reads 0 where nothing can be read: a tenth of what a call of
//! `bpf_probe_read_kernel` takes. rustc cannot name a function of the kernel and aya does not resolve one, so the programs call
//! a helper that no kernel has ([`abi::RDONLY_CAST`]), and here each such instruction becomes the one that is meant, before aya
//! reads the object. This file must not know what is read.

use std::{num::NonZero, ops::Range};

use agent_ebpf::fields as abi;
use object::{Object as _, ObjectSection as _, SectionKind};

use super::btf::{Btf, Kind};

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
/// What aya reads an object from is aligned to this.
const ALIGNMENT: usize = 8;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_ALU64 | BPF_MOV | BPF_X`.
const MOVE: u8 = 0xbf;
/// The source register of a call of a kernel function (`BPF_PSEUDO_KFUNC_CALL`).
const KERNEL_FUNCTION: u8 = 2;
/// Registers of an instruction: the target in the low half, the source in the high one.
const R0_FROM_R1: u8 = 1 << 4;

/// The number of the function among the kernel's types, if it casts to `void` too.
pub(super) fn function(kernel: &Btf<'_>) -> Option<NonZero<u32>> {
    kernel.named(Kind::Enum, abi::RDONLY_CAST_TO_VOID).next()?;
    NonZero::new(kernel.named(Kind::Function, abi::RDONLY_CAST_NAME).next()?.id)
}

/// The object with the programs, in which their calls are what the kernel knows.
pub(super) struct Settled {
    bytes: Vec<u8>,
    object: Range<usize>,
}

impl Settled {
    /// Without a `function` the calls do nothing; the programs then go around them, but the verifier reads every instruction.
    ///
    /// # Errors
    ///
    /// When `object` is no ELF file.
    pub(super) fn new(object: &[u8], function: Option<NonZero<u32>>) -> Result<Self, object::Error> {
        let sections = object::File::parse(object)?;
        let code = sections.sections().filter(|section| section.kind() == SectionKind::Text);
        let code: Vec<_> = code.filter_map(|section| section.file_range()).collect();

        let mut bytes = vec![0; object.len() + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        let place = start..start + object.len();
        let (meant, built) = (meant(function), built());
        let copy = &mut bytes[place.clone()];
        copy.copy_from_slice(object);
        for (start, len) in code {
            let section = usize::try_from(start).ok().zip(usize::try_from(start + len).ok());
            let section = section.and_then(|(start, end)| copy.get_mut(start..end)).unwrap_or_default();
            for instruction in section.as_chunks_mut::<INSTRUCTION>().0 {
                if *instruction == built {
                    *instruction = meant;
                }
            }
        }
        Ok(Self { bytes, object: place })
    }

    pub(super) fn object(&self) -> &[u8] {
        self.bytes.get(self.object.clone()).unwrap_or_default()
    }
}

fn instruction(code: u8, registers: u8, value: i32) -> [u8; INSTRUCTION] {
    let [a, b, c, d] = value.to_ne_bytes();
    [code, registers, 0, 0, a, b, c, d]
}

/// As rustc builds it.
fn built() -> [u8; INSTRUCTION] {
    instruction(CALL, 0, abi::RDONLY_CAST)
}

fn meant(function: Option<NonZero<u32>>) -> [u8; INSTRUCTION] {
    match function {
        Some(id) => instruction(CALL, KERNEL_FUNCTION << 4, id.get().cast_signed()),
        None => instruction(MOVE, R0_FROM_R1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::load::OBJECT, *};

    fn count(object: &[u8], wanted: [u8; INSTRUCTION]) -> usize {
        object.as_chunks::<INSTRUCTION>().0.iter().filter(|found| **found == wanted).count()
    }

    /// All but what [`Settled::new`] was to replace.
    fn rest(object: &[u8], replaced: &[[u8; INSTRUCTION]]) -> Vec<[u8; INSTRUCTION]> {
        let (instructions, _) = object.as_chunks::<INSTRUCTION>();
        instructions.iter().filter(|found| !replaced.contains(found)).copied().collect()
    }

    #[test]
    fn each_call_becomes_one_of_the_kernel_s_function() {
        let calls = count(OBJECT, built());
        assert!(calls > 100, "the programs have {calls} calls to replace");
        let id = NonZero::new(65_477);
        let settled = Settled::new(OBJECT, id).unwrap();
        assert_eq!(settled.object().as_ptr().align_offset(ALIGNMENT), 0);
        assert_eq!((count(settled.object(), built()), count(settled.object(), meant(id))), (0, calls));
        assert_eq!(meant(id), [0x85, 0x20, 0, 0, 0xc5, 0xff, 0, 0]);
        let both = [built(), meant(id)];
        assert_eq!(rest(settled.object(), &both), rest(OBJECT, &both));
    }

    #[test]
    fn without_the_function_no_call_is_left() {
        let settled = Settled::new(OBJECT, None).unwrap();
        assert_eq!(count(settled.object(), built()), 0);
        // r0 = r1
        assert_eq!(meant(None), [0xbf, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(settled.object().len(), OBJECT.len());
    }
}
