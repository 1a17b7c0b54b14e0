//! What the kernel grants the agent, which root can take from it without a signal: its turn on the processors, its place in the queue of
//! what is killed for memory, its cgroup with that one's limits. It must not know who changed it; the kernel does not tell.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Of the agent's own cgroup.
const CGROUP_LIMITS: [&str; 7] =
    ["cgroup.freeze", "cpu.max", "cpu.weight", "cpuset.cpus", "memory.high", "memory.max", "pids.max"];
/// A file of these has a line or two.
const LARGEST: u64 = 64 << 10;

/// By what it is called: what was read at the last look.
#[derive(Debug)]
pub(super) struct Posture(BTreeMap<String, String>);

impl Posture {
    /// As it is now.
    pub(super) fn new() -> Self {
        Self(own())
    }

    /// What is not as it was at the last look.
    pub(super) fn changed(&mut self) -> Vec<String> {
        self.compare(own())
    }

    fn compare(&mut self, now: BTreeMap<String, String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.0, now.clone());
        // Of another cgroup the limits are other ones anyway.
        let moved = before.get(CGROUP) != now.get(CGROUP);
        let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
        names
            .filter(|name| before.get(*name) != now.get(*name))
            .filter(|name| !moved || name.as_str() == CGROUP || !CGROUP_LIMITS.contains(&name.as_str()))
            .map(|name| {
                let text = |values: &BTreeMap<String, String>| {
                    values.get(name).map_or_else(|| "nothing".to_owned(), Clone::clone)
                };
                format!("{name} of the agent was {} and is {}", text(&before), text(&now))
            })
            .collect()
    }
}

const CGROUP: &str = "the cgroup";

fn own() -> BTreeMap<String, String> {
    read(Path::new("/proc/self"), Path::new("/sys/fs/cgroup"))
}

fn read(process: &Path, cgroups: &Path) -> BTreeMap<String, String> {
    let text = |path: PathBuf| -> Option<String> {
        let bytes = crate::host::read_limited(&path, LARGEST).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let mut found = BTreeMap::new();
    let mut note = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            found.insert(name.to_owned(), value);
        }
    };
    for name in ["oom_score_adj", "timerslack_ns"] {
        note(name, text(process.join(name)));
    }
    let stat = text(process.join("stat"));
    let words: Vec<&str> = stat
        .as_deref()
        // The name of the program may hold anything.
        .and_then(|stat| stat.rsplit_once(") "))
        .map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
    // Fields 19, 40 and 41 of proc_pid_stat(5); the first one here is field 3.
    for (name, field) in [("nice", 19), ("rt_priority", 40), ("the scheduling policy", 41)] {
        note(name, words.get(field - 3).map(|word| (*word).to_owned()));
    }
    let status = text(process.join("status")).unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    note("the list of processors", allowed.map(|list| list.trim().to_owned()));
    let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    note(CGROUP, (!cgroup.is_empty()).then(|| cgroup.trim().replace('\n', ", ")));
    if let Some(path) = cgroup.lines().find_map(|line| line.strip_prefix("0::/")) {
        for name in CGROUP_LIMITS {
            note(name, text(cgroups.join(path).join(name)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(folder: &Path, nice: u32, cgroup: &str) -> BTreeMap<String, String> {
        let mut words = vec!["0".to_owned(); 50];
        words[19 - 3] = nice.to_string();
        fs::write(folder.join("stat"), format!("7 (a) b) {}", words.join(" "))).unwrap();
        fs::write(folder.join("cgroup"), cgroup).unwrap();
        fs::write(folder.join("oom_score_adj"), "-500\n").unwrap();
        fs::write(folder.join("status"), "Name:\tx\nCpus_allowed_list:\t0-1\n").unwrap();
        read(folder, folder)
    }

    #[test]
    fn what_is_taken_from_the_agent_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for unit in ["a", "b"] {
            fs::create_dir(folder.path().join(unit)).unwrap();
            fs::write(folder.path().join(unit).join("memory.max"), "max\n").unwrap();
        }
        let mut posture = Posture(process(folder.path(), 0, "0::/a\n"));
        assert_eq!(posture.compare(process(folder.path(), 0, "0::/a\n")), [""; 0]);
        assert_eq!(
            posture.compare(process(folder.path(), 19, "0::/a\n")),
            ["nice of the agent was 0 and is 19"]
        );
        fs::write(folder.path().join("a/memory.max"), "4096\n").unwrap();
        let found = posture.compare(process(folder.path(), 19, "0::/a\n"));
        assert_eq!(found, ["memory.max of the agent was max and is 4096"]);
        // Its new cgroup has other limits, which is not said beside.
        let found = posture.compare(process(folder.path(), 19, "0::/b\n"));
        assert_eq!(found, ["the cgroup of the agent was 0::/a and is 0::/b"]);
    }

    #[test]
    fn this_process_has_all_of_it() {
        let found = own();
        for name in ["oom_score_adj", "nice", "the scheduling policy", "the list of processors", CGROUP] {
            assert!(found.contains_key(name), "{name}: {found:?}");
        }
    }
}
