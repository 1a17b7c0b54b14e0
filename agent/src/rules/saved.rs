//! Matches as they are kept while no agent runs. It must not know where: it turns them into bytes and back.
//!
//! Times are kept on a time line that goes on over reboots; what they are now is for the caller to say. Everything read back is
//! checked: what no longer fits the rules that are in force is left out, and counted.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Contributors, Crossed, Match, Mode, RuleSet, Severity, rule::Rule};
use crate::event::{Act, Asset, BootNs, Edge, HolderId, Process, Record, RecordKind, Sink};

/// A key and its value, as bytes.
type Row = (Vec<u8>, Vec<u8>);

/// The time line, for what is saved and what is read back.
pub trait TimeLine {
    fn line(&self, at: BootNs) -> u64;
    fn boot_time(&self, line: u64) -> BootNs;
}

/// A [`Match`] with names in place of what rules and assets are.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedMatch {
    rule: String,
    group: Vec<(String, String)>,
    severity: Severity,
    mode: Mode,
    exception: Option<String>,
    folded: u64,
    crossed: SavedCrossed,
    bound_bytes: u64,
    share: f64,
    kind: RecordKind,
    at: u64,
    asset: String,
    holder: HolderId,
    process: Process,
    sink: Option<Sink>,
    bytes: u64,
    act: Option<Act>,
    victim: Option<Process>,
    listed: bool,
    lineage: Vec<Edge>,
    contributors: u64,
    top: Vec<(HolderId, Process, u64)>,
    first_at: u64,
    last_at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedCrossed {
    budget: Option<String>,
    measure: String,
    value: u64,
    line: u64,
    over_ms: u64,
}

impl SavedMatch {
    pub(crate) fn new(matched: &Match, time: &impl TimeLine) -> Self {
        let record = &matched.record;
        Self {
            rule: matched.rule.id.clone(),
            group: matched.group.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            severity: matched.severity,
            mode: matched.mode,
            exception: matched.exception.as_ref().map(|exception| exception.id.clone()),
            folded: matched.folded,
            crossed: SavedCrossed {
                budget: matched.crossed.budget.clone(),
                measure: matched.crossed.measure.to_owned(),
                value: matched.crossed.value,
                line: matched.crossed.line,
                over_ms: u64::try_from(matched.crossed.over.as_millis()).unwrap_or(u64::MAX),
            },
            bound_bytes: matched.bound_bytes,
            share: matched.share,
            kind: record.kind,
            at: time.line(record.at),
            asset: record.asset.name.clone(),
            holder: record.holder,
            process: record.process.as_ref().clone(),
            sink: record.sink.as_deref().cloned(),
            bytes: record.bytes,
            act: record.act.clone(),
            victim: record.victim.as_deref().cloned(),
            listed: record.listed,
            lineage: record.lineage.to_vec(),
            contributors: matched.contributors.count,
            top: matched
                .contributors
                .top
                .iter()
                .map(|(holder, process, bytes)| (*holder, process.as_ref().clone(), *bytes))
                .collect(),
            first_at: time.line(matched.first_at),
            last_at: time.line(matched.last_at),
        }
    }

    /// `None` when its rule, its exception or its asset is gone.
    pub(crate) fn into_match(
        self,
        rules: &RuleSet,
        assets: &[Arc<Asset>],
        time: &impl TimeLine,
    ) -> Option<Match> {
        let rule = rules.rules().iter().find(|rule| is_of(rule, &self.rule, &self.group))?;
        let asset = asset(assets, &self.asset)?;
        let exception = match self.exception {
            Some(id) => {
                let known = rule.exceptions.iter().find(|exception| exception.facts.id == id)?;
                Some(Arc::clone(&known.facts))
            }
            None => None,
        };
        let values = self.group.into_iter().map(|(_, value)| value);
        Some(Match {
            rule: Arc::clone(&rule.facts),
            severity: self.severity,
            mode: self.mode,
            exception,
            repeated: false,
            folded: self.folded,
            crossed: Crossed {
                budget: self.crossed.budget,
                measure: measure(&self.crossed.measure)?,
                value: self.crossed.value,
                line: self.crossed.line,
                over: Duration::from_millis(self.crossed.over_ms),
            },
            group: rule.group_by.iter().map(|field| field.name).zip(values).collect(),
            bound_bytes: self.bound_bytes,
            share: self.share,
            record: Record {
                kind: self.kind,
                at: time.boot_time(self.at),
                asset,
                holder: self.holder,
                process: Arc::new(self.process),
                sink: self.sink.map(Arc::new),
                bytes: self.bytes,
                act: self.act,
                victim: self.victim.map(Arc::new),
                listed: self.listed,
                lineage: Arc::new(self.lineage),
            },
            contributors: Contributors {
                count: self.contributors,
                top: self
                    .top
                    .into_iter()
                    .map(|(holder, process, bytes)| (holder, Arc::new(process), bytes))
                    .collect(),
            },
            first_at: time.boot_time(self.first_at),
            last_at: time.boot_time(self.last_at),
        })
    }
}

/// A row as JSON; `None` for what has no JSON, which nothing here is.
pub(crate) fn row(key: &impl Serialize, value: &impl Serialize) -> Option<Row> {
    Some((serde_json::to_vec(key).ok()?, serde_json::to_vec(value).ok()?))
}

/// The asset of this name; the host itself has none.
fn asset(assets: &[Arc<Asset>], name: &str) -> Option<Arc<Asset>> {
    let known = assets.iter().find(|asset| asset.name == name).map(Arc::clone);
    known.or_else(|| name.is_empty().then(|| Arc::new(Asset::host())))
}

fn is_of(rule: &Rule, id: &str, group: &[(String, String)]) -> bool {
    let names = rule.group_by.iter().map(|field| field.name);
    rule.facts.id == id && names.eq(group.iter().map(|(name, _)| name.as_str()))
}

/// The word as the matches of this agent have it.
fn measure(word: &str) -> Option<&'static str> {
    ["bound", "taken", "bytes", "count", "distinct"].into_iter().find(|known| *known == word)
}
