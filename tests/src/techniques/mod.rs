//! How weights leave (TECHNIQUES §1): each test moves bytes by one way, knows how many arrived, and says which alerts must
//! follow. A new technique is one function and one line in its file's `TESTS`.

pub(crate) mod amounts;
pub(crate) mod archives;
pub(crate) mod below;
pub(crate) mod calls;
pub(crate) mod channels;
pub(crate) mod descriptors;
pub(crate) mod disguise;
pub(crate) mod filesystems;
pub(crate) mod gpu;
pub(crate) mod host_egress;
pub(crate) mod i386;
pub(crate) mod insider;
pub(crate) mod local_sockets;
pub(crate) mod many;
pub(crate) mod named;
pub(crate) mod names;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod pace;
pub(crate) mod passing;
pub(crate) mod python;
pub(crate) mod reach;
pub(crate) mod relays;
pub(crate) mod remade;
pub(crate) mod remote;
pub(crate) mod second_asset;
pub(crate) mod shared_memory;
pub(crate) mod tamper;
pub(crate) mod tooling;
pub(crate) mod tools;
pub(crate) mod uring;
