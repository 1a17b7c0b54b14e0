//! Which object a file is, and whether it is protected: by itself, by a directory above it, or by its name.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;

use super::{carrier, channel, looped, path, store};
use crate::{
    kernel::{
        AF_INET, AF_INET6, AF_UNIX, AF_VSOCK, Dentry, File, Inode, S_IFBLK, S_IFCHR, S_IFREG, S_IFSOCK, Sock,
    },
    maps::{
        DEVICES, FACTS, NAME_SCRATCH, NAMES, OBJECT_SCRATCH, OBJECTS, PROPAGATION_FLOOR, SOURCE_SCRATCH,
        Source, lose,
    },
};
use agent_ebpf::{
    ANY_ASSET, CLASS_TUNNELS, DEV_CLASS, DEV_LOOPBACK, DEV_UNIX, DEV_VSOCK, FACT_OBJECT, LOSS_OBJECTS_FULL,
    LOSS_RING_FULL, LOSS_WALK_TOO_DEEP, NAME_BYTES, OBJECT_DIRECTORY, OBJECT_FILE, OBJECT_NAMED,
    OBJECT_PATHWAY, ObjectFact, ObjectKey, ObjectValue, asset_mark,
};

const NOT_PROTECTED: u32 = u32::MAX;

/// Directories that a walk climbs. A file deeper than that counts as protected when its filesystem stores an asset.
const DEPTH: u32 = 64;

/// The carrier or protected file that a read from `file` would read: (its key, what we know of it).
#[inline(always)]
pub(crate) fn source(file: File) -> Option<(ObjectKey, ObjectValue)> {
    // SAFETY: copied out at once.
    source_here(file).map(|found| unsafe { ((*found).key, (*found).value) })
}

/// As [`source`], where it was found: valid until the next search.
#[inline(always)]
pub(crate) fn source_here(file: File) -> Option<*const Source> {
    if flow_source(file.0) == 0 { None } else { SOURCE_SCRATCH.row().map(<*mut _>::cast_const) }
}

/// As [`source`], when `file` was what the last search was for: without another.
#[inline(always)]
pub(crate) fn source_again(file: File) -> Option<(ObjectKey, ObjectValue)> {
    let last = SOURCE_SCRATCH.row()?;
    // SAFETY: a row of this program's alone, copied out at once.
    unsafe {
        if (*last).file == file.0 && (*last).found != 0 {
            Some(((*last).key, (*last).value))
        } else {
            source(file)
        }
    }
}

/// Whether a file of this kind of filesystem was what the last search was for.
#[inline(always)]
pub(crate) fn was_of(magic: u64) -> bool {
    match SOURCE_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        Some(last) => unsafe { (*last).magic == magic },
        None => true,
    }
}

/// Leaves what it finds in this CPU's `SOURCE_SCRATCH`; whether it did.
///
/// VERIFIER: so that the stack of who asks need not hold what the search needs («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_source(file: u64) -> u32 {
    let Some(found) = SOURCE_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    let found = unsafe { &mut *found };
    (found.file, found.magic) = (file, 0);
    let is_one = u32::from(find_source(File(file), found).is_some());
    found.found = u64::from(is_one);
    is_one
}

#[inline(always)]
fn find_source(file: File, found: &mut Source) -> Option<()> {
    let (file, known) = file.backed()?;
    found.magic = known.magic;
    match known.inode.kind()? {
        S_IFSOCK => found.key = incoming(file.socket()?)?,
        S_IFBLK => return store::of_node(known.inode, S_IFBLK, found),
        S_IFCHR => match file.pseudo_terminal(known.inode.rdev()?) {
            Some(terminal) => found.key = carrier::terminal(terminal),
            None => return store::of_node(known.inode, S_IFCHR, found),
        },
        _ => found.key = known.key()?,
    }
    // SAFETY: copied out at once; an entry freed meanwhile is not reused before the program ends (RCU).
    match unsafe { OBJECTS.get(&found.key) } {
        Some(value) if value.kind == OBJECT_DIRECTORY || value.kind == OBJECT_NAMED => None,
        Some(value) => {
            found.value = *value;
            if carries(&found.key, &found.value) { Some(()) } else { None }
        }
        None => match carrier::served(known.magic) {
            Some(served) => {
                found.key = served;
                // SAFETY: as above.
                found.value = *unsafe { OBJECTS.get(&found.key) }?;
                Some(())
            }
            None => store::of_mirror(found),
        },
    }
}

/// The class of channels that a read from `file` may come out of, beside its own [`source`].
#[inline(always)]
pub(crate) fn source_class(file: File) -> Option<(ObjectKey, ObjectValue)> {
    // No socket lies on an overlay.
    if file.inode()?.kind()? == S_IFSOCK {
        return carrying(channel::class_of(file.socket()?)?);
    }
    if channel::is_tunnel(file).is_some() {
        return carrying(channel::class(CLASS_TUNNELS));
    }
    // What its server answers, where it is a carrier in its own right too.
    let (_, known) = file.backed()?;
    let answers = carrier::served(known.magic)?;
    carrying(known.key()?)?;
    carrying(answers)
}

