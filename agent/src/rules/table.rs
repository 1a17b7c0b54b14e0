//! The one table of what rules can speak of. A new field is one row here; the words of its documentation are what
//! `weighbridge rules fields`, the JSON Schema and docs/fields.md show.
//!
//! It must not know how rules are written or evaluated.

use super::{
    field::{Draft, Field, FieldType, FieldValue, Get, Set},
    peer::peer_address,
};
use crate::event::{
    ActClass, ActKind, Ancestor, Asset, AssetKind, Control, Process, Record, RecordKind, SinkKind,
};

const ALL: &[RecordKind] = &RecordKind::ALL;
const FLOW: &[RecordKind] = &[RecordKind::Flow];
const TO: &[RecordKind] = &[RecordKind::Flow, RecordKind::Egress];
const WHO: &[RecordKind] = &[RecordKind::Flow, RecordKind::Take, RecordKind::Act];
const ACT: &[RecordKind] = &[RecordKind::Act];

/// Every field, in the order of the documentation.
pub static FIELDS: [Field; 43] = [
    row(
        "asset.name",
        FieldType::Text,
        ALL,
        "name of the asset; absent for an act that touched none",
        |r| FieldValue::text(&r.asset.name),
        Some(|d, v| d.asset.name = v.to_text()),
    ),
    row(
        "asset.kind",
        FieldType::Word(&AssetKind::WORDS),
        ALL,
        "kind of the asset",
        |r| FieldValue::text(asset(r)?.kind.as_str()),
        Some(|d, v| d.asset.kind = AssetKind::of_word(&v.to_text()).unwrap_or(AssetKind::Weights)),
    ),
    row(
        "asset.bytes",
        FieldType::Size,
        ALL,
        "total size of the asset",
        |r| Some(FieldValue::Number(asset(r)?.bytes)),
        Some(|d, v| d.asset.bytes = v.to_number()),
    ),
    row(
        "asset.has_readers",
        FieldType::Flag,
        ALL,
        "whether a reader list is configured for the asset",
        |r| Some(FieldValue::Flag(asset(r)?.has_readers)),
        Some(|d, v| d.asset.has_readers = v.to_flag()),
    ),
    row(
        "sink.kind",
        FieldType::Word(&SinkKind::WORDS),
        TO,
        "what the bytes went into",
        |r| FieldValue::text(r.sink.as_ref()?.kind.as_str()),
        Some(|d, v| d.sink_kind = SinkKind::of_word(&v.to_text())),
    ),
    row(
        "sink.control",
        FieldType::Word(&Control::WORDS),
        TO,
        "whether the sink is registered; what nobody listed is uncontrolled",
        |r| FieldValue::text(r.sink.as_ref()?.control.as_str()),
        Some(|d, v| d.sink_control = Control::of_word(&v.to_text())),
    ),
    row(
        "sink.path",
        FieldType::Text,
        FLOW,
        "path of the file or device; anybody can choose it, so never exempt by it alone",
        |r| FieldValue::text(r.sink.as_ref()?.path.as_deref()?),
        Some(|d, v| d.sink.path = Some(v.to_text())),
    ),
    row(
        "sink.device",
        FieldType::Text,
        FLOW,
        "major:minor of the filesystem's or the device's own number",
        |r| FieldValue::text(r.sink.as_ref()?.device.as_deref()?),
        Some(|d, v| d.sink.device = Some(v.to_text())),
    ),
    row(
        "sink.fstype",
        FieldType::Text,
        FLOW,
        "type of the filesystem",
        |r| FieldValue::text(r.sink.as_ref()?.fstype.as_deref()?),
        Some(|d, v| d.sink.fstype = Some(v.to_text())),
    ),
    row(
        "sink.mount",
        FieldType::Text,
        FLOW,
        "where the filesystem is mounted",
        |r| FieldValue::text(r.sink.as_ref()?.mount.as_deref()?),
        Some(|d, v| d.sink.mount = Some(v.to_text())),
    ),
    row(
        "sink.removable",
        FieldType::Flag,
        FLOW,
        "whether the device says that it can be removed",
        |r| Some(FieldValue::Flag(r.sink.as_ref()?.removable?)),
        Some(|d, v| d.sink.removable = Some(v.to_flag())),
    ),
    row(
        "sink.device_serial",
        FieldType::Text,
        FLOW,
        "serial number that the disk states of itself; a device of a thief's own can state any",
        |r| FieldValue::text(r.sink.as_ref()?.device_serial.as_deref()?),
        Some(|d, v| d.sink.device_serial = Some(v.to_text())),
    ),
    row(
        "sink.registered",
        FieldType::Flag,
        FLOW,
        "whether the file is one of the protected files in the registry; absent for what is no file",
        |r| Some(FieldValue::Flag(r.sink.as_ref()?.registered?)),
        Some(|d, v| d.sink.registered = Some(v.to_flag())),
    ),
    row(
        "sink.peer",
        FieldType::Text,
        TO,
        "network peer, such as 203.0.113.9:443/tcp; the address alone for egress",
        |r| FieldValue::text(r.sink.as_ref()?.peer.as_deref()?),
        Some(|d, v| d.sink.peer = Some(v.to_text())),
    ),
    row(
        "sink.address",
        FieldType::Address,
        TO,
        "address of the network peer, without its port",
        |r| peer_address(r.sink.as_ref()?.peer.as_deref()?).map(FieldValue::Address),
        None,
    ),
    row(
        "sink.channel",
        FieldType::Text,
        TO,
        "pipe, unix, loopback, rdma, unattributed, overflow, … where that says more than the kind",
        |r| FieldValue::text(r.sink.as_ref()?.channel.as_deref()?),
        Some(|d, v| d.sink.channel = Some(v.to_text())),
    ),
    row(
        "process.pid",
        FieldType::Number,
        WHO,
        "process id in the initial namespace",
        |r| Some(FieldValue::Number(mover(r)?.pid.into())),
        Some(|d, v| d.process.pid = v.to_u32()),
    ),
    row(
        "process.executable",
        FieldType::Text,
        WHO,
        "path of the executable as the kernel named it when it was executed",
        |r| FieldValue::text(&mover(r)?.exe),
        Some(|d, v| d.process.exe = v.to_text()),
    ),
    row(
        "process.executable_sha256",
        FieldType::Text,
        WHO,
        "SHA-256 of the executable in lower-case hex; absent when the file was gone or changed",
        |r| FieldValue::text(mover(r)?.hash()?),
        Some(|d, v| d.process.exe_sha256 = Some(v.to_text())),
    ),
    row(
        "process.name",
        FieldType::Text,
        WHO,
        "last part of the executable's path; anybody can choose it",
        |r| FieldValue::text(base_name(&mover(r)?.exe)),
        None,
    ),
    row(
        "process.command_line",
        FieldType::Text,
        WHO,
        "arguments joined by spaces, as executed; the process chooses them",
        |r| FieldValue::text(&mover(r)?.cmdline),
        Some(|d, v| d.process.cmdline = v.to_text()),
    ),
    row(
        "process.parent.executable",
        FieldType::Text,
        WHO,
        "path of the parent's executable",
        |r| FieldValue::text(&mover(r)?.ancestry.first()?.exe),
        Some(|d, v| parent(d).exe = v.to_text()),
    ),
    row(
        "process.parent.command_line",
        FieldType::Text,
        WHO,
        "arguments of the parent, as executed; it chooses them",
        |r| FieldValue::text(&mover(r)?.ancestry.first()?.cmdline),
        Some(|d, v| parent(d).cmdline = v.to_text()),
    ),
    row(
        "process.listed",
        FieldType::Flag,
        WHO,
        "whether the process is on the asset's reader list",
        |r| mover(r).map(|_| FieldValue::Flag(r.listed)),
        Some(|d, v| d.listed = v.to_flag()),
    ),
    row(
        "user.id",
        FieldType::Number,
        WHO,
        "user id of the process",
        |r| Some(FieldValue::Number(mover(r)?.uid.into())),
        Some(|d, v| d.process.uid = v.to_u32()),
    ),
    row(
        "user.audit_id",
        FieldType::Number,
        WHO,
        "user id of the login; absent for services",
        |r| Some(FieldValue::Number(mover(r)?.auid?.into())),
        Some(|d, v| d.process.auid = Some(v.to_u32())),
    ),
    row(
        "cgroup.path",
        FieldType::Text,
        WHO,
        "path of the process's cgroup",
        |r| FieldValue::text(mover(r)?.cgroup.as_deref()?),
        Some(|d, v| d.process.cgroup = Some(v.to_text())),
    ),
    row(
        "container.id",
        FieldType::Text,
        WHO,
        "id of the container, from the cgroup",
        |r| FieldValue::text(mover(r)?.container.as_deref()?),
        Some(|d, v| d.process.container = Some(v.to_text())),
    ),
    row(
        "service.unit",
        FieldType::Text,
        WHO,
        "systemd unit, from the cgroup",
        |r| FieldValue::text(mover(r)?.unit.as_deref()?),
        Some(|d, v| d.process.unit = Some(v.to_text())),
    ),
    row(
        "act.kind",
        FieldType::Word(&ActKind::WORDS),
        ACT,
        "what was done",
        |r| FieldValue::text(r.act.as_ref()?.kind.as_str()),
        Some(|d, v| d.act = ActKind::of_word(&v.to_text())),
    ),
    row(
        "act.class",
        FieldType::Word(&ActClass::WORDS),
        ACT,
        "family of the act: reach (into a holder), below (the filesystem of an asset), channel (whose bytes cannot be counted), gpu (that a holder has open, opened by another process), tamper (with the agent)",
        |r| FieldValue::text(r.act.as_ref()?.kind.class().as_str()),
        None,
    ),
    row(
        "act.target",
        FieldType::Text,
        ACT,
        "what it was done to: a device, a path, a channel",
        |r| FieldValue::text(r.act.as_ref()?.target.as_deref()?),
        Some(|d, v| d.act_target = Some(v.to_text())),
    ),
    row(
        "victim.pid",
        FieldType::Number,
        ACT,
        "process id of the one that was reached into, in the initial namespace",
        |r| Some(FieldValue::Number(r.victim.as_deref()?.pid.into())),
        Some(|d, v| d.victim().pid = v.to_u32()),
    ),
    row(
        "victim.executable",
        FieldType::Text,
        ACT,
        "path of the executable as the kernel named it when it was executed",
        |r| FieldValue::text(&r.victim.as_deref()?.exe),
        Some(|d, v| d.victim().exe = v.to_text()),
    ),
    row(
        "victim.executable_sha256",
        FieldType::Text,
        ACT,
        "SHA-256 of the executable in lower-case hex; absent when the file was gone or changed",
        |r| FieldValue::text(r.victim.as_deref()?.hash()?),
        Some(|d, v| d.victim().exe_sha256 = Some(v.to_text())),
    ),
    row(
        "victim.name",
        FieldType::Text,
        ACT,
        "last part of the executable's path; anybody can choose it",
        |r| FieldValue::text(base_name(&r.victim.as_deref()?.exe)),
        None,
    ),
    row(
        "victim.command_line",
        FieldType::Text,
        ACT,
        "arguments joined by spaces, as executed; the process chooses them",
        |r| FieldValue::text(&r.victim.as_deref()?.cmdline),
        Some(|d, v| d.victim().cmdline = v.to_text()),
    ),
    row(
        "victim.user.id",
        FieldType::Number,
        ACT,
        "user id of the process that was reached into",
        |r| Some(FieldValue::Number(r.victim.as_deref()?.uid.into())),
        Some(|d, v| d.victim().uid = v.to_u32()),
    ),
    row(
        "victim.user.audit_id",
        FieldType::Number,
        ACT,
        "user id of the login; absent for services",
        |r| Some(FieldValue::Number(r.victim.as_deref()?.auid?.into())),
        Some(|d, v| d.victim().auid = Some(v.to_u32())),
    ),
    row(
        "victim.cgroup.path",
        FieldType::Text,
        ACT,
        "path of the process that was reached into's cgroup",
        |r| FieldValue::text(r.victim.as_deref()?.cgroup.as_deref()?),
        Some(|d, v| d.victim().cgroup = Some(v.to_text())),
    ),
    row(
        "victim.container.id",
        FieldType::Text,
        ACT,
        "id of the container, from the cgroup",
        |r| FieldValue::text(r.victim.as_deref()?.container.as_deref()?),
        Some(|d, v| d.victim().container = Some(v.to_text())),
    ),
    row(
        "victim.service.unit",
        FieldType::Text,
        ACT,
        "systemd unit, from the cgroup",
        |r| FieldValue::text(r.victim.as_deref()?.unit.as_deref()?),
        Some(|d, v| d.victim().unit = Some(v.to_text())),
    ),
    row(
        "bytes",
        FieldType::Size,
        ALL,
        "growth in this one event: of the bound (flow), of what was taken (take), of what the host sent (egress); for an act, what the process that was reached into had taken",
        |r| Some(FieldValue::Number(r.bytes)),
        None,
    ),
];

const fn row(
    name: &'static str,
    kind: FieldType,
    on: &'static [RecordKind],
    doc: &'static str,
    get: Get,
    set: Option<Set>,
) -> Field {
    Field { name, kind, on, doc, get, set }
}

/// The asset, where there is one.
fn asset(record: &Record) -> Option<&Asset> {
    (!record.asset.name.is_empty()).then_some(&*record.asset)
}

/// The process, where one can be named.
fn mover(record: &Record) -> Option<&Process> {
    (record.process.pid != 0).then_some(&*record.process)
}

fn parent(draft: &mut Draft) -> &mut Ancestor {
    let ancestry = &mut draft.process.ancestry;
    if ancestry.is_empty() {
        ancestry.push(Ancestor { pid: 1, exe: String::new(), cmdline: String::new() });
    }
    &mut ancestry[0]
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
