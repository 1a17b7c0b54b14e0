//! What the whole host sent, against what holders are known to have sent: records that need no linkage. It must not know how
//! packets are counted.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::Ledger;
use crate::event::{Control, HolderId, Process, Record, RecordKind, Remote, Sink, SinkKind};

/// Addresses that holders sent to and whose packets were not told yet. Beyond them what the host sends counts as sent by
/// nobody, which is the safe side.
const AWAITED: usize = 4096;

/// What left the host since the start, by whoever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostEgress {
    /// Bytes of IP packets.
    pub bytes: u64,
    /// The part of them that flows of holders explain.
    pub linked: u64,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    /// Bytes that holders put into sockets and that no packet has told of yet.
    awaited: HashMap<IpAddr, u64>,
    /// By [`Control`], in the order of [`Control::ALL`].
    sent: [HostEgress; Control::ALL.len()],
}

impl Host {
    /// A holder put `bytes` into a socket to `ip`.
    pub(super) fn expect(&mut self, ip: IpAddr, bytes: u64) {
        if self.awaited.len() < AWAITED || self.awaited.contains_key(&ip) {
            let awaited = self.awaited.entry(ip).or_insert(0);
            *awaited = awaited.saturating_add(bytes);
        }
    }

    /// The host sent `bytes`; how many of them holders did.
    fn count(&mut self, to: Remote, control: Control, bytes: u64) -> u64 {
        let linked = match to {
            Remote::Address(ip) => match self.awaited.get_mut(&ip) {
                Some(awaited) => {
                    let linked = bytes.min(*awaited);
                    *awaited -= linked;
                    if *awaited == 0 {
                        self.awaited.remove(&ip);
                    }
                    linked
                }
                None => 0,
            },
            _ => 0,
        };
        if let Some(sum) = Control::ALL.iter().position(|known| *known == control) {
            self.sent[sum].bytes = self.sent[sum].bytes.saturating_add(bytes);
            self.sent[sum].linked = self.sent[sum].linked.saturating_add(linked);
        }
        linked
    }
}

impl Ledger {
    /// Sums of what the whole host sent, by control of where to.
    pub fn host_egress(&self) -> impl Iterator<Item = (Control, HostEgress)> {
        Control::ALL.into_iter().zip(self.host.sent)
    }

    /// The host sent `bytes` to itself.
    pub fn stayed(&mut self, bytes: u64) {
        self.host.count(Remote::Unread, Control::Process, bytes);
    }

    /// One record of the growth for each asset: what left could be any of them. None for a controlled place.
    pub(super) fn egress(&mut self, to: Remote, control: Control, bytes: u64, out: &mut Vec<Record>) {
        if bytes == 0 {
            return;
        }
        self.host.count(to, control, bytes);
        if matches!(control, Control::Controlled | Control::Process | Control::Memory) {
            return;
        }
        let sink = Arc::new(sink(to, control));
        let process = Arc::new(Process::host());
        let lineage = Arc::new(Vec::new());
        out.extend(self.assets.values().map(|asset| Record {
            kind: RecordKind::Egress,
            at: self.now,
            asset: Arc::clone(asset),
            holder: HolderId::HOST,
            process: Arc::clone(&process),
            sink: Some(Arc::clone(&sink)),
            bytes,
            act: None,
            victim: None,
            listed: false,
            lineage: Arc::clone(&lineage),
        }));
    }
}

fn sink(to: Remote, control: Control) -> Sink {
    let (kind, peer, channel) = match to {
        Remote::Address(ip) => (SinkKind::Peer, Some(ip.to_string()), None),
        Remote::Network(ip, prefix) => (SinkKind::Peer, Some(format!("{ip}/{prefix}")), None),
        Remote::Unread => (SinkKind::Peer, None, None),
        Remote::Unattributed => (SinkKind::Unmetered, None, Some("unattributed".to_owned())),
    };
    Sink { peer, channel, ..Sink::new(kind, control) }
}
