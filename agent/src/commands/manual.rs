//! Manual pages and shell completions, written from the definition of the command line: what a package ships.
//!
//! Hidden, and used by `cargo xtask dist` alone. It must not know any command by name.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

use super::{Cli, INTERNAL, OK};

/// Section of the manual: administration.
const SECTION: &str = "8";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/*.8` and `completions/*` below `dir`.
pub(super) fn manual(dir: &Path) -> u8 {
    match write(dir) {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("error: cannot write the manual below {}: {error}", dir.display());
            INTERNAL
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    let (pages, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command();
    for shell in SHELLS {
        generate_to(shell, &mut command, "weighbridge", &completions)?;
    }
    // Gives each command the name that it is called by, such as `weighbridge rules lint`.
    command.build();
    page(&command, &pages)
}

/// The page of a command, and those of the commands below it.
fn page(command: &Command, pages: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    Man::new(command.clone())
        .section(SECTION)
        .title(name.to_uppercase())
        .manual("Weighbridge")
        .render(&mut text)?;
    fs::write(pages.join(format!("{name}.{SECTION}")), text)?;
    // What clap adds to explain the others explains itself.
    let mut shown =
        command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    shown.try_for_each(|below| page(below, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_and_hidden_ones_have_none() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let pages = dir.path().join("man");
        for shown in ["weighbridge", "weighbridge-run", "weighbridge-rules-lint", "weighbridge-log-verify"] {
            let text = fs::read_to_string(pages.join(format!("{shown}.8"))).unwrap();
            assert!(text.lines().any(|line| line.starts_with(".TH ")), "{shown}");
        }
        for hidden in ["weighbridge-canary", "weighbridge-manual", "weighbridge-help"] {
            assert!(!pages.join(format!("{hidden}.8")).exists(), "{hidden}");
        }
        let completions: Vec<_> = fs::read_dir(dir.path().join("completions")).unwrap().collect();
        assert_eq!(completions.len(), SHELLS.len());
    }
}
