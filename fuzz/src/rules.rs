//! Files of rules: whatever is in one, reading it ends, and what was accepted can be shown and evaluated.

use std::sync::Arc;

use weighbridge::{
    event::{
        Act, ActKind, Asset, AssetId, AssetKind, BootNs, Control, HolderId, Process, Record, RecordKind,
        Sink, SinkKind,
    },
    rules::{Engine, RuleSet},
    yaml::render,
};

/// Far enough apart that short windows slide; the last one is far behind.
const SECONDS: [u64; 4] = [1, 2, 700, 3];

/// Reads the bytes as a file of rules.
#[must_use]
pub fn rules(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let today = jiff::civil::date(2026, 11, 22);
    match RuleSet::parse(&[("fuzz.yaml".into(), text.to_owned())], today) {
        Ok(set) => {
            for rule in set.rules() {
                let _ = (rule.yaml(), rule.lines(), rule.conditions());
            }
            evaluate(&Arc::new(set));
            true
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let _ = render(&faults, false);
            false
        }
    }
}

/// A few records of each kind, then what a reload and a restart do with the windows. The rules' own tests are not run: they may
/// have a hundred thousand events each.
fn evaluate(set: &Arc<RuleSet>) {
    let mut engine = Engine::new(Arc::clone(set));
    let (mut matches, mut resolved) = (Vec::new(), Vec::new());
    for second in SECONDS {
        for kind in RecordKind::ALL {
            engine.observe(&record(kind, second), &mut matches);
        }
    }
    let now = BootNs(800_000_000_000);
    engine.expire(now, &mut resolved);
    let rows: Vec<_> = engine.export().collect();
    let mut next = Engine::new(Arc::clone(set));
    assert_eq!(next.import(rows.clone(), 0, now), 0, "its own rows are refused");
    assert_eq!(next.group_count(), rows.len());
    matches.iter().for_each(|found| next.reopen(found, now));
    next.replace_rules(Arc::clone(set), now);
    next.expire(BootNs(u64::MAX), &mut resolved);
}

fn record(kind: RecordKind, second: u64) -> Record {
    let process = Arc::new(Process {
        pid: 7,
        exe: "/usr/bin/cp".to_owned(),
        cmdline: "cp /models/a /media/b".to_owned(),
        uid: 1000,
        unit: Some("a.service".to_owned()),
        ..Process::host()
    });
    let sink = Sink {
        path: Some("/media/b".to_owned()),
        device: Some("8:16".to_owned()),
        peer: Some("203.0.113.9:443/tcp".to_owned()),
        ..Sink::new(SinkKind::File, Control::Uncontrolled)
    };
    let is_act = kind == RecordKind::Act;
    Record {
        kind,
        at: BootNs(second * 1_000_000_000),
        asset: Arc::new(Asset {
            id: AssetId(0),
            name: "llm".to_owned(),
            kind: AssetKind::Weights,
            bytes: 1 << 37,
            most: 1 << 37,
            has_readers: true,
        }),
        holder: HolderId { tgid: 7, exec: 0, start: BootNs(1) },
        victim: is_act.then(|| Arc::clone(&process)),
        process,
        sink: (!is_act).then(|| Arc::new(sink)),
        bytes: 1 << 30,
        act: is_act.then(|| Act {
            kind: ActKind::Ptrace,
            victim: None,
            target: Some("/proc/7/mem".to_owned()),
        }),
        listed: false,
        lineage: Arc::new(Vec::new()),
    }
}
