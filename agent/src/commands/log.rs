//! `weighbridge log`: makes the key that seals the alert log, verifies a log, and shows one to a person.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use super::{INTERNAL, INVALID, OK, Output, UNFIT, print};
use crate::{
    alerts::{Head, SCHEMA, Seed, Verified, Verifier, printable, read_anchor},
    config::SinkConfig,
    host::state::StateDir,
    pipeline::keeper,
    sinks::file,
    yaml,
};

/// A line of an alert log is some kilobytes; a longer one is none.
pub(super) const LONGEST_LINE: u64 = 4 << 20;
const LARGEST_SEED: u64 = 4096;
/// It found something: the log does not hold.
const FOUND: u8 = 1;

#[derive(Debug, Subcommand)]
pub(super) enum Log {
    /// Check that nothing in an alert log was changed, removed, put in or moved; name the first bad line.
    #[command(
        after_help = "Give rotated files oldest first. Anchors are the annotation `chain` of alerts that were sent, and \
                            `alert_log_sequence` in Prometheus: without one, lines that were cut off at the end do not show.\n\n\
                            Exit codes: 0 the log holds, 1 it does not, 3 a seed that is none, 4 a file that cannot be read.\n\n\
                            Example: weighbridge log verify alerts.ndjson.1 alerts.ndjson --seed chain.seed --anchor 4812:5d0c…"
    )]
    Verify {
        /// The alert log, or its parts from the oldest to the newest.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The seed that `log init` exported: also finds what was changed by somebody who made all hashes anew.
        #[arg(long)]
        seed: Option<PathBuf>,
        /// SEQ:HASH of a line that is known to have been there; may be given more than once.
        #[arg(long, value_parser = read_anchor)]
        anchor: Vec<Head>,
    },
    /// Show an alert log to a person, one line for each.
    #[command(after_help = "Example: weighbridge log show /var/log/weighbridge/alerts.ndjson --last 20")]
    Show {
        /// The alert log.
        file: PathBuf,
        /// Only the newest so many.
        #[arg(long)]
        last: Option<usize>,
    },
    /// Print the JSON Schema of a line: what is used of OCSF's Detection Finding (class 2004, version 1.8.0).
    #[command(after_help = "Example: weighbridge log schema > ocsf-2004.schema.json")]
    Schema,
    /// Make the key that seals the lines from now on, and the seed that verifies them. The agent must not be running.
    #[command(after_help = "Move the seed off this host: whoever has it can forge the log.\n\n\
                            Example: weighbridge log init --config agent.yaml --export-seed chain.seed")]
    Init {
        /// The configuration file.
        #[arg(short, long, default_value = super::DEFAULT_CONFIG)]
        config: PathBuf,
        /// Where to write the seed; must not exist.
        #[arg(long)]
        export_seed: PathBuf,
    },
}

pub(super) fn log(command: &Log, output: Output) -> u8 {
    match command {
        Log::Verify { files, seed, anchor } => verify(files, seed.as_deref(), anchor, output),
        Log::Show { file, last } => show(file, *last, output),
        Log::Schema => {
            print(SCHEMA);
            OK
        }
        Log::Init { config, export_seed } => init(config, export_seed),
    }
}

fn verify(files: &[PathBuf], seed: Option<&Path>, anchors: &[Head], output: Output) -> u8 {
    let seed = match seed.map(read_seed).transpose() {
        Ok(seed) => seed,
        Err((code, message)) => return complain(code, &message),
    };
    let mut verifier = Verifier::new(seed.as_ref(), anchors.to_vec());
    for path in files {
        let mut first = None;
        let mut number = 0_usize;
        let read = lines(path, |text| {
            number += 1;
            if let Err(error) = verifier.line(text) {
                first = Some((number, error));
            }
            first.is_none()
        });
        if let Err(error) = read {
            return complain(UNFIT, &format!("cannot read {}: {error}", path.display()));
        }
        if let Some((number, error)) = first {
            return bad(Some((path, number)), &error.to_string(), output);
        }
    }
    match verifier.end() {
        Ok(verified) => good(&verified, seed.is_some(), output),
        Err(error) => bad(None, &error.to_string(), output),
    }
}

fn good(verified: &Verified, has_seed: bool, output: Output) -> u8 {
    let Verified { lines, head, sealed, anchored } = *verified;
    let hash = hex(&head.hash);
    if output == Output::Json {
        let report = json!({
            "schema": 1, "holds": true, "lines": lines, "sequence": head.seq, "hash": hash, "sealed": sealed,
            "anchored": anchored,
        });
        print(&format!("{report}\n"));
        return OK;
    }
    print(&format!("ok: {lines} lines hold, up to {}:{hash}\n", head.seq));
    if has_seed {
        print(&format!("{sealed} of them have a seal of this seed\n"));
    } else {
        print("without --seed a log whose hashes were all made anew would look the same\n");
    }
    if !anchored {
        print("without an --anchor for the last line, lines that were cut off at the end do not show\n");
    }
    OK
}

