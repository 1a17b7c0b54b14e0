//! Faults as SARIF 2.1.0, which code hosts show beside the lines of a change. Only what every reader of the format needs.

use serde_json::{Value, json};

use crate::yaml::{Diagnostic, Weight};

pub(super) fn report(faults: &[Diagnostic]) -> Value {
    let results: Vec<Value> = faults.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "weighbridge rules lint",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": [{"id": "rules", "shortDescription": {"text": "A file of rules that cannot be used, or should be looked at"}}],
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(fault: &Diagnostic) -> Value {
    let text = match &fault.help {
        Some(help) => format!("{}: {help}", fault.message),
        None => fault.message.clone(),
    };
    // Lines and columns of the format start at 1; a fault of a whole file has none.
    let mut place = json!({"artifactLocation": {"uri": uri(fault)}});
    if fault.line > 0 {
        place["region"] = json!({"startLine": fault.line, "startColumn": fault.column.max(1)});
    }
    json!({
        "ruleId": "rules",
        "level": match fault.weight { Weight::Error => "error", Weight::Warning => "warning" },
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    })
}

/// The path as a reference relative to where the command ran, or as a `file:` URI.
fn uri(fault: &Diagnostic) -> String {
    use std::fmt::Write as _;
    let path = fault.file.as_os_str().as_encoded_bytes();
    let mut uri = if path.starts_with(b"/") { "file://".to_owned() } else { String::new() };
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_a_result_with_its_place() {
        let mut fault =
            Diagnostic::of_file("rules.d/my site.yaml", "unknown key `a`").help("did you mean `b`?");
        (fault.line, fault.column) = (3, 5);
        let whole = Diagnostic::of_file("/etc/x.yaml", "the file is empty").warning();
        let report = report(&[fault, whole]);
        let results = &report["runs"][0]["results"];
        assert_eq!(results[0]["message"]["text"], "unknown key `a`: did you mean `b`?");
        let place = &results[0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "rules.d/my%20site.yaml");
        assert_eq!(place["region"], json!({"startLine": 3, "startColumn": 5}));
        assert_eq!(results[1]["level"], "warning");
        let place = &results[1]["locations"][0]["physicalLocation"];
        assert_eq!(*place, json!({"artifactLocation": {"uri": "file:///etc/x.yaml"}}));
    }
}
