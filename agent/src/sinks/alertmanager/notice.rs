//! From an alert to what Alertmanager is told of it: labels, which are its identity, and annotations, which are not.
//!
//! Everything is bounded here: names by their alphabet, values by their length, annotations by their sum, because
//! Alertmanager refuses what it does not like and a refused alert is a lost one.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    alerts::{Activity, Alert, human_bytes, printable, sha256_hex},
    event::SinkKind,
};

/// Longest value of a label. A longer one is cut, and ends in a hash so that two stay two.
const LONGEST_LABEL: usize = 200;
/// Longest value of an annotation, and all of one alert together.
const LONGEST_ANNOTATION: usize = 500;
const ALL_ANNOTATIONS: usize = 2048;

/// Where the package puts the files that rules name relative to the tree, on the host that the alert is of.
const INSTALLED: &str = "file:///usr/share/doc/weighbridge/";

/// What one line of a finding means for Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sinks) struct Notice {
    pub(super) closes: bool,
    /// `finding_info.uid`.
    pub(super) finding: String,
    /// With `severity`. Shared by all instances, for thousands may wait for each.
    pub(super) labels: Arc<BTreeMap<String, String>>,
    /// An object of texts, as it is sent. As a map it would take three times as much memory.
    pub(super) annotations: Arc<str>,
    /// Milliseconds since 1970: when this severity was reached.
    pub(super) starts_ms: i64,
    /// When bytes last moved.
    pub(super) last_ms: i64,
    /// The rule's `suppress`, milliseconds.
    pub(super) suppress_ms: Option<i64>,
}

impl Notice {
    pub(in crate::sinks) fn of(alert: &Alert) -> Self {
        let matched = &*alert.matched;
        let finding = &*alert.finding;
        let starts_ms =
            if alert.activity == Activity::Create { finding.first_seen_ms() } else { finding.time };
        let suppress_ms = matched.rule.suppress.and_then(|suppress| i64::try_from(suppress.as_millis()).ok());
        Self {
            closes: alert.activity == Activity::Close,
            finding: finding.finding_info.uid.clone(),
            labels: Arc::new(labels(alert)),
            annotations: as_text(&annotations(alert)),
            starts_ms,
            last_ms: finding.last_seen_ms(),
            suppress_ms,
        }
    }

    /// Says that the runbooks are served below this address, which ends without a slash.
    pub(super) fn find_runbooks_at(&mut self, address: &str) {
        let mut all = as_map(&self.annotations);
        if let Some(url) = all.get_mut("runbook_url")
            && let Some(name) = url.strip_prefix(INSTALLED).and_then(|path| path.rsplit('/').next())
        {
            *url = format!("{address}/{name}");
            self.annotations = as_text(&all);
        }
    }

    /// About how much memory it takes.
    pub(in crate::sinks) fn size(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        labels + self.annotations.len() + 256
    }
}

/// Annotations as they are kept.
pub(super) fn as_text(annotations: &BTreeMap<String, String>) -> Arc<str> {
    // A map of texts is always JSON.
    serde_json::to_string(annotations).unwrap_or_default().into()
}

/// The same as they are looked at.
pub(super) fn as_map(annotations: &str) -> BTreeMap<String, String> {
    serde_json::from_str(annotations).unwrap_or_default()
}

fn labels(alert: &Alert) -> BTreeMap<String, String> {
    let matched = &*alert.matched;
    let mut labels = BTreeMap::new();
    let mut put = |name: &str, value: &str| {
        // Alertmanager drops empty labels; leaving them out keeps our identity equal to its.
        if !value.is_empty() {
            labels.insert(name.to_owned(), cut_with_hash(value));
        }
    };
    for (field, value) in &matched.group {
        put(&label_name(field), value);
    }
    put("alertname", &camel_case(&matched.rule.title, &matched.rule.id));
    put("rule_id", &matched.rule.id);
    put("severity", matched.severity.as_str());
    put("host", alert.finding.host());
    put("asset", &matched.record.asset.name);
    if let Some(sink) = &matched.record.sink {
        put("control", sink.control.as_str());
    }
    put("source", "weighbridge");
    labels
}

