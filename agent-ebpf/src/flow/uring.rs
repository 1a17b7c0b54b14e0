//! Requests of io_uring: what they take, put and open, at three moments of their life.
//!
//! Who submits a request is asked when it is submitted, because whoever completes it can be somebody else. Its bytes count when
//! it completes, exactly and with the file that it really used. Two kinds of requests complete without a trace of their file:
//! one that skips its event counts for what it asks as soon as its file is known, and one whose event finds no room is found
//! again by the name that it was submitted with (`REQUESTS`).

use agent_ebpf::{
    CLASS_ATTRIBUTES, MARK_HOLDER, MARK_SHARED, MARK_WATCHED, REQUEST_PUT, REQUEST_TAKE, REQUEST_THROUGH,
    RequestKey, SHARED_GONE,
    requests::{self, OPERATIONS, TABLE},
};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;

use super::{
    carrier,
    channel::{self, LARGEST_ATTRIBUTE, LONGEST_TEXT},
    hold, layers, looped,
    map::on_grow,
    memory,
    noted::{flow_request_name, flow_request_note, flow_request_release},
    open::{NO_DESCRIPTOR, on_open},
    put::{on_put, on_put_unknown},
    send::on_send_gained,
    space, store,
    take::{become_holder, on_take},
};
use crate::{
    kernel::{File, S_IFBLK, S_IFCHR, S_IFREG, S_IFSOCK, Task, UringRequest, UringRing},
    maps::{FILES_NAMED, RECEIVES_COUNTED, REQUESTS, SOCKETS_COUNTED, mark, marks, shared},
};

// IOSQE_….
const FIXED_FILE: u32 = 1;
const BUFFER_SELECT: u32 = 1 << 5;
const SKIP_SUCCESS: u32 = 1 << 6;
/// SPLICE_F_FD_IN_FIXED.
const INPUT_IN_SLOT: u32 = 1 << 31;
/// IORING_CQE_F_MORE.
const MORE: u32 = 2;
/// IORING_FILE_INDEX_ALLOC: the kernel chooses the slot.
const ANY_SLOT: u32 = u32::MAX;
/// Most that one request moves (`MAX_RW_COUNT`).
const MOST: u64 = 0x7fff_f000;

#[inline(always)]
fn kind_of(request: UringRequest) -> u8 {
    match request.opcode() {
        Some(operation) if (operation as usize) < TABLE => OPERATIONS[operation as usize],
        _ => requests::NONE,
    }
}

/// The running task, or the kernel's thread that polls for it, submitted `request`.
#[inline(always)]
pub(crate) fn submitted(request: UringRequest) -> Option<()> {
    let kind = kind_of(request);
    if kind == requests::NONE {
        return None;
    }
    let task = Task::current();
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut marked = marks(tgid);
    // Before its bytes are weighed: many requests go in by one call, and some by none.
    if memory::suspect(task, marked) {
        marked = marks(tgid) | MARK_HOLDER | MARK_WATCHED;
    }
    if marked & MARK_HOLDER != 0 {
        looped::forget();
    }
    let ring = request.ring()?;
    if space::may_bring(marked) {
        marked = space::bring(task, tgid);
    }
    // The buffers that are registered with the ring are the maker's memory.
    match stranger(ring, task) {
        Maker::Own => {}
        Maker::Other(maker) => {
            space::lend(maker, task);
            marked = marks(tgid);
        }
        Maker::Ended => {
            carrier::adopt(task, flow_hold_ended(task.0, MOST));
            marked = marks(tgid);
        }
    }
    let flags = request.flags();
    match kind {
        requests::OPEN if flags & SKIP_SUCCESS != 0 => mark(tgid, MARK_WATCHED | MARK_SHARED),
        requests::OPEN | requests::CONNECT | requests::SEND | requests::RECEIVE | requests::CHANGE => {}
        requests::INSTALL => match ring.file(request.descriptor()?) {
            Some(file) => on_open(task, tgid, NO_DESCRIPTOR, file),
            // It is filled by an earlier request of the same chain.
            None => mark(tgid, MARK_WATCHED | MARK_SHARED),
        },
        // How long they are is not told where all kernels have it: each counts for the longest.
        requests::DESCRIBE => {
            channel::on_put(task, &channel::class(CLASS_ATTRIBUTES), LARGEST_ATTRIBUTE);
            on_put_unknown(task, LARGEST_ATTRIBUTE);
        }
        requests::DESCRIBED => channel::on_take(task, &channel::class(CLASS_ATTRIBUTES), LARGEST_ATTRIBUTE),
        requests::LINK => on_put_unknown(task, LONGEST_TEXT),
        _ => weigh(request, ring, task, tgid, kind, flags, marked)?,
    }
    Some(())
}

/// Whose memory the ring's registered buffers are.
enum Maker {
    Own,
    Other(Task),
    /// It ended or executed another program. The ring keeps its buffers.
    Ended,
}

#[inline(always)]
fn stranger(ring: UringRing, task: Task) -> Maker {
    match (ring.memory(), task.mm()) {
        (Some(maker), Some(own)) if maker.0 != own.0 => maker.owner().map_or(Maker::Ended, Maker::Other),
        _ => Maker::Own,
    }
}

