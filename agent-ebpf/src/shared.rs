//! The ABI of the `SHARED` array: words that both sides read and write. As the rest of the ABI it must not know how either works.

/// Not 0 while user space sleeps: the next byte that a holder moves wakes it.
pub const SHARED_ASLEEP: u32 = 0;
/// Carriers made so far. Every read is looked up while this differs from [`SHARED_SETTLED`].
pub const SHARED_CARRIERS: u32 = 1;
/// `SHARED_CARRIERS` as of the last scan: each process that had one of them open was marked.
pub const SHARED_SETTLED: u32 = 2;
/// Epoch of the scan under way.
pub const SHARED_EPOCH: u32 = 3;
/// Not 0 once a watched process sent to a Unix datagram socket that it is not connected to: then whoever receives from one
/// is watched, because it is not told to whom that went.
pub const SHARED_DATAGRAMS: u32 = 4;
/// Counts the looks of user space, from 1. A holder that moves bytes says so once for each.
pub const SHARED_LOOK: u32 = 5;
/// Not 0 once a process took bytes of an asset into memory that it shares with another process: until then nobody looks for
/// those who share.
pub const SHARED_SPACES: u32 = 6;
/// Bytes handed over in portions below the propagation floor, to processes that do not spread for it.
pub const SHARED_SMALL: u32 = 7;
/// Assets that processes hold which can store into memory that they share.
pub const SHARED_MEMORY_ASSETS: u32 = 8;
/// Changes of who holds and what is mapped: user space links the mappings anew when it differs from what it saw.
pub const SHARED_MAPPINGS: u32 = 9;
/// Thread group id of the agent, which reads assets to register them and is never a holder; 0 while there is none. A word and
/// no constant, because the programs outlive the agent that loaded them.
pub const SHARED_AGENT: u32 = 10;
/// When that process started, in ticks of `/proc` ([`crate::TICK_NS`]): whoever gets its id after it is not the agent.
pub const SHARED_AGENT_START: u32 = 11;
/// Assets that the scan under way charges for what is open and mapped; 0 in later scans, which only mark.
pub const SHARED_CHARGED: u32 = 12;
/// Not 0 once there is a device whose filesystem shows assets under other identities ([`crate::acts::STORE_MIRROR`]).
pub const SHARED_MIRRORS: u32 = 13;
/// Counts what changed in `ACTS` and `REACHED`: user space walks them when it did.
pub const SHARED_ACTS: u32 = 14;
/// Acts that were first done before this, ns since boot, were told of: for an agent that goes on with pinned maps.
pub const SHARED_ACTS_TOLD: u32 = 15;
/// Assets that processes held which have ended since.
pub const SHARED_GONE: u32 = 16;
/// The thread that reads iterators, as `bpf_get_current_pid_tgid` tells it: iterators can be preempted and have scratch of their own.
pub const SHARED_SCANNER: u32 = 17;
/// Not 0 when the host has nodes of GPUs, so that who opens one is noted.
pub const SHARED_GPUS: u32 = 18;
/// Not 0 once a process had a socket that hears what others send ([`crate::CLASS_PACKETS`]): before that nothing is put there.
pub const SHARED_PACKETS: u32 = 19;
/// Not 0 once an address of this host found no room in `NEIGHBOURS`: then every address is taken for one.
pub const SHARED_NEIGHBOURS: u32 = 20;
/// Not 0 once a process had a network device open that it serves ([`crate::CLASS_TUNNELS`]): before that nothing is put there.
pub const SHARED_TUNNELS: u32 = 21;
/// Rows in `LAYERED`: while there are none nobody's calls are looked at for what an overlay copied.
pub const SHARED_LAYERED: u32 = 22;
/// Rows in `COPYABLE`.
pub const SHARED_COPYABLE: u32 = 23;
/// Not 0 when the overlays of the host are to be looked for anew: user space asks for it, the next look clears it.
pub const SHARED_LAYERS_STALE: u32 = 24;
/// Counts what can have made a file worth to be looked at that was not before: carriers on filesystems that store assets, and scans.
pub const SHARED_LAYERS_MADE: u32 = 25;
pub const SHARED_WORDS: u32 = 26;
