//! Which files the agent depends on, so that whoever changes them is told of. It must not know how that is noticed.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, HttpTarget, SinkConfig},
    host::store,
    sinks, status,
};

/// A file or directory that the agent depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnFile {
    pub(super) path: PathBuf,
    /// The agent writes into it: times and another size are its own doing, another file in its place is not.
    pub(super) grows: bool,
}

/// Where systemd looks for units, the first that has one wins (systemd.unit(5)).
const UNITS: [&str; 12] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];
/// What is said there holds for every unit, and with it the environment of each.
const MANAGER: &str = "system.conf";
/// Where it is looked for, as it is and with drop-ins (systemd-system.conf(5)).
const MANAGER_IN: [&str; 4] = ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];
/// Libraries that are loaded into every program before its own.
const PRELOADED: &str = "/etc/ld.so.preload";
/// By what the names of other hosts are found first.
const NAMES: [&str; 2] = ["/etc/hosts", "/etc/nsswitch.conf"];

/// What the agent depends on: its program, its configuration, its rules with the directories that they come from, its logs, what
/// it believes of other hosts, and how it is started.
pub(super) fn own_files(config: &Config) -> Vec<OwnFile> {
    let mut paths = vec![config.file.clone()];
    paths.extend(std::env::current_exe());
    for path in &config.rules {
        paths.push(path.clone());
        paths.extend(within(path, &["yaml", "yml"]));
    }
    paths.extend(sinks::watched(&config.sinks));
    paths.push(PRELOADED.into());
    if config.sinks.iter().any(is_found_by_name) {
        paths.extend(NAMES.map(PathBuf::from));
    }
    if let Ok(cgroup) = fs::read_to_string("/proc/self/cgroup") {
        let unit: Vec<PathBuf> =
            UNITS.iter().flat_map(|folder| unit_files(Path::new(folder), &cgroup)).collect();
        if !unit.is_empty() {
            paths.extend(MANAGER_IN.iter().flat_map(|folder| manager_files(Path::new(folder))));
        }
        paths.extend(unit);
    }
    // What is not there now is watched for coming.
    let real = |path: PathBuf| path.canonicalize().unwrap_or(path);
    let mut files: Vec<OwnFile> =
        paths.into_iter().map(|path| OwnFile { path: real(path), grows: false }).collect();
    let logs = config.sinks.iter().filter_map(|sink| match sink {
        SinkConfig::File { path, .. } => Some(OwnFile { path: real(path.value.clone()), grows: true }),
        _ => None,
    });
    files.extend(logs);
    files
}

/// Whether a sink is on a host that has to be found by its name.
fn is_found_by_name(sink: &SinkConfig) -> bool {
    let by_name = |target: &HttpTarget| {
        target.url.host().is_some_and(|host| {
            host != "localhost" && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
        })
    };
    match sink {
        SinkConfig::Alertmanager { instances, .. } => instances.iter().any(|one| by_name(&one.value)),
        SinkConfig::Webhook { target, .. } => by_name(&target.value),
        SinkConfig::File { .. } | SinkConfig::Journald { .. } => false,
    }
}

/// What it keeps, once all of that is there. The registry and the key of the seal are not among them: the agent itself puts new
/// files in their place, all the time.
pub(super) fn state_files(state_dir: &Path) -> Vec<OwnFile> {
    let spools = within(&state_dir.join(sinks::SPOOLS), &["redb"]);
    let files = spools.into_iter().chain([state_dir.join(store::FILE)]).filter(|path| path.is_file());
    // Whoever puts another socket in its place answers for the agent.
    let socket = Some(state_dir.join(status::SOCKET)).filter(|path| path.exists());
    files.chain(socket).map(|path| OwnFile { path, grows: true }).collect()
}

/// The files in a folder with one of these endings.
fn within(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ends = |path: &PathBuf| path.extension().is_some_and(|end| endings.iter().any(|known| end == *known));
    entries.filter(ends).collect()
}

fn manager_files(folder: &Path) -> Vec<PathBuf> {
    let drop_ins = folder.join(format!("{MANAGER}.d"));
    let mut files = within(&drop_ins, &["conf"]);
    files.extend([folder.join(MANAGER), drop_ins]);
    files
}

/// The unit that this process is of, by its cgroup, with its drop-ins, as they are or could be in one of systemd's folders.
fn unit_files(folder: &Path, cgroup: &str) -> Vec<PathBuf> {
    let unit = cgroup.lines().find_map(|line| {
        let name = line.rsplit('/').find(|part| part.ends_with(".service"))?;
        // Of an instance the template counts too; ours is none.
        (!name.contains('@')).then_some(name)
    });
    let Some(unit) = unit else { return Vec::new() };
    // Its own, and those of every service.
    let drop_ins = [format!("{unit}.d"), "service.d".to_owned()].map(|name| folder.join(name));
    let mut files: Vec<PathBuf> = drop_ins.iter().flat_map(|folder| within(folder, &["conf"])).collect();
    files.push(folder.join(unit));
    files.extend(drop_ins);
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Placed, TlsConfig};

    #[test]
    fn only_a_name_has_to_be_found() {
        let webhook = |url: &'static str| SinkConfig::Webhook {
            target: Placed {
                value: HttpTarget {
                    url: url.parse().unwrap(),
                    bearer_token: None,
                    tls: TlsConfig::default(),
                },
                line: 1,
                column: 1,
            },
            secret: None,
        };
        let asked =
            ["http://127.0.0.1:9093/", "http://[::1]:9093/", "http://localhost/", "https://soc.example/"];
        assert_eq!(asked.map(|url| is_found_by_name(&webhook(url))), [false, false, false, true]);
    }

    #[test]
    fn a_unit_is_its_file_and_what_is_dropped_in() {
        let folder = tempfile::tempdir().unwrap();
        let drop_ins = folder.path().join("weighbridge.service.d");
        fs::create_dir(&drop_ins).unwrap();
        fs::write(drop_ins.join("10-network.conf"), "").unwrap();
        fs::write(drop_ins.join("README"), "").unwrap();
        let found = |cgroup: &str| {
            let mut found: Vec<String> = unit_files(folder.path(), cgroup)
                .iter()
                .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
                .collect();
            found.sort();
            found
        };
        // What can be dropped into every service is looked after before anybody does.
        let all = [
            "service.d",
            "weighbridge.service",
            "weighbridge.service.d",
            "weighbridge.service.d/10-network.conf",
        ];
        assert_eq!(found("0::/system.slice/weighbridge.service\n"), all);
        assert_eq!(found("12:pids:/\n0::/system.slice/weighbridge.service/sub\n"), all);
        for other in
            ["0::/user.slice/session-1.scope\n", "0::/\n", "", "0::/system.slice/getty@tty1.service\n"]
        {
            assert_eq!(found(other), Vec::<String>::new(), "{other}");
        }
    }

    #[test]
    fn what_the_agent_keeps_is_what_is_there() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(state_files(state.path()), []);
        fs::create_dir(state.path().join(sinks::SPOOLS)).unwrap();
        for file in ["spool/alertmanager-0.redb", "spool/alertmanager-0.damaged", "state.redb", "chain.key"] {
            fs::write(state.path().join(file), "").unwrap();
        }
        let found: Vec<PathBuf> = state_files(state.path()).into_iter().map(|file| file.path).collect();
        assert_eq!(found, ["spool/alertmanager-0.redb", "state.redb"].map(|file| state.path().join(file)));
    }
}
