//! Reads `match:` and checks it against the table of fields. It must not know when a matcher is asked.

use std::{collections::BTreeMap, net::IpAddr};

use globset::{GlobBuilder, GlobSetBuilder};
use ipnet::IpNet;
use regex::RegexSetBuilder;

use super::{
    field::{Field, FieldType, find},
    matcher::{Condition, Globs, Matcher, Test},
    table::FIELDS,
};
use crate::{
    event::RecordKind,
    yaml::{Check, Entry, Node, Span, Value, parse_size, suggest},
};

/// Longest pattern of `glob` and `re`.
const MAX_PATTERN: usize = 1024;
/// Most memory that the patterns of one test may compile to.
const MAX_COMPILED: usize = 1 << 20;

/// What a negated test of an absent field is, chosen so that what is not known never buys silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To match is to alert: true.
    Alert,
    /// To match is to stay silent: false.
    Silence,
}

impl Purpose {
    pub(super) const fn inverse(self) -> Self {
        match self {
            Self::Alert => Self::Silence,
            Self::Silence => Self::Alert,
        }
    }
}

/// The lists of one file, by name.
pub(crate) type Lists<'n> = BTreeMap<&'n str, &'n [Node]>;

/// Reads a `match:` and the like.
pub(crate) struct MatchReader<'c, 'n> {
    pub(crate) check: &'c mut Check,
    pub(crate) lists: &'c Lists<'n>,
    /// The event kinds that are looked at: a field must be of one of them. A rule has one.
    pub(crate) kinds: &'c [RecordKind],
}

