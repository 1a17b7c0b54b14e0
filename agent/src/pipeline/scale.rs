//! The host-wide scale: what all sockets sent, by address, and what the interfaces sent beyond that.

use std::{collections::HashSet, net::IpAddr};

use super::Pipeline;
use crate::{
    event::{BootNs, Control, Event, Remote},
    host::interfaces::{Interfaces, own_addresses},
    sensor::{Sent, Totals},
};

/// Bytes that sockets sent may lie in queues, or be dropped there, before an interface counts them: no more are remembered.
const IN_QUEUES: u64 = 16 << 20;
/// Half of what is remembered is forgotten in this time, ns.
const HALF_LIFE: u64 = 60_000_000_000;

/// Compares what interfaces sent with what sockets sent.
#[derive(Debug, Default)]
pub(super) struct Scale {
    interfaces: Interfaces,
    gap: Gap,
    /// Frames and loopback bytes as of the last look; `None` before the first.
    before: Option<Totals>,
    failed: bool,
}

/// How much the interfaces have sent that nothing explains.
#[derive(Debug, Default)]
struct Gap {
    /// What sockets sent beyond what interfaces did.
    credit: u64,
    at: BootNs,
    sum: u64,
}

impl Gap {
    /// `explained`: the most that packets of sockets can have become, `sent`: what interfaces say, both since the last time.
    /// Returns the part of it that nothing explains.
    fn observe(&mut self, explained: u64, sent: u64, now: BootNs) -> u64 {
        let passed = now.0.saturating_sub(std::mem::replace(&mut self.at, now).0);
        let kept = HALF_LIFE.saturating_sub(passed / 2) as f64 / HALF_LIFE as f64;
        self.credit = ((self.credit as f64 * kept) as u64).saturating_add(explained);
        let growth = sent.saturating_sub(self.credit);
        self.credit = self.credit.saturating_sub(sent).min(IN_QUEUES);
        self.sum = self.sum.saturating_add(growth);
        growth
    }
}

impl Scale {
    pub(super) fn new() -> Self {
        Self { interfaces: Interfaces::new(), ..Self::default() }
    }
}

impl Pipeline {
    /// Takes what the whole host sent since the last time. Call it about once a second.
    pub(crate) fn weigh_host(&mut self, sent: &[Sent], totals: Totals, now: BootNs) {
        let own: HashSet<IpAddr> = if sent.is_empty() {
            HashSet::new()
        } else {
            own_addresses().unwrap_or_default().into_iter().collect()
        };
        for &Sent { to, bytes, at } in sent {
            let control = match to {
                // From another network namespace to this host.
                Remote::Address(ip) if own.contains(&ip) => Control::Process,
                _ => self.destinations.classifier().remote(to),
            };
            self.apply(Event::Egress { to, control, bytes, at }, now);
        }
        self.compare(totals, now);
        self.metrics.set_host_egress(self.ledger.host_egress());
    }

    fn compare(&mut self, totals: Totals, now: BootNs) {
        let sent = match self.scale.interfaces.sent() {
            Ok(sent) => sent,
            Err(error) => {
                if !std::mem::replace(&mut self.scale.failed, true) {
                    tracing::warn!(%error, "what the network interfaces send cannot be read: bytes past the sockets are not seen");
                }
                return;
            }
        };
        let Some(before) = self.scale.before.replace(totals) else { return };
        let stayed = totals.local.saturating_sub(before.local);
        if stayed != 0 {
            self.ledger.stayed(stayed);
        }
        let explained = totals.frames.saturating_sub(before.frames);
        let bytes = self.scale.gap.observe(explained, sent, now);
        if bytes != 0 {
            let to = Remote::Unattributed;
            self.apply(Event::Egress { to, control: Control::Unmetered, bytes, at: now }, now);
        }
        self.metrics.set_unattributed(self.scale.gap.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_waits_in_a_queue_explains_what_is_sent_later() {
        let mut gap = Gap { at: BootNs(SECOND), ..Gap::default() };
        assert_eq!(gap.observe(1_000_000, 200_000, BootNs(2 * SECOND)), 0);
        assert_eq!(gap.observe(0, 700_000, BootNs(3 * SECOND)), 0);
        assert_eq!(gap.observe(0, 700_000, BootNs(4 * SECOND)), gap.sum);
        assert!(gap.sum > 600_000);
    }

    #[test]
    fn what_was_dropped_hides_no_more_than_a_queue_holds() {
        let mut gap = Gap { at: BootNs(SECOND), ..Gap::default() };
        gap.observe(1 << 40, 0, BootNs(2 * SECOND));
        assert!(gap.observe(0, 1 << 30, BootNs(3 * SECOND)) >= (1 << 30) - IN_QUEUES);
        gap.observe(IN_QUEUES, 0, BootNs(4 * SECOND));
        assert_eq!(gap.observe(0, 1 << 20, BootNs(4 * SECOND + 2 * HALF_LIFE)), 1 << 20);
    }
}
