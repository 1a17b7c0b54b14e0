//! `cargo xtask build`: the release binary, with the eBPF object inside it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{setup, shell};

/// Sets up, builds, and says where the binary is.
pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure()?;
    let Some(binary) = release()? else { return Ok(ExitCode::FAILURE) };
    println!("{}", binary.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the release binary and gives its path; `None` when the compiler refused it, which it has said itself.
pub(crate) fn release() -> Result<Option<PathBuf>> {
    binary("weighbridge", "weighbridge")
}

/// The same of the end-to-end runner, which is also the mover of bytes of the demo and the bench.
pub(crate) fn runner() -> Result<Option<PathBuf>> {
    binary("tests", "e2e")
}

fn binary(package: &str, name: &str) -> Result<Option<PathBuf>> {
    let mut command = shell::cargo();
    command.args(["build", "--release", "--locked", "-p", package]);
    if !shell::aloud(command)? {
        return Ok(None);
    }
    Ok(Some(shell::target_dir()?.join("release").join(name)))
}
