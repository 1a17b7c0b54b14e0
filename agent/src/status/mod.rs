//! A window into the running agent: a read-only Unix socket that root and the agent's own user can look through.
//!
//! `server` is the agent's end, `client` the commands'. What is said is a [`Snapshot`] once a second, or the alert lines as
//! they are written. Nothing can be changed through it, and nobody who looks can slow the agent down. One thing can be asked for: a
//! drill, at most one every ten seconds, which says of itself that it is one.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{Unreachable, Watch, watch},
    server::{Drill, Status, serve},
};

/// Name of the socket in the state directory.
pub const SOCKET: &str = "status.sock";

/// How the agent does now. Bytes, and milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub schema: u32,
    pub version: String,
    pub pid: u32,
    pub at_ms: i64,
    pub started_ms: i64,
    pub sensor: String,
    /// Hooks that do not run here, with the reason.
    pub missing_hooks: Vec<(String, String)>,
    pub rules: usize,
    pub rules_digest: String,
    /// Seconds that each rule took since it was first loaded, an estimate, the dearest first.
    #[serde(default)]
    pub rule_seconds: Vec<(String, f64)>,
    /// Lines in the chain of alerts.
    pub sequence: u64,
    /// Findings that are open, by severity.
    pub open: Vec<(String, u64)>,
    pub assets: Vec<AssetRow>,
    pub holders: Vec<HolderRow>,
    pub holder_count: usize,
    pub flows: Vec<FlowRow>,
    pub flow_count: usize,
    /// The budgets of the rules that are used up most, most first.
    #[serde(default)]
    pub budgets: Vec<BudgetRow>,
    #[serde(default)]
    pub budget_count: usize,
    /// By stage; empty when nothing was.
    pub loss: Vec<(String, u64)>,
    /// Where alerts go.
    #[serde(default)]
    pub sinks: Vec<SinkRow>,
}

/// One file, instance or address that alerts go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkRow {
    /// The kind, then the place: `file /var/log/weighbridge/alerts.ndjson`.
    pub name: String,
    /// Alerts delivered since the agent started, and alerts that wait.
    pub sent: u64,
    pub waiting: u64,
    /// What stands in the way; empty when nothing does.
    pub trouble: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetRow {
    pub name: String,
    pub kind: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderRow {
    pub pid: u32,
    pub exe: String,
    pub cmdline: String,
    pub uid: u32,
    pub asset: String,
    pub taken: u64,
    pub asset_bytes: u64,
    pub exited: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    pub pid: u32,
    pub exe: String,
    pub asset: String,
    pub bound: u64,
    /// `/mnt/usb/w`, `203.0.113.9:443/tcp`, …
    pub to: String,
    pub kind: String,
    pub control: String,
}

/// One window of a rule's budget that anything is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRow {
    pub rule: String,
    pub budget: String,
    /// Id of the exception that what is in it falls under; empty when there is none.
    pub exception: String,
    /// The values that it is kept by, such as the name of an asset.
    pub of: String,
    /// Length of the window in seconds.
    pub over_seconds: u64,
    /// What is summed: `bound`, `taken` and `bytes` are bytes, `count` and `distinct` are numbers.
    pub measure: String,
    pub sum: u64,
    /// The lowest line that the sum has not reached, or the highest, and its severity.
    pub line: u64,
    pub severity: String,
    pub is_reached: bool,
}
