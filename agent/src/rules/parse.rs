//! Reads a file of rules and checks all of it. It must not know where files come from nor how rules are evaluated.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    field::Field,
    match_parse::{Lists, MatchReader, Purpose},
    rule::{Aggregate, Mode, Rule, RuleFacts, Severity, Status, Tier},
    testing::{self, RuleTest},
};
use crate::{
    event::RecordKind,
    yaml::{self, Check, Diagnostic, Fields, Node, format_duration, suggest},
};

/// Longest window of an aggregate. A longer one must outlive a restart, which is what `budgets` are for.
const MAX_OVER: Duration = Duration::from_secs(24 * 3600);
const MIN_OVER: Duration = Duration::from_secs(1);
/// Longest text of a title and the like.
const MAX_TEXT: usize = 256;

/// Reads one file of rules.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Vec<Rule>, Vec<Diagnostic>> {
    let (source, root) = yaml::parse(file, text)?;
    let mut check = Check::new(source);
    let rules = read_file(&mut check, &root).unwrap_or_default();
    if check.has_faults() { Err(check.into_faults()) } else { Ok(rules) }
}

fn read_file(check: &mut Check, root: &Node) -> Option<Vec<Rule>> {
    let mut fields = check.fields(root, "the rule file")?;
    if let Some(node) = fields.need(check, "schema") {
        let _ = check.choice(node, "`schema`", &[("1", 1)]);
    }
    if let Some(node) = fields.need(check, "pack") {
        let _ = short_text(check, node, "`pack`");
    }
    if let Some(node) = fields.get("requires_agent") {
        requires_agent(check, node);
    }
    let lists = fields.get("lists").map_or_else(Lists::new, |node| read_lists(check, node));
    fields.not_built(check, "overrides", "change the rule in a copy of its file");
    fields.not_built(check, "exceptions", "narrow the rule's `match` in a copy of its file");
    let rules = fields.need(check, "rules").and_then(|node| check.list(node, "`rules`"));
    fields.done(check);
    let rules: Vec<Rule> = rules?.iter().filter_map(|node| rule(check, &lists, node)).collect();
    Some(rules)
}

/// `>=0.1`, `>=0.1, <0.3`: what is left out of a version is zero.
fn requires_agent(check: &mut Check, node: &Node) {
    let Some(text) = check.text(node, "`requires_agent`") else { return };
    let ours = env!("CARGO_PKG_VERSION");
    for part in text.split(',').map(str::trim) {
        let digits = part.trim_start_matches(['<', '>', '=']);
        let operator = &part[..part.len() - digits.len()];
        let (Some(wanted), Some(have)) = (version(digits.trim()), version(ours)) else {
            check.error(node.span, format!("`{part}` is not a requirement"), "write it as `>=0.1`");
            return;
        };
        let is_met = match operator {
            ">=" => have >= wanted,
            ">" => have > wanted,
            "<" => have < wanted,
            "<=" => have <= wanted,
            "=" => have == wanted,
            _ => {
                check.error(node.span, format!("`{part}` has no comparison"), "write it as `>=0.1`");
                return;
            }
        };
        if !is_met {
            let message = format!("these rules need an agent {part}, and this one is {ours}");
            check.error(node.span, message, "install that agent or rules of this agent's age");
        }
    }
}

/// Major, minor and patch; a suffix such as `-rc.1` is not accepted.
fn version(text: &str) -> Option<[u32; 3]> {
    let mut version = [0; 3];
    let mut parts = text.split('.');
    for (at, number) in version.iter_mut().enumerate() {
        match parts.next() {
            Some(part) => *number = part.parse().ok()?,
            None if at > 0 => break,
            None => return None,
        }
    }
    parts.next().is_none().then_some(version)
}

fn read_lists<'n>(check: &mut Check, node: &'n Node) -> Lists<'n> {
    let mut lists = Lists::new();
    let yaml::Value::Map(entries) = &node.value else {
        check.error(node.span, "`lists` is not a map", "write `name: [value, value]`");
        return lists;
    };
    for entry in entries {
        let is_name = !entry.key.is_empty()
            && entry.key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name {
            let message = format!("`{}` is not a name for a list", entry.key);
            check.error(entry.key_span, message, "use lower-case letters, digits and `_`");
        }
        if let Some(items) = check.list(&entry.value, "the list") {
            for item in items {
                let _ = check.text(item, "the item");
            }
            lists.insert(&entry.key, items);
        }
    }
    lists
}

