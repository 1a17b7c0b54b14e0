//! What of each asset may have left this host to where nobody listed, in the last day and the last thirty: sums that outlive
//! the agent and the boot, which Prometheus adds up over a fleet. It must not know rules, whose windows anybody may change.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    event::{BootNs, Control, Record, RecordKind},
    host::store::Row,
    rules::Window,
};

const DAY: Duration = Duration::from_hours(24);
/// Names as they are in labels, and lengths.
const WINDOWS: [(&str, Duration); 2] = [("24h", DAY), ("30d", Duration::from_hours(30 * 24))];
/// More than a window has buckets: what claims to is not ours.
const MOST_ENTRIES: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// By asset, in the order of [`WINDOWS`].
    assets: BTreeMap<String, [Window; WINDOWS.len()]>,
}

impl Leaving {
    /// Its sums are 0 before anything leaves.
    pub(super) fn know(&mut self, asset: &str) {
        if !self.assets.contains_key(asset) {
            self.assets.insert(asset.to_owned(), WINDOWS.map(|(_, over)| Window::new(over)));
        }
    }

    /// Counts a flow that leaves the host.
    pub(super) fn add(&mut self, record: &Record) {
        let (RecordKind::Flow, Some(sink)) = (record.kind, &record.sink) else { return };
        if !sink.leaves_the_host() || !matches!(sink.control, Control::Uncontrolled | Control::Unmetered) {
            return;
        }
        if let Some(windows) = self.assets.get_mut(&record.asset.name) {
            windows.iter_mut().for_each(|window| window.add(record.at, record.bytes));
        }
    }

    /// Asset, name of the window, bytes.
    pub(super) fn sums(&mut self, now: BootNs) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.assets.iter_mut().flat_map(move |(asset, windows)| {
            WINDOWS
                .iter()
                .zip(windows)
                .map(move |((name, _), window)| (asset.as_str(), *name, window.sum(now)))
        })
    }

    /// One row for each asset and window that holds anything.
    pub(super) fn save(&self) -> impl Iterator<Item = Row> {
        self.assets.iter().flat_map(|(asset, windows)| {
            WINDOWS.iter().zip(windows).filter(|(_, window)| !window.is_empty()).filter_map(
                move |((name, _), window)| {
                    let entries: Vec<(i64, u64)> = window.entries().collect();
                    Some((serde_json::to_vec(&(asset, name)).ok()?, serde_json::to_vec(&entries).ok()?))
                },
            )
        })
    }

    /// Goes on with what was saved, for assets that are still known. `shift` is added to its times, ns: they are of another boot.
    pub(super) fn restore(&mut self, rows: &[Row], shift: i64, now: BootNs) {
        for (key, value) in rows {
            let Ok((asset, name)) = serde_json::from_slice::<(String, String)>(key) else { continue };
            let Ok(entries) = serde_json::from_slice::<Vec<(i64, u64)>>(value) else { continue };
            let place = WINDOWS.iter().position(|(known, _)| *known == name);
            if let (Some(place), Some(windows)) = (place, self.assets.get_mut(&asset))
                && entries.len() <= MOST_ENTRIES
                && windows[place].is_empty()
            {
                for (end, bytes) in entries {
                    windows[place].restore(end.saturating_add(shift), bytes, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        alerts::fixtures::matched,
        event::{Sink, SinkKind},
        rules::Severity,
    };

    const HOUR: u64 = 3_600_000_000_000;

    fn flow(hours: u64, bytes: u64, kind: SinkKind, control: Control) -> Record {
        let record = matched(Severity::High, 1, 1).record;
        let sink = Some(Arc::new(Sink { removable: Some(false), ..Sink::new(kind, control) }));
        Record { kind: RecordKind::Flow, at: BootNs(hours * HOUR), bytes, sink, ..record }
    }

    fn sums(leaving: &mut Leaving, hours: u64) -> Vec<u64> {
        leaving.sums(BootNs(hours * HOUR)).map(|(_, _, bytes)| bytes).collect()
    }

    #[test]
    fn what_left_counts_for_a_day_and_for_thirty() {
        let mut leaving = Leaving::default();
        let peer = |hours, bytes, control| flow(hours, bytes, SinkKind::Peer, control);
        let asset = peer(1, 0, Control::Uncontrolled).asset.name.clone();
        leaving.know(&asset);
        assert_eq!(sums(&mut leaving, 1), [0, 0]);
        leaving.add(&peer(1, 5, Control::Uncontrolled));
        leaving.add(&peer(20, 7, Control::Unmetered));
        // Not out of the host, and out of it to where it may go.
        leaving.add(&flow(20, 100, SinkKind::File, Control::Uncontrolled));
        leaving.add(&peer(20, 100, Control::Controlled));
        assert_eq!(sums(&mut leaving, 20), [12, 12]);
        assert_eq!(sums(&mut leaving, 30), [7, 12]);
        assert_eq!(sums(&mut leaving, 32 * 24), [0, 0]);
    }

    #[test]
    fn sums_go_on_in_the_next_boot() {
        let mut leaving = Leaving::default();
        let record = flow(100, 9, SinkKind::Peer, Control::Uncontrolled);
        leaving.know(&record.asset.name);
        leaving.add(&record);
        let rows: Vec<Row> = leaving.save().collect();
        assert_eq!(rows.len(), 2);
        let mut next = Leaving::default();
        next.know(&record.asset.name);
        // An hour after a reboot that came right after it: what was at 100 h is at 0 h.
        next.restore(&rows, -((100 * HOUR).cast_signed()), BootNs(HOUR));
        assert_eq!(sums(&mut next, 1), [9, 9]);
        assert_eq!(sums(&mut next, 26), [0, 9]);
        // A row that stands there twice is not counted twice, and one of an asset that is gone not at all.
        next.restore(&rows, 0, BootNs(26 * HOUR));
        assert_eq!(sums(&mut next, 26)[1], 9);
        let mut other = Leaving::default();
        other.know("other");
        other.restore(&rows, 0, BootNs(HOUR));
        assert_eq!(sums(&mut other, 1), [0, 0]);
    }

    proptest! {
        #[test]
        fn rows_of_any_bytes_are_left_out(key: Vec<u8>, value: Vec<u8>, shift: i64) {
            let mut leaving = Leaving::default();
            leaving.know("a");
            leaving.restore(&[(key, value), (br#"["a","24h"]"#.to_vec(), b"[[9223372036854775807,18446744073709551615]]".to_vec())], shift, BootNs(1));
            prop_assert_eq!(leaving.sums(BootNs(1)).count(), 2);
        }
    }
}
