//! Why an exception holds for a record, or does not: condition by condition. It must not know alerts nor how they are shown.

use super::{
    exception::Exception,
    matcher::{Condition, Matcher},
};
use crate::event::Record;

/// One condition at the top of an exception's match, and what a record says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// The condition in plain words; several lines when it nests others.
    pub condition: Vec<String>,
    pub holds: bool,
    /// The field and its value in the record; no value when it is not known, and no field for what nests others.
    pub found: Option<(&'static str, Option<String>)>,
}

impl Exception {
    /// Whether it covers a record.
    #[must_use]
    pub fn covers(&self, record: &Record) -> bool {
        self.matcher.matches(record)
    }

    /// Each of its conditions held against a record.
    #[must_use]
    pub fn weigh(&self, record: &Record) -> Vec<Weighed> {
        let mut words = self.conditions().into_iter().peekable();
        let mut all = Vec::new();
        for condition in &self.matcher.0 {
            let mut text: Vec<String> = words.next().into_iter().collect();
            // What nests others is followed by them, indented.
            while let Some(inner) = words.next_if(|line| line.starts_with(' ')) {
                text.push(inner);
            }
            let found = match condition {
                Condition::Field { field, .. } => {
                    Some((field.name, (field.get)(record).map(|value| value.to_text())))
                }
                _ => None,
            };
            all.push(Weighed { condition: text, holds: Matcher::one(condition, record), found });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        event::RecordKind,
        rules::{
            RuleSet,
            fixtures::{TODAY, record},
        },
        yaml::render,
    };

    #[test]
    fn each_condition_is_held_against_the_record() {
        let text = "schema: 1
pack: test
rules:
  - id: TEST-0001
    revision: 1
    title: A rule
    severity: low
    status: test
    mode: alert
    owner: soc
    runbook: none
    on: take
    match: {asset.kind: weights}
    group_by: [asset.name]
exceptions:
  - id: EX-1
    rules: [TEST-0001]
    match: {any: [{user.id: 1}, {user.id: 2}], service.unit: backup.service, container.id|not: c1}
    owner: soc
    reason: a reason it has
    expires: 2026-12-01
";
        let set = RuleSet::parse(&[("t".into(), text.to_owned())], TODAY)
            .unwrap_or_else(|faults| panic!("{}", render(&faults, false)));
        let exception = &set.rules()[0].exceptions[0];
        let record = record(RecordKind::Take, |draft| {
            draft.process.uid = 2;
            draft.process.unit = Some("cron.service".to_owned());
        });
        assert!(!exception.covers(&record));
        let said: Vec<_> = exception
            .weigh(&record)
            .into_iter()
            .map(|one| (one.condition.join("/"), one.holds, one.found))
            .collect();
        let found = |field, value: Option<&str>| Some((field, value.map(str::to_owned)));
        assert!(said[0].1);
        assert_eq!(said[0].0.split('/').next(), Some("one of these holds:"));
        assert_eq!(said[0].0.split('/').count(), 4);
        assert_eq!((said[1].1, said[1].2.clone()), (false, found("service.unit", Some("cron.service"))));
        // A container that is not known buys no exemption.
        assert_eq!((said[2].1, said[2].2.clone()), (false, found("container.id", None)));
    }
}
