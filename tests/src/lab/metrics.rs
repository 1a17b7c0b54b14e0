//! Reads the Prometheus text format, as far as the agent's own metrics need it. Knows no metric by name.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// One line of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Every sample of a page, in its order.
///
/// # Errors
/// With the line that is not the text format.
pub fn parse(page: &str) -> Result<Vec<Sample>> {
    page.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| sample(line).with_context(|| format!("not a metrics line: {line}")))
        .collect()
}

/// The sum of all samples called `name` that carry each of `labels`; `None` when there is none.
#[must_use]
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = samples
        .iter()
        .filter(|sample| sample.name == name)
        .filter(|sample| {
            labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
        .peekable();
    found.peek()?;
    Some(found.map(|sample| sample.value).sum())
}

fn sample(line: &str) -> Result<Sample> {
    let split = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(split);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"").context("a label without a value")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next().context("no value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().context("the value is no number")?,
    };
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped)) => value.push(escaped),
                None => bail!("a label ends in a backslash"),
            },
            c => value.push(c),
        }
    }
    bail!("a label value without its closing quote")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_by_name_and_label() {
        let page = "# HELP weighed_total x\n# TYPE weighed_total counter\n\
                    weighed_total{asset=\"llm\",control=\"uncontrolled\"} 3\n\
                    weighed_total{asset=\"llm\",control=\"memory\"} 4\nup 1\n";
        let samples = parse(page).unwrap();
        assert_eq!(sum(&samples, "weighed_total", &[("asset", "llm")]), Some(7.0));
        assert_eq!(sum(&samples, "weighed_total", &[("control", "memory")]), Some(4.0));
        assert_eq!(sum(&samples, "up", &[]), Some(1.0));
        assert_eq!(sum(&samples, "down", &[]), None);
    }

    #[test]
    fn a_line_without_a_value_is_named() {
        let error = parse("up 1\nbroken{a=\"b\n").unwrap_err();
        assert_eq!(error.to_string(), "not a metrics line: broken{a=\"b");
    }

    proptest! {
        #[test]
        fn label_values_come_back(value in "[ -~\\n]{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let samples = parse(&format!("m{{k=\"{escaped}\"}} 1")).unwrap();
            prop_assert_eq!(&samples[0].labels["k"], &value);
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
