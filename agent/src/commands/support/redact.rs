//! Takes out of texts what a stranger must not read: tokens in addresses, command lines, comments. When in doubt it takes more.

use serde_json::Value;

const HIDDEN: &str = "(hidden)";

/// A configuration without its comments and values that look like secrets. The keys of secrets name files and credentials only, so
/// what else stands there was put there by mistake.
pub(super) fn config(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let line = without_comment(line);
        let key = line.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
        let is_secret = ["token", "secret", "password", "key"].iter().any(|word| key.contains(word));
        let value = line.split_once(':').map_or("", |(_, value)| value.trim());
        match line.split_once(':') {
            Some((before, _)) if is_secret && !value.is_empty() && !is_source(value) => {
                out.push_str(&format!("{before}: {HIDDEN}"));
            }
            _ => out.push_str(&addresses(line)),
        }
        out.push('\n');
    }
    out
}

/// `{file: PATH}` or `{credential: NAME}`, and nothing behind it.
fn is_source(value: &str) -> bool {
    let inner = value.strip_prefix('{').and_then(|value| value.strip_suffix('}')).map(str::trim);
    inner.is_some_and(|inner| {
        ["file:", "credential:"].iter().any(|kind| inner.starts_with(kind)) && !inner.contains(['{', ','])
    })
}

fn without_comment(line: &str) -> &str {
    let starts = |(at, _): &(usize, &str)| *at == 0 || line[..*at].ends_with([' ', '\t']);
    line.match_indices('#').find(starts).map_or(line, |(at, _)| line[..at].trim_end())
}

/// Lines of a log without addresses' secrets, and without what a refused configuration is quoted with: a secret that was put into it by
/// mistake.
pub(super) fn log(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let excerpt = line.find(" | ").filter(|&at| {
            let number = line[..at].trim_end().rsplit(' ').next().unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let words =
            ["token", "secret", "password"].iter().filter_map(|word| Some(line.find(word)? + word.len()));
        match excerpt.map(|at| at + " |".len()).into_iter().chain(words).min() {
            Some(at) => {
                out.push_str(&addresses(&line[..at]));
                out.push(' ');
                out.push_str(HIDDEN);
            }
            None => out.push_str(&addresses(line)),
        }
        out.push('\n');
    }
    out
}

/// Every address without its user, path and query, which can be tokens.
pub(super) fn addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let ends = |c: char| c.is_whitespace() || "\"'<>,)}\\".contains(c);
        let (address, after) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let (place, path) = address.split_at(address.find(['/', '?', '#']).unwrap_or(address.len()));
        match place.rsplit_once('@') {
            // A user with a slash in its password, or a path with an @: nobody can tell.
            _ if path.contains('@') => out.push_str(HIDDEN),
            Some((_, host)) => out.push_str(&format!("{HIDDEN}@{host}")),
            None => out.push_str(place),
        }
        if path.len() > 1 {
            out.push_str(&format!("/{HIDDEN}"));
            // The end of a list in YAML.
            out.push_str(if path.ends_with(']') { "]" } else { "" });
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A line of JSON without command lines, which hold what people should not write there; `None` when it is no JSON.
pub(super) fn json(line: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(line).ok()?;
    hide(&mut value);
    Some(addresses(&value.to_string()))
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                match inner {
                    Value::String(text) if matches!(&**key, "cmdline" | "cmd_line") && !text.is_empty() => {
                        HIDDEN.clone_into(text);
                    }
                    _ => hide(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_log_keeps_no_line_of_a_refused_configuration() {
        let text = "\
09:00:01 gpu7 weighbridge[812]: error: `bearer_token`: `hunter2` is no file
09:00:01 gpu7 weighbridge[812]:   --> /etc/weighbridge/weighbridge.yaml:14:5
09:00:01 gpu7 weighbridge[812]: 14 |     bearer_token: hunter2
09:00:02 gpu7 weighbridge[812]: 15 | url: hunter2
09:00:03 gpu7 weighbridge[812]: INFO weighing address=127.0.0.1:9464 files=3
";
        insta::assert_snapshot!(log(text), @"
        09:00:01 gpu7 weighbridge[812]: error: `bearer_token (hidden)
        09:00:01 gpu7 weighbridge[812]:   --> /etc/weighbridge/weighbridge.yaml:14:5
        09:00:01 gpu7 weighbridge[812]: 14 | (hidden)
        09:00:02 gpu7 weighbridge[812]: 15 | (hidden)
        09:00:03 gpu7 weighbridge[812]: INFO weighing address=127.0.0.1:9464 files=3
        ");
    }

    #[test]
    fn a_configuration_keeps_its_form_and_no_secret() {
        let text = "\
# the old token was hunter2
sinks:
  - {type: file, path: /var/log/a#b.ndjson}  # hunter2
  - type: webhook
    url: https://ops:hunter2@hooks.example.com:8443/services/hunter2?x=hunter2
    bearer_token: hunter2
    secret: {file: /etc/weighbridge/secret}
    tls: {ca: {file: /etc/ca.pem}}
  - {type: alertmanager, urls: [\"http://127.0.0.1:9093\", 'http://[::1]:9093/hunter2']}
    secret: {file: /x, value: hunter2}
";
        insta::assert_snapshot!(config(text), @r#"

        sinks:
          - {type: file, path: /var/log/a#b.ndjson}
          - type: webhook
            url: https://(hidden)@hooks.example.com:8443/(hidden)
            bearer_token: (hidden)
            secret: {file: /etc/weighbridge/secret}
            tls: {ca: {file: /etc/ca.pem}}
          - {type: alertmanager, urls: ["http://127.0.0.1:9093", 'http://[::1]:9093/(hidden)']}
            secret: (hidden)
        "#);
    }

    #[test]
    fn an_alert_keeps_no_command_line() {
        let line =
            r#"{"a":[{"cmdline":"curl -H hunter2","exe":"/x"}],"cmd_line":"","m":"see https://h/hunter2"}"#;
        let hidden = json(line).unwrap();
        assert_eq!(
            hidden,
            r#"{"a":[{"cmdline":"(hidden)","exe":"/x"}],"cmd_line":"","m":"see https://h/(hidden)"}"#
        );
        assert_eq!(json("half a li"), None);
    }

    proptest! {
        #[test]
        fn no_path_of_an_address_stays(before in ".{0,20}", user in "([a-z]{1,5}@)?", path in "[a-z]{1,9}", after in "[ ,\"].{0,20}") {
            let text = format!("{before}https://{user}host.example/Q{path}Q{after}");
            let hidden = addresses(&text);
            let secret = format!("Q{path}Q");
            prop_assert!(!hidden.contains(&secret), "{}", hidden);
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            let _ = (config(&text), addresses(&text), json(&text));
        }
    }
}
