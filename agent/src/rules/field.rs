//! The one table of what rules can speak of: name, type, event kinds, a line of documentation, and how to read the field
//! from a record (and to write it, for the tests inside rules). A new field is one row here.
//!
//! It must not know how rules are written or evaluated.

use std::{fmt::Write as _, net::IpAddr};

use crate::event::{Asset, AssetId, AssetKind, Control, Process, Record, RecordKind, Sink, SinkKind};

/// A fact that a rule can match, group by or show.
#[derive(Debug)]
pub struct Field {
    /// As rules write it.
    pub name: &'static str,
    pub kind: FieldType,
    /// The event kinds that have it.
    pub on: &'static [RecordKind],
    /// One line for people.
    pub doc: &'static str,
    /// `None` when it does not apply or is not known.
    pub get: fn(&Record) -> Option<FieldValue<'_>>,
    /// Writes it into the event of a rule's test; `None` for what follows from another field.
    pub(crate) set: Option<fn(&mut Draft, FieldValue<'_>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    Number,
    /// Bytes; written with a unit.
    Size,
    /// `true` or `false`.
    Flag,
    /// An IP address.
    Address,
}

impl FieldType {
    /// With its article, for errors and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Word(_) => "a word",
            Self::Number => "a number",
            Self::Size => "a size",
            Self::Flag => "a flag",
            Self::Address => "an address",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValue<'r> {
    /// Never empty: an empty text is an absent one.
    Text(&'r str),
    Number(u64),
    Flag(bool),
    Address(IpAddr),
}

impl<'r> FieldValue<'r> {
    fn text(text: &'r str) -> Option<Self> {
        (!text.is_empty()).then_some(Self::Text(text))
    }

    /// Appends it to `text` as people write it.
    pub(crate) fn write_to(self, text: &mut String) {
        match self {
            FieldValue::Text(value) => text.push_str(value),
            // Writing into a String cannot fail.
            FieldValue::Number(value) => {
                let _ = write!(text, "{value}");
            }
            FieldValue::Flag(value) => {
                let _ = write!(text, "{value}");
            }
            FieldValue::Address(value) => {
                let _ = write!(text, "{value}");
            }
        }
    }

    fn to_text(self) -> String {
        let mut text = String::new();
        self.write_to(&mut text);
        text
    }

    const fn to_number(self) -> u64 {
        if let FieldValue::Number(number) = self { number } else { 0 }
    }

    fn to_u32(self) -> u32 {
        u32::try_from(self.to_number()).unwrap_or(u32::MAX)
    }

