//! A line of the alert log read back, for somebody who asks what it means.
//!
//! Whoever could write to the log chose what stands in it, so nothing here is taken for granted: a part that does not fit is
//! left out, lists are cut, and no text is safe to print before [`printable`](super::printable).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    event::{
        Act, ActKind, Asset, AssetId, AssetKind, BootNs, Edge, HolderId, Process, Record, RecordKind, Sink,
    },
    rules::Severity,
};

/// Most edges, parents and contributors that are looked at.
const MOST: usize = 64;

/// One line of the alert log, as far as it says something.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// Milliseconds since 1970.
    pub time: i64,
    pub activity_id: u64,
    #[serde(default)]
    pub message: String,
    metadata: Metadata,
    finding_info: Info,
    #[serde(default, deserialize_with = "lenient")]
    device: Option<Device>,
    #[serde(default, deserialize_with = "lenient")]
    remediation: Option<Remediation>,
    unmapped: Unmapped,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    uid: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Info {
    uid: String,
    #[serde(default)]
    title: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Device {
    hostname: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Remediation {
    references: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Unmapped {
    weighbridge: Detail,
}

/// `unmapped.weighbridge` of the line.
#[derive(Clone, Debug, Deserialize)]
pub struct Detail {
    pub rule: String,
    pub severity: Severity,
    pub mode: String,
    #[serde(default, deserialize_with = "lenient")]
    pub exception: Option<ToldException>,
    #[serde(default)]
    pub asset: String,
    #[serde(default)]
    pub asset_bytes: u64,
    #[serde(default)]
    pub bound_bytes: u64,
    #[serde(default, deserialize_with = "lenient")]
    pub share: Option<f64>,
    #[serde(default, deserialize_with = "lenient")]
    pub crossed: Option<ToldLine>,
    #[serde(default)]
    pub folded: u64,
    #[serde(default, deserialize_with = "lenient")]
    pub sink: Option<Sink>,
    #[serde(default, deserialize_with = "lenient")]
    act: Option<ToldAct>,
    #[serde(default, deserialize_with = "lenient")]
    pub process: Option<Process>,
    #[serde(default, deserialize_with = "lenient")]
    pub victim: Option<Process>,
    #[serde(default, deserialize_with = "each")]
    pub lineage: Vec<Edge>,
    #[serde(default, deserialize_with = "lenient")]
    pub technique: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    loss: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    pub rules_digest: String,
    chain: ToldChain,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ToldException {
    pub id: String,
    pub owner: String,
    pub reason: String,
    pub expires: String,
}

/// Which value crossed which line.
#[derive(Clone, Debug, Deserialize)]
pub struct ToldLine {
    pub budget: Option<String>,
    pub measure: String,
    pub value: u64,
    pub line: u64,
    pub over_seconds: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct ToldAct {
    kind: String,
    target: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ToldChain {
    seq: u64,
}

impl Detail {
    /// The word for what was done; `None` where bytes moved.
    #[must_use]
    pub fn act(&self) -> Option<&str> {
        self.act.as_ref().map(|act| act.kind.as_str())
    }
}

impl Told {
    /// Reads one line; `None` for what is no alert of ours.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let mut told: Self = serde_json::from_str(line).ok()?;
        let detail = &mut told.unmapped.weighbridge;
        for process in [&mut detail.process, &mut detail.victim].into_iter().flatten() {
            process.ancestry.truncate(MOST);
        }
        Some(told)
    }

    #[must_use]
    pub const fn detail(&self) -> &Detail {
        &self.unmapped.weighbridge
    }

    /// The uid that all lines of the finding have.
    #[must_use]
    pub fn finding(&self) -> &str {
        &self.finding_info.uid
    }

    /// The uid of this line.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }

    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.unmapped.weighbridge.chain.seq
    }

    #[must_use]
    pub fn title(&self) -> &str {
        &self.finding_info.title
    }

    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.hostname.as_str())
    }

    /// Where the runbook is; `None` when the line does not say.
    #[must_use]
    pub fn runbook(&self) -> Option<&str> {
        self.remediation.as_ref()?.references.first().map(String::as_str)
    }

    /// What was lost while this was measured, by stage.
    pub fn loss(&self) -> impl Iterator<Item = (&str, u64)> {
        let loss = self.unmapped.weighbridge.loss.iter().flatten();
        loss.take(MOST).map(|(stage, count)| (stage.as_str(), *count))
    }

    /// What rules saw, as far as the line says it. Of a process that moved an asset's bytes the line does not say whether it
    /// is on the reader list, nor of the asset what kind it is: `kind` and `has_readers` are for who knows the configuration.
    #[must_use]
    pub fn record(&self, on: RecordKind, kind: AssetKind, has_readers: bool) -> Record {
        let detail = self.detail();
        let process = detail.process.clone().unwrap_or_else(Process::host);
        let act = detail.act.as_ref().and_then(|told| {
            let kind = ActKind::of_word(&told.kind)?;
            Some(Act { kind, victim: None, target: told.target.clone() })
        });
        Record {
            kind: on,
            at: BootNs(0),
            asset: Arc::new(Asset {
                id: AssetId(0),
                name: detail.asset.clone(),
                kind,
                bytes: detail.asset_bytes,
                most: detail.asset_bytes,
                has_readers,
            }),
            holder: HolderId { tgid: process.pid, exec: 0, start: BootNs(process.start) },
            process: Arc::new(process),
            sink: detail.sink.clone().map(Arc::new),
            bytes: detail.bound_bytes,
            act,
            victim: detail.victim.clone().map(Arc::new),
            listed: false,
            lineage: Arc::default(),
        }
    }
}

/// `None` for what is of another form than ours.
fn lenient<'d, D: Deserializer<'d>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// The first that fit of a list.
fn each<'d, D: Deserializer<'d>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(items) = Value::deserialize(from)? else { return Ok(Vec::new()) };
    Ok(items.into_iter().take(MOST).filter_map(|item| serde_json::from_value(item).ok()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::SinkKind;

    const EXAMPLE: &str = include_str!("example.json");

    #[test]
    fn the_example_of_the_contract_is_read_whole() {
        let told = Told::read(EXAMPLE).expect("it is an alert");
        let detail = told.detail();
        assert_eq!(
            (told.seq(), told.host(), told.runbook()),
            (1, Some("gpu-017"), Some("docs/runbooks/WB-0001.md"))
        );
        assert_eq!(
            (detail.rule.as_str(), detail.severity, detail.lineage.len()),
            ("WB-0001", Severity::High, 2)
        );
        assert_eq!(detail.crossed.as_ref().map(|line| (line.value, line.line)), Some((200 << 20, 1 << 20)));
        let record = told.record(RecordKind::Flow, AssetKind::Weights, false);
        assert_eq!(record.sink.as_ref().map(|sink| sink.kind), Some(SinkKind::File));
        assert_eq!((record.process.exe.as_str(), record.process.ancestry.len()), ("/usr/bin/rsync", 2));
    }

    #[test]
    fn a_part_of_another_form_is_left_out_and_the_rest_is_read() {
        let mut line: Value = serde_json::from_str(EXAMPLE).expect("json");
        let ours = &mut line["unmapped"]["weighbridge"];
        ours["sink"]["kind"] = "teleport".into();
        ours["lineage"][0]["from"] = 7.into();
        ours["lineage"] = vec![ours["lineage"][1].clone(); 1000].into();
        ours["loss"] = "none".into();
        let told = Told::read(&line.to_string()).expect("still an alert");
        assert!(told.detail().sink.is_none());
        assert_eq!((told.detail().lineage.len(), told.loss().count()), (MOST, 0));
        assert!(Told::read("{}").is_none());
    }

    proptest! {
        #[test]
        fn damaged_lines_never_panic(at in any::<prop::sample::Index>(), with in "[\\[\\]{}:,\"0-9a-z]{0,4}") {
            let at = at.index(EXAMPLE.len());
            if EXAMPLE.is_char_boundary(at) {
                let _ = Told::read(&format!("{}{with}{}", &EXAMPLE[..at], &EXAMPLE[at..]));
            }
        }
    }
}
