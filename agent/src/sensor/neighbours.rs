//! Telling the kernel in which networks the address of a peer may be one of this host, in another network namespace. It must
//! not know why those.

use agent_ebpf as abi;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;

use super::{
    Sensor, SensorError,
    maps::{Raw, absent_is_fine},
};

/// Of an address of IPv4 among those of IPv6.
const MAPPED: u32 = 96;

impl Sensor {
    /// Looks only at these networks, whatever an earlier agent looked at: what is sent to an address of this host in one of
    /// them is followed to who receives it. Call it before the first scan.
    ///
    /// # Errors
    ///
    /// When there are more than the map has room for (4,096), or it cannot be written.
    pub fn follow(&mut self, networks: &[IpNet]) -> Result<(), SensorError> {
        let known: Vec<Key<Raw<abi::Address>>> = self.maps.followed.keys().collect::<Result<_, _>>()?;
        let wanted: Vec<(u32, abi::Address)> = networks.iter().map(key).collect();
        // First, so that there is room. What an earlier agent's programs send meanwhile to a network that stays is followed all along.
        for old in known {
            let Raw(address) = old.data();
            if !wanted.contains(&(old.prefix_len(), address)) {
                absent_is_fine(self.maps.followed.remove(&old))?;
            }
        }
        for (prefix, address) in &wanted {
            self.maps.followed.insert(&Key::new(*prefix, Raw(*address)), 1, 0)?;
        }
        Ok(())
    }
}

/// (bits, address) of a network among those of IPv6.
fn key(network: &IpNet) -> (u32, abi::Address) {
    let prefix = u32::from(network.prefix_len());
    match network {
        IpNet::V4(v4) => (MAPPED + prefix, abi::Address { bytes: v4.network().to_ipv6_mapped().octets() }),
        IpNet::V6(v6) => (prefix, abi::Address { bytes: v6.network().octets() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_either_family_is_one_of_ipv6() {
        let [v4, v6] = ["10.20.0.0/16", "2001:db8::1/32"].map(|text| key(&text.parse().unwrap()));
        let mut bytes = [0; 16];
        bytes[10..14].copy_from_slice(&[0xff, 0xff, 10, 20]);
        assert_eq!(v4, (112, abi::Address { bytes }));
        // Without what lies behind its prefix.
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(v6, (32, abi::Address { bytes }));
    }
}
