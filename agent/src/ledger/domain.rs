//! Domains: the places over which flows of one holder are summed before they are held against what it took.
//!
//! A copy that is split over a thousand files of one filesystem, or over a thousand ports of one peer, is one leak. This
//! file knows only what a [`SinkKey`] says.

use std::net::IpAddr;

use crate::event::{Control, Dev, ObjectId, Sink, SinkKey, SinkKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Domain {
    Filesystem(Dev),
    BlockDevice(Dev),
    CharDevice(Dev),
    Terminal(Dev),
    Peer(IpAddr),
    Process(ObjectId),
    Unmetered,
}

impl Domain {
    /// The first in order, to start a range at.
    pub(super) const MIN: Self = Self::Filesystem(Dev(0));

    pub(super) const fn of(key: SinkKey) -> Self {
        match key {
            SinkKey::File(object) => Self::Filesystem(object.dev),
            SinkKey::BlockDevice(dev) => Self::BlockDevice(dev),
            SinkKey::CharDevice(dev) => Self::CharDevice(dev),
            SinkKey::Terminal(dev) => Self::Terminal(dev),
            SinkKey::Peer { ip, .. } => Self::Peer(ip),
            SinkKey::Process(object) => Self::Process(object),
            SinkKey::Unmetered => Self::Unmetered,
        }
    }
}

/// What can honestly be said of a sink that was never resolved: its numbers, and that nobody listed it.
pub(super) fn unknown_sink(key: SinkKey) -> Sink {
    let (kind, control, device) = match key {
        SinkKey::File(object) => (SinkKind::File, Control::Uncontrolled, Some(object.dev)),
        SinkKey::BlockDevice(dev) => (SinkKind::BlockDevice, Control::Uncontrolled, Some(dev)),
        SinkKey::CharDevice(dev) => (SinkKind::CharDevice, Control::Uncontrolled, Some(dev)),
        SinkKey::Terminal(dev) => (SinkKind::Terminal, Control::Uncontrolled, Some(dev)),
        SinkKey::Peer { .. } => (SinkKind::Peer, Control::Uncontrolled, None),
        // A pipe or Unix socket is on this host whoever listens: that needs no look-up.
        SinkKey::Process(_) => (SinkKind::Process, Control::Process, None),
        SinkKey::Unmetered => (SinkKind::Unmetered, Control::Unmetered, None),
    };
    let peer = match key {
        SinkKey::Peer { ip: IpAddr::V4(ip), port, proto } => Some(format!("{ip}:{port}/{}", proto.as_str())),
        SinkKey::Peer { ip: IpAddr::V6(ip), port, proto } => {
            Some(format!("[{ip}]:{port}/{}", proto.as_str()))
        }
        _ => None,
    };
    Sink { device: device.map(|dev| dev.to_string()), peer, ..Sink::new(kind, control) }
}
