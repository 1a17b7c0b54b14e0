//! Figures of alerts on their way and of the service: a real pair of Alertmanagers with a real receiver behind it, a queue of
//! thousands of alerts, the scrape, the start. It must not know what anything costs the host's other programs.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
// The leading colons: this crate has a module of the same name.
use ::tests::lab::{
    KIB, MIB,
    agent::Agent,
    alertmanager::{Alertmanager, Instance, PROGRAM, pair_that_waits},
    hook::{Hook, Post},
    metrics,
    process::{self, Running},
    wait_for,
    weights::Weights,
};

use super::{ASSETS_PER_RUN, Bench, PATIENCE, crossed, row};
use crate::shell;

/// A message passes the agent, Alertmanager's groups, and perhaps its peer.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
/// The queue is full, or told, by then.
const QUEUED_WITHIN: Duration = Duration::from_secs(180);
/// Rules of the queue's pack: each stays below the number of findings from which on a rule's are folded.
const RULES: u32 = 40;
/// For how many a scrape has a goal.
const SCRAPED_ASSETS: usize = 1000;

impl Bench {
    /// From just before the write that crosses a line to the end of Alertmanager's post to its receiver. That is more than the
    /// way of the alert: the way from the byte to the alert is in it.
    pub(super) fn receiver(&self, rows: &mut Vec<row::Row>) -> Result<()> {
        has_alertmanager()?;
        let mut all = Vec::new();
        for run in 0..self.sizes.latency_runs {
            eprintln!("to the receiver, run {} of {}", run + 1, self.sizes.latency_runs);
            let hook = Hook::start()?;
            let (instances, sink) = self.pair(&format!("receiver{run}"), &hook, "5m")?;
            let _running: Vec<Alertmanager> = instances.iter().map(Instance::start).collect::<Result<_>>()?;
            let mut config = self.config()?;
            config.sinks = vec![sink];
            let (config, models) = self.assets(&format!("receiver{run}"), ASSETS_PER_RUN, config)?;
            let agent = self.agent(config)?;
            for (name, model) in &models {
                let running = self.steal_part(name, model)?;
                let mut seen = 0;
                let arrived = hook.wait(ARRIVES_WITHIN, |posts| {
                    let new = posts.get(seen..).unwrap_or_default();
                    seen = posts.len();
                    new.iter().find(|post| says(post, name)).map(|post| post.at)
                });
                let arrived = arrived
                    .with_context(|| format!("the receiver heard nothing of {name}:\n{}", agent.stderr()))?;
                all.push(arrived.saturating_sub(crossed(running)?) as f64 / 1e6);
            }
            agent.stop()?;
        }
        row::percentiles(rows, "byte to Alertmanager's receiver, group_wait 0s", "ms", all, "under 1000")
    }

    /// Thousands of alerts while no Alertmanager runs, and then a pair of them.
    pub(super) fn queue(&self, rows: &mut Vec<row::Row>) -> Result<()> {
        has_alertmanager()?;
        let alerts = self.sizes.queued;
        let copies = alerts.div_ceil(RULES);
        let hook = Hook::start()?;
        let (instances, sink) = self.pair("queue", &hook, "1h")?;
        let mut config = self.config()?;
        config.sinks = vec![sink];
        let pack = config.alerts.with_file_name("rules");
        fs::create_dir(&pack).context("cannot make a folder for rules")?;
        fs::write(pack.join("queue.yaml"), pack_of(RULES)).context("cannot write rules")?;
        config.rules = vec![pack];
        let base = self.controlled.path().join("queue");
        let model = Weights::safetensors(&base, 1, MIB, 7)?;
        let agent = self.agent(config.asset("model", &model.dir))?;
        let mib =
            |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / MIB as f64).context("the agent is gone");
        let sent = |name: &str| -> Result<f64> {
            let samples = agent.metrics()?;
            metrics::sum(&samples, name, &[("sink", "alertmanager")]).with_context(|| format!("no {name}"))
        };
        let at_start = mib(process::most_resident(agent.pid()))?;
        process::forget_most_resident(agent.pid())?;
        eprintln!("{alerts} alerts while both instances are down");
        // A process for each: the flows of one process to one device are one flow.
        for number in 0..copies {
            let copied = self.uncontrolled.path().join(format!("queue-{number}"));
            let mut part = Command::new("cp");
            Running::start(part.arg(&model.files[0]).arg(copied))?.finish(PATIENCE)?.success()?;
        }
        let wanted = f64::from(2 * copies * RULES);
        let mut waiting = 0.0;
        let full = wait_for(QUEUED_WITHIN, || {
            waiting = sent("weighbridge_sink_backlog").unwrap_or(0.0);
            (waiting >= wanted).then_some(())
        });
        ensure!(
            full.is_some(),
            "{waiting} of {wanted} alerts wait for the two instances:\n{}",
            agent.stderr()
        );
        let queued = mib(process::resident(agent.pid()))?;

