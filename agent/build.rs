//! Builds the eBPF programs and leaves the object in `OUT_DIR`, where `sensor` embeds it.
//!
//! Which compiler and which flags is the business of `toolchain.rs`, which xtask's `setup` and `check` share.

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let directory =
        |name| env::var_os(name).map(PathBuf::from).with_context(|| format!("cargo has not set {name}"));
    let out = directory("OUT_DIR")?;
    let programs = directory("CARGO_MANIFEST_DIR")?.join("../agent-ebpf");
    for input in ["../agent-ebpf", "../Cargo.lock", "../xtask/src/toolchain.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    for input in ["PATH", "CARGO_HOME", "RUSTUP_HOME"] {
        println!("cargo::rerun-if-env-changed={input}");
    }
    // Beside the profiles (target/PROFILE/build/weighbridge-HASH/out), so that all of them share one build of core.
    let target = out.ancestors().nth(4).context("OUT_DIR is not inside a target directory")?.join("ebpf");
    let mut cargo = toolchain::find()?.cargo("build", &programs, &target);
    let status = cargo.status().context("cannot start the cargo that builds eBPF")?;
    ensure!(status.success(), "the eBPF programs do not build: the lines above say why");
    let object = target.join(toolchain::TARGET).join("release").join(toolchain::PROGRAMS);
    fs::copy(&object, out.join(toolchain::PROGRAMS))
        .with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}