fn rule<'n>(check: &mut Check, lists: &Lists<'n>, node: &'n Node) -> Option<Rule> {
    let mut fields = check.fields(node, "the rule")?;
    let span = fields.get("id").map_or_else(|| fields.span(), |node| node.span);
    let facts = facts(check, &mut fields);
    let on = fields
        .need(check, "on")
        .and_then(|node| check.choice(node, "`on`", &RecordKind::ALL.map(|kind| (kind.as_str(), kind))));
    // The rest is checked even when `on` is wrong, as far as it can be.
    let mut reader = MatchReader { check, lists, on: on.unwrap_or(RecordKind::Flow) };
    let matcher = match fields.need(reader.check, "match") {
        Some(node) if on.is_some() => Some(reader.matcher(node, Purpose::Alert)),
        _ => None,
    };
    let shadow_if = match fields.get("shadow_if") {
        Some(node) if on.is_some() => Some(reader.matcher(node, Purpose::Silence)),
        _ => None,
    };
    fields.not_built(reader.check, "budgets", "write `aggregate` with a window of at most 24h");
    fields.not_built(reader.check, "sequence", "write `aggregate`");
    // Without one the rule fires at once.
    let aggregate_node = fields.get("aggregate");
    let aggregate = match aggregate_node {
        Some(node) if on.is_some() => aggregate(&mut reader, node).map(Some),
        Some(_) => None,
        None => Some(None),
    };
    let group_by = match fields.need(reader.check, "group_by") {
        Some(node) if on.is_some() => {
            group_by(&mut reader, node, aggregate.as_ref().and_then(Option::as_ref))
        }
        _ => None,
    };
    let tests_node = fields.get("tests");
    let tests = match tests_node {
        Some(node) => testing::read(reader.check, node),
        None => Some(Vec::new()),
    };
    fields.done(check);
    let (facts, tests) = (facts?, tests?);
    if facts.status == Status::Stable {
        check_stable(check, &facts, &tests, tests_node.map_or(span, |node| node.span));
    }
    Some(Rule {
        facts: Arc::new(facts),
        on: on?,
        matcher: matcher?,
        shadow_if,
        aggregate: aggregate?,
        group_by: group_by?,
        tests,
        source: check.source().clone(),
        span,
    })
}

fn facts(check: &mut Check, fields: &mut Fields<'_>) -> Option<RuleFacts> {
    let id = fields.need(check, "id").and_then(|node| {
        let id = check.text(node, "the rule's `id`")?;
        if !is_rule_id(id) {
            let help = "write two to six capital letters, `-` and four digits, such as `SITE-0001`";
            check.error(node.span, format!("`{id}` is not an id for a rule"), help);
            return None;
        }
        Some(id.to_owned())
    });
    let revision = fields
        .need(check, "revision")
        .and_then(|node| check.number(node, "the rule's `revision`", 1, u32::MAX.into()))
        .and_then(|revision| u32::try_from(revision).ok());
    let title = fields.need(check, "title").and_then(|node| short_text(check, node, "the rule's `title`"));
    let severity = fields.need(check, "severity").and_then(|node| severity(check, node));
    let status = fields.need(check, "status").and_then(|node| {
        check.choice(node, "the rule's `status`", &Status::ALL.map(|status| (status.as_str(), status)))
    });
    let mode = fields.need(check, "mode").and_then(|node| {
        check.choice(node, "the rule's `mode`", &Mode::ALL.map(|mode| (mode.as_str(), mode)))
    });
    let owner = fields.need(check, "owner").and_then(|node| short_text(check, node, "the rule's `owner`"));
    let runbook =
        fields.need(check, "runbook").and_then(|node| short_text(check, node, "the rule's `runbook`"));
    let tags = match fields.get("tags") {
        Some(node) => tags(check, node),
        None => Some(Vec::new()),
    };
    let suppress = fields.get("suppress").map(|node| check.duration(node, "the rule's `suppress`"));
    Some(RuleFacts {
        id: id?,
        revision: revision?,
        title: title?,
        severity: severity?,
        status: status?,
        mode: mode?,
        owner: owner?,
        runbook: runbook?,
        tags: tags?,
        suppress: match suppress {
            Some(duration) => Some(duration?),
            None => None,
        },
    })
}

