//! Makes one set of several files: every rule with the overrides and exceptions that name it, whichever file they stand
//! in. The order of the files carries no meaning. It must not know where files come from.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::civil::Date;

use super::{
    RuleSet,
    exception::Exception,
    parse::{Contents, read_file},
    rule::{Mode, Rule, Status},
    rule_parse,
    set::MAX_RULES,
    testing::{RuleTest, Suite},
    tuning::{self, Override},
};
use crate::{
    event::RecordKind,
    yaml::{self, Check, Diagnostic, Node, Source, Weight, suggest},
};

const EXPIRED: &str = "it has expired";

/// A file and what was found in it so far.
struct File<'n> {
    check: Check,
    contents: Contents<'n>,
}

/// Reads texts as one set, without its digest.
///
/// # Errors
/// Everything that is wrong with any of them, and then also what is only worth a warning.
pub(super) fn assemble(sources: &[(PathBuf, String)], today: Date) -> Result<RuleSet, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let mut roots: Vec<(Arc<Source>, Node)> = Vec::new();
    for (file, text) in sources {
        match yaml::parse(file, text) {
            Ok(read) => roots.push(read),
            Err(more) => faults.extend(more),
        }
    }
    let mut files: Vec<File<'_>> = Vec::new();
    for (source, root) in &roots {
        let mut check = Check::new(Arc::clone(source));
        let contents = read_file(&mut check, root);
        files.push(File { check, contents });
    }
    // A rule that could not be read is no rule that does not exist.
    let lenient = !faults.is_empty() || files.iter().any(|file| file.check.has_faults());
    faults.extend(check_ids(&files));
    let known: Vec<(String, RecordKind)> = files
        .iter()
        .flat_map(|file| &file.contents.rules)
        .map(|(_, rule)| (rule.facts.id.clone(), rule.on))
        .collect();
    let known: Vec<(&str, RecordKind)> = known.iter().map(|(id, kind)| (id.as_str(), *kind)).collect();
    let overrides = read_overrides(&mut files, &known, today, lenient);
    let exceptions = read_exceptions(&mut files, &known, today, lenient);
    if !lenient {
        let of_site = exceptions.iter().flat_map(|(_, one)| one.tests.iter().map(|test| (&one.source, test)));
        let of_site = of_site
            .chain(overrides.iter().flat_map(|(_, one)| one.tests.iter().map(|test| (&one.source, test))));
        faults.extend(of_site.flat_map(|(source, test)| check_expected(source, test, &known, "no rule")));
    }
    faults.extend(check_exception_ids(&exceptions));
    let mut replaced = if lenient { BTreeMap::new() } else { apply(&mut files, &overrides, today) };

    let mut set = RuleSet::default();
    let mut of_site: Vec<Suite> = Vec::new();
    for (_, one) in &overrides {
        of_site.push(Suite {
            owner: format!("override of {}", one.rule),
            about: vec![one.rule.to_owned()],
            rules: Arc::default(),
            tests: Arc::clone(&one.tests),
            source: Arc::clone(&one.source),
            skipped: (one.facts.expires < today).then_some(EXPIRED),
        });
        set.overrides.push(one.facts.clone());
    }
    drop(overrides);
    let mut rules: Vec<(usize, Rule)> = Vec::new();
    for (at, file) in files.iter_mut().enumerate() {
        set.packs.extend(file.contents.pack.take());
        rules.extend(std::mem::take(&mut file.contents.rules).into_iter().map(|(_, rule)| (at, rule)));
    }
    set.packs.sort();
    set.packs.dedup();
    if let Some((_, first_too_many)) = rules.get(MAX_RULES) {
        let message = format!("more than {MAX_RULES} rules");
        let fault = Diagnostic::at(&first_too_many.source, first_too_many.span, message);
        faults.push(fault.help("write fewer rules with more in each"));
    }
    for (at, exception) in
        exceptions.iter().filter(|(at, _)| !files[*at].check.has_faults()).collect::<Vec<_>>()
    {
        check_tested(&mut files[*at].check, exception, *at, &rules);
    }
    for file in files {
        faults.extend(file.check.into_faults());
    }
    let is_wrong = faults.iter().any(|fault| fault.weight == Weight::Error);
    if is_wrong {
        faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        return Err(faults);
    }

    // The rules of a file are tested with the exceptions of that file and without overrides, so that what a site says
    // breaks no test of a pack; what a site says is tested against everything.
    let in_force = |id: &str, file: Option<usize>| -> Vec<Arc<Exception>> {
        let all = exceptions.iter().filter(|(at, one)| {
            one.facts.expires >= today
                && file.is_none_or(|file| file == *at)
                && one.facts.rules.iter().any(|rule| rule == id)
        });
        all.map(|(_, one)| Arc::clone(one)).collect()
    };
    let mut by_file: BTreeMap<usize, Vec<Arc<Rule>>> = BTreeMap::new();
    for (at, rule) in rules {
        let id = rule.facts.id.clone();
        let (own, all) = (in_force(&id, Some(at)), in_force(&id, None));
        let effective = match replaced.remove(&id) {
            Some(effective) => Some(effective),
            None if own.len() == all.len() => None,
            None => Some(rule.clone()),
        };
        let own = Arc::new(Rule { exceptions: own, ..rule });
        let effective =
            effective.map_or_else(|| Arc::clone(&own), |rule| Arc::new(Rule { exceptions: all, ..rule }));
        by_file.entry(at).or_default().push(own);
        set.rules.push(effective);
    }
    for rules in by_file.into_values() {
        let together: Arc<[Arc<Rule>]> = rules.clone().into();
        for rule in rules.iter().filter(|rule| !rule.tests.is_empty()) {
            set.suites.push(Suite {
                owner: rule.facts.id.clone(),
                about: vec![rule.facts.id.clone()],
                rules: Arc::clone(&together),
                tests: Arc::clone(&rule.tests),
                source: Arc::clone(&rule.source),
                skipped: (rule.facts.mode == Mode::Off).then_some("the rule is off"),
            });
        }
    }
    for (_, exception) in &exceptions {
        of_site.push(Suite {
            owner: exception.facts.id.clone(),
            about: exception.facts.rules.clone(),
            rules: Arc::default(),
            tests: Arc::clone(&exception.tests),
            source: Arc::clone(&exception.source),
            skipped: (exception.facts.expires < today).then_some(EXPIRED),
        });
    }
    let everything: Arc<[Arc<Rule>]> = set.rules.clone().into();
    set.suites.extend(of_site.into_iter().map(|suite| Suite { rules: Arc::clone(&everything), ..suite }));
    set.exceptions = exceptions.into_iter().map(|(_, exception)| exception).collect();
    set.warnings = faults;
    Ok(set)
}

