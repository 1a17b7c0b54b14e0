//! From matches of rules to the lines that people and machines read: when a finding opens, grows and closes.
//!
//! Pure: takes the time with every call, returns the alerts that are due. Must not know how rules decide ([`Match`] is
//! all it gets) nor where alerts go (`sinks`).

mod chain;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
#[expect(unreachable_pub, reason = "the end-to-end tests, whose file it is, export it")]
#[path = "../../../tests/src/lab/json_schema.rs"]
mod json_schema;
mod ocsf;
mod own;
mod read;
mod render;
mod saved;
mod schema;
mod seal;
#[cfg(test)]
mod tests;
mod verify;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

pub use self::{
    chain::{Head, read as read_head, read_anchor},
    own::{DRILL, Fault, RULE as OWN_RULE},
    read::{Detail, Told, ToldException, ToldLine},
    render::render,
    saved::{Unfinished, unfinished},
    schema::{DetectionFinding, FindingInfo, SCHEMA},
    seal::{SealKey, Seed},
    verify::{Broken, Verified, Verifier, verify},
    words::{destination, human_bytes, percent, printable},
};
use crate::{
    event::{BootNs, Loss, Process},
    rules::{Match, Mode, Resolved, Severity},
};

/// The least time between two lines of one finding that differ in bytes only.
const UPDATE_EVERY: u64 = 1_000_000_000;

/// Findings that are open at once; beyond it the one that was still for longest is closed with a line of its own.
const MOST_OPEN: usize = 4096;

/// What is the same for all alerts of a run.
#[derive(Clone, Debug)]
pub struct Context {
    pub host: String,
    /// `/etc/machine-id` or another stable id of this host.
    pub host_uid: Option<String>,
    pub kernel_release: String,
    /// Of the agent.
    pub version: String,
    /// `syscall` or `function`.
    pub sensor: String,
    /// SHA-256 of the rule set, hex.
    pub rules_digest: String,
    /// Milliseconds of wall clock at boot: wall = boot + this.
    pub boot_wall_ms: i64,
    /// Random; makes the ids of this run's lines unique.
    pub run: [u8; 16],
    /// Where the hash chain of the alert log stands.
    pub head: Head,
    /// Seals lines; without one they are only chained.
    pub key: Option<SealKey>,
    /// Goes into the chain field of the first line, such as what was wrong with the log's last line.
    pub note: Option<String>,
}

/// OCSF `activity_id` of a Detection Finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    Create,
    Update,
    Close,
}

/// One line of one finding.
#[derive(Clone, Debug)]
pub struct Alert {
    pub activity: Activity,
    /// It is the first line of its finding at this severity: what pages somebody, and what is counted.
    pub raised: bool,
    /// What it says; `severity` is the highest that the finding reached.
    pub matched: Arc<Match>,
    pub finding: Arc<DetectionFinding>,
    /// The finding as JSON, chained, with its line feed.
    pub line: Bytes,
    /// The line's place in the chain.
    pub head: Head,
}

impl Alert {
    /// Who the alert names: for a sum over several, the largest.
    #[must_use]
    pub fn process(&self) -> &Process {
        words::largest(&self.matched)
    }
}

/// SHA-256 in hex.
pub(crate) fn sha256_hex(input: &[u8]) -> String {
    chain::hex(&chain::sha256(input))
}

/// Turns matches into alerts.
#[derive(Debug)]
pub struct Alerts {
    context: Context,
    open: BTreeMap<Identity, Open>,
    /// Findings in the log that an earlier run neither closed nor kept.
    unfinished: Vec<Unfinished>,
}

