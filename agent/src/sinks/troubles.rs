//! Which sinks are in trouble for long enough that the others must say so, and which are well again.
//!
//! Pure: takes the time with every call. A sink that flaps is one trouble, not many.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Trouble;

/// A network sink may be restarted, and a name server slow, without anybody being told.
const PATIENCE: Duration = Duration::from_secs(30);
/// The record of all alerts is another matter.
const FILE_PATIENCE: Duration = Duration::ZERO;
/// It must go well for so long.
const WELL: Duration = Duration::from_secs(60);

/// What became of a sink, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is in trouble, or in another one than before; `is_file` for the record of all alerts.
    Trouble { name: String, why: String, is_file: bool },
    /// It delivers again.
    Well { name: String },
}

/// Remembers who was told of what.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// What was said, and when it was last true.
    said: BTreeMap<String, (String, Instant)>,
}

impl Troubles {
    /// Takes every sink's name, whether it is a file, and its trouble.
    pub(super) fn watch(
        &mut self,
        sinks: impl IntoIterator<Item = (String, bool, Option<Trouble>)>,
        now: Instant,
    ) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (name, is_file, trouble) in sinks {
            let patience = if is_file { FILE_PATIENCE } else { PATIENCE };
            match trouble {
                Some(Trouble { since, why }) => match self.said.get_mut(&name) {
                    Some((_, last)) => *last = now,
                    None if now.saturating_duration_since(since) >= patience => {
                        self.said.insert(name.clone(), (why.clone(), now));
                        turns.push(Turn::Trouble { name, why, is_file });
                    }
                    None => {}
                },
                None => {
                    let is_well = self
                        .said
                        .get(&name)
                        .is_some_and(|(_, last)| now.saturating_duration_since(*last) >= WELL);
                    if is_well {
                        self.said.remove(&name);
                        turns.push(Turn::Well { name });
                    }
                }
            }
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_at_once_a_network_sink_after_a_while_and_flapping_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut troubles = Troubles::default();
        let mut watch = |is_file, since: Option<u64>, now| {
            let trouble = since.map(|since| Trouble { since: at(since), why: "full".to_owned() });
            troubles.watch([("x".to_owned(), is_file, trouble)], at(now))
        };
        assert_eq!(watch(false, Some(0), 29), []);
        let said = Turn::Trouble { name: "x".to_owned(), why: "full".to_owned(), is_file: false };
        assert_eq!(watch(false, Some(0), 30), [said]);
        assert_eq!(watch(false, Some(0), 40), []);
        assert_eq!(watch(false, None, 99), [], "not well for long enough");
        assert_eq!(watch(false, Some(99), 99), []);
        assert_eq!(watch(false, None, 159), [Turn::Well { name: "x".to_owned() }]);
        assert_eq!(watch(true, Some(160), 160).len(), 1, "the record itself");
    }
}
