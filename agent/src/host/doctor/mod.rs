//! Whether this host is fit for the agent, line by line, each with what to do about it.
//!
//! Reads `/proc` and `/sys` only. Whether programs load and fire is the sensor's to prove; its checks are appended to
//! these. `report` is what is said, and how.

mod report;

use std::path::Path;

pub use self::report::{Check, Status, json, render, worst};
use super::{cgroup, mounts::MountTable, read_fact, read_limited};
use crate::sensor::{
    KERNEL_BTF,
    btf::{self, Btf},
};

/// Everything that can be told of this host without loading a program.
#[must_use]
pub fn checks(table: &MountTable) -> Vec<Check> {
    let uname = rustix::system::uname();
    let mut checks = vec![
        kernel(&uname.release().to_string_lossy()),
        arch(&uname.machine().to_string_lossy()),
        btf(),
        lsm(securityfs(table, "lsm").as_deref(), lsm_by_syscall()),
        lockdown(securityfs(table, "lockdown").as_deref()),
        jit(sysctl("net.core.bpf_jit_enable").as_deref(), sysctl("net.core.bpf_jit_harden").as_deref()),
        unprivileged_bpf(sysctl("kernel.unprivileged_bpf_disabled").as_deref()),
        rights(),
        cgroup2(table),
        bpffs(table),
        tracefs(table),
        swap(read_fact(Path::new("/proc/swaps")).as_deref()),
        clock(
            read_fact(Path::new("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
                .as_deref(),
        ),
    ];
    checks.extend(limits());
    checks
}

/// Whether this process has every capability that the agent needs.
#[must_use]
pub fn rights() -> Check {
    capabilities(read_fact(Path::new("/proc/self/status")).as_deref())
}

/// What no agent inside the kernel can see (DESIGN §4).
#[must_use]
pub fn limits() -> Vec<Check> {
    [
        (
            "limit_rdma",
            "RDMA payload leaves by the adapter; opening the channel is seen, its bytes are not counted",
        ),
        ("limit_gpu_dma", "what a GPU copies to the host or to a peer device by DMA is not counted"),
        (
            "limit_tokens",
            "what a model says is not weighed: tokens that carry weights are bytes to a peer like others",
        ),
        (
            "limit_firmware",
            "firmware, management controllers and hypervisors are below the kernel and out of sight",
        ),
        (
            "limit_root_before",
            "an attacker who was root before the agent started can have changed the kernel it asks",
        ),
    ]
    .map(|(name, detail)| Check::info(name, detail))
    .into()
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    let name = "kernel";
    match version {
        // 5.8 brought the ring buffer and CAP_BPF; 5.10 is the oldest kernel that the tests run on.
        Some(version) if version >= (5, 10) => Check::ok(name, release),
        Some(version) if version >= (5, 8) => Check::warn(
            name,
            format!("{release} is older than every kernel that was tested"),
            "use 5.10 or later",
        ),
        Some(_) => Check::fail(
            name,
            format!("{release} has no BPF ring buffer"),
            "boot a kernel of version 5.10 or later",
        ),
        None => Check::warn(name, format!("cannot tell the version of {release:?}"), "use 5.10 or later"),
    }
}

fn arch(machine: &str) -> Check {
    if machine == "x86_64" {
        return Check::ok("arch", machine);
    }
    Check::fail("arch", format!("{machine} is not supported"), "run the agent on x86_64")
}

fn btf() -> Check {
    let remedy = "use a kernel with CONFIG_DEBUG_INFO_BTF";
    let bytes = match read_limited(Path::new(KERNEL_BTF), btf::LARGEST as u64) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Check::fail("btf", format!("kernel has no BTF at {KERNEL_BTF}: {error}"), remedy);
        }
    };
    match Btf::parse(&bytes).map(|btf| btf.structs("task_struct").count()) {
        Ok(found) if found > 0 => Check::ok("btf", format!("{KERNEL_BTF}, {} KiB", bytes.len() >> 10)),
        Ok(_) => Check::fail("btf", format!("{KERNEL_BTF} has no task_struct"), remedy),
        Err(error) => Check::fail("btf", format!("{KERNEL_BTF} does not parse: {error}"), remedy),
    }
}

