//! `weighbridge support-bundle`: one file for whoever is asked for help, with what the agent and this host say of themselves.
//!
//! Never weights, tokens or command lines; `redact` takes those out. What cannot be had is said in its place.

mod redact;
mod state;
mod tar;

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    net::TcpStream,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde_json::json;

use super::{OK, Output, UNFIT, doctor, print, status};
use crate::{
    config::{Config, SinkConfig},
    host,
};

/// Of one part.
const LARGEST: u64 = 4 << 20;
/// Of the end of a log.
const LINES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);
/// The folder in the archive.
const FOLDER: &str = "weighbridge-support";
const ABOUT: &str = "\
What `weighbridge support-bundle` wrote: what the agent and its host say of themselves.

versions.json  the agent's version, the kernel, the distribution
doctor.json    what this host can do
config.yaml    the configuration, without comments, and without what could be a secret in it
status.json    what the running agent sees
metrics.prom   its metrics
state.json     what lies in its state directory: names, sizes, modes; of more than 10,000 files how many are left out
alerts.ndjson  the last lines of the alert log; their hashes hold no more
journal.txt    the last lines that the unit logged

Hidden: command lines; users, paths and queries of addresses. Not hidden: names of hosts, users' numbers, programs, files and
peers. Read it before you pass it on.
";

/// What a part holds, or why there is none.
type Part = Result<String, String>;

pub(super) fn bundle(config: &Path, to: &Path, output: Output) -> u8 {
    let loaded = crate::config::load(config).map_err(|faults| {
        // Neither the lines at fault nor the rest: what cannot be understood can hold anything.
        format!("{} has {} faults, see `weighbridge check`", config.display(), faults.len())
    });
    let with = |part: fn(&Config) -> Part| loaded.as_ref().map_err(Clone::clone).and_then(part);
    let parts: Vec<(&str, Part)> = vec![
        ("README.txt", Ok(ABOUT.to_owned())),
        ("versions.json", Ok(versions())),
        ("doctor.json", doctor::report().ok_or_else(|| "the checks cannot be written".to_owned())),
        ("config.yaml", with(configuration)),
        ("status.json", loaded.as_ref().map_err(Clone::clone).and_then(|_| snapshot(config))),
        ("metrics.prom", with(metrics)),
        ("state.json", with(|config| state::listed(&config.state_dir))),
        ("alerts.ndjson", with(alerts)),
        ("journal.txt", journal()),
    ];
    match write(to, &parts) {
        Ok(()) => {
            print(&say(to, &parts, output));
            OK
        }
        Err(error) => {
            eprintln!("error: cannot write {}: {error}", to.display());
            UNFIT
        }
    }
}

/// A new file, for its owner alone; none is left when it cannot be written whole.
fn write(to: &Path, parts: &[(&str, Part)]) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(to)?;
    let at = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
    let written = (|| {
        let mut out = BufWriter::new(&file);
        for (name, part) in parts {
            let (name, text) = match part {
                Ok(text) => (format!("{FOLDER}/{name}"), text.clone()),
                Err(why) => (format!("{FOLDER}/{name}.missing"), format!("{}\n", redact::addresses(why))),
            };
            tar::append(&mut out, &name, text.as_bytes(), at)?;
        }
        tar::end(&mut out)?;
        drop(out);
        file.sync_all()
    })();
    if written.is_err() {
        // What is left would look like a bundle; that it cannot be removed changes nothing about the error.
        let _ = fs::remove_file(to);
    }
    written
}

fn say(to: &Path, parts: &[(&str, Part)], output: Output) -> String {
    if output == Output::Json {
        let parts: Vec<_> = parts
            .iter()
            .map(|(name, part)| match part {
                Ok(text) => json!({"name": name, "bytes": text.len()}),
                Err(why) => json!({"name": name, "missing": redact::addresses(why)}),
            })
            .collect();
        return format!("{}\n", json!({"schema": 1, "file": to, "parts": parts}));
    }
    let mut text = String::new();
    for (name, part) in parts {
        // Writing to a string does not fail.
        let _ = match part {
            Ok(part) => writeln!(text, "{name:<14} {} bytes", part.len()),
            Err(why) => writeln!(text, "{name:<14} missing: {}", redact::addresses(why)),
        };
    }
    text + &format!("{} is written; read it before you pass it on\n", to.display())
}

fn versions() -> String {
    let facts = host::facts();
    let system = host::read_limited(Path::new("/etc/os-release"), 1 << 16).unwrap_or_default();
    let system = String::from_utf8_lossy(&system);
    let name = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let report = json!({
        "schema": 1,
        "weighbridge": env!("CARGO_PKG_VERSION"),
        "kernel": facts.kernel,
        "system": name.map(|name| name.trim_matches('"')),
        "made_at": Timestamp::now().to_string(),
    });
    format!("{report}\n")
}

fn configuration(config: &Config) -> Part {
    let bytes = host::read_limited(&config.file, LARGEST).map_err(|error| error.to_string())?;
    Ok(redact::config(&String::from_utf8_lossy(&bytes)))
}

fn snapshot(config: &Path) -> Part {
    let snapshot = status::ask(config).map_err(|(_, why)| why)?;
    let text = serde_json::to_string(&snapshot).map_err(|error| error.to_string())?;
    redact::json(&text).ok_or_else(|| "the agent's answer is no JSON".to_owned())
}

fn metrics(config: &Config) -> Part {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&config.listen, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", config.listen)?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| format!("{} cannot be asked: {error}", config.listen))?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            let cut = if answer.len() as u64 >= LARGEST { "\n# the rest is left out\n" } else { "" };
            Ok(redact::addresses(body) + cut)
        }
        _ => Err(format!("{} answers something else than metrics", config.listen)),
    }
}

fn alerts(config: &Config) -> Part {
    let path = config.sinks.iter().find_map(|sink| match sink {
        SinkConfig::File { path } => Some(&path.value),
        _ => None,
    });
    let path = path.ok_or_else(|| "the configuration has no sink of type file".to_owned())?;
    let read = || -> io::Result<Vec<u8>> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LARGEST)))?;
        read_some(file)
    };
    let bytes = read().map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    // The first may be half a line, which is no JSON.
    let lines: Vec<String> = text.lines().filter_map(redact::json).collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("{line}\n")).collect())
}

fn read_some(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the unit logged, by systemd's own reader.
fn journal() -> Part {
    const READER: &str = "/usr/bin/journalctl";
    let lines = format!("--lines={LINES}");
    let mut command = Command::new(READER);
    command.args(["--unit=weighbridge.service", "--no-pager", "--output=short-iso", &lines]);
    let ran = command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = ran.map_err(|error| format!("{READER}: {error}"))?;
    let mut bytes = Vec::new();
    let read = child.stdout.take().map(|out| out.take(LARGEST).read_to_end(&mut bytes)).transpose();
    // It may still want to write what is not read.
    let _ = child.kill();
    let _ = child.wait();
    read.map_err(|error| format!("{READER}: {error}"))?;
    Ok(redact::log(&String::from_utf8_lossy(&bytes)))
}
