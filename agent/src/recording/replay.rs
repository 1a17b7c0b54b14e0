//! A recording through the same ledger, rules and alerts as on the host, with the recording's clock: a month takes seconds.
//!
//! It must not know where alerts are shown.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use super::file::{Damage, Reader};
use crate::{
    alerts::{self, Alert, Alerts, Head},
    event::{BootNs, Record},
    ledger::Ledger,
    rules::{Engine, Match, Mode, RuleSet, Severity},
};

/// Of what passes with time, as on the host.
const TICK: u64 = 1_000_000_000;
/// Most alerts that are kept for the answer; the rest is only counted.
const MOST: usize = 100_000;

/// What a replay came to.
#[derive(Debug)]
pub struct Replayed {
    /// Every line, in order.
    pub alerts: Vec<Alert>,
    /// Lines beyond the most that are kept.
    pub dropped: u64,
    pub statements: u64,
    /// Records that the rules saw.
    pub records: u64,
    /// First and last time of the recording, ns since boot.
    pub span: Option<(BootNs, BootNs)>,
    pub damage: Option<Damage>,
}

/// One finding of a replay: what tells it from others, and how far it went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub rule: String,
    /// The values of `group_by`.
    pub group: Vec<(String, String)>,
    pub severity: Severity,
    pub mode: Mode,
}

/// How two replays of one recording differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Appears(Found),
    Vanishes(Found),
    /// The same finding at another severity or in another mode: before, and now.
    Becomes(Found, Found),
}

/// Puts all that `reader` gives through `rules`.
pub fn replay<R: Read>(reader: &mut Reader<R>, rules: &Arc<RuleSet>) -> Replayed {
    let header = reader.header().clone();
    let mut replay = Replay {
        ledger: Ledger::new(header.propagation_floor),
        engine: Engine::new(Arc::clone(rules)),
        alerts: Alerts::new(alerts::Context {
            host: header.host,
            host_uid: None,
            kernel_release: header.kernel,
            version: header.agent,
            sensor: header.sensor,
            rules_digest: rules.digest().to_owned(),
            boot_wall_ms: header.boot_wall_ms,
            // The same recording and rules give the same lines.
            run: [0; 16],
            head: Head::default(),
            key: None,
            note: None,
        }),
        records: Vec::new(),
        matches: Vec::new(),
        done: Replayed {
            alerts: Vec::new(),
            dropped: 0,
            statements: 0,
            records: 0,
            span: None,
            damage: None,
        },
    };
    let mut tick = None;
    let mut now = BootNs(0);
    for statement in reader.by_ref() {
        // Statements of several CPUs can be a little out of order; the clock goes on only.
        now = now.max(statement.at);
        let due = *tick.get_or_insert_with(|| BootNs(now.0.saturating_add(TICK)));
        if now >= due {
            replay.pass(due);
            tick = Some(BootNs(now.0.saturating_add(TICK)));
        }
        let first = replay.done.span.map_or(now, |(first, _)| first);
        replay.done.span = Some((first, now));
        replay.done.statements += 1;
        replay.ledger.apply(statement.event, &mut replay.records);
        replay.judge(now);
    }
    replay.finish(now, reader.damage().cloned())
}

struct Replay {
    ledger: Ledger,
    engine: Engine,
    alerts: Alerts,
    records: Vec<Record>,
    matches: Vec<Match>,
    done: Replayed,
}

impl Replay {
    fn judge(&mut self, now: BootNs) {
        for (nth, mut record) in self.records.drain(..).enumerate() {
            self.done.records += 1;
            let first = self.matches.len();
            self.engine.observe(&record, &mut self.matches);
            if self.matches.len() > first {
                self.ledger.trace(nth, &mut record);
                self.matches[first..]
                    .iter_mut()
                    .for_each(|one| one.record.lineage.clone_from(&record.lineage));
            }
        }
        if self.matches.is_empty() {
            return;
        }
        let loss = self.ledger.loss();
        let mut lines = Vec::new();
        for matched in self.matches.drain(..) {
            lines.extend(self.alerts.observe(&matched, now, &loss));
        }
        self.keep(lines);
    }

    /// What passes with time.
    fn pass(&mut self, now: BootNs) {
        let mut resolved = Vec::new();
        self.engine.expire(now, &mut resolved);
        let mut lines = Vec::new();
        for resolved in resolved {
            lines.extend(self.alerts.resolved(&resolved, now));
        }
        lines.extend(self.alerts.tick(now));
        self.keep(lines);
    }

    fn keep(&mut self, lines: Vec<Alert>) {
        for line in lines {
            if self.done.alerts.len() < MOST {
                self.done.alerts.push(line);
            } else {
                self.done.dropped += 1;
            }
        }
    }

    fn finish(mut self, now: BootNs, damage: Option<Damage>) -> Replayed {
        let lines = self.alerts.flush(now);
        self.keep(lines);
        self.done.damage = damage;
        self.done
    }
}

impl Replayed {
    /// The findings, each at its highest severity.
    #[must_use]
    pub fn findings(&self) -> Vec<Found> {
        let mut found: BTreeMap<(String, Vec<(String, String)>), Found> = BTreeMap::new();
        for alert in &self.alerts {
            let matched = &alert.matched;
            let group: Vec<(String, String)> =
                matched.group.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let key = (matched.rule.id.clone(), group.clone());
            let one = found.entry(key).or_insert_with(|| Found {
                rule: matched.rule.id.clone(),
                group,
                severity: matched.severity,
                mode: matched.mode,
            });
            one.severity = one.severity.max(matched.severity);
            one.mode = one.mode.min(matched.mode);
        }
        found.into_values().collect()
    }
}

