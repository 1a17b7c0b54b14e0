//! Which rules can match a record, found without asking each of them: with five hundred rules, nearly all speak of another
//! asset, another kind of sink or another network than the record at hand.
//!
//! It only rules out. A rule that it leaves is asked in full, so that a mistake here costs time and never a match: whatever
//! is not a comparison with texts, patterns or networks at the top of a `match` rules nothing out. It must not know windows.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::{
    event::{Record, RecordKind},
    rules::{
        RuleSet,
        field::{Field, FieldValue},
        matcher::{Condition, Test},
        rule::{Mode, Rule},
    },
};

/// Rules by their place in the set, one bit each.
type Bits = Box<[u64]>;
/// Rules with patterns that are sooner asked one by one than all at once.
const FEW: u32 = 8;
/// Most memory for the patterns of one field, twice: as read, and as far as they were run. Where they need more, their rules are
/// asked one by one.
const MAX_PATTERNS: usize = 16 << 20;

/// The rules of one event kind.
#[derive(Debug)]
pub(super) struct Index {
    /// Rules that look at events of this kind and are not off.
    all: Bits,
    fields: Vec<ByField>,
}

/// The rules that are left for one record; memory that is used again for the next.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    left: Vec<u64>,
    scratch: Vec<u64>,
}

impl Candidates {
    /// Their places in the set, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.left.iter().enumerate().flat_map(|(at, &word)| {
            let bits = std::iter::successors((word != 0).then_some(word), |rest| {
                let rest = rest & (rest - 1);
                (rest != 0).then_some(rest)
            });
            bits.map(move |rest| at * 64 + rest.trailing_zeros() as usize)
        })
    }

    fn keep(&mut self, bits: &[u64]) -> bool {
        let mut any = 0;
        for (word, bits) in self.left.iter_mut().zip(bits) {
            *word &= bits;
            any |= *word;
        }
        any != 0
    }
}

/// What one field says.
#[derive(Debug)]
struct ByField {
    field: &'static Field,
    /// Rules that can match while it has no value.
    when_absent: Bits,
    /// Rules that can match while it has a value that no rule names.
    otherwise: Bits,
    /// For each text that a rule names.
    texts: HashMap<String, Bits>,
    /// Rules that name the network, and the lengths of prefixes that there are.
    networks: HashMap<IpNet, Bits>,
    lengths: BTreeSet<u8>,
    patterns: Option<Patterns>,
}

/// Every prefix, ending, part, glob and regular expression that rules ask of one field, run at once.
#[derive(Debug)]
struct Patterns {
    all: RegexSet,
    /// For each of them, the place of its rule.
    rules: Vec<usize>,
    /// Rules that ask for some.
    asking: Bits,
}

impl Index {
    pub(super) fn new(rules: &RuleSet, kind: RecordKind) -> Self {
        let on: Vec<(usize, &Rule)> = rules
            .rules()
            .iter()
            .map(|rule| &**rule)
            .enumerate()
            .filter(|(_, rule)| rule.looks_at(kind) && rule.facts.mode != Mode::Off)
            .collect();
        let words = rules.rules().len().div_ceil(64);
        let mut all = vec![0; words].into_boxed_slice();
        on.iter().for_each(|(at, _)| set(&mut all, *at));
        let mut names: Vec<&'static Field> = Vec::new();
        for (field, test, _) in on.iter().flat_map(|(_, rule)| comparisons(rule)) {
            let is_new = names.iter().all(|known| known.name != field.name);
            if is_new
                && (matches!(test, Test::Text(_) | Test::Address(_) | Test::Network(_)) || test.is_pattern())
            {
                names.push(field);
            }
        }
        let mut fields: Vec<ByField> =
            names.into_iter().map(|field| ByField::new(field, &on, words)).collect();
        // What rules out nothing is not looked at: a few rules with patterns are asked one by one.
        fields.retain(|field| {
            !field.texts.is_empty() || !field.networks.is_empty() || field.patterns.is_some()
        });
        // Those that leave fewest rules come first: often nothing is left after one.
        fields.sort_by_key(|field| count(&field.otherwise));
        Self { all, fields }
    }

