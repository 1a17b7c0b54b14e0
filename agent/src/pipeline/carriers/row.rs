//! A file that carries asset bytes, as it is kept in the state directory. It must not know who keeps it there.
//!
//! What is read back was written by whoever can write there: all of it has limits, and what does not fit them is no row.

use serde::{Deserialize, Serialize};

use crate::event::{Edge, Node};

/// Of one row.
pub(super) const LARGEST: usize = 64 << 10;
/// Edges of one way: the first, which names the asset, and the last ones.
const EDGES: usize = 16;
/// Bytes of a name of a node, and of a path.
const NAME: usize = 1024;
const PATH: usize = 4096;
const UUID: usize = 64;
const ASSETS: usize = agent_ebpf::MAX_ASSETS;

/// What names a file over reboots. Its bytes order rows by filesystem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) uuid: std::sync::Arc<str>,
    pub(super) ino: u64,
    pub(super) generation: u32,
}

impl Key {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::prefix(&self.uuid);
        bytes.extend_from_slice(&self.ino.to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes
    }

    /// How the keys of all files of a filesystem begin.
    pub(super) fn prefix(uuid: &str) -> Vec<u8> {
        let mut bytes = uuid.as_bytes().to_vec();
        bytes.push(0);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let (uuid, rest) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
        let (ino, generation) = rest.split_first_chunk::<8>()?;
        let is_plain = uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        ((1..=UUID).contains(&uuid.len()) && is_plain).then_some(())?;
        Some(Self {
            uuid: uuid.into(),
            ino: u64::from_be_bytes(*ino),
            generation: u32::from_be_bytes(generation.try_into().ok()?),
        })
    }
}

/// What is known of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The subvolume, on btrfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tree: Option<u64>,
    /// When it was made, ns since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) born: Option<i64>,
    /// The last one that is known, within its filesystem; empty when none is.
    pub(super) path: String,
    /// Milliseconds since 1970.
    pub(super) first_seen: i64,
    pub(super) contents: Vec<Share>,
}

/// What can be in it of one asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    /// By its name: the order in the configuration may change.
    pub(super) asset: String,
    pub(super) bytes: u64,
    pub(super) way: Vec<Edge>,
}

impl Row {
    /// Where the ways are too long (anybody can choose long names) the amounts alone. `None` when even those are.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let written = |row: &Self| serde_json::to_vec(row).ok().filter(|bytes| bytes.len() <= LARGEST);
        written(self).or_else(|| {
            let mut short = self.clone();
            short.contents.iter_mut().for_each(|share| share.way.clear());
            written(&short)
        })
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LARGEST {
            return None;
        }
        let row: Self = serde_json::from_slice(bytes).ok()?;
        row.is_within_limits().then_some(row)
    }

    /// Bytes of all assets together.
    pub(super) fn bytes(&self) -> u64 {
        self.contents.iter().fold(0, |sum, share| sum.saturating_add(share.bytes))
    }

    /// What this one says less of than `other`, it says as `other` does.
    pub(super) fn join(&mut self, other: Self) {
        for share in other.contents {
            match self.contents.iter_mut().find(|known| known.asset == share.asset) {
                Some(known) if known.bytes < share.bytes => *known = share,
                Some(_) => {}
                None => self.contents.push(share),
            }
        }
        if self.path.is_empty() {
            self.path = other.path;
        }
        self.tree = self.tree.or(other.tree);
        self.born = self.born.or(other.born);
        self.first_seen = self.first_seen.min(other.first_seen);
    }

    fn is_within_limits(&self) -> bool {
        let named = |node: &Node| node.name.len() <= NAME;
        self.path.len() <= PATH
            && self.contents.len() <= ASSETS
            && self.contents.iter().all(|share| {
                share.asset.len() <= NAME
                    && share.way.len() <= EDGES
                    && share.way.iter().all(|edge| named(&edge.from) && named(&edge.to))
            })
    }
}

/// A way as it is kept: no longer than it can be, and without the process ids of a boot that is over.
pub(super) fn kept_way(way: &[Edge]) -> Vec<Edge> {
    let tail = way.len().saturating_sub(EDGES - 1).max(1);
    way.iter()
        .take(1)
        .chain(way.iter().skip(tail))
        .map(|edge| Edge { from: kept_node(&edge.from), to: kept_node(&edge.to), bytes: edge.bytes })
        .collect()
}

fn kept_node(node: &Node) -> Node {
    Node { name: cut(&node.name, NAME), ..node.clone() }
}

/// A path that fits; one that does not names nothing.
pub(super) fn kept_path(path: &str) -> String {
    if path.len() <= PATH { path.to_owned() } else { String::new() }
}

