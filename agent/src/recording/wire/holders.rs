//! Who took, and out of what, as bytes: holders, objects, sources and processes.
//!
//! The form is part of the format, as all of `wire` is. This file must not know in which statements they stand.

use agent_ebpf as abi;
use serde::{Deserialize, Serialize};

use crate::event::{Ancestor, AssetId, BootNs, Dev, HolderId, Mark, ObjectId, Process, Source};

pub(super) type Holder = (u32, u32, u64);
pub(super) type Object = (u32, u64, u32);

#[derive(Serialize, Deserialize)]
pub(super) enum Origin {
    // Numbers of one byte are the same bytes as when there were no larger ones.
    Asset(u16),
    Carrier(Object),
    Parent(Holder),
    Reached(Holder),
    Mark(u8),
    Grown(u8),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Who {
    pid: u32,
    start: u64,
    exe: String,
    exe_sha256: Option<String>,
    cmdline: String,
    uid: u32,
    auid: Option<u32>,
    cgroup: Option<String>,
    container: Option<String>,
    unit: Option<String>,
    ancestry: Vec<(u32, String, String)>,
}

impl Origin {
    pub(super) const fn of(source: Source) -> Self {
        match source {
            Source::Asset(asset) => Self::Asset(asset.0),
            Source::Carrier(object) => Self::Carrier(from_object(object)),
            Source::Parent(parent) => Self::Parent(from_holder(parent)),
            Source::Reached(victim) => Self::Reached(from_holder(victim)),
            Source::Mark(mark) => Self::Mark(mark.0),
            Source::Grown(mark) => Self::Grown(mark.0),
        }
    }

    pub(super) fn into_source(self) -> Option<Source> {
        let mark = |mark: u8| (u32::from(mark) < abi::SET_BITS).then_some(Mark(mark));
        Some(match self {
            Self::Asset(asset) => Source::Asset(AssetId(asset)),
            Self::Carrier(object) => Source::Carrier(to_object(object)),
            Self::Parent(parent) => Source::Parent(to_holder(parent)),
            Self::Reached(victim) => Source::Reached(to_holder(victim)),
            Self::Mark(number) => Source::Mark(mark(number)?),
            Self::Grown(number) => Source::Grown(mark(number)?),
        })
    }
}

impl Who {
    pub(super) fn of(process: &Process) -> Self {
        let above = |one: &Ancestor| (one.pid, one.exe.clone(), one.cmdline.clone());
        Self {
            pid: process.pid,
            start: process.start,
            exe: process.exe.clone(),
            exe_sha256: process.exe_sha256.clone(),
            cmdline: process.cmdline.clone(),
            uid: process.uid,
            auid: process.auid,
            cgroup: process.cgroup.clone(),
            container: process.container.clone(),
            unit: process.unit.clone(),
            ancestry: process.ancestry.iter().map(above).collect(),
        }
    }

    pub(super) fn into_process(self) -> Process {
        let above = |(pid, exe, cmdline)| Ancestor { pid, exe, cmdline };
        Process {
            pid: self.pid,
            start: self.start,
            exe: self.exe,
            exe_sha256: self.exe_sha256,
            cmdline: self.cmdline,
            uid: self.uid,
            auid: self.auid,
            cgroup: self.cgroup,
            container: self.container,
            unit: self.unit,
            ancestry: self.ancestry.into_iter().map(above).collect(),
        }
    }
}

pub(super) const fn from_holder(holder: HolderId) -> Holder {
    (holder.tgid, holder.exec, holder.start.0)
}

pub(super) const fn to_holder((tgid, exec, start): Holder) -> HolderId {
    HolderId { tgid, exec, start: BootNs(start) }
}

pub(super) const fn from_object(object: ObjectId) -> Object {
    (object.dev.0, object.ino, object.generation)
}

pub(super) const fn to_object((dev, ino, generation): Object) -> ObjectId {
    ObjectId { dev: Dev(dev), ino, generation }
}
