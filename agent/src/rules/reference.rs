//! What can be said about rules without reading one: the reference of fields and the JSON Schema for editors, both made from
//! the table of fields. It must not know how either is printed.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{
    field::{Field, FieldType},
    match_parse::modifiers_of,
    rule::{Mode, Severity, Status},
    table::FIELDS,
};
use crate::event::RecordKind;

/// The page docs/fields.md: every field that rules can speak of.
#[must_use]
pub fn fields_markdown() -> String {
    let mut page = String::from(
        "# Fields of rules\n\n\
         Made from the table of fields by `weighbridge rules fields --markdown`; a test fails when this page is another one.\n\n\
         Events are of four kinds, which `on:` chooses from: `flow` (a bound grew), `take` (a holder took bytes), `act` (something \
         was done that matters by itself) and `egress` (the host as a whole sent bytes to an address).\n\n\
         A field that is absent makes a positive test false. A negated one (`not`, `not_in`, `not_cidr`) is then true in a rule's \
         `match` and false in an exception's: what is not known alerts, and exempts nobody.\n\n\
         | field | type | kinds | meaning |\n|---|---|---|---|\n",
    );
    for field in &FIELDS {
        // Writing into a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            field.name,
            type_words(field).replace('|', "\\|"),
            kinds(field).join(", "),
            field.doc.replace('|', "\\|")
        );
    }
    page.push_str("\n## Modifiers\n\nWritten after the field: `sink.path|startswith: /media`. Without one a value must be equal; a list is «one of these».\n\n");
    page.push_str("| type | modifiers |\n|---|---|\n");
    let types = [
        FieldType::Text,
        FieldType::Word(&[]),
        FieldType::Number,
        FieldType::Size,
        FieldType::Flag,
        FieldType::Address,
    ];
    for kind in types {
        let words: Vec<String> = modifiers_of(kind).map(|word| format!("`{word}`")).collect();
        let _ = writeln!(
            page,
            "| {} | {} |",
            kind.as_str().split(' ').next_back().unwrap_or_default(),
            words.join(" ")
        );
    }
    page
}

/// The type of a field in words, with its values where there are few.
#[must_use]
pub fn type_words(field: &Field) -> String {
    match field.kind {
        FieldType::Word(words) => words.join(" "),
        kind => kind.as_str().split(' ').next_back().unwrap_or_default().to_owned(),
    }
}

/// The words of the event kinds that have a field.
#[must_use]
pub fn kinds(field: &Field) -> Vec<&'static str> {
    field.on.iter().map(|kind| kind.as_str()).collect()
}

/// The JSON Schema of a file of rules, for editors. What it accepts can still be refused by `rules lint`, which knows more.
#[must_use]
pub fn json_schema() -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let day = json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"});
    let size = json!({"type": "string", "pattern": "^[0-9]+(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB)$"});
    let duration = json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"});
    let severity = json!({"enum": Severity::ALL.map(Severity::as_str)});
    let kind = json!({"enum": RecordKind::ALL.map(RecordKind::as_str)});
    let field = json!({"enum": FIELDS.iter().map(|field| field.name).collect::<Vec<_>>()});
    let fields = json!({"type": "array", "items": {"$ref": "#/$defs/field"}, "minItems": 1});
    let list = |of: &str| json!({"type": "array", "minItems": 1, "items": {"$ref": format!("#/$defs/{of}")}});
    let line = json!({
        "gte": {"anyOf": [{"$ref": "#/$defs/size"}, {"type": "integer", "minimum": 1}]},
        "gte_share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "floor": {"$ref": "#/$defs/size"},
        "severity": {"$ref": "#/$defs/severity"},
    });
    let measure = json!({
        "sum": {"enum": ["bound", "taken", "bytes"]},
        "count": {"const": "events"},
        "distinct": {"$ref": "#/$defs/field"},
        "by": {"$ref": "#/$defs/fields"},
        "over": {"$ref": "#/$defs/duration"},
        "tiers": list("tier"),
    });
    let owned = json!({
        "owner": text,
        "reason": {"type": "string", "minLength": 10},
        "expires": day,
        "tests": list("test"),
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Weighbridge rules, version 1",
        "type": "object",
        "required": ["schema", "pack"],
        "additionalProperties": false,
        "properties": {
            "schema": {"const": 1},
            "pack": text,
            "requires_agent": text,
            "lists": {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}},
            "rules": list("rule"),
            "overrides": list("override"),
            "exceptions": list("exception"),
        },
        "$defs": {
            "size": size,
            "duration": duration,
            "severity": severity,
            "field": field,
            "fields": fields,
            "tier": object(&line, &["severity"]),
            "match": match_schema(),
            "aggregate": object(&measure, &["by", "over", "tiers"]),
            "budget": object(&merged(&[&measure, &line, &json!({"name": text})]), &["name", "by", "over"]),
            "sequence": object(&json!({
                "by": {"$ref": "#/$defs/fields"},
                "over": {"$ref": "#/$defs/duration"},
                "steps": list("step"),
            }), &["by", "over", "steps"]),
            "step": object(&json!({"on": kind, "match": {"$ref": "#/$defs/match"}}), &["match"]),
            "rule": object(&json!({
                "id": {"type": "string", "pattern": "^[A-Z]{2,6}-[0-9]{4}$"},
                "revision": {"type": "integer", "minimum": 1},
                "title": text,
                "severity": {"$ref": "#/$defs/severity"},
                "status": {"enum": Status::ALL.map(Status::as_str)},
                "mode": {"enum": Mode::ALL.map(Mode::as_str)},
                "owner": text,
                "runbook": text,
                "tags": {"type": "array", "items": {"type": "string"}},
                "on": kind,
                "match": {"$ref": "#/$defs/match"},
                "shadow_if": {"$ref": "#/$defs/match"},
                "aggregate": {"$ref": "#/$defs/aggregate"},
                "budgets": list("budget"),
                "sequence": {"$ref": "#/$defs/sequence"},
                "group_by": {"$ref": "#/$defs/fields"},
                "suppress": {"$ref": "#/$defs/duration"},
                "tests": list("test"),
            }), &["id", "revision", "title", "severity", "status", "mode", "owner", "runbook", "on", "group_by"]),
            "test": {"type": "object", "required": ["name", "expect"]},
            "override": object(&merged(&[&owned, &json!({
                "rule": text,
                "set": {"type": "object", "minProperties": 1},
            })]), &["rule", "set", "owner", "reason", "expires"]),
            "exception": object(&merged(&[&owned, &json!({
                "id": text,
                "rules": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                "match": {"$ref": "#/$defs/match"},
                "ticket": text,
            })]), &["id", "rules", "match", "owner", "reason", "expires"]),
        },
    })
}

