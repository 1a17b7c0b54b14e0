//! A network namespace behind a veth pair. It has no name and no file: the kernel takes it down with the lab's process. Must not
//! know what runs in it.

use std::{fs::File, process::Command, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};

use super::run;

/// One end of the pair.
pub(super) struct End<'a> {
    pub(super) interface: &'a str,
    /// As `ip addr add` takes them, in their order.
    pub(super) addresses: &'a [String],
}

/// Makes the namespace and connects it to that of the calling thread, which must be the lab's.
///
/// # Errors
/// When `ip` is missing, or the kernel has no veth.
pub(super) fn linked(here: &End<'_>, there: &End<'_>) -> Result<File> {
    thread::scope(|scope| {
        let (made, wait_made) = mpsc::channel();
        // Dropped with an error, which ends the thread before it is waited for.
        let (go, wait_go) = mpsc::channel::<()>();
        // A thread can live in a namespace of its own. It stays until the interface was moved to it by its id.
        let thread = thread::Builder::new().name(there.interface.to_owned()).spawn_scoped(scope, move || {
            // SAFETY: only this thread changes its network namespace; no memory or descriptor is affected.
            let refused = unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0;
            let tid = rustix::thread::gettid().as_raw_nonzero();
            let namespace = if refused {
                Err(std::io::Error::last_os_error())
            } else {
                File::open(format!("/proc/self/task/{tid}/ns/net"))
            };
            made.send((tid, namespace)).map_err(|_| anyhow!("the lab stopped waiting"))?;
            wait_go.recv().context("the lab gave up on the namespace")?;
            ip("link set lo up")?;
            up(there)
        });
        let thread = thread.context("cannot start a thread for the namespace")?;
        let (tid, namespace) = wait_made.recv().context("the namespace's thread ended early")?;
        let namespace = namespace.context("the kernel refuses a network namespace")?;
        // The end in the lab vanishes with the other one.
        let (own, other) = (here.interface, there.interface);
        ip(&format!("link add {own} type veth peer name {other} netns {tid}"))?;
        up(here)?;
        go.send(()).map_err(|_| anyhow!("the namespace's thread ended early"))?;
        thread.join().map_err(|_| anyhow!("the namespace's thread panicked"))??;
        Ok(namespace)
    })
}

fn up(end: &End<'_>) -> Result<()> {
    let interface = end.interface;
    ip(&format!("link set {interface} up"))?;
    end.addresses.iter().try_for_each(|address| ip(&format!("addr add {address} dev {interface}")))
}

/// `ip` in the namespace of the calling thread, which a child inherits.
fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split(' '))).with_context(|| format!("ip {arguments}"))
}