/// The rule's id, the exception's, and the rule's `group_by` fields with their values.
type Identity = (String, Option<String>, Vec<(&'static str, String)>);

#[derive(Debug)]
struct Open {
    matched: Match,
    loss: Loss,
    /// Wall clock of the first record; part of the finding's uid, so it never moves.
    first_ms: i64,
    written_at: BootNs,
    written_severity: Severity,
    /// The last line is not exact any more.
    stale: bool,
    /// In place of the sentence that a match makes.
    said: Option<String>,
}

impl Alerts {
    #[must_use]
    pub const fn new(context: Context) -> Self {
        Self { context, open: BTreeMap::new(), unfinished: Vec::new() }
    }

    /// Takes a verdict. Returns a line if it opens a finding or raises its severity, or if the last line is a second
    /// old; otherwise [`Alerts::tick`] writes it when that second is over.
    pub fn observe(&mut self, matched: &Match, now: BootNs, loss: &Loss) -> Vec<Alert> {
        let identity = identity(matched);
        let mut alerts = Vec::new();
        if let Some(open) = self.open.get_mut(&identity) {
            open.renew(matched, loss);
            let raised = open.matched.severity > open.written_severity;
            if raised || now.0.saturating_sub(open.written_at.0) >= UPDATE_EVERY {
                alerts.push(self.context.write(open, Activity::Update, now));
            }
        } else {
            if self.open.len() >= MOST_OPEN
                && let Some(oldest) =
                    self.open.iter().min_by_key(|(_, open)| open.matched.last_at).map(|(id, _)| id.clone())
                && let Some(mut closed) = self.open.remove(&oldest)
            {
                alerts.push(self.context.write(&mut closed, Activity::Close, now));
            }
            let mut open = Open {
                matched: matched.clone(),
                loss: loss.clone(),
                first_ms: self.context.wall_ms(matched.first_at),
                written_at: now,
                written_severity: matched.severity,
                stale: false,
                said: None,
            };
            let activity = if self.take_up(&mut open) { Activity::Update } else { Activity::Create };
            alerts.push(self.context.write(&mut open, activity, now));
            self.open.insert(identity, open);
        }
        alerts
    }

    /// The agent itself is at fault: opens a finding of its own, unless that is open already.
    pub fn fault(&mut self, fault: &Fault, agent: &Arc<Process>, now: BootNs, loss: &Loss) -> Vec<Alert> {
        let matched = own::matched(fault, agent, now);
        let identity = (matched.rule.id.clone(), None, matched.group.clone());
        if self.open.contains_key(&identity) {
            return Vec::new();
        }
        let mut open = Open {
            first_ms: self.context.wall_ms(now),
            written_at: now,
            written_severity: fault.severity,
            stale: false,
            said: Some(fault.text.clone()),
            loss: loss.clone(),
            matched,
        };
        let alert = self.context.write(&mut open, Activity::Create, now);
        self.open.insert(identity, open);
        vec![alert]
    }

    /// A drill: a finding that opens and closes at once. Its uid, and its two lines.
    pub fn drill(
        &mut self,
        severity: Severity,
        agent: &Arc<Process>,
        now: BootNs,
        loss: &Loss,
    ) -> (String, Vec<Alert>) {
        let mut open = Open {
            first_ms: self.context.wall_ms(now),
            written_at: now,
            written_severity: severity,
            stale: false,
            said: Some(own::DRILL_TEXT.to_owned()),
            loss: loss.clone(),
            matched: own::drill(severity, agent, now),
        };
        let alerts =
            [Activity::Create, Activity::Close].map(|activity| self.context.write(&mut open, activity, now));
        (alerts[0].finding.finding_info.uid.clone(), alerts.into())
    }

    /// A fault is over.
    pub fn mended(&mut self, what: &str, now: BootNs) -> Vec<Alert> {
        let closed = self.open.remove(&(own::RULE.to_owned(), None, own::group(what)));
        closed.map(|mut open| self.context.write(&mut open, Activity::Close, now)).into_iter().collect()
    }

    /// The group fell below every line, or nobody asks any more: closes its finding, if one is open.
    pub fn resolved(&mut self, resolved: &Resolved, now: BootNs) -> Vec<Alert> {
        let Resolved { rule, exception, group, .. } = resolved;
        let closed = self.open.remove(&(rule.id.clone(), exception.clone(), group.clone()));
        closed.map(|mut open| self.context.write(&mut open, Activity::Close, now)).into_iter().collect()
    }

    /// Writes every finding whose last line is not exact and a second old.
    pub fn tick(&mut self, now: BootNs) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for open in self.open.values_mut() {
            if open.stale && now.0 >= open.written_at.0.saturating_add(UPDATE_EVERY) {
                alerts.push(self.context.write(open, Activity::Update, now));
            }
        }
        alerts
    }

    /// Makes the newest line of every finding exact, at once: for the end of a run.
    pub fn flush(&mut self, now: BootNs) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for open in self.open.values_mut().filter(|open| open.stale) {
            alerts.push(self.context.write(open, Activity::Update, now));
        }
        alerts
    }

    /// When [`Alerts::tick`] has something to write next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootNs> {
        self.open
            .values()
            .filter(|open| open.stale)
            .map(|open| BootNs(open.written_at.0.saturating_add(UPDATE_EVERY)))
            .min()
    }

    /// How many findings are open, by severity and mode.
    #[must_use]
    pub fn active(&self) -> BTreeMap<Severity, u64> {
        let mut active: BTreeMap<_, _> = Severity::ALL.into_iter().map(|severity| (severity, 0)).collect();
        for open in self.open.values().filter(|open| open.matched.mode == Mode::Alert) {
            *active.entry(open.matched.severity).or_insert(0) += 1;
        }
        active
    }

    /// Where the hash chain stands.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.context.head
    }

    /// The key for the next line, after time passed; `None` when lines are not sealed.
    pub fn key(&mut self, now: BootNs) -> Option<&SealKey> {
        let now = self.context.wall_ms(now);
        let key = self.context.key.as_mut()?;
        key.pass(now);
        Some(key)
    }

    /// After a reload of the rules.
    pub fn set_rules_digest(&mut self, digest: String) {
        self.context.rules_digest = digest;
    }

    /// After the wall clock was set: milliseconds of wall clock at boot.
    pub const fn set_boot_wall_ms(&mut self, boot_wall_ms: i64) {
        self.context.boot_wall_ms = boot_wall_ms;
    }
}