fn object(properties: &Value, required: &[&str]) -> Value {
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
}

fn merged(parts: &[&Value]) -> Value {
    let entries = parts.iter().filter_map(|part| part.as_object()).flatten();
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Every field with every modifier that it takes, so that an editor can complete them.
fn match_schema() -> Value {
    let mut properties = Map::new();
    for word in ["any", "all", "none"] {
        properties.insert(
            word.to_owned(),
            json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/match"}}),
        );
    }
    for field in &FIELDS {
        let value = value_schema(field.kind);
        properties.insert(field.name.to_owned(), described(&value, field));
        for word in modifiers_of(field.kind) {
            let value = match word {
                "exists" => json!({"type": "boolean"}),
                "gt" | "gte" | "lt" | "lte" => one_value(field.kind),
                "contains" | "startswith" | "endswith" | "glob" | "re" | "cidr" | "not_cidr" => {
                    value_schema(FieldType::Text)
                }
                _ => value.clone(),
            };
            properties.insert(format!("{}|{word}", field.name), described(&value, field));
        }
    }
    json!({"type": "object", "minProperties": 1, "additionalProperties": false, "properties": properties})
}

fn described(value: &Value, field: &Field) -> Value {
    merged(&[value, &json!({"description": field.doc})])
}

fn one_value(kind: FieldType) -> Value {
    match kind {
        FieldType::Text | FieldType::Address => json!({"type": ["string", "number", "boolean"]}),
        // A name of a list stands for its values.
        FieldType::Word(words) => json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": "^\\$"}]}),
        FieldType::Number => {
            json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^\\$"}]})
        }
        FieldType::Size => {
            json!({"anyOf": [{"$ref": "#/$defs/size"}, {"type": "string", "pattern": "^\\$"}]})
        }
        FieldType::Flag => json!({"type": "boolean"}),
    }
}

fn value_schema(kind: FieldType) -> Value {
    let one = one_value(kind);
    json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{RuleSet, fixtures::TODAY};

    #[test]
    fn the_page_of_fields_is_the_table() {
        let page = std::fs::read_to_string("../docs/fields.md").unwrap_or_default();
        assert!(
            page == fields_markdown(),
            "docs/fields.md is not what the table says: run `cargo xtask docs`"
        );
    }

    #[test]
    fn the_schema_file_is_the_schema() {
        let file = std::fs::read_to_string("../docs/rules.schema.json").unwrap_or_default();
        let file: Value = serde_json::from_str(&file).unwrap_or_default();
        assert!(
            file == json_schema(),
            "docs/rules.schema.json is not what the table says: run `cargo xtask docs`"
        );
    }

    /// What the reference says of modifiers is what rules can be written with.
    #[test]
    fn every_modifier_of_the_reference_is_accepted_and_no_other() {
        let all = [
            "not",
            "in",
            "not_in",
            "contains",
            "startswith",
            "endswith",
            "glob",
            "re",
            "cidr",
            "not_cidr",
            "gt",
            "gte",
            "lt",
            "lte",
            "exists",
        ];
        for field in FIELDS.iter().filter(|field| field.on.contains(&RecordKind::Flow)) {
            for modifier in all {
                let value = match (modifier, field.kind) {
                    ("exists", _) | (_, FieldType::Flag) => "true",
                    ("cidr" | "not_cidr", _) => "10.0.0.0/8",
                    (_, FieldType::Address) => "10.0.0.1",
                    (_, FieldType::Size) => "1MiB",
                    (_, FieldType::Word(words)) => words[0],
                    _ => "1",
                };
                let text = format!(
                    "schema: 1\npack: t\nrules:\n  - {{id: TEST-0001, revision: 1, title: t, severity: low, status: test, mode: alert, \
                     owner: o, runbook: r, on: flow, match: {{'{}|{modifier}': {value}}}, group_by: [asset.name]}}\n",
                    field.name
                );
                let accepted = RuleSet::parse(&[("t".into(), text)], TODAY).is_ok();
                assert_eq!(
                    accepted,
                    modifiers_of(field.kind).any(|word| word == modifier),
                    "{}|{modifier}",
                    field.name
                );
            }
        }
    }
}
