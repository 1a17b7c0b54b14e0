//! What the agent's own process closes to others before it starts: its memory, and descriptors that it was given. It must not know
//! what the agent keeps there.

/// Its memory holds the key of the log's seal and tokens: no core dump has it, and who runs as the agent's user cannot look into
/// it or stop it by `ptrace`. Who may do that to any process still can.
pub(super) fn keep_memory() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "others of the agent's user can read its memory");
    }
}

/// Whatever was left open by who started us is not for our children: the canary's would make carriers of it.
pub(super) fn keep_descriptors() {
    // SAFETY: changes a flag of descriptors from 3 on, and touches no memory.
    let changed = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if changed != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "inherited descriptors stay inheritable");
    }
}
