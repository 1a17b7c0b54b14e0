//! `rules diff`: what a new release of a pack, or a change of a site, does to the rules that are in force.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    super::{FOUND, OK, Output, fail, print},
    load_paths,
    table::paint,
};
use crate::rules::RuleSet;

/// The values of everything in a set, by what they belong to.
type Values = BTreeMap<String, BTreeMap<String, String>>;

/// What became of one value.
enum Change<'a> {
    Added(&'a str),
    Removed(&'a str),
    Replaced(&'a str, &'a str),
}

pub(super) fn diff(before: &Path, after: &Path, with: &[PathBuf], output: Output, colour: bool) -> u8 {
    let load = |path: &Path| load_paths(&[&[path.to_owned()], with].concat(), path);
    let (before, after) = match (load(before), load(after)) {
        (Ok(before), Ok(after)) => (values(&before), values(&after)),
        (Err(failure), _) | (_, Err(failure)) => return fail(&failure, output),
    };
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let nothing = BTreeMap::new();
    let (mut text, mut rows) = (String::new(), Vec::new());
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        let changes = changes(old.unwrap_or(&nothing), new.unwrap_or(&nothing));
        if changes.is_empty() {
            continue;
        }
        let (word, code) = match (old, new) {
            (None, _) => ("added", "32"),
            (_, None) => ("removed", "31"),
            _ => ("changed", "33"),
        };
        text += &format!("{} {name}\n", paint(colour, code, word));
        let mut values = Vec::new();
        for (path, change) in &changes {
            let (old, new) = match change {
                Change::Added(new) => (None, Some(*new)),
                Change::Removed(old) => (Some(*old), None),
                Change::Replaced(old, new) => (Some(*old), Some(*new)),
            };
            values.push(json!({"path": path, "before": old, "after": new}));
            // A whole rule that came or went is in its file; here it is enough to say so.
            if word == "changed" {
                text += &match (old, new) {
                    (Some(old), Some(new)) => {
                        format!("    {path}: {} → {}\n", paint(colour, "31", old), paint(colour, "32", new))
                    }
                    (None, Some(new)) => {
                        format!("    {path}: {}\n", paint(colour, "32", &format!("+ {new}")))
                    }
                    (Some(old), None) => {
                        format!("    {path}: {}\n", paint(colour, "31", &format!("- {old}")))
                    }
                    (None, None) => String::new(),
                };
            }
        }
        rows.push(json!({"name": name, "change": word, "values": values}));
    }
    let is_same = rows.is_empty();
    if output == Output::Json {
        print(&format!("{}\n", json!({"schema": 1, "changes": Value::Array(rows)})));
    } else if is_same {
        print("no difference\n");
    } else {
        print(&text);
    }
    if is_same { OK } else { FOUND }
}

fn values(set: &RuleSet) -> Values {
    let rules = set.rules().iter().map(|rule| (rule.facts.id.clone(), rule.paths()));
    let exceptions = set.exceptions().iter().map(|one| (format!("exception {}", one.facts.id), one.paths()));
    rules.chain(exceptions).collect()
}

fn changes<'a>(
    before: &'a BTreeMap<String, String>,
    after: &'a BTreeMap<String, String>,
) -> Vec<(&'a str, Change<'a>)> {
    let mut changes: Vec<(&str, Change<'_>)> = Vec::new();
    for (path, old) in before {
        match after.get(path) {
            None => changes.push((path, Change::Removed(old))),
            Some(new) if new != old => changes.push((path, Change::Replaced(old, new))),
            Some(_) => {}
        }
    }
    let added = after.iter().filter(|(path, _)| !before.contains_key(*path));
    changes.extend(added.map(|(path, new)| (path.as_str(), Change::Added(new))));
    changes.sort_by_key(|(path, _)| *path);
    changes
}
