//! The header of a safetensors file, which says how long the file is.

use serde::Deserialize;

use super::Extent;

/// The largest header that the safetensors reference implementation accepts.
const LONGEST: u64 = 100_000_000;

#[derive(Deserialize)]
struct Tensor {
    #[serde(rename = "dtype")]
    _dtype: String,
    #[serde(rename = "shape")]
    _shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Eight bytes of header length, a JSON object, and the tensors. `None` when it is not safetensors.
pub(super) fn extent(head: &[u8], size: u64) -> Option<Extent> {
    let length = u64::from_le_bytes(head.get(..8)?.try_into().ok()?);
    if !(2..=LONGEST).contains(&length) || head.get(8) != Some(&b'{') {
        return None;
    }
    let Some(header) = usize::try_from(length).ok().and_then(|length| head[8..].get(..length)) else {
        // The header is longer than what was read, or the file ends within it. Its tensors need not be in order, so
        // that the end of the last one cannot be known from a part.
        let text = String::from_utf8_lossy(&head[8..]);
        let looks = text.contains("\"dtype\"") && text.contains("\"data_offsets\"");
        let extent = if size < length + 8 { Extent::Truncated } else { Extent::Unknown };
        return looks.then_some(extent);
    };
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    let mut end = 0;
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let (from, to) = Tensor::deserialize(value).ok()?.data_offsets;
        if from > to {
            return None;
        }
        end = to.max(end);
    }
    let total = end.checked_add(length)?.checked_add(8)?;
    Some(match size.cmp(&total) {
        std::cmp::Ordering::Equal => Extent::Whole,
        std::cmp::Ordering::Less => Extent::Truncated,
        std::cmp::Ordering::Greater => Extent::Trailing,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Extent, Format, HEAD, Recognised, recognise};

    fn safetensors_file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0x5a);
        bytes
    }

    fn of(bytes: &[u8]) -> String {
        recognise(bytes, bytes.len() as u64).to_string()
    }

    #[test]
    fn safetensors_is_strict_about_its_size() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}   "#;
        assert_eq!(of(&safetensors_file(header, 12)), "safetensors");
        assert_eq!(of(&safetensors_file(header, 11)), "safetensors (truncated)");
        assert_eq!(of(&safetensors_file(header, 13)), "safetensors (trailing)");
        assert_eq!(of(&safetensors_file(header, 12)[..header.len()]), "safetensors (truncated)");
        assert_eq!(
            of(&safetensors_file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4)),
            "unknown"
        );
        assert_eq!(of(&safetensors_file(r#"{"a":{"dtype":"F32"}}"#, 4)), "unknown");
        assert_eq!(of(&safetensors_file("{not json}", 4)), "unknown");
        let huge = format!(r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,{}]}}}}"#, u64::MAX);
        assert_eq!(of(&safetensors_file(&huge, 4)), "unknown");
    }

    #[test]
    fn a_header_longer_than_what_is_read_still_counts() {
        let one = r#""t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"#;
        let header = format!("{{{}}}", one.repeat(4000).trim_end_matches(','));
        let bytes = safetensors_file(&header, 4);
        let found = recognise(&bytes[..HEAD], bytes.len() as u64);
        assert_eq!(found, Recognised { format: Format::Safetensors, extent: Extent::Unknown });
        assert_eq!(recognise(&bytes[..HEAD], 100_000).extent, Extent::Truncated);
    }

    proptest! {
        #[test]
        fn a_safetensors_file_is_whole_at_one_size_only(
            lengths in proptest::collection::vec(0_u64..1000, 1..20), off in -5_i64..6,
        ) {
            let mut end = 0;
            let tensors: Vec<String> = lengths.iter().enumerate().map(|(i, length)| {
                let from = end;
                end += length;
                format!(r#""t{i}":{{"dtype":"U8","shape":[{length}],"data_offsets":[{from},{end}]}}"#)
            }).collect();
            let header = format!("{{{}}}", tensors.join(","));
            let bytes = safetensors_file(&header, 0);
            let size = (bytes.len() as u64 + end).saturating_add_signed(off);
            let expected = match off {
                0 => Extent::Whole,
                1.. => Extent::Trailing,
                _ => Extent::Truncated,
            };
            prop_assert_eq!(recognise(&bytes, size), Recognised { format: Format::Safetensors, extent: expected });
        }
    }
}
