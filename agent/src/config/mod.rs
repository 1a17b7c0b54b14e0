//! What the operator configured (DESIGN §4), as plain data.
//!
//! Reading and checking YAML is `parse`; whether a path exists or lies on a controlled filesystem is `host`'s business.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hyper::Uri;
use ipnet::IpNet;

use crate::event::AssetKind;

mod assets;
mod parse;
mod sinks;
mod values;

pub use parse::{load, parse};

/// A configuration that parsed and is complete in itself. Paths are absolute: relative ones were resolved against the
/// configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// At most [`agent_ebpf::MAX_ASSETS`]; the index is the asset's id.
    pub assets: Vec<AssetConfig>,
    pub controlled: Controlled,
    /// Files and directories of rule packs.
    pub rules: Vec<PathBuf>,
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// Keep weighing while the agent is away.
    pub pin: bool,
    pub sensor: SensorChoice,
    pub sinks: Vec<SinkConfig>,
    /// Bytes that a channel may carry before its readers count as holders (DESIGN §1).
    pub propagation_floor: u64,
    /// Most rows of the kernel's maps.
    pub limits: Limits,
    /// Drivers of GPUs besides those that are known, by their names in `/proc/devices` or `/proc/misc`.
    pub gpu_drivers: Vec<String>,
}

/// Most rows of the kernel's maps; 0 for the built-in number. What finds no room is counted together, never dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes that hold something.
    pub holders: u32,
    /// (source, process) pairs.
    pub takes: u32,
    /// (process, sink) pairs.
    pub flows: u32,
    /// Protected files and carriers.
    pub objects: u32,
    /// Remote addresses of the host-wide scale.
    pub peers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetConfig {
    pub name: String,
    pub kind: AssetKind,
    /// Each with its place in the configuration file, for errors that only the host can find.
    pub paths: Vec<Placed<PathBuf>>,
    pub readers: Vec<Reader>,
}

/// Who may take an asset's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Path of the executable.
    Exe(PathBuf),
    /// systemd unit, from the cgroup path.
    Unit(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controlled {
    pub filesystems: Vec<Placed<FilesystemSelector>>,
    pub networks: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesystemSelector {
    /// The filesystem mounted exactly here.
    Mount(PathBuf),
    /// The filesystem's UUID, lower case.
    Uuid(String),
    /// The mount source, for network filesystems (`server:/export`).
    Source(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorChoice {
    Auto,
    Syscall,
    Function,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkConfig {
    File {
        path: Placed<PathBuf>,
    },
    Alertmanager {
        /// Each gets every alert: Alertmanager's way of high availability.
        instances: Vec<Placed<HttpTarget>>,
        /// Between two pushes of an alert that is active.
        resend: Duration,
        /// How long an alert stays firing after its last match, and after an instance first took it.
        hold: Duration,
        /// Where the runbooks are served, if they are: an address without a slash at its end.
        runbooks: Option<String>,
    },
    Webhook {
        target: Placed<HttpTarget>,
        /// The key of the signature.
        secret: Option<SecretSource>,
    },
    Journald {
        /// Where the sink stands.
        place: Placed<()>,
    },
}

/// An address that alerts are posted to, and how both sides prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// `http` or `https`, with a host.
    pub url: Uri,
    pub bearer_token: Option<SecretSource>,
    pub tls: TlsConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates of those who are trusted to name servers; the host's trust store when there is none.
    pub ca: Option<SecretSource>,
    /// Our certificate and its key.
    pub client: Option<(SecretSource, SecretSource)>,
}

/// Where a token, key or certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    /// The name of a systemd credential.
    Credential(String),
}

/// A value and where it stands in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    pub value: T,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}
