//! Open findings as they are kept while no agent runs, so that the next one goes on with them under the same uid instead of
//! opening them again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Alerts, Identity, Open, identity, ocsf};
use crate::{
    event::{Asset, BootNs, Loss},
    rules::{
        Match, RuleSet, Severity, TimeLine,
        saved::{SavedMatch, row},
    },
};

#[derive(Debug, Serialize, Deserialize)]
struct SavedFinding {
    matched: SavedMatch,
    first_ms: i64,
    written_severity: Severity,
    stale: bool,
}

/// A finding that was opened in the log and not closed there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    uid: String,
    rule: String,
    first_ms: i64,
    /// Of its newest line, milliseconds since 1970.
    time: i64,
    severity: Severity,
}

/// The findings that these lines of an alert log opened and did not close. Lines that are no alerts are passed over.
pub fn unfinished<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<Unfinished> {
    #[derive(Deserialize)]
    struct Line {
        activity_id: u64,
        time: i64,
        finding_info: Info,
        unmapped: Unmapped,
    }
    #[derive(Deserialize)]
    struct Info {
        uid: String,
        first_seen_time: i64,
    }
    #[derive(Deserialize)]
    struct Unmapped {
        weighbridge: Detail,
    }
    #[derive(Deserialize)]
    struct Detail {
        rule: String,
        severity: Severity,
    }
    const CLOSE: u64 = 3;
    let mut found: BTreeMap<String, Unfinished> = BTreeMap::new();
    for line in lines {
        let Ok(Line { activity_id, time, finding_info: info, unmapped }) = serde_json::from_slice(line)
        else {
            continue;
        };
        if activity_id == CLOSE {
            found.remove(&info.uid);
            continue;
        }
        let Detail { rule, severity } = unmapped.weighbridge;
        let finding =
            Unfinished { uid: info.uid.clone(), rule, first_ms: info.first_seen_time, time, severity };
        found.insert(info.uid, finding);
    }
    found.into_values().collect()
}

impl Alerts {
    /// Findings of the log that are not among what was kept at `kept_ms` (milliseconds since 1970), because they came after it:
    /// if their bytes are told of again, their findings go on.
    pub fn expect(&mut self, unfinished: Vec<Unfinished>, kept_ms: i64) {
        self.unfinished = unfinished;
        self.unfinished.retain(|one| one.time >= kept_ms);
    }

    /// Makes `open` the finding that an earlier run opened in the log, if it is one.
    pub(super) fn take_up(&mut self, open: &mut Open) -> bool {
        let (context, rule) = (&self.context, &open.matched.rule.id);
        let same = |one: &Unfinished| {
            one.rule == *rule && ocsf::finding_uid(context, &open.matched, one.first_ms) == one.uid
        };
        let Some(at) = self.unfinished.iter().position(same) else { return false };
        let one = self.unfinished.swap_remove(at);
        (open.first_ms, open.written_severity) = (one.first_ms, one.severity);
        true
    }

    /// Every open finding, one row each.
    pub(crate) fn save(&self, time: &impl TimeLine) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let saved = move |(identity, open): (&Identity, &Open)| {
            let finding = SavedFinding {
                matched: SavedMatch::new(&open.matched, time),
                first_ms: open.first_ms,
                written_severity: open.written_severity,
                stale: open.stale,
            };
            row(identity, &finding)
        };
        self.open.iter().filter_map(saved)
    }

    /// Goes on with the findings of an earlier run and returns what they say. A finding whose rule or asset is gone is left out:
    /// nobody would close it.
    pub(crate) fn reopen(
        &mut self,
        rows: &[(Vec<u8>, Vec<u8>)],
        rules: &RuleSet,
        assets: &[Arc<Asset>],
        time: &impl TimeLine,
    ) -> Vec<Match> {
        let mut reopened = Vec::new();
        for (_, value) in rows.iter().take(super::MOST_OPEN) {
            let Ok(saved) = serde_json::from_slice::<SavedFinding>(value) else { continue };
            let Some(matched) = saved.matched.into_match(rules, assets, time) else { continue };
            let open = Open {
                loss: Loss::new(),
                first_ms: saved.first_ms,
                written_at: BootNs(0),
                written_severity: saved.written_severity,
                stale: saved.stale,
                said: None,
                matched,
            };
            reopened.push(open.matched.clone());
            self.open.insert(identity(&open.matched), open);
        }
        reopened
    }
}
