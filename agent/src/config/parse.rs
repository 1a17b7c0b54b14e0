//! Reads the configuration (DESIGN §4) and reports everything that is wrong with it at once.
//!
//! It must not know the host: whether an asset's path exists or a mount is there is found out later, with the places
//! that are kept here ([`Config::fault_at`]).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{Config, Controlled, Limits, Placed, SensorChoice, SinkConfig};
use crate::yaml::{self, Check, Diagnostic, Node, format_size};

const DEFAULT_RULES: [&str; 2] = ["/usr/share/weighbridge/rules", "/etc/weighbridge/rules.d"];
const DEFAULT_STATE_DIR: &str = "/var/lib/weighbridge";
const DEFAULT_LISTEN: &str = "127.0.0.1:9464";
const DEFAULT_ALERTS: &str = "/var/log/weighbridge/alerts.ndjson";
const DEFAULT_PROPAGATION_FLOOR: u64 = 64 << 10;
/// A larger floor would let a whole tier of the built-in rules pass through one channel unseen.
const MAX_PROPAGATION_FLOOR: u64 = 1 << 20;
/// Rows of a map of the kernel. The largest map would take some 6 GiB when it is full.
const FEWEST_ROWS: u64 = 16;
const MOST_ROWS: u64 = 1 << 24;
/// Longest name of a driver, as the kernel's lists have them.
const MAX_DRIVER: usize = 63;
/// Rows of the kernel's map of networks.
const MOST_NETWORKS: usize = 4096;

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file. Nothing is ever half loaded.
pub fn load(file: &Path) -> Result<Config, Vec<Diagnostic>> {
    let text = yaml::read(file).map_err(|fault| vec![fault])?;
    // Relative paths follow the real file, so that a link to the configuration means what its target means.
    let base =
        file.canonicalize().ok().and_then(|real| real.parent().map(Path::to_owned)).ok_or_else(|| {
            vec![Diagnostic::of_file(file, "cannot find the directory of the configuration")]
        })?;
    parse(file, &text, &base)
}

/// Checks the text of a configuration. `base` is the absolute directory that relative paths resolve against.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &Path, text: &str, base: &Path) -> Result<Config, Vec<Diagnostic>> {
    let (source, root) = yaml::parse(file, text)?;
    let mut reader = ConfigReader { check: Check::new(source), base };
    let config = reader.config(&root, file);
    match config {
        Some(config) if !reader.check.has_faults() => Ok(config),
        _ => Err(reader.check.into_faults()),
    }
}

impl Config {
    /// A fault that only the host could find, at the place of the value that it is about. The file is read again for
    /// the excerpt: this is the way of an error, and the configuration need not carry its text.
    #[must_use]
    pub fn fault_at<T>(
        &self,
        at: &Placed<T>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        let parsed = yaml::read(&self.file).ok().and_then(|text| yaml::parse(&self.file, &text).ok());
        let span =
            parsed.as_ref().and_then(|(_, root)| root.scalar_at(at.line, at.column)).map(|node| node.span);
        match (parsed, span) {
            (Some((source, _)), Some(span)) => Diagnostic::at(&source, span, message).help(help),
            _ => {
                let mut fault = Diagnostic::of_file(&self.file, message).help(help);
                (fault.line, fault.column) = (at.line, at.column);
                fault
            }
        }
    }
}

pub(super) struct ConfigReader<'a> {
    pub(super) check: Check,
    /// Absolute directory that relative paths resolve against.
    pub(super) base: &'a Path,
}