impl<'n> MatchReader<'_, 'n> {
    pub(crate) fn matcher(&mut self, node: &'n Node, purpose: Purpose) -> Matcher {
        let Value::Map(entries) = &node.value else {
            self.check.error(
                node.span,
                "a match is not a map",
                "write `field: value`; for «or» write `any: […]`",
            );
            return Matcher::default();
        };
        if entries.is_empty() {
            self.check.error(node.span, "an empty match", "say what must hold, or remove it");
        }
        Matcher(entries.iter().filter_map(|entry| self.condition(entry, purpose)).collect())
    }

    fn condition(&mut self, entry: &'n Entry, purpose: Purpose) -> Option<Condition> {
        match entry.key.as_str() {
            "any" => Some(Condition::Any(self.matchers(&entry.value, purpose)?)),
            "all" => Some(Condition::All(self.matchers(&entry.value, purpose)?)),
            "none" => Some(Condition::None(self.matchers(&entry.value, purpose.inverse())?)),
            key => self.field_test(key, entry, purpose),
        }
    }

    fn matchers(&mut self, node: &'n Node, purpose: Purpose) -> Option<Vec<Matcher>> {
        let items = self.check.list(node, "the list of matches")?;
        Some(items.iter().map(|item| self.matcher(item, purpose)).collect())
    }

    fn field_test(&mut self, key: &str, entry: &'n Entry, purpose: Purpose) -> Option<Condition> {
        let (name, modifier) = match key.split_once('|') {
            Some((name, modifier)) => (name, Some(modifier)),
            None => (key, None),
        };
        let field = self.field(name, entry.key_span)?;
        let modifier = match modifier {
            None => Modifier::In,
            Some(word) => match MODIFIERS.iter().find(|(known, _)| *known == word) {
                Some((_, modifier)) => *modifier,
                None => {
                    let known = MODIFIERS.map(|(known, _)| known);
                    self.check.error(
                        entry.key_span,
                        format!("unknown modifier `{word}`"),
                        suggest(word, &known),
                    );
                    return None;
                }
            },
        };
        let negated = matches!(modifier, Modifier::NotIn | Modifier::NotCidr);
        let when_absent = negated && purpose == Purpose::Alert;
        let test = self.test(field, modifier, entry)?;
        Some(Condition::Field { field, test, negated, when_absent })
    }

    /// The field of that name, if the rule's events have it.
    pub(crate) fn field(&mut self, name: &str, at: Span) -> Option<&'static Field> {
        let Some(field) = find(name) else {
            let known: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
            self.check.error(at, format!("unknown field `{name}`"), suggest(name, &known));
            return None;
        };
        if !self.kinds.iter().any(|kind| field.on.contains(kind)) {
            let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("`{}`", kind.as_str())).collect();
            let message = format!("events of kind {} have no `{name}`", kinds.join(" or "));
            self.check.error(at, message, "remove it or change `on`");
            return None;
        }
        Some(field)
    }

    fn test(&mut self, field: &'static Field, modifier: Modifier, entry: &'n Entry) -> Option<Test> {
        use FieldType as T;
        let node = &entry.value;
        match (modifier, field.kind) {
            (Modifier::In | Modifier::NotIn, T::Text) => {
                self.each(node, |text| Ok(text.to_owned())).map(Test::Text)
            }
            (Modifier::In | Modifier::NotIn, T::Word(words)) => {
                let word = |text: &str| {
                    let known = words.contains(&text).then(|| text.to_owned());
                    known.ok_or_else(|| (format!("`{}` is never `{text}`", field.name), suggest(text, words)))
                };
                self.each(node, word).map(Test::Text)
            }
            (Modifier::In | Modifier::NotIn, T::Number | T::Size) => {
                self.each(node, |text| number(field, text)).map(Test::Number)
            }
            (Modifier::In | Modifier::NotIn, T::Flag) => {
                self.each(node, |text| flag(field, text)).map(Test::Flag)
            }
            (Modifier::In | Modifier::NotIn, T::Address) => {
                let address = |text: &str| {
                    let parsed = text.parse::<IpAddr>().map(|address| address.to_canonical());
                    parsed.map_err(|_| {
                        (format!("`{text}` is not an address"), "for a network write `|cidr`".to_owned())
                    })
                };
                self.each(node, address).map(Test::Address)
            }
            (Modifier::Contains, T::Text) => self.each(node, |text| Ok(text.to_owned())).map(Test::Contains),
            (Modifier::StartsWith, T::Text) => {
                self.each(node, |text| Ok(text.to_owned())).map(Test::StartsWith)
            }
            (Modifier::EndsWith, T::Text) => self.each(node, |text| Ok(text.to_owned())).map(Test::EndsWith),
            (Modifier::Glob, T::Text) => self.globs(node),
            (Modifier::Regex, T::Text) => self.regexes(node),
            (Modifier::Cidr | Modifier::NotCidr, T::Address) => {
                let network = |text: &str| {
                    text.parse::<IpNet>().map_err(|_| {
                        (format!("`{text}` is not a network"), "write it as `10.20.0.0/16`".to_owned())
                    })
                };
                self.each(node, network).map(Test::Network)
            }
            (Modifier::Greater, T::Number | T::Size) => match self.limit(field, node)? {
                // Nothing is greater: an empty range.
                u64::MAX => Some(Test::Number(Vec::new())),
                limit => Some(Test::Within(limit + 1..=u64::MAX)),
            },
            (Modifier::GreaterOrEqual, T::Number | T::Size) => {
                Some(Test::Within(self.limit(field, node)?..=u64::MAX))
            }
            (Modifier::Less, T::Number | T::Size) => match self.limit(field, node)? {
                0 => Some(Test::Number(Vec::new())),
                limit => Some(Test::Within(0..=limit - 1)),
            },
            (Modifier::LessOrEqual, T::Number | T::Size) => Some(Test::Within(0..=self.limit(field, node)?)),
            (Modifier::Exists, _) => self.check.bool(node, "`exists`").map(Test::Exists),
            (_, kind) => {
                let (_, modifier) = entry.key.split_once('|').unwrap_or_default();
                let message =
                    format!("`{modifier}` does not apply to `{}`, which is {}", field.name, kind.as_str());
                self.check.error(entry.key_span, message, "choose another modifier or another field");
                None
            }
        }
    }

    fn limit(&mut self, field: &Field, node: &Node) -> Option<u64> {
        let text = self.check.text(node, "the limit")?;
        number(field, text).map_err(|(message, help)| self.check.error(node.span, message, help)).ok()
    }

    fn globs(&mut self, node: &'n Node) -> Option<Test> {
        let glob = |text: &str| {
            if text.len() > MAX_PATTERN {
                return Err((format!("a glob of more than {MAX_PATTERN} bytes"), "shorten it".to_owned()));
            }
            // `*` stays within a directory and `**` does not, as in a shell.
            GlobBuilder::new(text)
                .literal_separator(true)
                .build()
                .map_err(|error| (format!("not a glob: {}", error.kind()), "see glob(7)".to_owned()))
        };
        let globs = self.each(node, glob)?;
        // As globset compiles it: a name may have a line feed.
        let patterns = globs.iter().map(|glob| format!("(?s){}", glob.regex())).collect();
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(glob);
        }
        set.build()
            .map_err(|_| self.check.error(node.span, "the globs are too large together", "split the rule"))
            .map(|set| Test::Glob(Globs { set, patterns }))
            .ok()
    }

    fn regexes(&mut self, node: &'n Node) -> Option<Test> {
        let regex = |text: &str| {
            let built = RegexSetBuilder::new([text]).size_limit(MAX_COMPILED).build();
            match built {
                _ if text.len() > MAX_PATTERN => Err((
                    format!("a regular expression of more than {MAX_PATTERN} bytes"),
                    "shorten it".to_owned(),
                )),
                Ok(_) => Ok(text.to_owned()),
                Err(regex::Error::CompiledTooBig(_)) => {
                    Err(("the regular expression is too large".to_owned(), "repeat less".to_owned()))
                }
                Err(error) => {
                    // The library draws the pattern again; its last line is what is wrong.
                    let text = error.to_string();
                    let reason =
                        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    Err((
                        format!("not a regular expression: {reason}"),
                        "look-around and back-references do not exist here: matching is linear in time"
                            .to_owned(),
                    ))
                }
            }
        };
        let regexes = self.each(node, regex)?;
        RegexSetBuilder::new(regexes)
            .size_limit(MAX_COMPILED)
            .build()
            .map_err(|_| {
                self.check.error(
                    node.span,
                    "the regular expressions are too large together",
                    "split the rule",
                );
            })
            .map(Test::Regex)
            .ok()
    }

    /// Reads one value or a list of values, lists by name included, and reports each that is wrong.
    fn each<T>(
        &mut self,
        node: &'n Node,
        read: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<Vec<T>> {
        let mut nodes: Vec<&'n Node> = Vec::new();
        let written: &'n [Node] = match &node.value {
            Value::List(_) => self.check.list(node, "the value")?,
            Value::Scalar { .. } | Value::Map(_) => std::slice::from_ref(node),
        };
        for item in written {
            match &item.value {
                Value::Scalar { text, quoted: false } if text.starts_with('$') => {
                    match self.lists.get(&text[1..]) {
                        Some(items) => nodes.extend(items.iter()),
                        None => {
                            let known: Vec<&str> = self.lists.keys().copied().collect();
                            let help = if known.is_empty() {
                                "this file has no `lists`; a text that starts with `$` needs quotes"
                                    .to_owned()
                            } else {
                                let known: Vec<String> =
                                    known.iter().map(|name| format!("${name}")).collect();
                                suggest(text, &known.iter().map(String::as_str).collect::<Vec<_>>())
                            };
                            self.check.error(item.span, format!("unknown list `{text}`"), help);
                        }
                    }
                }
                _ => nodes.push(item),
            }
        }
        let mut values = Vec::with_capacity(nodes.len());
        for node in nodes {
            if let Some(text) = self.check.text(node, "the value") {
                match read(text) {
                    Ok(value) => values.push(value),
                    Err((message, help)) => self.check.error(node.span, message, help),
                }
            }
        }
        Some(values)
    }
}

