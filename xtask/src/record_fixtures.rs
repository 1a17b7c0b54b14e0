//! `cargo xtask record-fixtures`: records the demo's thefts and every benign test on this host, with names hidden, for the
//! test that replays them (`agent/src/commands/fixture_tests.rs`). What they are put through is not its business.

use std::{fs, path::Path, process::Command, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{UNFIT, build, demo, setup, shell};

/// Below the workspace: `demo.wbrec`, and one recording for each test of the benign groups in `benign/`.
const FOLDER: &str = "tests/replay";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the demo, which takes seconds; the benign tests take minutes
    #[arg(long)]
    demo: bool,
}

/// Runs the chore.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !shell::is_root() {
        eprintln!(
            "error: what is recorded happens on scratch volumes and is weighed by eBPF programs: run it as root"
        );
        return Ok(ExitCode::from(UNFIT));
    }
    setup::ensure_for_tests()?;
    let (Some(binary), Some(runner)) = (build::release()?, build::runner()?) else {
        return Ok(ExitCode::FAILURE);
    };
    let folder = shell::root().join(FOLDER);
    let (thefts, benign) = (folder.join("demo.wbrec"), folder.join("benign"));
    println!("The recordings in {FOLDER} are made anew.");
    let mut good = true;
    // Before the demo, which takes this process into a lab of its own.
    if !args.demo {
        forget(&benign)?;
        let mut tests = Command::new(&runner);
        tests.arg("--agent").arg(&binary).arg("--record").arg(&benign).arg("benign");
        good = shell::aloud(tests)?;
    }
    forget(&folder)?;
    good &= demo::play(&binary, runner, Some(&thefts))?;
    println!("\nLook at what changed: INSTA_UPDATE=always cargo test -p weighbridge --lib fixture_tests");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the folder, without recordings.
fn forget(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.context("cannot list the recordings")?.path();
        if path.extension().is_some_and(|suffix| suffix == "wbrec") {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
