//! The hash chain of the alert log: each line commits to all before it, so one that is changed, taken out or put in
//! shows.
//!
//! `hash = SHA-256(hash of the line before (32 bytes, zeros at first) ‖ this line without its line feed and with an
//! empty string as the hash)`. The bytes of the line count, not a canonical form of them, so a verifier needs no JSON
//! library. A missing tail does not show here: that is what the sequence on `/metrics` is for.

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::schema::DetectionFinding;

/// The end of a chain: the last line's number and hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// 0 when there is no line yet.
    pub seq: u64,
    pub hash: [u8; 32],
}

/// Why a chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error(
        "line {line} of the alert log is not a chained alert: restore it from a copy, or start a new log"
    )]
    Unreadable { line: usize },
    #[error(
        "line {line} of the alert log has number {found} where {expected} is due: lines are missing or were put in"
    )]
    Sequence { line: usize, expected: u64, found: u64 },
    #[error("line {line} of the alert log does not match its hash: it, or a line before it, was changed")]
    Hash { line: usize },
}

/// Gives a finding its place in the chain and writes it as a line.
pub(super) fn seal(finding: &mut DetectionFinding, head: Head) -> (Bytes, Head) {
    let seq = head.seq + 1;
    finding.set_chain(seq, String::new());
    let blank = finding.to_json();
    let hash = link(head.hash, blank.as_bytes());
    let text = hex(&hash);
    finding.set_chain(seq, text.clone());
    let mut line = blank.replacen(BLANK, &format!("{KEY}{text}\""), 1);
    line.push('\n');
    (Bytes::from(line), Head { seq, hash })
}

/// Checks lines in order, from the line after `start` on, and returns where they end.
///
/// # Errors
/// [`Broken`] names the first line that does not follow from those before it; lines count from 1.
pub fn verify<'a>(start: Head, lines: impl IntoIterator<Item = &'a str>) -> Result<Head, Broken> {
    let mut head = start;
    for (index, text) in lines.into_iter().enumerate() {
        let line = index + 1;
        let found = read(text).ok_or(Broken::Unreadable { line })?;
        let expected = head.seq + 1;
        if found.seq != expected {
            return Err(Broken::Sequence { line, expected, found: found.seq });
        }
        let sealed = format!("{KEY}{}\"", hex(&found.hash));
        if text.matches(&sealed).count() != 1
            || link(head.hash, text.replacen(&sealed, BLANK, 1).as_bytes()) != found.hash
        {
            return Err(Broken::Hash { line });
        }
        head = found;
    }
    Ok(head)
}

/// The number and hash that a line claims; `None` if it is no chained alert.
#[must_use]
pub fn read(line: &str) -> Option<Head> {
    #[derive(Deserialize)]
    struct Line {
        unmapped: Unmapped,
    }
    #[derive(Deserialize)]
    struct Unmapped {
        weighbridge: Weighbridge,
    }
    #[derive(Deserialize)]
    struct Weighbridge {
        chain: Chain,
    }
    #[derive(Deserialize)]
    struct Chain {
        seq: u64,
        hash: String,
    }
    let Chain { seq, hash } = serde_json::from_str::<Line>(line).ok()?.unmapped.weighbridge.chain;
    Some(Head { seq, hash: unhex(&hash)? })
}

/// How the hash stands in a line. Quotes inside of strings are escaped in JSON, so no value can imitate it, and no other
/// key of ours has this name.
const KEY: &str = r#""hash":""#;
const BLANK: &str = r#""hash":"""#;

fn link(previous: [u8; 32], blank: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(32 + blank.len());
    input.extend_from_slice(&previous);
    input.extend_from_slice(blank);
    sha256(&input)
}

pub(super) fn sha256(input: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, input).as_ref());
    hash
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