#[inline(always)]
fn carrying(key: ObjectKey) -> Option<(ObjectKey, ObjectValue)> {
    let value = lookup(&key)?;
    if carries(&key, &value) { Some((key, value)) } else { None }
}

/// Whether bytes may come out of what was looked up.
#[inline(always)]
pub(crate) fn carries(key: &ObjectKey, value: &ObjectValue) -> bool {
    value.kind != OBJECT_PATHWAY && (key.dev != DEV_CLASS || value.fed >= PROPAGATION_FLOOR.load())
}

/// As [`source`], for what is received from `sock`.
#[inline(always)]
pub(crate) fn source_of(sock: Sock) -> Option<(ObjectKey, ObjectValue)> {
    let key = incoming(sock)?;
    let value = lookup(&key)?;
    if value.kind == OBJECT_PATHWAY { None } else { Some((key, value)) }
}

#[inline(always)]
pub(crate) fn lookup(key: &ObjectKey) -> Option<ObjectValue> {
    // SAFETY: the value is copied out at once; an entry freed meanwhile is not reused before the program ends (RCU).
    let value = *unsafe { OBJECTS.get(key) }?;
    if value.kind == OBJECT_DIRECTORY || value.kind == OBJECT_NAMED { None } else { Some(value) }
}

/// The carrier that bytes received from `sock` come through.
#[inline(always)]
pub(super) fn incoming(sock: Sock) -> Option<ObjectKey> {
    match sock.family()? {
        AF_UNIX => Some(ObjectKey { dev: DEV_UNIX, generation: 0, ino: sock.0 }),
        AF_INET | AF_INET6 if sock.is_udp() => Some(looped::to_port(sock.own_port())),
        // Where a sender made no carrier of it, none is found.
        AF_INET => loopback(sock.peer_v4()?, sock.own_v4()?, sock.peer_port(), sock.own_port(), Some(true)),
        AF_INET6 => loopback_v6(sock, INCOMING),
        AF_VSOCK => vsock(sock.vsock_peer()?.0, sock.vsock_peer()?.1, sock.vsock_own_port()?),
        _ => None,
    }
}

/// One direction of a vsock connection to the own host's address for itself.
#[inline(always)]
pub(crate) fn vsock(peer: u32, from_port: u32, to_port: u32) -> Option<ObjectKey> {
    const VMADDR_CID_LOCAL: u32 = 1;
    if peer != VMADDR_CID_LOCAL {
        return None;
    }
    Some(ObjectKey { dev: DEV_VSOCK, generation: 0, ino: u64::from(from_port) << 32 | u64::from(to_port) })
}

/// The carrier of one direction of a connection that stays on this host; `None` when it leaves. `local` is what its route
/// says; where it has none, 127.0.0.0/8 stays here, and so does an address that talks to itself.
#[inline(always)]
pub(crate) fn loopback(
    from: [u8; 4],
    to: [u8; 4],
    from_port: u16,
    to_port: u16,
    local: Option<bool>,
) -> Option<ObjectKey> {
    let (from, to) = (u32::from_ne_bytes(from), u32::from_ne_bytes(to));
    // Both are 0 in a socket that is not connected.
    if to == 0 || !local.unwrap_or(to & 0xff == 127 || from == to) {
        return None;
    }
    Some(ObjectKey {
        dev: DEV_LOOPBACK,
        generation: u32::from(from_port) << 16 | u32::from(to_port),
        ino: u64::from(from) << 32 | u64::from(to),
    })
}

/// Which carrier of a connection: that which bytes come out of; go into, if they stay here by their route; go into, for they stay
/// here by their peer.
pub(crate) const INCOMING: u32 = 0;
pub(crate) const OUTGOING: u32 = 1;
pub(crate) const TO_NEIGHBOUR: u32 = 2;

/// As [`loopback`], for IPv6 with mapped IPv4 addresses.
#[inline(always)]
pub(crate) fn loopback_v6(sock: Sock, way: u32) -> Option<ObjectKey> {
    let folded = if way == TO_NEIGHBOUR {
        flow_fold_there(sock.0)
    } else {
        flow_fold_v6(sock.0, u32::from(way != INCOMING))
    };
    let (from, to) = if way == INCOMING {
        (sock.peer_port(), sock.own_port())
    } else {
        (sock.own_port(), sock.peer_port())
    };
    if folded == 0 {
        return None;
    }
    Some(ObjectKey { dev: DEV_LOOPBACK, generation: u32::from(from) << 16 | u32::from(to), ino: folded })
}

// VERIFIER: a function of its own, so that two IPv6 addresses are on the stack for a moment only («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_fold_v6(sock: u64, outgoing: u32) -> u64 {
    let sock = Sock(sock);
    let (Some(own), Some(peer)) = (sock.own_v6(), sock.peer_v6()) else { return 0 };
    // Where a sender made no carrier of it, a receiver finds none.
    let local = if outgoing == 0 { Some(true) } else { sock.stays_here() };
    let (from, to) = if outgoing == 0 { (peer, own) } else { (own, peer) };
    if to >> 32 == 0xffff {
        return match loopback((from as u32).to_be_bytes(), (to as u32).to_be_bytes(), 0, 0, local) {
            Some(key) => key.ino,
            None => 0,
        };
    }
    if to == 0 || !local.unwrap_or(to == 1 || from == to) {
        return 0;
    }
    (from as u64) ^ ((from >> 64) as u64) ^ (to as u64).rotate_left(32) ^ ((to >> 64) as u64).rotate_left(16)
}

