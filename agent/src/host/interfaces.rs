//! What the network interfaces say that they sent, for comparison with what sockets sent. It must not know either's meaning.

use std::{
    collections::HashMap,
    io::{self, Read as _},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// Below `/proc/self`: interfaces of the network namespace that we are in, whatever sysfs shows.
const DEV: &str = "net/dev";
const SYSFS: &str = "/sys/class/net";
/// A line has about 150 bytes.
const LARGEST: u64 = 4 << 20;

/// Sums of bytes that left through the host's interfaces to the outside.
///
/// Interfaces that have hardware behind them; in a network namespace without any, all but the loopback and those that only
/// bundle others. So nothing is counted both by a bond and by its parts.
#[derive(Debug, Default)]
pub struct Interfaces {
    /// Bytes sent as of the last reading, by name; `None` before the first.
    known: Option<HashMap<String, u64>>,
    sysfs: PathBuf,
}

impl Interfaces {
    #[must_use]
    pub fn new() -> Self {
        Self { known: None, sysfs: SYSFS.into() }
    }

    /// Bytes sent since the last call; 0 at the first.
    ///
    /// # Errors
    /// When the kernel's list cannot be read.
    pub fn sent(&mut self) -> io::Result<u64> {
        let mut text = String::new();
        super::itself::open(Path::new(DEV))?.take(LARGEST).read_to_string(&mut text)?;
        Ok(self.growth(&text))
    }

    fn growth(&mut self, text: &str) -> u64 {
        let all: Vec<(&str, u64)> = text.lines().filter_map(parse).collect();
        let is_hardware = |name: &str| self.sysfs.join(name).join("device").exists();
        let is_bundle = |name: &str| {
            ["bridge", "bonding", "tun_flags"].iter().any(|kind| self.sysfs.join(name).join(kind).exists())
        };
        let hardware = all.iter().any(|(name, _)| is_hardware(name));
        let now: HashMap<String, u64> = all
            .into_iter()
            .filter(|(name, _)| *name != "lo" && if hardware { is_hardware(name) } else { !is_bundle(name) })
            .map(|(name, sent)| (name.to_owned(), sent))
            .collect();
        let growth = match &self.known {
            None => 0,
            // One that is new, or counts anew, has sent all that it says.
            Some(known) => now
                .iter()
                .map(|(name, &sent)| {
                    let before = known.get(name).copied().unwrap_or(0);
                    if sent < before { sent } else { sent - before }
                })
                .fold(0, u64::saturating_add),
        };
        self.known = Some(now);
        growth
    }
}

/// `eth0: rx_bytes packets errs drop fifo frame compressed multicast tx_bytes …`; `None` for the two lines of headings.
fn parse(line: &str) -> Option<(&str, u64)> {
    let (name, counts) = line.split_once(':')?;
    let name = name.trim();
    // A name of an interface has no slash; we make paths of it.
    if name.is_empty() || name.contains('/') || Path::new(name).file_name().is_none() {
        return None;
    }
    counts.split_whitespace().nth(8)?.parse().ok().map(|sent| (name, sent))
}

/// The addresses of the network namespace that we are in.
///
/// # Errors
/// When the kernel does not say.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list = MaybeUninit::<*mut libc::ifaddrs>::uninit();
    // SAFETY: writes the head of a list that is freed below.
    if unsafe { libc::getifaddrs(list.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it succeeded.
    let head = unsafe { list.assume_init() };
    let mut addresses = Vec::new();
    let mut next = head;
    // SAFETY: the list is ours until it is freed and ends with a null pointer; an address is as large as its family says.
    unsafe {
        while let Some(entry) = next.as_ref() {
            next = entry.ifa_next;
            if let Some(address) = entry.ifa_addr.as_ref() {
                match i32::from(address.sa_family) {
                    libc::AF_INET => {
                        let v4 = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                        addresses.push(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into());
                    }
                    libc::AF_INET6 => {
                        let v6 = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                        addresses.push(Ipv6Addr::from(v6.sin6_addr.s6_addr).into());
                    }
                    _ => {}
                }
            }
        }
        libc::freeifaddrs(head);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
                        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n";

    fn page(rows: &[(&str, u64)]) -> String {
        let rows =
            rows.iter().map(|(name, sent)| format!("{name:>6}: 7 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n"));
        HEAD.to_owned() + &rows.collect::<String>()
    }

    #[test]
    fn growth_of_interfaces_that_come_go_and_start_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut interfaces = Interfaces { known: None, sysfs: folder.path().into() };
        assert_eq!(interfaces.growth(&page(&[("lo", 5), ("eth0", 100)])), 0);
        assert_eq!(interfaces.growth(&page(&[("lo", 50), ("eth0", 130)])), 30);
        assert_eq!(interfaces.growth(&page(&[("eth0", 131), ("wlan0", 9)])), 10);
        assert_eq!(interfaces.growth(&page(&[("eth0", 4)])), 4);
    }

    #[test]
    fn what_has_hardware_counts_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("eth0/device")).unwrap();
        let mut interfaces = Interfaces { known: None, sysfs: folder.path().into() };
        interfaces.growth(&page(&[("eth0", 1), ("bond0", 1), ("veth1", 1)]));
        assert_eq!(interfaces.growth(&page(&[("eth0", 11), ("bond0", 11), ("veth1", 500)])), 10);
    }

    #[test]
    fn a_bundle_is_not_counted_beside_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("br0/bridge")).unwrap();
        let mut interfaces = Interfaces { known: None, sysfs: folder.path().into() };
        interfaces.growth(&page(&[("br0", 1), ("veth1", 1)]));
        assert_eq!(interfaces.growth(&page(&[("br0", 11), ("veth1", 11)])), 10);
    }

    #[test]
    fn the_running_kernel_can_be_read() {
        Interfaces::new().sent().unwrap();
        own_addresses().unwrap();
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let folder = PathBuf::from("/nonexistent");
            Interfaces { known: Some(HashMap::new()), sysfs: folder }.growth(&text);
        }
    }
}
