//! The ABI of shared memory: which objects a process image has mapped together with others. As the rest of the ABI: plain integers
//! only, checked by user space. It must not know who took what.

use super::ObjectKey;

/// Objects that are remembered of one process's shared memory; what is beyond is known by its slot only. Loaders of data have
/// dozens.
pub const MEMORY_OBJECTS: usize = 64;
/// Slots into which the objects of shared memory are hashed. Each is a byte, so that two CPUs that set two of them lose none.
pub const MEMORY_SLOTS: usize = 256;

/// The slot of an object.
#[inline(always)]
#[must_use]
pub const fn memory_slot(object: &ObjectKey) -> usize {
    let mixed = (object.ino ^ (object.generation as u64) << 32 ^ object.dev as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}

/// One object of a process's shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryObject {
    pub key: ObjectKey,
    /// Bytes mapped.
    pub bytes: u64,
    /// `super_block.s_magic` of a file's filesystem; 0 when it is no file.
    pub magic: u32,
    /// Not 0 when the process's stores reach the object.
    pub writes: u32,
}

/// What memory a process image shares with others: handed down by fork, gone with an exec.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Not 0 in the slot of each object that it has mapped.
    pub mapped: [u8; MEMORY_SLOTS],
    /// The same of those that its stores reach.
    pub writes: [u8; MEMORY_SLOTS],
    /// Objects remembered. Two threads that add one at once can lose one of them: its slot tells.
    pub count: u32,
    pub reserved: u32,
    pub objects: [MemoryObject; MEMORY_OBJECTS],
}
