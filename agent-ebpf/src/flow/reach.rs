//! One process reaches into another: what comes out of a holder's memory makes a holder, as a fork does.
//!
//! How many bytes came over is what the call returned. That they can be no more of an asset than the other had taken is for
//! user space to apply, which knows how that grows later.

use agent_ebpf::{
    CANARY_SET, LOSS_REACHED_FULL, MARK_HOLDER, MARK_WATCHED, SHARED_GONE, SHARED_MEMORY_ASSETS, TakeValue,
    acts::{ACT_PROC_MEM, ReachKey},
    tamper::TAMPER_REACH,
};

use super::{act, carrier, hold, is_agent, memory, now, space, store, take, tamper, wake};
use crate::{
    kernel::{File, Task},
    maps::{PROPAGATION_FLOOR, REACHED, SHARED, add, join, lose, mark, marks, shared},
};

/// `actor` did `kind` to `victim` and got `bytes` of its memory; nothing happens unless the victim is a holder.
#[inline(always)]
pub(crate) fn on_reach(actor: Task, victim: Task, kind: u32, bytes: u64) {
    flow_reach_agent(actor.0, victim.0, kind);
    flow_catch_up(victim.0);
    flow_hold_as(actor.0, victim.0);
    carrier::adopt(actor, flow_reach(actor.0, victim.0, kind, bytes));
}

/// `actor` did `kind` to `victim` and put `bytes` into its memory: an act if the victim is a holder, and what it got is the
/// actor's if that is one.
#[inline(always)]
pub(crate) fn on_inject(actor: Task, victim: Task, kind: u32, bytes: u64) {
    flow_reach_agent(actor.0, victim.0, kind);
    flow_catch_up(victim.0);
    flow_hold_as(actor.0, victim.0);
    flow_reach(actor.0, victim.0, kind, 0);
    put_into(victim, actor, bytes);
}

/// `actor`, which runs, did `kind` to `victim`: if that is the agent, it is told of however short it was.
// VERIFIER: beside the others here, not called by them («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_reach_agent(actor: u64, victim: u64, kind: u32) -> u32 {
    if let (Some(own), Some(other)) = (Task(actor).tgid(), Task(victim).tgid())
        && own != other
        && is_agent(Task(victim), other)
    {
        tamper::note(TAMPER_REACH, kind);
    }
    0
}

/// `actor` sent `victim` a signal with words of its own.
#[inline(always)]
pub(crate) fn on_signal(actor: Task, victim: Task) {
    /// `siginfo_t`.
    const INFO: u64 = 128;
    put_into(victim, actor, INFO);
}

/// `actor` put `bytes` of its own memory into that of `other`, which had asked for them: no act, and a hand-over.
#[inline(always)]
pub(crate) fn on_fill(actor: Task, other: Task, bytes: u64) {
    put_into(other, actor, bytes);
}

/// `bytes` of `from`'s memory came into `to`'s, which is a holder of all that `from` holds from then on; nothing happens
/// unless that is a holder.
#[inline(always)]
fn put_into(to: Task, from: Task, bytes: u64) {
    if bytes != 0 {
        flow_hold_as(to.0, from.0);
        carrier::adopt(to, flow_give(to.0, from.0, bytes));
    }
}

/// `actor` did `kind` to a process that has ended since, and got `bytes` of its memory: which process it was is not known any
/// more, so they can be of each asset that one which ended held.
#[inline(always)]
pub(crate) fn on_reach_gone(actor: Task, kind: u32, bytes: u64) {
    let assets = flow_hold_gone(actor.0, kind);
    if assets != 0 {
        carrier::adopt(actor, store::flow_take_store(actor.0, assets, bytes));
    }
}

/// Makes `actor`'s process a holder of what processes held that have ended, and returns that.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_hold_gone(actor: u64, kind: u32) -> u64 {
    let assets = shared(SHARED_GONE);
    if assets == 0 || Task(actor).tgid().is_none_or(|tgid| is_agent(Task(actor), tgid)) {
        return 0;
    }
    hold::become_holder(Task(actor), assets);
    act::note(Task(actor), kind, 0, assets);
    assets
}

