//! Where bytes went, as bytes: the key of a sink, what is known of it, and the numbers of protocols.
//!
//! The form is part of the format, as all of `wire` is. This file must not know in which statements they stand.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::holders::{Object, from_object, to_object};
use crate::event::{Control, Dev, Proto, Sink, SinkKey, SinkKind};

#[derive(Serialize, Deserialize)]
pub(super) enum Key {
    File(Object),
    Block(u32),
    Char(u32),
    Terminal(u32),
    Peer(IpAddr, u16, u16),
    Process(Object),
    Unmetered,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Where {
    kind: u8,
    control: u8,
    path: Option<String>,
    device: Option<String>,
    fstype: Option<String>,
    mount: Option<String>,
    removable: Option<bool>,
    device_serial: Option<String>,
    registered: Option<bool>,
    peer: Option<String>,
    channel: Option<String>,
}

/// Protocols by number; [`Proto::Other`] is its own value above these.
const PROTOS: [Proto; 8] = [
    Proto::Tcp,
    Proto::Udp,
    Proto::Icmp,
    Proto::Raw,
    Proto::Sctp,
    Proto::Vsock,
    Proto::Packet,
    Proto::Netlink,
];
/// First number of [`Proto::Other`].
const OTHER: u16 = 0x100;

impl Key {
    pub(super) fn of(key: SinkKey) -> Self {
        match key {
            SinkKey::File(object) => Self::File(from_object(object)),
            SinkKey::BlockDevice(dev) => Self::Block(dev.0),
            SinkKey::CharDevice(dev) => Self::Char(dev.0),
            SinkKey::Terminal(dev) => Self::Terminal(dev.0),
            SinkKey::Peer { ip, port, proto } => Self::Peer(ip, port, from_proto(proto)),
            SinkKey::Process(object) => Self::Process(from_object(object)),
            SinkKey::Unmetered => Self::Unmetered,
        }
    }

    pub(super) fn into_key(self) -> Option<SinkKey> {
        Some(match self {
            Self::File(object) => SinkKey::File(to_object(object)),
            Self::Block(dev) => SinkKey::BlockDevice(Dev(dev)),
            Self::Char(dev) => SinkKey::CharDevice(Dev(dev)),
            Self::Terminal(dev) => SinkKey::Terminal(Dev(dev)),
            Self::Peer(ip, port, proto) => SinkKey::Peer { ip, port, proto: to_proto(proto)? },
            Self::Process(object) => SinkKey::Process(to_object(object)),
            Self::Unmetered => SinkKey::Unmetered,
        })
    }
}

impl Where {
    pub(super) fn of(sink: &Sink) -> Self {
        Self {
            kind: number_of(&SinkKind::ALL, &sink.kind),
            control: number_of(&Control::ALL, &sink.control),
            path: sink.path.clone(),
            device: sink.device.clone(),
            fstype: sink.fstype.clone(),
            mount: sink.mount.clone(),
            removable: sink.removable,
            device_serial: sink.device_serial.clone(),
            registered: sink.registered,
            peer: sink.peer.clone(),
            channel: sink.channel.clone(),
        }
    }

    pub(super) fn into_sink(self) -> Option<Sink> {
        Some(Sink {
            kind: *SinkKind::ALL.get(usize::from(self.kind))?,
            control: *Control::ALL.get(usize::from(self.control))?,
            path: self.path,
            device: self.device,
            fstype: self.fstype,
            mount: self.mount,
            removable: self.removable,
            device_serial: self.device_serial,
            registered: self.registered,
            peer: self.peer,
            channel: self.channel,
        })
    }
}

fn from_proto(proto: Proto) -> u16 {
    match proto {
        // An address family or protocol below the offset cannot be told from one above it; none is that large.
        Proto::Other(number) => number.saturating_add(OTHER),
        known => number_of(&PROTOS, &known).into(),
    }
}

fn to_proto(number: u16) -> Option<Proto> {
    if number >= OTHER {
        Some(Proto::Other(number - OTHER))
    } else {
        PROTOS.get(usize::from(number)).copied()
    }
}

/// The place of a value in the list of all of them, which is its number in a recording.
pub(super) fn number_of<T: PartialEq>(all: &[T], value: &T) -> u8 {
    all.iter().position(|one| one == value).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}
