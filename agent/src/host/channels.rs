//! Character devices whose bytes no hook counts: RDMA, VFIO, GPUDirect, tunnels, raw memory; and those of GPUs.
//!
//! By the names under which drivers register: many of their numbers are given out when the driver starts. This file must not
//! know who has one open.

use std::{collections::BTreeMap, path::Path};

use super::read_limited;
use crate::event::{ActKind, Dev};

const LIMIT: u64 = 1 << 20;
const MISC_MAJOR: u32 = 10;
/// Minor number that stands for every one of its major.
const ANY_MINOR: u32 = agent_ebpf::acts::ANY_MINOR;

/// Names in `/proc/devices`.
const MAJORS: [(&str, ActKind); 6] = [
    ("infiniband_verbs", ActKind::Rdma),
    ("infiniband_mad", ActKind::Rdma),
    ("infiniband_cm", ActKind::Rdma),
    ("vfio", ActKind::Vfio),
    ("vfio-dev", ActKind::Vfio),
    ("nvidia-fs", ActKind::GpuDirect),
];

/// Names in `/proc/misc`.
const MISC: [(&str, ActKind); 6] = [
    ("rdma_cm", ActKind::Rdma),
    ("vfio", ActKind::Vfio),
    ("iommu", ActKind::Vfio),
    ("tun", ActKind::Tunnel),
    // The kernel sends out of the memory of who opened it, without a call.
    ("vhost-net", ActKind::Tunnel),
    ("vhost-vsock", ActKind::Tunnel),
];

/// Names of drivers of GPUs and their like, in either file: NVIDIA's, those of the kernel's own drivers, and of accelerators.
/// Under `misc` they are single devices. The configuration adds to them.
const GPUS: [&str; 14] = [
    "nvidia",
    "nvidia-frontend",
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-modeset",
    "nvidia-caps",
    "nvidia-caps-imex-channels",
    "nvidia-nvswitch",
    "nvidia-nvlink",
    "drm",
    "kfd",
    "accel",
    "habanalabs",
    "neuron",
];

/// `/dev/mem`, `/dev/kmem`, `/dev/port`.
const MEMORY: [Dev; 3] = [Dev::new(1, 1), Dev::new(1, 2), Dev::new(1, 4)];

/// Which act it is when a holder has a device open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels(BTreeMap<Dev, ActKind>);

impl Channels {
    /// Those that this kernel has now; `gpu_drivers` are names besides those that are built in. What cannot be read is left out: a host without `/proc` does not come this far.
    #[must_use]
    pub fn read(gpu_drivers: &[String]) -> Self {
        let text = |path| read_limited(Path::new(path), LIMIT).unwrap_or_default();
        Self::parse(&text("/proc/devices"), &text("/proc/misc"), gpu_drivers)
    }

    fn parse(devices: &[u8], misc: &[u8], gpu_drivers: &[String]) -> Self {
        let is_gpu = |name: &str| GPUS.contains(&name) || gpu_drivers.iter().any(|known| known == name);
        let kind_of = |names: &[(&str, ActKind)], name: &str| {
            let known = names.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
            known.or_else(|| is_gpu(name).then_some(ActKind::GpuShared))
        };
        let mut found: BTreeMap<Dev, ActKind> = MEMORY.map(|dev| (dev, ActKind::RawMemory)).into();
        let characters = String::from_utf8_lossy(devices).into_owned();
        // Block devices come after the empty line.
        for (major, name) in characters.lines().take_while(|line| !line.is_empty()).filter_map(numbered) {
            if let Some(kind) = kind_of(&MAJORS, name)
                && major < 1 << 12
            {
                // Several drivers can share a major (`nvidia`, `nvidiactl`).
                found.entry(Dev::new(major, ANY_MINOR)).or_insert(kind);
            }
        }
        for (minor, name) in String::from_utf8_lossy(misc).lines().filter_map(numbered) {
            if let Some(kind) = kind_of(&MISC, name) {
                found.insert(Dev::new(MISC_MAJOR, minor), kind);
            }
        }
        Self(found)
    }

    /// Their numbers; a minor number of all ones stands for every one of its major.
    pub fn devices(&self) -> impl Iterator<Item = Dev> {
        self.0.keys().copied()
    }

    /// What it is to have `dev` open.
    #[must_use]
    pub fn kind(&self, dev: Dev) -> Option<ActKind> {
        self.0.get(&dev).or_else(|| self.0.get(&Dev::new(dev.major(), ANY_MINOR))).copied()
    }
}

/// `231 infiniband_verbs`.
fn numbered(line: &str) -> Option<(u32, &str)> {
    let (number, name) = line.trim().split_once(' ')?;
    Some((number.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISCELLANEOUS: &[u8] = b"200 tun\n238 vhost-net\n196 vfio\n 61 network_latency\n 55 kfd\n";
    const DEVICES: &str = "Character devices:\n  1 mem\n 10 misc\n195 nvidia\n195 nvidiactl\n203 cpu/cpuid\n231 infiniband_verbs\n510 nvidia-fs\n\nBlock devices:\n  7 loop\n259 vfio\n";

    #[test]
    fn channels_are_known_by_their_drivers_names() {
        let channels = Channels::parse(DEVICES.as_bytes(), MISCELLANEOUS, &["cpu/cpuid".to_owned()]);
        let kind = |major, minor| channels.kind(Dev::new(major, minor));
        assert_eq!(kind(231, 192), Some(ActKind::Rdma));
        assert_eq!(kind(510, 0), Some(ActKind::GpuDirect));
        assert_eq!(kind(10, 200), Some(ActKind::Tunnel));
        assert_eq!(kind(10, 238), Some(ActKind::Tunnel));
        assert_eq!(kind(10, 196), Some(ActKind::Vfio));
        assert_eq!(kind(1, 1), Some(ActKind::RawMemory));
        assert_eq!(kind(1, 3), None, "/dev/null");
        assert_eq!(kind(259, 0), None, "a block device");
        assert_eq!(kind(10, 61), None);
        assert_eq!(kind(195, 0), Some(ActKind::GpuShared));
        assert_eq!(kind(195, 255), Some(ActKind::GpuShared), "/dev/nvidiactl");
        assert_eq!(kind(10, 55), Some(ActKind::GpuShared));
        assert_eq!(kind(203, 1), Some(ActKind::GpuShared), "by the configuration");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Channels::parse(&bytes, &bytes, &[]);
        }
    }
}
