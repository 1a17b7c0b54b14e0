//! Reads the assets of a configuration: their names, paths and readers. It must not know whether what they name exists.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use agent_ebpf::MAX_ASSETS;

use super::{AssetConfig, Placed, Reader, parse::ConfigReader};
use crate::{event::AssetKind, yaml::Node};

/// Longest name of an asset; it becomes a label and a part of file names.
const MAX_NAME: usize = 63;

impl ConfigReader<'_> {
    pub(super) fn assets(&mut self, node: &Node) -> Option<Vec<AssetConfig>> {
        let items = self.check.list(node, "`assets`")?;
        if let Some(first_too_many) = items.get(MAX_ASSETS) {
            let message = format!("more than {MAX_ASSETS} assets");
            self.check.error(
                first_too_many.span,
                message,
                "put several directories into one asset's `paths`",
            );
        }
        let mut assets = Vec::new();
        let mut names = BTreeMap::new();
        let mut paths = BTreeMap::new();
        for item in items {
            let Some(mut fields) = self.check.fields(item, "the asset") else { continue };
            let name =
                fields.need(&mut self.check, "name").and_then(|node| self.asset_name(node, &mut names));
            let kind = fields.need(&mut self.check, "kind").and_then(|node| {
                let words = AssetKind::ALL.map(|kind| (kind.as_str(), kind));
                self.check.choice(node, "the asset's `kind`", &words)
            });
            let asset_paths =
                fields.need(&mut self.check, "paths").and_then(|node| self.asset_paths(node, &mut paths));
            let readers = fields.get("readers").map_or(Some(Vec::new()), |node| self.readers(node));
            fields.done(&mut self.check);
            if let (Some(name), Some(kind), Some(paths), Some(readers)) = (name, kind, asset_paths, readers) {
                assets.push(AssetConfig { name, kind, paths, readers });
            }
        }
        Some(assets)
    }

    fn asset_name(&mut self, node: &Node, names: &mut BTreeMap<String, u32>) -> Option<String> {
        let name = self.check.text(node, "the asset's `name`")?;
        let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !name.starts_with(is_alphanumeric)
            || name.len() > MAX_NAME
            || !name.chars().all(|c| is_alphanumeric(c) || "._-".contains(c))
        {
            let help = format!(
                "use lower-case letters, digits, `.`, `_` and `-`, a letter or a digit first, at most {MAX_NAME} in all"
            );
            self.check.error(node.span, format!("`{name}` is not a name for an asset"), help);
            return None;
        }
        if let Some(line) = names.insert(name.to_owned(), node.span.line) {
            let message = format!("a second asset is named `{name}`");
            self.check.error(
                node.span,
                message,
                format!("the first is in line {line}: rename one of the two"),
            );
        }
        Some(name.to_owned())
    }

    fn asset_paths(
        &mut self,
        node: &Node,
        seen: &mut BTreeMap<PathBuf, u32>,
    ) -> Option<Vec<Placed<PathBuf>>> {
        let items = self.check.list(node, "the asset's `paths`")?;
        let mut paths = Vec::new();
        for item in items {
            let Some(path) = self.path(item, "the asset's path") else { continue };
            if path.value == Path::new("/") {
                let help = "name the directory that holds the asset's files";
                self.check.error(item.span, "an asset cannot be the whole root filesystem", help);
            } else if let Some(line) = seen.insert(path.value.clone(), item.span.line) {
                let message = format!("`{}` is listed twice", path.value.display());
                self.check.error(
                    item.span,
                    message,
                    format!("it is first listed in line {line}: remove one of the two"),
                );
            }
            paths.push(path);
        }
        Some(paths)
    }

    fn readers(&mut self, node: &Node) -> Option<Vec<Reader>> {
        // An empty list could mean «nobody» or «not known yet», and the two are opposites.
        let items = self.check.list(node, "`readers`")?;
        let mut readers = Vec::new();
        for item in items {
            let Some((key, value)) = self.one_of(item, "the reader", &["exe", "unit"]) else { continue };
            let reader = if key == "exe" {
                self.absolute_path(value, "the reader's `exe`").map(Reader::Exe)
            } else {
                self.unit(value)
            };
            readers.extend(reader);
        }
        Some(readers)
    }
}
