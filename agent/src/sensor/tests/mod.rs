//! Offsets, prototypes and hooks against real kernels.
//!
//! The fixtures are kernels cut down by `cargo xtask btf-fixture`: Debian 11, 12 and 13, Debian unstable of November 2026,
//! and a small guest kernel with all of it built in.

mod made;

use std::fs;

use agent_ebpf::fields::{ABSENT, FIELDS, PROTOTYPES};

use super::{
    KERNEL_BTF,
    btf::Btf,
    direct, hooks, load,
    offsets::{self, OffsetError},
};

macro_rules! kernel {
    ($release:literal) => {
        ($release, include_bytes!(concat!("../testdata/btf/", $release, ".btf")))
    };
}

const KERNELS: [(&str, &[u8]); 5] = [
    kernel!("5.10.0-32-amd64"),
    kernel!("6.1.0-56-amd64"),
    kernel!("6.12.107+deb13-amd64"),
    kernel!("6.18.44-fc-v657"),
    kernel!("7.2.13+deb14-amd64"),
];

fn fixture(release: &str) -> Vec<u8> {
    let (_, bytes) = KERNELS.iter().find(|(name, _)| name.starts_with(release)).unwrap();
    bytes.to_vec()
}

#[test]
fn programs_read_directly_where_the_kernel_casts_to_void() {
    let reads =
        KERNELS.map(|(release, bytes)| (release, direct::function(&Btf::parse(bytes).unwrap()).is_some()));
    assert_eq!(
        reads,
        [
            ("5.10.0-32-amd64", false),
            ("6.1.0-56-amd64", false),
            // It has the function, for structs only.
            ("6.12.107+deb13-amd64", false),
            ("6.18.44-fc-v657", true),
            ("7.2.13+deb14-amd64", true),
        ]
    );
}

fn resolve(bytes: &[u8]) -> Result<Vec<(&'static str, u32)>, OffsetError> {
    offsets::resolve(&Btf::parse(bytes).unwrap())
}

fn offset(release: &str, global: &str) -> u32 {
    resolve(&fixture(release)).unwrap().into_iter().find(|(name, _)| *name == global).unwrap().1
}

#[test]
fn every_kernel_has_every_required_field() {
    for (release, bytes) in KERNELS {
        let offsets = resolve(bytes).unwrap();
        assert!(offsets.iter().map(|(global, _)| *global).eq(FIELDS.iter().map(|field| field.global)));
        let absent: Vec<&str> =
            offsets.into_iter().filter(|&(_, offset)| offset == ABSENT).map(|(global, _)| global).collect();
        // Debian builds erofs, vsock and overlayfs as modules, whose types are not among those of the kernel.
        let modules: &[&str] = match release {
            "6.18.44-fc-v657" => &[],
            _ => &[
                "EROFS_FILE",
                "VSOCK_CID",
                "VSOCK_PORT",
                "VSOCK_OWN_PORT",
                "OVL_FILE_REAL",
                "OVL_INODE_VFS",
                "OVL_INODE_FLAGS",
                "OVL_INODE_UPPER",
                "OVL_INODE_ENTRY",
                "OVL_ENTRY_COUNT",
                "OVL_ENTRY_STACK",
                "OVL_PATH_DENTRY",
                "OVL_FS_COUNT",
                "OVL_FS_ALL",
            ],
        };
        // io_uring keeps its task and its files otherwise since 6.13, and named its results otherwise before 5.19.
        const NEWER: &[&str] = &["URING_TCTX", "TCTX_TASK"];
        const NODES: &[&str] = &["RING_FILES", "RING_NODES", "NODE_FILE"];
        let uring: &[&[&str]] = match release {
            "5.10.0-32-amd64" => &[&["URING_USER_DATA", "URING_FD", "URING_RES"], NEWER, NODES],
            "6.1.0-56-amd64" => &[NEWER, &["RW_COUNT"], NODES],
            "6.12.107+deb13-amd64" => &[NEWER, NODES],
            _ => &[&["URING_TASK"], &["RING_OLD_FILES", "RING_OLD_TABLE"]],
        };
        assert_eq!(absent, [modules, &uring.concat()].concat(), "{release}");
    }
}

/// As `bpftool` and `pahole` tell them.
#[test]
fn offsets_are_those_of_the_kernel() {
    // struct file, then struct path.
    assert_eq!(offset("5.10", "FILE_DENTRY"), 16 + 8);
    assert_eq!(offset("6.1.", "FILE_DENTRY"), 16 + 8);
    assert_eq!(offset("6.12", "FILE_DENTRY"), 64 + 8);
    // In an anonymous union.
    assert_eq!(offset("6.18", "FILE_DENTRY"), 64 + 8);
    assert_eq!(offset("7.2", "FILE_DENTRY"), 64 + 8);
    assert_eq!(offset("6.18", "TASK_TGID"), 1268);
    assert_eq!(offset("6.18", "CRED_UID"), 8);
    assert_eq!(offset("6.18", "SOCK_V6_SADDR"), 72);
    assert_eq!(offset("6.18", "VSOCK_CID"), 816);
}