/// The end of a text says more than its begin.
fn cut(text: &str, most: usize) -> String {
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

/// Processes of another boot have no ids that mean anything now.
pub(super) fn without_pids(way: Vec<Edge>) -> Vec<Edge> {
    let nameless = |node: Node| Node { pid: None, ..node };
    way.into_iter().map(|edge| Edge { from: nameless(edge.from), to: nameless(edge.to), ..edge }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> Node {
        Node { kind: "process", name: name.to_owned(), pid: Some(7) }
    }

    fn share(asset: &str, bytes: u64) -> Share {
        let way = vec![Edge { from: node("a"), to: node("b"), bytes }];
        Share { asset: asset.to_owned(), bytes, way }
    }

    fn row(contents: Vec<Share>) -> Row {
        Row { tree: None, born: Some(-1), path: "/x".to_owned(), first_seen: 5, contents }
    }

    #[test]
    fn the_larger_of_two_bounds_stays() {
        let mut new = row(vec![share("a", 1), share("b", 9)]);
        new.path.clear();
        new.join(Row {
            first_seen: 3,
            tree: Some(5),
            ..row(vec![share("a", 4), share("c", 2), share("b", 1)])
        });
        let bytes: Vec<_> = new.contents.iter().map(|share| (&*share.asset, share.bytes)).collect();
        assert_eq!(bytes, [("a", 4), ("b", 9), ("c", 2)]);
        assert_eq!((&*new.path, new.tree, new.first_seen, new.bytes()), ("/x", Some(5), 3, 15));
    }

    #[test]
    fn what_is_too_large_or_unknown_is_no_row() {
        let parse = |row: &Row| Row::parse(&serde_json::to_vec(row).unwrap());
        let good = row(vec![share("a", 1)]);
        assert_eq!(parse(&good), Some(good.clone()));
        assert_eq!(parse(&Row { path: "x".repeat(PATH + 1), ..good.clone() }), None);
        assert_eq!(parse(&row(vec![share("a", 1); ASSETS + 1])), None);
        let long = Share { way: vec![share("a", 1).way[0].clone(); EDGES + 1], ..share("a", 1) };
        assert_eq!(parse(&row(vec![long])), None);
        assert_eq!(Row::parse(br#"{"path":"","first_seen":1,"contents":[],"more":1}"#), None);
        assert!(Row::parse(br#"{"path":"","first_seen":1,"contents":[]}"#).is_some());
        assert_eq!(Row::parse(&vec![b' '; LARGEST + 1]), None);
    }

    #[test]
    fn a_long_way_keeps_its_asset_and_its_end() {
        let edge = |n: u64| Edge { from: node(&n.to_string()), to: node(&(n + 1).to_string()), bytes: n };
        let long: Vec<Edge> = (0..40).map(edge).collect();
        let kept = kept_way(&long);
        assert_eq!((kept.len(), kept[0].bytes, kept[EDGES - 1].bytes), (EDGES, 0, 39));
        assert_eq!(kept_way(&long[..3]), &long[..3]);
        assert_eq!(kept_way(&[]), []);
        assert_eq!(without_pids(long)[0].to.pid, None);
    }

    proptest! {
        #[test]
        fn a_key_comes_back_and_orders_by_filesystem(uuid in "[0-9a-f-]{1,64}", ino in any::<u64>(), generation in any::<u32>()) {
            let key = Key { uuid: uuid.as_str().into(), ino, generation };
            let bytes = key.to_bytes();
            prop_assert!(bytes.starts_with(&Key::prefix(&uuid)));
            prop_assert_eq!(Key::parse(&bytes), Some(key));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(key) = Key::parse(&bytes) {
                prop_assert_eq!(key.to_bytes(), bytes.clone());
            }
            if let Some(row) = Row::parse(&bytes) {
                prop_assert!(row.is_within_limits());
            }
        }

        #[test]
        fn a_row_comes_back(
            path in ".{0,40}", born in any::<Option<i64>>(), tree in any::<Option<u64>>(), first_seen in any::<i64>(),
            contents in proptest::collection::vec((".{1,8}", any::<u64>(), ".{0,2000}", 0_usize..40), 0..4),
        ) {
            let contents = contents.into_iter().map(|(asset, bytes, name, edges)| {
                let edge = Edge { from: node(&name), to: node("file"), bytes };
                Share { asset, bytes, way: kept_way(&vec![edge; edges]) }
            }).collect();
            let mut row = Row { tree, born, path: kept_path(&path), first_seen, contents };
            let back = Row::parse(&row.to_bytes().unwrap()).unwrap();
            if serde_json::to_vec(&row).unwrap().len() > LARGEST {
                row.contents.iter_mut().for_each(|share| share.way.clear());
            }
            prop_assert_eq!(back, row);
        }
    }
}