fn annotations(alert: &Alert) -> BTreeMap<String, String> {
    let matched = &*alert.matched;
    let process = alert.process();
    let sink = matched.record.sink.as_deref();
    let place = sink.and_then(|sink| match sink.kind {
        SinkKind::Peer => sink.peer.clone(),
        _ => sink.path.clone().or_else(|| sink.device.clone()).or_else(|| sink.channel.clone()),
    });
    let loss: Vec<String> =
        alert.finding.loss().iter().map(|(stage, count)| format!("{stage}={count}")).collect();
    let head = alert.head;
    let hash = head.hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // In this order: what comes last is left out first when there is no room.
    let all = [
        ("summary", alert.finding.message.clone()),
        ("chain", format!("{}:{hash}", head.seq)),
        ("bytes", matched.bound_bytes.to_string()),
        ("finding", alert.finding.finding_info.uid.clone()),
        ("runbook_url", runbook(&matched.rule.runbook)),
        (
            "action",
            format!(
                "on {}: `weighbridge explain {}`, then follow the runbook",
                alert.finding.host(),
                alert.finding.finding_info.uid
            ),
        ),
        ("process", format!("{} (pid {}, uid {})", process.exe, process.pid, process.uid)),
        ("sink", place.unwrap_or_default()),
        ("loss", loss.join(" ")),
        ("container", process.container.clone().unwrap_or_default()),
        ("unit", process.unit.clone().unwrap_or_default()),
        ("technique", matched.rule.techniques().next().unwrap_or_default()),
        ("share_percent", format!("{:.4}", matched.share * 100.0)),
        (
            "description",
            format!(
                "{}. {} of {} in all; the rule is owned by {}.",
                matched.rule.title,
                human_bytes(matched.bound_bytes),
                human_bytes(matched.record.asset.bytes),
                matched.rule.owner
            ),
        ),
        ("command", process.cmdline.clone()),
    ];
    let mut left = ALL_ANNOTATIONS;
    let mut annotations = BTreeMap::new();
    for (name, value) in all {
        let value = cut(&printable(&value), LONGEST_ANNOTATION);
        if !value.is_empty() && name.len() + value.len() <= left {
            left -= name.len() + value.len();
            annotations.insert(name.to_owned(), value);
        }
    }
    annotations
}

/// A rule's runbook as an address: those of the package are files on the host. What is neither is left as it is.
fn runbook(named: &str) -> String {
    if named.starts_with("docs/") { format!("{INSTALLED}{named}") } else { named.to_owned() }
}

/// `sink.device` as Alertmanager takes it: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn label_name(field: &str) -> String {
    let name: String = field.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    match name.as_str() {
        // Two names for one thing would only make the identity longer.
        "asset_name" => "asset".to_owned(),
        name if name.starts_with(|c: char| c.is_ascii_digit()) => format!("_{name}"),
        "" => "_".to_owned(),
        _ => name,
    }
}

/// `WeightsCopiedToADevice`; the id where a title has no letters that Alertmanager's users can type.
fn camel_case(title: &str, id: &str) -> String {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name: String = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { id.replace('-', "") }
}

fn cut_with_hash(value: &str) -> String {
    let value = printable(value);
    if value.len() <= LONGEST_LABEL {
        return value;
    }
    format!("{}~{}", cut(&value, LONGEST_LABEL - 17), &sha256_hex(value.as_bytes())[..16])
}

