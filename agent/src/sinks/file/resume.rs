//! Taking up the chain where the file ends, whatever state a crash left it in.
//!
//! A line that is no chained alert is set aside, never overwritten: it may be evidence. The lines that stay are all whole.

use std::os::unix::fs::FileExt as _;

use super::{place::Place, *};
use crate::alerts::{Unfinished, read_head, unfinished};

/// How much of the file's end is searched for a whole line. Lines are a few KiB.
const TAIL: u64 = 4 << 20;

pub(super) struct Resumed {
    pub(super) file: File,
    pub(super) head: Head,
    pub(super) note: Option<String>,
    pub(super) unfinished: Vec<Unfinished>,
}

pub(super) fn resume(place: &Place, file: File) -> Result<Resumed, FileError> {
    let (tail, from) = read_tail(&file).map_err(|error| place.io("read", error))?;
    let Some(found) = last_line(&tail) else {
        if from == 0 && tail.is_empty() {
            return Ok(Resumed { file, head: rotated_head(place), note: None, unfinished: Vec::new() });
        }
        return replace(place, file);
    };
    let damaged = &tail[found.end..];
    let unfinished = unfinished(tail[..found.end].split(|&byte| byte == b'\n'));
    if damaged.is_empty() {
        return Ok(Resumed { file, head: found.head, note: None, unfinished });
    }
    let mut aside = place.open_beside(".damaged")?;
    aside
        .write_all(damaged)
        .and_then(|()| aside.write_all(b"\n"))
        .and_then(|()| aside.sync_all())
        .map_err(|error| place.io("set a damaged line aside of", error))?;
    file.set_len(from + found.end as u64).map_err(|error| place.io("cut a damaged line off", error))?;
    let note = format!(
        "{} bytes after line {} were no alert and were moved to a file with the suffix .damaged",
        damaged.len(),
        found.head.seq
    );
    tracing::warn!(path = %place.path().display(), "{note}");
    Ok(Resumed { file, head: found.head, note: Some(note), unfinished })
}

/// Moves a file in which no line is an alert out of the way and starts a new one.
fn replace(place: &Place, file: File) -> Result<Resumed, FileError> {
    for number in 1..1000 {
        let suffix = format!(".damaged-{number}");
        match place.move_aside(&suffix) {
            Ok(()) => {
                drop(file);
                let note =
                    format!("the log had no whole line and was moved to a file with the suffix {suffix}");
                tracing::warn!(path = %place.path().display(), "{note}");
                let (file, head) = (place.open_log()?, rotated_head(place));
                return Ok(Resumed { file, head, note: Some(note), unfinished: Vec::new() });
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(place.io("move a damaged file away from", error.into())),
        }
    }
    Err(place.io("find a free name to move the damaged", io::ErrorKind::AlreadyExists.into()))
}

/// Where the chain stands, as far as it can be read without changing anything.
pub(super) fn last_head(place: &Place) -> Head {
    let tail = place.read_beside("").and_then(|file| read_tail(&file).ok());
    let found = tail.and_then(|(tail, _)| last_line(&tail));
    found.map_or_else(|| rotated_head(place), |found| found.head)
}

/// A log that was just rotated is empty: its chain goes on from the file that logrotate put beside it.
fn rotated_head(place: &Place) -> Head {
    let Some(file) = place.read_beside(".1") else { return Head::default() };
    match read_tail(&file) {
        Ok((tail, _)) => last_line(&tail).map_or_else(Head::default, |found| found.head),
        Err(_) => Head::default(),
    }
}

/// The end of a file, and where in the file it begins.
fn read_tail(file: &File) -> io::Result<(Vec<u8>, u64)> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(len - from).map_err(io::Error::other)?];
    file.read_exact_at(&mut tail, from)?;
    Ok((tail, from))
}

#[derive(Debug, PartialEq, Eq)]
struct LastLine {
    head: Head,
    /// Offset behind its line feed.
    end: usize,
}

/// The last line that is a chained alert and ends with a line feed.
fn last_line(tail: &[u8]) -> Option<LastLine> {
    let mut end = tail.iter().rposition(|&c| c == b'\n')? + 1;
    loop {
        let text = &tail[..end - 1];
        let start = text.iter().rposition(|&c| c == b'\n').map_or(0, |at| at + 1);
        if let Some(head) = str::from_utf8(&text[start..]).ok().and_then(read_head) {
            return Some(LastLine { head, end });
        }
        if start == 0 {
            return None;
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(seq: u64) -> String {
        format!(r#"{{"unmapped":{{"weighbridge":{{"chain":{{"seq":{seq},"hash":"{seq:064x}"}}}}}}}}{}"#, '\n')
    }

    proptest! {
        #[test]
        fn finds_the_last_whole_line_before_any_damage(count in 0..5_u64, damage in prop::collection::vec(any::<u8>(), 0..200)) {
            let whole: String = (1..=count).map(line).collect();
            let mut text = whole.clone().into_bytes();
            text.extend(&damage);
            let found = last_line(&text);
            let expected = (count > 0).then_some((count, whole.len()));
            prop_assert_eq!(found.map(|found| (found.head.seq, found.end)), expected);
        }
    }
}
