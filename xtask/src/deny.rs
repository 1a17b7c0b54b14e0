//! What `deny.toml` says of licences, banned crates and sources, held against `cargo metadata`. It stands in where cargo-deny,
//! whose building takes a quarter of an hour, is not installed, so that nothing drifts unseen.
//!
//! It reads of `deny.toml` the lists `licenses.allow` and `bans.deny` only, in the form that the file has, and refuses the file
//! when it finds none. It looks up no advisory and reads no licence text: it believes what a package declares.

use std::{collections::BTreeSet, fs, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::shell;

/// The targets of deny.toml's graph.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// What deny.toml lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lists {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
}

/// Everything in the dependency tree that deny.toml does not let in.
pub(crate) fn complaints() -> Result<Vec<String>> {
    let text = fs::read_to_string(shell::root().join("deny.toml")).context("cannot read deny.toml")?;
    let lists = Lists::read(&text)?;
    let mut command = shell::cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--all-features"]);
    for target in TARGETS {
        command.args(["--filter-platform", target]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed with {}", output.status);
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    judge(&metadata, &lists)
}

fn judge(metadata: &Value, lists: &Lists) -> Result<Vec<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo resolved nothing")?;
    // What other systems would pull in is listed, and not resolved.
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let packages = metadata["packages"].as_array().context("cargo describes no package")?;
    let mut complaints = Vec::new();
    let mut registries = BTreeSet::new();
    let mut judged = 0;
    for package in packages.iter().filter(|one| one["id"].as_str().is_some_and(|id| used.contains(id))) {
        judged += 1;
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or_default(),
            package["version"].as_str().unwrap_or_default()
        );
        if package["name"].as_str().is_some_and(|name| lists.banned.contains(name)) {
            complaints.push(format!("{name}: deny.toml bans it"));
        }
        match package["license"].as_str() {
            None => complaints.push(format!("{name}: it declares no licence")),
            Some(declared) if !is_allowed(declared, &lists.licences) => {
                complaints.push(format!("{name}: deny.toml does not allow its licence, {declared}"));
            }
            Some(_) => {}
        }
        match package["source"].as_str() {
            Some(source) if source.starts_with("registry+") => {
                registries.insert(source);
            }
            Some(_) => complaints.push(format!("{name}: it comes from elsewhere than the registry")),
            None => complaints
                .extend(wildcards(package).map(|needed| format!("{name}: any version of {needed} would do"))),
        }
    }
    ensure!(judged == used.len(), "cargo resolved {} packages and describes {judged}", used.len());
    if registries.len() > 1 {
        complaints.push(format!("the tree comes from {} registries", registries.len()));
    }
    Ok(complaints)
}

/// What one of our own packages takes in any version from outside the tree.
fn wildcards(package: &Value) -> impl Iterator<Item = &str> {
    let needs = package["dependencies"].as_array().into_iter().flatten();
    needs.filter(|need| need["req"] == "*" && need["path"].is_null()).filter_map(|need| need["name"].as_str())
}

/// Whether a licence expression can be met with these licences alone. What is no expression cannot.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // Before expressions were the rule, a slash stood for «or».
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let met = either(&mut words, allowed, 0);
    words.next().is_none() && met == Some(true)
}

type Words<'t> = std::iter::Peekable<std::str::SplitWhitespace<'t>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u32) -> Option<bool> {
    let mut met = both(words, allowed, depth)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words, allowed, depth)?;
    }
    Some(met)
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u32) -> Option<bool> {
    let mut met = one(words, allowed, depth)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed, depth)?;
    }
    Some(met)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>, depth: u32) -> Option<bool> {
    const DEEPEST: u32 = 16;
    match words.next()? {
        "(" if depth < DEEPEST => {
            let met = either(words, allowed, depth + 1)?;
            words.next_if_eq(&")").map(|_| met)
        }
        "(" | ")" | "OR" | "AND" | "WITH" => None,
        licence => {
            // An exception makes another licence of it, which must be listed as such.
            let named = match words.next_if_eq(&"WITH") {
                Some(_) => format!("{licence} WITH {}", words.next()?),
                None => licence.to_owned(),
            };
            Some(allowed.contains(&named))
        }
    }
}

