//! What a site says of rules that are not its own: overrides, which replace a value, and exceptions, which keep a match from
//! being sent. Reads them and applies overrides. It must not know how rules are evaluated.

use std::sync::Arc;

use jiff::{ToSpan as _, civil::Date};

use super::{
    exception::{Exception, ExceptionFacts},
    match_parse::{Lists, MatchReader, Purpose},
    matcher::{Matcher, Trust},
    rule_parse::short_text,
    testing::{self, RuleTest},
};
use crate::{
    event::RecordKind,
    yaml::{Check, Diagnostic, Entry, Fields, Node, Source, Span, Value, suggest},
};

/// Longest time for which an override or an exception may be written.
const MOST_DAYS: i32 = 366;
/// Shortest reason that says anything.
const LEAST_REASON: usize = 10;
/// Keys of a rule that an override cannot replace: with another it would be another rule.
const FIXED: [&str; 5] = ["id", "on", "revision", "tests", "sequence"];

/// The values of a rule that a site replaces.
#[derive(Debug)]
pub(super) struct Override<'n> {
    pub(super) rule: &'n str,
    pub(super) rule_span: Span,
    /// Each a path in the rule and its new value.
    pub(super) set: &'n [Entry],
    pub(super) facts: OverrideFacts,
    pub(super) tests: Arc<[RuleTest]>,
    pub(super) source: Arc<Source>,
    pub(super) span: Span,
}

/// What is shown of an override.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OverrideFacts {
    pub rule: String,
    /// The paths that it replaces.
    pub set: Vec<String>,
    pub owner: String,
    pub reason: String,
    /// The last day on which it holds, in UTC.
    #[serde(serialize_with = "super::exception::display")]
    pub expires: Date,
}

pub(super) fn read_override<'n>(check: &mut Check, node: &'n Node, today: Date) -> Option<Override<'n>> {
    let mut fields = check.fields(node, "the override")?;
    let span = fields.span();
    let rule_node = fields.need(check, "rule");
    let rule = rule_node.and_then(|node| check.text(node, "the override's `rule`"));
    let set = fields.need(check, "set").and_then(|node| match &node.value {
        Value::Map(entries) if !entries.is_empty() => Some(entries.as_slice()),
        _ => {
            check.error(node.span, "`set` replaces nothing", "write `set: {aggregate.tiers.0.gte: 64MiB}`");
            None
        }
    });
    let (owner, reason, expires) = owned(check, &mut fields, "the override", today);
    let tests = fields.get("tests").map(|node| testing::read(check, node));
    fields.done(check);
    let (rule, set) = (rule?, set?);
    let facts = OverrideFacts {
        rule: rule.to_owned(),
        set: set.iter().map(|entry| entry.key.clone()).collect(),
        owner: owner?,
        reason: reason?,
        expires: expires?,
    };
    Some(Override {
        rule,
        rule_span: rule_node.map_or(span, |node| node.span),
        set,
        facts,
        tests: tests.unwrap_or(Some(Vec::new()))?.into(),
        source: check.source().clone(),
        span,
    })
}

/// `owner`, `reason` and `expires`, without which nobody could take it back.
fn owned(
    check: &mut Check,
    fields: &mut Fields<'_>,
    what: &str,
    today: Date,
) -> (Option<String>, Option<String>, Option<Date>) {
    let owner =
        fields.need(check, "owner").and_then(|node| short_text(check, node, &format!("{what}'s `owner`")));
    let reason = fields.need(check, "reason").and_then(|node| {
        let reason = short_text(check, node, &format!("{what}'s `reason`"))?;
        if reason.chars().count() < LEAST_REASON {
            let message = format!("{what}'s `reason` has fewer than {LEAST_REASON} characters");
            check.error(node.span, message, "say why, so that whoever reads it in a year understands it");
        }
        Some(reason)
    });
    let expires = fields.need(check, "expires").and_then(|node| {
        let text = check.text(node, &format!("{what}'s `expires`"))?;
        let Ok(date) = text.parse::<Date>() else {
            check.error(node.span, format!("`{text}` is not a date"), "write it as `2027-03-01`");
            return None;
        };
        let latest = today.checked_add(MOST_DAYS.days()).unwrap_or(Date::MAX);
        if date > latest {
            let message = format!("{what} expires on {date}, more than {MOST_DAYS} days from now");
            check.error(node.span, message, format!("write {latest} or earlier, and renew it then"));
        }
        if date < today {
            let message = format!("{what} expired on {date} and is not in force");
            let fault = Diagnostic::at(check.source(), node.span, message);
            check.push(fault.warning().help("remove it, or renew it with a new date and its reason"));
        }
        Some(date)
    });
    (owner, reason, expires)
}

