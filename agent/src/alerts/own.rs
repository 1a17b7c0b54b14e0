//! What the agent says of itself: a finding of WB-0010 that no rule matched and that has no asset.
//!
//! It takes the way of every other alert, so that it is numbered, chained and delivered like one. Must not know what can
//! be wrong: it is told.

use std::{sync::Arc, time::Duration};

use crate::{
    event::{Act, ActKind, Asset, BootNs, HolderId, Process, Record, RecordKind},
    rules::{Contributors, Crossed, Match, Mode, RuleFacts, Severity, Status},
};

/// The rule of the contract that all of it belongs to: tampering and loss.
pub const RULE: &str = "WB-0010";

/// A rule that no pack has: somebody tries whether alerts arrive.
pub const DRILL: &str = "WB-0000";

/// What tells these findings from each other, and from those of rules.
const PART: &str = "agent.part";

/// Something that is wrong with the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What tells it from other faults, such as the name of a sink; the same while it lasts.
    pub what: String,
    /// One of the acts against the agent.
    pub kind: ActKind,
    pub severity: Severity,
    /// One sentence with the reason and the remedy.
    pub text: String,
}

/// As if a rule had matched, by the agent's own process.
pub(super) fn matched(fault: &Fault, agent: &Arc<Process>, now: BootNs) -> Match {
    Match {
        rule: Arc::new(RuleFacts {
            id: RULE.to_owned(),
            revision: 1,
            title: "The agent cannot deliver or keep its alerts".to_owned(),
            severity: fault.severity,
            status: Status::Stable,
            mode: Mode::Alert,
            owner: "ml-security".to_owned(),
            runbook: format!("docs/runbooks/{RULE}.md"),
            tags: vec!["attack.t1562.006".to_owned()],
            suppress: None,
        }),
        severity: fault.severity,
        mode: Mode::Alert,
        exception: None,
        repeated: false,
        folded: 0,
        group: group(&fault.what),
        bound_bytes: 0,
        share: 0.0,
        crossed: Crossed { budget: None, measure: "count", value: 1, line: 1, over: Duration::ZERO },
        record: Record {
            kind: RecordKind::Act,
            at: now,
            asset: Arc::new(Asset::host()),
            holder: HolderId { tgid: agent.pid, exec: 0, start: BootNs(agent.start) },
            process: Arc::clone(agent),
            sink: None,
            bytes: 0,
            act: Some(Act { kind: fault.kind, victim: None, target: Some(fault.what.clone()) }),
            victim: None,
            listed: false,
            lineage: Arc::default(),
        },
        contributors: Contributors::default(),
        first_at: now,
        last_at: now,
    }
}

/// A drill: of no asset, no bytes and no fault, and named so that nobody takes it for more.
pub(super) fn drill(severity: Severity, agent: &Arc<Process>, now: BootNs) -> Match {
    let fault = Fault { what: "drill".to_owned(), kind: ActKind::Lost, severity, text: String::new() };
    let mut matched = matched(&fault, agent, now);
    matched.rule = Arc::new(RuleFacts {
        id: DRILL.to_owned(),
        title: "Drill: somebody tries whether alerts arrive".to_owned(),
        runbook: "docs/delivery.md".to_owned(),
        tags: Vec::new(),
        ..(*matched.rule).clone()
    });
    matched.record.act = None;
    matched
}

/// What it says.
pub(super) const DRILL_TEXT: &str = "this is a drill (`weighbridge drill`): no bytes moved, nothing is wrong, and whoever reads this was reached";

pub(super) fn group(what: &str) -> Vec<(&'static str, String)> {
    vec![(PART, what.to_owned())]
}

/// Whether a match is one of these.
pub(super) fn is_own(matched: &Match) -> bool {
    [RULE, DRILL].contains(&matched.rule.id.as_str())
        && matched.group.first().is_some_and(|(key, _)| *key == PART)
}
