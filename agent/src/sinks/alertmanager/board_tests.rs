//! Lives of alerts, with a virtual clock and an instance that answers as told.

use proptest::prelude::*;
use serde_json::json;

use super::{super::notice::as_text, *};

const SECOND: i64 = 1000;
const RESEND: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_secs(600);

fn notice(finding: &str, severity: &str, at: i64) -> Notice {
    Notice {
        closes: false,
        finding: finding.to_owned(),
        labels: [("alertname", "A"), ("group", finding), ("severity", severity)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>()
            .into(),
        annotations: as_text(&[("bytes".to_owned(), at.to_string())].into()),
        starts_ms: at,
        last_ms: at,
        suppress_ms: None,
    }
}

fn close(finding: &str, severity: &str, at: i64) -> Notice {
    Notice { closes: true, ..notice(finding, severity, at) }
}

/// A board with what it had kept.
struct Desk {
    board: Board,
    spool: BTreeMap<u64, Vec<u8>>,
}

impl Desk {
    fn read(spool: &BTreeMap<u64, Vec<u8>>, key: u64) -> Option<Words> {
        spool.get(&key).map(|bytes| serde_json::from_slice::<Record>(bytes).unwrap().words)
    }

    fn observe(&mut self, notice: Notice) -> u64 {
        let Self { board, spool } = self;
        let dropped = board.observe(notice, &mut |key| Self::read(spool, key));
        self.keep();
        dropped
    }

    fn advance(&mut self, now: i64) {
        self.board.advance(now);
        self.keep();
    }

    fn batch(&self, now: i64) -> Option<Batch> {
        self.board.batch(now, &mut |key| Self::read(&self.spool, key))
    }

    fn answered(&mut self, batch: &Batch, verdict: Verdict, now: i64) -> Outcome {
        let outcome = self.board.answered(batch, verdict, now);
        self.keep();
        outcome
    }

    fn keep(&mut self) {
        for (key, change) in self.board.changes() {
            let record = match change {
                Change::Gone => {
                    self.spool.remove(&key);
                    continue;
                }
                Change::Moved(times) => Record { words: Self::read(&self.spool, key).unwrap(), times },
                Change::Said(record) => record,
            };
            self.spool.insert(key, serde_json::to_vec(&record).unwrap());
        }
    }

    /// What the next run knows.
    fn restart(self) -> Self {
        let mut board = Board::new(RESEND, HOLD);
        for (key, bytes) in &self.spool {
            board.restore(*key, &serde_json::from_slice(bytes).unwrap());
        }
        Self { board, ..self }
    }

    fn label(&self, key: u64, name: &str) -> String {
        Self::read(&self.spool, key).unwrap().labels[name].clone()
    }
}

fn board() -> Desk {
    Desk { board: Board::new(RESEND, HOLD), spool: BTreeMap::new() }
}

/// Severity, and whether it says resolved.
fn said(board: &Desk, batch: &Batch) -> Vec<(String, bool)> {
    batch.said.iter().map(|(key, resolved)| (board.label(*key, SEVERITY), *resolved)).collect()
}

/// Takes everything that is due.
fn push(board: &mut Desk, now: i64) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    board.advance(now);
    while let Some(batch) = board.batch(now) {
        all.extend(said(board, &batch));
        board.answered(&batch, Verdict::Taken, now);
    }
    all
}

fn firing(severity: &str) -> (String, bool) {
    (severity.to_owned(), false)
}

fn resolved(severity: &str) -> (String, bool) {
    (severity.to_owned(), true)
}

#[test]
fn an_alert_fires_is_renewed_escalates_and_is_resolved_once_it_was_held() {
    let mut board = board();
    board.observe(notice("f", "medium", 0));
    assert_eq!(push(&mut board, 0), [firing("medium")]);
    assert_eq!(push(&mut board, 59 * SECOND), []);
    assert_eq!(push(&mut board, 60 * SECOND), [firing("medium")]);
    board.observe(notice("f", "high", 61 * SECOND));
    assert_eq!(push(&mut board, 61 * SECOND), [firing("high")], "the lower one is not resolved by it");
    board.observe(close("f", "high", 70 * SECOND));
    assert_eq!(
        push(&mut board, 669 * SECOND),
        [firing("medium"), firing("high")],
        "held after the last match"
    );
    assert_eq!(push(&mut board, 670 * SECOND), [resolved("medium"), resolved("high")]);
    assert_eq!(push(&mut board, 730 * SECOND), [resolved("medium"), resolved("high")], "told again");
    assert_eq!(push(&mut board, 670 * SECOND + RESOLVED_AGAIN_MS), []);
    let Desk { board, spool } = board;
    assert!(board.entries.is_empty() && board.by_labels.is_empty() && board.by_finding.is_empty());
    assert!(spool.is_empty());
}

