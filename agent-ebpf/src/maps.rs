//! Every map, its size and who writes it. This file must not know what the numbers mean.
//!
//! Hash maps of entries that come and go are not preallocated: their sizes are ceilings, not costs. None of them is of the
//! LRU kind: an attacker could flush his own row out of one.

use agent_ebpf::{
    Address, FACTS_BYTES, FlowKey, FlowValue, HolderKey, HolderValue, IDENTITIES, Identity, LOSSES, MARKS,
    MEMORY_SLOTS, Memory, NameKey, ObjectFact, ObjectKey, ObjectValue, PendingValue, ProcessFact, RequestKey,
    RequestValue, SENT_SLOTS, SHARED_WORDS, SentValue, SharerValue, SinkFact, SinkKey, SpaceValue, TakeKey,
    TakeValue,
    acts::{ActKey, ActValue, GpuKey, GpuValue, ReachKey, StoreValue},
    egress::{PeerKey, PeerValue, REST, SCALE_WORDS, SUMS},
    layers::{COPYABLES, Layered, OVERLAYS},
    tamper::{TAMPERED_WORDS, TamperKey, TamperValue},
};
use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};

use crate::{
    flow::{layers::Look, overlay::Copied},
    hooks::orders::Moved,
    scratch::Scratch,
};

const NO_PREALLOC: u32 = 1;

/// Bytes a channel may carry before its readers count as holders.
#[unsafe(no_mangle)]
pub(crate) static PROPAGATION_FLOOR: Global<u64> = Global::new(0);

/// Not 0 when `sock_send_length` is attached and counts what sockets send.
#[unsafe(no_mangle)]
pub(crate) static SOCKETS_COUNTED: Global<u32> = Global::new(0);

/// Not 0 when `sock_recv_length` is attached and counts what sockets receive.
#[unsafe(no_mangle)]
pub(crate) static RECEIVES_COUNTED: Global<u32> = Global::new(0);

/// Not 0 when `io_uring_file_get` is attached and tells when a request's descriptor is looked up.
#[unsafe(no_mangle)]
pub(crate) static FILES_NAMED: Global<u32> = Global::new(0);

/// Not 0 when the kernel lets a program load from its memory (`kernel::read`).
#[unsafe(no_mangle)]
pub(crate) static READS_DIRECTLY: Global<u32> = Global::new(0);

/// Where an overlayfs file keeps the real one when `OVL_FILE_REAL` is absent: 0 when `private_data` is the real file, as
/// before 6.13; 1 when it points to a `struct ovl_file`, whose first member has been the real file since there is one.
#[unsafe(no_mangle)]
pub(crate) static OVERLAY_WRAPS: Global<u32> = Global::new(1);

/// One byte of `MARK_` bits for each thread group id: what a process that holds nothing pays for.
#[map]
pub(crate) static MARKS_OF: Array<[u8; MARKS]> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static SHARED: Array<u64> = Array::with_max_entries(SHARED_WORDS, 0);

/// Protected files and directories (user space and the walk) and carriers (us).
#[map]
pub(crate) static OBJECTS: HashMap<ObjectKey, ObjectValue> = HashMap::with_max_entries(1 << 20, NO_PREALLOC);

/// Protected names in directories of which not all is protected (user space).
#[map]
pub(crate) static NAMES: HashMap<NameKey, u32> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);

/// Filesystems that store assets, and which (user space): other opens need no walk.
#[map]
pub(crate) static DEVICES: HashMap<u32, u64> = HashMap::with_max_entries(1 << 12, NO_PREALLOC);

#[map]
pub(crate) static HOLDERS: HashMap<HolderKey, HolderValue> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);

#[map]
pub(crate) static TAKES: HashMap<TakeKey, TakeValue> = HashMap::with_max_entries(1 << 18, NO_PREALLOC);

#[map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::with_max_entries(1 << 18, NO_PREALLOC);

