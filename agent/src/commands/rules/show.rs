//! `rules list`, `show`, `explain`, `fields` and `coverage`: rules for people, and the same as JSON for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    super::{OK, Output, print},
    table::{self, Cell, mode_code, paint, plain, severity_code},
};
use crate::{
    alerts::printable,
    event::RecordKind,
    rules::{Exception, FIELDS, Mode, Rule, RuleSet, Severity, explain::kind_words, reference},
    status::Snapshot,
    yaml::format_duration,
};

/// `live`: what the running agent says of itself.
pub(super) fn list(set: &RuleSet, live: Option<&Snapshot>, output: Output, colour: bool) -> u8 {
    let seconds = |rule: &Rule| {
        let mut known = live?.rule_seconds.iter();
        known.find(|(id, _)| *id == rule.facts.id).map(|(_, seconds)| *seconds)
    };
    if let Some(live) = live.filter(|live| live.rules_digest != set.digest()) {
        eprintln!("warning: the agent runs another set of rules, {}", printable(&live.rules_digest));
    }
    if output == Output::Json {
        let mut rules: Vec<Value> = set.rules().iter().map(|rule| rule_json(rule)).collect();
        if live.is_some() {
            for (value, rule) in rules.iter_mut().zip(set.rules()) {
                value["seconds"] = json!(seconds(rule));
            }
        }
        let exceptions: Vec<Value> = set.exceptions().iter().map(|one| exception_json(set, one)).collect();
        let overrides: Vec<Value> = set
            .overrides()
            .iter()
            .map(|one| json!({"override": one, "in_force": set.holds(one.expires), "days_left": set.days_left(one.expires)}))
            .collect();
        let report = json!({"schema": 1, "digest": set.digest(), "packs": set.packs(), "rules": rules,
            "exceptions": exceptions, "overrides": overrides});
        print(&format!("{report}\n"));
        return OK;
    }
    let rows: Vec<Vec<Cell>> = set
        .rules()
        .iter()
        .map(|rule| {
            let (fires, silent) = rule.test_counts();
            let facts = &rule.facts;
            let took = live.map(|_| seconds(rule).map_or_else(String::new, |took| format!("{took:.3} s")));
            let first = vec![
                plain(&facts.id),
                (facts.mode.as_str().to_owned(), mode_code(facts.mode)),
                (highest(rule).as_str().to_owned(), severity_code(highest(rule))),
                plain(rule.on.as_str()),
                plain(format!("{fires}+{silent}")),
                plain(rule.exceptions.len().to_string()),
            ];
            first.into_iter().chain(took.map(plain)).chain([plain(&facts.title)]).collect()
        })
        .collect();
    let cost = live.map(|_| "took");
    let header: Vec<&str> = ["id", "mode", "up to", "on", "tests", "exceptions"]
        .into_iter()
        .chain(cost)
        .chain(["title"])
        .collect();
    print(&table::render(&header, &rows, colour));
    let left = |expires| match set.days_left(expires) {
        _ if !set.holds(expires) => ("expired".to_owned(), "31"),
        days @ 0..=14 => (format!("{days} days"), "33"),
        days => (format!("{days} days"), "0"),
    };
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for one in set.exceptions() {
        let facts = &one.facts;
        rows.push(vec![
            plain(&facts.id),
            plain(facts.rules.join(" ")),
            left(facts.expires),
            plain(&facts.owner),
            plain(&facts.reason),
        ]);
    }
    for one in set.overrides() {
        let name = format!("override {}", one.set.join(" "));
        rows.push(vec![
            plain(name),
            plain(&one.rule),
            left(one.expires),
            plain(&one.owner),
            plain(&one.reason),
        ]);
    }
    if !rows.is_empty() {
        print("\n");
        print(&table::render(&["exception", "rules", "left", "owner", "reason"], &rows, colour));
    }
    print(&format!("\n{} rules, digest {}\n", set.rules().len(), set.digest()));
    OK
}

pub(super) fn show(rule: &Rule, output: Output) -> u8 {
    if output == Output::Json {
        let report = json!({"schema": 1, "rule": rule_json(rule), "values": rule.paths()});
        print(&format!("{report}\n"));
    } else {
        print(&rule.yaml());
    }
    OK
}

