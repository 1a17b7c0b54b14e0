//! What people see of the running agent. It must not know who looks.

use jiff::Timestamp;

use super::Pipeline;
use crate::{
    event::{BootNs, Sink, SinkKind},
    rules::Budget,
    status::{AssetRow, BudgetRow, FlowRow, HolderRow, SinkRow, Snapshot},
};

/// Rows of each kind in a snapshot.
const ROWS: usize = 100;

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) started_ms: i64,
    pub(super) missing_hooks: Vec<(String, String)>,
}

impl Pipeline {
    pub(super) fn snapshot(&mut self, now: BootNs) -> Snapshot {
        let (budgets, budget_count) = self.engine.budgets(now, ROWS);
        let (holders, holder_count) = self.ledger.holders(ROWS);
        let (flows, flow_count) = self.ledger.bounds(ROWS);
        let rules = self.engine.rules();
        let active = self.alerts.active();
        Snapshot {
            schema: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            at_ms: Timestamp::now().as_millisecond(),
            started_ms: self.standing.started_ms,
            sensor: "syscall".to_owned(),
            missing_hooks: self.standing.missing_hooks.clone(),
            rules: rules.rules().len(),
            rules_digest: rules.digest().to_owned(),
            rule_seconds: self.rule_seconds(),
            sequence: self.alerts.head().seq,
            open: active.iter().map(|(severity, count)| (severity.as_str().to_owned(), *count)).collect(),
            assets: self
                .ledger
                .assets()
                .map(|asset| AssetRow {
                    name: asset.name.clone(),
                    kind: asset.kind.as_str().to_owned(),
                    bytes: asset.bytes,
                })
                .collect(),
            holders: holders
                .into_iter()
                .map(|held| HolderRow {
                    pid: held.process.pid,
                    exe: held.process.exe.clone(),
                    cmdline: held.process.cmdline.clone(),
                    uid: held.process.uid,
                    asset: held.asset,
                    taken: held.taken,
                    asset_bytes: held.asset_bytes,
                    exited: held.exited,
                })
                .collect(),
            holder_count,
            flows: flows
                .into_iter()
                .map(|flow| FlowRow {
                    pid: flow.process.pid,
                    exe: flow.process.exe.clone(),
                    asset: flow.asset,
                    bound: flow.bound,
                    to: place(&flow.sink),
                    kind: flow.sink.kind.as_str().to_owned(),
                    control: flow.sink.control.as_str().to_owned(),
                })
                .collect(),
            flow_count,
            budgets: budgets.into_iter().map(budget_row).collect(),
            budget_count,
            loss: self.loss().into_iter().map(|(stage, count)| (stage.to_owned(), count)).collect(),
            sinks: self
                .sinks
                .places()
                .into_iter()
                .map(|(name, counts, trouble)| SinkRow {
                    name,
                    sent: counts.sent,
                    waiting: counts.backlog,
                    trouble: trouble.map(|trouble| trouble.why).unwrap_or_default(),
                })
                .collect(),
        }
    }

    fn rule_seconds(&self) -> Vec<(String, f64)> {
        let mut all: Vec<(String, f64)> =
            self.engine.costs().map(|(rule, took)| (rule.to_owned(), took.as_secs_f64())).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

fn budget_row(budget: Budget) -> BudgetRow {
    let values: Vec<String> =
        budget.group.into_iter().map(|(_, value)| value).filter(|value| !value.is_empty()).collect();
    BudgetRow {
        rule: budget.rule,
        budget: budget.name,
        exception: budget.exception.unwrap_or_default(),
        of: values.join(" "),
        over_seconds: budget.over.as_secs(),
        measure: budget.measure.to_owned(),
        sum: budget.sum,
        line: budget.line,
        severity: budget.severity.as_str().to_owned(),
        is_reached: budget.is_reached,
    }
}

/// The shortest name of a sink.
fn place(sink: &Sink) -> String {
    let named = match sink.kind {
        SinkKind::Peer => sink.peer.as_ref(),
        SinkKind::Process | SinkKind::Unmetered => sink.channel.as_ref(),
        _ => sink.path.as_ref().or(sink.device.as_ref()),
    };
    named.map_or_else(|| sink.kind.as_str().to_owned(), Clone::clone)
}