/// A number, or a size with its unit where the field is one.
pub(crate) fn number(field: &Field, text: &str) -> Result<u64, (String, String)> {
    if field.kind == FieldType::Size {
        return parse_size(text).map_err(|error| match error.split_once(": ") {
            Some((wrong, remedy)) => (wrong.to_owned(), remedy.to_owned()),
            None => (error, "write a smaller one".to_owned()),
        });
    }
    text.parse().map_err(|_| (format!("`{text}` is not a number"), "write a whole number".to_owned()))
}

/// `true` or `false`.
pub(crate) fn flag(field: &Field, text: &str) -> Result<bool, (String, String)> {
    text.parse()
        .map_err(|_| (format!("`{}` is never `{text}`", field.name), "write `true` or `false`".to_owned()))
}

/// The modifiers that a field of some type takes, in the order of the grammar.
pub(super) fn modifiers_of(kind: FieldType) -> impl Iterator<Item = &'static str> {
    use FieldType as T;
    let applies = move |modifier: Modifier| match modifier {
        Modifier::In | Modifier::NotIn | Modifier::Exists => true,
        Modifier::Contains | Modifier::StartsWith | Modifier::EndsWith | Modifier::Glob | Modifier::Regex => {
            kind == T::Text
        }
        Modifier::Cidr | Modifier::NotCidr => kind == T::Address,
        Modifier::Greater | Modifier::GreaterOrEqual | Modifier::Less | Modifier::LessOrEqual => {
            matches!(kind, T::Number | T::Size)
        }
    };
    MODIFIERS.into_iter().filter(move |(_, modifier)| applies(*modifier)).map(|(word, _)| word)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Modifier {
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    Glob,
    Regex,
    Cidr,
    NotCidr,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Exists,
}

/// What may follow the `|` of a field.
const MODIFIERS: [(&str, Modifier); 15] = [
    ("not", Modifier::NotIn),
    ("in", Modifier::In),
    ("not_in", Modifier::NotIn),
    ("contains", Modifier::Contains),
    ("startswith", Modifier::StartsWith),
    ("endswith", Modifier::EndsWith),
    ("glob", Modifier::Glob),
    ("re", Modifier::Regex),
    ("cidr", Modifier::Cidr),
    ("not_cidr", Modifier::NotCidr),
    ("gt", Modifier::Greater),
    ("gte", Modifier::GreaterOrEqual),
    ("lt", Modifier::Less),
    ("lte", Modifier::LessOrEqual),
    ("exists", Modifier::Exists),
];