impl Lists {
    fn read(text: &str) -> Result<Self> {
        let mut lists = Self::default();
        let (mut section, mut list) = ("", "");
        for line in text.lines().map(str::trim) {
            if line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                (section, list) = (name, "");
                continue;
            }
            if let Some((key, _)) = line.split_once(" = [") {
                list = key;
            }
            let quoted = line.split('"').nth(1);
            match (section, list, quoted) {
                ("licenses", "allow", Some(licence)) => {
                    lists.licences.insert(licence.to_owned());
                }
                ("bans", "deny", Some(name)) if line.starts_with("{ crate = ") => {
                    lists.banned.insert(name.to_owned());
                }
                _ => {}
            }
            if line.ends_with(']') {
                list = "";
            }
        }
        ensure!(
            !lists.licences.is_empty() && !lists.banned.is_empty(),
            "deny.toml has no lists `licenses.allow` and `bans.deny` with an entry on each line"
        );
        Ok(lists)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lists() -> Lists {
        let text = "[licenses]\nallow = [\n    \"MIT\",\n    \"Zlib\", # why\n]\n[bans]\nwildcards = \"deny\"\ndeny = [\n    \
                    { crate = \"bad\", reason = \"so\" },\n]\n[sources]\nunknown-git = \"deny\"\n";
        Lists::read(text).unwrap()
    }

    #[test]
    fn the_lists_of_the_tree_are_read() {
        let text = fs::read_to_string(shell::root().join("deny.toml")).unwrap();
        let lists = Lists::read(&text).unwrap();
        assert!(lists.licences.contains("Apache-2.0") && lists.licences.contains("Zlib"), "{lists:?}");
        assert!(lists.banned.contains("openssl-sys") && lists.banned.contains("serde_yml"), "{lists:?}");
        assert!(Lists::read("[licenses]\nallow = []\n").is_err());
    }

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = lists().licences;
        for met in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/GPL-3.0",
            "MIT AND Zlib",
            "(GPL-3.0 OR MIT) AND Zlib",
            "GPL-2.0 WITH X OR MIT",
        ] {
            assert!(is_allowed(met, &allowed), "{met}");
        }
        let deep = "(".repeat(40) + "MIT" + &")".repeat(40);
        for not in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH X", "(MIT", "MIT)", "MIT MIT", "OR", "MIT OR", &deep]
        {
            assert!(!is_allowed(not, &allowed), "{not}");
        }
    }

    #[test]
    fn each_kind_of_drift_is_named() {
        let package = |name: &str, licence: Value, source: Value, dependencies: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "source": source, "dependencies": dependencies});
        let packages = [
            package("good", json!("MIT"), json!("registry+a"), json!([])),
            package("bad", json!("MIT"), json!("registry+a"), json!([])),
            package("viral", json!("AGPL-3.0"), json!("registry+a"), json!([])),
            package("silent", Value::Null, json!("registry+a"), json!([])),
            package("forked", json!("MIT"), json!("git+b"), json!([])),
            package("elsewhere", json!("MIT"), json!("registry+b"), json!([])),
            package(
                "ours",
                json!("MIT"),
                Value::Null,
                json!([
                    {"name": "good", "req": "*", "path": null}, {"name": "xtask", "req": "*", "path": "xtask"}
                ]),
            ),
            // Of another system: not resolved.
            package("foreign", json!("AGPL-3.0"), json!("registry+a"), json!([])),
        ];
        let nodes: Vec<Value> = packages[..7].iter().map(|package| json!({"id": package["id"]})).collect();
        let metadata = json!({"packages": packages, "resolve": {"nodes": nodes}});
        assert_eq!(
            judge(&metadata, &lists()).unwrap(),
            [
                "bad 1.0.0: deny.toml bans it",
                "viral 1.0.0: deny.toml does not allow its licence, AGPL-3.0",
                "silent 1.0.0: it declares no licence",
                "forked 1.0.0: it comes from elsewhere than the registry",
                "ours 1.0.0: any version of good would do",
                "the tree comes from 2 registries",
            ]
        );
    }
}
