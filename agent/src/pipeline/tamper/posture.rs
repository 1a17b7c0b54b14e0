//! What the kernel grants the agent, which root can take from it without a signal: its turn on the processors, its place in the queue of
//! what is killed for memory, its cgroup with that one's limits. It must not know who changed it; the kernel does not tell.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{event::ActKind, host::patience::Patience};

/// Of the agent's own cgroup. Its list of processors is seen in the process.
const CGROUP_LIMITS: [&str; 6] =
    ["cgroup.freeze", "cpu.max", "cpu.weight", "memory.high", "memory.max", "pids.max"];
/// Those that are there only while a controller is on.
const CONTROLLED: [&str; 5] = ["cpu.max", "cpu.weight", "memory.high", "memory.max", "pids.max"];
const PROCESSORS: &str = "the list of processors";
/// Who manages processors for containers gives and takes them all day. It is told of when so small a part is left of the most that there
/// were, or one.
const PART: usize = 4;
/// A file of these has a line or two.
const LARGEST: u64 = 64 << 10;

/// By what it is called: what was read at the last look.
#[derive(Debug)]
pub(super) struct Posture {
    known: BTreeMap<String, String>,
    /// Processors that it had, at most.
    most: usize,
    /// The files lie where anybody can mount what never answers.
    patience: Patience<()>,
    /// They did not answer at the last look, and that was told of.
    hang: bool,
}

/// By all of them together.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

impl Posture {
    /// As it is now.
    pub(super) fn new() -> Self {
        let mut new = Self::of(BTreeMap::new());
        // What does not answer is told of at the first look, and compared from when it does.
        if let Some(known) = new.patience.ask((), own) {
            new.compare(known);
        }
        new
    }

    fn of(known: BTreeMap<String, String>) -> Self {
        Self { most: processors(&known), known, patience: Patience::new(ANSWERED_WITHIN), hang: false }
    }

    /// What is not as it was at the last look, or, once for each time, that it does not answer.
    pub(super) fn changed(&mut self) -> Vec<(ActKind, String)> {
        let Some(now) = self.patience.ask((), own) else {
            if std::mem::replace(&mut self.hang, true) {
                return Vec::new();
            }
            let text = "the files of the agent's cgroup do not answer: nothing is known of its limits";
            return vec![(ActKind::FilesChanged, text.to_owned())];
        };
        self.hang = false;
        self.compare(now).into_iter().map(|what| (ActKind::Signalled, what)).collect()
    }

    fn compare(&mut self, now: BTreeMap<String, String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.known, now.clone());
        let (had, has) = (processors(&before), processors(&now));
        self.most = self.most.max(has);
        let starves = has < had && (has <= 1 || has * PART <= self.most);
        // Of another cgroup the limits are other ones anyway.
        let moved = before.get(CGROUP) != now.get(CGROUP);
        // What comes or goes whole is a controller of cgroups that somebody beside it needs or needs no longer, but for what every
        // cgroup and process has.
        const HIDDEN: &String = &String::new();
        let both = before.iter().filter_map(|(name, was)| {
            let stays = || (!CONTROLLED.contains(&name.as_str())).then_some(HIDDEN);
            let is = now.get(name).or_else(stays)?;
            Some((name.as_str(), was, is))
        });
        both.filter(|(_, was, is)| was != is)
            .filter(|(name, ..)| !moved || !CGROUP_LIMITS.contains(name))
            .filter(|(name, ..)| *name != PROCESSORS || starves)
            .map(|(name, was, is)| {
                if is.is_empty() {
                    format!("{name} of the agent was {was} and cannot be read")
                } else {
                    format!("{name} of the agent was {was} and is {is}")
                }
            })
            .collect()
    }
}

/// How many a list of ranges names (`0-3,8`); 0 where there is none.
fn processors(of: &BTreeMap<String, String>) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(last.checked_sub(first)?.saturating_add(1))
    };
    of.get(PROCESSORS).map_or(0, |list| list.split(',').filter_map(count).fold(0, usize::saturating_add))
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
    note(PROCESSORS, allowed.map(|list| list.trim().to_owned()));
    let cgroup = text(process.join("cgroup")).unwrap_or_default();
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
    use std::fs;

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
        let mut posture = Posture::of(process(folder.path(), 0, "0::/a\n"));
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
    fn a_controller_that_comes_or_goes_is_no_change_of_its_limits() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let mut posture = Posture::of(process(folder.path(), 0, "0::/a\n"));
        let file = folder.path().join("a/cpu.max");
        fs::write(&file, "max 100000\n").unwrap();
        assert_eq!(posture.compare(process(folder.path(), 0, "0::/a\n")), [""; 0]);
        fs::write(&file, "1000 100000\n").unwrap();
        let found = posture.compare(process(folder.path(), 0, "0::/a\n"));
        assert_eq!(found, ["cpu.max of the agent was max 100000 and is 1000 100000"]);
        fs::remove_file(&file).unwrap();
        assert_eq!(posture.compare(process(folder.path(), 0, "0::/a\n")), [""; 0]);
    }

    #[test]
    fn processors_are_told_of_when_few_are_left() {
        let having = |list: &str| BTreeMap::from([(PROCESSORS.to_owned(), list.to_owned())]);
        let mut posture = Posture::of(having("0-31"));
        for (list, is_told) in [
            ("0-27,30-31", false),
            ("0-31", false),
            ("0-8", false),
            ("0-7", true),
            ("0-6", true),
            ("0-7", false),
            ("3", true),
            ("0-31", false),
        ] {
            assert_eq!(!posture.compare(having(list)).is_empty(), is_told, "{list}");
        }
        let mut two = Posture::of(having("0-1"));
        assert_eq!(two.compare(having("0")), ["the list of processors of the agent was 0-1 and is 0"]);
    }

    #[test]
    fn this_process_has_all_of_it() {
        let found = own();
        for name in ["oom_score_adj", "nice", "the scheduling policy", PROCESSORS, CGROUP] {
            assert!(found.contains_key(name), "{name}: {found:?}");
        }
    }
}
