//! A host of a fleet, as far as the network knows it: a namespace with an address of its own behind a veth pair.
//!
//! They share this machine's kernel, so what one "host" has of an asset must be files that no other lists. It has no name and
//! no file: the kernel takes it down with the lab's process. Must not know what runs in it.

use std::{fs::File, net::Ipv4Addr, os::fd::AsRawFd, path::PathBuf, process::Command, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};

use super::run;

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
        let (made, wait_made) = mpsc::channel();
        let (go, wait_go) = mpsc::channel::<()>();
        // A thread can live in a namespace of its own. It stays until the interface was moved to it by its id.
        let thread = thread::Builder::new().name("host".into()).spawn(move || -> Result<()> {
            // SAFETY: only this thread changes its network namespace; no memory or descriptor is affected.
            let refused = unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0;
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let namespace = if refused {
                Err(std::io::Error::last_os_error())
            } else {
                File::open(format!("/proc/self/task/{tid}/ns/net"))
            };
            made.send((tid, namespace)).map_err(|_| anyhow!("the lab stopped waiting"))?;
            wait_go.recv().context("the lab gave up on the host")?;
            ip("link set lo up")?;
            ip("link set uplink up")?;
            ip(&format!("addr add {address}/30 dev uplink"))
        });
        let thread = thread.context("cannot start a thread for the host")?;
        let (tid, namespace) = wait_made.recv().context("the host's thread ended early")?;
        let namespace = namespace.context("the kernel refuses a network namespace")?;
        // The end in the lab vanishes with the other one.
        ip(&format!("link add host{number} type veth peer name uplink netns {tid}"))?;
        ip(&format!("link set host{number} up"))?;
        ip(&format!("addr add {gateway}/30 dev host{number}"))?;
        go.send(()).map_err(|_| anyhow!("the host's thread ended early"))?;
        thread.join().map_err(|_| anyhow!("the host's thread panicked"))??;
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

/// `ip` in the namespace of the calling thread, which a child inherits.
fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split(' '))).with_context(|| format!("ip {arguments}"))
}