/// Acts: rows, because the ring can be flooded (us).
#[map]
pub(crate) static ACTS: HashMap<ActKey, ActValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// What processes took out of each other's memory (us).
#[map]
pub(crate) static REACHED: HashMap<ReachKey, TakeValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// Devices that store assets (user space), and loop devices over a carrier or an asset (us).
#[map]
pub(crate) static STORES: HashMap<u64, StoreValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// Character devices that move bytes unseen, and those of GPUs, by device number or by major with `ANY_MINOR` (user space); the
/// values are `CHANNEL_` constants.
#[map]
pub(crate) static CHANNELS: HashMap<u32, u32> = HashMap::with_max_entries(1 << 10, NO_PREALLOC);

/// Who has which node of a GPU open (us; user space removes rows).
#[map]
pub(crate) static GPU_USERS: HashMap<GpuKey, GpuValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// Overlays in whose layers there can be assets, by number (us).
// A hash map, so that two CPUs cannot take one number for two of them.
#[map]
pub(crate) static LAYERED: HashMap<u32, Layered> = HashMap::with_max_entries(OVERLAYS, NO_PREALLOC);

/// Files of assets as overlays have them, by number: addresses of their `struct inode` (us).
#[map]
pub(crate) static COPYABLE: HashMap<u32, u64> = HashMap::with_max_entries(COPYABLES, NO_PREALLOC);

/// A look at overlays (us).
#[map]
pub(crate) static LOOK_SCRATCH: Scratch<Look> = Scratch::new();

/// What an overlay copied (us).
#[map]
pub(crate) static COPIED_SCRATCH: Scratch<Copied> = Scratch::new();

/// Identity of every live process, by thread group id: argv and path must be kept at exec, they cannot be had later.
#[map]
pub(crate) static PROCESSES: HashMap<u32, ProcessFact> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);

/// Requests of io_uring under way of processes that hold or are watched. A request that finds no room is counted when it is
/// submitted, and again when it completes.
#[map]
pub(crate) static REQUESTS: HashMap<RequestKey, RequestValue> =
    HashMap::with_max_entries(1 << 16, NO_PREALLOC);

/// Shared memory, by the address of its `struct mm_struct`.
#[map]
pub(crate) static SPACES: HashMap<u64, SpaceValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// The shared memory that a process was noted for, by thread group id: at its exec or exit the kernel no longer tells.
#[map]
pub(crate) static SHARERS: HashMap<u32, SharerValue> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);

/// Threads whose call under way lost its descriptor to another thread, by thread id.
#[map]
pub(crate) static RACED: HashMap<u32, u32> = HashMap::with_max_entries(1 << 12, NO_PREALLOC);

/// Shared memory of process images that have some.
#[map]
pub(crate) static MEMORY: HashMap<HolderKey, Memory> = HashMap::with_max_entries(1 << 16, NO_PREALLOC);

/// Not 0 in the slots into which a process can store that holds something.
#[map]
pub(crate) static EXPOSED: Array<[u8; MEMORY_SLOTS]> = Array::with_max_entries(1, 0);

/// What the send that a thread is in put onto the loopback device, by thread: (bytes, source port << 16 | destination port).
#[map]
pub(crate) static LOOPED: HashMap<u64, [u64; 2]> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// Networks in which the address of a peer may be one of this host's, in another network namespace (user space).
#[map]
pub(crate) static FOLLOWED: LpmTrie<Address, u32> = LpmTrie::with_max_entries(1 << 12, NO_PREALLOC);

/// Addresses of those networks that sockets of this host had as their own (us).
#[map]
pub(crate) static NEIGHBOURS: HashMap<Address, u64> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// What was sent into young connections to those networks, by their carrier.
#[map]
pub(crate) static PENDING: HashMap<ObjectKey, PendingValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// What holders sent, by socket.
#[map]
pub(crate) static SENT: Array<SentValue> = Array::with_max_entries(SENT_SLOTS, 0);