/// A process that held `assets` ends.
#[inline(always)]
pub(crate) fn on_end(assets: u64) {
    if let Some(word) = SHARED.get_ptr_mut(SHARED_GONE) {
        // SAFETY: a word of an array map.
        unsafe { join(word, assets & !CANARY_SET) };
    }
}

/// Makes `victim`'s process a holder of what others may have put into its memory: who shares that, or something that it has mapped.
/// It is looked at when it makes a call itself; one that sleeps makes none.
// VERIFIER: beside `flow_hold_as`, not called by it; carriers are left to the next scan («the call stack of 8 frames is too deep»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_catch_up(victim: u64) -> u32 {
    let Some(tgid) = Task(victim).tgid() else { return 0 };
    let marks = marks(tgid);
    let mut spreads = 0;
    if space::may_bring(marks) {
        spreads = space::flow_bring(victim, tgid);
    }
    if memory::may_see_more(Task(victim), marks) {
        let assets = shared(SHARED_MEMORY_ASSETS);
        hold::become_holder(Task(victim), assets);
        spreads |= hold::spread_of(Task(victim), assets);
    }
    if spreads != 0 {
        carrier::count_made();
    }
    0
}

/// Makes `to`'s process a holder of what `from`'s holds; nothing happens unless that is a holder. Before the act is seen, so that
/// whoever is told of it finds out who did it.
// VERIFIER: beside the others here, not called by them («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_hold_as(to: u64, from: u64) -> u32 {
    hold_as(Task(to), Task(from));
    0
}

#[inline(always)]
fn hold_as(to: Task, from: Task) -> Option<()> {
    let (own, other) = (to.tgid()?, from.tgid()?);
    if own != other && !is_agent(to, own) {
        let (_, row) = hold::held(from)?;
        // SAFETY: the row stays valid until the program ends.
        hold::hold(to, unsafe { (*row).assets });
    }
    Some(())
}

/// Returns the assets that the actor spreads from now on; it must be a holder by now.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_reach(actor: u64, victim: u64, kind: u32, bytes: u64) -> u64 {
    reach(Task(actor), Task(victim), kind, bytes).unwrap_or(0)
}

#[inline(always)]
fn reach(actor: Task, victim: Task, kind: u32, bytes: u64) -> Option<u64> {
    let (own, other) = (actor.tgid()?, victim.tgid()?);
    if own == other || is_agent(actor, own) || marks(other) & MARK_HOLDER == 0 {
        return None;
    }
    let (_, row) = hold::held(victim)?;
    // SAFETY: the row stays valid until the program ends.
    let (assets, parent, own_bytes) =
        unsafe { ((*row).spreads, &(*row).parent, (*row).taken > (*row).inherited) };
    // A child that has only what it was forked with: the actor had all of it before.
    if !own_bytes && *parent == actor.holder_key()? {
        return None;
    }
    // Who only read a line from a holder holds nothing worth an act; the bytes count all the same.
    if assets != 0 {
        act::note_against(actor, victim, kind, assets);
    }
    Some(flow_give(actor.0, victim.0, bytes))
}

/// Counts `bytes` of `from`'s memory that came into `to`'s; nothing happens unless both are holders. Returns the assets that
/// `to` spreads from now on.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_give(to: u64, from: u64, bytes: u64) -> u64 {
    give(Task(to), Task(from), bytes).unwrap_or(0)
}

#[inline(always)]
fn give(to: Task, from: Task, bytes: u64) -> Option<u64> {
    if bytes == 0 || to.tgid()? == from.tgid()? {
        return None;
    }
    let (from_key, row) = hold::held(from)?;
    // SAFETY: the row stays valid until the program ends.
    let (assets, before) = unsafe { ((*row).assets, (*row).parent) };
    let (to_key, row) = hold::held(to)?;
    let mut key = ReachKey { to: to_key, from: from_key };
    let mut has_room = count(&key, bytes);
    // It executed another program: what was read before that was of the memory that it had then.
    if before.tgid == key.from.tgid {
        key.from = before;
        has_room &= count(&key, bytes);
    }
    if !has_room {
        // Not linked to whom it came from, and so not limited by what that had: of every asset that either holds.
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            add(&raw mut (*row).taken_beyond, bytes);
            hold::moved(&to_key, row);
        }
    }
    // SAFETY: the row stays valid until the program ends.
    let spreads = unsafe {
        add(&raw mut (*row).taken, bytes);
        if (*row).taken >= PROPAGATION_FLOOR.load() { hold::spread(row, assets & !CANARY_SET) } else { 0 }
    };
    wake();
    Some(spreads)
}

