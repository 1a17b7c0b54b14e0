//! Checks a value against a JSON Schema of the few keywords that ours use. A keyword that it does not know is a fault: nothing
//! may look checked that is not. The agent's unit tests have this file too; it must not know what is checked.

use serde_json::{Map, Value};

/// Everything that is wrong with `value`, each with its place (a JSON pointer).
#[must_use]
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, schema, value, "", &mut faults);
    faults
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        faults.push(format!("{at}: the schema is no object"));
        return;
    };
    for (keyword, wanted) in keywords {
        let good = match keyword.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "additionalProperties" => true,
            "$ref" => {
                let to = wanted.as_str().and_then(|to| to.strip_prefix('#')).and_then(|to| root.pointer(to));
                match to {
                    Some(to) => check(root, to, value, at, faults),
                    None => faults.push(format!("{at}: {wanted} leads nowhere")),
                }
                true
            }
            "type" => wanted.as_str().is_some_and(|wanted| is_of_type(wanted, value)),
            "const" => value == wanted,
            "enum" => wanted.as_array().is_some_and(|wanted| wanted.contains(value)),
            "minimum" => value.as_f64().zip(wanted.as_f64()).is_some_and(|(value, least)| value >= least),
            "maximum" => value.as_f64().zip(wanted.as_f64()).is_some_and(|(value, most)| value <= most),
            "minLength" => length(value) >= wanted.as_u64(),
            "maxLength" => {
                length(value).is_some_and(|value| wanted.as_u64().is_some_and(|most| value <= most))
            }
            "minItems" => value.as_array().map(|items| items.len() as u64) >= wanted.as_u64(),
            "required" => wanted.as_array().is_some_and(|names| {
                names.iter().all(|name| name.as_str().is_some_and(|name| value.get(name).is_some()))
            }),
            "properties" => {
                properties(root, keywords, wanted, value, at, faults);
                true
            }
            "items" => {
                for (nth, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}/{nth}"), faults);
                }
                true
            }
            "allOf" => {
                let all = wanted.as_array().into_iter().flatten();
                all.for_each(|one| check(root, one, value, at, faults));
                true
            }
            "anyOf" => wanted.as_array().into_iter().flatten().any(|one| {
                let mut inner = Vec::new();
                check(root, one, value, at, &mut inner);
                inner.is_empty()
            }),
            unknown => {
                faults.push(format!("{at}: the schema has the keyword {unknown}, which is not checked"));
                true
            }
        };
        if !good {
            faults.push(format!("{at}: not {keyword} {wanted}"));
        }
    }
}

fn properties(
    root: &Value,
    keywords: &Map<String, Value>,
    known: &Value,
    value: &Value,
    at: &str,
    faults: &mut Vec<String>,
) {
    let is_closed = keywords.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, inner) in value.as_object().into_iter().flatten() {
        match known.get(name) {
            Some(schema) => check(root, schema, inner, &format!("{at}/{name}"), faults),
            None if is_closed => faults.push(format!("{at}/{name}: unknown")),
            None => {}
        }
    }
}

fn is_of_type(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}

/// In characters, as the specification counts.
fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::faults;

    #[test]
    fn every_keyword_finds_what_is_wrong() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {
                "a": {"$ref": "#/$defs/small"}, "b": {"type": "array", "minItems": 1, "items": {"const": 1}},
                "c": {"type": "string", "minLength": 2, "maxLength": 3}, "d": {"enum": [1, "x"]},
                "e": {"anyOf": [{"required": ["f"]}, {"required": ["g"]}]}
            },
            "allOf": [{"properties": {"d": {"enum": ["x"]}}}],
            "$defs": {"small": {"type": "integer", "minimum": 1, "maximum": 3}}
        });
        let good = json!({"a": 2, "b": [1], "c": "éé", "d": "x", "e": {"g": 1}});
        assert_eq!(faults(&schema, &good), [""; 0]);
        let bad = [
            (json!([]), 2),
            (json!({}), 1),
            (json!({"a": 0}), 1),
            (json!({"a": 4}), 1),
            (json!({"a": 1.5}), 1),
            (json!({"a": 1, "h": 1}), 1),
            (json!({"a": 1, "b": []}), 1),
            (json!({"a": 1, "b": [1, 2]}), 1),
            (json!({"a": 1, "c": "x"}), 1),
            (json!({"a": 1, "c": "long"}), 1),
            (json!({"a": 1, "d": 2}), 2),
            (json!({"a": 1, "d": 1}), 1),
            (json!({"a": 1, "e": {}}), 1),
        ];
        for (value, count) in bad {
            let found = faults(&schema, &value);
            assert_eq!(found.len(), count, "{value}: {found:?}");
        }
        assert_eq!(faults(&json!({"pattern": "x"}), &json!("x")).len(), 1);
        assert_eq!(faults(&json!({"$ref": "#/nowhere"}), &json!("x")).len(), 1);
    }
}