#[test]
fn an_instance_that_was_away_for_a_whole_finding_is_told_that_it_fired() {
    let mut board = board();
    board.observe(notice("f", "medium", 0));
    board.observe(notice("f", "high", SECOND));
    board.observe(close("f", "high", 2 * SECOND));
    board.advance(9000 * SECOND);
    let batch = board.batch(9000 * SECOND).unwrap();
    assert_eq!(board.answered(&batch, Verdict::Failed, 9000 * SECOND), Outcome::default());
    assert_eq!(push(&mut board, 9001 * SECOND), [firing("medium"), firing("high")]);
    assert_eq!(
        push(&mut board, 9600 * SECOND),
        [firing("medium"), firing("high")],
        "held since it took them"
    );
    assert_eq!(push(&mut board, 9601 * SECOND), [resolved("medium"), resolved("high")]);
}

#[test]
fn a_finding_of_the_same_group_renews_the_alert_or_fires_it_anew() {
    let mut board = board();
    board.observe(notice("f", "high", 0));
    push(&mut board, 0);
    board.observe(close("f", "high", SECOND));
    let again = Notice { finding: "g".to_owned(), ..notice("f", "high", 2 * SECOND) };
    board.observe(again.clone());
    assert_eq!(push(&mut board, 601 * SECOND), [firing("high")], "open again before it was resolved");
    board.observe(Notice { closes: true, last_ms: 3 * SECOND, ..again.clone() });
    assert_eq!(push(&mut board, 603 * SECOND), [resolved("high")]);
    board.observe(Notice { starts_ms: 700 * SECOND, last_ms: 700 * SECOND, ..again });
    let batch = board.batch(700 * SECOND).unwrap();
    assert_eq!(said(&board, &batch), [firing("high")]);
    assert_eq!(batch.body[0]["startsAt"], "1970-01-01T00:11:40Z");
    assert_eq!(board.board.waiting(), 1, "it counts as a new alert");
}

#[test]
fn one_bad_alert_does_not_take_the_others_with_it() {
    let mut board = board();
    for finding in ["a", "bad", "c"] {
        board.observe(notice(finding, "high", 0));
    }
    let is_bad =
        |batch: &Batch| batch.body.as_array().unwrap().iter().any(|alert| alert["labels"]["group"] == "bad");
    let (mut requests, mut delivered, mut refused) = (0, 0, Vec::new());
    while let Some(batch) = board.batch(0) {
        let verdict = if is_bad(&batch) { Verdict::Refused } else { Verdict::Taken };
        let outcome = board.answered(&batch, verdict, 0);
        delivered += outcome.delivered;
        refused.extend(outcome.refused);
        requests += 1;
    }
    assert_eq!((requests, delivered), (4, 2), "together once, then each alone");
    assert_eq!(refused.len(), 1);
    assert_eq!(board.label(refused[0], "group"), "bad");
    board.observe(notice("bad", "high", SECOND));
    assert_eq!(push(&mut board, SECOND), [], "never in a loop");
    board.observe(close("bad", "high", 2 * SECOND));
    board.advance(2 * SECOND);
    assert_eq!(board.board.entries.len(), 2, "and forgotten with its finding");
}

#[test]
fn a_clock_that_is_set_back_neither_silences_an_alert_nor_makes_a_bad_one() {
    let mut board = board();
    board.observe(notice("f", "high", 1_000_000 * SECOND));
    push(&mut board, 1_000_000 * SECOND);
    let batch = board.batch(10 * SECOND).expect("due, whatever the clock says");
    let alert = &batch.body[0];
    let time = |key: &str| alert[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("startsAt") <= time("endsAt"));
    assert_eq!(time("endsAt").as_millisecond(), 10 * SECOND + super::super::record::LEAST_LIFE_MS);
}

#[test]
fn what_is_least_severe_makes_room() {
    let mut board = board();
    for n in 0..MOST {
        board.observe(notice(&n.to_string(), if n == 7 { "low" } else { "medium" }, 0));
    }
    assert_eq!(board.observe(notice("new", "low", 0)), 1, "not worth more than what is there");
    assert_eq!(board.observe(notice("worse", "critical", 0)), 1);
    assert_eq!((board.board.entries.len(), board.spool.len()), (MOST, MOST));
    let has = |finding: &str| {
        let print = Print::of([finding]);
        board.board.by_finding.iter().any(|(of, _)| *of == print)
    };
    assert!(!has("7") && has("worse"));
}

/// Spools outlive an upgrade: this is what earlier versions wrote.
#[test]
fn a_record_is_what_it_always_was() {
    let text = json!({
        "finding": "f", "labels": {"alertname": "A", "severity": "high"}, "annotations": {"bytes": "7"},
        "starts_ms": 1, "last_ms": 2, "alive_ms": 3, "closed": false, "accepted_ms": 4,
        "resolved_ms": null, "resolution_accepted_ms": null, "refused": false,
    });
    let record: Record = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(&record).unwrap(), text);
}

