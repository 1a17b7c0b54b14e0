//! Below the file system: devices that store assets, and devices that show an asset or a copy byte by byte.
//!
//! A read from such a device takes of every asset on it, for it is not told of which.

use agent_ebpf::{
    ANY_ASSET, DEV_ASSET, DEV_STORE, LOSS_HOLDERS_FULL, LOSS_OBJECTS_FULL, OBJECT_STORE, ObjectKey,
    ObjectValue, SET_BITS, SHARED_MIRRORS, TakeKey,
    acts::{
        ACT_LOOP, ACT_MAPPER, ACT_NBD, ACT_RAW_BLOCK, ACT_RAW_CHAR, ACT_RAW_IMAGE, STORE_MIRROR, StoreValue,
        store_of_block, store_of_char,
    },
};

use super::{act, hold, object, take};
use crate::{
    kernel::{BTRFS_MAGIC, EROFS_MAGIC, File, Inode, S_IFBLK, S_IFCHR, S_IFREG, Task, XFS_MAGIC},
    maps::{DEVICES, OBJECTS, SHARED, STORES, Source, lose, shared},
};

/// `MKDEV(MISC_MAJOR, MAPPER_CTRL_MINOR)`.
const MAPPER_CONTROL: u32 = 10 << 20 | 236;
const LOOP_MAJOR: u32 = 7;
const NBD_MAJOR: u32 = 43;
const NOTHING: ObjectKey = ObjectKey { dev: 0, generation: 0, ino: 0 };

/// What reading from a device node would read, in `found`.
#[inline(always)]
pub(crate) fn of_node(inode: Inode, kind: u32, found: &mut Source) -> Option<()> {
    let device = inode.rdev()?;
    of(if kind == S_IFBLK { store_of_block(device) } else { store_of_char(device) }, false, found)
}

/// What reading from the file `found` would read, when all files of its filesystem count.
#[inline(always)]
pub(crate) fn of_mirror(found: &mut Source) -> Option<()> {
    if shared(SHARED_MIRRORS) == 0 {
        return None;
    }
    of(store_of_block(found.key.dev), true, found)
}

#[inline(always)]
fn of(number: u64, mirrors: bool, found: &mut Source) -> Option<()> {
    // SAFETY: read at once; an entry freed meanwhile is not reused before the program ends (RCU).
    let store = unsafe { STORES.get(number) }?;
    if mirrors && (store.flags & STORE_MIRROR == 0 || !is_mirrored(found)) {
        return None;
    }
    found.key = store.backing;
    if found.key.ino != 0 {
        // SAFETY: copied out at once.
        if let Some(value) = unsafe { OBJECTS.get(&found.key) } {
            found.value = *value;
            return Some(());
        }
    }
    found.key = ObjectKey { dev: DEV_STORE, generation: 0, ino: number };
    found.value =
        ObjectValue { assets: store.assets, kind: OBJECT_STORE, asset: 0, seen: 0, held: 0, fed: 0 };
    Some(())
}

/// A filesystem without a block device has its number only while it is mounted: what has it by now must be of the kind that lies in
/// files.
#[inline(always)]
fn is_mirrored(found: &Source) -> bool {
    /// Of the upper 12 bits of a device number.
    const NO_DEVICE: u32 = 0;
    found.key.dev >> 20 != NO_DEVICE || found.magic == EROFS_MAGIC
}

