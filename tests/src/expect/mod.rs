//! What a test expects of the alerts: one finding, and all that can be known about it from outside.
//!
//! `settle` waits for the alerts and holds all of them against the list, `judge` one against one, `shape` is what every line
//! must have. Nothing here knows how bytes were moved.

mod judge;
mod settle;
mod shape;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::lab::{KIB, MIB, process::Identity, volume::Volume};

use crate::world::{ASSET, Scene};

/// What the configuration leaves at its default.
const PROPAGATION_FLOOR: u64 = 64 * KIB;

/// One finding that must be there, with everything that can be known about it from outside.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    rule: &'static str,
    asset: &'static str,
    /// `None`: not compared.
    asset_bytes: Option<u64>,
    sink: ExpectedSink,
    by: Identity,
    /// The bound, from and to (both included).
    bound: (u64, u64),
    /// What else the alert must say, by JSON pointer.
    also: Vec<(&'static str, Value)>,
    any_port: bool,
    /// How the executable is called where that is not its path; its hash is that of the identity's.
    exe: Option<&'static str>,
    /// It may have been gone before it could be hashed.
    unhashed: bool,
    /// Types of nodes that the lineage must lead through.
    lineage: &'static [&'static str],
    /// For the rules about acts.
    act: Option<ExpectedAct>,
}

#[derive(Clone, Debug)]
struct ExpectedAct {
    kind: &'static str,
    target: Option<String>,
    victim: Option<Identity>,
    /// It may be missing.
    optional: bool,
}

#[derive(Clone, Debug)]
enum ExpectedSink {
    /// A take has no sink.
    None,
    File {
        /// Path and mount point; where the same file is seen at several places, any of them. Empty: not compared.
        places: Vec<(PathBuf, PathBuf)>,
        device: String,
        fstype: &'static str,
    },
    Peer(String),
    /// A sum over places of any kind.
    Anywhere,
}

impl Expected {
    /// WB-0001: exactly `bytes` of [`ASSET`] went to a file on an uncontrolled volume.
    pub(crate) fn copy(scene: &Scene<'_>, by: &Identity, path: &Path, bytes: u64) -> Self {
        Self::copy_on(scene, &scene.world.uncontrolled, by, path, bytes)
    }

    /// The same on another volume.
    pub(crate) fn copy_on(
        scene: &Scene<'_>,
        volume: &Volume,
        by: &Identity,
        path: &Path,
        bytes: u64,
    ) -> Self {
        Self::copy_at(scene, by, path, (volume.path(), volume.device(), volume.fstype()), bytes)
    }

