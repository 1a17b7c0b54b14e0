//! Fills an OCSF Detection Finding from an open finding: ids, words, and who did what to what.
//!
//! Must not decide when a line is due; `schema` has the fields.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Activity, Context, Open,
    chain::{hex, sha256},
    schema::{
        Actor, Analytic, Attack, Chain, Contributor, Contributors, Crossed, DetectionFinding, Device, Done,
        Endpoint, Evidence, File, FindingInfo, Fingerprint, Metadata, Mover, OcsfProcess, Os, Product,
        Remediation, Resource, Uid, Unmapped, Weighbridge,
    },
    words,
};
use crate::{
    event::{Ancestor, BootNs, Process, Sink, SinkKind},
    rules::{Match, Mode, Severity},
};

/// Parents that are nested into a process.
const MOST_PARENTS: usize = 16;

pub(super) fn build(context: &Context, open: &Open, activity: Activity, now: BootNs) -> DetectionFinding {
    let matched = &open.matched;
    let record = &matched.record;
    let rule = &*matched.rule;
    let shadow = matched.mode == Mode::Shadow;
    let seq = context.head.seq + 1;
    let time = context.wall_ms(now);
    let techniques: Vec<String> = rule.techniques().collect();
    let asset = (!record.asset.name.is_empty()).then_some(&*record.asset);
    let process = match matched.contributors.top.first() {
        Some((_, process, _)) if matched.contributors.count > 1 => Arc::clone(process),
        _ => Arc::clone(&record.process),
    };
    let (activity_id, activity_name) = match activity {
        Activity::Create => (1, "Create"),
        Activity::Update => (2, "Update"),
        Activity::Close => (3, "Close"),
    };
    let (severity_id, severity) = match matched.severity {
        Severity::Informational => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    };
    let (status_id, status) = match activity {
        _ if shadow => (3, "Suppressed"),
        Activity::Create | Activity::Update => (1, "New"),
        Activity::Close => (4, "Resolved"),
    };
    let mut profiles = vec!["host", "security_control"];
    if process.container.is_some() {
        profiles.push("container");
    }
    DetectionFinding {
        class_uid: 2004,
        class_name: "Detection Finding",
        category_uid: 2,
        category_name: "Findings",
        activity_id,
        activity_name,
        type_uid: 200_400 + activity_id,
        time,
        severity_id,
        severity,
        status_id,
        status,
        is_alert: !shadow,
        message: open.said.clone().unwrap_or_else(|| words::sentence(matched)),
        metadata: Metadata {
            version: "1.8.0",
            uid: line_uid(context, seq, time),
            sequence: seq,
            product: Product {
                name: "weighbridge",
                vendor_name: "weighbridge",
                version: context.version.clone(),
            },
            profiles,
            log_name: "weighbridge.alert",
            correlation_uid: correlation(matched),
        },
        finding_info: FindingInfo {
            uid: finding_uid(context, &open.matched, open.first_ms),
            title: rule.title.clone(),
            types: ["Data Exfiltration"],
            first_seen_time: open.first_ms,
            last_seen_time: context.wall_ms(matched.last_at),
            analytic: Analytic {
                uid: rule.id.clone(),
                name: rule.title.clone(),
                type_id: 1,
                kind: "Rule",
                version: rule.revision.to_string(),
            },
            attacks: techniques.iter().map(|id| attack(id)).collect(),
        },
        device: Device {
            hostname: context.host.clone(),
            uid: context.host_uid.clone(),
            type_id: 1,
            kind: "Server",
            os: Os { name: "Linux", type_id: 200, kernel_release: context.kernel_release.clone() },
        },
        action_id: 3,
        action: "Observed",
        disposition_id: 17,
        disposition: "Logged",
        evidences: evidence(context, &process, record.sink.as_deref()).into_iter().collect(),
        resources: asset
            .map(|asset| Resource { name: asset.name.clone(), kind: "asset" })
            .into_iter()
            .collect(),
        remediation: Remediation {
            desc: format!("follow the runbook; the rule is owned by {}", rule.owner),
            references: [rule.runbook.clone()],
        },
        unmapped: Unmapped {
            weighbridge: Weighbridge {
                rule: rule.id.clone(),
                severity: matched.severity,
                mode: matched.mode,
                exception: matched.exception.as_deref().cloned(),
                asset: asset.map(|asset| asset.name.clone()),
                asset_bytes: asset.map(|asset| asset.bytes),
                bound_bytes: matched.bound_bytes,
                share: asset.map(|_| matched.share),
                crossed: Crossed {
                    budget: matched.crossed.budget.clone(),
                    measure: matched.crossed.measure,
                    value: matched.crossed.value,
                    line: matched.crossed.line,
                    over_seconds: matched.crossed.over.as_secs_f64(),
                },
                folded: matched.folded,
                sink: record.sink.clone(),
                act: record.act.as_ref().map(|act| Done {
                    kind: act.kind.as_str(),
                    class: act.kind.class().as_str(),
                    target: act.target.clone(),
                }),
                process: (process.pid != 0)
                    .then(|| Mover { process: Arc::clone(&process), contributors: contributors(matched) }),
                victim: record.victim.clone(),
                lineage: Arc::clone(&record.lineage),
                technique: techniques.into_iter().next(),
                loss: open.loss.clone(),
                sensor: context.sensor.clone(),
                rules_digest: context.rules_digest.clone(),
                chain: Chain { seq, note: context.note.clone(), epoch: None, mac: None, hash: String::new() },
            },
        },
    }
}