/// A fixture says of its kernel what the whole of its BTF says.
#[test]
fn the_running_kernel_resolves() {
    let Ok(bytes) = fs::read(KERNEL_BTF) else {
        crate::skipping::skipped(format_args!("needs {KERNEL_BTF}"));
        return;
    };
    let btf = Btf::parse(&bytes).unwrap();
    let offsets = offsets::resolve(&btf).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if let Some((_, fixture)) = KERNELS.iter().find(|(name, _)| *name == release.trim()) {
        assert_eq!(offsets, resolve(fixture).unwrap());
        let fixture = Btf::parse(fixture).unwrap();
        for (name, _) in PROTOTYPES {
            assert_eq!(btf.tracepoint(name), fixture.tracepoint(name));
        }
    }
}

#[test]
fn a_hook_attaches_only_where_its_prototype_fits() {
    let told = |release: &str, hook| {
        let bytes = fixture(release);
        match hooks::fits(&Btf::parse(&bytes).unwrap(), hook) {
            Ok(()) => "fits".to_owned(),
            Err(reason) => reason,
        }
    };
    let of_kernels =
        |hook| KERNELS.map(|(release, _)| format!("{release}: {}", told(release, hook))).join("\n");
    insta::assert_snapshot!(of_kernels("sock_send_length"), @r#"
    5.10.0-32-amd64: not on this kernel: it has no tracepoint sock_send_length
    6.1.0-56-amd64: not on this kernel: it has no tracepoint sock_send_length
    6.12.107+deb13-amd64: fits
    6.18.44-fc-v657: fits
    7.2.13+deb14-amd64: fits
    "#);
    insta::assert_snapshot!(of_kernels("io_uring_complete"), @r#"
    5.10.0-32-amd64: not on this kernel: its io_uring_complete is (void *, void *, u64, int, unsigned int), and (void *, struct io_ring_ctx *, void *, struct io_uring_cqe *) is needed
    6.1.0-56-amd64: not on this kernel: its io_uring_complete is (void *, void *, void *, u64, int, unsigned int, u64, u64), and (void *, struct io_ring_ctx *, void *, struct io_uring_cqe *) is needed
    6.12.107+deb13-amd64: not on this kernel: its io_uring_complete is (void *, void *, void *, u64, int, unsigned int, u64, u64), and (void *, struct io_ring_ctx *, void *, struct io_uring_cqe *) is needed
    6.18.44-fc-v657: fits
    7.2.13+deb14-amd64: fits
    "#);
    let fitting = |hook| {
        KERNELS.map(|(release, _)| (told(release, hook) == "fits").then_some(release)).into_iter().flatten()
    };
    // One of the two forms on every kernel since 5.19.
    assert!(fitting("io_uring_complete_by_value").eq(["6.1.0-56-amd64", "6.12.107+deb13-amd64"]));
    let newest = ["6.12.107+deb13-amd64", "6.18.44-fc-v657", "7.2.13+deb14-amd64"];
    assert!(fitting("io_uring_submit_req").eq(newest));
    assert!(fitting("io_uring_submit_sqe").eq(["6.1.0-56-amd64"]));
    assert!(fitting("sock_recv_length").eq(newest));
    assert!(fitting("inet_sock_set_state").eq(KERNELS.map(|(release, _)| release)));
    for hook in ["io_uring_file_get", "io_uring_cqe_overflow"] {
        assert!(fitting(hook).eq(["6.1.0-56-amd64"].into_iter().chain(newest)), "{hook}");
    }
}

#[test]
fn whether_overlayfs_wraps_its_file_is_known_where_it_is_a_module() {
    let wraps = |release: &str, module: Option<&[u8]>| {
        let bytes = fixture(release);
        let (name, _) = KERNELS.iter().find(|(name, _)| name.starts_with(release)).unwrap();
        load::overlay_wraps(&Btf::parse(&bytes).unwrap(), module, name)
    };
    let by_release = KERNELS.map(|(release, _)| wraps(release, None));
    assert_eq!(by_release, [false, false, false, true, true]);
    // The module knows better than the release, and the kernel better than both.
    assert!(wraps("6.12", Some(b"\0ovl_fs\0ovl_file\0")));
    assert!(!wraps("7.2", Some(b"\0ovl_fs\0ovl_file_operations\0")));
    assert!(wraps("6.18", Some(b"")));
    let bytes = fixture("6.12");
    let kernel = Btf::parse(&bytes).unwrap();
    let by_name =
        ["6.13", "6.9-rc1", "10.0.0", "5.19+", ""].map(|name| load::overlay_wraps(&kernel, None, name));
    assert_eq!(by_name, [true, false, true, false, true]);
}