pub(super) fn explain(set: &RuleSet, rule: &Rule, output: Output, colour: bool) -> u8 {
    let facts = &rule.facts;
    if output == Output::Json {
        let mut report = rule_json(rule);
        report["conditions"] = json!(rule.conditions());
        report["shadow_if"] = json!(rule.shadow_conditions());
        let exceptions: Vec<Value> = rule.exceptions.iter().map(|one| exception_json(set, one)).collect();
        report["exceptions"] = json!(exceptions);
        print(&format!("{}\n", json!({"schema": 1, "rule": report})));
        return OK;
    }
    let head = |text: &str| paint(colour, "1", text);
    let mut out = format!("{}  {}\n", head(&facts.id), facts.title);
    out += &format!(
        "{}, {}, revision {}, owned by {}\n\n",
        paint(colour, mode_code(facts.mode), facts.mode.as_str()),
        facts.status.as_str(),
        facts.revision,
        facts.owner
    );
    out += &format!("{} {}, and all of this holds:\n", head("Looks when"), kind_words(rule.on));
    out += &block(&rule.conditions());
    out += &format!("\n{}\n", head("Fires at"));
    out += &block(&rule.lines());
    out += &format!("\n{} {}\n", head("One finding for each"), rule.identity().join(", "));
    if let Some(suppress) = facts.suppress {
        out += &format!(
            "  It stays open for at least {} after it was told, so that the same is not told again; a higher severity is.\n",
            format_duration(suppress)
        );
    }
    let shadow = rule.shadow_conditions();
    if facts.mode == Mode::Shadow {
        out += &format!("\n{}: it is written down and sent nowhere.\n", head("Shadow"));
    } else if !shadow.is_empty() {
        out += &format!("\n{} (written down and sent nowhere) while:\n{}", head("Shadow"), block(&shadow));
    }
    for exception in &rule.exceptions {
        let one = &exception.facts;
        out += &format!(
            "\n{} {} until {} ({} days left), owned by {}: {}\n{}",
            head("Except"),
            one.id,
            one.expires,
            set.days_left(one.expires),
            one.owner,
            one.reason,
            block(&exception.conditions())
        );
    }
    for one in set.overrides().iter().filter(|one| one.rule == facts.id && set.holds(one.expires)) {
        out += &format!(
            "\n{} {} until {}, by {}: {}\n",
            head("Overridden"),
            one.set.join(", "),
            one.expires,
            one.owner,
            one.reason
        );
    }
    let (fires, silent) = rule.test_counts();
    out += &format!("\n{} {fires} that expect it to fire, {silent} that expect silence\n", head("Tests"));
    out += &format!("{} {}\n", head("Runbook"), facts.runbook);
    if !facts.tags.is_empty() {
        out += &format!("{} {}\n", head("Tags"), facts.tags.join(" "));
    }
    print(&out);
    OK
}

pub(super) fn fields(on: Option<RecordKind>, output: Output, colour: bool) -> u8 {
    let shown = FIELDS.iter().filter(|field| on.is_none_or(|kind| field.on.contains(&kind)));
    if output == Output::Json {
        let fields: Vec<Value> = shown
            .map(|field| {
                let values = match field.kind {
                    crate::rules::FieldType::Word(words) => Some(words),
                    _ => None,
                };
                json!({"name": field.name, "type": field.kind.as_str().split(' ').next_back(), "values": values,
                    "kinds": reference::kinds(field), "doc": field.doc})
            })
            .collect();
        print(&format!("{}\n", json!({"schema": 1, "fields": fields})));
        return OK;
    }
    let rows: Vec<Vec<Cell>> = shown
        .map(|field| {
            vec![
                (field.name.to_owned(), "1"),
                plain(field.kind.as_str().split(' ').next_back().unwrap_or_default()),
                plain(reference::kinds(field).join(" ")),
                plain(field.doc),
            ]
        })
        .collect();
    print(&table::render(&["field", "type", "kinds", "meaning"], &rows, colour));
    OK
}

/// Measures of the Code of Practice that rules are for: one that none serves is shown as such. That a team handles alerts
/// (12.2g) is served by every rule.
const MEASURES: [&str; 3] = ["cop.12.2f", "cop.12.3a", "cop.12.3b"];

