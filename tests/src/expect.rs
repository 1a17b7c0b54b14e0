//! What a test expects of the alerts, and the comparison with what the agent wrote. The list is always complete: an
//! alert that nobody expected fails the test.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::lab::{
    KIB, MIB,
    alert::{Alert, findings},
    process::{self, Identity},
    volume::Volume,
};

use crate::{
    score,
    world::{ALERT_WITHIN, ASSET, MARKER, Scene},
};

/// What the configuration leaves at its default.
const PROPAGATION_FLOOR: u64 = 64 * KIB;

/// One finding that must be there, with everything that can be known about it from outside.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    rule: &'static str,
    asset: &'static str,
    /// `None`: not compared.
    asset_bytes: Option<u64>,
    sink: ExpectedSink,
    by: Identity,
    /// The bound, from and to (both included).
    bound: (u64, u64),
    /// What else the alert must say, by JSON pointer.
    also: Vec<(&'static str, Value)>,
    any_port: bool,
    /// How the executable is called where that is not its path; its hash is that of the identity's.
    exe: Option<&'static str>,
    /// It may have been gone before it could be hashed.
    unhashed: bool,
    /// Types of nodes that the lineage must lead through.
    lineage: &'static [&'static str],
    /// For the rules about acts.
    act: Option<ExpectedAct>,
}

#[derive(Clone, Debug)]
struct ExpectedAct {
    kind: &'static str,
    target: Option<String>,
    victim: Option<Identity>,
    /// It may be missing.
    optional: bool,
}

#[derive(Clone, Debug)]
enum ExpectedSink {
    /// A take has no sink.
    None,
    File {
        /// Path and mount point; where the same file is seen at several places, any of them. Empty: not compared.
        places: Vec<(PathBuf, PathBuf)>,
        device: String,
        fstype: &'static str,
    },
    Peer(String),
    /// A sum over places of any kind.
    Anywhere,
}

impl Expected {
    /// WB-0001: exactly `bytes` of [`ASSET`] went to a file on an uncontrolled volume.
    pub(crate) fn copy(scene: &Scene<'_>, by: &Identity, path: &Path, bytes: u64) -> Self {
        Self::copy_on(scene, &scene.world.uncontrolled, by, path, bytes)
    }

    /// The same on another volume.
    pub(crate) fn copy_on(
        scene: &Scene<'_>,
        volume: &Volume,
        by: &Identity,
        path: &Path,
        bytes: u64,
    ) -> Self {
        Self::copy_at(scene, by, path, (volume.path(), volume.device(), volume.fstype()), bytes)
    }

