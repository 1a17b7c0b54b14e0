//! Whole lines, whole lives of findings, and chains that somebody tampered with.

use std::sync::Arc;

use serde_json::Value;

use super::{
    fixtures::{MIB, SECOND, context, egress, lost, matched, rsync, traced},
    *,
};
use crate::{
    event::{HolderId, Sink, SinkKind},
    rules::{Contributors, ExceptionFacts, Resolved},
};

fn parsed(alert: &Alert) -> Value {
    assert_eq!(alert.line.last(), Some(&b'\n'));
    serde_json::from_slice(&alert.line).unwrap()
}

fn activities(alerts: &[Alert]) -> Vec<(Activity, u64)> {
    alerts.iter().map(|alert| (alert.activity, alert.matched.bound_bytes)).collect()
}

#[test]
fn one_line_has_every_field_of_the_contract() {
    let mut alerts = Alerts::new(context());
    let made =
        alerts.observe(&matched(Severity::High, 200 * MIB, 240 * SECOND), BootNs(240 * SECOND), &Loss::new());
    let example: Value = serde_json::from_str(include_str!("example.json")).unwrap();
    assert_eq!(parsed(&made[0]), example);
}

#[test]
fn a_finding_opens_grows_at_most_once_a_second_ends_exact_and_closes() {
    let mut alerts = Alerts::new(context());
    let none = Loss::new();
    let see = |alerts: &mut Alerts, severity, mib: u64, ms: u64| {
        let now = BootNs(ms * 1_000_000);
        activities(&alerts.observe(&matched(severity, mib * MIB, now.0), now, &none))
    };
    assert_eq!(see(&mut alerts, Severity::Medium, 1, 1000), [(Activity::Create, MIB)]);
    assert_eq!(alerts.next_deadline(), None, "the line is exact");
    assert_eq!(see(&mut alerts, Severity::Medium, 2, 1100), []);
    assert_eq!(alerts.next_deadline(), Some(BootNs(2 * SECOND)));
    assert_eq!(
        see(&mut alerts, Severity::High, 16, 1200),
        [(Activity::Update, 16 * MIB)],
        "a higher tier at once"
    );
    assert_eq!(see(&mut alerts, Severity::High, 17, 1300), []);
    assert_eq!(activities(&alerts.tick(BootNs(2_100_000_000))), []);
    assert_eq!(activities(&alerts.tick(BootNs(2_200_000_000))), [(Activity::Update, 17 * MIB)]);
    assert_eq!(activities(&alerts.tick(BootNs(9 * SECOND))), [], "nothing moved, nothing is said");
    assert_eq!(see(&mut alerts, Severity::High, 18, 10_000), [(Activity::Update, 18 * MIB)]);
    assert_eq!(see(&mut alerts, Severity::Medium, 5, 10_100), [], "the window slid on");
    assert_eq!(alerts.active()[&Severity::High], 1);
    let one = matched(Severity::High, 0, 0);
    let resolved = Resolved { rule: one.rule, exception: None, group: one.group, at: BootNs(70 * SECOND) };
    let closed = alerts.resolved(&resolved, BootNs(70 * SECOND));
    assert_eq!(activities(&closed), [(Activity::Close, 18 * MIB)], "the peak stays");
    assert!(!closed[0].raised);
    assert_eq!(parsed(&closed[0])["status_id"], 4);
    assert_eq!(alerts.resolved(&resolved, BootNs(70 * SECOND)).len(), 0);
    assert_eq!(alerts.next_deadline(), None);
    assert_eq!(alerts.active()[&Severity::High], 0);
}

