//! One expectation against one alert: whether it is the one that was meant, and what in it is not right.

use std::path::Path;

use serde_json::Value;
use tests::lab::{MIB, alert::Alert, process};

use super::{Expected, ExpectedSink};

impl Expected {
    /// What DESIGN §4 says of `bound` bytes of an asset of this size under this rule; `None` when that crosses no line.
    fn severity(&self, bound: u64, asset_bytes: u64) -> Option<&'static str> {
        let share = |parts: u64| asset_bytes.div_ceil(parts);
        let tiers: &[(u64, &str)] = match self.rule {
            "WB-0001" => &[(share(100).max(16 * MIB), "critical"), (16 * MIB, "high"), (MIB, "medium")],
            "WB-0002" => &[(share(1000).max(64 * MIB), "critical"), (8 * MIB, "high")],
            "WB-0005" | "WB-0006" | "WB-0008" | "SITE-0008" => &[(0, "high")],
            "WB-0004" => &[(share(100).max(MIB), "high"), (MIB, "low")],
            "WB-0003" => &[
                (share(100).max(256 * MIB), "critical"),
                (share(500).max(128 * MIB), "high"),
                (share(2000).max(32 * MIB), "medium"),
            ],
            "WB-0007" => &[(MIB, "low")],
            rule => panic!("no tiers are known for {rule}"),
        };
        tiers.iter().find(|(line, _)| bound >= *line).map(|(_, severity)| *severity)
    }

    /// Whether `alert` is about the same rule, asset and destination; the rest is then compared.
    pub(super) fn concerns(&self, alert: &Alert) -> bool {
        alert.rule() == self.rule
            && alert.asset() == self.asset
            && self.act.as_ref().is_none_or(|act| alert.text("/act/kind") == act.kind)
            && match &self.sink {
                ExpectedSink::None => alert.detail()["sink"].is_null(),
                ExpectedSink::Anywhere => true,
                ExpectedSink::File { device, .. } => alert.text("/sink/device") == device,
                // One finding per address; the port may be that of any flow to it.
                ExpectedSink::Peer(peer) => host(alert.text("/sink/peer")) == host(peer),
            }
    }

    pub(super) fn compare(&self, alert: &Alert, faults: &mut Vec<String>) {
        let mut check = |what: &str, got: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug, same: bool| {
            if !same {
                faults.push(format!("{} {what} is {got:?}, should be {wanted:?}", self.rule));
            }
        };
        let mut equal = |pointer: &str, wanted: &str| {
            let got = alert.text(pointer);
            check(pointer, &got, &wanted, got == wanted);
        };
        match &self.sink {
            ExpectedSink::None | ExpectedSink::Anywhere => {}
            ExpectedSink::File { places, device, fstype } => {
                equal("/sink/kind", "file");
                let control = if self.rule == "WB-0007" { "controlled" } else { "uncontrolled" };
                equal("/sink/control", control);
                let said = |pointer: &str| Path::new(alert.text(pointer)).to_path_buf();
                let place = (said("/sink/path"), said("/sink/mount"));
                if let Some(place) = places.iter().find(|one| **one == place).or_else(|| places.first()) {
                    equal("/sink/path", &place.0.to_string_lossy());
                    equal("/sink/mount", &place.1.to_string_lossy());
                }
                equal("/sink/device", device);
                equal("/sink/fstype", fstype);
            }
            ExpectedSink::Peer(peer) => {
                equal("/sink/kind", "peer");
                equal("/sink/control", "uncontrolled");
                if !self.any_port {
                    equal("/sink/peer", peer);
                }
            }
        }
        if let Some(act) = &self.act {
            if let Some(target) = &act.target {
                equal("/act/target", target);
            }
            if let Some(victim) = &act.victim {
                equal("/victim/exe", &victim.exe.to_string_lossy());
                let got = alert.number("/victim/pid");
                let wanted = victim.pid.map(u64::from);
                check("/victim/pid", &got, &wanted, wanted.is_none() || got == wanted);
            }
        }
        let bound = alert.bound();
        let (from, to) = self.bound;
        check("bound_bytes", &bound, &self.bound, (from..=to).contains(&bound));
        if !(from..=to).contains(&bound) {
            // Which edge lost or added them.
            check("lineage", &way(alert), &"one that carries the bound", false);
        }
        let bytes = alert.number("/asset_bytes").unwrap_or(0);
        let wanted = self.asset_bytes.unwrap_or(bytes);
        check("asset_bytes", &bytes, &wanted, bytes == wanted);
        if let Some(severity) = self.severity(bound, wanted) {
            check("severity", &alert.text("/severity"), &severity, alert.text("/severity") == severity);
        }
        let share = alert.detail()["share"].as_f64().unwrap_or(-1.0);
        let wanted = bound as f64 / wanted as f64;
        check("share", &share, &wanted, (share - wanted).abs() < 0.005);
        let nodes = lineage_types(alert);
        let mut rest = nodes.iter();
        let passes = self.lineage.iter().all(|wanted| rest.any(|node| node == wanted));
        check("lineage", &nodes, &self.lineage, passes);
        for (pointer, wanted) in &self.also {
            let got = alert.detail().pointer(pointer).unwrap_or(&Value::Null);
            check(pointer, got, wanted, got == wanted);
        }
        self.compare_process(alert, faults);
    }

    fn compare_process(&self, alert: &Alert, faults: &mut Vec<String>) {
        let mut check = |what: &str, got: String, wanted: String| {
            if got != wanted {
                faults.push(format!("{} process {what} is {got}, should be {wanted}", self.rule));
            }
        };
        let process = &alert.detail()["process"];
        let text = |key: &str| process[key].as_str().unwrap_or("missing").to_owned();
        if let Some(pid) = self.by.pid {
            check("pid", process["pid"].to_string(), pid.to_string());
        }
        let exe = self.exe.map_or_else(|| self.by.exe.to_string_lossy().into_owned(), str::to_owned);
        check("exe", text("exe"), exe);
        let hash = process::sha256(&self.by.exe).unwrap_or_else(|error| format!("unreadable: {error}"));
        if !(self.unhashed && text("exe_sha256") == "unavailable") {
            check("exe_sha256", text("exe_sha256"), hash);
        }
        if let Some(cmdline) = &self.by.cmdline {
            check("cmdline", text("cmdline"), cmdline.clone());
        }
        check("uid", process["uid"].to_string(), self.by.uid.to_string());
        let ancestry: Vec<u64> = process["ancestry"]
            .as_array()
            .map(|chain| chain.iter().filter_map(|ancestor| ancestor["pid"].as_u64()).collect())
            .unwrap_or_default();
        let wanted: Vec<u64> = self.by.ancestry.iter().copied().map(u64::from).collect();
        if !ancestry.ends_with(&wanted) || (self.by.pid.is_some() && ancestry.len() != wanted.len()) {
            check("ancestry", format!("{ancestry:?}"), format!("{wanted:?}"));
        }
        if let Some((from, to)) = self.by.started {
            let start = process["start"].as_u64().unwrap_or(0);
            if !(from..=to).contains(&start) {
                check("start", start.to_string(), format!("{from}..={to}"));
            }
        }
    }
}

/// Each edge of the lineage: what is at its end, and the bytes that went there.
fn way(alert: &Alert) -> Vec<String> {
    alert.lineage().iter().map(|edge| format!("{} to {}", edge["bytes"], node_type(&edge["to"]))).collect()
}

/// The types of the nodes that the lineage leads through, from the asset to the sink.
fn lineage_types(alert: &Alert) -> Vec<&str> {
    let edges = alert.lineage();
    let first = edges.first().map(|edge| node_type(&edge["from"]));
    first.into_iter().chain(edges.iter().map(|edge| node_type(&edge["to"]))).collect()
}

fn node_type(node: &Value) -> &str {
    node["type"].as_str().unwrap_or("none")
}

/// The address of `198.51.100.2:443/tcp`.
fn host(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}
