//! `e2e confine UID CAPABILITIES PROGRAM ARGUMENT…`: executes a program as an ordinary user with exactly these capabilities
//! (comma-separated names), as systemd does for a service.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_no_new_privs,
};

/// Those that the service unit gives the agent, by the names of `capabilities(7)`.
pub(crate) const SERVICE: [&str; 5] =
    ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];

/// Runs `e2e confine` with what follows these words; never returns when all is well.
///
/// # Errors
/// When the kernel refuses a step, or the program cannot be executed.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let [uid, capabilities, program, rest @ ..] = arguments else {
        bail!("usage: e2e confine UID CAPABILITIES PROGRAM ARGUMENT…");
    };
    let uid: u32 = uid.parse().context("the user is a number")?;
    let mut keep = CapabilitySet::empty();
    for name in capabilities.split(',').filter(|name| !name.is_empty()) {
        keep |= capability(name)?;
    }
    // Those that this host's root does not have are gone already.
    for one in CapabilitySet::all().difference(keep).iter() {
        let _ = remove_capability_from_bounding_set(one);
    }
    set_keep_capabilities(true).context("cannot keep capabilities")?;
    // SAFETY: one thread; the calls change ids of this process and touch no memory of ours.
    let changed = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(uid, uid, uid) == 0
            && libc::setresuid(uid, uid, uid) == 0
    };
    if !changed {
        return Err(std::io::Error::last_os_error()).context("cannot become another user");
    }
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: keep };
    set_capabilities(None, sets).context("cannot set capabilities")?;
    for one in keep.iter() {
        configure_capability_in_ambient_set(one, true).context("cannot pass a capability on")?;
    }
    set_no_new_privs(true).context("cannot refuse new privileges")?;
    Err(std::process::Command::new(program).args(rest).exec())
        .with_context(|| format!("cannot execute {program}"))
}

fn capability(name: &str) -> Result<CapabilitySet> {
    Ok(match name {
        "CAP_BPF" => CapabilitySet::BPF,
        "CAP_PERFMON" => CapabilitySet::PERFMON,
        "CAP_NET_ADMIN" => CapabilitySet::NET_ADMIN,
        "CAP_SYS_PTRACE" => CapabilitySet::SYS_PTRACE,
        "CAP_DAC_READ_SEARCH" => CapabilitySet::DAC_READ_SEARCH,
        other => bail!("unknown capability {other}"),
    })
}
