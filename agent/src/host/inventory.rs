//! What `weighbridge inventory` prints: every protected file, where it lies and under what encryption.
//!
//! Rows and two ways to print them. This file must not know how files are found.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::registry::Registry;
use crate::config::Config;

/// All rows, ready to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Version of the JSON form: keys are added, never renamed.
    pub schema: u32,
    pub assets: Vec<AssetRow>,
    pub files: Vec<FileRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AssetRow {
    pub name: String,
    pub kind: &'static str,
    pub files: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileRow {
    pub asset: String,
    pub path: String,
    /// `major:minor` of the filesystem.
    pub device: String,
    pub inode: u64,
    pub filesystem: String,
    pub mount: String,
    pub encryption: &'static str,
    pub bytes: u64,
    pub format: &'static str,
    /// `whole`, `truncated`, `trailing` or `unknown`.
    pub extent: &'static str,
    /// RFC 3339.
    pub first_seen: String,
}

impl Inventory {
    /// Rows in the order of the configuration, then by path.
    #[must_use]
    pub fn new(config: &Config, registry: &Registry) -> Self {
        let mut counts = BTreeMap::new();
        let assets = registry.assets(config);
        let files = registry
            .files()
            .iter()
            .filter_map(|entry| {
                *counts.entry(entry.asset).or_insert(0) += 1;
                let filesystem = registry.filesystem(entry);
                Some(FileRow {
                    asset: assets.get(usize::from(entry.asset.0))?.name.clone(),
                    path: entry.path.to_string_lossy().into_owned(),
                    device: entry.object.dev.to_string(),
                    inode: entry.object.ino,
                    filesystem: filesystem.map(|filesystem| filesystem.fstype.clone()).unwrap_or_default(),
                    mount: filesystem
                        .map(|filesystem| filesystem.mount.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    encryption: registry.encryption(entry),
                    bytes: entry.size,
                    format: entry.format.format.as_str(),
                    extent: entry.format.extent.as_str(),
                    first_seen: entry.first_seen.to_string(),
                })
            })
            .collect();
        let assets = assets
            .into_iter()
            .map(|asset| AssetRow {
                files: counts.get(&asset.id).copied().unwrap_or_default(),
                name: asset.name,
                kind: asset.kind.as_str(),
                bytes: asset.bytes,
            })
            .collect();
        Self { schema: 1, assets, files }
    }

    /// An aligned table, and the totals of each asset.
    #[must_use]
    pub fn text(&self) -> String {
        let mut rows = vec![
            ["ASSET", "SIZE", "FORMAT", "FILESYSTEM", "DEVICE", "ENCRYPTION", "FIRST SEEN", "PATH"]
                .map(ToOwned::to_owned),
        ];
        rows.extend(self.files.iter().map(|file| {
            let format = match file.extent {
                "whole" | "unknown" => file.format.to_owned(),
                extent => format!("{} ({extent})", file.format),
            };
            [
                printable(&file.asset),
                size(file.bytes),
                format,
                file.filesystem.clone(),
                file.device.clone(),
                file.encryption.to_owned(),
                file.first_seen.clone(),
                printable(&file.path),
            ]
        }));
        let mut text = table(&rows, 1);
        text.push('\n');
        let mut rows = vec![["ASSET", "SIZE", "KIND", "FILES"].map(ToOwned::to_owned)];
        rows.extend(self.assets.iter().map(|asset| {
            [printable(&asset.name), size(asset.bytes), asset.kind.to_owned(), asset.files.to_string()]
        }));
        text.push_str(&table(&rows, 1));
        text
    }

    /// One JSON document.
    ///
    /// # Errors
    /// Those of serde_json, which has none for this type.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// Columns two blanks apart; the column `right` is aligned to the right.
fn table<const N: usize>(rows: &[[String; N]], right: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = if column == right {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: `512 B`, `1.5 KiB`, `131.4 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Tenths, rounded down: a size is never said to be larger than it is.
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit < UNITS.len() - 1 && bytes / divisor >= 1024 {
        divisor <<= 10;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let (whole, rest) = (bytes / divisor, bytes % divisor);
    let tenth = u128::from(rest) * 10 / u128::from(divisor);
    format!("{whole}.{tenth} {}", UNITS[unit])
}

/// File names are chosen by others; on a terminal they must not move the cursor.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control();
            let (plain, escape) =
                (Some(c).filter(|_| !escaped), Some(c.escape_default()).filter(|_| escaped));
            plain.into_iter().chain(escape.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, bytes: u64, format: &'static str, extent: &'static str) -> FileRow {
        FileRow {
            asset: "llm-70b".to_owned(),
            path: path.to_owned(),
            device: "253:1".to_owned(),
            inode: 42,
            filesystem: "xfs".to_owned(),
            mount: "/models".to_owned(),
            encryption: "luks2",
            bytes,
            format,
            extent,
            first_seen: "2026-11-22T06:00:00Z".to_owned(),
        }
    }

    #[test]
    fn columns_are_aligned_and_names_cannot_write_to_the_terminal() {
        let inventory = Inventory {
            schema: 1,
            assets: vec![AssetRow { name: "llm-70b".to_owned(), kind: "weights", files: 2, bytes: 5 << 30 }],
            files: vec![
                row("/models/a.safetensors", 5 << 30, "safetensors", "truncated"),
                row("/models/\u{1b}[2Jx", 7, "unknown", "unknown"),
            ],
        };
        insta::assert_snapshot!(inventory.text(), @r"
        ASSET       SIZE  FORMAT                   FILESYSTEM  DEVICE  ENCRYPTION  FIRST SEEN            PATH
        llm-70b  5.0 GiB  safetensors (truncated)  xfs         253:1   luks2       2026-11-22T06:00:00Z  /models/a.safetensors
        llm-70b      7 B  unknown                  xfs         253:1   luks2       2026-11-22T06:00:00Z  /models/\u{1b}[2Jx

        ASSET       SIZE  KIND     FILES
        llm-70b  5.0 GiB  weights  2
        ");
        let parsed: serde_json::Value = serde_json::from_str(&inventory.json().unwrap()).unwrap();
        assert_eq!(parsed["schema"], 1);
        assert_eq!(parsed["files"][0]["extent"], "truncated");
        assert_eq!(parsed["assets"][0]["bytes"], 5_u64 << 30);
    }

    #[test]
    fn sizes_are_for_people() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (141_107_412_992, "131.4 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
