//! The OCSF 1.8 Detection Finding (class 2004) as types, as far as we really know its fields, and
//! `unmapped.weighbridge` beside them (DESIGN §4, which is the contract). Field names are those of the schema.
//!
//! Only serialises; what goes into the fields is `ocsf`'s business.

use std::{net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    event::{Edge, Loss, Process, Sink},
    rules::{ExceptionFacts, Mode, Severity},
};

/// Of a line of the alert log, as JSON Schema: what Weighbridge uses of the class, as OCSF publishes it.
pub const SCHEMA: &str = include_str!("../../../docs/ocsf-2004.schema.json");

/// One line of the alert log.
#[derive(Clone, Debug, Serialize)]
pub struct DetectionFinding {
    pub(super) class_uid: u32,
    pub(super) class_name: &'static str,
    pub(super) category_uid: u32,
    pub(super) category_name: &'static str,
    pub(super) activity_id: u32,
    pub(super) activity_name: &'static str,
    pub(super) type_uid: u32,
    /// Of this line, milliseconds since 1970.
    pub time: i64,
    pub(super) severity_id: u32,
    pub(super) severity: &'static str,
    pub(super) status_id: u32,
    pub(super) status: &'static str,
    /// False in shadow.
    pub(super) is_alert: bool,
    /// One sentence.
    pub message: String,
    pub(super) metadata: Metadata,
    /// Joins the lines of one finding by its `uid`.
    pub finding_info: FindingInfo,
    pub(super) device: Device,
    pub(super) action_id: u32,
    pub(super) action: &'static str,
    pub(super) disposition_id: u32,
    pub(super) disposition: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) evidences: Vec<Evidence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) resources: Vec<Resource>,
    pub(super) remediation: Remediation,
    pub(super) unmapped: Unmapped,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Metadata {
    pub(super) version: &'static str,
    pub(super) uid: String,
    pub(super) sequence: u64,
    pub(super) product: Product,
    pub(super) profiles: Vec<&'static str>,
    pub(super) log_name: &'static str,
    pub(super) correlation_uid: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) vendor_name: &'static str,
    pub(super) version: String,
}

/// What the finding is, whichever its line.
#[derive(Clone, Debug, Serialize)]
pub struct FindingInfo {
    /// Deterministic: of the host, the rule, the group and the time of the first record.
    pub uid: String,
    pub(super) title: String,
    pub(super) types: [&'static str; 1],
    pub(super) first_seen_time: i64,
    pub(super) last_seen_time: i64,
    pub(super) analytic: Analytic,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) attacks: Vec<Attack>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Analytic {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) version: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Attack {
    pub(super) technique: Uid,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sub_technique: Option<Uid>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Uid {
    pub(super) uid: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Device {
    pub(super) hostname: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) os: Os,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Os {
    pub(super) name: &'static str,
    pub(super) type_id: u32,
    pub(super) kernel_release: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Evidence {
    /// Absent where no process can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dst_endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<Uid>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Actor {
    pub(super) user: Uid,
    pub(super) process: OcsfProcess,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct OcsfProcess {
    pub(super) pid: u32,
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) cmd_line: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_process: Option<Box<Self>>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) type_id: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hashes: Vec<Fingerprint>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Fingerprint {
    pub(super) algorithm_id: u32,
    pub(super) algorithm: &'static str,
    pub(super) value: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Resource {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Remediation {
    pub(super) desc: String,
    pub(super) references: [String; 1],
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Unmapped {
    pub(super) weighbridge: Weighbridge,
}

/// The fields that rules and scripts read. `chain` stays last, so that a person can find the hash in a line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Weighbridge {
    pub(super) rule: String,
    pub(super) severity: Severity,
    pub(super) mode: Mode,
    /// What keeps it from being sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exception: Option<ExceptionFacts>,
    /// These three are absent when an act touched no asset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asset_bytes: Option<u64>,
    pub(super) bound_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<f64>,
    pub(super) crossed: Crossed,
    /// Matches of other identities that this finding stands for, because the rule flooded.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) folded: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_shared")]
    pub(super) sink: Option<Arc<Sink>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) act: Option<Done>,
    /// Absent where no process can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<Mover>,
    /// Whose memory or descriptors were reached into.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_shared")]
    pub(super) victim: Option<Arc<Process>>,
    #[serde(serialize_with = "shared")]
    pub(super) lineage: Arc<Vec<Edge>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) technique: Option<String>,
    pub(super) loss: Loss,
    pub(super) sensor: String,
    pub(super) rules_digest: String,
    pub(super) chain: Chain,
}

/// Which value crossed which line.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Crossed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<String>,
    pub(super) measure: &'static str,
    pub(super) value: u64,
    pub(super) line: u64,
    pub(super) over_seconds: f64,
}

/// What was done, in the words of rules.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Done {
    pub(super) kind: &'static str,
    pub(super) class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
}

/// A process with, for a sum over several, who else there was.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mover {
    #[serde(flatten, serialize_with = "shared")]
    pub(super) process: Arc<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) contributors: Option<Contributors>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Contributors {
    pub(super) count: u64,
    pub(super) top: Vec<Contributor>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Contributor {
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) exe: String,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Chain {
    pub(super) seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// The number of the key that seals the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,
    pub(super) hash: String,
}

impl DetectionFinding {
    /// What was lost while this was measured.
    #[must_use]
    pub const fn loss(&self) -> &Loss {
        &self.unmapped.weighbridge.loss
    }

    /// The name of this host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.device.hostname
    }

    /// When the finding's first record came, milliseconds since 1970.
    #[must_use]
    pub const fn first_seen_ms(&self) -> i64 {
        self.finding_info.first_seen_time
    }

    /// When bytes last moved, milliseconds since 1970.
    #[must_use]
    pub const fn last_seen_ms(&self) -> i64 {
        self.finding_info.last_seen_time
    }

    /// `mac` belongs to `epoch`: without one there is no seal.
    pub(super) fn set_chain(&mut self, seq: u64, epoch: Option<u64>, mac: String, hash: String) {
        let chain = &mut self.unmapped.weighbridge.chain;
        (chain.seq, chain.epoch, chain.hash) = (seq, epoch, hash);
        chain.mac = epoch.map(|_| mac);
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a finding has only string keys and finite or null numbers")
    }
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn shared<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(serializer)
}

fn maybe_shared<T: Serialize, S: Serializer>(
    value: &Option<Arc<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}
