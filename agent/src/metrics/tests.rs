//! What a scrape contains, parsed line by line.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{rules::MOST_RULES, *};
use crate::event::{AssetId, AssetKind, BootNs, HolderId, Process, Sink, SinkKind};
use crate::rules::{Mode, Severity};

fn metrics() -> Metrics {
    Metrics::new(&BuildInfo { version: "0.1.0", commit: "abc", kernel_release: "6.12.0" }).unwrap()
}

/// `name{labels}` to value.
fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn asset() -> Asset {
    Asset {
        id: AssetId(0),
        name: "llm-70b".to_owned(),
        kind: AssetKind::Weights,
        bytes: 1 << 30,
        most: 1 << 30,
        has_readers: false,
    }
}

fn record(kind: SinkKind, control: Control, removable: Option<bool>, bytes: u64) -> Record {
    let process = Process {
        pid: 1,
        start: 1,
        exe: String::new(),
        exe_sha256: None,
        cmdline: String::new(),
        uid: 0,
        auid: None,
        cgroup: None,
        container: None,
        unit: None,
        ancestry: Vec::new(),
    };
    let sink = Sink { removable, ..Sink::new(kind, control) };
    Record {
        kind: RecordKind::Flow,
        at: BootNs(1),
        asset: Arc::new(asset()),
        holder: HolderId { tgid: 1, exec: 0, start: BootNs(1) },
        process: Arc::new(process),
        sink: Some(Arc::new(sink)),
        bytes,
        act: None,
        victim: None,
        listed: false,
        lineage: Arc::new(Vec::new()),
    }
}