    /// Writes the rules that can match into `found`.
    pub(super) fn candidates(&self, record: &Record, found: &mut Candidates) {
        found.left.clear();
        found.left.extend_from_slice(&self.all);
        for field in &self.fields {
            if !field.keep(record, found) {
                return;
            }
        }
    }
}

impl ByField {
    fn new(field: &'static Field, on: &[(usize, &Rule)], words: usize) -> Self {
        let mut texts: BTreeSet<&str> = BTreeSet::new();
        let mut networks: BTreeSet<IpNet> = BTreeSet::new();
        for (_, rule) in on {
            for (_, test, is_negated) in comparisons(rule).filter(|(of, ..)| of.name == field.name) {
                match test {
                    Test::Text(named) => texts.extend(named.iter().map(String::as_str)),
                    Test::Address(named) if !is_negated => {
                        networks.extend(named.iter().copied().map(IpNet::from))
                    }
                    Test::Network(named) if !is_negated => {
                        networks.extend(named.iter().map(IpNet::trunc));
                    }
                    _ => {}
                }
            }
        }
        let rules = |can: &dyn Fn(&Rule) -> bool| {
            let mut bits = vec![0; words].into_boxed_slice();
            on.iter().filter(|(_, rule)| can(rule)).for_each(|(at, _)| set(&mut bits, *at));
            bits
        };
        let of_field = |rule: &Rule, can: &dyn Fn(&Test, bool) -> bool| {
            comparisons(rule).filter(|(of, ..)| of.name == field.name).all(|(_, test, not)| can(test, not))
        };
        // A test that is not looked at here can hold.
        let named = |test: &Test, text: Option<&str>, not: bool| match test {
            Test::Text(named) => named.iter().any(|known| Some(known.as_str()) == text) != not,
            Test::Address(_) | Test::Network(_) => not,
            _ => true,
        };
        let with_text =
            |text: Option<&str>| rules(&|rule| of_field(rule, &|test, not| named(test, text, not)));
        // Of several such tests in one rule each can be the one that holds here; the rule is asked for the others.
        let names_network = |network: IpNet| {
            rules(&|rule| {
                comparisons(rule).filter(|(of, ..)| of.name == field.name).any(|(_, test, not)| match test {
                    Test::Address(named) => !not && named.iter().any(|one| IpNet::from(*one) == network),
                    Test::Network(named) => !not && named.iter().any(|one| one.trunc() == network),
                    _ => false,
                })
            })
        };
        Self {
            field,
            when_absent: rules(&|rule| {
                rule.matcher.0.iter().all(|condition| match condition {
                    Condition::Field { field: of, test: Test::Exists(wanted), .. } => {
                        of.name != field.name || !wanted
                    }
                    Condition::Field { field: of, when_absent, .. } => of.name != field.name || *when_absent,
                    _ => true,
                })
            }),
            otherwise: with_text(None),
            texts: texts.into_iter().map(|text| (text.to_owned(), with_text(Some(text)))).collect(),
            lengths: networks.iter().map(IpNet::prefix_len).collect(),
            networks: networks.into_iter().map(|network| (network, names_network(network))).collect(),
            patterns: Patterns::new(field, on, words),
        }
    }

    /// Takes out what cannot match; whether anything is left.
    fn keep(&self, record: &Record, found: &mut Candidates) -> bool {
        match (self.field.get)(record) {
            None => found.keep(&self.when_absent),
            Some(FieldValue::Address(address)) => {
                let mut bits = std::mem::take(&mut found.scratch);
                self.naming(address, &mut bits);
                let any = found.keep(&bits);
                found.scratch = bits;
                any
            }
            Some(FieldValue::Text(text)) => {
                found.keep(self.texts.get(text).unwrap_or(&self.otherwise))
                    && self.patterns.as_ref().is_none_or(|patterns| patterns.keep(text, found))
            }
            Some(_) => found.keep(&self.otherwise),
        }
    }

