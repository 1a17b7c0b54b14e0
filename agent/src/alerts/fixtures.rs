//! A context and matches of every kind for the tests of this module and of the sinks. It must not know what is tested with them.

use std::sync::Arc;

use super::{Context, Head};
use crate::{
    event::{
        Act, ActKind, Ancestor, Asset, AssetId, AssetKind, BootNs, Control, Edge, HolderId, Node, Process,
        Record, RecordKind, Sink, SinkKind,
    },
    rules::{Contributors, Crossed, Match, Mode, RuleFacts, Severity, Status},
};

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MIB: u64 = 1 << 20;

pub(crate) fn context() -> Context {
    Context {
        host: "gpu-017".to_owned(),
        host_uid: Some("8d3b0c1f".to_owned()),
        kernel_release: "6.12.0".to_owned(),
        version: "0.1.0".to_owned(),
        sensor: "function".to_owned(),
        rules_digest: "77e0".to_owned(),
        boot_wall_ms: 1_795_317_000_000,
        run: [7; 16],
        head: Head::default(),
        key: None,
        note: None,
    }
}

pub(super) fn rsync() -> Process {
    Process {
        pid: 48_213,
        start: 200 * SECOND,
        exe: "/usr/bin/rsync".to_owned(),
        exe_sha256: Some("9f2c".to_owned()),
        cmdline: "rsync -a /models/llm-70b /mnt/usb".to_owned(),
        uid: 1004,
        auid: Some(1004),
        cgroup: Some("/system.slice/cron.service".to_owned()),
        container: None,
        unit: Some("cron.service".to_owned()),
        ancestry: [(48_102, "/bin/bash"), (1, "/sbin/init")]
            .map(|(pid, exe)| Ancestor { pid, exe: exe.to_owned(), cmdline: exe.to_owned() })
            .to_vec(),
    }
}

pub(crate) fn matched(severity: Severity, bound_bytes: u64, at: u64) -> Match {
    let asset = Asset {
        id: AssetId(0),
        name: "llm-70b".to_owned(),
        kind: AssetKind::Weights,
        bytes: 141_107_412_992,
        most: 141_107_412_992,
        has_readers: false,
    };
    let node = |kind, name: &str, pid| Node { kind, name: name.to_owned(), pid };
    let copier = node("process", "rsync", Some(48_213));
    let lineage = vec![
        Edge { from: node("asset", "llm-70b", None), to: copier.clone(), bytes: bound_bytes },
        Edge { from: copier, to: node("file", "/mnt/usb/model", None), bytes: bound_bytes },
    ];
    Match {
        rule: Arc::new(RuleFacts {
            id: "WB-0001".to_owned(),
            title: "Weights copied to a device that is not controlled".to_owned(),
            revision: 1,
            severity: Severity::Medium,
            status: Status::Stable,
            mode: Mode::Alert,
            suppress: None,
            owner: "ml-security".to_owned(),
            runbook: "docs/runbooks/WB-0001.md".to_owned(),
            tags: ["cop.12.3b", "attack.t1052.001", "attack.t1005", "attack.exfiltration"]
                .map(str::to_owned)
                .to_vec(),
        }),
        severity,
        mode: Mode::Alert,
        group: [("asset.name", "llm-70b"), ("sink.device", "8:16")]
            .map(|(key, value)| (key, value.to_owned()))
            .to_vec(),
        exception: None,
        repeated: false,
        folded: 0,
        bound_bytes,
        share: bound_bytes as f64 / asset.bytes as f64,
        crossed: Crossed {
            budget: None,
            measure: "bound",
            value: bound_bytes,
            line: MIB,
            over: std::time::Duration::from_secs(600),
        },
        record: Record {
            kind: RecordKind::Flow,
            at: BootNs(at),
            asset: Arc::new(asset),
            holder: HolderId { tgid: 48_213, exec: 0, start: BootNs(200 * SECOND) },
            process: Arc::new(rsync()),
            sink: Some(Arc::new(Sink {
                path: Some("/mnt/usb/model".to_owned()),
                device: Some("8:16".to_owned()),
                fstype: Some("exfat".to_owned()),
                mount: Some("/mnt/usb".to_owned()),
                removable: Some(true),
                ..Sink::new(SinkKind::File, Control::Uncontrolled)
            })),
            bytes: MIB,
            act: None,
            victim: None,
            listed: false,
            lineage: Arc::new(lineage),
        },
        contributors: Contributors::default(),
        first_at: BootNs(240 * SECOND),
        last_at: BootNs(at),
    }
}

/// vLLM is traced by gdb, which could read all that vLLM had taken.
pub(super) fn traced() -> Match {
    let mut act = matched(Severity::Critical, 2048 * MIB, 240 * SECOND);
    let vllm = Process { pid: 812, exe: "/usr/bin/vllm".to_owned(), ..rsync() };
    let gdb = Process { exe: "/usr/bin/gdb".to_owned(), cmdline: "gdb -p 812".to_owned(), ..rsync() };
    act.record = Record {
        kind: RecordKind::Act,
        sink: None,
        process: Arc::new(gdb),
        act: Some(Act {
            kind: ActKind::Ptrace,
            victim: Some(HolderId { tgid: 812, exec: 0, start: BootNs(SECOND) }),
            target: None,
        }),
        victim: Some(Arc::new(vllm)),
        ..act.record
    };
    act
}

/// The agent lost facts: nobody did it, and no asset was touched.
pub(super) fn lost() -> Match {
    let mut act = traced();
    act.record.act = Some(Act { kind: ActKind::Lost, victim: None, target: Some("ringbuf".to_owned()) });
    act.record.asset = Arc::new(Asset::host());
    act.record.process = Arc::new(Process::host());
    (act.record.victim, act.bound_bytes, act.record.lineage) = (None, 0, Arc::default());
    act
}

/// What the host sent as a whole.
pub(super) fn egress() -> Match {
    let mut sent = matched(Severity::High, 2048 * MIB, 240 * SECOND);
    sent.record.kind = RecordKind::Egress;
    sent.record.process = Arc::new(Process::host());
    sent.record.lineage = Arc::default();
    sent.record.sink = Some(Arc::new(Sink {
        peer: Some("203.0.113.9".to_owned()),
        ..Sink::new(SinkKind::Peer, Control::Uncontrolled)
    }));
    sent
}
