//! Reads the tests inside rules. It must not know how they are run.

use std::{sync::Arc, time::Duration};

use super::{Expected, MAX_EVENTS, Repeated, RuleTest};
use crate::{
    event::{Act, Asset, BootNs, Control, HolderId, Process, Record, RecordKind, Sink, SinkKind},
    rules::{
        FIELDS,
        field::{Draft, FieldType, FieldValue, find},
        match_parse::{flag, number},
        rule::Mode,
        rule_parse::severity,
    },
    yaml::{Check, Entry, Fields, Node, Value, suggest},
};

/// Reads `tests:` of a rule.
pub(crate) fn read(check: &mut Check, node: &Node) -> Option<Vec<RuleTest>> {
    let items = check.list(node, "`tests`")?;
    Some(items.iter().filter_map(|item| test(check, item)).collect())
}

fn test(check: &mut Check, node: &Node) -> Option<RuleTest> {
    let mut fields = check.fields(node, "the test")?;
    let name_node = fields.need(check, "name");
    let name = name_node.and_then(|node| check.text(node, "the test's `name`")).unwrap_or("").to_owned();
    let span = name_node.map_or_else(|| fields.span(), |node| node.span);
    let mut events = Vec::new();
    if let Some(items) = fields.get("events").and_then(|node| check.list(node, "`events`")) {
        events.extend(items.iter().filter_map(|item| event(check, item, true)));
    }
    match fields.get("repeat") {
        Some(Node { value: Value::List(items), .. }) => {
            events.extend(items.iter().filter_map(|item| repeat(check, item)));
        }
        Some(node) => events.extend(repeat(check, node)),
        None => {}
    }
    let expect_node = fields.need(check, "expect");
    fields.done(check);
    if events.is_empty() {
        check.error(span, "the test has no events that can be run", "add `events` or `repeat`");
    }
    let total = events.iter().fold(0, |sum: u64, event| sum.saturating_add(event.times));
    if total > MAX_EVENTS {
        check.error(span, format!("the test has {total} events"), format!("use at most {MAX_EVENTS}"));
        return None;
    }
    let expect = match expect_node.map(|node| &node.value) {
        Some(Value::List(items)) => items.iter().filter_map(|item| expected(check, item)).collect(),
        Some(_) => {
            check.error(span, "`expect` is not a list", "write `[]` for silence, or what must be raised");
            return None;
        }
        None => return None,
    };
    Some(RuleTest { name, span, events, expect })
}

fn repeat(check: &mut Check, node: &Node) -> Option<Repeated> {
    let mut fields = check.fields(node, "`repeat`")?;
    let every = fields.need(check, "every").and_then(|node| check.duration(node, "`every`"));
    let times = fields.need(check, "times").and_then(|node| check.number(node, "`times`", 1, MAX_EVENTS));
    let record = fields.need(check, "event").and_then(|node| event(check, node, false));
    fields.done(check);
    Some(Repeated { every: every?, times: times?, ..record? })
}

/// `{at, bound | taken | egress | act: {…}, asset: {…}, sink: {…}, process: {…}, …}`: the parts are the fields of the
/// table, nested at their dots.
fn event(check: &mut Check, node: &Node, has_time: bool) -> Option<Repeated> {
    let mut fields = check.fields(node, "the event")?;
    let at = if has_time { need_time(check, &mut fields) } else { Some(Duration::ZERO) };
    let (kind, bytes) = kind_and_bytes(check, node, &mut fields)?;
    let mut draft = Draft::new();
    let mut is_right = true;
    let parts = ["asset", "sink", "process", "user", "cgroup", "container", "service", "act", "victim"];
    for part in parts {
        if let Some(node) = fields.get(part) {
            is_right &= event_part(check, node, part, kind, &mut draft);
        }
    }
    fields.done(check);
    if !is_right {
        return None;
    }
    let has_no_asset = draft.asset.name.is_empty() && draft.asset.bytes == 0;
    if kind == RecordKind::Act && has_no_asset {
        draft.asset = Asset::host();
    } else if draft.asset.name.is_empty() || draft.asset.bytes == 0 {
        let help = "add both: a share needs the size";
        check.error(node.span, "the event has no `asset.name` or no `asset.bytes`", help);
        return None;
    }
    let act = match (kind, draft.act) {
        (RecordKind::Act, Some(kind)) => Some(Act {
            kind,
            victim: draft.victim.as_ref().map(|victim| holder(victim.pid)),
            target: draft.act_target,
        }),
        (RecordKind::Act, None) => {
            check.error(node.span, "the event's act has no `kind`", "add it, such as `act: {kind: ptrace}`");
            return None;
        }
        _ => None,
    };
    let sink = match (draft.sink_kind, draft.sink_control) {
        (Some(kind), Some(control)) => Some(Arc::new(Sink { kind, control, ..draft.sink })),
        // What the host sends goes to peers; control is the only thing that can differ.
        (None, control) if kind == RecordKind::Egress => Some(Arc::new(Sink {
            kind: SinkKind::Peer,
            control: control.unwrap_or(Control::Uncontrolled),
            ..draft.sink
        })),
        // A flow whose sink was not resolved: every field of it is absent.
        (None, None) if draft.sink == Draft::new().sink => None,
        _ => {
            check.error(node.span, "the event's sink has no `kind` or no `control`", "add both");
            return None;
        }
    };
    let process = if kind == RecordKind::Egress { Process::host() } else { draft.process };
    Some(Repeated {
        at: at?,
        every: Duration::ZERO,
        times: 1,
        record: Record {
            kind,
            at: BootNs(0),
            asset: Arc::new(draft.asset),
            holder: holder(process.pid),
            process: Arc::new(process),
            sink,
            bytes,
            act,
            victim: draft.victim.map(Arc::new),
            listed: draft.listed,
            lineage: Arc::new(Vec::new()),
        },
    })
}