fn bad(place: Option<(&PathBuf, usize)>, why: &str, output: Output) -> u8 {
    if output == Output::Json {
        let (file, line) = place.unzip();
        print(&format!(
            "{}\n",
            json!({"schema": 1, "holds": false, "file": file, "line": line, "error": why})
        ));
        return FOUND;
    }
    match place {
        Some((file, line)) => print(&format!("{}:{line}: {why}\n", file.display())),
        None => print(&format!("{why}\n")),
    }
    FOUND
}

fn show(path: &Path, last: Option<usize>, output: Output) -> u8 {
    let mut kept = std::collections::VecDeque::new();
    let most = last.unwrap_or(usize::MAX);
    let read = lines(path, |text| {
        let shown = match output {
            Output::Json => text.to_owned(),
            Output::Text => brief(text),
        };
        if last.is_none() {
            print(&format!("{shown}\n"));
            return true;
        }
        kept.push_back(shown);
        if kept.len() > most {
            kept.pop_front();
        }
        true
    });
    if let Err(error) = read {
        return complain(UNFIT, &format!("cannot read {}: {error}", path.display()));
    }
    kept.iter().for_each(|line| print(&format!("{line}\n")));
    OK
}

/// One line for a person; nothing in it can move the cursor.
fn brief(text: &str) -> String {
    let Ok(line) = serde_json::from_str::<Value>(text) else {
        return format!("not an alert: {}", printable(&text.chars().take(120).collect::<String>()));
    };
    let ours = &line["unmapped"]["weighbridge"];
    let word = |value: &Value| printable(value.as_str().unwrap_or("?"));
    let time = line["time"].as_i64().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let what = match line["activity_id"].as_u64() {
        Some(1) => "opened",
        Some(2) => "update",
        Some(3) => "closed",
        _ => "?",
    };
    let shadow = if ours["mode"] == "shadow" { " shadow" } else { "" };
    format!(
        "{:>6}  {}  {:<8}  {}  {what}{shadow}  {}",
        ours["chain"]["seq"].as_u64().unwrap_or(0),
        time.map_or_else(|| "?".to_owned(), |time| time.to_string()),
        word(&ours["severity"]),
        word(&ours["rule"]),
        word(&line["message"]),
    )
}

fn init(config: &Path, export: &Path) -> u8 {
    let config = match crate::config::load(config) {
        Ok(config) => config,
        Err(faults) => return complain(INVALID, &yaml::render(&faults, false)),
    };
    match make(&config, export) {
        Ok(base) => {
            print(&format!(
                "the lines after number {base} will be sealed. Move {} off this host now: it verifies the log, and whoever \
                 has it can forge one\n",
                export.display()
            ));
            OK
        }
        Err(error) => complain(UNFIT, &format!("{error:#}")),
    }
}

fn make(config: &crate::config::Config, export: &Path) -> anyhow::Result<u64> {
    use anyhow::{Context as _, bail};
    let log = config.sinks.iter().find_map(|sink| match sink {
        SinkConfig::File { path } => Some(&path.value),
        _ => None,
    });
    let log = log.context("no sink of type file is configured, so there is no log to seal: add one")?;
    let state = StateDir::open(&config.state_dir)?;
    let _lock = state.lock()?;
    if state.read(keeper::FILE, LARGEST_SEED)?.is_some() {
        bail!(
            "{} exists, the log is sealed already: to start over, verify the log with its seed, then remove that file",
            state.path().join(keeper::FILE).display()
        );
    }
    let head = file::head(log)?;
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
    let seed = Seed::new(random, Timestamp::now().as_millisecond(), head.seq);
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(export)
        .with_context(|| format!("cannot make {}", export.display()))?;
    let text = zeroize::Zeroizing::new(serde_json::to_vec(&seed)?);
    out.write_all(&text)
        .and_then(|()| out.sync_all())
        .with_context(|| format!("cannot write {}", export.display()))?;
    keeper::store(&state, &seed.key())?;
    Ok(head.seq)
}

fn read_seed(path: &Path) -> Result<Seed, (u8, String)> {
    let failed = |error: io::Error| (UNFIT, format!("cannot read the seed {}: {error}", path.display()));
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(LARGEST_SEED).read_to_end(&mut bytes)).map_err(failed)?;
    let seed = serde_json::from_slice::<Seed>(&bytes).ok().filter(Seed::is_sound);
    seed.ok_or_else(|| {
        (
            INVALID,
            format!("{} is no seed: give the file that `weighbridge log init` exported", path.display()),
        )
    })
}

/// Gives each line without its line feed until `take` wants no more. A last line without one was cut, and so was one that
/// is no UTF-8 or too long: they are given as far as they go, and are no alerts.
pub(super) fn lines(path: &Path, mut take: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        // A mark that no JSON has makes half a line no line.
        let text = String::from_utf8_lossy(&line);
        let text = if is_whole { text } else { (text.into_owned() + "…").into() };
        if !take(&text) {
            return Ok(());
        }
    }
}

pub(super) fn complain(code: u8, message: &str) -> u8 {
    // When standard error is closed there is nobody to tell; the exit code still says it.
    let _ = writeln!(io::stderr().lock(), "weighbridge: {message}");
    debug_assert!(code != INTERNAL, "our own mistakes are reported elsewhere");
    code
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