    /// The same below any mount: its mount point, device and kind.
    pub(crate) fn copy_at(
        scene: &Scene<'_>,
        by: &Identity,
        path: &Path,
        (mount, device, fstype): (&Path, &str, &'static str),
        bytes: u64,
    ) -> Self {
        Self {
            rule: "WB-0001",
            asset: ASSET,
            asset_bytes: Some(scene.model.bytes),
            sink: ExpectedSink::File {
                places: vec![(path.to_path_buf(), mount.to_path_buf())],
                device: device.to_owned(),
                fstype,
            },
            by: by.clone(),
            bound: (bytes, bytes),
            also: Vec::new(),
            any_port: false,
            exe: None,
            unhashed: false,
            lineage: &[],
            act: None,
        }
    }

    /// WB-0002: exactly `bytes` of [`ASSET`] went to a peer. `proto` is the word after the slash.
    pub(crate) fn egress(
        scene: &Scene<'_>,
        by: &Identity,
        peer: SocketAddr,
        proto: &str,
        bytes: u64,
    ) -> Self {
        Self {
            rule: "WB-0002",
            asset: ASSET,
            asset_bytes: Some(scene.model.bytes),
            sink: ExpectedSink::Peer(format!("{peer}/{proto}")),
            by: by.clone(),
            bound: (bytes, bytes),
            also: Vec::new(),
            any_port: false,
            exe: None,
            unhashed: false,
            lineage: &[],
            act: None,
        }
    }

    /// WB-0004: a process that is not on the reader list took exactly `bytes` of [`ASSET`].
    pub(crate) fn take(scene: &Scene<'_>, by: &Identity, bytes: u64) -> Self {
        Self {
            rule: "WB-0004",
            asset: ASSET,
            asset_bytes: Some(scene.model.bytes),
            sink: ExpectedSink::None,
            by: by.clone(),
            bound: (bytes, bytes),
            also: Vec::new(),
            any_port: false,
            exe: None,
            unhashed: false,
            lineage: &[],
            act: None,
        }
    }

    /// WB-0007: exactly `bytes` of [`ASSET`] went into files of the controlled volume that are not registered.
    pub(crate) fn unregistered(scene: &Scene<'_>, by: &Identity, path: &Path, bytes: u64) -> Self {
        let copy = Self::copy_on(scene, &scene.world.controlled, by, path, bytes);
        Self { rule: "WB-0007", ..copy }
    }

    /// WB-0003: `bytes` of [`ASSET`] left, to so many places that no other rule counts them together.
    pub(crate) fn drip(scene: &Scene<'_>, by: &Identity, bytes: u64) -> Self {
        let take = Self::take(scene, by, bytes);
        Self { rule: "WB-0003", sink: ExpectedSink::Anywhere, ..take }
    }

    /// An act of `by` that touched [`ASSET`], by its word in `act.kind`.
    pub(crate) fn act(scene: &Scene<'_>, rule: &'static str, kind: &'static str, by: &Identity) -> Self {
        Self {
            rule,
            asset: ASSET,
            asset_bytes: Some(scene.model.bytes),
            sink: ExpectedSink::None,
            by: by.clone(),
            bound: (0, scene.model.bytes),
            also: Vec::new(),
            any_port: false,
            exe: None,
            unhashed: false,
            lineage: &[],
            act: Some(ExpectedAct { kind, target: None, victim: None, optional: false }),
        }
    }

    /// Whom the act was done to.
    pub(crate) fn of_victim(mut self, victim: &Identity) -> Self {
        if let Some(act) = &mut self.act {
            act.victim = Some(victim.clone());
        }
        self
    }

    /// What the act was done to.
    pub(crate) fn to(mut self, target: &str) -> Self {
        if let Some(act) = &mut self.act {
            act.target = Some(target.to_owned());
        }
        self
    }

    /// Whether the tool goes this way too is its own business.
    pub(crate) fn if_raised(mut self) -> Self {
        if let Some(act) = &mut self.act {
            act.optional = true;
        }
        self
    }

    /// The truth is a lower bound: a mapping counts its whole length, so anything up to the asset is right.
    pub(crate) fn or_up_to_the_asset(mut self) -> Self {
        self.bound.1 = self.asset_bytes.unwrap_or(u64::MAX);
        self
    }

    /// The bytes came through `channels` pipes or sockets, each of which may pass one propagation floor unseen (DESIGN §1:
    /// the documented slack).
    pub(crate) const fn through(mut self, channels: u64) -> Self {
        self.bound.0 = self.bound.0.saturating_sub(channels * PROPAGATION_FLOOR);
        self
    }

    /// The truth is known only so far: the bound lies between these (both included).
    pub(crate) const fn between(mut self, from: u64, to: u64) -> Self {
        self.bound = (from, to);
        self
    }

    /// A protocol adds some bytes of its own: the bound may be one percent above the truth.
    pub(crate) const fn and_a_protocol(mut self) -> Self {
        self.bound.1 += self.bound.1 / 100;
        self
    }

    /// Each connection has a port of its own; any may be named.
    pub(crate) const fn whatever_the_port(mut self) -> Self {
        self.any_port = true;
        self
    }

    /// The lineage must lead through these types of nodes, in this order, possibly with others between.
    pub(crate) const fn passing(mut self, types: &'static [&'static str]) -> Self {
        self.lineage = types;
        self
    }

    /// What is sent is written with a third more characters: of the bound only the lower end is what was taken.
    pub(crate) const fn and_a_protocol_of_a_third(mut self) -> Self {
        self.bound.1 += self.bound.1 / 3 + MIB / 16;
        self
    }

    /// The executable has no path of its own in the mover's filesystem: this is what it is called.
    pub(crate) const fn named(mut self, exe: &'static str) -> Self {
        self.exe = Some(exe);
        self
    }

    /// The executable was a memfd of a process that may have ended before it was looked at: then the alert says so.
    pub(crate) const fn or_unhashed(mut self) -> Self {
        self.unhashed = true;
        self
    }

    /// The alert must also say this, by JSON pointer into its detail.
    pub(crate) fn with(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.also.push((pointer, value.into()));
        self
    }