pub(crate) fn severity(check: &mut Check, node: &Node) -> Option<Severity> {
    check.choice(node, "the severity", &Severity::ALL.map(|severity| (severity.as_str(), severity)))
}

/// `^[A-Z]{2,6}-[0-9]{4}$`
fn is_rule_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(letters, digits)| {
        (2..=6).contains(&letters.len())
            && letters.chars().all(|c| c.is_ascii_uppercase())
            && digits.len() == 4
            && digits.chars().all(|c| c.is_ascii_digit())
    })
}

fn short_text(check: &mut Check, node: &Node, what: &str) -> Option<String> {
    let text = check.text(node, what)?;
    if text.len() > MAX_TEXT || text.contains(char::is_control) {
        let help = format!("write one line of at most {MAX_TEXT} bytes");
        check.error(node.span, format!("{what} is too long or has control characters"), help);
        return None;
    }
    Some(text.to_owned())
}

fn tags(check: &mut Check, node: &Node) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    for item in check.list(node, "`tags`")? {
        let Some(tag) = check.text(item, "the tag") else { continue };
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
        let has_space =
            tag.split_once('.').is_some_and(|(space, name)| !space.is_empty() && !name.is_empty());
        if !has_space || tag.len() > MAX_TEXT || !tag.chars().all(is_allowed) {
            let help = "write it as `attack.t1052.001` or `cop.12.3b`, in lower case";
            check.error(item.span, format!("`{tag}` is not a tag"), help);
        }
        tags.push(tag.to_owned());
    }
    Some(tags)
}

fn aggregate<'n>(reader: &mut MatchReader<'_, 'n>, node: &'n Node) -> Option<Aggregate> {
    let mut fields = reader.check.fields(node, "`aggregate`")?;
    let sum = match reader.on {
        RecordKind::Flow => "bound",
        RecordKind::Take => "taken",
        RecordKind::Egress => "bytes",
        RecordKind::Act => {
            let message = "events of kind `act` have no bytes to sum";
            reader.check.error(node.span, message, "remove `aggregate`: the rule then fires at once");
            return None;
        }
    };
    fields.not_built(reader.check, "count", "write `sum`");
    fields.not_built(reader.check, "distinct", "write `sum`");
    let sums = ["bound", "taken", "bytes"].map(|word| (word, word == sum));
    if let Some(node) = fields.need(reader.check, "sum")
        && reader.check.choice(node, "`sum`", &sums) == Some(false)
    {
        let wrong = reader.check.text(node, "`sum`").unwrap_or_default();
        let message = format!("events of kind `{}` have no `{wrong}`", reader.on.as_str());
        reader.check.error(node.span, message, format!("write `{sum}`"));
    }
    let by = match fields.need(reader.check, "by") {
        Some(node) => {
            let by = field_list(reader, node, "`by`");
            if by.as_ref().is_some_and(|by| by.iter().all(|field| field.name != "asset.name")) {
                let message = "`by` has no `asset.name`: bytes of several assets have no share in common";
                reader.check.error(node.span, message, "add `asset.name`");
            }
            by
        }
        None => None,
    };
    let check = &mut *reader.check;
    let over = fields.need(check, "over").and_then(|node| {
        let over = check.duration(node, "`over`")?;
        if over < MIN_OVER {
            check.error(node.span, format!("a window of {}", format_duration(over)), "write at least 1s");
            return None;
        }
        if over > MAX_OVER {
            let message = format!("a window of {} is not built yet", format_duration(over));
            check.error(
                node.span,
                message,
                "write at most 24h: a longer one needs `budgets`, which outlive a restart",
            );
            return None;
        }
        Some(over)
    });
    let tiers = fields.need(check, "tiers").and_then(|node| tiers(check, node));
    fields.done(check);
    Some(Aggregate { by: by?, over: over?, tiers: tiers? })
}

fn field_list<'n>(
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