impl ConfigReader<'_> {
    fn config(&mut self, root: &Node, file: &Path) -> Option<Config> {
        let mut fields = self.check.fields(root, "the configuration")?;
        if let Some(node) = fields.need(&mut self.check, "schema") {
            let _ = self.check.choice(node, "`schema`", &[("1", 1)]);
        }
        let assets = fields.need(&mut self.check, "assets").and_then(|node| self.assets(node));
        let controlled = fields
            .get("controlled")
            .map_or_else(|| Some(Controlled::default()), |node| self.controlled(node));
        let rules = match fields.get("rules") {
            Some(node) => self.rules(node),
            // One that cannot be looked at is kept: loading the rules will say why.
            None => {
                let exists = |path: &PathBuf| path.try_exists().unwrap_or(true);
                Some(DEFAULT_RULES.iter().map(PathBuf::from).filter(exists).collect())
            }
        };
        let state_dir = match fields.get("state_dir") {
            Some(node) => self.path(node, "`state_dir`").map(|path| path.value),
            None => Some(PathBuf::from(DEFAULT_STATE_DIR)),
        };
        let listen = match fields.get("listen") {
            Some(node) => {
                let help = format!("write an address and a port, such as `{DEFAULT_LISTEN}`");
                self.parsed::<SocketAddr>(node, "`listen`", &help)
            }
            None => DEFAULT_LISTEN.parse().ok(),
        };
        let pin = fields.get("pin").map_or(Some(true), |node| self.check.bool(node, "`pin`"));
        let sensor = fields.get("sensor").map_or(Some(SensorChoice::Auto), |node| self.sensor(node));
        let sinks = match fields.get("sinks") {
            Some(node) => self.sinks(node),
            None => {
                let path = Placed { value: PathBuf::from(DEFAULT_ALERTS), line: 1, column: 1 };
                Some(vec![SinkConfig::File { path }])
            }
        };
        let propagation_floor = fields
            .get("propagation_floor")
            .map_or(Some(DEFAULT_PROPAGATION_FLOOR), |node| self.propagation_floor(node));
        let limits = fields.get("limits").map_or_else(|| Some(Limits::default()), |node| self.limits(node));
        let gpu_drivers = fields.get("gpu_drivers").map_or(Some(Vec::new()), |node| self.gpu_drivers(node));
        fields.done(&mut self.check);
        Some(Config {
            file: file.to_owned(),
            assets: assets?,
            controlled: controlled?,
            rules: rules?,
            state_dir: state_dir?,
            listen: listen?,
            pin: pin?,
            sensor: sensor?,
            sinks: sinks?,
            propagation_floor: propagation_floor?,
            limits: limits?,
            gpu_drivers: gpu_drivers?,
        })
    }

    fn controlled(&mut self, node: &Node) -> Option<Controlled> {
        let mut fields = self.check.fields(node, "`controlled`")?;
        let mut controlled = Controlled::default();
        if let Some(items) =
            fields.get("filesystems").and_then(|node| self.check.list(node, "`controlled.filesystems`"))
        {
            for item in items {
                controlled.filesystems.extend(self.filesystem(item));
            }
        }
        if let Some(node) = fields.get("networks")
            && let Some(items) = self.check.list(node, "`controlled.networks`")
        {
            if items.len() > MOST_NETWORKS {
                let message =
                    format!("{} networks are more than the {MOST_NETWORKS} that can be", items.len());
                self.check.error(node.span, message, "join neighbouring ones under a shorter prefix");
            }
            for item in items {
                controlled.networks.extend(self.network(item));
            }
        }
        fields.done(&mut self.check);
        Some(controlled)
    }

    fn rules(&mut self, node: &Node) -> Option<Vec<PathBuf>> {
        let items = self.check.list(node, "`rules`")?;
        let mut rules = Vec::new();
        for item in items {
            let Some(path) = self.path(item, "the path of the rules") else { continue };
            match path.value.try_exists() {
                Ok(true) => rules.push(path.value),
                Ok(false) => {
                    let message = "these rules do not exist";
                    self.check.error(item.span, message, "create them or remove this item");
                }
                Err(error) => {
                    let message = format!("cannot look at these rules: {}", error.kind());
                    self.check.error(item.span, message, "let the agent's user reach them");
                }
            }
        }
        Some(rules)
    }

    fn sensor(&mut self, node: &Node) -> Option<SensorChoice> {
        let words = [
            ("auto", SensorChoice::Auto),
            ("syscall", SensorChoice::Syscall),
            ("function", SensorChoice::Function),
        ];
        let choice = self.check.choice(node, "`sensor`", &words)?;
        if choice == SensorChoice::Function {
            self.check.error(node.span, "the function sensor is not built yet", "write `auto` or `syscall`");
            return None;
        }
        Some(choice)
    }

    fn propagation_floor(&mut self, node: &Node) -> Option<u64> {
        let floor = self.check.size(node, "`propagation_floor`")?;
        if floor == 0 || floor > MAX_PROPAGATION_FLOOR {
            let message = format!("`propagation_floor` is {}", format_size(floor));
            let help = format!("write at least 1B and at most {}", format_size(MAX_PROPAGATION_FLOOR));
            self.check.error(node.span, message, help);
            return None;
        }
        Some(floor)
    }

    fn gpu_drivers(&mut self, node: &Node) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for item in self.check.list(node, "`gpu_drivers`")? {
            let name = self.check.text(item, "the driver's name")?;
            if name.is_empty() || name.len() > MAX_DRIVER || name.contains(char::is_whitespace) {
                let help = "write a name as /proc/devices or /proc/misc has it, such as `nvidia-uvm`";
                self.check.error(item.span, format!("no driver is called `{name}`"), help);
                return None;
            }
            names.push(name.to_owned());
        }
        Some(names)
    }

    fn limits(&mut self, node: &Node) -> Option<Limits> {
        let mut fields = self.check.fields(node, "`limits`")?;
        let mut limits = Limits::default();
        let keys: [(&'static str, &mut u32); 5] = [
            ("holders", &mut limits.holders),
            ("takes", &mut limits.takes),
            ("flows", &mut limits.flows),
            ("objects", &mut limits.objects),
            ("peers", &mut limits.peers),
        ];
        let mut right = true;
        for (key, limit) in keys {
            let Some(node) = fields.get(key) else { continue };
            let number = self.check.number(node, &format!("`{key}`"), FEWEST_ROWS, MOST_ROWS);
            match number.and_then(|number| u32::try_from(number).ok()) {
                Some(number) => *limit = number,
                None => right = false,
            }
        }
        fields.done(&mut self.check);
        right.then_some(limits)
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::MAX_ASSETS;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::{AssetConfig, FilesystemSelector, Reader},
        event::AssetKind,
    };

    const COMPLETE: &str = "schema: 1
assets:
  - name: llm-70b
    kind: weights
    paths: [/models/llm-70b/, ../models/b, ./c]
    readers: [{exe: /usr/bin/vllm}, {unit: backup.service}]
  - {name: code, kind: associated, paths: [/src]}
controlled:
  filesystems: [{mount: /models}, {uuid: 3F1C2B00-0000-4000-8000-000000000001}, {source: 'nas:/export'}]
  networks: [10.20.0.0/16, '2001:db8::/32']
rules: [/]
state_dir: state
listen: '[::1]:9000'
pin: false
sensor: syscall
propagation_floor: 128KiB
gpu_drivers: [cpu/cpuid]
sinks:
  - {type: file, path: alerts.ndjson}
";

    fn accepts(text: &str) -> Config {
        parse("/etc/weighbridge/agent.yaml".as_ref(), text, "/etc/weighbridge".as_ref())
            .unwrap_or_else(|faults| panic!("{}", yaml::render(&faults, false)))
    }

    #[test]
    fn the_smallest_configuration_has_every_default() {
        let config =
            accepts("schema: 1\nassets: [{name: llm-70b, kind: weights, paths: [/models/llm-70b]}]\n");
        let rules = DEFAULT_RULES.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        let expected = Config {
            file: "/etc/weighbridge/agent.yaml".into(),
            assets: vec![AssetConfig {
                name: "llm-70b".to_owned(),
                kind: AssetKind::Weights,
                paths: vec![Placed { value: "/models/llm-70b".into(), line: 2, column: 49 }],
                readers: vec![],
            }],
            controlled: Controlled::default(),
            rules,
            state_dir: "/var/lib/weighbridge".into(),
            listen: ([127, 0, 0, 1], 9464).into(),
            pin: true,
            sensor: SensorChoice::Auto,
            sinks: vec![SinkConfig::File {
                path: Placed { value: "/var/log/weighbridge/alerts.ndjson".into(), line: 1, column: 1 },
            }],
            propagation_floor: 65_536,
            limits: Limits::default(),
            gpu_drivers: Vec::new(),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn every_key_is_read() {
        let config = accepts(COMPLETE);
        let paths: Vec<&Path> = config.assets[0].paths.iter().map(|path| path.value.as_path()).collect();
        assert_eq!(paths, ["/models/llm-70b", "/etc/models/b", "/etc/weighbridge/c"].map(Path::new));
        assert_eq!(
            config.assets[0].readers,
            [Reader::Exe("/usr/bin/vllm".into()), Reader::Unit("backup.service".to_owned())]
        );
        assert_eq!(config.assets[1].kind, AssetKind::Associated);
        let filesystems: Vec<&FilesystemSelector> =
            config.controlled.filesystems.iter().map(|filesystem| &filesystem.value).collect();
        assert_eq!(
            filesystems,
            [
                &FilesystemSelector::Mount("/models".into()),
                &FilesystemSelector::Uuid("3f1c2b00-0000-4000-8000-000000000001".to_owned()),
                &FilesystemSelector::Source("nas:/export".to_owned()),
            ]
        );
        assert_eq!(config.controlled.networks.len(), 2);
        assert_eq!(config.state_dir, Path::new("/etc/weighbridge/state"));
        assert_eq!(config.listen, "[::1]:9000".parse().expect("an address"));
        assert_eq!((config.pin, config.sensor), (false, SensorChoice::Syscall));
        assert_eq!(config.propagation_floor, 131_072);
        assert_eq!(config.gpu_drivers, ["cpu/cpuid"]);
        let [SinkConfig::File { path }] = config.sinks.as_slice() else { panic!("one sink") };
        assert_eq!((path.value.as_path(), path.line), (Path::new("/etc/weighbridge/alerts.ndjson"), 19));
    }

    #[test]
    fn one_asset_more_than_can_be_kept_is_refused() {
        let asset = |n: usize| format!("  - {{name: a{n}, kind: weights, paths: [/m/{n}]}}\n");
        let text =
            |count: usize| format!("schema: 1\nassets:\n{}", (0..count).map(asset).collect::<String>());
        assert_eq!(accepts(&text(MAX_ASSETS)).assets.len(), MAX_ASSETS);
        let faults = parse("f".as_ref(), &text(MAX_ASSETS + 1), "/".as_ref()).expect_err("one too many");
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].message, "more than 1008 assets");
        assert_eq!(faults[0].line as usize, MAX_ASSETS + 3);
    }

    #[test]
    fn a_fault_found_by_the_host_shows_the_place() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let file = scratch.path().join("agent.yaml");
        std::fs::write(&file, "schema: 1\nassets: [{name: a, kind: weights, paths: [/models/a]}]\n")
            .expect("write");
        let config = load(&file).expect("it is right");
        let fault = config.fault_at(&config.assets[0].paths[0], "no such directory", "create it");
        assert_eq!((fault.line, fault.column), (2, 43));
        let text = fault.render(false);
        assert!(text.contains("^^^^^^^^^"), "{text}");
    }

    /// Every file of the corpus is refused, and in words that do not change unseen.
    #[test]
    fn invalid_configurations() {
        yaml::corpus::check("config", |file| load(file).err());
    }

    proptest! {
        #[test]
        fn damaged_configurations_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ \\[\\]{}:,&*!|$\"/.0-9a-zA-Zü\n-]{0,6}"), 1..6),
        ) {
            let mut text: Vec<char> = COMPLETE.chars().collect();
            for (at, length, new) in edits {
                let at = at.index(text.len());
                let end = (at + length).min(text.len());
                text.splice(at..end, new.chars());
            }
            let text: String = text.into_iter().collect();
            if let Err(faults) = parse("agent.yaml".as_ref(), &text, "/".as_ref()) {
                prop_assert!(!faults.is_empty());
                let _ = yaml::render(&faults, false);
            }
        }
    }
}