fn lsm(list: Option<&str>, by_syscall: Option<Vec<u64>>) -> Check {
    const BPF: u64 = 109;
    let name = "bpf_lsm";
    let remedy = "add bpf to the kernel's lsm= boot parameter, so that the function sensor can deny";
    match (list, by_syscall) {
        (Some(list), _) if list.split(',').any(|lsm| lsm == "bpf") => Check::ok(name, list),
        (Some(list), _) => Check::warn(
            name,
            format!("bpf is not in the LSM list ({list}): such programs stay silent"),
            remedy,
        ),
        (None, Some(ids)) if ids.contains(&BPF) => {
            Check::ok(name, "active, says the kernel (securityfs is not mounted)")
        }
        (None, Some(_)) => {
            Check::warn(name, "bpf is not among the active LSMs: such programs stay silent", remedy)
        }
        (None, None) => Check::warn(
            name,
            "cannot be told: securityfs is not mounted",
            "mount -t securityfs securityfs /sys/kernel/security",
        ),
    }
}

/// The ids of the active LSMs, without securityfs; `None` before Linux 6.8.
fn lsm_by_syscall() -> Option<Vec<u64>> {
    /// The same number on every architecture.
    const SYS_LSM_LIST_MODULES: libc::c_long = 461;
    let mut ids = [0_u64; 64];
    let mut size = u32::try_from(size_of_val(&ids)).ok()?;
    // SAFETY: `ids` has `size` bytes, which the kernel does not write beyond, and both live for the whole call.
    let count =
        unsafe { libc::syscall(SYS_LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut size, 0 as libc::c_uint) };
    Some(ids.get(..usize::try_from(count).ok()?)?.to_vec())
}

fn lockdown(state: Option<&str>) -> Check {
    let name = "lockdown";
    // `none [integrity] confidentiality`
    let level = state.and_then(|state| state.split_once('[')?.1.split_once(']')).map(|(level, _)| level);
    match level {
        Some("confidentiality") => Check::fail(
            name,
            "confidentiality: programs may not read kernel memory, on which every hook depends",
            "boot with lockdown=integrity",
        ),
        Some("none") => Check::warn(
            name,
            "none: root can patch the running kernel, and the agent with it",
            "boot with lockdown=integrity",
        ),
        Some(level) => Check::ok(name, level),
        None => Check::warn(
            name,
            "cannot be told: securityfs is not mounted, or the kernel has no lockdown LSM",
            "mount -t securityfs securityfs /sys/kernel/security, and boot with lockdown=integrity",
        ),
    }
}

fn sysctl(name: &str) -> Option<String> {
    read_fact(&Path::new("/proc/sys").join(name.replace('.', "/")))
}

/// Whether the kernel interprets programs and does not compile them.
#[must_use]
pub fn interprets() -> bool {
    sysctl("net.core.bpf_jit_enable").as_deref() == Some("0")
}

fn jit(enabled: Option<&str>, harden: Option<&str>) -> Check {
    let name = "bpf_jit";
    match (enabled, harden) {
        (Some("0"), _) => {
            let remedy = "sysctl net.core.bpf_jit_enable=1";
            Check::warn(name, "off: programs are interpreted, at several times the cost", remedy)
        }
        (_, Some("2")) => Check::warn(
            name,
            "on, hardened for root too: programs cost more",
            "sysctl net.core.bpf_jit_harden=1 hardens those of users only",
        ),
        (Some(_), _) => Check::ok(name, "on"),
        // Kernels without the interpreter may lack the switch.
        (None, _) => Check::ok(name, "no switch for it in this kernel"),
    }
}

