//! The windows of an engine as plain rows, to be kept by somebody else over a restart. It must not know where.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    group::{Group, Tally},
    key::Key,
    state::{MAX_GROUPS, State},
};
use crate::{
    event::{Asset, AssetId, AssetKind, BootNs},
    rules::{RuleSet, rule::Rule, window::MAX_DISTINCT},
};

/// Most values of one row's lists that are read; an engine writes fewer.
const MAX_ENTRIES: usize = MAX_DISTINCT;

/// One window of one rule. All times are nanoseconds on the clock of the boot that it was exported in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Id of the rule.
    pub rule: String,
    /// What is measured; a rule that measures otherwise does not take the row.
    pub sum: String,
    /// The id of an exception or nothing, and the values of the sum's `by` fields.
    pub key: Vec<String>,
    /// Name and size of the asset of the last record.
    pub asset: String,
    pub asset_bytes: u64,
    pub first_at: u64,
    pub last_at: u64,
    /// Of acts: the most that one of them reached.
    pub largest: u64,
    /// The last nanosecond of each part of the window, oldest first, and the bytes in it.
    pub bytes: Vec<(i64, u64)>,
    /// The same for events, where those are counted.
    #[serde(default)]
    pub events: Vec<(i64, u64)>,
    /// Different values and when each was seen last, where those are counted.
    #[serde(default)]
    pub values: Vec<(String, u64)>,
}

pub(super) fn export(rules: &RuleSet, states: &[State]) -> impl Iterator<Item = Row> {
    rules.rules().iter().zip(states).flat_map(|(rule, state)| {
        prints(rule).into_iter().zip(&state.sums).flat_map(move |(print, groups)| {
            groups.iter().map(move |(key, group)| row(&rule.facts.id, &print, key, group))
        })
    })
}

/// Where the values of `field` stand in the keys of rows, by rule and sum.
pub(super) fn places(rules: &RuleSet, field: &str) -> Places {
    let mut places = Places::new();
    for rule in rules.rules() {
        for (print, sum) in prints(rule).into_iter().zip(rule.sums.iter()) {
            let at = sum.by.iter().enumerate().filter(|(_, by)| by.name == field);
            // The exception's id stands first.
            let at: Vec<usize> = at.map(|(at, _)| at + 1).collect();
            if !at.is_empty() {
                places.insert((rule.facts.id.clone(), print), at);
            }
        }
    }
    places
}

/// By id of a rule and what its sum measures.
pub type Places = HashMap<(String, String), Vec<usize>>;

impl Row {
    /// Times of an earlier boot as times of this one.
    pub fn shift(&mut self, by_ns: i64) {
        self.first_at = self.first_at.saturating_add_signed(by_ns);
        self.last_at = self.last_at.saturating_add_signed(by_ns);
        let entries = self.bytes.iter_mut().chain(&mut self.events);
        entries.for_each(|(end, _)| *end = end.saturating_add(by_ns));
        self.values.iter_mut().for_each(|(_, last)| *last = last.saturating_add_signed(by_ns));
    }

    /// Whether nothing of it is within the longest window that a rule can have.
    #[must_use]
    pub fn is_over(&self, now: BootNs) -> bool {
        const LONGEST: i64 = 92 * 24 * 3600 * 1_000_000_000;
        let line = now.0.cast_signed().saturating_sub(LONGEST);
        let mut ends = self.bytes.iter().chain(&self.events).map(|(end, _)| *end);
        let mut values = self.values.iter().map(|(_, last)| last.cast_signed());
        ends.all(|end| end < line) && values.all(|last| last < line)
    }

    /// Takes in a row of the same window under another key.
    pub fn join(&mut self, other: Self) {
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
        self.largest = self.largest.max(other.largest);
        for (own, more) in [(&mut self.bytes, other.bytes), (&mut self.events, other.events)] {
            own.extend(more);
            own.sort_unstable();
        }
        self.values.extend(other.values);
        self.values.sort_by_key(|(_, last)| *last);
    }
}

