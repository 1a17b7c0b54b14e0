//! What every alert line must have, whatever it is about. Knows no test.

use serde_json::Value;
use tests::lab::{alert::Alert, json_schema};

/// Of a line as OCSF 1.8.0 has it.
const SCHEMA: &str = include_str!("../../../docs/ocsf-2004.schema.json");

/// What every alert line must have, whatever it is about.
pub(super) fn faults(alerts: &[Alert]) -> Vec<String> {
    let mut faults = Vec::new();
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    for (at, alert) in alerts.iter().enumerate() {
        let mut need = |what: &str, good: bool| {
            if !good {
                faults.push(format!("line {}: {what}: {alert}", at + 1));
            }
        };
        let detail = alert.detail();
        for fault in json_schema::faults(&schema, &alert.0) {
            need(&fault, false);
        }
        need("no finding_info.uid", !alert.uid().is_empty());
        need("no technique", !alert.text("/technique").is_empty());
        need("sensor is none of syscall, function", ["syscall", "function"].contains(&alert.text("/sensor")));
        let digest = alert.text("/rules_digest");
        need(
            "rules_digest is no SHA-256",
            digest.len() == 64 && digest.bytes().all(|c| c.is_ascii_hexdigit()),
        );
        let lost = &detail["loss"];
        need(
            &format!("something was lost ({lost})"),
            lost.as_object().is_some_and(serde_json::Map::is_empty),
        );
        let first = !alerts[..at].iter().any(|earlier| earlier.uid() == alert.uid());
        let closed =
            alerts[..at].iter().any(|earlier| earlier.uid() == alert.uid() && earlier.activity() == Some(3));
        need(
            "activity is not Create for the first, Update or Close after it",
            match alert.activity() {
                Some(1) => first,
                Some(2 | 3) => !first,
                _ => false,
            },
        );
        need("a line after Close", !closed);
        if !detail["sink"].is_null() {
            lineage_faults(alert, &mut need);
        }
    }
    faults
}

/// Edges lead from the asset to the sink without a gap.
fn lineage_faults(alert: &Alert, need: &mut dyn FnMut(&str, bool)) {
    let edges = alert.lineage();
    let (Some(first), Some(last)) = (edges.first(), edges.last()) else {
        need("no lineage", false);
        return;
    };
    need(
        "lineage does not start at the asset",
        first["from"]["type"] == "asset" && first["from"]["name"] == alert.detail()["asset"],
    );
    let end = &last["to"]["type"];
    need("lineage does not end at a sink", ["file", "peer", "device"].iter().any(|kind| end == kind));
    need("lineage has a gap", edges.windows(2).all(|two| two[0]["to"] == two[1]["from"]));
    need("lineage has an edge without bytes", edges.iter().all(|edge| edge["bytes"].as_u64() > Some(0)));
}
