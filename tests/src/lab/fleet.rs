//! A host of a fleet, as far as the network knows it: a namespace with an address of its own behind a veth pair.
//!
//! They share this machine's kernel, so what one "host" has of an asset must be files that no other lists. Must not know what
//! runs in it.

use std::{fs::File, net::Ipv4Addr, os::fd::AsRawFd, path::PathBuf, process::Command};

use anyhow::Result;

use super::namespace::{self, End};

/// One host.
#[derive(Debug)]
pub struct Host {
    namespace: File,
    /// Its own address, which the lab reaches.
    pub address: Ipv4Addr,
    /// The lab's end of the link: for the host an address of the outside that nobody listed.
    pub gateway: Ipv4Addr,
}

impl Host {
    /// Makes host number `number` (0 to 60) of the lab. Call it in the lab's own network namespace.
    ///
    /// # Errors
    /// When `ip` is missing, or the kernel has no veth.
    pub fn new(number: u8) -> Result<Self> {
        // TEST-NET-3, four addresses each.
        let [gateway, address] = [1, 2].map(|n| Ipv4Addr::new(203, 0, 113, 4 * number + n));
        let here = End { interface: &format!("host{number}"), addresses: &[format!("{gateway}/30")] };
        let there = End { interface: "uplink", addresses: &[format!("{address}/30")] };
        let namespace = namespace::linked(&here, &there)?;
        Ok(Self { namespace, address, gateway })
    }

    /// What stands in front of a command line that is to run on the host; it needs `nsenter`, and lasts as long as the host.
    #[must_use]
    pub fn launcher(&self) -> Vec<PathBuf> {
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        vec!["nsenter".into(), format!("--net={descriptor}").into(), "--".into()]
    }

    /// A command that runs on the host.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let launcher = self.launcher();
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).arg(program);
        command
    }
}
