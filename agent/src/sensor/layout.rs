//! What pinned maps were made by and for: whether an agent may go on with them.
//!
//! The numbers in the maps mean something only together with the shape of their keys, the list of assets that they are
//! indexes of, and the boot whose processes and devices they name. All of that is pinned beside them as text.

use agent_ebpf as abi;
use ring::digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes that the text has room for: 260 for each of [`abi::MAX_ASSETS`].
pub(super) const TEXT_BYTES: usize = 1 << 18;

/// An asset as the maps know it: its index is its place in the list. Opaque here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub name: String,
    pub paths: Vec<String>,
}

/// What stands in the pinned map `LAYOUT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    /// [`abi::ABI`] and the sizes of all keys and values, as hex.
    pub abi: String,
    /// The kernel's id of this boot.
    pub boot: String,
    /// SHA-256 of the programs and of all that was patched into them.
    pub programs: String,
    pub assets: Vec<Label>,
}

/// Why pinned maps are not adopted. Each says what is lost by starting anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    #[error("the pinned maps were made by another version of the agent, and their rows have another form")]
    Abi,
    #[error("the pinned maps were made in another boot")]
    Boot,
    #[error("the pinned maps were made for {0} assets and only {1} are configured now")]
    FewerAssets(usize, usize),
    #[error("asset {0} of the pinned maps is `{1}`, and `{2}` is configured in its place now")]
    OtherAsset(usize, String, String),
    #[error("the pinned maps protect {1} for asset `{0}`, which does not list it now")]
    PathGone(String, String),
}

impl Layout {
    /// Of this binary.
    pub(super) fn new(boot: String, programs: String, assets: Vec<Label>) -> Self {
        Self { abi: sizes(), boot, programs, assets }
    }

    /// Whether maps of this layout can be used by an agent of the layout `now`; the assets that are new to them, as a set: whoever shares a
    /// mark with one of those is looked at with it.
    ///
    /// # Errors
    ///
    /// When a number in the maps would come to mean something else.
    pub(super) fn adopted_by(&self, now: &Self) -> Result<u64, Mismatch> {
        if self.abi != now.abi {
            return Err(Mismatch::Abi);
        }
        if self.boot != now.boot {
            return Err(Mismatch::Boot);
        }
        if self.assets.len() > now.assets.len() {
            return Err(Mismatch::FewerAssets(self.assets.len(), now.assets.len()));
        }
        let mut added = 0;
        for (index, label) in now.assets.iter().enumerate() {
            let Some(was) = self.assets.get(index) else {
                added |= 1 << abi::asset_mark(index as u32);
                continue;
            };
            if was.name != label.name {
                return Err(Mismatch::OtherAsset(index, was.name.clone(), label.name.clone()));
            }
            if let Some(gone) = was.paths.iter().find(|path| !label.paths.contains(path)) {
                return Err(Mismatch::PathGone(label.name.clone(), gone.clone()));
            }
            if label.paths.len() > was.paths.len() {
                added |= 1 << abi::asset_mark(index as u32);
            }
        }
        Ok(added)
    }
}

/// Every type that lies in a pinned map, so that a change of any of them shows.
fn sizes() -> String {
    let sizes = [
        size_of::<abi::ObjectKey>(),
        size_of::<abi::ObjectValue>(),
        size_of::<abi::NameKey>(),
        size_of::<abi::HolderKey>(),
        size_of::<abi::HolderValue>(),
        size_of::<abi::TakeKey>(),
        size_of::<abi::TakeValue>(),
        size_of::<abi::FlowKey>(),
        size_of::<abi::FlowValue>(),
        size_of::<abi::acts::ActKey>(),
        size_of::<abi::acts::ActValue>(),
        size_of::<abi::acts::ReachKey>(),
        size_of::<abi::acts::StoreValue>(),
        size_of::<abi::ProcessFact>(),
        size_of::<abi::SinkFact>(),
        size_of::<abi::ObjectFact>(),
        size_of::<abi::RowFact>(),
        size_of::<abi::RequestKey>(),
        size_of::<abi::RequestValue>(),
        size_of::<abi::SpaceValue>(),
        size_of::<abi::SharerValue>(),
        size_of::<abi::Memory>(),
        abi::MEMORY_SLOTS,
        size_of::<abi::Identity>(),
        size_of::<abi::Address>(),
        size_of::<abi::PendingValue>(),
        size_of::<abi::SentValue>(),
        abi::SENT_SLOTS as usize,
        size_of::<abi::layers::Layered>(),
        size_of::<abi::egress::PeerKey>(),
        size_of::<abi::egress::PeerValue>(),
        abi::egress::REST,
        abi::egress::SCALE_WORDS,
        size_of::<abi::tamper::TamperKey>(),
        size_of::<abi::tamper::TamperValue>(),
        abi::tamper::TAMPERED_WORDS as usize,
        abi::IDENTITIES as usize,
        abi::SHARED_WORDS as usize,
        abi::LOSSES.len(),
        abi::MARKS,
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&abi::ABI.to_be_bytes());
    for size in sizes {
        context.update(&(size as u64).to_be_bytes());
    }
    hex(context.finish().as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(assets: &[(&str, &[&str])]) -> Layout {
        let label = |(name, paths): &(&str, &[&str])| Label {
            name: (*name).to_owned(),
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        };
        Layout::new("boot".to_owned(), "programs".to_owned(), assets.iter().map(label).collect())
    }

    #[test]
    fn more_assets_and_paths_are_adopted() {
        let was = layout(&[("a", &["/a"]), ("b", &["/b"])]);
        assert_eq!(was.adopted_by(&was), Ok(0));
        assert_eq!(
            was.adopted_by(&layout(&[("a", &["/a"]), ("b", &["/c", "/b"]), ("c", &["/d"])])),
            Ok(0b110)
        );
    }

    #[test]
    fn an_index_that_means_another_asset_is_refused() {
        let was = layout(&[("a", &["/a"]), ("b", &["/b"])]);
        let refused = |now: &Layout| was.adopted_by(now).unwrap_err();
        insta::assert_snapshot!(refused(&layout(&[("a", &["/a"])])), @"the pinned maps were made for 2 assets and only 1 are configured now");
        insta::assert_snapshot!(refused(&layout(&[("b", &["/b"]), ("a", &["/a"])])), @"asset 0 of the pinned maps is `a`, and `b` is configured in its place now");
        insta::assert_snapshot!(refused(&layout(&[("a", &["/x"]), ("b", &["/b"])])), @"the pinned maps protect /a for asset `a`, which does not list it now");
        assert_eq!(refused(&Layout { boot: "other".to_owned(), ..was.clone() }), Mismatch::Boot);
        assert_eq!(refused(&Layout { abi: "other".to_owned(), ..was.clone() }), Mismatch::Abi);
    }

    #[test]
    fn it_survives_its_text() {
        let was = layout(&[("a", &["/a"])]);
        assert_eq!(serde_json::from_str::<Layout>(&serde_json::to_string(&was).unwrap()).unwrap(), was);
        assert!(serde_json::from_str::<Layout>("{}").is_err());
    }
}
