//! Builds the eBPF programs for the BPF target and leaves the object in `OUT_DIR`, where `sensor` embeds it.
//!
//! With a rustup nightly that has rust-src, aya-build does it as it is. Where there is none, Debian's own cargo does, with
//! `RUSTC_BOOTSTRAP`: aya-build takes whatever cargo it finds when it finds no rustup, so it is shown a PATH without one.

use std::{env, error::Error, path::PathBuf};

use aya_build::{Package, Toolchain, build_ebpf};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.join("../agent-ebpf");
    let root = root.to_str().ok_or("the checkout's path is not UTF-8")?;
    let linker = find("bpf-linker").ok_or("bpf-linker is missing: run `cargo xtask setup`")?;
    // SAFETY: a build script starts with one thread, and nothing has started another yet.
    unsafe {
        env::set_var("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("PATH", "/usr/bin:/bin");
        for key in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTFLAGS", "RUSTC_WRAPPER"] {
            env::remove_var(key);
        }
    }
    build_ebpf(
        [Package { name: "agent-ebpf", root_dir: root, no_default_features: false, features: &["programs"] }],
        Toolchain::Nightly,
    )?;
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}
