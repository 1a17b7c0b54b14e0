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
    let mut command = shell::cargo();
    command.args(["build", "--release", "--locked", "-p", "weighbridge"]);
    if !shell::aloud(command)? {
        return Ok(None);
    }
    Ok(Some(shell::target_dir()?.join("release/weighbridge")))
}
