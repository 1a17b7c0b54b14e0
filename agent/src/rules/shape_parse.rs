//! Reads what a rule measures: `aggregate`, `budgets`, `sequence`, and the lines of each. It must not know what else a rule
//! has.

use std::time::Duration;

use super::{
    field::Field,
    match_parse::{MatchReader, Purpose},
    rule_parse::severity,
    shape::{Measure, Sequence, Step, Sum, Tier},
    window::MAX_DISTINCT,
};
use crate::{
    event::RecordKind,
    yaml::{Check, Fields, Node, format_duration},
};

/// Longest window of an aggregate. A longer one is a budget, which is kept over a restart.
const MAX_AGGREGATE: Duration = Duration::from_secs(24 * 3600);
/// Longest window of a budget.
const MAX_BUDGET: Duration = Duration::from_secs(92 * 24 * 3600);
const MIN_OVER: Duration = Duration::from_secs(1);
/// Most budgets of one rule, and most steps of one sequence.
const MAX_PARTS: usize = 16;

pub(super) fn aggregate<'n>(reader: &mut MatchReader<'_, 'n>, node: &'n Node) -> Option<Sum> {
    let mut fields = reader.check.fields(node, "`aggregate`")?;
    let measure = measure(reader, &mut fields);
    let by = by(reader, &mut fields, measure);
    let over = over(
        reader.check,
        &mut fields,
        MAX_AGGREGATE,
        "write at most 24h, or `budgets`, which outlive a restart",
    );
    let tiers = fields.need(reader.check, "tiers").and_then(|node| tiers(reader.check, node, measure));
    fields.done(reader.check);
    Some(Sum { name: None, measure: measure?, by: by?, over: over?, tiers: tiers? })
}

/// Several windows with one line each, or with tiers as an aggregate has them.
pub(super) fn budgets<'n>(reader: &mut MatchReader<'_, 'n>, node: &'n Node) -> Option<Vec<Sum>> {
    let items = reader.check.list(node, "`budgets`")?;
    if let Some(first_too_many) = items.get(MAX_PARTS) {
        let message = format!("more than {MAX_PARTS} budgets in one rule");
        reader.check.error(first_too_many.span, message, "write a second rule");
    }
    let mut budgets: Vec<Option<Sum>> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for item in items {
        let Some(mut fields) = reader.check.fields(item, "the budget") else {
            budgets.push(None);
            continue;
        };
        let name = fields.need(reader.check, "name").and_then(|node| {
            let name = reader.check.text(node, "the budget's `name`")?;
            if names.contains(&name) {
                let message = format!("a second budget has the name `{name}`");
                reader.check.error(node.span, message, "give it a name of its own");
            }
            names.push(name);
            Some(name.to_owned())
        });
        let measure = measure(reader, &mut fields);
        let by = by(reader, &mut fields, measure);
        let over = over(reader.check, &mut fields, MAX_BUDGET, "write at most 92d");
        let lines = match fields.get("tiers") {
            Some(node) => tiers(reader.check, node, measure),
            None => tier(reader.check, &mut fields, measure, "the budget").map(|tier| vec![tier]),
        };
        fields.done(reader.check);
        let sum = || Some(Sum { name: Some(name?), measure: measure?, by: by?, over: over?, tiers: lines? });
        budgets.push(sum());
    }
    budgets.into_iter().collect()
}