/// Whether there was room.
#[inline(always)]
fn count(key: &ReachKey, bytes: u64) -> bool {
    if REACHED.get_ptr(key).is_none()
        && REACHED.insert(key, &TakeValue { bytes: 0, last: 0 }, 1).is_err()
        && REACHED.get_ptr(key).is_none()
    {
        lose(LOSS_REACHED_FULL, bytes);
        return false;
    }
    if let Some(row) = REACHED.get_ptr_mut(key) {
        // SAFETY: the row stays valid until the program ends.
        unsafe {
            add(&raw mut (*row).bytes, bytes);
            (*row).last = now();
        }
        act::changed();
    }
    true
}

/// `task` opened `file`: if it is the memory of another process, what `task` reads is looked at from now on, whether that
/// process holds anything yet or not.
#[inline(always)]
pub(crate) fn on_open(task: Task, tgid: u32, file: File) {
    flow_open_memory(task.0, tgid, file.0);
}

// VERIFIER: beside `flow_open`, not called by it («combined stack size»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_open_memory(task: u64, tgid: u32, file: u64) -> u32 {
    // What it shows can grow after this.
    if File(file).is_text() {
        mark(tgid, MARK_WATCHED);
    }
    if let Some(victim) = File(file).memory_of()
        && let Some(other) = victim.tgid()
        && other != tgid
    {
        mark(tgid, MARK_WATCHED);
        // `ps` reads the arguments of everybody.
        if !File(file).is_text() {
            flow_reach_agent(task, victim.0, ACT_PROC_MEM);
        }
        flow_catch_up(victim.0);
        flow_hold_as(task, victim.0);
        flow_reach(task, victim.0, ACT_PROC_MEM, 0);
    }
    0
}

/// `task` read `bytes` from `file`; nothing happens unless it is the memory of a holder. Returns the assets that `task` spreads from
/// now on. Of a process that has ended it leaves the assets for [`take::flow_take_stored`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn flow_read_memory(task: u64, file: u64, bytes: u64) -> u64 {
    take::stored(0);
    // It can have shown more while it was read than it does now.
    let file = File(file);
    if !file.is_memory() && (bytes < PROPAGATION_FLOOR.load() || !file.is_text()) {
        return 0;
    }
    match file.shown_of() {
        Some(victim) if !victim.has_ended() => {
            flow_catch_up(victim.0);
            flow_hold_as(task, victim.0);
            flow_reach(task, victim.0, ACT_PROC_MEM, bytes)
        }
        _ => {
            take::stored(flow_hold_gone(task, ACT_PROC_MEM));
            0
        }
    }
}

/// `task` wrote `bytes` to `file`; nothing happens unless it is the memory of another process.
#[inline(always)]
pub(crate) fn on_write(task: Task, file: File, bytes: u64) {
    flow_write_memory(task.0, file.0, bytes);
}

// VERIFIER: what the other process has open is left to the next scan, which comes within a second: to make carriers of it here
// would be a ninth frame («the call stack of 8 frames is too deep»).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_write_memory(task: u64, file: u64, bytes: u64) -> u32 {
    let Some(victim) = File(file).memory_of() else { return 0 };
    flow_catch_up(victim.0);
    flow_hold_as(task, victim.0);
    flow_reach(task, victim.0, ACT_PROC_MEM, 0);
    flow_hold_as(victim.0, task);
    if flow_give(victim.0, task, bytes) != 0 {
        carrier::count_made();
    }
    0
}

/// The thread that `task` means by `number`; 0 when there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn flow_find(task: u64, number: u32) -> u64 {
    Task(task).find(number).map_or(0, |found| found.0)
}
