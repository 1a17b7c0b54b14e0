//! A pair of real Alertmanagers, up and down; and one that is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::lab::{
    alertmanager::{Alertmanager, Instance, PROGRAM, pair},
    hook::{Hook, Manner},
    metrics, wait_for,
};

use super::{ARRIVES_WITHIN, HOLD, Labels, expect_ok, labels, reached, short_rule, steal, wait_for_line};
use crate::world::{Scene, World};

/// An agent is told of two instances that notify one hook; nothing runs yet but the hook.
fn scene(w: &mut World) -> (Scene<'_>, Hook, [Instance; 2]) {
    scene_that_holds(w, HOLD)
}

fn scene_that_holds<'w>(w: &'w mut World, hold: &str) -> (Scene<'w>, Hook, [Instance; 2]) {
    World::needs(PROGRAM);
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let hook = expect_ok(Hook::start());
    let instances = expect_ok(pair(&scene.work, hook.addr));
    let urls: Vec<String> = instances.iter().map(Instance::url).collect();
    scene.config.sinks = vec![json!({"type": "alertmanager", "urls": urls, "resend": "2s", "hold": hold})];
    (scene, hook, instances)
}

/// What receivers were shown: for each alert its states in the order of arrival, repetitions left out.
fn shown(hook: &Hook) -> BTreeMap<Labels, Vec<String>> {
    let mut shown: BTreeMap<Labels, Vec<String>> = BTreeMap::new();
    for post in hook.posts() {
        for alert in post.body["alerts"].as_array().into_iter().flatten() {
            let states = shown.entry(labels(alert)).or_default();
            let state = alert["status"].as_str().unwrap_or_default();
            if states.last().is_none_or(|last| last != state) {
                states.push(state.to_owned());
            }
        }
    }
    shown
}

fn wait_shown(hook: &Hook, severity: &str, state: &str) {
    let arrived = wait_for(ARRIVES_WITHIN, || {
        shown(hook)
            .iter()
            .any(|((_, known, _), states)| {
                known == severity && states.last().is_some_and(|last| last == state)
            })
            .then_some(())
    });
    assert!(arrived.is_some(), "{severity} {state} did not arrive: {:#?}", shown(hook));
}