/// Puts the values of an override into a copy of a rule.
pub(super) fn apply(check: &mut Check, rule: &mut Node, set: &[Entry]) {
    for entry in set {
        let first = entry.key.split('.').next().unwrap_or_default();
        if FIXED.contains(&first) {
            let help = "write a rule of your own, and turn this one off with `mode: off`";
            check.error(entry.key_span, format!("`{first}` cannot be overridden"), help);
            continue;
        }
        // The one key that a rule may lack and a site often wants.
        if entry.key == "suppress"
            && let Value::Map(entries) = &mut rule.value
            && entries.iter().all(|known| known.key != "suppress")
        {
            entries.push(entry.clone());
            continue;
        }
        match place(rule, &entry.key) {
            Ok(node) => node.value = entry.value.value.clone(),
            Err((missing, known)) => {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let message = format!("the rule has no `{}`: nothing stands at `{missing}`", entry.key);
                check.error(entry.key_span, message, suggest(&missing, &known));
            }
        }
    }
}

/// The node at a path such as `aggregate.tiers.0.gte`. Keys may have dots of their own (`match.sink.kind`), so the longest
/// that fits is taken; items of a list are numbered, and those with a `name` can be named (`budgets.hour.floor`).
///
/// # Errors
/// The part that is not there, and what is instead.
fn place<'n>(node: &'n mut Node, path: &str) -> Result<&'n mut Node, (String, Vec<String>)> {
    let known = match &node.value {
        Value::Map(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
        Value::List(items) => items
            .iter()
            .enumerate()
            .map(|(at, item)| named(item).map_or_else(|| at.to_string(), str::to_owned))
            .collect(),
        Value::Scalar { .. } => Vec::new(),
    };
    let rest_after = |key: &str| match path.strip_prefix(key)? {
        "" => Some(""),
        rest => rest.strip_prefix('.'),
    };
    let missing = || (path.split('.').next().unwrap_or_default().to_owned(), known.clone());
    let found = match &mut node.value {
        Value::Map(entries) => entries
            .iter_mut()
            .filter_map(|entry| rest_after(&entry.key).map(|rest| (&mut entry.value, rest)))
            .min_by_key(|(_, rest)| rest.len()),
        Value::List(items) => items.iter_mut().enumerate().find_map(|(at, item)| {
            let rest = rest_after(&at.to_string()).or_else(|| rest_after(named(item)?))?;
            Some((item, rest))
        }),
        Value::Scalar { .. } => None,
    };
    match found {
        Some((node, "")) => Ok(node),
        Some((node, rest)) => place(node, rest),
        None => Err(missing()),
    }
}

/// The `name` of an item.
fn named(item: &Node) -> Option<&str> {
    let Value::Map(entries) = &item.value else { return None };
    entries.iter().find(|entry| entry.key == "name").and_then(|entry| match &entry.value.value {
        Value::Scalar { text, .. } => Some(text.as_str()),
        _ => None,
    })
}