fn identity(matched: &Match) -> Identity {
    let exception = matched.exception.as_ref().map(|exception| exception.id.clone());
    (matched.rule.id.clone(), exception, matched.group.clone())
}

impl Open {
    /// Takes newer values. Severity and bound keep their peak: a window that slides on must not take back what was seen.
    fn renew(&mut self, matched: &Match, loss: &Loss) {
        let peak = (self.matched.severity, self.matched.bound_bytes, self.matched.share);
        let first_at = self.matched.first_at.min(matched.first_at);
        if matched.bound_bytes >= peak.1 {
            self.matched = matched.clone();
        }
        self.matched.severity = peak.0.max(matched.severity);
        self.matched.mode = matched.mode;
        self.matched.first_at = first_at;
        self.matched.last_at = matched.last_at.max(self.matched.last_at);
        self.loss.clone_from(loss);
        self.stale = true;
    }
}

impl Context {
    fn write(&mut self, open: &mut Open, activity: Activity, now: BootNs) -> Alert {
        let raised = match activity {
            Activity::Create => true,
            Activity::Update | Activity::Close => open.matched.severity > open.written_severity,
        };
        open.written_at = now;
        open.written_severity = open.matched.severity;
        open.stale = false;
        let matched = Arc::new(open.matched.clone());
        let mut finding = ocsf::build(self, open, activity, now);
        self.note = None;
        let (line, head) = chain::seal(&mut finding, self.head, self.key.as_mut());
        self.head = head;
        Alert { activity, raised, matched, finding: Arc::new(finding), line, head }
    }

    /// Milliseconds since 1970.
    fn wall_ms(&self, at: BootNs) -> i64 {
        i64::try_from(at.0 / 1_000_000).unwrap_or(i64::MAX).saturating_add(self.boot_wall_ms)
    }
}