/// What `after` finds that `before` did not, and the other way round.
#[must_use]
pub fn compare(before: &Replayed, after: &Replayed) -> Vec<Change> {
    let by_identity = |replayed: &Replayed| -> BTreeMap<(String, Vec<(String, String)>), Found> {
        let all = replayed.findings().into_iter();
        all.map(|found| ((found.rule.clone(), found.group.clone()), found)).collect()
    };
    let (old, new) = (by_identity(before), by_identity(after));
    let mut changes = Vec::new();
    for (identity, found) in &old {
        match new.get(identity) {
            None => changes.push(Change::Vanishes(found.clone())),
            Some(now) if now != found => changes.push(Change::Becomes(found.clone(), now.clone())),
            Some(_) => {}
        }
    }
    let appeared = new.iter().filter(|(identity, _)| !old.contains_key(*identity));
    changes.extend(appeared.map(|(_, found)| Change::Appears(found.clone())));
    changes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        event::{
            Asset, AssetId, AssetKind, AssetList, AssetSet, Control, Dev, Event, HolderId, ObjectId, Process,
            Sink, SinkKey, SinkKind, Source,
        },
        recording::{Header, Writer, fixtures::header},
        rules::fixtures::rule_set,
    };

    const MIB: u64 = 1 << 20;
    const SECOND: u64 = 1_000_000_000;

    fn rules(gte: &str) -> Arc<RuleSet> {
        let tiers = format!("tiers: [{{gte: {gte}, severity: high}}]");
        let body = format!(
            "    match: {{sink.control: uncontrolled}}
    aggregate: {{sum: bound, by: [asset.name], over: 10m, {tiers}}}
    group_by: [asset.name]
"
        );
        rule_set("alert", &body)
    }

    /// A process takes 20 MiB and puts 8 of them on a stick, one a second.
    fn recording() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let header = Header { boot_wall_ms: 0, ..header() };
        let holder = HolderId { tgid: 7, exec: 0, start: BootNs(1) };
        let key = SinkKey::File(ObjectId { dev: Dev::new(8, 16), ino: 1, generation: 0 });
        let asset = Asset {
            id: AssetId(0),
            name: "llm".to_owned(),
            kind: AssetKind::Weights,
            bytes: 100 * MIB,
            most: 100 * MIB,
            has_readers: false,
        };
        let sink = Sink {
            path: Some("/mnt/usb/w".to_owned()),
            device: Some("8:16".to_owned()),
            ..Sink::new(SinkKind::File, Control::Uncontrolled)
        };
        let process = Process { pid: 7, exe: "/usr/bin/cp".to_owned(), ..Process::host() };
        let mut writer = Writer::create(&path, &header).unwrap();
        let mut said = vec![
            Event::Asset(Arc::new(asset)),
            Event::Process { holder, process: Arc::new(process) },
            Event::Sink { key, sink: Arc::new(sink) },
            Event::Take {
                holder,
                source: Source::Asset(AssetId(0)),
                bytes: 20 * MIB,
                listed: AssetList::default(),
                at: BootNs(SECOND),
            },
        ];
        said.extend((1..=8).map(|n| Event::Flow {
            holder,
            sink: key,
            assets: AssetSet(1),
            bytes: n * MIB,
            at: BootNs((1 + n) * SECOND),
        }));
        for (event, second) in said.iter().zip([1, 1, 1, 1].into_iter().chain(2..)) {
            writer.write(BootNs(second * SECOND), event).unwrap();
        }
        writer.flush().unwrap();
        std::fs::read(&path).unwrap()
    }

    fn replayed(recording: &[u8], rules: &Arc<RuleSet>) -> Replayed {
        replay(&mut Reader::new(recording, Path::new("r")).unwrap(), rules)
    }

    #[test]
    fn the_rules_see_what_they_saw_on_the_host() {
        let done = replayed(&recording(), &rules("4MiB"));
        assert_eq!((done.statements, done.damage.is_none()), (12, true));
        assert_eq!(done.span, Some((BootNs(SECOND), BootNs(9 * SECOND))));
        let last = done.alerts.last().unwrap();
        assert_eq!(
            (last.matched.bound_bytes, last.matched.record.process.exe.as_str()),
            (8 * MIB, "/usr/bin/cp")
        );
        assert_eq!(done.findings()[0].group, [("asset.name".to_owned(), "llm".to_owned())]);
    }

    #[test]
    fn the_same_recording_and_rules_give_the_same_lines() {
        let lines = |done: &Replayed| done.alerts.iter().map(|alert| alert.line.clone()).collect::<Vec<_>>();
        let recording = recording();
        let (once, again) = (replayed(&recording, &rules("4MiB")), replayed(&recording, &rules("4MiB")));
        assert_eq!(lines(&once), lines(&again));
    }

    #[test]
    fn a_change_of_the_rules_is_told_by_finding() {
        let recording = recording();
        let (low, high) = (replayed(&recording, &rules("4MiB")), replayed(&recording, &rules("9MiB")));
        let found = low.findings().remove(0);
        assert_eq!(compare(&low, &high), [Change::Vanishes(found.clone())]);
        assert_eq!(compare(&high, &low), [Change::Appears(found)]);
        assert_eq!(compare(&low, &low), []);
    }

    #[test]
    fn a_cut_recording_is_replayed_up_to_the_cut() {
        let whole = recording();
        let done = replayed(&whole[..whole.len() - 3], &rules("4MiB"));
        assert_eq!(done.damage.map(|damage| damage.reason), Some("it ends within a block"));
    }
}