#[test]
fn every_child_exists_before_anything_happens() {
    let metrics = metrics();
    metrics.set_asset(&asset());
    metrics.set_rules("77e0", ["core"], [("WB-0001", Mode::Alert), ("WB-0004", Mode::Shadow)]);
    let scrape = scrape(&metrics);
    let zero = |name: &str, children: usize| {
        let found: Vec<f64> = scrape
            .iter()
            .filter(|(series, _)| series.starts_with(&format!("weighbridge_{name}{{")))
            .map(|(_, &v)| v)
            .collect();
        assert_eq!(found, vec![0.0; children], "{name}");
    };
    zero("flow_bytes_total", Control::ALL.len());
    zero("egress_bytes_total", Control::ALL.len());
    zero("rule_matches_total", 2 * Outcome::ALL.len());
    zero("rule_seconds_total", 2);
    zero("alerts_total", 2 * Severity::ALL.len());
    zero("alerts_active", Severity::ALL.len());
    zero("events_lost_total", LOSSES.len() + STAGES.len());
    zero("sink_sent_total", Sinks::NAMES.len());
    assert_eq!(
        scrape[r#"weighbridge_build_info{commit="abc",kernel_release="6.12.0",version="0.1.0"}"#],
        1.0
    );
    assert_eq!(scrape[r#"weighbridge_rules_info{digest="77e0",pack="core"}"#], 1.0);
    assert_eq!(scrape[r#"weighbridge_rules_loaded{mode="shadow"}"#], 1.0);
    assert_eq!(scrape[r#"weighbridge_asset_bytes{asset="llm-70b"}"#], (1_u64 << 30) as f64);
    assert_eq!(scrape["weighbridge_assets"], 1.0);
    for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"] {
        assert!(scrape[&format!("process_{name}")] > 0.0, "{name}");
    }
}

#[test]
fn flows_are_split_by_control_and_egress_is_what_left() {
    let metrics = metrics();
    metrics.set_asset(&asset());
    metrics.add_record(&record(SinkKind::Peer, Control::Uncontrolled, None, 5));
    metrics.add_record(&record(SinkKind::File, Control::Uncontrolled, Some(true), 7));
    metrics.add_record(&record(SinkKind::File, Control::Uncontrolled, None, 11));
    metrics.add_record(&record(SinkKind::Process, Control::Process, None, 13));
    metrics.add_record(&Record {
        kind: RecordKind::Take,
        sink: None,
        ..record(SinkKind::Peer, Control::Process, None, 1)
    });
    let scrape = scrape(&metrics);
    let value = |name: &str, control: &str| {
        scrape[&format!(r#"weighbridge_{name}_total{{asset="llm-70b",control="{control}"}}"#)]
    };
    assert_eq!((value("flow_bytes", "uncontrolled"), value("flow_bytes", "process")), (23.0, 13.0));
    assert_eq!((value("egress_bytes", "uncontrolled"), value("egress_bytes", "process")), (12.0, 0.0));
}

#[test]
fn sums_of_others_raise_counters_and_never_lower_them() {
    let metrics = metrics();
    metrics.set_sequence(7);
    metrics.set_sequence(5);
    metrics.set_loss(&Loss::from([("ring_full", 3), ("new_stage", 1)]));
    metrics.set_loss(&Loss::from([("ring_full", 4)]));
    let counts = Counts { sent: 10, failed: 2, dropped: 1, backlog: 4, failing: 1 };
    metrics.set_sinks(&[("file", counts)]);
    metrics.set_sinks(&[("file", counts)]);
    let scrape = scrape(&metrics);
    assert_eq!(scrape["weighbridge_alert_log_sequence"], 7.0);
    assert_eq!(scrape[r#"weighbridge_events_lost_total{stage="ring_full"}"#], 4.0);
    assert_eq!(scrape[r#"weighbridge_events_lost_total{stage="new_stage"}"#], 1.0);
    assert_eq!(scrape[r#"weighbridge_events_lost_total{stage="sink"}"#], 1.0);
    assert_eq!(scrape[r#"weighbridge_sink_sent_total{sink="file"}"#], 10.0);
    assert_eq!(scrape[r#"weighbridge_sink_failed_total{sink="file"}"#], 3.0);
    assert_eq!(scrape[r#"weighbridge_sink_backlog{sink="file"}"#], 4.0);
}

#[test]
fn rules_beyond_the_limit_are_counted_together() {
    let metrics = metrics();
    for n in 0..300 {
        metrics.add_match(&format!("SITE-{n:04}"), Outcome::Excepted);
    }
    let scrape = scrape(&metrics);
    assert_eq!(scrape[r#"weighbridge_rule_matches_total{outcome="excepted",rule_id="other"}"#], 100.0);
}

#[test]
fn a_reload_replaces_the_rule_set() {
    let metrics = metrics();
    metrics.set_rules("old", ["core", "site"], [("WB-0001", Mode::Alert)]);
    metrics.set_rules("new", ["core"], [("WB-0001", Mode::Off)]);
    let scrape = scrape(&metrics);
    let info: Vec<&String> =
        scrape.keys().filter(|name| name.starts_with("weighbridge_rules_info")).collect();
    assert_eq!(info, [r#"weighbridge_rules_info{digest="new",pack="core"}"#]);
    assert_eq!(scrape[r#"weighbridge_rules_loaded{mode="alert"}"#], 0.0);
}

#[test]
fn the_time_of_rules_adds_up_and_rules_beyond_the_room_share_a_child() {
    let metrics = metrics();
    for rule in 0..MOST_RULES {
        metrics.know_rule(&format!("TEST-{rule:04}"));
    }
    for rule in ["TEST-0000", "TEST-0000", "MORE-0001", "MORE-0002"] {
        metrics.add_rule_time(rule, Duration::from_millis(250));
    }
    let scrape = scrape(&metrics);
    assert_eq!(scrape["weighbridge_rule_seconds_total{rule_id=\"TEST-0000\"}"], 0.5);
    assert_eq!(scrape["weighbridge_rule_seconds_total{rule_id=\"other\"}"], 0.5);
}

/// Each has a row in docs/metrics.md with its type and its labels, and each row there is one.
#[test]
fn the_table_in_the_documents_is_what_is_served() {
    let metrics = metrics();
    metrics.set_asset(&asset());
    metrics.set_rules("77e0", ["core"], [("WB-0001", Mode::Alert)]);
    metrics.set_probe("sys_exit", "tp_btf", true);
    metrics.add_events("take", 0);
    metrics.set_egress_windows([("llm-70b", "24h", 0)]);
    // Exceptions have children when there are some.
    set(&metrics.rules.exception_expiry, &["EX-1"], 0);
    count(&metrics.rules.exception_matches, &["EX-1"], 0);
    let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
    let mut served: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            served.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, labels)) = line.split_once('{') {
            // A histogram's own series and their label are of its family.
            let Some((_, known)) = served.get_mut(series) else { continue };
            let labels = labels.rsplit_once('}').unwrap().0.split("\",");
            known.extend(labels.filter_map(|label| Some(label.split_once("=\"")?.0.to_owned())));
        }
    }
    let table = include_str!("../../../docs/metrics.md").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_matches('`').to_owned();
        let kind = cells.next()?.to_owned();
        let labels = cells.next()?.split(", ").filter(|label| !label.is_empty());
        Some((name, (kind, labels.map(|label| label.trim_matches('`').to_owned()).collect())))
    });
    let table: BTreeMap<String, (String, BTreeSet<String>)> = table.collect();
    for name in table.keys().chain(served.keys()) {
        assert_eq!(table.get(name), served.get(name), "{name}: docs/metrics.md on the left");
    }
}