/// At most so many bytes, at a character's end.
fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        alerts::{
            Alerts,
            fixtures::{context, matched},
        },
        event::{BootNs, Loss},
        rules::Severity,
    };

    fn one(mib: u64) -> Notice {
        let mut alerts = Alerts::new(context());
        let made = alerts.observe(
            &matched(Severity::High, mib << 20, 240_000_000_000),
            BootNs(240_000_000_000),
            &Loss::new(),
        );
        Notice::of(&made[0])
    }

    #[test]
    fn labels_are_the_identity_and_annotations_the_rest() {
        let (small, large) = (one(1), one(200));
        assert_eq!(small.labels, large.labels, "bytes are no identity");
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&*large.labels).unwrap(),
            @r#"
        {
          "alertname": "WeightsCopiedToADeviceThatIsNotControlled",
          "asset": "llm-70b",
          "control": "uncontrolled",
          "host": "gpu-017",
          "rule_id": "WB-0001",
          "severity": "high",
          "sink_device": "8:16",
          "source": "weighbridge"
        }
        "#
        );
        let annotations = as_map(&large.annotations);
        assert_eq!(annotations["bytes"], (200_u64 << 20).to_string());
        assert!(annotations["chain"].starts_with("1:"), "{}", annotations["chain"]);
    }

    /// What, how much, by whom, where to, and what to do.
    #[test]
    fn a_page_at_night_says_it_all() {
        let mut page = one(200);
        let mut annotations = as_map(&page.annotations);
        annotations.remove("chain");
        annotations.remove("finding");
        let action = annotations.remove("action").unwrap();
        let uid = page.finding.clone();
        assert_eq!(action, format!("on gpu-017: `weighbridge explain {uid}`, then follow the runbook"));
        insta::assert_snapshot!(serde_json::to_string_pretty(&annotations).unwrap(), @r#"
        {
          "bytes": "209715200",
          "command": "rsync -a /models/llm-70b /mnt/usb",
          "description": "Weights copied to a device that is not controlled. 200.0 MiB of 131.4 GiB in all; the rule is owned by ml-security.",
          "process": "/usr/bin/rsync (pid 48213, uid 1004)",
          "runbook_url": "file:///usr/share/doc/weighbridge/docs/runbooks/WB-0001.md",
          "share_percent": "0.1486",
          "sink": "/mnt/usb/model",
          "summary": "up to 200.0 MiB (209715200 bytes, 0.15 %) of llm-70b written to uncontrolled file /mnt/usb/model (exfat on 8:16, removable), by /usr/bin/rsync (pid 48213)",
          "technique": "T1052.001",
          "unit": "cron.service"
        }
        "#);
        page.find_runbooks_at("https://wiki.internal/wb");
        assert_eq!(as_map(&page.annotations)["runbook_url"], "https://wiki.internal/wb/WB-0001.md");
    }

    #[test]
    fn a_runbook_of_the_site_is_left_alone() {
        for own in ["https://wiki.internal/x.md", "none"] {
            assert_eq!(runbook(own), own);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_process_is_called_alertmanager_takes_it(
            exe in "\\PC{0,600}", path in any::<String>(), group in "\\PC{0,400}", title in any::<String>(),
        ) {
            let mut odd = matched(Severity::High, 1, 1);
            let record = &mut odd.record;
            let mut process = (*record.process).clone();
            process.exe = exe;
            record.process = Arc::new(process);
            let mut sink = (**record.sink.as_ref().unwrap()).clone();
            sink.path = Some(path);
            record.sink = Some(Arc::new(sink));
            odd.group[1].1 = group;
            let mut rule = (*odd.rule).clone();
            rule.title = title;
            odd.rule = Arc::new(rule);
            let made = Alerts::new(context()).observe(&odd, BootNs(1), &Loss::new());
            let notice = Notice::of(&made[0]);
            for (name, value) in &*notice.labels {
                prop_assert!(name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
                prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
                prop_assert!(!value.is_empty() && value.len() <= LONGEST_LABEL);
            }
            let annotations = as_map(&notice.annotations);
            let size: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(size <= ALL_ANNOTATIONS);
            prop_assert!(annotations.contains_key("chain"));
        }
    }
}