    /// Rules that name a network of this address, and those that name none.
    fn naming(&self, address: IpAddr, bits: &mut Vec<u64>) {
        bits.clear();
        bits.extend_from_slice(&self.otherwise);
        let networks = self.lengths.iter().filter_map(|&length| IpNet::new(address, length).ok());
        for named in networks.filter_map(|network| self.networks.get(&network.trunc())) {
            bits.iter_mut().zip(named).for_each(|(bits, more)| *bits |= more);
        }
    }
}

impl Patterns {
    /// `None` when there are too few or too large ones.
    fn new(field: &Field, on: &[(usize, &Rule)], words: usize) -> Option<Self> {
        let (mut texts, mut rules) = (Vec::new(), Vec::new());
        let mut asking = vec![0; words].into_boxed_slice();
        for (at, rule) in on {
            for (_, test, is_negated) in comparisons(rule).filter(|(of, ..)| of.name == field.name) {
                // Of several such tests in one rule each can be the one that holds here; the rule is asked for the others.
                if test.is_pattern() && !is_negated {
                    texts.extend(test.patterns());
                    rules.resize(texts.len(), *at);
                    set(&mut asking, *at);
                }
            }
        }
        if count(&asking) <= FEW {
            return None;
        }
        let all = RegexSetBuilder::new(texts).size_limit(MAX_PATTERNS).dfa_size_limit(MAX_PATTERNS).build();
        Some(Self { all: all.ok()?, rules, asking })
    }

    /// As [`ByField::keep`].
    fn keep(&self, text: &str, found: &mut Candidates) -> bool {
        let asked = found.left.iter().zip(&self.asking).map(|(left, asking)| (left & asking).count_ones());
        if asked.sum::<u32>() <= FEW {
            return true;
        }
        let mut bits = std::mem::take(&mut found.scratch);
        bits.clear();
        bits.extend(self.asking.iter().map(|asking| !asking));
        self.all.matches(text.as_bytes()).iter().for_each(|nth| set(&mut bits, self.rules[nth]));
        let any = found.keep(&bits);
        found.scratch = bits;
        any
    }
}

/// The conditions at the top of a rule's match: the field, its test, and whether it must not hold.
fn comparisons(rule: &Rule) -> impl Iterator<Item = (&'static Field, &Test, bool)> {
    rule.matcher.0.iter().filter_map(|condition| match condition {
        Condition::Field { field, test, negated, .. } => Some((*field, test, *negated)),
        _ => None,
    })
}

fn count(bits: &[u64]) -> u32 {
    bits.iter().map(|word| word.count_ones()).sum()
}

