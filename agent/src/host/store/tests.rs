//! What the state keeps over restarts, damage and later versions.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::event::BootNs;

fn state() -> (tempfile::TempDir, StateDir) {
    let scratch = tempfile::tempdir().unwrap();
    let state = StateDir::open(scratch.path()).unwrap();
    (scratch, state)
}

fn rows(space: &'static str, rows: Vec<Row>) -> (&'static str, Rows<'static>) {
    (space, Box::new(rows.into_iter()))
}

fn row(key: &str, value: &str) -> Row {
    (key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

#[test]
fn spaces_survive_and_do_not_mix() {
    let (_scratch, state) = state();
    let clock = Clock { boot: "b".to_owned(), now: BootNs(7), wall_ms: 9, base: 3 };
    let (mut store, note) = Store::open(&state).unwrap();
    assert_eq!((note, store.clock().unwrap()), (None, None));
    let spaces = || vec![rows("a", vec![row("1", "x"), row("2", "y")]), rows("ab", vec![row("1", "z")])];
    assert!(store.save(spaces(), &clock).unwrap());
    assert!(!store.save(spaces(), &clock).unwrap(), "nothing changed");
    drop(store);
    let (mut store, _) = Store::open(&state).unwrap();
    assert_eq!(store.clock().unwrap().as_ref(), Some(&clock));
    assert_eq!(store.load("a").unwrap(), [row("1", "x"), row("2", "y")]);
    assert!(store.save(vec![rows("a", vec![row("2", "new")])], &clock).unwrap());
    assert_eq!(store.load("a").unwrap(), [row("2", "new")]);
    assert_eq!(store.load("ab").unwrap(), [row("1", "z")]);
    assert_eq!(store.load("b").unwrap(), []);
}

#[test]
fn single_rows_are_written_without_the_rest_of_their_space() {
    let (_scratch, state) = state();
    let clock = Clock::default();
    let (mut store, _) = Store::open(&state).unwrap();
    let put = |key: &str, value: &str| (key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
    store.update(Vec::new(), ("a", &[put("x1", "1"), put("x2", "22"), put("y1", "3")]), &clock).unwrap();
    store.update(vec![rows("b", vec![row("x1", "of b")])], ("a", &[(b"x1".to_vec(), None)]), &clock).unwrap();
    let shown = |prefix: &str, limits| {
        let mut shown = Vec::new();
        store
            .visit("a", prefix.as_bytes(), limits, |key, value| shown.push((key.to_vec(), value.to_vec())))
            .unwrap();
        shown
    };
    assert_eq!(shown("", (9, 9)), [row("x2", "22"), row("y1", "3")]);
    assert_eq!(shown("x", (9, 9)), [row("x2", "22")]);
    assert_eq!(shown("", (1, 9)), [row("x2", "22")]);
    assert_eq!(shown("", (9, 1)), [row("y1", "3")], "too large");
    assert_eq!(store.get("a", b"y1").unwrap().as_deref(), Some(&b"3"[..]));
    assert_eq!(store.get("a", b"x1").unwrap(), None);
    assert!(store.bytes() > 0);
}

#[test]
fn a_broken_file_is_set_aside_and_the_agent_goes_on() {
    let (scratch, state) = state();
    for _ in 0..2 {
        fs::write(scratch.path().join(FILE), "this is no database").unwrap();
        let (mut store, note) = Store::open(&state).unwrap();
        assert!(note.unwrap().contains("set aside"));
        assert_eq!(store.load("a").unwrap(), []);
    }
    assert_eq!(fs::read(scratch.path().join("state.redb.unusable-2")).unwrap(), b"this is no database");
}

#[test]
fn a_later_version_is_set_aside() {
    let (scratch, state) = state();
    drop(Store::open(&state).unwrap());
    let database = Database::create(scratch.path().join(FILE)).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(META).unwrap().insert("version", 9u64.to_be_bytes().as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let (_, note) = Store::open(&state).unwrap();
    let note = note.unwrap().replace(&state.path().display().to_string(), "STATE");
    insta::assert_snapshot!(note, @"the state in STATE/state.redb cannot be used: it is of version 9, and this agent knows 1; it was set aside as STATE/state.redb.unusable-1 and the agent goes on without it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn damage_anywhere_is_survived(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
        let (scratch, state) = state();
        let (mut store, _) = Store::open(&state).unwrap();
        store.save(vec![rows("a", (0..50).map(|n| row(&n.to_string(), "value")).collect())], &Clock::default()).unwrap();
        drop(store);
        let path = scratch.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let (mut store, _) = Store::open(&state).unwrap();
        let _ = store.load("a");
        let _ = store.save(vec![rows("a", vec![row("n", "v")])], &Clock::default());
    }
}