fn read_overrides<'n>(
    files: &mut [File<'n>],
    known: &[(&str, RecordKind)],
    today: Date,
    lenient: bool,
) -> Vec<(usize, Override<'n>)> {
    let mut overrides: Vec<(usize, Override<'n>)> = Vec::new();
    for (at, file) in files.iter_mut().enumerate() {
        for node in file.contents.overrides {
            let Some(one) = tuning::read_override(&mut file.check, node, today) else { continue };
            if !lenient && known.iter().all(|(id, _)| *id != one.rule) {
                tuning::unknown_rule(&mut file.check, one.rule_span, one.rule, known);
            }
            for entry in one.set {
                let others = overrides.iter().filter(|(_, other)| other.rule == one.rule);
                let clash = others.flat_map(|(_, other)| other.set.iter().map(move |set| (other, set)));
                if let Some((other, _)) = clash.into_iter().find(|(_, set)| is_within(&set.key, &entry.key)) {
                    let message = format!("a second override replaces `{}` of {}", entry.key, one.rule);
                    let place = place(&other.source, other.span);
                    file.check.error(
                        entry.key_span,
                        message,
                        format!("the first is at {place}: keep one of the two"),
                    );
                }
            }
            overrides.push((at, one));
        }
    }
    overrides
}

/// Whether one path is the other one or stands inside of it.
fn is_within(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn read_exceptions(
    files: &mut [File<'_>],
    known: &[(&str, RecordKind)],
    today: Date,
    lenient: bool,
) -> Vec<(usize, Arc<Exception>)> {
    let mut exceptions = Vec::new();
    for (at, file) in files.iter_mut().enumerate() {
        let File { check, contents } = file;
        for node in contents.exceptions {
            let read = tuning::read_exception(check, &contents.lists, node, today, known, lenient);
            exceptions.extend(read.map(|exception| (at, Arc::new(exception))));
        }
    }
    exceptions
}

/// The rules as the overrides that hold make them, by id.
fn apply(files: &mut [File<'_>], overrides: &[(usize, Override<'_>)], today: Date) -> BTreeMap<String, Rule> {
    let mut written: BTreeMap<&str, (usize, Node)> = BTreeMap::new();
    for (of, one) in overrides.iter().filter(|(_, one)| one.facts.expires >= today) {
        let found = files.iter().enumerate().find_map(|(at, file)| {
            let mut rules = file.contents.rules.iter();
            rules.find(|(_, rule)| rule.facts.id == one.rule).map(|(node, _)| (at, (*node).clone()))
        });
        let Some(found) = found else { continue };
        let (_, node) = written.entry(one.rule).or_insert(found);
        tuning::apply(&mut files[*of].check, node, one.set);
    }
    let mut replaced = BTreeMap::new();
    for (id, (at, node)) in written {
        // Its faults would point into the rule's file, at values that do not stand there.
        let mut check = Check::new(Arc::clone(files[at].check.source()));
        let rule = rule_parse::rule(&mut check, &files[at].contents.lists, &node);
        if check.has_faults() {
            let first = check.into_faults().into_iter().find(|fault| fault.weight == Weight::Error);
            let (message, help) = first.map_or_else(Default::default, |fault| (fault.message, fault.help));
            for (of, one) in overrides.iter().filter(|(_, one)| one.rule == id && one.facts.expires >= today)
            {
                let message = format!("with this override {id} is no rule: {message}");
                let help = help.clone().unwrap_or_else(|| "replace it with another value".to_owned());
                files[*of].check.error(
                    one.set.first().map_or(one.span, |entry| entry.value.span),
                    message,
                    help,
                );
            }
        } else if let Some(rule) = rule {
            replaced.insert(id.to_owned(), rule);
        }
    }
    replaced
}

/// Refuses ids that are used twice, in one file or in several, and tests that expect rules which are not in their file.
fn check_ids(files: &[File<'_>]) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<&str, &Rule> = BTreeMap::new();
    for file in files {
        let rules = &file.contents.rules;
        let known: Vec<(&str, RecordKind)> =
            rules.iter().map(|(_, rule)| (rule.facts.id.as_str(), rule.on)).collect();
        for (_, rule) in rules {
            if let Some(first) = seen.insert(&rule.facts.id, rule) {
                let message = format!("a second rule has the id {}", rule.facts.id);
                let place = place(&first.source, first.span);
                let help =
                    format!("the first is at {place}: remove one of the two or give it an id of its own");
                faults.push(Diagnostic::at(&rule.source, rule.span, message).help(help));
            }
            let tests = rule.tests.iter();
            faults.extend(
                tests.flat_map(|test| check_expected(&rule.source, test, &known, "no rule of this file")),
            );
        }
    }
    faults
}

fn check_expected(
    source: &Arc<Source>,
    test: &RuleTest,
    known: &[(&str, RecordKind)],
    nobody: &str,
) -> Vec<Diagnostic> {
    let known: Vec<&str> = known.iter().map(|(id, _)| *id).collect();
    let unknown = test.expect.iter().filter(|expected| !known.contains(&expected.rule.as_str()));
    unknown
        .map(|expected| {
            let message = format!("{nobody} has the id `{}`", expected.rule);
            Diagnostic::at(source, expected.span, message).help(suggest(&expected.rule, &known))
        })
        .collect()
}

fn check_exception_ids(exceptions: &[(usize, Arc<Exception>)]) -> Vec<Diagnostic> {
    let mut seen: BTreeMap<&str, &Exception> = BTreeMap::new();
    let mut faults = Vec::new();
    for (_, exception) in exceptions {
        if let Some(first) = seen.insert(&exception.facts.id, exception) {
            let message = format!("a second exception has the id {}", exception.facts.id);
            let place = place(&first.source, first.span);
            let help = format!("the first is at {place}: remove one of the two or give it an id of its own");
            faults.push(Diagnostic::at(&exception.source, exception.span, message).help(help));
        }
    }
    faults
}

/// An exception needs a test that it covers: where one of its rules is stable and stands in the same file it must have one,
/// elsewhere it should.
fn check_tested(check: &mut Check, exception: &Exception, at: usize, rules: &[(usize, Rule)]) {
    let id = &exception.facts.id;
    let named = |rule: &&(usize, Rule)| exception.facts.rules.contains(&rule.1.facts.id);
    let in_file = rules.iter().filter(|(file, _)| *file == at).flat_map(|(_, rule)| rule.tests.iter());
    let mut tests = exception.tests.iter().chain(in_file);
    let is_tested =
        tests.any(|test| test.expect.iter().any(|expected| expected.exception.as_ref() == Some(id)));
    if is_tested {
        return;
    }
    let is_needed =
        rules.iter().filter(named).any(|(file, rule)| *file == at && rule.facts.status == Status::Stable);
    let message = format!("no test shows what {id} covers");
    let fault = Diagnostic::at(check.source(), exception.span, message).help(format!(
        "add `tests` with an event that it covers and `expect: [{{rule: …, severity: …, exception: {id}}}]`"
    ));
    check.push(if is_needed { fault } else { fault.warning() });
}

fn place(source: &Source, span: yaml::Span) -> String {
    format!("{}:{}:{}", source.file.display(), span.line, span.column)
}