/// Steps in their order; every one has a `match`, and an `on` where it is not the rule's.
pub(super) fn sequence<'n>(reader: &mut MatchReader<'_, 'n>, node: &'n Node) -> Option<Sequence> {
    let mut fields = reader.check.fields(node, "`sequence`")?;
    let over = over(reader.check, &mut fields, MAX_AGGREGATE, "write at most 24h");
    let rule_on = reader.kinds[0];
    let by_node = fields.need(reader.check, "by");
    let steps_node = fields.need(reader.check, "steps");
    fields.done(reader.check);
    let items = reader.check.list(steps_node?, "`steps`")?;
    if !(2..=MAX_PARTS).contains(&items.len()) {
        let message = format!("a sequence of {} steps", items.len());
        reader.check.error(steps_node?.span, message, format!("write from 2 to {MAX_PARTS}"));
    }
    let kinds = RecordKind::ALL.map(|kind| (kind.as_str(), kind));
    let mut steps = Vec::new();
    for item in items {
        let Some(mut fields) = reader.check.fields(item, "the step") else { continue };
        let on = match fields.get("on") {
            Some(node) => reader.check.choice(node, "the step's `on`", &kinds),
            None => Some(rule_on),
        };
        let of_step = [on.unwrap_or(rule_on)];
        let mut step_reader = MatchReader { check: &mut *reader.check, lists: reader.lists, kinds: &of_step };
        let matcher = match fields.need(step_reader.check, "match") {
            Some(node) if on.is_some() => Some(step_reader.matcher(node, Purpose::Alert)),
            _ => None,
        };
        // What joins the steps must be known of each.
        if let Some(node) = by_node.filter(|_| on.is_some()) {
            let _ = field_list(&mut step_reader, node, "`by`");
        }
        fields.done(reader.check);
        if let (Some(on), Some(matcher)) = (on, matcher) {
            steps.push(Step { on, matcher });
        }
    }
    if steps.last().is_some_and(|last| last.on != rule_on) {
        let message = format!("the last step is not of the rule's kind `{}`", rule_on.as_str());
        reader.check.error(
            steps_node?.span,
            message,
            "the rule's `on` is the kind of the event that completes it",
        );
    }
    let by = field_list(reader, by_node?, "`by`");
    Some(Sequence { by: by?, over: over?, steps })
}

fn measure(reader: &mut MatchReader<'_, '_>, fields: &mut Fields<'_>) -> Option<Measure> {
    let said: Vec<_> =
        ["sum", "count", "distinct"].into_iter().filter_map(|key| Some((key, fields.get(key)?))).collect();
    let [(key, node)] = said.as_slice() else {
        let message = if said.is_empty() { "nothing is measured" } else { "more than one thing is measured" };
        let help = "write one of `sum: bound`, `count: events` and `distinct: FIELD`";
        reader.check.error(fields.span(), message, help);
        return None;
    };
    match *key {
        "sum" => sum(reader, node),
        "count" => reader.check.choice(node, "`count`", &[("events", ())]).map(|()| Measure::Count),
        _ => {
            let name = reader.check.text(node, "`distinct`");
            name.and_then(|name| reader.field(name, node.span)).map(Measure::Distinct)
        }
    }
}

fn sum(reader: &mut MatchReader<'_, '_>, node: &Node) -> Option<Measure> {
    let on = reader.kinds[0];
    let sum = match on {
        RecordKind::Flow => "bound",
        RecordKind::Take => "taken",
        RecordKind::Egress => "bytes",
        RecordKind::Act => {
            let message = "events of kind `act` have no bytes to sum";
            reader.check.error(
                node.span,
                message,
                "write `count: events`, or no `aggregate`: the rule then fires at once",
            );
            return None;
        }
    };
    let words = ["bound", "taken", "bytes"].map(|word| (word, word));
    let written = reader.check.choice(node, "`sum`", &words)?;
    if written != sum {
        let message = format!("events of kind `{}` have no `{written}`", on.as_str());
        reader.check.error(node.span, message, format!("write `{sum}`"));
        return None;
    }
    Some(Measure::Bytes(sum))
}

fn by<'n>(
    reader: &mut MatchReader<'_, 'n>,
    fields: &mut Fields<'n>,
    measure: Option<Measure>,
) -> Option<Vec<&'static Field>> {
    let node = fields.need(reader.check, "by")?;
    let by = field_list(reader, node, "`by`");
    let is_of_bytes = !matches!(measure, Some(Measure::Count | Measure::Distinct(_)));
    if is_of_bytes && by.as_ref().is_some_and(|by| by.iter().all(|field| field.name != "asset.name")) {
        let message = "`by` has no `asset.name`: bytes of several assets have no share in common";
        reader.check.error(node.span, message, "add `asset.name`");
    }
    by
}

fn over(check: &mut Check, fields: &mut Fields<'_>, most: Duration, remedy: &str) -> Option<Duration> {
    let node = fields.need(check, "over")?;
    let over = check.duration(node, "`over`")?;
    if over < MIN_OVER {
        check.error(node.span, format!("a window of {}", format_duration(over)), "write at least 1s");
        return None;
    }
    if over > most {
        check.error(node.span, format!("a window of {} is too long", format_duration(over)), remedy);
        return None;
    }
    Some(over)
}