fn unprivileged_bpf(value: Option<&str>) -> Check {
    let name = "unprivileged_bpf";
    match value {
        Some("0") => {
            Check::warn(name, "users may load programs", "sysctl kernel.unprivileged_bpf_disabled=1")
        }
        Some("1") => Check::ok(name, "disabled until the next boot"),
        Some("2") => Check::ok(name, "disabled; root can enable it"),
        Some(other) => Check::warn(name, format!("unknown value {other:?}"), "expected 0, 1 or 2"),
        None => Check::ok(name, "no switch for it in this kernel"),
    }
}

/// What the agent needs of `CAP_*`, each with why.
const CAPABILITIES: &[(u32, &str, &str)] = &[
    (39, "CAP_BPF", "load programs and make maps"),
    (38, "CAP_PERFMON", "read kernel memory from programs"),
    (12, "CAP_NET_ADMIN", "attach the egress budget"),
    (19, "CAP_SYS_PTRACE", "read /proc/PID/exe of others"),
    (2, "CAP_DAC_READ_SEARCH", "read asset files and resolve cgroups"),
];

fn capabilities(status: Option<&str>) -> Check {
    const SYS_ADMIN: u32 = 21;
    let name = "capabilities";
    let effective = status
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("CapEff:")))
        .and_then(|field| u64::from_str_radix(field.trim(), 16).ok());
    let Some(effective) = effective else {
        return Check::fail(name, "cannot be told: /proc/self/status has no CapEff", "mount /proc");
    };
    let has = |bit: u32| effective >> bit & 1 == 1;
    let missing: Vec<String> = CAPABILITIES
        .iter()
        // CAP_SYS_ADMIN holds for both of those that were split from it.
        .filter(|(bit, ..)| !(has(*bit) || matches!(bit, 38 | 39) && has(SYS_ADMIN)))
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        return Check::ok(name, "all that the agent needs");
    }
    Check::fail(
        name,
        format!("missing {}", missing.join(", ")),
        "run as root, or add them to AmbientCapabilities= of the unit",
    )
}

fn cgroup2(table: &MountTable) -> Check {
    match cgroup::cgroup2_mount(table) {
        Some(mount) if mount.root == Path::new("/") => {
            Check::ok("cgroup2", mount.point.display().to_string())
        }
        Some(mount) => Check::warn(
            "cgroup2",
            format!("{} shows only {} of the tree", mount.point.display(), mount.root.display()),
            "run the agent in the host's cgroup namespace: the egress budget needs the root cgroup",
        ),
        None => Check::warn(
            "cgroup2",
            "not mounted: no egress budget of the whole host (WB-0009), no units and containers",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ),
    }
}

fn bpffs(table: &MountTable) -> Check {
    match mounted(table, "bpf") {
        Some(point) => Check::ok("bpffs", point),
        None => Check::warn(
            "bpffs",
            "not mounted: the kernel cannot keep weighing while the agent is away",
            "mount -t bpf bpf /sys/fs/bpf, or set pin: false",
        ),
    }
}