/// Makes `task`'s process a holder of what processes held that are no more, with `bytes` of each. Returns the assets that it
/// spreads from now on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_hold_ended(task: u64, bytes: u64) -> u64 {
    let assets = shared(SHARED_GONE);
    if assets == 0 || !become_holder(Task(task), assets) {
        return 0;
    }
    store::flow_take_store(task, assets, bytes)
}

#[inline(always)]
fn weigh(
    request: UringRequest,
    ring: UringRing,
    task: Task,
    tgid: u32,
    kind: u8,
    flags: u32,
    marked: u8,
) -> Option<()> {
    let in_slot = flags & FIXED_FILE != 0;
    let descriptor = request.descriptor()?;
    let watched = marked & (MARK_WATCHED | MARK_HOLDER) != 0;
    // Whoever is not watched has no descriptor of anything that is ours; into a slot another ring can put a file.
    if !watched && !in_slot && !carrier::unsettled() {
        return None;
    }
    let file = if in_slot { ring.file(descriptor) } else { task.file(descriptor) };
    if !watched {
        if !carrier::is_source(file?) {
            return None;
        }
        mark(tgid, MARK_WATCHED);
    }
    match kind {
        requests::COMMAND => {
            commanded(task, file?);
            return Some(());
        }
        requests::TAKE_MANY => {
            on_take(task, file?, MOST);
            return Some(());
        }
        _ => {}
    }
    let input = if kind == requests::THROUGH { input_of(request, ring, task) } else { None };
    if flags & SKIP_SUCCESS == 0 {
        let noted = flow_request_note(
            ring.0,
            request.user_data(),
            moves(kind),
            file.map_or(0, |file| file.0),
            input.map_or(0, |input| input.0),
        );
        if noted != 0 {
            return Some(());
        }
    } else if FILES_NAMED.load() != 0 && !(in_slot && (kind != requests::THROUGH || input_in_slot(request))) {
        // It counts when its file is looked up, which can be much later.
        return Some(());
    }
    charge(task, moves(kind), file, input, asked(request, kind, flags));
    Some(())
}

