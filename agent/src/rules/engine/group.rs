//! One window of one sum, with who filled it. It must not know rules, nor who is told of what.

use std::sync::Arc;

use super::Contributors;
use crate::{
    event::{Asset, BootNs, HolderId, Process, Record, RecordKind},
    rules::{
        shape::{Measure, Sum},
        window::{Distinct, Window},
    },
};

/// Most contributors of one group that are told apart. Beyond them the one with the smallest sum makes room.
const MAX_CONTRIBUTORS: usize = 16;
/// Most contributors that a match names.
const TOP_CONTRIBUTORS: usize = 8;

/// The window of one combination of a sum's `by` values.
#[derive(Debug)]
pub(super) struct Group {
    /// Bytes, whatever is measured. Every record leaves an entry, if only of zero, so it is empty only when nothing is in
    /// the window.
    pub(super) bytes: Window,
    pub(super) tally: Tally,
    /// Of acts, whose bytes are no growth: the most that one of them reached.
    pub(super) largest: u64,
    /// Sums what the whole host sent, which is no bound and is not cut by the asset's size: its lines have floors that a small
    /// asset lies below.
    is_whole: bool,
    pub(super) asset: Arc<Asset>,
    pub(super) first_at: BootNs,
    pub(super) last_at: BootNs,
    /// Whether anybody was told that it is at or above its lowest line.
    pub(super) is_matching: bool,
    contributors: Vec<Contributor>,
    /// Contributors that had to make room.
    forgotten: u32,
}

/// What a sum measures beside bytes.
#[derive(Debug)]
pub(super) enum Tally {
    Bytes,
    // Boxed, because most sums are of bytes.
    Count(Box<Window>),
    Distinct(Box<Distinct>),
}

#[derive(Debug)]
struct Contributor {
    holder: HolderId,
    process: Arc<Process>,
    /// `None` while all that is in the group's window is his.
    window: Option<Box<Window>>,
}

impl Group {
    pub(super) fn new(sum: &Sum, asset: &Arc<Asset>, at: BootNs) -> Self {
        Self {
            bytes: Window::new(sum.over),
            tally: match sum.measure {
                Measure::Bytes(_) => Tally::Bytes,
                Measure::Count => Tally::Count(Box::new(Window::new(sum.over))),
                Measure::Distinct(_) => Tally::Distinct(Box::new(Distinct::new(sum.over))),
            },
            largest: 0,
            is_whole: matches!(sum.measure, Measure::Bytes("bytes")),
            asset: Arc::clone(asset),
            first_at: at,
            last_at: at,
            is_matching: false,
            contributors: Vec::new(),
            forgotten: 0,
        }
    }

    /// Goes on as the group of another record: its window stays and nobody was told of it yet.
    pub(super) fn hand_to(&mut self, record: &Record) {
        self.asset.clone_from(&record.asset);
        (self.first_at, self.last_at) = (record.at, record.at);
        self.is_matching = false;
        self.contributors.clear();
        self.forgotten = 0;
    }

    /// Counts a record. Contributors that make room for others lose their names, never their bytes, and stay counted: that is
    /// no loss.
    pub(super) fn add(&mut self, sum: &Sum, record: &Record) {
        // A window that ran empty unseen starts anew, as if `expire` had come in between.
        self.bytes.sum(record.at);
        if self.bytes.is_empty() {
            (self.first_at, self.forgotten, self.largest) = (record.at, 0, 0);
            self.contributors.clear();
        }
        let growth = if record.kind == RecordKind::Act { 0 } else { record.bytes };
        self.largest = self.largest.max(record.bytes - growth);
        self.contribute(sum, record, growth);
        self.bytes.add(record.at, growth);
        match (&mut self.tally, sum.measure) {
            (Tally::Count(window), _) => window.add(record.at, 1),
            (Tally::Distinct(distinct), Measure::Distinct(field)) => {
                // What has no value is no new value; the line of such a rule is about values that are there.
                if let Some(value) = (field.get)(record) {
                    let mut text = String::new();
                    value.write_to(&mut text);
                    distinct.add(record.at, &text);
                }
            }
            _ => {}
        }
        self.asset.clone_from(&record.asset);
        self.first_at = self.first_at.min(record.at);
        self.last_at = self.last_at.max(record.at);
    }

    /// Before the growth is in the group's own window.
    fn contribute(&mut self, sum: &Sum, record: &Record, growth: u64) {
        if let Some(known) = self.contributors.iter_mut().find(|known| known.holder == record.holder) {
            if let Some(window) = &mut known.window {
                window.add(record.at, growth);
            }
            if !Arc::ptr_eq(&known.process, &record.process) {
                known.process.clone_from(&record.process);
            }
            return;
        }
        let (holder, process) = (record.holder, Arc::clone(&record.process));
        if self.bytes.is_empty() {
            self.contributors.reserve_exact(1);
            self.contributors.push(Contributor { holder, process, window: None });
            return;
        }
        for known in &mut self.contributors {
            known.window.get_or_insert_with(|| Box::new(self.bytes.clone()));
        }
        if self.contributors.len() >= MAX_CONTRIBUTORS {
            let sums = self.contributors.iter_mut().enumerate();
            let of =
                |known: &mut Contributor| known.window.as_mut().map_or(0, |window| window.sum(record.at));
            let smallest = sums.map(|(at, known)| (of(known), at)).min();
            if let Some((sum, at)) = smallest {
                self.contributors.swap_remove(at);
                self.forgotten = self.forgotten.saturating_add(u32::from(sum > 0));
            }
        }
        let mut window = Box::new(Window::new(sum.over));
        window.add(record.at, growth);
        self.contributors.push(Contributor { holder, process, window: Some(window) });
    }

    /// The bytes of the window; of a bound at most what was ever in the asset, where that is known.
    pub(super) fn bound(&mut self, now: BootNs) -> u64 {
        let sum = self.bytes.sum(now).max(self.largest);
        // Events of a rule's tests say nothing of earlier versions.
        let most = self.asset.most.max(self.asset.bytes);
        if most == 0 || self.is_whole { sum } else { sum.min(most) }
    }

    /// What is compared with the lines.
    pub(super) fn value(&mut self, now: BootNs) -> u64 {
        match &mut self.tally {
            Tally::Bytes => self.bound(now),
            Tally::Count(window) => window.sum(now),
            Tally::Distinct(distinct) => distinct.count(now),
        }
    }

    /// Whether nothing is in its window any more.
    pub(super) fn is_over(&mut self, now: BootNs) -> bool {
        self.bytes.sum(now);
        self.bytes.is_empty()
    }

    pub(super) fn contributors(&mut self, now: BootNs) -> Contributors {
        let all = self.bytes.sum(now);
        let is_empty = self.bytes.is_empty();
        self.contributors.retain_mut(|known| match &mut known.window {
            Some(window) => {
                window.sum(now);
                !window.is_empty()
            }
            None => !is_empty,
        });
        let sum = |known: &mut Contributor| known.window.as_mut().map_or(all, |window| window.sum(now));
        let mut top: Vec<_> = self
            .contributors
            .iter_mut()
            .map(|known| (known.holder, Arc::clone(&known.process), sum(known)))
            .collect();
        top.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(&b.0)));
        let count = u64::from(self.forgotten) + top.len() as u64;
        top.truncate(TOP_CONTRIBUTORS);
        Contributors { count, top }
    }
}
