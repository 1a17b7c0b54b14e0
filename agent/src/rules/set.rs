//! The rules that are in force together: loading them from files, putting overrides and exceptions in their places, and
//! naming the set by its digest. It must not know what a single rule means.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::civil::Date;
use ring::digest::{SHA256, digest};

use super::{assemble::assemble, exception::Exception, rule::Rule, testing::Suite, tuning::OverrideFacts};
use crate::yaml::{self, Diagnostic};

/// Most files that one set is read from.
const MAX_FILES: usize = 256;
/// Most rules of one set.
pub(super) const MAX_RULES: usize = 1024;

/// Rules that were checked together. Their order carries no meaning.
#[derive(Debug, Default)]
pub struct RuleSet {
    pub(super) rules: Vec<Arc<Rule>>,
    /// Expired ones too.
    pub(super) exceptions: Vec<Arc<Exception>>,
    /// Expired ones too.
    pub(super) overrides: Vec<OverrideFacts>,
    pub(super) suites: Vec<Suite>,
    pub(super) warnings: Vec<Diagnostic>,
    pub(super) packs: Vec<String>,
    digest: String,
    sources: Vec<(PathBuf, String)>,
    read_on: Option<Date>,
}

impl RuleSet {
    /// Loads rules from files, and from the `*.yaml` and `*.yml` files directly in directories. `today`, in UTC, decides
    /// which overrides and exceptions hold.
    ///
    /// # Errors
    /// Everything that is wrong with any of them. There is no half of a set.
    pub fn load(paths: &[PathBuf], today: Date) -> Result<Self, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for path in paths {
            match files_of(path) {
                // A file that is named twice, or beside its directory, is one file.
                Ok(found) => {
                    files.extend(found.into_iter().filter(|file| !files.contains(file)).collect::<Vec<_>>())
                }
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(first_too_many) = files.get(MAX_FILES) {
            let message = format!("more than {MAX_FILES} files of rules");
            faults.push(Diagnostic::of_file(first_too_many, message).help("put several rules into one file"));
            return Err(faults);
        }
        let mut sources = Vec::new();
        for file in files {
            match yaml::read(&file) {
                Ok(text) => sources.push((file, text)),
                Err(fault) => faults.push(fault),
            }
        }
        match Self::parse(&sources, today) {
            Ok(set) if faults.is_empty() => {
                if set.rules.is_empty() {
                    let place = paths.first().map_or_else(|| PathBuf::from("rules"), Clone::clone);
                    let message = "no rules were found: the agent would see everything and say nothing";
                    let help = "list the rules that came with the agent under `rules` in the configuration";
                    return Err(vec![Diagnostic::of_file(place, message).help(help)]);
                }
                Ok(set)
            }
            Ok(_) => Err(faults),
            Err(more) => {
                faults.extend(more);
                Err(faults)
            }
        }
    }

    /// Reads rules from texts; the paths are only their names.
    ///
    /// # Errors
    /// Everything that is wrong with any of them.
    pub fn parse(sources: &[(PathBuf, String)], today: Date) -> Result<Self, Vec<Diagnostic>> {
        let set = assemble(sources, today)?;
        let mut digests: Vec<String> = sources.iter().map(|(_, text)| sha256(text.as_bytes())).collect();
        digests.sort_unstable();
        let digest = sha256(digests.concat().as_bytes());
        Ok(Self { digest, sources: sources.to_vec(), read_on: Some(today), ..set })
    }

    /// The same files as they were read, on another day: what has expired since is not in force any more. `None` when
    /// that changes nothing.
    ///
    /// # Errors
    /// As for [`RuleSet::parse`].
    pub fn renewed(&self, today: Date) -> Option<Result<Self, Vec<Diagnostic>>> {
        let read_on = self.read_on?;
        let expires = self.exceptions.iter().map(|exception| exception.facts.expires);
        let mut expires = expires.chain(self.overrides.iter().map(|one| one.expires));
        let changes = expires.any(|last| last >= read_on && last < today);
        // A clock that is set back must not give them their time again.
        (changes && today > read_on).then(|| Self::parse(&self.sources, today))
    }

    /// Some rules of a set, for the tests inside of them.
    pub(crate) fn of(rules: Vec<Arc<Rule>>) -> Self {
        Self { rules, ..Self::default() }
    }

    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Expired ones too; see [`RuleSet::holds`].
    #[must_use]
    pub fn exceptions(&self) -> &[Arc<Exception>] {
        &self.exceptions
    }

    /// Expired ones too; see [`RuleSet::holds`].
    #[must_use]
    pub fn overrides(&self) -> &[OverrideFacts] {
        &self.overrides
    }

    /// Whether an override or exception that expires on a day is in force.
    #[must_use]
    pub fn holds(&self, expires: Date) -> bool {
        self.read_on.is_none_or(|today| expires >= today)
    }

    /// Days for which something that expires on a day holds still.
    #[must_use]
    pub fn days_left(&self, expires: Date) -> i32 {
        let left = self.read_on.and_then(|today| today.until((jiff::Unit::Day, expires)).ok());
        left.map_or(0, |span| span.get_days().max(0))
    }

    /// What somebody should look at, though nothing is wrong.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Names of the packs, sorted.
    #[must_use]
    pub fn packs(&self) -> &[String] {
        &self.packs
    }

    /// SHA-256 in hex over the sorted SHA-256 (hex) of the files' texts: the same rules have the same digest, wherever
    /// they lie and in whatever order they were read.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The files of rules at a path, sorted by name.
fn files_of(path: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    yaml::check_directory(path)?;
    let failed = |error: std::io::Error| {
        Diagnostic::of_file(path, format!("cannot list the directory: {}", error.kind()))
    };
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let is_hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml && !is_hidden {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        rules::{fixtures::TODAY, run_tests},
        yaml::render,
    };

    fn core() -> RuleSet {
        RuleSet::load(&["../rules".into()], TODAY)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false)))
    }

    #[test]
    fn the_built_in_rules_pass_their_own_tests() {
        let set = core();
        let ids: Vec<&str> = set.rules().iter().map(|rule| rule.facts.id.as_str()).collect();
        let wanted = (1..=11).map(|number| format!("WB-{number:04}")).collect::<Vec<_>>();
        assert_eq!(ids, wanted);
        let outcomes = run_tests(&set);
        assert!(outcomes.len() > 15);
        let failures: Vec<Diagnostic> = outcomes.into_iter().filter_map(|outcome| outcome.failure).collect();
        assert!(failures.is_empty(), "{}", render(&failures, false));
    }

    #[test]
    fn every_built_in_rule_has_its_runbook_and_technique() {
        for rule in core().rules() {
            assert!(Path::new("..").join(&rule.facts.runbook).is_file(), "{}", rule.facts.runbook);
            assert!(rule.facts.techniques().next().is_some());
        }
    }

    /// Rules for acts and for what the host sent, with tests that fire and tests that stay silent.
    #[test]
    fn rules_without_bytes() {
        let text = r#"
schema: 1
pack: test
rules:
  - id: TEST-0006
    revision: 1
    title: Somebody reached into a holder
    severity: high
    status: stable
    mode: alert
    owner: soc
    runbook: none
    on: act
    match: {act.class: reach, victim.user.id|not: 0}
    group_by: [asset.name, act.kind, process.executable, victim.executable]
    tests:
      - name: each identity fires once
        events:
          - {at: 0s, act: {kind: ptrace}, asset: {name: llm, bytes: 141GB}, process: {executable: /usr/bin/gdb}, victim: {executable: /usr/bin/vllm, user: {id: 7}}, taken: 2GiB}
          - {at: 1s, act: {kind: ptrace}, asset: {name: llm, bytes: 141GB}, process: {executable: /usr/bin/gdb}, victim: {executable: /usr/bin/vllm, user.id: 7}, taken: 2GiB}
          - {at: 2s, act: {kind: proc_mem}, asset: {name: llm, bytes: 141GB}, process: {executable: /usr/bin/gdb}, victim: {executable: /usr/bin/vllm}}
        expect: [{rule: TEST-0006, severity: high, count: 1, between: [0s, 0s]}]
      - name: a victim that is not known still fires
        events: [{at: 0s, act: {kind: core_dump}, asset: {name: llm, bytes: 141GB}}]
        expect: [{rule: TEST-0006, severity: high}]
      - name: another class is silent, and so is a flow
        events:
          - {at: 0s, act: {kind: lost, target: ringbuf}}
          - {at: 0s, bound: 2GiB, asset: {name: llm, bytes: 141GB}}
        expect: []
  - id: TEST-0009
    revision: 1
    title: The host sent a lot
    severity: high
    status: stable
    mode: alert
    owner: soc
    runbook: none
    on: egress
    match: {sink.control|not: controlled, sink.address|not_cidr: 10.0.0.0/8}
    aggregate: {sum: bytes, by: [asset.name], over: 1h, tiers: [{gte_share: 0.01, floor: 1GiB, severity: high}]}
    group_by: [asset.name]
    tests:
      - name: two peers add up
        events:
          - {at: 0s, egress: 700MB, asset: {name: llm, bytes: 141GB}, sink: {peer: 203.0.113.9}}
          - {at: 1s, egress: 800MB, asset: {name: llm, bytes: 141GB}, sink: {peer: "2001:db8::1"}}
        expect: [{rule: TEST-0009, severity: high, between: [1s, 1s]}]
      - name: inside is silent
        events:
          - {at: 0s, egress: 2GiB, asset: {name: llm, bytes: 141GB}, sink: {peer: 10.1.2.3}}
          - {at: 0s, egress: 2GiB, asset: {name: llm, bytes: 141GB}, sink: {control: controlled, peer: 203.0.113.9}}
        expect: []
"#;
        let set = RuleSet::parse(&[("test.yaml".into(), text.to_owned())], TODAY)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false)));
        let outcomes = run_tests(&set);
        assert_eq!(outcomes.len(), 5);
        let failures: Vec<Diagnostic> = outcomes.into_iter().filter_map(|outcome| outcome.failure).collect();
        assert!(failures.is_empty(), "{}", render(&failures, false));
    }

    #[test]
    fn the_digest_is_of_the_rules_and_not_of_their_place() {
        let text = std::fs::read_to_string("../rules/core.yaml").expect("the built-in rules");
        let other = text.replace("WB-", "AB-");
        let digest = |sources: &[(&str, &String)]| {
            let sources: Vec<_> = sources.iter().map(|(name, text)| (name.into(), (*text).clone())).collect();
            RuleSet::parse(&sources, TODAY).expect("they are right").digest().to_owned()
        };
        let both = digest(&[("a", &text), ("b", &other)]);
        assert_eq!(both, digest(&[("x", &other), ("y", &text)]));
        assert_eq!(both.len(), 64);
        assert_ne!(both, digest(&[("a", &text)]));
    }

    /// What the page shows is what works: each block of YAML beside the built-in rules, with its tests.
    #[test]
    fn the_examples_of_the_tuning_page_work() {
        let page = std::fs::read_to_string("../docs/tuning.md").expect("the page is there");
        let core = std::fs::read_to_string("../rules/core.yaml").expect("the built-in rules");
        let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let mut count = 0;
        for block in blocks {
            let sources = [("core.yaml".into(), core.clone()), ("site.yaml".into(), block.to_owned())];
            let set =
                RuleSet::parse(&sources, TODAY).unwrap_or_else(|faults| panic!("{}", render(&faults, false)));
            assert!(set.warnings().is_empty(), "{}", render(set.warnings(), false));
            let failures: Vec<Diagnostic> =
                run_tests(&set).into_iter().filter_map(|test| test.failure).collect();
            assert!(failures.is_empty(), "{}", render(&failures, false));
            count += 1;
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn a_set_without_rules_is_refused() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(scratch.path().join("README.md"), "not rules").expect("write");
        let faults = RuleSet::load(&[scratch.path().to_owned()], TODAY).expect_err("nothing to load");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.starts_with("no rules were found"));
        let faults = RuleSet::load(&[scratch.path().join("absent")], TODAY).expect_err("nothing to load");
        assert_eq!(faults[0].message, "cannot find the file: no such file or directory");
    }

    /// Every file of the corpus is refused, and in words that do not change unseen.
    #[test]
    fn invalid_rules() {
        yaml::corpus::check("rules", |file| match RuleSet::load(&[file.to_owned()], TODAY) {
            Err(faults) => Some(faults),
            // Rules that are well formed and fail their own tests.
            Ok(set) => {
                let failures: Vec<_> = run_tests(&set).into_iter().filter_map(|test| test.failure).collect();
                (!failures.is_empty()).then_some(failures)
            }
        });
    }

    proptest! {
        // Each case reads the whole file of built-in rules.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_rules_never_panic_and_every_fault_has_a_place(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ \\[\\]{}:,&*!|$\"0-9a-zA-Zü\n-]{0,6}"), 1..6),
        ) {
            let mut text: Vec<char> = std::fs::read_to_string("../rules/core.yaml").expect("the built-in rules").chars().collect();
            for (at, length, new) in edits {
                let at = at.index(text.len());
                let end = (at + length).min(text.len());
                text.splice(at..end, new.chars());
            }
            let text: String = text.into_iter().collect();
            if let Err(faults) = RuleSet::parse(&[("core.yaml".into(), text)], TODAY) {
                prop_assert!(!faults.is_empty());
                for fault in &faults {
                    prop_assert!(fault.line > 0 || fault.message.contains("more errors") , "{}", fault);
                }
                let _ = render(&faults, false);
            }
        }
    }
}