#[test]
fn lines_of_one_finding_share_its_uid_and_nothing_else_does() {
    let mut alerts = Alerts::new(context());
    let mut lines = alerts.observe(&matched(Severity::Low, MIB, SECOND), BootNs(SECOND), &Loss::new());
    lines.extend(alerts.observe(&matched(Severity::High, MIB, SECOND), BootNs(SECOND), &Loss::new()));
    let mut other = matched(Severity::Low, MIB, SECOND);
    other.group[1].1 = "8:32".to_owned();
    lines.extend(alerts.observe(&other, BootNs(SECOND), &Loss::new()));
    assert!(lines.iter().all(|alert| alert.raised));
    let lines: Vec<Value> = lines.iter().map(parsed).collect();
    let uid = |n: usize| lines[n]["finding_info"]["uid"].clone();
    assert_eq!(uid(0), uid(1));
    assert_ne!(uid(1), uid(2));
    assert_ne!(lines[0]["metadata"]["uid"], lines[1]["metadata"]["uid"]);
    let again = Alerts::new(context()).observe(&matched(Severity::Low, MIB, SECOND), BootNs(9), &Loss::new());
    assert_eq!(parsed(&again[0])["finding_info"]["uid"], uid(0), "deterministic");
}

#[test]
fn shadow_is_suppressed_and_counts_as_no_active_alert() {
    let mut alerts = Alerts::new(context());
    let shadow = Match { mode: Mode::Shadow, ..matched(Severity::Critical, MIB, SECOND) };
    let line = parsed(&alerts.observe(&shadow, BootNs(SECOND), &Loss::new())[0]);
    assert_eq!(line["status_id"], 3);
    assert_eq!(line["is_alert"], false);
    assert_eq!(line["unmapped"]["weighbridge"]["mode"], "shadow");
    assert_eq!(alerts.active()[&Severity::Critical], 0);
}

#[test]
fn an_excepted_match_is_a_finding_of_its_own_that_is_suppressed_and_says_why() {
    let mut alerts = Alerts::new(context());
    let plain = matched(Severity::High, MIB, SECOND);
    let excepted = Match {
        mode: Mode::Shadow,
        exception: Some(Arc::new(ExceptionFacts {
            id: "EX-2026-031".to_owned(),
            rules: vec!["WB-0001".to_owned()],
            owner: "storage-oncall".to_owned(),
            reason: "encrypted weekly backup drive".to_owned(),
            expires: jiff::civil::date(2026, 12, 15),
            ticket: None,
        })),
        ..plain.clone()
    };
    let first = parsed(&alerts.observe(&plain, BootNs(SECOND), &Loss::new())[0]);
    let made = alerts.observe(&excepted, BootNs(SECOND), &Loss::new());
    let line = parsed(&made[0]);
    assert_eq!((line["status_id"].clone(), line["is_alert"].clone()), (3.into(), false.into()));
    assert_ne!(line["finding_info"]["uid"], first["finding_info"]["uid"]);
    let exception = &line["unmapped"]["weighbridge"]["exception"];
    assert_eq!(
        (exception["id"].clone(), exception["expires"].clone()),
        ("EX-2026-031".into(), "2026-12-15".into())
    );
    assert_eq!(alerts.active()[&Severity::High], 1);
    assert!(render(&made[0], false).contains("[excepted by EX-2026-031]"));
}

#[test]
fn a_sum_over_several_names_the_largest() {
    let holder = |tgid| HolderId { tgid, exec: 0, start: BootNs(200 * SECOND) };
    let small = (holder(48_213), Arc::new(rsync()), 2 * MIB);
    let netcat =
        Process { pid: 9, exe: "/bin/nc".to_owned(), container: Some("c0ffee".to_owned()), ..rsync() };
    let large = (holder(9), Arc::new(netcat), 7 * MIB);
    let mut sum = matched(Severity::High, 10 * MIB, SECOND);
    sum.contributors = Contributors { count: 3, top: vec![large, small] };
    let line =
        parsed(&Alerts::new(context()).observe(&sum, BootNs(SECOND), &Loss::from([("ringbuf", 7)]))[0]);
    let ours = &line["unmapped"]["weighbridge"];
    assert_eq!(ours["process"]["exe"], "/bin/nc");
    assert_eq!(ours["process"]["contributors"]["count"], 3);
    assert_eq!(ours["process"]["contributors"]["top"][1]["bytes"], 2 * MIB);
    assert_eq!(ours["loss"], serde_json::json!({"ringbuf": 7}));
    assert_eq!(line["evidences"][0]["container"]["uid"], "c0ffee");
    assert_eq!(
        line["message"],
        "up to 10.0 MiB (10485760 bytes, 0.0074 %) of llm-70b written to uncontrolled file /mnt/usb/model \
         (exfat on 8:16, removable), by /bin/nc (pid 9) and 2 other processes"
    );
}