        eprintln!("{alerts} alerts to both instances, and on to the receiver");
        let start = Instant::now();
        let _running: Vec<Alertmanager> = instances.iter().map(Instance::start).collect::<Result<_>>()?;
        let (mut seen, mut told) = (0, HashSet::new());
        let all = hook.wait(QUEUED_WITHIN, |posts| {
            for post in &posts[seen..] {
                told.extend(alerts_of(post).filter_map(|alert| {
                    let label = |name: &str| Some(alert["labels"][name].as_str()?.to_owned());
                    let rule = label("rule_id")?;
                    rule.starts_with("QUEUE-").then_some((rule, label("process_pid")?))
                }));
            }
            seen = posts.len();
            (told.len() as u32 >= copies * RULES).then_some(())
        });
        ensure!(all.is_some(), "the receiver heard of {} of {} alerts", told.len(), copies * RULES);
        let took = start.elapsed().as_secs_f64();
        let most = mib(process::most_resident(agent.pid()))?;
        agent.stop()?;
        let count = copies * RULES;
        let single = |name: String, unit, value, asked| row::Row::single(name, unit, vec![value], asked);
        rows.push(single(
            format!("memory, {count} alerts queued for 2 instances"),
            "MiB",
            queued,
            "at most 64",
        ));
        rows.push(single(format!("most memory until {count} were delivered"), "MiB", most, "at most 64"));
        rows.push(single("most memory while it started".to_owned(), "MiB", at_start, ""));
        rows.push(single(
            format!("{count} alerts to the receiver, both instances' start included"),
            "s",
            took,
            "",
        ));
        Ok(())
    }

    /// One page of `/metrics` after the other, each over a connection of its own, of an agent with many assets; and what such an
    /// agent takes.
    pub(super) fn scrape(&self, rows: &mut Vec<row::Row>) -> Result<()> {
        let (config, _models) = self.assets_of(64 * KIB, "scrape", SCRAPED_ASSETS, self.config()?)?;
        let agent = self.agent(config)?;
        let (mut all, mut longest) = (Vec::new(), 0);
        for _ in 0..self.sizes.scrapes {
            let start = Instant::now();
            let (status, page) = agent.get("/metrics")?;
            all.push(start.elapsed().as_secs_f64() * 1e3);
            ensure!(status == 200 && !page.is_empty(), "/metrics answered {status}");
            longest = longest.max(page.len());
        }
        let resident = process::resident(agent.pid()).context("the agent is gone")?;
        agent.stop()?;
        let mut single = |name: &str, unit, value, asked| {
            rows.push(row::Row::single(format!("{name}, {SCRAPED_ASSETS} assets"), unit, vec![value], asked));
        };
        single("page of metrics", "MiB", longest as f64 / MIB as f64, "");
        single("memory after the scrapes", "MiB", resident as f64 / MIB as f64, "");
        row::percentiles(rows, &format!("scrape, {SCRAPED_ASSETS} assets"), "ms", all, "under 20")
    }

    /// From the start of the process to its `ready`; each time with nothing that an earlier agent left.
    pub(super) fn start(&self, rows: &mut Vec<row::Row>) -> Result<()> {
        let dir = self.many()?;
        let mut all = Vec::new();
        for run in 0..self.sizes.starts {
            eprintln!("start, run {} of {}", run + 1, self.sizes.starts);
            let config = self.config()?.asset("many", &dir);
            let start = Instant::now();
            let agent: Agent = self.agent(config)?;
            all.push(start.elapsed().as_secs_f64());
            agent.stop()?;
        }
        let files = self.sizes.registered;
        row::percentiles(rows, &format!("start to ready, {files} files"), "s", all, "under 2")
    }

    /// A pair that notifies at once, and the agent's sink to it.
    fn pair(&self, folder: &str, hook: &Hook, interval: &str) -> Result<([Instance; 2], Value)> {
        let dir = self.lab.scratch().join(format!("alertmanager-{folder}"));
        fs::create_dir(&dir).context("cannot make a folder for Alertmanager")?;
        let instances = pair_that_waits(&dir, hook.addr, "0s", interval)?;
        let urls: Vec<String> = instances.iter().map(Instance::url).collect();
        Ok((instances, json!({"type": "alertmanager", "urls": urls})))
    }
}

fn has_alertmanager() -> Result<()> {
    ensure!(shell::which(PROGRAM).is_some(), "needs {PROGRAM}: install Debian's package of that name");
    Ok(())
}

/// A rule for each number, which all match every copied file.
fn pack_of(rules: u32) -> String {
    let mut text = String::from("schema: 1\npack: queue\nrequires_agent: \">=0.1\"\nrules:\n");
    for number in 1..=rules {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  - id: QUEUE-{number:04}
    revision: 1
    title: Asset copied in a bench
    severity: medium
    status: experimental
    mode: alert
    owner: bench
    runbook: docs/runbooks/WB-0001.md
    tags: [attack.t1052.001]
    on: flow
    match: {{sink.kind: file, sink.control: uncontrolled}}
    aggregate:
      sum: bound
      by: [asset.name, process.pid]
      over: 1h
      tiers:
        - {{gte: 1KiB, severity: medium}}
    group_by: [asset.name, process.pid]
"
        );
    }
    text
}

fn alerts_of(post: &Post) -> impl Iterator<Item = &Value> {
    post.body["alerts"].as_array().into_iter().flatten().filter(|alert| alert["status"] == "firing")
}

fn says(post: &Post, asset: &str) -> bool {
    alerts_of(post).any(|alert| alert["labels"]["asset"] == asset && alert["labels"]["rule_id"] == "WB-0001")
}
