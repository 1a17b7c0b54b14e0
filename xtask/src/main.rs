//! The one door to every chore: `cargo xtask CHORE`. This file is the map; each chore has a file of its own.
//!
//! Exit codes are those of the product: 0 ok, 1 a test or a check failed, 2 usage, 4 this machine is not fit, 70 internal.

mod bench;
mod btf_fixture;
mod build;
mod check;
mod demo;
mod deny;
#[cfg(test)]
mod deploy_tests;
mod dist;
mod docs;
mod fuzz;
mod libtest;
mod record_fixtures;
mod score;
mod setup;
mod shell;
mod test;
mod toolchain;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code of a machine that lacks what a chore needs.
pub(crate) const UNFIT: u8 = 4;
/// Exit code of a chore that could not do its work.
const INTERNAL: u8 = 70;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Every chore of Weighbridge",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Find what the build and the tests need, and install what is missing
    #[command(after_help = "Example: cargo xtask setup --check")]
    Setup(setup::Args),
    /// Set up, then build the release binary
    #[command(after_help = "Example: cargo xtask build && sudo target/release/weighbridge doctor")]
    Build,
    /// Formatting, lints, rule tests, licences, and what no file may say
    #[command(after_help = "Example: cargo xtask check")]
    Check,
    /// Set up, build, then run every test that this kernel can run (live ones as root)
    #[command(after_help = "Example: sudo -E cargo xtask test sendfile")]
    Test(test::Args),
    /// Set up, build, then weigh thefts on scratch volumes and show the alerts as they arrive (as root)
    #[command(after_help = "Example: sudo -E cargo xtask demo")]
    Demo,
    /// Stage every technique and every look-alike that this machine can, and write docs/coverage.md (as root)
    #[command(after_help = "Example: sudo -E cargo xtask score")]
    Score(score::Args),
    /// What the agent costs: with and without it, in interleaved rounds (as root)
    #[command(
        after_help = "Example: sudo -E cargo xtask bench --quick -o json; without root: cargo xtask bench --engine"
    )]
    Bench(bench::Args),
    /// Fuzz everything that reads what others wrote, guided by coverage
    #[command(after_help = "Example: cargo xtask fuzz rules --seconds 600")]
    Fuzz(fuzz::Args),
    /// Reduce a kernel's BTF to a fixture: what the table of fields and the hooks look for, a few KB
    #[command(after_help = btf_fixture::EXAMPLE)]
    BtfFixture(btf_fixture::Args),
    /// Record the demo and the benign tests anew, for the tests that replay them (as root)
    #[command(after_help = "Example: sudo -E cargo xtask record-fixtures")]
    RecordFixtures(record_fixtures::Args),
    /// Build the Debian package, and the list of what the binary is made of (CycloneDX)
    #[command(after_help = "Example: cargo xtask dist --out packages")]
    Dist(dist::Args),
    /// Write the pages that the binary itself prints: the fields of rules, and their JSON Schema
    #[command(after_help = "Example: cargo xtask docs")]
    Docs,
    // A further chore is a file beside this one, a line here and a line in `main`.
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Setup(args) => setup::run(&args),
        Chore::Build => build::run(),
        Chore::Check => check::run(),
        Chore::Test(args) => test::run(&args),
        Chore::Demo => demo::run(),
        Chore::Score(args) => score::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Dist(args) => dist::run(&args),
        Chore::Docs => docs::run(),
        Chore::RecordFixtures(args) => record_fixtures::run(&args),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::BtfFixture(args) => btf_fixture::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(if error.is::<setup::Unfit>() { UNFIT } else { INTERNAL })
    })
}