    /// The sink may also be named by this path below this mount point.
    pub(crate) fn or_at(mut self, path: &Path, mount: &Path) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            places.push((path.to_path_buf(), mount.to_path_buf()));
        }
        self
    }

    /// The file was deleted: its path may carry the kernel's ` (deleted)`.
    pub(crate) fn or_deleted(mut self) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            let gone = |(path, mount): &(PathBuf, PathBuf)| {
                (format!("{} (deleted)", path.display()).into(), mount.clone())
            };
            let more: Vec<_> = places.iter().map(gone).collect();
            places.extend(more);
        }
        self
    }

    /// Which of several files is named is not laid down; the filesystem is.
    pub(crate) fn whatever_the_path(mut self) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            places.clear();
        }
        self
    }

    /// Which file it was is not known: it counts as one of no filesystem.
    pub(crate) fn whose_file_is_unknown(mut self) -> Self {
        self.sink = ExpectedSink::File { places: Vec::new(), device: "0:0".to_owned(), fstype: "" };
        self
    }

    /// The size of the asset is in motion in this test and not compared.
    pub(crate) const fn whatever_the_asset_size(mut self) -> Self {
        self.asset_bytes = None;
        self
    }

    /// Of another asset than [`ASSET`].
    pub(crate) const fn of(mut self, asset: &'static str, asset_bytes: u64) -> Self {
        self.asset = asset;
        self.asset_bytes = Some(asset_bytes);
        self
    }

    fn may_be_missing(&self) -> bool {
        self.act.as_ref().is_some_and(|act| act.optional)
    }

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
    fn concerns(&self, alert: &Alert) -> bool {
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

    /// For the score: the finding that is this one, if any.
    fn score(&self, alerts: &[Alert]) {
        let first = alerts.iter().find(|alert| alert.alarms() && self.concerns(alert));
        let lines: Vec<&Alert> = first.map_or_else(Vec::new, |first| {
            alerts.iter().filter(|alert| alert.uid() == first.uid()).collect()
        });
        score::note(self.rule, self.bound, &lines);
    }

    fn compare(&self, alert: &Alert, faults: &mut Vec<String>) {
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

impl Scene<'_> {
    /// Waits for the alerts, stops the agent, and compares everything it ever wrote with the complete list of findings.
    pub(crate) fn expect(self, expected: &[Expected]) {
        self.settle(expected, |_| false);
    }

    /// The same where the way leads over copies on the controlled volume: that WB-0007 names them is not what is asked.
    pub(crate) fn expect_beside_copies(self, expected: &[Expected]) {
        self.settle(expected, |alert| alert.rule() == "WB-0007");
    }

    /// The same where the test changed the agent's own files.
    pub(crate) fn expect_beside_changes(self, expected: &[Expected]) {
        self.settle(expected, |alert| {
            alert.rule() == "WB-0010" && ["files_changed", "rules_refused"].contains(&alert.text("/act/kind"))
        });
    }

    /// Whatever happened so far is somebody's daily work: nothing may have been raised that is medium or worse.
    pub(crate) fn expect_no_incident(mut self) {
        self.mark();
        self.settle(&[], |alert| ["informational", "low"].contains(&alert.text("/severity")));
    }

    fn settle(mut self, expected: &[Expected], beside: fn(&Alert) -> bool) {
        if expected.is_empty() {
            score::note_silence();
        }
        // Waiting first shows that alerts come while the agent runs and not only at its end. Whether they are right is
        // looked at after the end, when nothing can change any more.
        let waited = self.agent().wait(ALERT_WITHIN, |alerts| {
            let newest = findings(alerts);
            expected
                .iter()
                .all(|one| {
                    one.may_be_missing()
                        || newest.iter().any(|alert| one.concerns(alert) && alert.bound() >= one.bound.0)
                })
                .then_some(())
        });
        let in_time = waited.unwrap_or_else(|error| panic!("{error:#}")).is_some();
        let alerts = self.stop();
        self.check_truth();
        let mut faults = shape_faults(&alerts);
        let mut rest: Vec<Alert> =
            findings(&alerts).into_iter().filter(|alert| alert.alarms() && alert.asset() != MARKER).collect();
        // Every scene ends its agent.
        rest.retain(|alert| alert.rule() != "WB-0011" && !(self.starts > 1 && is_of_the_time_between(alert)));
        for one in expected {
            one.score(&alerts);
            match rest.iter().position(|alert| one.concerns(alert)) {
                Some(at) => one.compare(&rest.remove(at), &mut faults),
                None if one.may_be_missing() => {}
                None => faults.push(format!("{} for asset {} was not raised", one.rule, one.asset)),
            }
        }
        rest.retain(|alert| !beside(alert));
        drips(expected, &mut rest, &mut faults);
        faults.extend(rest.iter().map(|alert| format!("nobody expected {}", summary(alert))));
        if !in_time && faults.is_empty() {
            faults.push(format!(
                "the alerts were right only after the agent's end, not within {ALERT_WITHIN:?}"
            ));
        }
        assert!(faults.is_empty(), "{}", faults.join("\n    "));
    }

    /// Nothing may have been raised, by anything that happened so far.
    pub(crate) fn expect_silence(mut self) {
        self.mark();
        self.expect(&[]);
    }
}

/// What an agent says of the end of the one before it, and of what the test did before it was started again.
fn is_of_the_time_between(alert: &Alert) -> bool {
    let target = alert.text("/act/target");
    alert.rule() == "WB-0010"
        && match alert.text("/act/kind") {
            "restarted" => true,
            "signalled" => target == "SIGKILL",
            "links_touched" | "maps_touched" | "files_changed" => target.ends_with("while no agent ran"),
            _ => false,
        }
}

/// WB-0003 sums what the other rules found of an asset, so what it says follows from what was expected of them. Takes its
/// findings out of `rest`.
fn drips(expected: &[Expected], rest: &mut Vec<Alert>, faults: &mut Vec<String>) {
    let assets: BTreeSet<&str> = expected.iter().map(|one| one.asset).collect();
    for asset in assets {
        let leaving =
            || expected.iter().filter(|one| one.asset == asset && ["WB-0001", "WB-0002"].contains(&one.rule));
        let size = leaving().filter_map(|one| one.asset_bytes).max().unwrap_or(u64::MAX);
        let sum = |of: fn(&Expected) -> u64| {
            leaving().fold(0, |sum: u64, one| sum.saturating_add(of(one))).min(size)
        };
        let (from, to) = (sum(|one| one.bound.0), sum(|one| one.bound.1));
        let line = (size.div_ceil(2000)).max(32 * MIB);
        match rest.iter().position(|alert| alert.rule() == "WB-0003" && alert.asset() == asset) {
            Some(at) => {
                let bound = rest.remove(at).bound();
                // What is below the lines of the other rules counts too, up to a megabyte for each place.
                if bound < line || !(from..=to.saturating_add(4 * MIB)).contains(&bound) {
                    faults.push(format!("WB-0003 bound_bytes is {bound}, should be {from}..={to}"));
                }
            }
            None if from >= line => faults.push(format!("WB-0003 for asset {asset} was not raised")),
            None => {}
        }
    }
}

/// What every alert line must have, whatever it is about.
fn shape_faults(alerts: &[Alert]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, alert) in alerts.iter().enumerate() {
        let mut need = |what: &str, good: bool| {
            if !good {
                faults.push(format!("line {}: {what}: {}", at + 1, summary(alert)));
            }
        };
        let detail = alert.detail();
        need("class_uid is not 2004", alert.0["class_uid"] == 2004);
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
            lineage_faults(detail, &mut need);
        }
    }
    faults
}