    /// The same below any mount: its mount point, device and kind.
    pub(crate) fn copy_at(
        scene: &Scene<'_>,
        by: &Identity,
        path: &Path,
        (mount, device, fstype): (&Path, &str, &'static str),
        bytes: u64,
    ) -> Self {
        let sink = ExpectedSink::File {
            places: vec![(path.to_path_buf(), mount.to_path_buf())],
            device: device.to_owned(),
            fstype,
        };
        Self::new(scene, "WB-0001", by, sink, (bytes, bytes))
    }

    /// WB-0002: exactly `bytes` of [`ASSET`] went to a peer. `proto` is the word after the slash.
    pub(crate) fn egress(
        scene: &Scene<'_>,
        by: &Identity,
        peer: SocketAddr,
        proto: &str,
        bytes: u64,
    ) -> Self {
        let sink = ExpectedSink::Peer(format!("{peer}/{proto}"));
        Self::new(scene, "WB-0002", by, sink, (bytes, bytes))
    }

    /// WB-0004: a process that is not on the reader list took exactly `bytes` of [`ASSET`].
    pub(crate) fn take(scene: &Scene<'_>, by: &Identity, bytes: u64) -> Self {
        Self::new(scene, "WB-0004", by, ExpectedSink::None, (bytes, bytes))
    }

    /// WB-0007: exactly `bytes` of [`ASSET`] went into files of the controlled volume that are not registered.
    pub(crate) fn unregistered(scene: &Scene<'_>, by: &Identity, path: &Path, bytes: u64) -> Self {
        let copy = Self::copy_on(scene, &scene.world.controlled, by, path, bytes);
        Self { rule: "WB-0007", ..copy }
    }

    /// WB-0003: `bytes` of [`ASSET`] left, to so many places that no other rule counts them together.
    pub(crate) fn drip(scene: &Scene<'_>, by: &Identity, bytes: u64) -> Self {
        Self::new(scene, "WB-0003", by, ExpectedSink::Anywhere, (bytes, bytes))
    }

    /// An act of `by` that touched [`ASSET`], by its word in `act.kind`.
    pub(crate) fn act(scene: &Scene<'_>, rule: &'static str, kind: &'static str, by: &Identity) -> Self {
        let act = ExpectedAct { kind, target: None, victim: None, optional: false };
        let any = Self::new(scene, rule, by, ExpectedSink::None, (0, scene.model.bytes));
        Self { act: Some(act), ..any }
    }

    fn new(
        scene: &Scene<'_>,
        rule: &'static str,
        by: &Identity,
        sink: ExpectedSink,
        bound: (u64, u64),
    ) -> Self {
        Self {
            rule,
            asset: ASSET,
            asset_bytes: Some(scene.model.bytes),
            sink,
            by: by.clone(),
            bound,
            also: Vec::new(),
            any_port: false,
            exe: None,
            unhashed: false,
            lineage: &[],
            act: None,
        }
    }

    /// Whom the act was done to.
    pub(crate) fn of_victim(mut self, victim: &Identity) -> Self {
        if let Some(act) = &mut self.act {
            act.victim = Some(victim.clone());
        }
        self
    }

    /// What the act was done to.
    pub(crate) fn to(mut self, target: &str) -> Self {
        if let Some(act) = &mut self.act {
            act.target = Some(target.to_owned());
        }
        self
    }

    /// Whether the tool goes this way too is its own business.
    pub(crate) fn if_raised(mut self) -> Self {
        if let Some(act) = &mut self.act {
            act.optional = true;
        }
        self
    }

    /// The truth is a lower bound: a mapping counts its whole length, so anything up to the asset is right.
    pub(crate) fn or_up_to_the_asset(mut self) -> Self {
        self.bound.1 = self.asset_bytes.unwrap_or(u64::MAX);
        self
    }

    /// The bytes came through `channels` pipes or sockets, each of which may pass one propagation floor unseen (DESIGN §1:
    /// the documented slack).
    pub(crate) const fn through(mut self, channels: u64) -> Self {
        self.bound.0 = self.bound.0.saturating_sub(channels * PROPAGATION_FLOOR);
        self
    }

    /// The truth is known only so far: the bound lies between these (both included).
    pub(crate) const fn between(mut self, from: u64, to: u64) -> Self {
        self.bound = (from, to);
        self
    }

    /// A protocol adds some bytes of its own: the bound may be one percent above the truth.
    pub(crate) const fn and_a_protocol(mut self) -> Self {
        self.bound.1 += self.bound.1 / 100;
        self
    }

    /// Each connection has a port of its own; any may be named.
    pub(crate) const fn whatever_the_port(mut self) -> Self {
        self.any_port = true;
        self
    }

    /// The lineage must lead through these types of nodes, in this order, possibly with others between.
    pub(crate) const fn passing(mut self, types: &'static [&'static str]) -> Self {
        self.lineage = types;
        self
    }

    /// What is sent is written with a third more characters: of the bound only the lower end is what was taken.
    pub(crate) const fn and_a_protocol_of_a_third(mut self) -> Self {
        self.bound.1 += self.bound.1 / 3 + MIB / 16;
        self
    }

    /// The executable has no path of its own in the mover's filesystem: this is what it is called.
    pub(crate) const fn named(mut self, exe: &'static str) -> Self {
        self.exe = Some(exe);
        self
    }

    /// The executable was a memfd of a process that may have ended before it was looked at: then the alert says so.
    pub(crate) const fn or_unhashed(mut self) -> Self {
        self.unhashed = true;
        self
    }

    /// The alert must also say this, by JSON pointer into its detail.
    pub(crate) fn with(mut self, pointer: &'static str, value: impl Into<Value>) -> Self {
        self.also.push((pointer, value.into()));
        self
    }

    /// The sink may also be named by this path below this mount point.
    pub(crate) fn or_at(mut self, path: &Path, mount: &Path) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            places.push((path.to_path_buf(), mount.to_path_buf()));
        }
        self
    }

    /// The file was deleted: its path may carry the kernel's ` (deleted)`.
    pub(crate) fn or_deleted(mut self) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            let gone = |(path, mount): &(PathBuf, PathBuf)| {
                (format!("{} (deleted)", path.display()).into(), mount.clone())
            };
            let more: Vec<_> = places.iter().map(gone).collect();
            places.extend(more);
        }
        self
    }

    /// Which of several files is named is not laid down; the filesystem is.
    pub(crate) fn whatever_the_path(mut self) -> Self {
        if let ExpectedSink::File { places, .. } = &mut self.sink {
            places.clear();
        }
        self
    }

    /// Which file it was is not known: it counts as one of no filesystem.
    pub(crate) fn whose_file_is_unknown(mut self) -> Self {
        self.sink = ExpectedSink::File { places: Vec::new(), device: "0:0".to_owned(), fstype: "" };
        self
    }

    /// The size of the asset is in motion in this test and not compared.
    pub(crate) const fn whatever_the_asset_size(mut self) -> Self {
        self.asset_bytes = None;
        self
    }

    /// Of another asset than [`ASSET`].
    pub(crate) const fn of(mut self, asset: &'static str, asset_bytes: u64) -> Self {
        self.asset = asset;
        self.asset_bytes = Some(asset_bytes);
        self
    }

    fn may_be_missing(&self) -> bool {
        self.act.as_ref().is_some_and(|act| act.optional)
    }
}
