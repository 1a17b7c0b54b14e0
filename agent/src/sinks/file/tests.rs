//! The alert log on a real filesystem.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;
use crate::alerts::read_head;

const PATIENCE: Duration = Duration::from_secs(20);

fn line(seq: u64) -> Bytes {
    let text = format!(
        r#"{{"unmapped":{{"weighbridge":{{"chain":{{"seq":{seq},"hash":"{seq:064x}"}}}}}}}}{}"#,
        '\n'
    );
    Bytes::from(text)
}

fn numbers(path: &Path) -> Vec<u64> {
    fs::read_to_string(path).unwrap().lines().map(|line| read_head(line).unwrap().seq).collect()
}

/// A directory as the unit makes it.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn write(path: &Path, numbers: impl IntoIterator<Item = u64>) -> Head {
    let opened = open(path).unwrap();
    assert_eq!(opened.note, None);
    for seq in numbers {
        opened.sink.send(line(seq)).unwrap();
    }
    assert_eq!(opened.sink.close(PATIENCE), 0);
    opened.head
}

#[test]
fn lines_are_appended_and_the_chain_goes_on_after_a_restart() {
    let dir = directory();
    let path = dir.path().join("log/alerts.ndjson");
    assert_eq!(write(&path, 1..=100), Head::default());
    assert_eq!(write(&path, 101..=102).seq, 100);
    assert_eq!(numbers(&path), (1..=102).collect::<Vec<_>>());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_rotated_log_is_opened_anew_and_its_chain_found_again() {
    let dir = directory();
    let (path, old) = (dir.path().join("alerts.ndjson"), dir.path().join("alerts.ndjson.1"));
    let opened = open(&path).unwrap();
    opened.sink.send(line(1)).unwrap();
    assert!(opened.sink.flush(PATIENCE));
    fs::rename(&path, &old).unwrap();
    opened.sink.send(line(2)).unwrap();
    assert!(opened.sink.flush(PATIENCE));
    assert_eq!((numbers(&old), numbers(&path)), (vec![1], vec![2]));
    assert_eq!(opened.sink.counts(), Counts { sent: 2, ..Counts::default() });
    assert_eq!(opened.sink.close(PATIENCE), 0);
    fs::rename(&path, &old).unwrap();
    assert_eq!(write(&path, []).seq, 2);
}

#[test]
fn a_damaged_last_line_is_set_aside() {
    let dir = directory();
    let path = dir.path().join("alerts.ndjson");
    write(&path, 1..=3);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"unmapped\":{\"weighb").unwrap();
    let opened = open(&path).unwrap();
    assert_eq!(opened.head.seq, 3);
    insta::assert_snapshot!(
        opened.note.unwrap(),
        @"20 bytes after line 3 were no alert and were moved to a file with the suffix .damaged"
    );
    opened.sink.send(line(4)).unwrap();
    assert_eq!(opened.sink.close(PATIENCE), 0);
    assert_eq!(numbers(&path), [1, 2, 3, 4]);
    let aside = fs::read_to_string(dir.path().join("alerts.ndjson.damaged")).unwrap();
    assert_eq!(aside, "{\"unmapped\":{\"weighb\n");
}

#[test]
fn a_file_of_something_else_is_moved_aside_whole() {
    let dir = directory();
    let path = dir.path().join("alerts.ndjson");
    for n in 1..3 {
        fs::write(&path, "not ours\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let opened = open(&path).unwrap();
        assert_eq!(opened.head, Head::default());
        assert!(opened.note.is_some());
        let aside = dir.path().join(format!("alerts.ndjson.damaged-{n}"));
        assert_eq!(fs::read_to_string(aside).unwrap(), "not ours\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert_eq!(opened.sink.close(PATIENCE), 0);
    }
}

#[test]
fn an_error_keeps_the_queue_until_the_log_works_again() {
    let dir = directory();
    let path = dir.path().join("alerts.ndjson");
    let opened = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    opened.sink.send(line(1)).unwrap();
    while opened.sink.counts().failed == 0 {
        thread::yield_now();
    }
    assert_eq!(opened.sink.counts().backlog, 1);
    fs::remove_dir(&path).unwrap();
    assert!(opened.sink.flush(PATIENCE));
    assert_eq!(numbers(&path), [1]);
}

#[test]
fn what_cannot_be_written_is_reported_at_the_end() {
    let dir = directory();
    let path = dir.path().join("alerts.ndjson");
    let opened = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    opened.sink.send(line(1)).unwrap();
    assert_eq!(opened.sink.close(Duration::from_millis(30)), 1);
}

#[test]
fn two_agents_cannot_share_a_log() {
    let dir = directory();
    let path = dir.path().join("alerts.ndjson");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(FileError::Locked { .. })));
    assert_eq!(first.sink.close(PATIENCE), 0);
}

#[test]
fn unsafe_places_are_refused_with_a_remedy() {
    let dir = directory();
    let name = |error: FileError| error.to_string().replace(&dir.path().display().to_string(), "…");
    let at = |name: &str| dir.path().join(name);

    fs::write(at("real"), "").unwrap();
    symlink(at("real"), at("link")).unwrap();
    insta::assert_snapshot!(name(check(&at("link")).unwrap_err()), @"alert log …/link is a symbolic link: name the file itself");
    assert!(matches!(open(&at("link")), Err(FileError::Link { .. })));

    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    insta::assert_snapshot!(name(check(&at("open/log")).unwrap_err()), @"directory …/open of alert log …/open/log is writable by everyone: run `chmod o-w …/open` or log elsewhere");

    fs::set_permissions(at("real"), fs::Permissions::from_mode(0o666)).unwrap();
    insta::assert_snapshot!(name(check(&at("real")).unwrap_err()), @"alert log …/real can be written by others than its owner: run `chmod 600 …/real`");

    insta::assert_snapshot!(name(check(&at("a/b/log")).unwrap_err()), @"directory …/a/b for alert log …/a/b/log does not exist: create it, owned by root");
    fs::create_dir(at("dir")).unwrap();
    assert!(matches!(check(&at("dir")), Err(FileError::NotAFile { .. })));
    check(&at("new/log")).unwrap();
    assert!(!at("new").exists(), "a check changes nothing");
}