fn set(bits: &mut [u64], at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{Control, SinkKind},
        rules::fixtures::{TODAY, record},
        yaml::render,
    };

    const CONDITIONS: [&str; 19] = [
        "asset.name: llm",
        "asset.name|not: [llm, other]",
        "asset.name|startswith: ll",
        "sink.control: [uncontrolled, unmetered]",
        "sink.control|not_in: [controlled, memory]",
        "sink.kind: peer",
        "sink.address|cidr: [203.0.113.0/24, '2001:db8::/32']",
        "sink.address: 203.0.113.9",
        "sink.address|not_cidr: 203.0.0.0/16",
        "sink.path|exists: false",
        "sink.path|not: /a",
        "sink.path|startswith: [/a, /b]",
        "sink.path|endswith: [.gz, Ü]",
        "sink.path|contains: /c",
        "sink.path|glob: ['/a/**/x.gz', '/[!b]/{c,d}*', '**/Ü']",
        "sink.path|re: ['^/a.[bc]', 'x\\.gz$', '(?i)X', '\\w/Ü']",
        "user.id|gte: 5",
        "none: [{sink.kind: peer}]",
        "any: [{sink.kind: peer}, {asset.name: other}]",
    ];

    /// With a line feed, which a file's name may have and `.` does not fit.
    const PATHS: [&str; 9] =
        ["/a", "/ab", "/a/c/x.gz", "/a/x.gz", "/b/x.gz", "/b/c/Ü", "/b/\n", "/a\nb", "/a/d/e"];

    fn set_of(rules: &[Vec<usize>], today: Date) -> RuleSet {
        let mut text = String::from("schema: 1\npack: test\nrules:\n");
        for (at, conditions) in rules.iter().enumerate() {
            let conditions: Vec<&str> = conditions.iter().map(|&at| CONDITIONS[at]).collect();
            text += &format!(
                "  - {{id: TEST-{at:04}, revision: 1, title: t, severity: low, status: test, mode: alert, owner: o, \
                 runbook: r, on: flow, group_by: [asset.name], match: {{{}}}}}\n",
                conditions.join(", ")
            );
        }
        RuleSet::parse(&[("t".into(), text)], today)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false)))
    }

    proptest! {
        // Each case compiles a set of rules.
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What matches is never ruled out. Each rule has each condition at most once, in any order.
        #[test]
        fn a_rule_that_matches_is_always_a_candidate(
            rules in prop::collection::vec(prop::sample::subsequence((0..CONDITIONS.len()).collect::<Vec<_>>(), 1..4), 1..70),
            events in prop::collection::vec((0usize..3, 0usize..4, 0usize..6, 0u32..9, 0..=PATHS.len()), 1..20),
        ) {
            let set = set_of(&rules, TODAY);
            let index = Index::new(&set, RecordKind::Flow);
            let mut found = Candidates::default();
            for (asset, kind, control, uid, path) in events {
                let record = record(RecordKind::Flow, |draft| {
                    draft.asset.name = ["llm", "other", "third"][asset].to_owned();
                    draft.sink_kind = [None, Some(SinkKind::File), Some(SinkKind::Peer), Some(SinkKind::Peer)][kind];
                    draft.sink_control = Control::ALL.get(control).copied();
                    draft.sink.peer = (kind == 2).then(|| ["203.0.113.9:1/tcp", "[2001:db8::1]:2/tcp"][asset % 2].to_owned());
                    draft.sink.path = PATHS.get(path).map(|path| (*path).to_owned());
                    draft.process.uid = uid;
                });
                index.candidates(&record, &mut found);
                let candidates: Vec<usize> = found.iter().collect();
                for (at, rule) in set.rules().iter().enumerate() {
                    prop_assert!(!rule.matcher.matches(&record) || candidates.contains(&at), "{}", rule.yaml());
                }
                prop_assert!(candidates.is_sorted());
            }
        }
    }

    #[test]
    fn most_rules_are_never_asked() {
        let rules: Vec<Vec<usize>> = (0..500).map(|at| vec![[0, 3, 5, 6][at % 4]]).collect();
        let set = set_of(&rules, TODAY);
        let mut found = Candidates::default();
        let mut left = |write: fn(&mut crate::rules::field::Draft)| {
            Index::new(&set, RecordKind::Flow).candidates(&record(RecordKind::Flow, write), &mut found);
            found.iter().count()
        };
        assert_eq!(left(|draft| draft.asset.name = "third".to_owned()), 0);
        assert_eq!(left(|_| {}), 125);
        let to_file = |draft: &mut crate::rules::field::Draft| draft.sink_kind = Some(SinkKind::File);
        assert_eq!(left(to_file), 250, "those of the asset, and those of an uncontrolled place");
    }

    #[test]
    fn nor_are_those_whose_pattern_does_not_fit() {
        let rules: Vec<Vec<usize>> = (0..500).map(|at| vec![[11, 12, 13, 14, 15][at % 5]]).collect();
        let index = Index::new(&set_of(&rules, TODAY), RecordKind::Flow);
        let mut found = Candidates::default();
        for (path, wanted) in [(None, 0), (Some("/zz"), 0), (Some("/zz/Ü"), 300), (Some("/c"), 100)] {
            let record = record(RecordKind::Flow, |draft| {
                draft.sink_kind = Some(SinkKind::File);
                draft.sink_control = Some(Control::Uncontrolled);
                draft.sink.path = path.map(str::to_owned);
            });
            index.candidates(&record, &mut found);
            assert_eq!(found.iter().count(), wanted, "{path:?}");
        }
    }
}