    const fn to_flag(self) -> bool {
        matches!(self, FieldValue::Flag(true))
    }
}

/// The event of a rule's test while it is written.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) asset: Asset,
    pub(crate) sink_kind: Option<SinkKind>,
    pub(crate) sink_control: Option<Control>,
    /// The rest of the sink; its kind and control stand above.
    pub(crate) sink: Sink,
    pub(crate) process: Process,
    pub(crate) listed: bool,
}

impl Draft {
    pub(crate) const fn new() -> Self {
        Self {
            asset: Asset {
                id: AssetId(0),
                name: String::new(),
                kind: AssetKind::Weights,
                bytes: 0,
                has_readers: false,
            },
            sink_kind: None,
            sink_control: None,
            sink: Sink {
                kind: SinkKind::File,
                control: Control::Uncontrolled,
                path: None,
                device: None,
                fstype: None,
                mount: None,
                removable: None,
                peer: None,
                channel: None,
            },
            process: Process {
                pid: 1,
                start: 0,
                exe: String::new(),
                exe_sha256: None,
                cmdline: String::new(),
                uid: 0,
                auid: None,
                cgroup: None,
                container: None,
                unit: None,
                ancestry: Vec::new(),
            },
            listed: false,
        }
    }
}

const BOTH: &[RecordKind] = &[RecordKind::Flow, RecordKind::Take];
const FLOW: &[RecordKind] = &[RecordKind::Flow];

const ASSET_KINDS: [&str; AssetKind::ALL.len()] = [AssetKind::ALL[0].as_str(), AssetKind::ALL[1].as_str()];
const SINK_KINDS: [&str; SinkKind::ALL.len()] = {
    let mut words = [""; SinkKind::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = SinkKind::ALL[at].as_str();
        at += 1;
    }
    words
};
const CONTROLS: [&str; Control::ALL.len()] = {
    let mut words = [""; Control::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = Control::ALL[at].as_str();
        at += 1;
    }
    words
};

/// Every field, in the order of the documentation.
pub static FIELDS: [Field; 25] = [
    Field {
        name: "asset.name",
        kind: FieldType::Text,
        on: BOTH,
        doc: "name of the asset whose bytes moved",
        get: |r| FieldValue::text(&r.asset.name),
        set: Some(|d, v| d.asset.name = v.to_text()),
    },
    Field {
        name: "asset.kind",
        kind: FieldType::Word(&ASSET_KINDS),
        on: BOTH,
        doc: "kind of the asset",
        get: |r| FieldValue::text(r.asset.kind.as_str()),
        set: Some(|d, v| {
            let word = v.to_text();
            d.asset.kind =
                AssetKind::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or(AssetKind::Weights);
        }),
    },
    Field {
        name: "asset.bytes",
        kind: FieldType::Size,
        on: BOTH,
        doc: "total size of the asset",
        get: |r| Some(FieldValue::Number(r.asset.bytes)),
        set: Some(|d, v| d.asset.bytes = v.to_number()),
    },
    Field {
        name: "asset.has_readers",
        kind: FieldType::Flag,
        on: BOTH,
        doc: "whether a reader list is configured for the asset",
        get: |r| Some(FieldValue::Flag(r.asset.has_readers)),
        set: Some(|d, v| d.asset.has_readers = v.to_flag()),
    },
    Field {
        name: "sink.kind",
        kind: FieldType::Word(&SINK_KINDS),
        on: FLOW,
        doc: "what the bytes went into",
        get: |r| FieldValue::text(r.sink.as_ref()?.kind.as_str()),
        set: Some(|d, v| {
            let word = v.to_text();
            d.sink_kind = SinkKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        }),
    },
    Field {
        name: "sink.control",
        kind: FieldType::Word(&CONTROLS),
        on: FLOW,
        doc: "whether the sink is registered; what nobody listed is uncontrolled",
        get: |r| FieldValue::text(r.sink.as_ref()?.control.as_str()),
        set: Some(|d, v| {
            let word = v.to_text();
            d.sink_control = Control::ALL.into_iter().find(|control| control.as_str() == word);
        }),
    },
    Field {
        name: "sink.path",
        kind: FieldType::Text,
        on: FLOW,
        doc: "path of the file or device; anybody can choose it, so never exempt by it alone",
        get: |r| FieldValue::text(r.sink.as_ref()?.path.as_deref()?),
        set: Some(|d, v| d.sink.path = Some(v.to_text())),
    },
    Field {
        name: "sink.device",
        kind: FieldType::Text,
        on: FLOW,
        doc: "major:minor of the filesystem's or the device's own number",
        get: |r| FieldValue::text(r.sink.as_ref()?.device.as_deref()?),
        set: Some(|d, v| d.sink.device = Some(v.to_text())),
    },
    Field {
        name: "sink.fstype",
        kind: FieldType::Text,
        on: FLOW,
        doc: "type of the filesystem",
        get: |r| FieldValue::text(r.sink.as_ref()?.fstype.as_deref()?),
        set: Some(|d, v| d.sink.fstype = Some(v.to_text())),
    },
    Field {
        name: "sink.mount",
        kind: FieldType::Text,
        on: FLOW,
        doc: "where the filesystem is mounted",
        get: |r| FieldValue::text(r.sink.as_ref()?.mount.as_deref()?),
        set: Some(|d, v| d.sink.mount = Some(v.to_text())),
    },
    Field {
        name: "sink.removable",
        kind: FieldType::Flag,
        on: FLOW,
        doc: "whether the device says that it can be removed",
        get: |r| Some(FieldValue::Flag(r.sink.as_ref()?.removable?)),
        set: Some(|d, v| d.sink.removable = Some(v.to_flag())),
    },
    Field {
        name: "sink.peer",
        kind: FieldType::Text,
        on: FLOW,
        doc: "network peer, such as 203.0.113.9:443/tcp",
        get: |r| FieldValue::text(r.sink.as_ref()?.peer.as_deref()?),
        set: Some(|d, v| d.sink.peer = Some(v.to_text())),
    },
    Field {
        name: "sink.address",
        kind: FieldType::Address,
        on: FLOW,
        doc: "address of the network peer, without its port",
        get: |r| peer_address(r.sink.as_ref()?.peer.as_deref()?).map(FieldValue::Address),
        set: None,
    },
    Field {
        name: "sink.channel",
        kind: FieldType::Text,
        on: FLOW,
        doc: "pipe, unix, loopback, rdma, … for the kinds process and unmetered",
        get: |r| FieldValue::text(r.sink.as_ref()?.channel.as_deref()?),
        set: Some(|d, v| d.sink.channel = Some(v.to_text())),
    },
    Field {
        name: "process.pid",
        kind: FieldType::Number,
        on: BOTH,
        doc: "process id in the initial namespace",
        get: |r| Some(FieldValue::Number(r.process.pid.into())),
        set: Some(|d, v| d.process.pid = v.to_u32()),
    },
    Field {
        name: "process.executable",
        kind: FieldType::Text,
        on: BOTH,
        doc: "path of the executable as the kernel named it when it was executed",
        get: |r| FieldValue::text(&r.process.exe),
        set: Some(|d, v| d.process.exe = v.to_text()),
    },
    Field {
        name: "process.executable_sha256",
        kind: FieldType::Text,
        on: BOTH,
        doc: "SHA-256 of the executable in lower-case hex; absent when the file was gone or changed",
        get: |r| FieldValue::text(r.process.exe_sha256.as_deref()?),
        set: Some(|d, v| d.process.exe_sha256 = Some(v.to_text())),
    },
    Field {
        name: "process.command_line",
        kind: FieldType::Text,
        on: BOTH,
        doc: "arguments joined by spaces, as executed; the process chooses them",
        get: |r| FieldValue::text(&r.process.cmdline),
        set: Some(|d, v| d.process.cmdline = v.to_text()),
    },
    Field {
        name: "process.listed",
        kind: FieldType::Flag,
        on: BOTH,
        doc: "whether the process is on the asset's reader list",
        get: |r| Some(FieldValue::Flag(r.listed)),
        set: Some(|d, v| d.listed = v.to_flag()),
    },
    Field {
        name: "user.id",
        kind: FieldType::Number,
        on: BOTH,
        doc: "user id of the process",
        get: |r| Some(FieldValue::Number(r.process.uid.into())),
        set: Some(|d, v| d.process.uid = v.to_u32()),
    },
    Field {
        name: "user.audit_id",
        kind: FieldType::Number,
        on: BOTH,
        doc: "user id of the login; absent for services",
        get: |r| Some(FieldValue::Number(r.process.auid?.into())),
        set: Some(|d, v| d.process.auid = Some(v.to_u32())),
    },
    Field {
        name: "cgroup.path",
        kind: FieldType::Text,
        on: BOTH,
        doc: "path of the process's cgroup",
        get: |r| FieldValue::text(r.process.cgroup.as_deref()?),
        set: Some(|d, v| d.process.cgroup = Some(v.to_text())),
    },
    Field {
        name: "container.id",
        kind: FieldType::Text,
        on: BOTH,
        doc: "id of the container, from the cgroup",
        get: |r| FieldValue::text(r.process.container.as_deref()?),
        set: Some(|d, v| d.process.container = Some(v.to_text())),
    },
    Field {
        name: "service.unit",
        kind: FieldType::Text,
        on: BOTH,
        doc: "systemd unit, from the cgroup",
        get: |r| FieldValue::text(r.process.unit.as_deref()?),
        set: Some(|d, v| d.process.unit = Some(v.to_text())),
    },
    Field {
        name: "bytes",
        kind: FieldType::Size,
        on: BOTH,
        doc: "growth of the bound (flow) or of what was taken (take) in this one event",
        get: |r| Some(FieldValue::Number(r.bytes)),
        set: None,
    },
];

/// The field of that name.
pub(crate) fn find(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == name)
}

/// The address in `203.0.113.9:443/tcp` or `[2001:db8::1]:443/udp`. An IPv4 address that IPv6 carries is the IPv4 one:
/// it is the same peer.
fn peer_address(peer: &str) -> Option<IpAddr> {
    let (endpoint, _) = peer.rsplit_once('/')?;
    let (host, _) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
    }

    #[test]
    fn addresses_of_peers() {
        let address = |peer| peer_address(peer).map(|address| address.to_string());
        assert_eq!(address("203.0.113.9:443/tcp").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("[2001:db8::1]:443/udp").as_deref(), Some("2001:db8::1"));
        assert_eq!(address("[::ffff:203.0.113.9]:443/tcp").as_deref(), Some("203.0.113.9"));
        assert_eq!(address("vsock:3:1024/vsock"), None);
        assert_eq!(address(""), None);
    }
}
