//! Facts of the ring, checked: a length that does not fit or a kind that is not known is counted and dropped.

use std::mem::{offset_of, size_of};

use agent_ebpf as abi;

use super::reading::{self, FsPath, ProcessReading, Reading};
use crate::event::AssetId;

/// What one record of the ring says.
pub(super) enum Fact {
    Reading(Reading),
    Row(Row),
    /// Nothing but that bytes move.
    Wake,
}

/// A row to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Holder(abi::HolderKey),
    Take(abi::TakeKey),
    Flow(abi::FlowKey),
    Carrier(abi::ObjectKey),
}

/// `None`: it makes no sense, and the caller counts it.
pub(super) fn parse(bytes: &[u8]) -> Option<Fact> {
    match u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) {
        abi::FACT_PROCESS => Some(Fact::Reading(Reading::Process(Box::new(process(&copy(bytes)?))))),
        abi::FACT_OBJECT => {
            let fact: abi::ObjectFact = copy(bytes)?;
            Some(Fact::Reading(Reading::Object {
                asset: AssetId(u16::try_from(fact.asset).ok()?),
                object: reading::object(&fact.key),
                size: fact.size,
                path: path(&fact.path),
            }))
        }
        abi::FACT_SINK => Some(Fact::Reading(sink(&copy(bytes)?))),
        abi::FACT_WAKE => Some(Fact::Wake),
        abi::FACT_ROW => row(&copy(bytes)?).map(Fact::Row),
        _ => None,
    }
}

/// The statement that one record of the ring is; `None` for what makes no sense and for what only says where to look. For who has
/// the bytes and no ring, such as a fuzzer.
#[must_use]
pub fn read_record(bytes: &[u8]) -> Option<Reading> {
    match parse(bytes)? {
        Fact::Reading(reading) => Some(reading),
        Fact::Row(_) | Fact::Wake => None,
    }
}

pub(super) fn sink(fact: &abi::SinkFact) -> Reading {
    Reading::SinkPath { sink: reading::sink(&fact.sink), magic: fact.magic, path: path(&fact.path) }
}

const fn row(fact: &abi::RowFact) -> Option<Row> {
    let abi::RowFact { holder, object, assets, sink, .. } = *fact;
    Some(match fact.map {
        abi::ROW_HOLDER => Row::Holder(holder),
        abi::ROW_TAKE => Row::Take(abi::TakeKey { holder, source: object }),
        abi::ROW_FLOW => Row::Flow(abi::FlowKey { holder, assets, sink }),
        abi::ROW_CARRIER => Row::Carrier(object),
        _ => return None,
    })
}

/// What can be copied out of bytes: integers and arrays of them.
pub(super) trait Plain: Copy {}

impl Plain for abi::ProcessFact {}
impl Plain for abi::ObjectFact {}
impl Plain for abi::SinkFact {}
impl Plain for abi::RowFact {}

pub(super) fn copy<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, read unaligned, and any bytes are a value of a `Plain`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) fn process(fact: &abi::ProcessFact) -> ProcessReading {
    let argv_len = (fact.argv_len as usize).min(fact.argv.len());
    ProcessReading {
        holder: reading::holder(&fact.key),
        parent_tgid: fact.parent_tgid,
        uid: fact.uid,
        auid: (fact.auid != u32::MAX).then_some(fact.auid),
        cgroup: fact.cgroup,
        exe: (fact.exe.ino != 0).then(|| reading::object(&fact.exe)),
        exe_path: path(&fact.exe_path),
        cmdline: command_line(fact.argv.get(..argv_len).unwrap_or_default()),
    }
}

/// NUL-separated arguments joined by spaces; control characters, which could rewrite a terminal, become U+FFFD.
pub(super) fn command_line(raw: &[u8]) -> String {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    String::from_utf8_lossy(raw)
        .chars()
        .map(|c| {
            if c == '\0' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

fn path(raw: &abi::RawPath) -> FsPath {
    let len = (raw.len as usize).min(raw.bytes.len());
    FsPath::parse(raw.bytes.get(..len).unwrap_or_default(), raw.truncated != 0)
}

const _: () = assert!(offset_of!(abi::ProcessFact, fact) == 0 && offset_of!(abi::WakeFact, fact) == 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_unknown_records_are_refused() {
        assert!(parse(&[]).is_none());
        assert!(parse(&[1, 0, 0]).is_none());
        assert!(parse(&abi::FACT_PROCESS.to_ne_bytes()).is_none());
        assert!(parse(&99u32.to_ne_bytes()).is_none());
        assert!(matches!(parse(&abi::FACT_WAKE.to_ne_bytes()), Some(Fact::Wake)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2400), kind in 0u32..8) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_command_line_cannot_drive_a_terminal() {
        assert_eq!(command_line(b"cp\0-r\0a\x1b[2Jb\0"), "cp -r a\u{fffd}[2Jb");
    }
}
