//! `cargo xtask docs`: writes the pages that the binary itself prints, so that none of them is written by hand. That they are as
//! it prints them is a test of the agent's; this only writes. (Of the schema of alert lines it is the other way round: the binary carries
//! the page.)

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::{build, setup, shell};

/// A page below the root of the workspace, and the words that make the binary print it.
const PAGES: [(&str, &[&str]); 2] = [
    ("docs/fields.md", &["rules", "fields", "--markdown"]),
    ("docs/rules.schema.json", &["rules", "schema"]),
];

/// Builds the binary, and says of each page whether it changed.
pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure()?;
    let Some(binary) = build::release()? else { return Ok(ExitCode::FAILURE) };
    for (page, words) in PAGES {
        let said = Command::new(&binary)
            .args(words)
            .output()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let shown = words.join(" ");
        ensure!(said.status.success(), "`{shown}` failed: {}", String::from_utf8_lossy(&said.stderr).trim());
        ensure!(!said.stdout.is_empty(), "`{shown}` printed nothing");
        let path = shell::root().join(page);
        let changed = fs::read(&path).ok().as_ref() != Some(&said.stdout);
        if changed {
            fs::write(&path, &said.stdout).with_context(|| format!("cannot write {page}"))?;
        }
        println!("{}  {page}", if changed { "written " } else { "the same" });
    }
    Ok(ExitCode::SUCCESS)
}
