//! Reads the values of a configuration: paths, selectors, networks. It must not know which keys they stand under, nor
//! whether what they name exists.

use std::{
    ffi::OsStr,
    net::IpAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use ipnet::IpNet;

use super::{FilesystemSelector, Placed, Reader, parse::ConfigReader};
use crate::yaml::{Fields, Node, Span};

/// `PATH_MAX` of Linux, its final NUL included.
const MAX_PATH: usize = 4096;

impl ConfigReader<'_> {
    pub(super) fn unit(&mut self, node: &Node) -> Option<Reader> {
        let unit = self.check.text(node, "the reader's `unit`")?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        let has_type = unit.rsplit_once('.').is_some_and(|(name, kind)| !name.is_empty() && !kind.is_empty());
        if !has_type || unit.len() > 255 || !unit.chars().all(is_allowed) {
            let help = "write its full name, such as `backup.service`";
            self.check.error(node.span, format!("`{unit}` is not the name of a systemd unit"), help);
            return None;
        }
        Some(Reader::Unit(unit.to_owned()))
    }

    pub(super) fn filesystem(&mut self, item: &Node) -> Option<Placed<FilesystemSelector>> {
        let (key, value) = self.one_of(item, "the filesystem", &["mount", "uuid", "source"])?;
        let selector = match key {
            "mount" => FilesystemSelector::Mount(self.absolute_path(value, "the filesystem's `mount`")?),
            "uuid" => {
                let uuid = self.check.text(value, "the filesystem's `uuid`")?;
                if !(4..=64).contains(&uuid.len()) || !uuid.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
                {
                    let help = "copy it from `lsblk -o NAME,UUID`";
                    self.check.error(value.span, format!("`{uuid}` is not the UUID of a filesystem"), help);
                    return None;
                }
                FilesystemSelector::Uuid(uuid.to_ascii_lowercase())
            }
            _ => {
                let origin = self.check.text(value, "the filesystem's `source`")?;
                if origin.len() >= MAX_PATH || origin.contains(char::is_control) {
                    let help = "write it as `findmnt -o SOURCE` shows it, such as `server:/export`";
                    self.check.error(value.span, "not the source of a mount", help);
                    return None;
                }
                FilesystemSelector::Source(origin.to_owned())
            }
        };
        Some(placed(selector, value.span))
    }

    pub(super) fn network(&mut self, item: &Node) -> Option<IpNet> {
        let text = self.check.text(item, "the network")?;
        if let Ok(address) = text.parse::<IpAddr>() {
            let help = format!("write `{}` for this one address", IpNet::from(address));
            self.check.error(item.span, format!("`{text}` is an address, not a network"), help);
            return None;
        }
        let network =
            self.parsed::<IpNet>(item, "the network", "write it as `10.20.0.0/16` or `2001:db8::/32`")?;
        if network.prefix_len() == 0 {
            let help = "list the networks that you control: with this one no egress would ever count";
            self.check.error(item.span, format!("`{text}` is every address"), help);
            return None;
        }
        if network != network.trunc() {
            let help = format!("did you mean `{}`?", network.trunc());
            self.check.error(item.span, format!("`{text}` has bits set beyond its prefix"), help);
            return None;
        }
        Some(network)
    }

    /// The only entry of a map, whose key is one of `keys`.
    pub(super) fn one_of<'n>(
        &mut self,
        item: &'n Node,
        what: &'static str,
        keys: &[&'static str],
    ) -> Option<(&'static str, &'n Node)> {
        let mut fields: Fields<'n> = self.check.fields(item, what)?;
        let found: Vec<(&'static str, &Node)> =
            keys.iter().filter_map(|key| fields.get(key).map(|value| (*key, value))).collect();
        let has_unknown = !fields.all_asked();
        fields.done(&mut self.check);
        match found.as_slice() {
            [one] => Some(*one),
            [] if has_unknown => None,
            _ => {
                let help = format!("write an item for each: {{{}: …}}", keys.join(": …} or {"));
                let amount = if found.is_empty() { "nothing" } else { "more than one thing" };
                self.check.error(item.span, format!("{what} names {amount}"), help);
                None
            }
        }
    }

    pub(super) fn parsed<T: FromStr>(&mut self, node: &Node, what: &str, help: &str) -> Option<T> {
        let text = self.check.text(node, what)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.check.error(node.span, format!("{what} is `{text}`"), help);
        }
        parsed
    }

    /// A path that must be written in full, because it is compared and not opened.
    pub(super) fn absolute_path(&mut self, node: &Node, what: &str) -> Option<PathBuf> {
        let text = self.check.text(node, what)?;
        if !text.starts_with('/') {
            let message = format!("{what} is `{text}`, which is not an absolute path");
            self.check.error(node.span, message, "write it from `/` on");
            return None;
        }
        self.path(node, what).map(|path| path.value)
    }

    /// A path, made absolute.
    pub(super) fn path(&mut self, node: &Node, what: &str) -> Option<Placed<PathBuf>> {
        let text = self.check.text(node, what)?;
        if text.len() >= MAX_PATH || text.contains(char::is_control) {
            let help = format!("write a path of less than {MAX_PATH} bytes without control characters");
            self.check.error(node.span, format!("{what} is not a path"), help);
            return None;
        }
        if text.starts_with('~') || text.starts_with('$') {
            let message = format!("{what} is `{text}`: no shell reads it");
            self.check.error(node.span, message, "write the path out");
            return None;
        }
        // Each `..` goes one up from the configuration's real directory. After another component it could cross a link
        // and mean another place than it seems to.
        let written = Path::new(text);
        let mut path = if written.is_absolute() { PathBuf::from("/") } else { self.base.to_owned() };
        let mut was_descending = written.is_absolute();
        for component in written.components() {
            match component {
                Component::Normal(name) => {
                    was_descending = true;
                    path.push::<&OsStr>(name);
                }
                Component::ParentDir if was_descending => {
                    let message = format!("{what} is `{text}`, with `..` inside");
                    self.check.error(node.span, message, "write the directory that you mean");
                    return None;
                }
                Component::ParentDir => {
                    path.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Some(placed(path, node.span))
    }
}

pub(super) const fn placed<T>(value: T, span: Span) -> Placed<T> {
    Placed { value, line: span.line, column: span.column }
}