#[test]
fn a_peer_becomes_an_endpoint() {
    let mut sent = matched(Severity::High, MIB, SECOND);
    let sink = Sink {
        kind: SinkKind::Peer,
        path: None,
        device: None,
        fstype: None,
        mount: None,
        removable: None,
        peer: Some("[2001:db8::1]:443/udp".to_owned()),
        ..Sink::clone(sent.record.sink.as_ref().unwrap())
    };
    sent.record.sink = Some(Arc::new(sink));
    let line = parsed(&Alerts::new(context()).observe(&sent, BootNs(SECOND), &Loss::new())[0]);
    assert_eq!(line["evidences"][0]["dst_endpoint"], serde_json::json!({"ip": "2001:db8::1", "port": 443}));
}

fn one(matched: &Match) -> Alert {
    let mut made = Alerts::new(context()).observe(matched, BootNs(240 * SECOND), &Loss::new());
    made.pop().unwrap()
}

#[test]
fn an_act_names_who_did_it_and_to_whom() {
    let line = parsed(&one(&traced()));
    let ours = &line["unmapped"]["weighbridge"];
    assert_eq!(ours["act"], serde_json::json!({"kind": "ptrace", "class": "reach"}));
    assert_eq!(ours["process"]["exe"], "/usr/bin/gdb");
    assert_eq!(ours["victim"]["exe"], "/usr/bin/vllm");
    assert_eq!(ours["victim"]["pid"], 812);
    assert_eq!(ours["asset"], "llm-70b");
    assert_eq!(ours["bound_bytes"], 2048 * MIB);
    assert_eq!(
        line["message"],
        "/usr/bin/gdb (pid 48213) traced /usr/bin/vllm (pid 812); up to 2.0 GiB (2147483648 bytes, 1.52 %) of llm-70b \
         in reach"
    );
    insta::assert_snapshot!(render(&one(&traced()), false), @r"
    2026-11-22 03:14:00.000Z  critical  WB-0001  Weights copied to a device that is not controlled
        what     traced /usr/bin/vllm (pid 812)
        in reach up to 2.0 GiB (2147483648 bytes, 1.52 %) of llm-70b
        by       /usr/bin/gdb (pid 48213)
        command  gdb -p 812
        below    bash 48102 < init 1
    ");
}

#[test]
fn an_act_of_the_host_has_no_process_and_no_asset() {
    let line = parsed(&one(&lost()));
    let ours = line["unmapped"]["weighbridge"].as_object().unwrap();
    for key in ["process", "victim", "asset", "asset_bytes", "share", "sink"] {
        assert!(!ours.contains_key(key), "{key}");
    }
    assert_eq!(ours["act"], serde_json::json!({"kind": "lost", "class": "tamper", "target": "ringbuf"}));
    assert_eq!(line.get("resources"), None);
    assert_eq!(line.get("evidences"), None);
    assert_eq!(line["message"], "the host lost facts: ringbuf");
    insta::assert_snapshot!(render(&one(&lost()), false), @r"
    2026-11-22 03:14:00.000Z  critical  WB-0001  Weights copied to a device that is not controlled
        what     lost facts: ringbuf
        by       the host as a whole
    ");
}

#[test]
fn what_the_host_sent_has_a_peer_and_no_process() {
    let line = parsed(&one(&egress()));
    let ours = line["unmapped"]["weighbridge"].as_object().unwrap();
    assert!(!ours.contains_key("process") && !ours.contains_key("act"));
    assert_eq!(ours["sink"]["peer"], "203.0.113.9");
    assert_eq!(line["evidences"], serde_json::json!([{"dst_endpoint": {"ip": "203.0.113.9"}}]));
    insta::assert_snapshot!(render(&one(&egress()), false), @r"
    2026-11-22 03:14:00.000Z  high  WB-0001  Weights copied to a device that is not controlled
        how much up to 2.0 GiB (2147483648 bytes, 1.52 %) of llm-70b
        where to uncontrolled peer 203.0.113.9
        by       the host as a whole
    ");
}

fn chained(count: u64) -> Vec<String> {
    let mut alerts = Alerts::new(context());
    (0..count)
        .flat_map(|n| {
            let mut one = matched(Severity::Low, MIB, SECOND);
            // A name that tries to look like the chain's own field.
            one.group[0].1 = format!(r#"{n}","hash":"","x":""#);
            alerts.observe(&one, BootNs(SECOND), &Loss::new())
        })
        .map(|alert| str::from_utf8(&alert.line).unwrap().trim_end().to_owned())
        .collect()
}

#[test]
fn a_chain_holds_until_somebody_touches_it() {
    let lines = chained(4);
    let check = |lines: &[String]| verify(Head::default(), lines.iter().map(String::as_str));
    assert_eq!(check(&lines).unwrap().seq, 4);
    assert_eq!(verify(read_head(&lines[0]).unwrap(), lines[1..].iter().map(String::as_str)).unwrap().seq, 4);

    let mut changed = lines.clone();
    changed[1] = changed[1].replace("gpu-017", "gpu-018");
    assert_eq!(check(&changed), Err(Broken::Hash { line: 2 }));

    let mut missing = lines.clone();
    missing.remove(2);
    assert_eq!(check(&missing), Err(Broken::Sequence { line: 3, expected: 3, found: 4 }));

    let mut cut = lines.clone();
    cut[3].truncate(100);
    assert_eq!(check(&cut), Err(Broken::Unreadable { line: 4 }));
    insta::assert_snapshot!(
        check(&changed).unwrap_err(),
        @"line 2 of the alert log does not match its hash: it, or a line before it, was changed"
    );
}

#[test]
fn a_note_goes_into_the_first_line_only() {
    let mut alerts =
        Alerts::new(Context { note: Some("a damaged line was set aside".to_owned()), ..context() });
    let first =
        parsed(&alerts.observe(&matched(Severity::Low, MIB, SECOND), BootNs(SECOND), &Loss::new())[0]);
    let second =
        parsed(&alerts.observe(&matched(Severity::High, MIB, SECOND), BootNs(SECOND), &Loss::new())[0]);
    assert_eq!(first["unmapped"]["weighbridge"]["chain"]["note"], "a damaged line was set aside");
    assert_eq!(second["unmapped"]["weighbridge"]["chain"].get("note"), None);
}

#[test]
fn too_many_open_findings_close_the_stillest() {
    let mut alerts = Alerts::new(context());
    for n in 0..=MOST_OPEN as u64 {
        let mut one = matched(Severity::Low, MIB, n + 1);
        one.group[0].1 = n.to_string();
        let made = alerts.observe(&one, BootNs(n + 1), &Loss::new());
        let expected = if n < MOST_OPEN as u64 {
            vec![Activity::Create]
        } else {
            vec![Activity::Close, Activity::Create]
        };
        assert_eq!(made.iter().map(|alert| alert.activity).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_person_reads_what_how_much_by_whom_and_where_to() {
    let mut alerts = Alerts::new(context());
    let lost = Loss::from([("ringbuf", 7)]);
    let made =
        alerts.observe(&matched(Severity::Critical, 2048 * MIB, 240 * SECOND), BootNs(240 * SECOND), &lost);
    insta::assert_snapshot!(render(&made[0], false), @r"
    2026-11-22 03:14:00.000Z  critical  WB-0001  Weights copied to a device that is not controlled
        how much up to 2.0 GiB (2147483648 bytes, 1.52 %) of llm-70b
        where to uncontrolled file /mnt/usb/model (exfat on 8:16, removable)
        by       /usr/bin/rsync (pid 48213)
        command  rsync -a /models/llm-70b /mnt/usb
        below    bash 48102 < init 1
        lost     7 at ringbuf
    ");
    let coloured = render(&made[0], true);
    assert_eq!(coloured.lines().count(), render(&made[0], false).lines().count());
    assert!(coloured.contains("\x1b[1;41;97mcritical\x1b[0m"));
}

/// Every kind of line is as OCSF 1.8.0 has it: what was copied, sent, done, lost, said of the agent, drilled, in shadow, grown,
/// closed, by several, in a container, and with the oddest names that Linux has.
#[test]
fn every_kind_of_line_is_a_detection_finding_of_ocsf() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let at = BootNs(240 * SECOND);
    let none = Loss::new();
    let of = |severity| matched(severity, MIB, SECOND);
    let holder = HolderId { tgid: 9, exec: 0, start: BootNs(SECOND) };
    let boxed = Arc::new(Process { container: Some("c0ffee".to_owned()), ..rsync() });
    let mut several = of(Severity::High);
    let top = vec![(holder, boxed, MIB), (holder, Arc::new(rsync()), 1)];
    several.contributors = Contributors { count: 2, top };
    let mut odd = of(Severity::High);
    odd.record.process = Arc::new(Process {
        exe: String::new(),
        cmdline: "\u{1}\u{fffd}\n".to_owned(),
        ancestry: vec![crate::event::Ancestor { pid: 0, exe: String::new(), cmdline: String::new() }],
        ..rsync()
    });
    let sink = Sink { path: Some("/".to_owned()), ..Sink::clone(odd.record.sink.as_ref().unwrap()) };
    odd.record.sink = Some(Arc::new(sink));
    let kinds = [
        of(Severity::Informational),
        of(Severity::Low),
        of(Severity::Medium),
        of(Severity::High),
        of(Severity::Critical),
        Match { mode: Mode::Shadow, ..of(Severity::High) },
        several,
        odd,
        traced(),
        lost(),
        egress(),
    ];
    let mut alerts = Alerts::new(context());
    let agent = Arc::new(rsync());
    let (_, mut lines) = alerts.drill(Severity::Critical, &agent, at, &none);
    let fault = Fault {
        what: "file".to_owned(),
        kind: crate::event::ActKind::Lost,
        severity: Severity::High,
        text: "the disk is full".to_owned(),
    };
    lines.extend(alerts.fault(&fault, &agent, at, &Loss::from([("ringbuf", 7)])));
    for one in kinds {
        lines.extend(Alerts::new(context()).observe(&one, at, &none));
        lines.extend(alerts.observe(&one, at, &none));
    }
    let rest = of(Severity::High);
    let resolved = Resolved { rule: rest.rule, exception: None, group: rest.group, at };
    lines.extend(alerts.resolved(&resolved, BootNs(600 * SECOND)));
    for activity in [Activity::Create, Activity::Update, Activity::Close] {
        assert!(lines.iter().any(|line| line.activity == activity), "{activity:?}");
    }
    for line in &lines {
        let line = parsed(line);
        assert_eq!(json_schema::faults(&schema, &line), [""; 0], "{line:#}");
    }
    let faults = |key: &str, value: Value| {
        let mut line = parsed(&lines[0]);
        line[key] = value;
        json_schema::faults(&schema, &line).len()
    };
    assert_eq!(faults("severity", "High".into()), 1, "its number is another");
    assert_eq!(faults("colour", "red".into()), 1);
    assert_eq!(faults("time", "now".into()), 2);
}
