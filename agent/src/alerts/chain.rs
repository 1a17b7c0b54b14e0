//! The hash chain of the alert log: each line commits to all before it, so one that is changed, taken out or put in
//! shows.
//!
//! `hash = SHA-256(hash of the line before (32 bytes, zeros at first) ‖ this line without its line feed and with an
//! empty string as the hash, and as the seal if it has one)`. The bytes of the line count, not a canonical form of them, so a verifier needs no JSON
//! library. A missing tail does not show here: that is what the sequence on `/metrics` is for.

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::{
    schema::DetectionFinding,
    seal::{Mark, SealKey},
};

/// The end of a chain: the last line's number and hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// 0 when there is no line yet.
    pub seq: u64,
    pub hash: [u8; 32],
}

/// Reads `SEQ:HASH`, the form in which alerts carry their place in the chain.
///
/// # Errors
/// In words, when it is something else.
pub fn read_anchor(text: &str) -> Result<Head, String> {
    let parts = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, unhex(hash)?)));
    match parts {
        Some((seq, hash)) if seq > 0 => Ok(Head { seq, hash }),
        _ => Err("write SEQ:HASH as it stands in the annotation `chain` of an alert".to_owned()),
    }
}

/// A line as it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) head: Head,
    pub(super) mark: Option<Mark>,
    /// Milliseconds since 1970.
    pub(super) time_ms: i64,
}

/// Gives a finding its place in the chain, sealed when there is a key, and writes it as a line.
pub(super) fn seal(finding: &mut DetectionFinding, head: Head, key: Option<&mut SealKey>) -> (Bytes, Head) {
    let seq = head.seq + 1;
    let time = finding.time;
    let sealing = key.map(|key| (key.seal(seq, time), key));
    finding.set_chain(seq, sealing.as_ref().map(|(sealing, _)| sealing.epoch), String::new(), String::new());
    let blank = finding.to_json();
    let hash = link(head.hash, blank.as_bytes());
    let mark = sealing.map(|(sealing, key)| {
        key.sealed(seq, &hash);
        sealing.mark(&hash)
    });
    let mut line = blank.replacen(&ends(None, mark.is_some()), &ends(Some((hash, mark)), true), 1);
    finding.set_chain(
        seq,
        mark.map(|mark| mark.epoch),
        mark.map_or_else(String::new, |mark| hex(&mark.mac)),
        hex(&hash),
    );
    line.push('\n');
    (Bytes::from(line), Head { seq, hash })
}

/// Whether a line has the hash that its own text and the line before give it.
pub(super) fn follows(text: &str, previous: [u8; 32], line: &Line) -> bool {
    let sealed = ends(Some((line.head.hash, line.mark)), true);
    text.matches(&sealed).count() == 1
        && link(previous, text.replacen(&sealed, &ends(None, line.mark.is_some()), 1).as_bytes())
            == line.head.hash
}

/// The number and hash that a line claims; `None` if it is no chained alert.
#[must_use]
pub fn read(line: &str) -> Option<Head> {
    parse(line).map(|line| line.head)
}

/// All that a line claims of its place; `None` if it is no chained alert.
pub(super) fn parse(line: &str) -> Option<Line> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(default)]
        time: i64,
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
        epoch: Option<u64>,
        mac: Option<String>,
        hash: String,
    }
    let Whole { time, unmapped } = serde_json::from_str(line).ok()?;
    let Chain { seq, epoch, mac, hash } = unmapped.weighbridge.chain;
    let mark = match (epoch, mac) {
        (Some(epoch), Some(mac)) => Some(Mark { epoch, mac: unhex(&mac)? }),
        (None, None) => None,
        _ => return None,
    };
    Some(Line { head: Head { seq, hash: unhex(&hash)? }, mark, time_ms: time })
}

/// How the hash, and the seal before it, stand in a line; empty strings where they are `None`. Quotes inside of strings are
/// escaped in JSON, so no value can imitate it, and no other key of ours has these names.
fn ends(values: Option<([u8; 32], Option<Mark>)>, sealed: bool) -> String {
    match values {
        Some((hash, Some(mark))) => format!(r#""mac":"{}","hash":"{}""#, hex(&mark.mac), hex(&hash)),
        Some((hash, None)) => format!(r#""hash":"{}""#, hex(&hash)),
        None if sealed => r#""mac":"","hash":"""#.to_owned(),
        None => r#""hash":"""#.to_owned(),
    }
}

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

pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}
