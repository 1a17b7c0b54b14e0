//! The host-wide scale: proving it, and taking its rows.
//!
//! It must not know which addresses are controlled or the host's own.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
};

use agent_ebpf::egress::{
    COUNTED, KEPT, NETWORK_V4, NETWORK_V6, PeerKey, REST, REST_V4, REST_V6, SCALE_BYTES, SCALE_FRAMES,
    SCALE_LOCAL, SCALE_REST, SCALE_UNREAD, SCALE_WORDS,
};

use super::{
    Sensor, SensorError,
    hooks::EGRESS,
    maps::{Maps, Raw, absent_is_fine, rows},
};
use crate::event::{BootNs, Remote};

/// Rows taken in one look: more than both maps can have by default.
const ROWS: usize = 1 << 20;
/// For which rows wait for what was told of them to be kept, ns.
const LONGEST: u64 = 10_000_000_000;
/// Leading bits of an IPv4 address that is mapped into IPv6.
const MAPPED: u32 = 96;

/// What the host sent to one place since the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub to: Remote,
    /// Bytes of IP packets, headers and retransmissions included.
    pub bytes: u64,
    pub at: BootNs,
}

/// Sums since the sensor started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of IP packets that left through another interface than the loopback.
    pub bytes: u64,
    /// The most that these can have become as frames on the wire.
    pub frames: u64,
    /// Bytes of IP packets that stayed on the loopback interface.
    pub local: u64,
}

/// What was taken before.
#[derive(Debug, Default)]
pub(super) struct Scale {
    words: [u64; SCALE_WORDS],
    rest: Vec<u64>,
    /// Rows that were told of. They stay until what was said of them is kept, so that a kill loses none.
    told: Vec<(Map, PeerKey)>,
    told_at: BootNs,
    /// Rows may be left in the half that is not in use.
    pending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Map {
    Peers,
    Networks,
}

impl Scale {
    /// From where an earlier agent stopped, or from zero.
    pub(super) fn adopt(maps: &Maps) -> Result<Self, SensorError> {
        let (words, rest) = (maps.scale.get(&KEPT, 0)?, maps.rest.get(&KEPT, 0)?.to_vec());
        Ok(Self { words, rest, pending: true, ..Self::default() })
    }
}

impl Sensor {
    /// Proves the hook at the start.
    pub(super) fn prove_egress(&mut self) -> Result<(), SensorError> {
        if !self.weighs_host() {
            return Ok(());
        }
        let result = match self.try_egress()? {
            Ok(true) => return Ok(()),
            Ok(false) if self.adopted.as_ref().is_some_and(|adopted| !adopted.replaced) => {
                return Err(SensorError::Silent(EGRESS));
            }
            Ok(false) => Err("it attached and does not fire".to_owned()),
            Err(error) => Err(format!("it could not be tried with a packet over the loopback: {error}")),
        };
        if let Some(report) = self.hooks.iter_mut().find(|report| report.hook.name == EGRESS) {
            report.result = result;
        }
        Ok(())
    }

    /// The hook of the host-wide scale, if it is attached and does not count a packet any more.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn silent_egress(&self) -> Result<Option<&'static str>, SensorError> {
        let is_silent = self.weighs_host() && matches!(self.try_egress()?, Ok(false));
        Ok(is_silent.then_some(EGRESS))
    }