/// Edges lead from the asset to the sink without a gap.
fn lineage_faults(detail: &Value, need: &mut dyn FnMut(&str, bool)) {
    let edges = detail["lineage"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (Some(first), Some(last)) = (edges.first(), edges.last()) else {
        need("no lineage", false);
        return;
    };
    need(
        "lineage does not start at the asset",
        first["from"]["type"] == "asset" && first["from"]["name"] == detail["asset"],
    );
    let end = &last["to"]["type"];
    need("lineage does not end at a sink", ["file", "peer", "device"].iter().any(|kind| end == kind));
    need("lineage has a gap", edges.windows(2).all(|two| two[0]["to"] == two[1]["from"]));
    need("lineage has an edge without bytes", edges.iter().all(|edge| edge["bytes"].as_u64() > Some(0)));
}

/// Each edge of the lineage: what is at its end, and the bytes that went there.
fn way(alert: &Alert) -> Vec<String> {
    let edges = alert.detail()["lineage"].as_array().map(Vec::as_slice).unwrap_or_default();
    let end = |end: &Value| end["type"].as_str().unwrap_or("none").to_owned();
    edges.iter().map(|edge| format!("{} to {}", edge["bytes"], end(&edge["to"]))).collect()
}

/// The types of the nodes that the lineage leads through, from the asset to the sink.
fn lineage_types(alert: &Alert) -> Vec<String> {
    let edges = alert.detail()["lineage"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kind = |end: &Value| end["type"].as_str().unwrap_or("none").to_owned();
    edges
        .first()
        .map(|edge| kind(&edge["from"]))
        .into_iter()
        .chain(edges.iter().map(|edge| kind(&edge["to"])))
        .collect()
}

/// The address of `198.51.100.2:443/tcp`.
fn host(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

fn summary(alert: &Alert) -> String {
    let sink = match (alert.text("/sink/path"), alert.text("/sink/peer")) {
        ("", "") if alert.text("/sink/kind").is_empty() => {
            return format!(
                "{} {} {} {} {} of {} by {} against {}",
                alert.rule(),
                alert.text("/mode"),
                alert.text("/severity"),
                alert.text("/act/kind"),
                alert.text("/act/target"),
                alert.asset(),
                alert.text("/process/cmdline"),
                alert.text("/victim/cmdline"),
            );
        }
        ("", "") => alert.text("/sink/kind"),
        ("", peer) => peer,
        (path, _) => path,
    };
    let act = match (alert.text("/act/kind"), alert.text("/act/target")) {
        ("", _) => String::new(),
        (kind, target) => format!(" {kind} {target}"),
    };
    format!(
        "{} {} {}{act} {} bytes of {} by {} to {sink}",
        alert.rule(),
        alert.text("/mode"),
        alert.text("/severity"),
        alert.bound(),
        alert.asset(),
        alert.text("/process/cmdline"),
    )
}
