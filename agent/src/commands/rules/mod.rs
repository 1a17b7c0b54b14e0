//! `weighbridge rules …`: everything that can be done with rules without running them.

mod diff;
mod lint;
mod sarif;
mod show;
mod suggest;
pub(super) mod table;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{DEFAULT_CONFIG, OK, Output, USAGE, fail, print, status};
use crate::{
    event::RecordKind,
    pipeline::{Failure, today},
    rules::{Rule, RuleSet, reference, suggest_id},
};

/// Where rules are read from.
#[derive(Args, Debug)]
pub(super) struct From {
    /// Files and directories of rules; without any, those that the configuration names.
    paths: Vec<PathBuf>,
    /// The configuration file, for when no paths are given.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// The same, for a command whose argument is a rule.
#[derive(Args, Debug)]
pub(super) struct RulesFrom {
    /// A file or directory of rules, any number of times; without any, those that the configuration names.
    #[arg(short, long = "rules", value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// The configuration file, for when no `--rules` are given.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say everything that is wrong with rules, each fault with its place and remedy. Exit code 3 when anything is wrong.
    #[command(
        after_help = "Example: weighbridge rules lint --strict /usr/share/weighbridge/rules rules.d/site.yaml"
    )]
    Lint {
        #[command(flatten)]
        from: From,
        /// End with exit code 1 when there are warnings.
        #[arg(long)]
        strict: bool,
        /// Print SARIF 2.1.0, as code hosts show it beside the lines of a change.
        #[arg(long)]
        sarif: bool,
    },
    /// Run the tests inside rules, exceptions and overrides. Exit code 1 when one fails.
    #[command(
        after_help = "Example: weighbridge rules test /usr/share/weighbridge/rules rules.d/site.yaml -o text"
    )]
    Test {
        #[command(flatten)]
        from: From,
    },
    /// List the rules that are in force, their lines, and the exceptions and overrides with the days that they have left.
    #[command(after_help = "Example: weighbridge rules list --config /etc/weighbridge/weighbridge.yaml")]
    List {
        #[command(flatten)]
        from: From,
        /// Ask the running agent of the configuration what each rule has cost it.
        #[arg(long)]
        live: bool,
    },
    /// Print a rule as it is in force, with its overrides in place.
    #[command(after_help = "Example: weighbridge rules show WB-0001 --rules /usr/share/weighbridge/rules")]
    Show {
        /// Id of the rule.
        id: String,
        #[command(flatten)]
        from: RulesFrom,
    },
    /// List every field that rules can speak of.
    #[command(after_help = "Example: weighbridge rules fields --on act -o text")]
    Fields {
        /// Only those of one event kind.
        #[arg(long, value_name = "KIND", value_parser = ["flow", "take", "act", "egress"])]
        on: Option<String>,
        /// Print the page docs/fields.md.
        #[arg(long)]
        markdown: bool,
    },
    /// Print the JSON Schema of a file of rules, for editors.
    #[command(after_help = "Example: weighbridge rules schema > rules.schema.json")]
    Schema,
    /// Say which techniques and measures are covered, by which rules, and how well those are tested.
    #[command(after_help = "Example: weighbridge rules coverage /usr/share/weighbridge/rules")]
    Coverage {
        #[command(flatten)]
        from: From,
    },
    /// Say what differs between two sets of rules: ids, values, exceptions. Exit code 1 when anything does.
    #[command(
        after_help = "Examples: weighbridge rules diff /usr/share/weighbridge/rules rules-of-the-next-release/ --with rules.d\n          \
                      weighbridge rules diff rules.d my-change/ --with /usr/share/weighbridge/rules"
    )]
    Diff {
        /// A file or directory of rules.
        before: PathBuf,
        /// The other one.
        after: PathBuf,
        /// A file or directory that belongs to both, any number of times: a site's files need the pack that they speak of.
        #[arg(short, long, value_name = "PATH")]
        with: Vec<PathBuf>,
    },
    /// Propose reader lists, controlled networks and egress budgets from recordings, each with its evidence; applies nothing. Exit
    /// code 1 when a recording is damaged.
    #[command(
        after_help = "Example: weighbridge rules suggest monday.wbrec tuesday.wbrec -o text > proposals.yaml"
    )]
    Suggest {
        /// Recordings of `weighbridge record`.
        #[arg(required = true)]
        recordings: Vec<PathBuf>,
    },
    /// Say in plain words when a rule fires, when it stays silent, and what to do then.
    #[command(after_help = "Example: weighbridge rules explain WB-0003")]
    Explain {
        /// Id of the rule.
        id: String,
        #[command(flatten)]
        from: RulesFrom,
    },
}

pub(super) fn run(command: &Command, output: Output, colour: bool) -> u8 {
    match command {
        Command::Lint { from, strict, sarif } => {
            lint::lint(load_paths(&from.paths, &from.config), *strict, *sarif, output)
        }
        Command::Test { from } => {
            with(&from.paths, &from.config, output, |set| lint::test(set, output, colour))
        }
        Command::List { from, live } => {
            let live = match live.then(|| status::ask(&from.config)).transpose() {
                Ok(live) => live,
                Err((code, why)) => {
                    eprintln!("error: {why}");
                    return code;
                }
            };
            with(&from.paths, &from.config, output, |set| show::list(set, live.as_ref(), output, colour))
        }
        Command::Coverage { from } => {
            with(&from.paths, &from.config, output, |set| show::coverage(set, output, colour))
        }
        Command::Show { id, from } => {
            with(&from.paths, &from.config, output, |set| find(set, id, |rule| show::show(rule, output)))
        }
        Command::Explain { id, from } => with(&from.paths, &from.config, output, |set| {
            find(set, id, |rule| show::explain(set, rule, output, colour))
        }),
        Command::Suggest { recordings } => suggest::suggest(recordings, output),
        Command::Diff { before, after, with } => diff::diff(before, after, with, output, colour),
        Command::Fields { on, markdown: true } if on.is_none() => {
            print(&reference::fields_markdown());
            OK
        }
        Command::Fields { on, .. } => {
            let kind = RecordKind::ALL.into_iter().find(|kind| Some(kind.as_str()) == on.as_deref());
            show::fields(kind, output, colour)
        }
        Command::Schema => {
            print(&format!("{:#}\n", reference::json_schema()));
            OK
        }
    }
}

/// Loads rules from paths, or from those of a configuration when there are none.
pub(super) fn load_paths(paths: &[PathBuf], config: &Path) -> Result<RuleSet, Failure> {
    let invalid = |faults| Failure::Invalid { file: config.to_owned(), faults };
    if !paths.is_empty() {
        return RuleSet::load(paths, today()).map_err(invalid);
    }
    let config = crate::config::load(config).map_err(invalid)?;
    RuleSet::load(&config.rules, today()).map_err(invalid)
}

fn with(paths: &[PathBuf], config: &Path, output: Output, then: impl FnOnce(&RuleSet) -> u8) -> u8 {
    match load_paths(paths, config) {
        Ok(set) => then(&set),
        Err(failure) => fail(&failure, output),
    }
}

fn find(set: &RuleSet, id: &str, then: impl FnOnce(&Rule) -> u8) -> u8 {
    if let Some(rule) = set.rules().iter().find(|rule| rule.facts.id == id) {
        return then(rule);
    }
    let known: Vec<&str> = set.rules().iter().map(|rule| rule.facts.id.as_str()).collect();
    eprintln!("error: no rule has the id `{}`: {}", id.escape_debug(), suggest_id(id, &known));
    USAGE
}