fn tracefs(table: &MountTable) -> Check {
    match mounted(table, "tracefs").or_else(|| mounted(table, "debugfs")) {
        Some(point) => Check::ok("tracefs", point),
        None => Check::warn(
            "tracefs",
            "not mounted: tracepoints without BTF cannot be attached",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn swap(swaps: Option<&str>) -> Check {
    let areas: Vec<&str> =
        swaps.unwrap_or_default().lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let on_disk: Vec<&str> =
        areas.iter().copied().filter(|area| !area.trim_start_matches("/dev/").starts_with("zram")).collect();
    if on_disk.is_empty() {
        return Check::ok("swap", if areas.is_empty() { "off" } else { "compressed memory only" });
    }
    Check::warn(
        "swap",
        format!("on at {}: weights in memory can reach a disk unseen", on_disk.join(", ")),
        "swapoff -a, or put swap on dm-crypt with a random key",
    )
}

fn clock(source: Option<&str>) -> Check {
    match source {
        Some(source @ ("tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page")) => Check::ok("clock", source),
        Some(source) => Check::warn(
            "clock",
            format!("{source}: every reading of the clock is slow, and programs read it often"),
            "boot with clocksource=tsc if the processor's counter is stable",
        ),
        None => Check::warn("clock", "cannot be told: sysfs does not say", "mount -t sysfs sysfs /sys"),
    }
}

fn mounted(table: &MountTable, fstype: &str) -> Option<String> {
    let mount = table.entries().iter().find(|mount| mount.fstype == fstype && mount.visible)?;
    Some(mount.point.display().to_string())
}

/// A file of securityfs, wherever it is mounted.
fn securityfs(table: &MountTable, file: &str) -> Option<String> {
    read_fact(&Path::new(&mounted(table, "securityfs")?).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_version() {
        let status = |release| kernel(release).status;
        assert_eq!(status("6.18.44-fc-v657"), Status::Ok);
        assert_eq!(status("5.10.0-32-amd64"), Status::Ok);
        assert_eq!(status("5.9.1"), Status::Warn);
        assert_eq!(status("4.19.0"), Status::Fail);
        assert_eq!(status("custom"), Status::Warn);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let of = |mask: u64| capabilities(Some(&format!("Name:\tx\nCapEff:\t{mask:016x}\n")));
        assert_eq!(of(0x1ff_feff_ffff).status, Status::Ok);
        let admin = of(1 << 21 | 1 << 12 | 1 << 19);
        assert_eq!(admin.detail, "missing CAP_DAC_READ_SEARCH (read asset files and resolve cgroups)");
        assert_eq!(of(0).detail.matches("CAP_").count(), 5);
        assert_eq!(capabilities(None).status, Status::Fail);
    }

    #[test]
    fn settings_of_the_kernel_are_judged() {
        assert_eq!(lockdown(Some("none [integrity] confidentiality")).detail, "integrity");
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).status, Status::Fail);
        assert_eq!(lockdown(Some("[none] integrity")).status, Status::Warn);
        assert_eq!(lockdown(None).status, Status::Warn);
        assert_eq!(lsm(Some("lockdown,capability,bpf"), None).status, Status::Ok);
        assert_eq!(lsm(Some("lockdown,bpfx"), None).status, Status::Warn);
        assert_eq!(lsm(None, Some(vec![100, 109])).status, Status::Ok);
        assert_eq!(lsm(None, Some(vec![100])).status, Status::Warn);
        assert_eq!(unprivileged_bpf(Some("0")).status, Status::Warn);
        assert_eq!(unprivileged_bpf(None).status, Status::Ok);
        assert_eq!(jit(Some("0"), None).status, Status::Warn);
        assert_eq!(clock(Some("acpi_pm")).status, Status::Warn);
        assert_eq!(clock(Some("tsc")).status, Status::Ok);
    }

    #[test]
    fn swap_in_memory_is_no_disk() {
        let header = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(swap(Some(header)).detail, "off");
        assert_eq!(swap(Some(&format!("{header}/dev/zram0 partition 1 0 1\n"))).status, Status::Ok);
        let disk = swap(Some(&format!("{header}/dev/zram0 partition 1 0 1\n/swapfile file 1 0 -2\n")));
        assert_eq!(disk.detail, "on at /swapfile: weights in memory can reach a disk unseen");
    }

    #[test]
    fn this_host_is_examined() {
        let checks = checks(&MountTable::read().unwrap());
        let status = |name: &str| checks.iter().find(|check| check.name == name).unwrap().status;
        assert_eq!(status("arch"), Status::Ok);
        assert_eq!(status("limit_rdma"), Status::Info);
        for check in &checks {
            let needs = matches!(check.status, Status::Warn | Status::Fail);
            assert_eq!(check.remedy.is_some(), needs, "{}", check.name);
        }
    }
}
