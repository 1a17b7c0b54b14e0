//! Recordings: the file as it is, and, because a hash keeps changed blocks out, blocks that are made around the bytes. What is
//! read goes through the ledger, the built-in rules, the alerts and the proposals.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use weighbridge::{
    recording::{Header, Reader, Suggester, Writer, replay},
    rules::RuleSet,
};

fn rules() -> &'static Arc<RuleSet> {
    static RULES: OnceLock<Arc<RuleSet>> = OnceLock::new();
    RULES.get_or_init(|| {
        let core = include_str!("../../rules/core.yaml");
        let set = RuleSet::parse(&[("core.yaml".into(), core.to_owned())], jiff::civil::date(2026, 11, 22));
        Arc::new(set.expect("the built-in rules are right"))
    })
}

/// A block as a recording has it, whatever is in it.
fn block(raw: &[u8], out: &mut Vec<u8>) {
    let packed = lz4_flex::block::compress(raw);
    out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    out.extend_from_slice(&ring::digest::digest(&ring::digest::SHA256, &packed).as_ref()[..16]);
    out.extend_from_slice(&packed);
}

/// The front of a recording, as the agent writes it.
fn front() -> &'static [u8] {
    static FRONT: OnceLock<Vec<u8>> = OnceLock::new();
    FRONT.get_or_init(|| {
        let header = Header {
            agent: "0.1.0".to_owned(),
            host: "fuzz".to_owned(),
            kernel: "6.18".to_owned(),
            sensor: "syscall".to_owned(),
            boot_wall_ms: 0,
            propagation_floor: 64 << 10,
            hidden: false,
        };
        let path = std::env::temp_dir().join(format!("weighbridge-fuzz-{}", std::process::id()));
        drop(Writer::create(&path, &header).expect("a new file"));
        let front = std::fs::read(&path).expect("the file that was just written");
        std::fs::remove_file(&path).expect("our own file");
        front
    })
}

/// Reads the bytes as a recording, or as the statements of one.
#[must_use]
pub fn recording(data: &[u8]) -> bool {
    let framed;
    let file = match data {
        [b'W', b'B', b'R', ..] => data,
        _ => {
            let mut made = front().to_vec();
            if !data.is_empty() {
                block(data, &mut made);
            }
            framed = made;
            &framed
        }
    };
    let open = || Reader::new(file, Path::new("fuzz"));
    let mut accepted = false;
    if let Ok(mut reader) = open() {
        let done = replay(&mut reader, rules());
        assert!(done.statements >= done.span.map_or(0, |_| 1));
        accepted = done.statements > 0;
    } else {
        assert_eq!(file, data, "a header of our own is refused");
    }
    if let Ok(mut reader) = open() {
        let mut suggester = Suggester::default();
        suggester.read(&mut reader);
        let _ = suggester.suggestions();
    }
    accepted
}
