//! A rule set and a record for the tests of this module and of what uses rules. It must not know what is tested with them.

use std::sync::Arc;

use jiff::civil::{Date, date};

use super::{RuleSet, field::Draft};
use crate::{
    event::{Act, BootNs, Control, HolderId, Record, RecordKind, Sink, SinkKind},
    yaml::render,
};

/// The day on which tests read rules.
pub(crate) const TODAY: Date = date(2026, 11, 22);

/// A set of one rule for flows; `body` is the rest of the rule, from `match` on.
pub(crate) fn rule_set(mode: &str, body: &str) -> Arc<RuleSet> {
    let text = format!(
        "schema: 1
pack: test
rules:
  - id: TEST-0001
    revision: 1
    title: A rule
    severity: low
    status: test
    mode: {mode}
    owner: soc
    runbook: none
    on: flow
{body}"
    );
    Arc::new(
        RuleSet::parse(&[("test.yaml".into(), text)], TODAY)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false))),
    )
}

/// A record of one byte of the asset `llm`. Without `sink_kind` its sink was not resolved.
pub(super) fn record(kind: RecordKind, write: impl FnOnce(&mut Draft)) -> Record {
    let mut draft = Draft::new();
    draft.asset.name = "llm".to_owned();
    write(&mut draft);
    let sink = draft.sink_kind.map(|kind: SinkKind| {
        Arc::new(Sink {
            kind,
            control: draft.sink_control.unwrap_or(Control::Uncontrolled),
            ..draft.sink.clone()
        })
    });
    Record {
        kind,
        at: BootNs(0),
        asset: Arc::new(draft.asset),
        holder: HolderId { tgid: draft.process.pid, exec: 0, start: BootNs(0) },
        process: Arc::new(draft.process),
        sink,
        bytes: 1,
        act: draft.act.map(|kind| Act { kind, victim: None, target: draft.act_target }),
        victim: draft.victim.map(Arc::new),
        listed: draft.listed,
        lineage: Arc::new(Vec::new()),
    }
}