/// Rules that are on, by what they cover.
struct Covered<'a> {
    /// `event`, or `tag`.
    of: &'static str,
    what: &'a str,
    rules: Vec<&'a Rule>,
}

impl Covered<'_> {
    fn ids(&self) -> Vec<&str> {
        self.rules.iter().map(|rule| rule.facts.id.as_str()).collect()
    }

    /// What the most that one of its rules does is.
    fn mode(&self) -> &'static str {
        if self.rules.is_empty() {
            "none"
        } else if self.rules.iter().any(|rule| rule.facts.mode == Mode::Alert) {
            "alert"
        } else {
            "shadow"
        }
    }

    /// (those that must fire, those that must be silent).
    fn tests(&self) -> (usize, usize) {
        let counts = self.rules.iter().map(|rule| rule.test_counts());
        counts.fold((0, 0), |sum, (fires, silent)| (sum.0 + fires, sum.1 + silent))
    }
}

/// Each kind of event, then each tag of a rule and each measure.
fn covered(set: &RuleSet) -> Vec<Covered<'_>> {
    let rules = || set.rules().iter().filter(|rule| rule.facts.mode != Mode::Off);
    let mut by_tag: BTreeMap<&str, Vec<&Rule>> = MEASURES.map(|measure| (measure, Vec::new())).into();
    for rule in rules() {
        for tag in &rule.facts.tags {
            by_tag.entry(tag).or_default().push(&**rule);
        }
    }
    let of_kind = |kind: RecordKind| Covered {
        of: "event",
        what: kind.as_str(),
        rules: rules().filter(|rule| rule.on == kind).map(|rule| &**rule).collect(),
    };
    let tags = by_tag.into_iter().map(|(what, rules)| Covered { of: "tag", what, rules });
    RecordKind::ALL.map(of_kind).into_iter().chain(tags).collect()
}

pub(super) fn coverage(set: &RuleSet, output: Output, colour: bool) -> u8 {
    let covered = covered(set);
    if output == Output::Json {
        let part = |of| {
            let rows = covered.iter().filter(move |one| one.of == of).map(|one| {
                let (fires, silent) = one.tests();
                json!({one.of: one.what, "rules": one.ids(), "alerts": one.mode() == "alert", "tests": {"fire": fires, "silent": silent}})
            });
            rows.collect::<Vec<Value>>()
        };
        print(&format!("{}\n", json!({"schema": 1, "events": part("event"), "tags": part("tag")})));
        return OK;
    }
    let rows: Vec<Vec<Cell>> = covered
        .iter()
        .map(|one| {
            let (fires, silent) = one.tests();
            let colour = match one.mode() {
                "alert" => "32",
                "shadow" => "33",
                _ => "31",
            };
            let mode = (one.mode().to_owned(), colour);
            vec![
                plain(one.of),
                plain(one.what),
                mode,
                plain(format!("{fires}+{silent}")),
                plain(one.ids().join(" ")),
            ]
        })
        .collect();
    print(&table::render(&["of", "what", "mode", "tests", "rules"], &rows, colour));
    OK
}

fn rule_json(rule: &Rule) -> Value {
    let (fires, silent) = rule.test_counts();
    let exceptions: Vec<&str> = rule.exceptions.iter().map(|one| one.facts.id.as_str()).collect();
    let mut value = serde_json::to_value(&*rule.facts).unwrap_or_default();
    value["on"] = json!(rule.on.as_str());
    value["lines"] = json!(rule.lines());
    value["group_by"] = json!(rule.identity());
    value["suppress"] = json!(rule.facts.suppress.map(format_duration));
    value["exceptions"] = json!(exceptions);
    value["tests"] = json!({"fire": fires, "silent": silent});
    value
}

fn exception_json(set: &RuleSet, exception: &Exception) -> Value {
    let expires = exception.facts.expires;
    json!({"exception": *exception.facts, "conditions": exception.conditions(), "in_force": set.holds(expires),
        "days_left": set.days_left(expires)})
}

fn highest(rule: &Rule) -> Severity {
    rule.highest_severity()
}

fn block(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}