/// Identities and sinks that an agent was told of or, when the ring was full, could not be: for the next agent. User space
/// writes them as it reads the ring, and removes what is no longer referred to.
#[map]
pub(crate) static IMAGES: HashMap<HolderKey, ProcessFact> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

#[map]
pub(crate) static SINKS: HashMap<SinkKey, SinkFact> = HashMap::with_max_entries(1 << 15, NO_PREALLOC);

/// What was done against the agent (us; user space removes old rows).
#[map]
pub(crate) static TAMPERS: HashMap<TamperKey, TamperValue> = HashMap::with_max_entries(1 << 12, NO_PREALLOC);

#[map]
pub(crate) static TAMPERED: Array<u64> = Array::with_max_entries(TAMPERED_WORDS, 0);

/// The agent's own BPF objects, by the address of the kernel's structure: descriptors of it that it showed (us).
#[map]
pub(crate) static OWN_OBJECTS: HashMap<u64, u32> = HashMap::with_max_entries(1 << 10, NO_PREALLOC);

/// Files that the agent depends on (user space).
#[map]
pub(crate) static OWN_FILES: HashMap<ObjectKey, u32> = HashMap::with_max_entries(1 << 10, NO_PREALLOC);

/// What the whole host sent, by remote address (us; user space takes rows out).
#[map]
pub(crate) static PEERS: HashMap<PeerKey, PeerValue> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// The same by network, for addresses that found no room.
#[map]
pub(crate) static NETWORKS: HashMap<PeerKey, PeerValue> = HashMap::with_max_entries(1 << 12, NO_PREALLOC);

/// The same for networks that found no room: there is one word for each first byte (us; user space the second row).
#[map]
pub(crate) static REST_OF: Array<[u64; REST]> = Array::with_max_entries(SUMS, 0);

/// Sums of the host-wide scale (us; user space the second row).
#[map]
pub(crate) static SCALE: Array<[u64; SCALE_WORDS]> = Array::with_max_entries(SUMS, 0);

/// 0 or 1: the half of `PEERS` and `NETWORKS` that packets are counted in (user space).
#[map]
pub(crate) static HALF: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static IDENTITIES_OF: Array<Identity> = Array::with_max_entries(IDENTITIES, 0);

#[map]
pub(crate) static FACTS: RingBuf = RingBuf::with_byte_size(FACTS_BYTES, 0);

#[map]
pub(crate) static LOSSES_OF: PerCpuArray<[u64; LOSSES.len()]> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static PROCESS_SCRATCH: Scratch<ProcessFact> = Scratch::new();

#[map]
pub(crate) static HOLDER_SCRATCH: Scratch<HolderValue> = Scratch::new();

#[map]
pub(crate) static OBJECT_SCRATCH: Scratch<ObjectFact> = Scratch::new();

#[map]
pub(crate) static NAME_SCRATCH: Scratch<NameKey> = Scratch::new();

#[map]
pub(crate) static ADDRESS_SCRATCH: Scratch<SinkKey> = Scratch::new();

#[map]
pub(crate) static MEMORY_SCRATCH: Scratch<Memory> = Scratch::new();

#[map]
pub(crate) static ACT_SCRATCH: Scratch<ActKey> = Scratch::new();

#[map]
pub(crate) static MOVED_SCRATCH: Scratch<Moved> = Scratch::new();

/// What a search for a source found.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) key: ObjectKey,
    pub(crate) value: ObjectValue,
    /// Address of the `struct file` that was asked for.
    pub(crate) file: u64,
    /// `super_block.s_magic` of what stores its bytes; 0 where that could not be read.
    pub(crate) magic: u64,
    /// Not 0 when it is one.
    pub(crate) found: u64,
}

#[map]
pub(crate) static SOURCE_SCRATCH: Scratch<Source> = Scratch::new();