// VERIFIER: another than the one before, whose frame has no room for a third way («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_fold_there(sock: u64) -> u64 {
    let (Some(from), Some(to)) = (Sock(sock).own_v6(), Sock(sock).peer_v6()) else { return 0 };
    if to >> 32 == 0xffff {
        return match loopback((from as u32).to_be_bytes(), (to as u32).to_be_bytes(), 0, 0, Some(true)) {
            Some(key) => key.ino,
            None => 0,
        };
    }
    (from as u64) ^ ((from >> 64) as u64) ^ (to as u64).rotate_left(32) ^ ((to >> 64) as u64).rotate_left(16)
}

/// A regular file that is protected or a carrier, registering it when a directory or its name protects it.
#[inline(always)]
pub(crate) fn protected(file: File, inode: Inode) -> Option<(ObjectKey, ObjectValue)> {
    protected_at(file.dentry(), inode)
}

/// As [`protected`], for a file that nobody has open, by a name of it.
#[inline(always)]
pub(crate) fn protected_at(dentry: Option<Dentry>, inode: Inode) -> Option<(ObjectKey, ObjectValue)> {
    if inode.kind()? != S_IFREG {
        return None;
    }
    let key = inode.key()?;
    if let Some(value) = lookup(&key)
        && value.kind == OBJECT_FILE
    {
        return Some((key, value));
    }
    // SAFETY: copied out at once.
    let stored = *unsafe { DEVICES.get(key.dev) }?;
    let asset = flow_walk(dentry?.0, ANY_ASSET + stored.trailing_zeros());
    if asset == NOT_PROTECTED { None } else { register(&key, asset, dentry, inode) }
}

#[inline(always)]
fn register(
    key: &ObjectKey,
    asset: u32,
    dentry: Option<Dentry>,
    inode: Inode,
) -> Option<(ObjectKey, ObjectValue)> {
    let assets = 1 << asset_mark(asset);
    let value = ObjectValue { assets, kind: OBJECT_FILE, asset, seen: 0, held: 0, fed: 0 };
    if OBJECTS.insert(key, &value, 0).is_err() {
        lose(LOSS_OBJECTS_FULL, 1);
    }
    if let Some(fact) = OBJECT_SCRATCH.row() {
        // SAFETY: a row of this program's alone.
        unsafe {
            (*fact).fact = FACT_OBJECT;
            (*fact).asset = asset;
            (*fact).key = *key;
            (*fact).size = inode.size();
        }
        if let Some(dentry) = dentry {
            flow_send_object(dentry.0);
        }
    }
    Some((*key, value))
}

/// Sends this CPU's `OBJECT_SCRATCH` with the path of `dentry`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_send_object(dentry: u64) -> u32 {
    let Some(fact) = OBJECT_SCRATCH.row() else { return 0 };
    // SAFETY: a row of this program's alone.
    unsafe {
        path::write(Dentry(dentry), &raw mut (*fact).path);
        if FACTS.output::<ObjectFact>(&*fact, 0).is_err() {
            lose(LOSS_RING_FULL, 1);
        }
    }
    0
}

/// The asset that protects a file at `dentry` by a directory above it or by its name, and `NOT_PROTECTED` otherwise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_walk(dentry: u64, fallback: u32) -> u32 {
    let mut entry = Dentry(dentry);
    for level in 0..DEPTH {
        let Some(parent) = entry.parent() else { return NOT_PROTECTED };
        let Some(key) = directory(parent) else { return NOT_PROTECTED };
        // SAFETY: copied out at once.
        if let Some(&value) = unsafe { OBJECTS.get(&key) } {
            if value.kind == OBJECT_DIRECTORY {
                return value.asset;
            }
            if level == 0 && value.kind == OBJECT_NAMED {
                let named = by_name(&key, entry);
                if named != NOT_PROTECTED {
                    return named;
                }
            }
        }
        entry = parent;
    }
    lose(LOSS_WALK_TOO_DEEP, 1);
    fallback
}

#[inline(always)]
fn directory(entry: Dentry) -> Option<ObjectKey> {
    entry.inode()?.key()
}

#[inline(always)]
fn by_name(directory: &ObjectKey, entry: Dentry) -> u32 {
    let Some(key) = NAME_SCRATCH.row() else { return NOT_PROTECTED };
    let Some(name) = entry.name() else { return NOT_PROTECTED };
    // SAFETY: this CPU's scratch; the buffer takes a whole name.
    unsafe {
        (*key).directory = *directory;
        (*key).name = [0; NAME_BYTES];
        bpf_probe_read_kernel_str((&raw mut (*key).name).cast(), NAME_BYTES as u32, name as *const _);
        match NAMES.get(&*key) {
            Some(&asset) => asset,
            None => NOT_PROTECTED,
        }
    }
}