/// Everything that the log says was shown as firing and then as resolved, and nothing else was.
fn assert_complete(hook: &Hook, expected: &BTreeSet<Labels>) {
    let shown = shown(hook);
    assert_eq!(&shown.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (labels, states) in shown {
        assert_eq!(states, ["firing", "resolved"], "{labels:?}");
    }
}

fn held(alertmanager: &Alertmanager) -> BTreeSet<Labels> {
    expect_ok(alertmanager.alerts()).iter().map(labels).collect()
}

pub(super) fn pair_fires_escalates_resolves(w: &mut World) {
    let (mut scene, hook, instances) = scene(w);
    let running: Vec<Alertmanager> = instances.iter().map(|instance| expect_ok(instance.start())).collect();
    scene.start();
    steal(&scene, "a", 2);
    wait_shown(&hook, "medium", "firing");
    steal(&scene, "b", 6);
    wait_shown(&hook, "high", "firing");
    for one in &running {
        assert_eq!(held(one).len(), 2, "both instances were told");
    }
    wait_shown(&hook, "medium", "resolved");
    wait_shown(&hook, "high", "resolved");
    // The hook hears of it from Alertmanager, often before the agent has read the answer to its request, and the agent
    // shows in its metrics once a second what its sinks did.
    let mut read = || {
        let samples = expect_ok(scene.agent().metrics());
        ["weighbridge_sink_sent_total", "weighbridge_sink_backlog", "weighbridge_sink_failing"]
            .map(|name| metrics::sum(&samples, name, &[("sink", "alertmanager")]))
    };
    // Two severities, firing and resolved, at two instances: each once, and nothing waits.
    let expected = [8.0, 0.0, 0.0].map(Some);
    let settled = wait_for(ARRIVES_WITHIN, || (read() == expected).then_some(()));
    assert!(settled.is_some(), "sent, waiting and failing: {:?}, and not {expected:?}", read());
    let lines = scene.stop();
    assert_complete(&hook, &reached(&lines));
    // Every annotation points into the chain of the log.
    let chains: BTreeSet<String> = lines
        .iter()
        .map(|line| format!("{}:{}", line.number("/chain/seq").unwrap_or(0), line.text("/chain/hash")))
        .collect();
    for post in hook.posts() {
        for alert in post.body["alerts"].as_array().into_iter().flatten() {
            let chain = alert["annotations"]["chain"].as_str().unwrap_or_default();
            assert!(chains.contains(chain), "{chain} is not in the log");
        }
    }
}

pub(super) fn one_instance_down(w: &mut World) {
    let (mut scene, hook, [up, down]) = scene(w);
    let _up = expect_ok(up.start());
    scene.start();
    let start = Instant::now();
    steal(&scene, "a", 6);
    wait_shown(&hook, "high", "firing");
    assert!(start.elapsed() < Duration::from_secs(30), "the instance that is down stalls the other");
    let failing = wait_for(ARRIVES_WITHIN, || {
        let samples = expect_ok(scene.agent().metrics());
        let sink = [("sink", "alertmanager")];
        (metrics::sum(&samples, "weighbridge_sink_failing", &sink) == Some(1.0)
            && metrics::sum(&samples, "weighbridge_sink_backlog", &sink) > Some(0.0))
        .then_some(())
    });
    assert!(failing.is_some(), "the metrics do not say that one instance is down");
    let down = expect_ok(down.start());
    let told = wait_for(ARRIVES_WITHIN, || {
        held(&down).iter().any(|(_, severity, _)| severity == "high").then_some(())
    });
    assert!(told.is_some(), "the instance that came back was not told");
    wait_shown(&hook, "high", "resolved");
    let expected = reached(&scene.stop());
    assert!(shown(&hook).keys().all(|labels| expected.contains(labels)), "{:?}", shown(&hook));
}

/// The finding opens, grows and ends, and the agent is killed and started again, while nobody listens.
pub(super) fn both_down_for_a_while(w: &mut World) {
    // An instance that is down is tried again within 15 s, each by itself. With a shorter hold the first one of the pair could have shown
    // the end before the second hears of the begin, and that one then shows both again.
    let (mut scene, hook, instances) = scene_that_holds(w, "20s");
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    // Both instances' spools have both severities.
    let kept = wait_for(ARRIVES_WITHIN, || {
        let samples = expect_ok(scene.agent().metrics());
        (metrics::sum(&samples, "weighbridge_sink_backlog", &[("sink", "alertmanager")]) == Some(4.0))
            .then_some(())
    });
    assert!(kept.is_some(), "the backlog is not 4");
    let lines = scene.kill();
    scene.start();
    let _running: Vec<Alertmanager> = instances.iter().map(|instance| expect_ok(instance.start())).collect();
    for severity in ["medium", "high"] {
        wait_shown(&hook, severity, "resolved");
    }
    scene.stop();
    assert_complete(&hook, &reached(&lines));
}

/// One that answers 500, redirects, hangs, trickles and never ends, and then is well: nothing waits for it, and what it
/// takes is everything, in order.
pub(super) fn lying_instance(w: &mut World) {
    let mut scene = w.prepare();
    short_rule(&mut scene);
    let liar = expect_ok(Hook::start());
    liar.next([
        Manner::Status(500),
        Manner::Redirect,
        Manner::Endless,
        Manner::Hang,
        Manner::Trickle,
        Manner::Status(404),
    ]);
    scene.config.sinks = vec![json!({
        "type": "alertmanager", "urls": [format!("http://{}", liar.addr)], "resend": "2s", "hold": HOLD
    })];
    scene.start();
    steal(&scene, "a", 2);
    wait_for_line(&mut scene, "medium");
    let start = Instant::now();
    steal(&scene, "b", 6);
    wait_for_line(&mut scene, "high");
    assert!(start.elapsed() < Duration::from_secs(5), "the log waits for a server that lies");
    // What fires ends in some minutes, what is resolved has ended.
    let is_resolved = |alert: &Value| {
        let ends = alert["endsAt"].as_str().and_then(|ends| ends.parse::<jiff::Timestamp>().ok());
        ends.expect("every alert has an end") <= jiff::Timestamp::now()
    };
    // An agent whose only instance lies for so long says that of itself too (WB-0010), in between.
    let is_of_the_theft = |(rule, ..): &Labels| rule == "TEST-0001";
    let resolved = liar.wait(Duration::from_secs(120), |posts| {
        let taken = posts.iter().filter(|post| post.manner == Manner::Status(200));
        let resolved: BTreeSet<Labels> = taken
            .flat_map(|post| post.body.as_array().into_iter().flatten())
            .filter(|alert| is_resolved(alert))
            .map(labels)
            .filter(is_of_the_theft)
            .collect();
        (resolved.len() == 2).then_some(())
    });
    assert!(resolved.is_some(), "not everything was resolved: {:#?}", liar.posts());
    let expected = reached(&scene.stop());
    let mut first = Vec::new();
    for post in liar.posts().iter().filter(|post| post.manner == Manner::Status(200)) {
        assert_eq!(post.path, "/api/v2/alerts");
        for alert in post.body.as_array().into_iter().flatten() {
            if !first.contains(&labels(alert)) {
                assert!(!is_resolved(alert) || first.contains(&labels(alert)));
                first.push(labels(alert));
            }
        }
    }
    assert_eq!(first.iter().cloned().collect::<BTreeSet<_>>(), expected);
    let theft = first.iter().filter(|labels| is_of_the_theft(labels));
    let severities: Vec<&str> = theft.map(|(_, severity, _)| severity.as_str()).collect();
    assert_eq!(severities, ["medium", "high"], "in the order in which they were reached");
    let bad = liar.posts().iter().filter(|post| post.manner != Manner::Status(200)).count();
    assert_eq!(bad, 6, "every lie was told");
}