fn contributors(matched: &Match) -> Option<Contributors> {
    let contributors = &matched.contributors;
    (contributors.count > 1).then(|| Contributors {
        count: contributors.count,
        top: contributors
            .top
            .iter()
            .map(|(_, p, bytes)| Contributor {
                pid: p.pid,
                start: p.start,
                exe: p.exe.clone(),
                bytes: *bytes,
            })
            .collect(),
    })
}

/// `None` when there is nothing to show, for the schema has no empty one.
fn evidence(context: &Context, process: &Process, sink: Option<&Sink>) -> Option<Evidence> {
    let path = sink.filter(|sink| sink.kind == SinkKind::File).and_then(|sink| sink.path.as_deref());
    let actor = (process.pid != 0).then(|| Actor {
        user: Uid { uid: process.uid.to_string() },
        process: ocsf_process(context, process),
    });
    let file = path.map(|path| file(path, None));
    let dst_endpoint = sink.and_then(|sink| sink.peer.as_deref()).and_then(endpoint);
    let container = process.container.clone().map(|uid| Uid { uid });
    let is_empty = actor.is_none() && file.is_none() && dst_endpoint.is_none();
    (!is_empty).then_some(Evidence { actor, file, dst_endpoint, container })
}

fn ocsf_process(context: &Context, process: &Process) -> OcsfProcess {
    let parents = process.ancestry.iter().take(MOST_PARENTS).rev();
    let parent = parents.fold(None, |above: Option<Box<OcsfProcess>>, ancestor: &Ancestor| {
        Some(Box::new(OcsfProcess {
            pid: ancestor.pid,
            name: base_name(&ancestor.exe),
            cmd_line: ancestor.cmdline.clone(),
            uid: None,
            created_time: None,
            file: (!ancestor.exe.is_empty()).then(|| file(&ancestor.exe, None)),
            parent_process: above,
        }))
    });
    OcsfProcess {
        pid: process.pid,
        name: base_name(&process.exe),
        cmd_line: process.cmdline.clone(),
        uid: Some(format!("{}:{}:{}", context.host, process.pid, process.start)),
        created_time: Some(context.wall_ms(BootNs(process.start))),
        file: (!process.exe.is_empty()).then(|| file(&process.exe, process.hash())),
        parent_process: parent,
    }
}

fn file(path: &str, sha256: Option<&str>) -> File {
    let print = |value: &str| Fingerprint { algorithm_id: 3, algorithm: "SHA-256", value: value.to_owned() };
    File {
        path: path.to_owned(),
        name: base_name(path),
        type_id: 1,
        hashes: sha256.map(print).into_iter().collect(),
    }
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The parts of `203.0.113.9:443/tcp`, or an address alone; `None` for anything else, such as a vsock address.
fn endpoint(peer: &str) -> Option<Endpoint> {
    let text = peer.split('/').next()?;
    match text.parse::<SocketAddr>() {
        Ok(address) => Some(Endpoint { ip: address.ip(), port: Some(address.port()) }),
        Err(_) => text.parse().ok().map(|ip| Endpoint { ip, port: None }),
    }
}

fn attack(id: &str) -> Attack {
    let base = id.split('.').next().unwrap_or(id).to_owned();
    let sub_technique = (base != id).then(|| Uid { uid: id.to_owned() });
    Attack { technique: Uid { uid: base }, sub_technique }
}

/// `wb-0001:llm-70b:8:16`: the same over all findings of one group.
fn correlation(matched: &Match) -> String {
    let mut uid = matched.rule.id.to_lowercase();
    if let Some(exception) = &matched.exception {
        uid.push(':');
        uid.push_str(&exception.id);
    }
    for (_, value) in &matched.group {
        uid.push(':');
        uid.push_str(value);
    }
    uid
}

/// Hashed, because group values can be as long and as odd as a path.
pub(super) fn finding_uid(context: &Context, matched: &Match, first_ms: i64) -> String {
    let mut input = Vec::new();
    let group = matched.group.iter().flat_map(|(key, value)| [*key, value.as_str()]);
    let exception = matched.exception.as_ref().map(|exception| exception.id.as_str());
    for part in [context.host.as_str(), &matched.rule.id].into_iter().chain(exception).chain(group) {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    input.extend_from_slice(&first_ms.to_be_bytes());
    format!("{}-{}", matched.rule.id.to_lowercase(), &hex(&sha256(&input))[..32])
}

/// In the form of a UUID version 7: sortable by time; unique because a run's id is random and its numbers count up.
fn line_uid(context: &Context, seq: u64, ms: i64) -> String {
    let mut input = context.run.to_vec();
    input.extend_from_slice(&seq.to_be_bytes());
    let hash = sha256(&input);
    let mut id = [0; 16];
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id[6..].copy_from_slice(&hash[..10]);
    id[6] = 0x70 | id[6] & 0x0f;
    id[8] = 0x80 | id[8] & 0x3f;
    let text = hex(&id);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}
