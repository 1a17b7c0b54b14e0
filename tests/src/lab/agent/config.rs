//! The configuration that an agent of the lab is started with, and what stands around its command line.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lab::{outside::CONTROLLED_NETWORK, service::free};

/// A configuration file in the making.
#[derive(Clone, Debug)]
pub struct Config {
    pub assets: Vec<AssetConfig>,
    /// Mount points.
    pub controlled: Vec<PathBuf>,
    pub networks: Vec<String>,
    pub rules: Vec<PathBuf>,
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    pub alerts: PathBuf,
    /// Sinks beside that file.
    pub sinks: Vec<Value>,
    /// `auto`, `syscall` or `function`.
    pub sensor: &'static str,
    /// Rows of the kernel's maps, by their keys in the configuration.
    pub limits: Vec<(&'static str, u32)>,
    /// Whether the kernel weighs on without the agent.
    pub pin: bool,
    /// More lines, as they are.
    pub more: String,
    /// How it is started; not in the file.
    pub start: Start,
}

/// What stands around the agent's command line.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// In front of it: a program that executes what follows, and its arguments.
    pub launcher: Vec<PathBuf>,
    /// Behind it.
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct AssetConfig {
    pub name: String,
    pub path: PathBuf,
    /// Executables that may take its bytes.
    pub readers: Vec<PathBuf>,
}

impl Config {
    /// A configuration without assets whose files are all below `dir`, which should not lie on a volume of the lab.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(dir: &Path, controlled: &Path) -> Result<Self> {
        Ok(Self {
            assets: Vec::new(),
            controlled: vec![controlled.to_path_buf()],
            networks: vec![CONTROLLED_NETWORK.to_owned()],
            rules: vec![Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("rules")],
            state_dir: dir.join("state"),
            listen: free()?,
            alerts: dir.join("alerts.ndjson"),
            sinks: Vec::new(),
            sensor: "auto",
            limits: Vec::new(),
            pin: false,
            more: String::new(),
            start: Start::default(),
        })
    }

    /// Adds an asset of kind `weights` without a reader list.
    #[must_use]
    pub fn asset(mut self, name: &str, path: &Path) -> Self {
        self.assets.push(AssetConfig {
            name: name.to_owned(),
            path: path.to_path_buf(),
            readers: Vec::new(),
        });
        self
    }

    /// The file's text, one key per line. JSON strings are YAML strings, so paths need no further care.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut text = String::from("schema: 1\nassets:\n");
        for asset in &self.assets {
            let readers: Vec<Value> = asset.readers.iter().map(|exe| json!({"exe": exe})).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  - name: {}", json!(asset.name));
            let _ = writeln!(text, "    kind: weights\n    paths: [{}]", json!(asset.path));
            if !readers.is_empty() {
                let _ = writeln!(text, "    readers: {}", Value::from(readers));
            }
        }
        let mounts: Vec<Value> = self.controlled.iter().map(|mount| json!({"mount": mount})).collect();
        let _ = writeln!(text, "controlled:\n  filesystems: {}", Value::from(mounts));
        let _ = writeln!(text, "  networks: {}", json!(self.networks));
        let _ = writeln!(text, "rules: {}", json!(self.rules));
        let _ = writeln!(text, "state_dir: {}", json!(self.state_dir));
        let _ = writeln!(
            text,
            "listen: {}\npin: {}\nsensor: {}",
            json!(self.listen.to_string()),
            self.pin,
            self.sensor
        );
        text.push_str(&self.more);
        if !self.limits.is_empty() {
            let limits: Vec<String> =
                self.limits.iter().map(|(key, rows)| format!("{key}: {rows}")).collect();
            let _ = writeln!(text, "limits: {{{}}}", limits.join(", "));
        }
        let _ = writeln!(text, "sinks:\n  - {}", json!({"type": "file", "path": self.alerts}));
        for sink in &self.sinks {
            let _ = writeln!(text, "  - {sink}");
        }
        text
    }

    /// Writes it to `path`, unless it is there: pinned programs notice who opens an agent's configuration for writing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_yaml();
        if fs::read_to_string(path).is_ok_and(|known| known == text) {
            return Ok(());
        }
        fs::write(path, text).with_context(|| format!("cannot write the configuration {}", path.display()))
    }
}
