//! Reads one rule and checks all of it. It must not know files, nor what other rules there are.

use std::sync::Arc;

use super::{
    match_parse::{Lists, MatchReader, Purpose},
    matcher::Matcher,
    rule::{Mode, Rule, RuleFacts, Severity, Status},
    shape::Sum,
    shape_parse::{self, field_list},
    testing::{self, RuleTest},
};
use crate::{
    event::RecordKind,
    yaml::{self, Check, Fields, Node},
};

/// Longest text of a title and the like.
const MAX_TEXT: usize = 256;

pub(super) fn rule<'n>(check: &mut Check, lists: &Lists<'n>, node: &'n Node) -> Option<Rule> {
    let mut fields = check.fields(node, "the rule")?;
    let span = fields.get("id").map_or_else(|| fields.span(), |node| node.span);
    let facts = facts(check, &mut fields);
    let kinds = RecordKind::ALL.map(|kind| (kind.as_str(), kind));
    let on = fields.need(check, "on").and_then(|node| check.choice(node, "`on`", &kinds));
    // The rest is checked even when `on` is wrong, as far as it can be.
    let kinds = [on.unwrap_or(RecordKind::Flow)];
    let mut reader = MatchReader { check, lists, kinds: &kinds };
    let sequence_node = fields.get("sequence");
    // The steps of a sequence say what must match; a match beside them must hold for each.
    let match_node =
        if sequence_node.is_some() { fields.get("match") } else { fields.need(reader.check, "match") };
    let matcher = match match_node {
        Some(node) if on.is_some() => Some(reader.matcher(node, Purpose::Alert)),
        None if sequence_node.is_some() => Some(Matcher::default()),
        _ => None,
    };
    let shadow_if = match fields.get("shadow_if") {
        Some(node) if on.is_some() => Some(reader.matcher(node, Purpose::Silence)),
        _ => None,
    };
    let (aggregate, budgets) = (fields.get("aggregate"), fields.get("budgets"));
    let shapes = [("aggregate", aggregate), ("budgets", budgets), ("sequence", sequence_node)];
    let written: Vec<_> = shapes.into_iter().filter_map(|(key, node)| Some((key, node?))).collect();
    if let [(first, _), others @ ..] = written.as_slice() {
        for (other, node) in others {
            let message = format!("the rule has `{other}` beside `{first}`");
            reader.check.error(node.span, message, "write one of `aggregate`, `budgets` and `sequence`");
        }
    }
    let measured = match (aggregate, budgets) {
        _ if on.is_none() => None,
        (Some(node), _) => shape_parse::aggregate(&mut reader, node).map(|sum| vec![sum]),
        (None, Some(node)) => shape_parse::budgets(&mut reader, node),
        // Without one the rule fires at once.
        (None, None) => Some(Vec::new()),
    };
    let sequence = match (sequence_node, on) {
        (Some(node), Some(_)) => shape_parse::sequence(&mut reader, node).map(Some),
        (Some(_), None) => None,
        (None, _) => Some(None),
    };
    let group_by = match fields.need(reader.check, "group_by") {
        Some(node) if on.is_some() => {
            let list = field_list(&mut reader, node, "`group_by`");
            if let (Some(list), Some(measured)) = (&list, &measured) {
                shape_parse::check_group_by(reader.check, node, list, measured);
            }
            list
        }
        _ => None,
    };
    let tests_node = fields.get("tests");
    let tests = match tests_node {
        Some(node) => testing::read(reader.check, node),
        None => Some(Vec::new()),
    };
    fields.done(check);
    let (facts, tests, group_by) = (facts?, tests?, group_by?);
    if facts.status == Status::Stable {
        check_stable(check, &facts, &tests, tests_node.map_or(span, |node| node.span));
    }
    let mut sums = measured?;
    if sums.is_empty() {
        sums.push(Sum::at_once(group_by.clone(), facts.suppress, facts.severity));
    }
    Some(Rule {
        facts: Arc::new(facts),
        on: on?,
        matcher: Arc::new(matcher?),
        shadow_if: shadow_if.map(Arc::new),
        sums: sums.into(),
        sequence: sequence?.map(Arc::new),
        group_by,
        exceptions: Vec::new(),
        tests: tests.into(),
        written: Arc::new(node.clone()),
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

pub(super) fn short_text(check: &mut Check, node: &Node, what: &str) -> Option<String> {
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