/// The identity of an alert is the group of its sum. Another one would make one alert out of several sums, and then no
/// number in it would be exact.
fn group_by<'n>(
    reader: &mut MatchReader<'_, 'n>,
    node: &'n Node,
    aggregate: Option<&Aggregate>,
) -> Option<Vec<&'static Field>> {
    let list = field_list(reader, node, "`group_by`")?;
    let names = |fields: &[&'static Field]| -> Vec<&'static str> {
        let mut names: Vec<_> = fields.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names
    };
    let Some(aggregate) = aggregate else { return Some(list) };
    if names(&list) != names(&aggregate.by) {
        let by: Vec<&str> = aggregate.by.iter().map(|field| field.name).collect();
        let message = "a `group_by` that differs from the aggregate's `by` is not built yet";
        reader.check.error(node.span, message, format!("write `[{}]`", by.join(", ")));
    }
    Some(aggregate.by.clone())
}

fn tiers(check: &mut Check, node: &Node) -> Option<Vec<Tier>> {
    let mut tiers: Vec<Tier> = Vec::new();
    for item in check.list(node, "`tiers`")? {
        let Some(mut fields) = check.fields(item, "the tier") else { continue };
        let bytes = fields.get("gte");
        let share = fields.get("gte_share");
        let floor = fields.get("floor");
        let severity = fields.need(check, "severity").and_then(|node| severity(check, node));
        let span = fields.span();
        fields.done(check);
        let line = match (bytes, share, floor) {
            (Some(bytes), None, None) => check.size(bytes, "`gte`").map(|bytes| (bytes, 0.0)),
            (None, Some(share), None) => share_of_asset(check, share).map(|share| (0, share)),
            (None, Some(share), Some(floor)) => {
                let (share, floor) = (share_of_asset(check, share), check.size(floor, "`floor`"));
                floor.zip(share)
            }
            _ => {
                let help = "write `gte: 16MiB`, or `gte_share: 0.01` with or without `floor: 16MiB`";
                check.error(span, "the tier has not one line", help);
                None
            }
        };
        let (Some((bytes, share)), Some(severity)) = (line, severity) else { continue };
        if bytes == 0 && share == 0.0 {
            check.error(span, "a line at zero", "write the bytes from which on it alerts");
        }
        if tiers.last().is_some_and(|last| last.severity >= severity) {
            let message = format!("the severity `{}` does not rise", severity.as_str());
            check.error(
                span,
                message,
                "order the tiers from the lowest severity to the highest, one of each",
            );
        }
        tiers.push(Tier { bytes, share, severity });
    }
    Some(tiers)
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

fn check_stable(check: &mut Check, facts: &RuleFacts, tests: &[RuleTest], at: yaml::Span) {
    let is_positive = |test: &RuleTest| test.expect.iter().any(|expected| expected.rule == facts.id);
    if !tests.iter().any(is_positive) {
        let message = format!("{} is stable and no test expects it to fire", facts.id);
        check.error(at, message, "add a test, or write `status: test`");
    }
    if tests.iter().all(is_positive) {
        let message = format!("{} is stable and no test expects it to stay silent", facts.id);
        check.error(at, message, "add a test with `expect: []`, or write `status: test`");
    }
}

/// Refuses ids that are used twice, in one file or in several, and tests that expect rules which are not in their file.
pub(crate) fn check_together(files: &[Vec<Rule>]) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<&str, &Rule> = BTreeMap::new();
    for rules in files {
        for rule in rules {
            if let Some(first) = seen.insert(&rule.facts.id, rule) {
                let message = format!("a second rule has the id {}", rule.facts.id);
                let place =
                    format!("{}:{}:{}", first.source.file.display(), first.span.line, first.span.column);
                let help =
                    format!("the first is at {place}: remove one of the two or give it an id of its own");
                faults.push(Diagnostic::at(&rule.source, rule.span, message).help(help));
            }
        }
        let known: Vec<&str> = rules.iter().map(|rule| rule.facts.id.as_str()).collect();
        for rule in rules {
            for expected in rule.tests.iter().flat_map(|test| &test.expect) {
                if !known.contains(&expected.rule.as_str()) {
                    let message = format!("no rule of this file has the id `{}`", expected.rule);
                    let help = suggest(&expected.rule, &known);
                    faults.push(Diagnostic::at(&rule.source, expected.span, message).help(help));
                }
            }
        }
    }
    faults
}
