//! `cargo xtask dist`: what a release consists of: a Debian package, and the list of what the binary is made of.
//!
//! What goes where in the package is `deb.rs`; what the binary is made of is `sbom.rs`. The same tree gives the same bytes: times
//! are those of the last commit, names and numbers are sorted.

mod deb;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::{setup, shell};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the package and the list go; default: dist/ in cargo's target directory
    #[arg(long)]
    out: Option<PathBuf>,
    /// Take this binary as it is, and build none; it has no list of its dependencies inside it, unless you saw to that
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Builds the binary with the list of its dependencies inside it, the package, and the list beside it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let target = shell::target_dir()?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::ensure_for_dist()?;
            let mut command = shell::cargo();
            command.args(["auditable", "build", "--release", "--locked", "-p", "weighbridge"]);
            if !shell::aloud(command)? {
                return Ok(ExitCode::FAILURE);
            }
            target.join("release/weighbridge")
        }
    };
    let out = args.out.clone().unwrap_or_else(|| target.join("dist"));
    let made = make(&binary, &out)?;
    println!("{}\n{}", made.package.display(), made.list.display());
    Ok(ExitCode::SUCCESS)
}

/// What was made.
pub(crate) struct Made {
    pub(crate) package: PathBuf,
    pub(crate) list: PathBuf,
}

/// The package of this binary, and the list of what it is made of, in the directory `out`.
pub(crate) fn make(binary: &Path, out: &Path) -> Result<Made> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let made_at = last_commit()?;
    let list = out.join("weighbridge.cdx.json");
    let text = serde_json::to_string_pretty(&sbom::of_the_agent(made_at)?).context("the list is no JSON")?;
    fs::write(&list, text + "\n").with_context(|| format!("cannot write {}", list.display()))?;
    let package = deb::build(binary, &list, out, made_at)?;
    Ok(Made { package, list })
}

/// When the tree was last committed, seconds since 1970.
fn last_commit() -> Result<i64> {
    let output = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(shell::root())
        .output()
        .context("cannot start git, which knows when the tree was committed")?;
    ensure!(output.status.success(), "git log failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8_lossy(&output.stdout).trim().parse().context("git log names no time")
}
