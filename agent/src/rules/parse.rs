//! Reads a file of rules: its head, its lists, its rules, and where its overrides and exceptions stand. It must not know
//! what other files say.

use super::{
    match_parse::Lists,
    rule::Rule,
    rule_parse::{rule, short_text},
};
use crate::yaml::{self, Check, Node};

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct Contents<'n> {
    pub(super) pack: Option<String>,
    pub(super) lists: Lists<'n>,
    /// Each with what it was read from.
    pub(super) rules: Vec<(&'n Node, Rule)>,
    pub(super) overrides: &'n [Node],
    pub(super) exceptions: &'n [Node],
}

pub(super) fn read_file<'n>(check: &mut Check, root: &'n Node) -> Contents<'n> {
    let mut contents = Contents::default();
    let Some(mut fields) = check.fields(root, "the rule file") else { return contents };
    if let Some(node) = fields.need(check, "schema") {
        let _ = check.choice(node, "`schema`", &[("1", 1)]);
    }
    if let Some(node) = fields.need(check, "pack") {
        contents.pack = short_text(check, node, "`pack`");
    }
    if let Some(node) = fields.get("requires_agent") {
        requires_agent(check, node);
    }
    if let Some(node) = fields.get("lists") {
        contents.lists = read_lists(check, node);
    }
    let mut items = |check: &mut Check, key, what| {
        fields.get(key).and_then(|node| check.list(node, what)).unwrap_or_default()
    };
    contents.overrides = items(check, "overrides", "`overrides`");
    contents.exceptions = items(check, "exceptions", "`exceptions`");
    let rules = if contents.overrides.is_empty() && contents.exceptions.is_empty() {
        fields.need(check, "rules")
    } else {
        fields.get("rules")
    };
    let rules = rules.and_then(|node| check.list(node, "`rules`")).unwrap_or_default();
    fields.done(check);
    contents.rules =
        rules.iter().filter_map(|node| Some((node, rule(check, &contents.lists, node)?))).collect();
    contents
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
