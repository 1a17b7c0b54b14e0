//! `weighbridge doctor`: can this host run the agent, what works here, what to do about the rest.

use super::{OK, Output, UNFIT, print};
use crate::{
    host::{
        doctor::{self, Check, Status},
        mounts::MountTable,
    },
    pipeline::{Failure, Unfit},
    sensor::{HookKind, Sensor},
};

/// The same for a program.
pub(super) fn report() -> Option<String> {
    doctor::json(&checks()).map(|json| json + "\n").ok()
}

fn checks() -> Vec<Check> {
    let table = MountTable::read().unwrap_or_default();
    let mut checks = doctor::checks(&table);
    let limits = checks.iter().position(|check| check.name.starts_with("limit_")).unwrap_or(checks.len());
    checks.splice(limits..limits, hooks());
    checks
}

pub(super) fn doctor(output: Output, colour: bool) -> u8 {
    let checks = checks();
    let text = match output {
        Output::Json => doctor::json(&checks).map(|json| json + "\n").unwrap_or_default(),
        Output::Text => doctor::render(&checks, colour),
    };
    print(&text);
    if doctor::worst(&checks) == Status::Fail { UNFIT } else { OK }
}

/// Loads every hook for real, attaches none.
fn hooks() -> Vec<Check> {
    const REMEDY: &str =
        "boot a kernel with CONFIG_BPF_SYSCALL, CONFIG_BPF_EVENTS and CONFIG_DEBUG_INFO_BTF, and run as root";
    let probed = match Sensor::probe() {
        Ok(probed) => probed,
        Err(error) => {
            return vec![Check::fail("sensor", format!("no sensor works here: {error}"), REMEDY)];
        }
    };
    let mut checks: Vec<Check> = probed
        .hooks
        .iter()
        .map(|report| {
            let place = match report.hook.kind {
                HookKind::Tracepoint | HookKind::TracepointAs(_) => "BTF tracepoint",
                HookKind::Iterator(_) => "BPF iterator",
                HookKind::Egress => "cgroup egress",
            };
            match &report.result {
                Ok(()) => Check::ok(report.hook.name, format!("{place} loads")),
                Err(reason) => Check::warn(
                    report.hook.name,
                    format!("{place} does not load ({reason}): {}", report.hook.without),
                    "a later kernel has it; without it the agent runs with this limit",
                ),
            }
        })
        .collect();
    checks.push(if probed.reads_directly {
        Check::ok("reads", "the programs load from the kernel's memory themselves")
    } else {
        Check::info(
            "reads",
            "by a call for each word: with bpf_rdonly_cast to void (6.17) a holder's calls cost half",
        )
    });
    checks.push(Check::ok(
        "sensor",
        "syscall: the only one built so far, and every hook that it requires loads",
    ));
    checks
}

/// Whether this process may load eBPF at all, before anything else is looked at.
///
/// # Errors
///
/// [`Unfit::Rights`] with the names of the missing capabilities.
pub(super) fn rights() -> Result<(), Failure> {
    let check = doctor::rights();
    if check.status == Status::Fail { Err(Unfit::Rights(check.detail).into()) } else { Ok(()) }
}