pub(super) fn field_list<'n>(
    reader: &mut MatchReader<'_, 'n>,
    node: &'n Node,
    what: &str,
) -> Option<Vec<&'static Field>> {
    let mut list: Vec<&'static Field> = Vec::new();
    for item in reader.check.list(node, what)? {
        let Some(name) = reader.check.text(item, "the field") else { continue };
        let Some(field) = reader.field(name, item.span) else { continue };
        if list.iter().any(|known| known.name == field.name) {
            reader.check.error(item.span, format!("`{name}` is listed twice"), "remove it");
            continue;
        }
        list.push(field);
    }
    Some(list)
}

/// A finding speaks of one asset when its bytes are a share of one.
pub(super) fn check_group_by(check: &mut Check, node: &Node, list: &[&'static Field], sums: &[Sum]) {
    let is_of_bytes = sums.iter().any(|sum| matches!(sum.measure, Measure::Bytes(_)));
    if is_of_bytes && list.iter().all(|field| field.name != "asset.name") {
        let message = "`group_by` has no `asset.name`: a finding would mix the bytes of several assets";
        check.error(node.span, message, "add `asset.name`");
    }
}

fn tiers(check: &mut Check, node: &Node, measure: Option<Measure>) -> Option<Vec<Tier>> {
    let mut tiers: Vec<Tier> = Vec::new();
    for item in check.list(node, "`tiers`")? {
        let Some(mut fields) = check.fields(item, "the tier") else { continue };
        let span = fields.span();
        let tier = tier(check, &mut fields, measure, "the tier");
        fields.done(check);
        let Some(tier) = tier else { continue };
        if tiers.last().is_some_and(|last| last.severity >= tier.severity) {
            let message = format!("the severity `{}` does not rise", tier.severity.as_str());
            check.error(
                span,
                message,
                "order the tiers from the lowest severity to the highest, one of each",
            );
        }
        tiers.push(tier);
    }
    Some(tiers)
}

/// One line and its severity. A line of bytes is a size or a share of the asset, any other a number.
fn tier(check: &mut Check, fields: &mut Fields<'_>, measure: Option<Measure>, what: &str) -> Option<Tier> {
    let least = fields.get("gte");
    let share = fields.get("gte_share");
    let floor = fields.get("floor");
    let severity = fields.need(check, "severity").and_then(|node| severity(check, node));
    let span = fields.span();
    let line = match (least, share, floor, measure) {
        (Some(least), None, None, Some(Measure::Count | Measure::Distinct(_))) => {
            let most =
                if matches!(measure, Some(Measure::Distinct(_))) { MAX_DISTINCT as u64 } else { u64::MAX };
            check.number(least, "`gte`", 1, most).map(|least| (least, 0.0))
        }
        (_, _, _, Some(Measure::Count | Measure::Distinct(_))) => {
            check.error(span, format!("{what} has not one line"), "write a number, such as `gte: 100`");
            None
        }
        (Some(least), None, None, _) => check.size(least, "`gte`").map(|least| (least, 0.0)),
        (None, Some(share), None, _) => share_of_asset(check, share).map(|share| (0, share)),
        (None, Some(share), Some(floor), _) => {
            let (share, floor) = (share_of_asset(check, share), check.size(floor, "`floor`"));
            floor.zip(share)
        }
        _ => {
            let help = "write `gte: 16MiB`, or `gte_share: 0.01` with or without `floor: 16MiB`";
            check.error(span, format!("{what} has not one line"), help);
            None
        }
    };
    let ((least, share), severity) = (line?, severity?);
    if least == 0 && share == 0.0 {
        check.error(span, "a line at zero", "write the bytes from which on it alerts");
    }
    Some(Tier { least, share, severity })
}

fn share_of_asset(check: &mut Check, node: &Node) -> Option<f64> {
    let text = check.text(node, "`gte_share`")?;
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Some(share),
        _ => {
            check.error(
                node.span,
                format!("`gte_share` is `{text}`"),
                "write a share above 0 and up to 1, such as `0.01`",
            );
            None
        }
    }
}