/// What each sum of a rule measures. Those that measure the same and differ in their lines are told apart by their order.
pub(super) fn prints(rule: &Rule) -> Vec<String> {
    let mut prints: Vec<String> = Vec::new();
    for sum in rule.sums.iter() {
        let mut print = sum.fingerprint(rule.on);
        while prints.contains(&print) {
            print.push_str(" again");
        }
        prints.push(print);
    }
    prints
}

fn row(rule: &str, sum: &str, key: &Key, group: &Group) -> Row {
    let (events, values) = match &group.tally {
        Tally::Bytes => (Vec::new(), Vec::new()),
        Tally::Count(window) => (window.entries().collect(), Vec::new()),
        Tally::Distinct(distinct) => {
            (Vec::new(), distinct.entries().map(|(value, last)| (value.to_owned(), last.0)).collect())
        }
    };
    Row {
        rule: rule.to_owned(),
        sum: sum.to_owned(),
        key: key.parts().map(str::to_owned).collect(),
        asset: group.asset.name.clone(),
        asset_bytes: group.asset.bytes,
        first_at: group.first_at.0,
        last_at: group.last_at.0,
        largest: group.largest,
        bytes: group.bytes.entries().collect(),
        events,
        values,
    }
}

pub(super) fn import(
    rules: &RuleSet,
    states: &mut [State],
    rows: Vec<Row>,
    shift_ns: i64,
    now: BootNs,
) -> u64 {
    let mut places = HashMap::new();
    for (at, rule) in rules.rules().iter().enumerate() {
        for (place, print) in prints(rule).into_iter().enumerate() {
            places.insert((rule.facts.id.clone(), print), (at, place));
        }
    }
    let mut refused = 0;
    for row in rows {
        let place = places.get(&(row.rule.clone(), row.sum.clone())).copied();
        let taken = place.and_then(|(at, place)| {
            let sum = &rules.rules()[at].sums[place];
            let fits = row.key.len() == sum.by.len() + 1
                && [row.bytes.len(), row.events.len(), row.values.len()]
                    .iter()
                    .all(|&many| many <= MAX_ENTRIES);
            let groups = &mut states[at].sums[place];
            if !fits || groups.len() >= MAX_GROUPS {
                return None;
            }
            match groups.entry(Key::of(row.key.iter().map(String::as_str))) {
                // A row that stands there twice is not counted twice.
                Entry::Occupied(_) => None,
                Entry::Vacant(vacant) => {
                    let group = Group::new(sum, &Arc::new(asset(&row)), BootNs(0));
                    vacant.insert(Box::new(fill(group, row, shift_ns, now)));
                    Some(())
                }
            }
        });
        refused += u64::from(taken.is_none());
    }
    refused
}

/// Until the next record says which asset it is: shares are of the size that it had.
fn asset(row: &Row) -> Asset {
    Asset {
        id: AssetId(u16::MAX),
        name: row.asset.clone(),
        kind: AssetKind::Weights,
        bytes: row.asset_bytes,
        most: row.asset_bytes,
        has_readers: false,
    }
}

fn fill(mut group: Group, row: Row, shift_ns: i64, now: BootNs) -> Group {
    let moved = |at: u64| BootNs(at.saturating_add_signed(shift_ns).min(now.0));
    (group.first_at, group.last_at) = (moved(row.first_at), moved(row.last_at));
    group.largest = row.largest;
    for (end, bytes) in row.bytes {
        group.bytes.restore(end.saturating_add(shift_ns), bytes, now);
    }
    match &mut group.tally {
        Tally::Bytes => {}
        Tally::Count(window) => {
            for (end, events) in row.events {
                window.restore(end.saturating_add(shift_ns), events, now);
            }
        }
        Tally::Distinct(distinct) => {
            for (value, last) in row.values {
                distinct.add(moved(last), &value);
            }
        }
    }
    group
}
