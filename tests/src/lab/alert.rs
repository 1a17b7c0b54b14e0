//! Alerts as the agent writes them (DESIGN §4): one JSON object per line. Reads, never judges.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// One line of the alert file.
#[derive(Clone, Debug)]
pub struct Alert(pub Value);

impl Alert {
    /// `unmapped.weighbridge`; JSON null when missing.
    #[must_use]
    pub fn detail(&self) -> &Value {
        &self.0["unmapped"]["weighbridge"]
    }

    /// A text field of `unmapped.weighbridge`, by JSON pointer (`/sink/path`); empty when missing.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.detail().pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of `unmapped.weighbridge`, by JSON pointer; `None` when missing or no whole number.
    #[must_use]
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.detail().pointer(pointer).and_then(Value::as_u64)
    }

    #[must_use]
    pub fn rule(&self) -> &str {
        self.text("/rule")
    }

    #[must_use]
    pub fn asset(&self) -> &str {
        self.text("/asset")
    }

    /// Bytes that can have leaked; 0 when missing.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.number("/bound_bytes").unwrap_or(0)
    }

    /// Not a shadow match, which is written too but alarms nobody.
    #[must_use]
    pub fn alarms(&self) -> bool {
        self.text("/mode") != "shadow"
    }

    #[must_use]
    pub fn uid(&self) -> &str {
        self.0["finding_info"]["uid"].as_str().unwrap_or_default()
    }

    /// Edges from the asset to the sink; none when missing.
    #[must_use]
    pub fn lineage(&self) -> &[Value] {
        self.detail()["lineage"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// 1 Create, 2 Update, 3 Close.
    #[must_use]
    pub fn activity(&self) -> Option<u64> {
        self.0["activity_id"].as_u64()
    }
}

/// One line for people.
impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, target) = (self.text("/act/kind"), self.text("/act/target"));
        let act = if kind.is_empty() { String::new() } else { format!(" {kind} {target}") };
        let (rule, mode, severity) = (self.rule(), self.text("/mode"), self.text("/severity"));
        let (asset, by) = (self.asset(), self.text("/process/cmdline"));
        write!(f, "{rule} {mode} {severity}{act}")?;
        let sink = match (self.text("/sink/path"), self.text("/sink/peer")) {
            ("", "") => self.text("/sink/kind"),
            ("", peer) => peer,
            (path, _) => path,
        };
        if sink.is_empty() {
            return write!(f, " of {asset} by {by} against {}", self.text("/victim/cmdline"));
        }
        write!(f, " {} bytes of {asset} by {by} to {sink}", self.bound())
    }
}

/// The newest line of every finding, in the order in which the findings were created.
#[must_use]
pub fn findings(alerts: &[Alert]) -> Vec<Alert> {
    let mut order = Vec::new();
    let mut newest = BTreeMap::new();
    for alert in alerts {
        if newest.insert(alert.uid(), alert).is_none() {
            order.push(alert.uid());
        }
    }
    order.into_iter().filter_map(|uid| newest.get(uid).map(|&alert| alert.clone())).collect()
}

/// Follows an alert file that may not be there yet.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    offset: u64,
    seen: Vec<Alert>,
}

impl Reader {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), offset: 0, seen: Vec::new() }
    }

    /// Every complete line so far.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no JSON.
    pub fn read(&mut self) -> Result<&[Alert]> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(&self.seen),
            Err(error) => return Err(error).context("cannot open the alert file"),
        };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read_to_string(&mut text))
            .context("cannot read the alert file")?;
        // A line that is still being written is left for the next time.
        let Some(end) = text.rfind('\n') else { return Ok(&self.seen) };
        for line in text[..end].lines() {
            let value =
                serde_json::from_str(line).with_context(|| format!("an alert line is no JSON: {line}"))?;
            self.seen.push(Alert(value));
        }
        self.offset += end as u64 + 1;
        Ok(&self.seen)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use serde_json::json;

    use super::*;

    fn line(uid: &str, bound: u64) -> String {
        json!({"activity_id": 1, "finding_info": {"uid": uid},
            "unmapped": {"weighbridge": {"rule": "WB-0001", "bound_bytes": bound}}})
        .to_string()
    }

    #[test]
    fn the_newest_line_of_a_finding_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts");
        let mut reader = Reader::new(&path);
        assert_eq!(reader.read().unwrap().len(), 0);
        fs::write(&path, format!("{}\n{}\n{}\n", line("a", 1), line("b", 5), line("a", 9))).unwrap();
        let found: Vec<(String, u64)> = findings(reader.read().unwrap())
            .iter()
            .map(|alert| (alert.uid().to_owned(), alert.bound()))
            .collect();
        assert_eq!(found, [("a".to_owned(), 9), ("b".to_owned(), 5)]);
    }

    #[test]
    fn half_a_line_waits_for_the_other_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts");
        let whole = line("a", 1);
        let (first, second) = whole.split_at(10);
        let mut file = File::create(&path).unwrap();
        let mut reader = Reader::new(&path);
        file.write_all(first.as_bytes()).unwrap();
        assert_eq!(reader.read().unwrap().len(), 0);
        file.write_all(format!("{second}\n").as_bytes()).unwrap();
        assert_eq!(reader.read().unwrap().len(), 1);
    }
}