/// Somebody came to have `file`. If its filesystem lies in a file, without a block device (erofs, 6.12), its files read as that one:
/// as an asset, as a copy, or as nothing of ours.
#[inline(always)]
pub(crate) fn on_have(file: File) {
    flow_imaged(file.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_imaged(file: u64) -> u32 {
    imaged(File(file));
    0
}

#[inline(always)]
fn imaged(file: File) -> Option<()> {
    let (_, known) = file.backed()?;
    let image = known.image()?;
    let store = store_of_block(known.key()?.dev);
    let Some((key, value)) = object::source(image) else {
        // The number can have been another image's.
        let _ = STORES.remove(store);
        return None;
    };
    mirror(store, key, value);
    Some(())
}

/// Files of the filesystem on `store` read as the object `key`.
#[inline(always)]
fn mirror(store: u64, key: ObjectKey, value: ObjectValue) {
    let value = StoreValue {
        assets: value.assets,
        backing: if key.dev == DEV_STORE { NOTHING } else { key },
        flags: STORE_MIRROR,
        reserved: 0,
    };
    if STORES.insert(store, &value, 0).is_err() {
        lose(LOSS_OBJECTS_FULL, 1);
    }
    if let Some(word) = SHARED.get_ptr_mut(SHARED_MIRRORS) {
        // SAFETY: a word of an array map.
        unsafe { core::ptr::write_volatile(word, 1) };
    }
}

/// Whether what reads as an asset, a copy or a store of one is a loop device. Tools that set up loop devices, or look which file one
/// shows, open all of them: only a read says more.
#[inline(always)]
pub(crate) fn is_only_found(inode: Inode) -> bool {
    let Some(S_IFBLK) = inode.kind() else { return false };
    inode.rdev().is_some_and(|device| device >> 20 == LOOP_MAJOR)
}

/// `task` opened a store of `assets`, whose key is of `dev`: an act. Setting up loop devices and mappings is looked at in who has
/// such a device open.
#[inline(always)]
pub(crate) fn open(task: Task, inode: Inode, dev: u32, assets: u64) {
    let (kind, number) = match inode.kind() {
        Some(S_IFBLK) => (ACT_RAW_BLOCK, inode.rdev()),
        Some(S_IFCHR) => (ACT_RAW_CHAR, inode.rdev()),
        // A file of a filesystem on one: setting that up was the act.
        Some(S_IFREG) if dev == DEV_STORE => return,
        _ => (ACT_RAW_IMAGE, Some(dev)),
    };
    act::note(task, kind, number.unwrap_or(0), assets);
}

/// `task` read from `file`, which is a store of `assets`: an act if its opening was none.
#[inline(always)]
pub(crate) fn read(task: Task, file: File, assets: u64) {
    if let Some(inode) = file.inode()
        && is_only_found(inode)
    {
        act::note(task, ACT_RAW_BLOCK, inode.rdev().unwrap_or(0), assets);
    }
}

/// Whether what its owner does to `file` by ioctl matters before it holds anything.
#[inline(always)]
pub(crate) fn is_control(file: File) -> bool {
    let Some(inode) = file.inode() else { return false };
    match inode.kind() {
        Some(S_IFBLK) => true,
        Some(S_IFCHR) => inode.rdev().is_some_and(|device| device == MAPPER_CONTROL),
        _ => of_volume(file).is_some(),
    }
}

/// The assets of the filesystem that `file` is of, if that is of a kind that opens or sends files by an ioctl on any other: XFS
/// by handle, btrfs as a stream.
#[inline(always)]
pub(crate) fn of_volume(file: File) -> Option<u64> {
    let inode = file.inode()?;
    match inode.magic()? {
        // SAFETY: copied out at once.
        XFS_MAGIC | BTRFS_MAGIC => unsafe { DEVICES.get(inode.key()?.dev) }.copied(),
        _ => None,
    }
}

/// `task` had the kernel read all of `assets`. Returns the assets that it spreads from now on.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_stream(task: u64, assets: u64, bytes: u64) -> u64 {
    if !take::become_holder(Task(task), assets) {
        return 0;
    }
    act::note(Task(task), ACT_RAW_IMAGE, 0, assets);
    flow_take_store(task, assets, bytes)
}

/// A read of `bytes` from a store takes of each of its assets, and of each that shares a mark with one. Whoever reads must be a
/// holder of them already.
//
// VERIFIER: so that becoming one is not on the stack of this («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_take_store(task: u64, assets: u64, bytes: u64) -> u64 {
    let mut spreads = 0;
    for mark in 0..SET_BITS {
        if assets >> mark & 1 == 1 {
            spreads |= flow_take_mark(task, ANY_ASSET, mark, bytes);
        }
    }
    spreads
}

/// Counts a take of assets of one mark; `which` is [`ANY_ASSET`] or [`GROWN_ASSET`](agent_ebpf::GROWN_ASSET).
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_take_mark(task: u64, which: u32, mark: u32, bytes: u64) -> u64 {
    let Some((holder, row)) = hold::held(Task(task)) else {
        lose(LOSS_HOLDERS_FULL, bytes);
        return 0;
    };
    let source = ObjectKey { dev: DEV_ASSET, generation: 0, ino: u64::from(which + mark) };
    // SAFETY: the row stays valid until the program ends.
    unsafe { take::taken(&TakeKey { holder, source }, row, 1 << (mark % SET_BITS), bytes, true) }
}

/// `task` made the block device behind `device` show the file `backing`.
#[inline(always)]
pub(crate) fn on_backed(task: Task, device: File, backing: File) {
    flow_backed(task.0, device.0, backing.0);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_backed(task: u64, device: u64, backing: u64) -> u32 {
    backed(Task(task), File(device), File(backing));
    0
}

#[inline(always)]
fn backed(task: Task, device: File, backing: File) -> Option<()> {
    let inode = device.inode()?;
    if inode.kind()? != S_IFBLK {
        return None;
    }
    let number = inode.rdev()?;
    let kind = match number >> 20 {
        LOOP_MAJOR => ACT_LOOP,
        NBD_MAJOR => ACT_NBD,
        _ => return None,
    };
    let store = store_of_block(number);
    let Some((key, value)) = object::source(backing) else {
        // It shows something else from now on.
        let _ = STORES.remove(store);
        return None;
    };
    mirror(store, key, value);
    hold::hold(task, value.assets);
    act::note(task, kind, number, value.assets);
    Some(())
}

/// `task` loaded a table into the device mapper through `control`.
#[inline(always)]
pub(crate) fn on_mapped(task: Task, control: File) {
    if let Some(inode) = control.inode()
        && let Some(S_IFCHR) = inode.kind()
        && let Some(MAPPER_CONTROL) = inode.rdev()
    {
        act::note(task, ACT_MAPPER, 0, 0);
    }
}