/// The kernel looks up `descriptor` for `request` now.
#[inline(always)]
pub(crate) fn named(request: UringRequest, descriptor: u32) -> Option<()> {
    let kind = kind_of(request);
    if moves(kind) == 0 {
        return None;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if marks(tgid) & (MARK_WATCHED | MARK_HOLDER) == 0 {
        return None;
    }
    let task = Task::current();
    let file = task.file(descriptor);
    let ring = request.ring()?;
    let flags = request.flags();
    // Its own file is looked up first.
    let is_input =
        kind == requests::THROUGH && request.file().is_some() && request.splice_input() == Some(descriptor);
    if flags & SKIP_SUCCESS == 0 {
        flow_request_name(ring.0, request.user_data(), file.map_or(0, |file| file.0), u64::from(is_input));
        return Some(());
    }
    let (file, input) = match kind {
        requests::THROUGH if is_input => (request.file(), file),
        // Its input is looked up after this.
        requests::THROUGH if !input_in_slot(request) => return None,
        requests::THROUGH => (file, ring.file(request.splice_input()?)),
        _ => (file, None),
    };
    charge(task, moves(kind), file, input, asked(request, kind, flags));
    Some(())
}

/// `request` completed with an event.
#[inline(always)]
pub(crate) fn completed(request: UringRequest, result: i32) -> Option<()> {
    let kind = kind_of(request);
    if kind == requests::NONE {
        return None;
    }
    let task = request.task().unwrap_or_else(Task::current);
    let tgid = task.tgid()?;
    if marks(tgid) & MARK_HOLDER != 0 {
        looped::forget();
    }
    let ring = request.ring()?;
    let mut input = 0;
    if moves(kind) != 0 && marks(tgid) & (MARK_WATCHED | MARK_HOLDER) != 0 {
        input = flow_request_release(ring.0, request.user_data());
    }
    // Whether it failed after that or not.
    if (kind == requests::CHANGE || kind == requests::DESCRIBE) && layers::are_some() {
        layers::on_named(task);
    }
    if result < 0 {
        return None;
    }
    let bytes = result as u64;
    match kind {
        requests::OPEN => opened(request, ring, task, tgid, result as u32),
        requests::INSTALL => match task.file(result as u32) {
            Some(file) => on_open(task, tgid, NO_DESCRIPTOR, file),
            None => mark(tgid, MARK_WATCHED),
        },
        requests::CONNECT => carrier::reach(task),
        requests::TAKE | requests::TAKE_VECTORS => {
            let file = request.file()?;
            on_take(task, file, bytes);
            if let Maker::Other(maker) = stranger(ring, task) {
                on_take(maker, file, bytes);
            }
        }
        requests::PUT | requests::PUT_VECTORS => on_put(task, request.file()?, bytes),
        requests::RECEIVE if RECEIVES_COUNTED.load() == 0 => on_take(task, request.file()?, bytes),
        requests::SEND if SOCKETS_COUNTED.load() == 0 => on_put(task, request.file()?, bytes),
        requests::THROUGH => {
            let input = if input == 0 { input_of(request, ring, task) } else { Some(File(input)) };
            let before = hold::flow_assets_held(task.0);
            charge(task, REQUEST_THROUGH, request.file(), input, bytes);
            gained(task, request.file(), bytes, before);
        }
        _ => {}
    }
    Some(())
}

/// The event of a request found no room in its queue.
#[inline(always)]
pub(crate) fn overflowed(ring: UringRing, user_data: u64, result: i32, flags: u32) -> Option<()> {
    let key = RequestKey { ring: ring.0, user_data };
    let Some(row) = REQUESTS.get_ptr(&key) else {
        // It may have opened something.
        if result >= 0 {
            mark((bpf_get_current_pid_tgid() >> 32) as u32, MARK_WATCHED | MARK_SHARED);
        }
        return None;
    };
    // SAFETY: copied out at once; the row stays valid until the program ends.
    let (kind, file, input, task) = unsafe { ((*row).kind, (*row).file, (*row).input, (*row).task) };
    if flags & MORE == 0 {
        flow_request_release(ring.0, user_data);
    }
    if result > 0 {
        let known = |address| if address == 0 { None } else { Some(File(address)) };
        charge(Task(task), kind, known(file), known(input), result as u64);
    }
    Some(())
}

/// As for calls that splice: a socket counted while it sent, for what `task` held then, and not at all for who held nothing.
#[inline(never)]
fn gained(task: Task, to: Option<File>, bytes: u64, before: u64) {
    let gained = hold::flow_assets_held(task.0) & !before;
    if gained != 0
        && let Some(file) = to
        && file.inode().and_then(|inode| inode.kind()) == Some(S_IFSOCK)
        && let Some(sock) = file.socket()
    {
        on_send_gained(task, sock, bytes, gained);
    }
}

/// Counts `bytes` that a request moves; where its file is not known, for all that it can be.
#[inline(always)]
fn charge(task: Task, kind: u64, file: Option<File>, input: Option<File>, bytes: u64) {
    if kind & REQUEST_TAKE != 0 {
        let source = if kind & REQUEST_PUT != 0 { input } else { file };
        match source {
            Some(source) => on_take(task, source, bytes),
            None => on_grow(task, bytes),
        }
    }
    if kind & REQUEST_PUT != 0 {
        match file {
            Some(file) => on_put(task, file, bytes),
            None => on_put_unknown(task, bytes),
        }
    }
}

/// What a driver or filesystem does with a command is its own affair: of a protected file it may return all (encoded reads of
/// btrfs), to a device it may write any amount (NVMe passthrough).
#[inline(always)]
fn commanded(task: Task, file: File) {
    let Some(inode) = file.inode() else { return };
    match inode.kind() {
        Some(S_IFREG) => on_take(task, file, file.backing().inode().map_or(MOST, |inode| inode.size())),
        Some(S_IFBLK | S_IFCHR) => on_put(task, file, MOST),
        _ => {}
    }
}

#[inline(always)]
fn opened(request: UringRequest, ring: UringRing, task: Task, tgid: u32, result: u32) {
    let file = match request.open_slot() {
        0 => task.file(result),
        ANY_SLOT => ring.file(result),
        slot => ring.file(slot - 1),
    };
    match file {
        Some(file) => on_open(task, tgid, NO_DESCRIPTOR, file),
        // Another thread moved it meanwhile.
        None => mark(tgid, MARK_WATCHED),
    }
}

#[inline(always)]
fn input_in_slot(request: UringRequest) -> bool {
    request.splice_flags() & INPUT_IN_SLOT != 0
}

#[inline(always)]
fn input_of(request: UringRequest, ring: UringRing, task: Task) -> Option<File> {
    let input = request.splice_input()?;
    if input_in_slot(request) { ring.file(input) } else { task.file(input) }
}

/// `REQUEST_` bits of a kind of request whose bytes count when it completes; 0 of others.
#[inline(always)]
fn moves(kind: u8) -> u64 {
    match kind {
        requests::TAKE | requests::TAKE_VECTORS => REQUEST_TAKE,
        requests::PUT | requests::PUT_VECTORS => REQUEST_PUT,
        requests::THROUGH => REQUEST_THROUGH,
        _ => 0,
    }
}

/// Most that a request can move.
#[inline(always)]
fn asked(request: UringRequest, kind: u8, flags: u32) -> u64 {
    let bytes = match kind {
        requests::TAKE | requests::PUT => match request.rw_length() {
            // As much as the buffer takes that the kernel chooses.
            Some(0) if flags & BUFFER_SELECT != 0 => MOST,
            Some(length) => u64::from(length),
            None => MOST,
        },
        requests::THROUGH => request.splice_length().unwrap_or(MOST),
        _ => match request.rw_count().unwrap_or(0) {
            0 => MOST,
            count => count,
        },
    };
    if bytes > MOST { MOST } else { bytes }
}