const fn holder(tgid: u32) -> HolderId {
    HolderId { tgid, exec: 0, start: BootNs(0) }
}

/// The key with the amount says what kind of event it is. An act has none of its own: `taken` is there what the process
/// that was reached into had taken.
fn kind_and_bytes(check: &mut Check, node: &Node, fields: &mut Fields<'_>) -> Option<(RecordKind, u64)> {
    let is_act = fields.get("act").is_some();
    let mut amounts = Vec::new();
    for (key, what, kind) in [
        ("bound", "`bound`", RecordKind::Flow),
        ("taken", "`taken`", if is_act { RecordKind::Act } else { RecordKind::Take }),
        ("egress", "`egress`", RecordKind::Egress),
    ] {
        if let Some(node) = fields.get(key) {
            amounts.push((kind, check.size(node, what)));
        }
    }
    match (amounts.as_slice(), is_act) {
        ([(kind, bytes)], false) | ([(kind @ RecordKind::Act, bytes)], true) => Some((*kind, (*bytes)?)),
        ([], true) => Some((RecordKind::Act, 0)),
        _ => {
            let help = "write `bound` for a flow, `taken` for a take, `egress` for what the host sent, or `act: {kind: …}`";
            check.error(node.span, "the event has not one amount", help);
            None
        }
    }
}

fn need_time(check: &mut Check, fields: &mut Fields<'_>) -> Option<Duration> {
    fields.need(check, "at").and_then(|node| check.duration(node, "`at`"))
}

fn event_part(check: &mut Check, node: &Node, part: &str, kind: RecordKind, draft: &mut Draft) -> bool {
    let Value::Map(entries) = &node.value else {
        check.error(node.span, format!("`{part}` is not a map"), "write `{field: value}`");
        return false;
    };
    let mut is_right = true;
    for entry in entries {
        is_right &= event_field(check, entry, part, kind, draft).is_some();
    }
    is_right
}

fn event_field(
    check: &mut Check,
    entry: &Entry,
    part: &str,
    kind: RecordKind,
    draft: &mut Draft,
) -> Option<()> {
    let name = format!("{part}.{}", entry.key);
    if let Value::Map(_) = &entry.value.value
        && FIELDS.iter().any(|field| is_below(field.name, &name))
    {
        return event_part(check, &entry.value, &name, kind, draft).then_some(());
    }
    let Some((field, set)) = find(&name).and_then(|field| Some((field, field.set?))) else {
        let of_part = FIELDS.iter().filter(|field| field.set.is_some());
        let known: Vec<&str> =
            of_part.filter_map(|field| field.name.strip_prefix(part)?.strip_prefix('.')).collect();
        check.error(entry.key_span, format!("an event has no `{name}`"), suggest(&entry.key, &known));
        return None;
    };
    if !field.on.contains(&kind) {
        let message = format!("events of kind `{}` have no `{name}`", kind.as_str());
        check.error(entry.key_span, message, "remove it");
        return None;
    }
    let text = check.text(&entry.value, "the value")?;
    let value = match field.kind {
        FieldType::Word(words) if !words.contains(&text) => {
            Err((format!("`{name}` is never `{text}`"), suggest(text, words)))
        }
        FieldType::Text | FieldType::Word(_) | FieldType::Address => Ok(FieldValue::Text(text)),
        FieldType::Number | FieldType::Size => number(field, text).map(FieldValue::Number),
        FieldType::Flag => flag(field, text).map(FieldValue::Flag),
    };
    value
        .map(|value| set(draft, value))
        .map_err(|(message, help)| check.error(entry.value.span, message, help))
        .ok()
}

/// Whether `name` is `part` and more, such as `victim.user.id` of `victim.user`.
fn is_below(name: &str, part: &str) -> bool {
    name.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'))
}

fn expected(check: &mut Check, node: &Node) -> Option<Expected> {
    let mut fields = check.fields(node, "the expected finding")?;
    let rule_node = fields.need(check, "rule");
    let rule = rule_node.and_then(|node| check.text(node, "`rule`"));
    let span = rule_node.map_or_else(|| fields.span(), |node| node.span);
    let severity = fields.need(check, "severity").and_then(|node| severity(check, node));
    let count = match fields.get("count") {
        Some(node) => check.number(node, "`count`", 1, MAX_EVENTS),
        None => Some(1),
    };
    let exception = fields.get("exception").map(|node| check.text(node, "`exception`").map(str::to_owned));
    let mode = match fields.get("mode") {
        Some(node) => check.choice(node, "`mode`", &[("alert", Mode::Alert), ("shadow", Mode::Shadow)]),
        // What is excepted is written down and sent nowhere.
        None => Some(if exception.is_some() { Mode::Shadow } else { Mode::Alert }),
    };
    let between = fields.get("between").map(|node| between(check, node));
    fields.done(check);
    Some(Expected {
        rule: rule?.to_owned(),
        span,
        severity: severity?,
        mode: mode?,
        exception: match exception {
            Some(exception) => Some(exception?),
            None => None,
        },
        count: usize::try_from(count?).ok()?,
        between: match between {
            Some(between) => Some(between?),
            None => None,
        },
    })
}

fn between(check: &mut Check, node: &Node) -> Option<(Duration, Duration)> {
    let items = check.list(node, "`between`")?;
    let [from, to] = items else {
        check.error(node.span, "`between` has not two times", "write `[13d, 14d]`");
        return None;
    };
    let (from, to) = (check.duration(from, "the time")?, check.duration(to, "the time")?);
    if from > to {
        check.error(node.span, "`between` ends before it begins", "write the earlier time first");
        return None;
    }
    Some((from, to))
}
