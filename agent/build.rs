//! Builds the eBPF programs for the BPF target and leaves the object in `OUT_DIR`, where `sensor` embeds it.
//!
//! aya-build drives cargo; which cargo, and with which settings, is what `cargo xtask setup` found.

use std::{env, error::Error, path::PathBuf};

use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../xtask/src/toolchain.rs"]
#[expect(dead_code, reason = "xtask uses the rest")]
mod toolchain;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../xtask/src/toolchain.rs");
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.join("../agent-ebpf").canonicalize()?;
    let found = toolchain::find()?;
    let command = found.cargo("build", &root, &PathBuf::from(env::var("OUT_DIR")?));
    let compiler = PathBuf::from(command.get_program());
    // aya-build takes the cargo on PATH when it finds no rustup, so it is shown a PATH with the compiler that was found and
    // without rustup.
    let path = env::join_paths([compiler.parent().unwrap_or(&compiler), "/usr/bin".as_ref(), "/bin".as_ref()])?;
    // Of the outer build, and still asked for by aya-build.
    let target = ["CARGO_CFG_TARGET_ENDIAN", "CARGO_CFG_TARGET_ARCH"].map(|name| (name, env::var_os(name)));
    // SAFETY: a build script starts with one thread, and nothing has started another yet.
    unsafe {
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => env::set_var(name, value),
                None => env::remove_var(name),
            }
        }
        env::set_var("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", found.linker());
        env::set_var("CARGO_TERM_QUIET", "true");
        env::set_var("PATH", path);
        for (name, value) in target {
            env::set_var(name, value.unwrap_or_default());
        }
    }
    let root_dir = root.to_str().ok_or("the checkout's path is not UTF-8")?;
    build_ebpf(
        [Package { name: "agent-ebpf", root_dir, no_default_features: false, features: &["programs"] }],
        Toolchain::Nightly,
    )?;
    Ok(())
}