#[map]
pub(crate) static STORED_SCRATCH: Scratch<u64> = Scratch::new();

#[map]
pub(crate) static SINK_SCRATCH: Scratch<SinkFact> = Scratch::new();

/// The word `index` of `SHARED`; 0 when there is none.
#[inline(always)]
pub(crate) fn shared(index: u32) -> u64 {
    match SHARED.get_ptr(index) {
        // SAFETY: a pointer into an array map is valid while the program runs; the word is read once, torn by nobody.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => 0,
    }
}

#[inline(always)]
pub(crate) fn marks(tgid: u32) -> u8 {
    match MARKS_OF.get_ptr(0) {
        // SAFETY: the index is masked to the array's length.
        Some(marks) => unsafe {
            core::ptr::read_volatile((marks as *const u8).add(tgid as usize & (MARKS - 1)))
        },
        None => 0,
    }
}

#[inline(always)]
pub(crate) fn set_marks(tgid: u32, value: u8) {
    if let Some(marks) = MARKS_OF.get_ptr_mut(0) {
        // SAFETY: the index is masked to the array's length; a byte store cannot tear.
        unsafe { core::ptr::write_volatile((marks as *mut u8).add(tgid as usize & (MARKS - 1)), value) };
    }
}

#[inline(always)]
pub(crate) fn mark(tgid: u32, bits: u8) {
    let now = marks(tgid);
    if now & bits != bits {
        set_marks(tgid, now | bits);
    }
}

/// Counts a loss of `amount` (bytes, or 1 for a fact).
#[inline(always)]
pub(crate) fn lose(slot: u32, amount: u64) {
    if let Some(counts) = LOSSES_OF.get_ptr_mut(0)
        && (slot as usize) < LOSSES.len()
    {
        // SAFETY: a per-CPU word within the array. An iterator that is preempted within the addition can miss one.
        unsafe { *(counts as *mut u64).add(slot as usize) += amount };
    }
}

/// `*word += amount`, against other CPUs.
///
/// # Safety
///
/// `word` points to 8 aligned bytes of a map's value.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: the caller's. `core` has no atomic addition for this target, which has no compare-and-swap in its base set.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {amount}", word = in(reg) word, amount = in(reg) amount);
    }
}

/// 0, which the compiler does not know.
// VERIFIER: zeros that it knows it has `memset` write, which takes 32 bytes of stack below every caller («combined stack size»).
#[inline(always)]
pub(crate) fn zero() -> u64 {
    let zero;
    // SAFETY: sets a register.
    unsafe { core::arch::asm!("{zero} = 0", zero = out(reg) zero, options(pure, nomem, nostack)) };
    zero
}

/// `*word |= bits`. Two CPUs that add different bits at once can lose one for that moment; each caller checks its bits at
/// every call and so adds them again.
///
/// # Safety
///
/// `word` points to 8 aligned bytes of a map's value.
#[inline(always)]
pub(crate) unsafe fn join(word: *mut u64, bits: u64) {
    // SAFETY: the caller's. An atomic OR needs kernel 5.12 and the v3 instruction set.
    unsafe { core::ptr::write_volatile(word, core::ptr::read_volatile(word) | bits) };
}

/// The word `index` of `SHARED` becomes `value`; for words of one writer.
#[inline(always)]
pub(crate) fn set_shared(index: u32, value: u64) {
    if let Some(word) = SHARED.get_ptr_mut(index) {
        // SAFETY: a word of an array map; an aligned store does not tear.
        unsafe { core::ptr::write_volatile(word, value) };
    }
}

/// The word `index` of `SHARED` grows by `amount`.
#[inline(always)]
pub(crate) fn add_shared(index: u32, amount: u64) {
    if let Some(word) = SHARED.get_ptr_mut(index) {
        // SAFETY: a word of an array map.
        unsafe { add(word, amount) };
    }
}
