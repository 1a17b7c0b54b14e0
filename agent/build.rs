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
    let programs = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let programs = without_debug_information(&programs)
        .with_context(|| format!("{} is no object of programs", object.display()))?;
    fs::write(out.join(toolchain::PROGRAMS), programs).context("cannot write the programs")
}

/// Types and lines are in the BTF, where the kernel reads them. What a debugger would read is four fifths of the object, and
/// every agent would carry it in memory.
fn without_debug_information(programs: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut object = object::build::elf::Builder::read(programs)?;
    for section in &mut object.sections {
        section.delete |=
            [&b".debug_"[..], b".rel.debug_"].iter().any(|debug| section.name.starts_with(debug));
    }
    object.delete_orphans();
    // bpf-linker keeps names of sections and of symbols in one table; the builder writes one for each.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut kept = Vec::new();
    object.write(&mut kept)?;
    Ok(kept)
}