    /// Whether a packet over the loopback is counted there.
    fn try_egress(&self) -> Result<io::Result<bool>, SensorError> {
        let before = self.totals()?.local;
        let sent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| socket.send_to(b"weighbridge", socket.local_addr()?));
        Ok(match sent {
            Ok(_) => Ok(self.totals()?.local > before),
            Err(error) => Err(error),
        })
    }

    fn weighs_host(&self) -> bool {
        self.hooks.iter().any(|report| report.hook.name == EGRESS && report.result.is_ok())
    }

    /// Sums of all that the host sent; `None` when nothing counts it.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn host_totals(&self) -> Result<Option<Totals>, SensorError> {
        if self.weighs_host() { self.totals().map(Some) } else { Ok(None) }
    }

    fn totals(&self) -> Result<Totals, SensorError> {
        let words = self.maps.scale.get(&COUNTED, 0)?;
        Ok(Totals { bytes: words[SCALE_BYTES], frames: words[SCALE_FRAMES], local: words[SCALE_LOCAL] })
    }

    /// What the host sent since the last time, by address. Call it about once a second: what a packet adds is told by the
    /// call after the next one at the latest, if what was told is kept between them ([`Sensor::commit`]). Costs a system call
    /// while nothing is sent.
    ///
    /// # Errors
    ///
    /// When a map cannot be read or written.
    pub fn sent(&mut self, now: BootNs) -> Result<Vec<Sent>, SensorError> {
        let mut sent = Vec::new();
        // Until they are gone packets go on in the other half. A full disk must not end the weighing.
        if !self.scale.told.is_empty() {
            if now.0.saturating_sub(self.scale.told_at.0) < LONGEST {
                return Ok(sent);
            }
            self.commit_sent()?;
        }
        let words = self.maps.scale.get(&COUNTED, 0)?;
        let is_quiet = words[SCALE_BYTES] == self.scale.words[SCALE_BYTES];
        if is_quiet && !self.scale.pending {
            return Ok(sent);
        }
        // Whoever saw it in use has long added to it by now.
        let idle = 1 - (self.maps.half.get(&0, 0)? & 1);
        for map in [Map::Peers, Map::Networks] {
            let all = match map {
                Map::Peers => rows(&self.maps.peers, ROWS)?,
                Map::Networks => rows(&self.maps.networks, ROWS)?,
            };
            for (key, Raw(value)) in all.into_iter().filter(|(key, _)| u64::from(key.half) == idle) {
                sent.push(Sent { to: remote_of(&key), bytes: value.bytes, at: BootNs(value.last) });
                self.scale.told.push((map, key));
            }
        }
        self.take_rest(&words, now, &mut sent)?;
        let growth = words[SCALE_UNREAD].saturating_sub(self.scale.words[SCALE_UNREAD]);
        if growth != 0 {
            sent.push(Sent { to: Remote::Unread, bytes: growth, at: now });
        }
        self.scale.told_at = now;
        self.scale.pending = !is_quiet;
        self.scale.words = words;
        if self.scale.told.is_empty() {
            self.maps.half.set(0, idle, 0)?;
        }
        if self.kept.is_none() {
            // Nobody comes after this agent.
            self.commit_sent()?;
        }
        Ok(sent)
    }

    /// What [`Sensor::sent`] told of is kept: the rows go, and a later agent tells of the growth since.
    pub(super) fn commit_sent(&mut self) -> Result<(), SensorError> {
        let Scale { words, rest, told, .. } = &mut self.scale;
        if self.maps.scale.get(&KEPT, 0)? != *words {
            self.maps.scale.set(KEPT, *words, 0)?;
            if let Ok(rest) = <[u64; REST]>::try_from(rest.as_slice()) {
                self.maps.rest.set(KEPT, rest, 0)?;
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        for (map, key) in told.drain(..) {
            absent_is_fine(match map {
                Map::Peers => self.maps.peers.remove(&Raw(key)),
                Map::Networks => self.maps.networks.remove(&Raw(key)),
            })?;
        }
        let idle = 1 - (self.maps.half.get(&0, 0)? & 1);
        Ok(self.maps.half.set(0, idle, 0)?)
    }

    fn take_rest(&mut self, words: &[u64], now: BootNs, sent: &mut Vec<Sent>) -> Result<(), SensorError> {
        if words[SCALE_REST] == self.scale.words[SCALE_REST] {
            return Ok(());
        }
        let rest: [u64; REST] = self.maps.rest.get(&COUNTED, 0)?;
        for (index, (known, bytes)) in self.scale.rest.iter_mut().zip(rest).enumerate() {
            let growth = bytes.saturating_sub(std::mem::replace(known, bytes));
            if growth != 0 {
                sent.push(Sent { to: rest_of(index), bytes: growth, at: now });
            }
        }
        Ok(())
    }
}

fn remote_of(key: &PeerKey) -> Remote {
    let mut address = [0; 16];
    for (bytes, word) in address.chunks_exact_mut(4).zip(key.address) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    remote(address, key.prefix)
}

fn rest_of(index: usize) -> Remote {
    let mut address = [0; 16];
    match u8::try_from(index) {
        Ok(first) => {
            address[10..12].fill(0xff);
            address[12] = first;
            remote(address, REST_V4)
        }
        Err(_) => {
            address[0] = (index & 0xff) as u8;
            remote(address, REST_V6)
        }
    }
}

/// From an address in the shape of IPv6 and its leading bits.
fn remote(address: [u8; 16], prefix: u32) -> Remote {
    let v6 = Ipv6Addr::from(address);
    match (v6.to_ipv4_mapped(), prefix) {
        (Some(v4), 128..) => Remote::Address(v4.into()),
        (None, 128..) => Remote::Address(v6.into()),
        (Some(v4), MAPPED..) => Remote::Network(v4.into(), (prefix - MAPPED) as u8),
        _ => Remote::Network(v6.into(), prefix as u8),
    }
}

const _: () = assert!(NETWORK_V4 > MAPPED && NETWORK_V6 < 128);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_name_addresses_and_networks() {
        let v4 = Ipv4Addr::new(203, 0, 113, 9);
        let mapped = v4.to_ipv6_mapped().octets();
        let v6: Ipv6Addr = "2001:db8:1::".parse().unwrap();
        let told = |bytes: [u8; 16], prefix| {
            let word =
                |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            remote_of(&PeerKey { address: [word(0), word(4), word(8), word(12)], prefix, half: 1 })
        };
        assert_eq!(told(mapped, 128), Remote::Address(v4.into()));
        assert_eq!(told(mapped, NETWORK_V4), Remote::Network(v4.into(), 24));
        assert_eq!(told(v6.octets(), NETWORK_V6), Remote::Network(v6.into(), 48));
    }

    #[test]
    fn what_found_no_room_is_named_by_its_first_byte() {
        assert_eq!(rest_of(203), Remote::Network(Ipv4Addr::new(203, 0, 0, 0).into(), 8));
        assert_eq!(rest_of(256 + 0x20), Remote::Network("2000::".parse::<Ipv6Addr>().unwrap().into(), 8));
    }

    proptest! {
        #[test]
        fn no_row_makes_it_panic(address: [u8; 16], prefix: u32, index in 0usize..512) {
            for told in [remote(address, prefix), rest_of(index)] {
                if let Remote::Network(address, prefix) = told {
                    let whole = if address.is_ipv4() { 32 } else { 128 };
                    prop_assert!(prefix < whole);
                }
            }
        }
    }
}