/// The rest of the labels is that of the finding's first line, wherever that is kept.
#[test]
fn a_finding_has_one_set_of_labels_but_for_the_severity() {
    let mut board = board();
    board.observe(notice("f", "medium", 0));
    let mut worse = notice("f", "high", 1);
    Arc::make_mut(&mut worse.labels).insert("group".to_owned(), "another".to_owned());
    board.observe(worse);
    assert_eq!((board.label(1, "group"), board.label(1, SEVERITY)), ("f".to_owned(), "high".to_owned()));
    // Its end finds it by them.
    let mut over = close("f", "high", 2);
    Arc::make_mut(&mut over.labels).insert("group".to_owned(), "a third".to_owned());
    board.observe(over);
    assert_eq!((board.board.entries.len(), board.board.waiting()), (2, 2));
    assert!(board.board.entries.values().all(|entry| entry.times.closed));
}

/// What somebody removed from the spool is given up, and in nobody's way.
#[test]
fn an_alert_without_words_does_not_stop_the_others() {
    let mut board = board();
    board.observe(notice("a", "high", 0));
    board.observe(notice("b", "low", 0));
    board.spool.remove(&0);
    let batch = board.batch(0).unwrap();
    assert_eq!(said(&board, &batch), [firing("low")]);
    assert!(board.board.lose(0));
    assert_eq!(board.board.waiting(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Notice(u8, u8),
    Close(u8),
    Push(Verdict),
    Wait(i64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u8, 0..3_u8).prop_map(|(finding, severity)| Step::Notice(finding, severity)),
        1 => (0..3_u8).prop_map(Step::Close),
        4 => prop_oneof![Just(Verdict::Taken), Just(Verdict::Failed)].prop_map(Step::Push),
        2 => (1..700_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Whatever fails and whenever the agent restarts: every alert that was seen is taken as firing at least once,
    /// before it is taken as resolved; nothing that was never seen is sent; and in the end nothing is left.
    #[test]
    fn every_alert_arrives_in_order_and_none_is_invented(steps in steps()) {
        const SEVERITIES: [&str; 3] = ["low", "high", "critical"];
        let mut now = 0;
        let mut board = board();
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        let mut fired: BTreeSet<(String, String)> = BTreeSet::new();
        let turn = |board: &mut Desk, verdict, now: i64, fired: &mut BTreeSet<_>, seen: &BTreeSet<_>| {
            board.advance(now);
            let mut resolved_all = Vec::new();
            while let Some(batch) = board.batch(now) {
                let alerts = batch.body.as_array().unwrap().clone();
                for (alert, (_, resolved)) in alerts.iter().zip(&batch.said) {
                    let labels = &alert["labels"];
                    let id = (labels["group"].as_str().unwrap().to_owned(), labels["severity"].as_str().unwrap().to_owned());
                    assert!(seen.contains(&id), "{id:?} was invented");
                    if verdict == Verdict::Taken {
                        if *resolved {
                            assert!(fired.contains(&id), "{id:?} is resolved and never fired");
                            resolved_all.push(id);
                        } else {
                            fired.insert(id);
                        }
                    }
                }
                board.answered(&batch, verdict, now);
                if verdict != Verdict::Taken {
                    break;
                }
            }
            resolved_all
        };
        for step in steps {
            match step {
                Step::Notice(finding, severity) => {
                    let severity = SEVERITIES[usize::from(severity)];
                    seen.insert((finding.to_string(), severity.to_owned()));
                    board.observe(notice(&finding.to_string(), severity, now));
                }
                Step::Close(finding) => {
                    let highest = seen.iter().filter(|(f, _)| *f == finding.to_string()).map(|(_, s)| s.clone()).next_back();
                    if let Some(highest) = highest {
                        board.observe(close(&finding.to_string(), &highest, now));
                    }
                }
                Step::Push(verdict) => {
                    turn(&mut board, verdict, now, &mut fired, &seen);
                }
                Step::Wait(seconds) => now += seconds * SECOND,
                Step::Restart => board = board.restart(),
            }
        }
        for finding in 0..3_u8 {
            if let Some((_, severity)) = seen.iter().find(|(f, _)| *f == finding.to_string()) {
                board.observe(close(&finding.to_string(), severity, now));
            }
        }
        turn(&mut board, Verdict::Taken, now, &mut fired, &seen);
        prop_assert_eq!(&fired, &seen);
        now += 3600 * SECOND;
        turn(&mut board, Verdict::Taken, now, &mut fired, &seen);
        now += 2 * RESOLVED_AGAIN_MS;
        turn(&mut board, Verdict::Taken, now, &mut fired, &seen);
        prop_assert_eq!(board.board.entries.len(), 0);
    }
}