/// Reads an exception. `kind_of` gives the event kind of a rule; `None` for one that does not exist, which is reported
/// unless `lenient`.
pub(super) fn read_exception<'n>(
    check: &mut Check,
    lists: &Lists<'n>,
    node: &'n Node,
    today: Date,
    known: &[(&str, RecordKind)],
    lenient: bool,
) -> Option<Exception> {
    let mut fields = check.fields(node, "the exception")?;
    let id_node = fields.need(check, "id");
    let span = id_node.map_or_else(|| fields.span(), |node| node.span);
    let id = id_node.and_then(|node| short_text(check, node, "the exception's `id`"));
    let mut rules = Vec::new();
    let mut kinds = Vec::new();
    if let Some(items) =
        fields.need(check, "rules").and_then(|node| check.list(node, "the exception's `rules`"))
    {
        for item in items {
            let Some(rule) = check.text(item, "the rule's id") else { continue };
            match known.iter().find(|(id, _)| *id == rule) {
                Some((_, kind)) => kinds.push(*kind),
                None if lenient => {}
                None => unknown_rule(check, item.span, rule, known),
            }
            rules.push(rule.to_owned());
        }
    }
    let match_node = fields.need(check, "match");
    // What a rule of one kind cannot know is absent there, so the exception never holds for it.
    let all = RecordKind::ALL;
    let mut reader = MatchReader { check, lists, kinds: if kinds.is_empty() { &all } else { &kinds } };
    let matcher = match_node.map(|node| (reader.matcher(node, Purpose::Silence), node.span));
    if let Some((matcher, span)) = &matcher {
        check_trust(check, matcher, *span);
        check_kinds(check, matcher, *span, &rules, known);
    }
    let (owner, reason, expires) = owned(check, &mut fields, "the exception", today);
    let ticket = fields.get("ticket").map(|node| short_text(check, node, "the exception's `ticket`"));
    let tests = fields.get("tests").map(|node| testing::read(check, node));
    fields.done(check);
    let facts = ExceptionFacts {
        id: id?,
        rules,
        owner: owner?,
        reason: reason?,
        expires: expires?,
        ticket: match ticket {
            Some(ticket) => Some(ticket?),
            None => None,
        },
    };
    Some(Exception {
        facts: Arc::new(facts),
        matcher: matcher?.0,
        written: match_node?.clone(),
        tests: tests.unwrap_or(Some(Vec::new()))?.into(),
        source: check.source().clone(),
        span,
    })
}

pub(super) fn unknown_rule(check: &mut Check, at: Span, rule: &str, known: &[(&str, RecordKind)]) {
    let known: Vec<&str> = known.iter().map(|(id, _)| *id).collect();
    check.error(at, format!("no rule has the id `{rule}`"), suggest_id(rule, &known));
}

/// The remedy for an id that no rule has. Often the files are a site's own, and the pack that they speak of was not given.
pub(crate) fn suggest_id(id: &str, known: &[&str]) -> String {
    let front = id.split('-').next().unwrap_or_default();
    let family: Vec<&str> =
        known.iter().copied().filter(|one| one.split('-').next() == Some(front)).collect();
    if family.is_empty() {
        return format!("give the file or directory too that has the rules {front}-…, or correct the id");
    }
    suggest(id, &family)
}

/// What is exempted must be told apart by something that a thief cannot simply claim.
fn check_trust(check: &mut Check, matcher: &Matcher, at: Span) {
    let (message, help) = match matcher.trust() {
        Trust::Nothing => {
            // An empty match was reported already.
            if !matcher.is_empty() {
                let message = "the exception says only what must not hold";
                check.error(at, message, "say who or what is exempted");
            }
            return;
        }
        Trust::Name => {
            let message =
                "the exception rests on the name of a user or a process alone, which anybody can take";
            let help = "add `process.executable_sha256`, `service.unit` or the sink's device or address";
            check.error(at, message, help);
            return;
        }
        Trust::Broad => (
            "the exception names neither who nor where to",
            "add `process.executable_sha256`, `service.unit`, or the sink's device or address",
        ),
        Trust::Path => (
            "the exception rests on a path or a user alone: whoever can write there, or become that user, is exempted too",
            "add `process.executable_sha256`, or where the bytes go",
        ),
        Trust::Fact => return,
    };
    check.push(Diagnostic::at(check.source(), at, message).warning().help(help));
}

/// Says of which rules an exception can never hold.
fn check_kinds(
    check: &mut Check,
    matcher: &Matcher,
    at: Span,
    rules: &[String],
    known: &[(&str, RecordKind)],
) {
    for rule in rules {
        let Some((_, kind)) = known.iter().find(|(id, _)| id == rule) else { continue };
        if let Some(field) = matcher.never_on(*kind) {
            let message = format!(
                "the exception never holds for {rule}: events of kind `{}` have no `{field}`",
                kind.as_str()
            );
            let help = format!("write an exception of its own for {rule}, or remove it from `rules`");
            check.push(Diagnostic::at(check.source(), at, message).warning().help(help));
        }
    }
}
