//! Tampering with the agent (WB-0010): what the kernel side saw others do, and what the agent finds out about itself.
//!
//! Self-checks say what and not who; where the kernel side saw who, that is said instead.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::Pipeline;
use crate::{
    config::{Config, SinkConfig},
    event::{Act, ActKind, Asset, AssetSet, BootNs, Event, HolderId, Loss, Process, Record, RecordKind},
    sensor::{Tampered, Tampering},
};

/// Not having run for so long is not the scheduler's doing.
const STOPPED_FOR: Duration = Duration::from_secs(5);
/// A wall clock that moved so far against the boot clock was set, and not slewed.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// Who did something is known for so long, when a self-check finds what.
const FRESH: u64 = 10_000_000_000;
/// Losses that make a number or an alert wrong. The others are said in every alert's `loss`, and come about by themselves on a
/// busy host.
const GRAVE: [&str; 10] = [
    "ring_full",
    "holders_full",
    "takes_full",
    "flows_full",
    "objects_full",
    "processes_full",
    "acts_full",
    "reached_full",
    "fact_malformed",
    "ledger_evicted",
];

/// What the agent knows of itself between two checks.
#[derive(Debug)]
pub(super) struct SelfCheck {
    /// The files that it depends on.
    files: HashMap<PathBuf, Option<Facts>>,
    /// Wall clock minus boot clock, ns.
    wall: i128,
    /// How long the agent slept beyond what it meant to.
    overslept: Duration,
    /// Of each log, how many bytes were missing when it was looked at last.
    shortened: HashMap<PathBuf, u64>,
    /// Pid of a debugger.
    tracer: u32,
    /// Code that is mapped and does not belong there.
    strangers: BTreeSet<String>,
    /// Who set a clock last, and when.
    clock: Option<(HolderId, BootNs)>,
    /// The agent's resource limits, as `/proc` shows them; `None` before the first look.
    limits: Option<String>,
    /// When the kernel side last saw who changed one.
    limited: Option<BootNs>,
    /// When the kernel side last saw somebody open a file for writing.
    opened: HashMap<PathBuf, BootNs>,
    lost: Loss,
}

/// A file or directory that the agent depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnFile {
    pub(super) path: PathBuf,
    /// A log that only grows: times and a larger size are its own doing.
    grows: bool,
}

/// What the agent depends on: its program, its configuration, its rules with the directories that they come from, its logs.
pub(super) fn own_files(config: &Config) -> Vec<OwnFile> {
    let mut paths = vec![config.file.clone()];
    paths.extend(std::env::current_exe());
    for path in &config.rules {
        paths.push(path.clone());
        let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.extend(entries.filter(|path| {
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
        }));
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

/// What a change of a file changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    grows: bool,
}

impl SelfCheck {
    pub(super) fn new(files: &[OwnFile]) -> Self {
        let facts = |file: &OwnFile| (file.path.clone(), facts(&file.path, file.grows));
        Self {
            files: files.iter().map(facts).collect(),
            wall: wall_offset(),
            overslept: Duration::ZERO,
            shortened: HashMap::new(),
            tracer: tracer(),
            clock: None,
            strangers: BTreeSet::new(),
            limits: None,
            limited: None,
            opened: HashMap::new(),
            lost: Loss::new(),
        }
    }

    /// What is not as it was. Call it about once a second.
    fn look(&mut self, now: BootNs) -> Vec<(HolderId, ActKind, Option<String>)> {
        let mut found = Vec::new();
        let away = std::mem::take(&mut self.overslept);
        if away >= STOPPED_FOR {
            let text = format!("the agent did not run for {} s", away.as_secs());
            found.push((HolderId::HOST, ActKind::Stopped, Some(text)));
        }
        let wall = wall_offset();
        let step = wall - std::mem::replace(&mut self.wall, wall);
        if step.unsigned_abs() >= CLOCK_STEP.as_nanos() {
            let actor =
                self.clock.filter(|(_, at)| now.0.saturating_sub(at.0) < FRESH).map(|(actor, _)| actor);
            let seconds = step as f64 / 1e9;
            found.push((
                actor.unwrap_or(HolderId::HOST),
                ActKind::ClockSet,
                Some(format!("the wall clock by {seconds:+.1} s")),
            ));
        }
        let tracer = tracer();
        if tracer != std::mem::replace(&mut self.tracer, tracer) && tracer != 0 {
            found.push((HolderId::HOST, ActKind::Signalled, Some(format!("traced by process {tracer}"))));
        }
        for library in
            strangers(&fs::read_to_string("/proc/self/maps").unwrap_or_default(), &own_executable())
        {
            if self.strangers.insert(library.clone()) {
                let text = format!("{library} is loaded into the agent");
                found.push((HolderId::HOST, ActKind::FilesChanged, Some(text)));
            }
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let is_told = self.limited.is_some_and(|at| now.0.saturating_sub(at.0) < FRESH);
        if self.limits.replace(limits.clone()).is_some_and(|before| before != limits) && !is_told {
            found.push((HolderId::HOST, ActKind::Signalled, Some("resource limits".to_owned())));
        }
        for (path, known) in &mut self.files {
            let now_is = facts(path, known.is_some_and(|known| known.grows));
            if !changed(*known, now_is) {
                *known = now_is;
                continue;
            }
            *known = now_is;
            // Who opened it for writing was told of already.
            let told = self.opened.get(path).is_some_and(|at| now.0.saturating_sub(at.0) < FRESH);
            if !told {
                found.push((HolderId::HOST, ActKind::FilesChanged, Some(path.display().to_string())));
            }
        }
        found
    }

    /// The agent slept for `took`, and had meant to for `meant`. Only sleep is held against the clock, of the kind that stands
    /// still in suspend: what it does itself may take its time.
    fn slept(&mut self, meant: Duration, took: Duration) {
        self.overslept = self.overslept.max(took.saturating_sub(meant));
    }

    /// Whether a log became shorter than what was written into it; once for each time.
    fn is_shortened(&mut self, path: &Path, length: u64) -> bool {
        let missing = length.saturating_sub(fs::metadata(path).map_or(0, |facts| facts.len()));
        missing > self.shortened.insert(path.to_owned(), missing).unwrap_or(0)
    }

    /// Stages of a loss that grew.
    fn lost(&mut self, loss: &Loss) -> Vec<&'static str> {
        let grown = loss.iter().filter(|(stage, count)| {
            GRAVE.contains(stage) && **count > self.lost.get(*stage).copied().unwrap_or(0)
        });
        let grown = grown.map(|(stage, _)| *stage).collect();
        self.lost.clone_from(loss);
        grown
    }
}

impl Pipeline {
    /// The agent slept for `took`, and had meant to for `meant`.
    pub(crate) fn slept(&mut self, meant: Duration, took: Duration) {
        self.own.slept(meant, took);
    }

    /// Somebody did something against the agent.
    pub(crate) fn tampered(&mut self, tampering: Tampering, now: BootNs) {
        let Tampering { actor, what, at } = tampering;
        let holder = actor.unwrap_or(HolderId::HOST);
        let (kind, target) = match what {
            Tampered::Signal(signal) => {
                let name = signal_name(signal);
                let kind = match name.as_str() {
                    "SIGTERM" | "SIGINT" | "SIGQUIT" if is_manager(holder.tgid) => ActKind::Ended,
                    "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => ActKind::Stopped,
                    _ => ActKind::Signalled,
                };
                (kind, name)
            }
            Tampered::Map(name) => (
                ActKind::MapsTouched,
                name.unwrap_or_else(|| "what is pinned, while no agent ran".to_owned()),
            ),
            Tampered::Link(name) => (ActKind::LinksTouched, name),
            Tampered::File(None) => (ActKind::FilesChanged, "while no agent ran".to_owned()),
            Tampered::File(Some(path)) => {
                let text = path.display().to_string();
                self.own.opened.insert(path, at);
                (ActKind::FilesChanged, text)
            }
            // Whether the wall clock jumped is seen in the next check.
            Tampered::Clock => {
                self.own.clock = Some((holder, at));
                return;
            }
            Tampered::Limit(resource) => {
                self.own.limited = Some(at);
                (ActKind::Signalled, format!("resource limit {resource}"))
            }
            Tampered::Unknown => (ActKind::Signalled, "something that found no room".to_owned()),
        };
        self.raise(holder, kind, Some(target), now);
    }

    /// Looks whether the agent and its files are what they were; call it about once a second.
    pub(crate) fn check_self(&mut self, now: BootNs) {
        for (holder, kind, target) in self.own.look(now) {
            self.raise(holder, kind, target, now);
        }
        // The length before the file: a line that is written in between makes the file longer, and never shorter.
        let lengths: Vec<(PathBuf, u64)> =
            self.sinks.files.iter().map(|file| (file.path().to_owned(), file.length())).collect();
        for (path, length) in lengths {
            if self.own.is_shortened(&path, length) {
                let target = Some(format!("{} is shorter than it was", path.display()));
                self.raise(HolderId::HOST, ActKind::FilesChanged, target, now);
            }
        }
        let loss = self.loss();
        for stage in self.own.lost(&loss) {
            self.raise(HolderId::HOST, ActKind::Lost, Some(stage.to_owned()), now);
        }
    }

    /// Raises an act against the agent itself, or something that it noticed about itself. The one door for all of them.
    pub(crate) fn raise(&mut self, holder: HolderId, kind: ActKind, target: Option<String>, now: BootNs) {
        let process = if holder == HolderId::HOST {
            Arc::new(Process::host())
        } else {
            self.identities.look_up(holder)
        };
        tracing::warn!(act = kind.as_str(), target = target.as_deref(), pid = holder.tgid, exe = %process.exe, "tampering");
        let act = Act { kind, victim: None, target };
        if let Some(recorder) = &mut self.recorder {
            if holder != HolderId::HOST {
                recorder.write(now, &Event::Process { holder, process: Arc::clone(&process) });
            }
            let assets = AssetSet::default();
            recorder.write(now, &Event::Act { holder, act: act.clone(), assets, at: now });
        }
        // Past the ledger: it moves no bytes, and a process that only did this is no holder that anything would ever end.
        let record = Record {
            kind: RecordKind::Act,
            at: now,
            asset: Arc::new(Asset::host()),
            holder,
            process,
            sink: None,
            bytes: 0,
            act: Some(act),
            victim: None,
            listed: false,
            lineage: Arc::new(Vec::new()),
        };
        self.moved = true;
        self.metrics.add_record(&record);
        self.engine.observe(&record, &mut self.matches);
        self.say(now);
    }
}

fn own_executable() -> String {
    fs::read_link("/proc/self/exe").map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned())
}

/// Files whose code is mapped, by `/proc/PID/maps`, other than the agent's own and the C library's.
///
/// By their names alone: a library under the name of the C library's is for the package manager to find. One that is loaded
/// before the agent (`LD_PRELOAD`, `/etc/ld.so.preload`) can also lie about this file.
fn strangers(maps: &str, own: &str) -> Vec<String> {
    const KNOWN: [&str; 10] = [
        "ld-",
        "libc.so",
        "libc-",
        "libm.so",
        "libm-",
        "libgcc_s",
        "libdl",
        "libpthread",
        "librt",
        "libresolv",
    ];
    let mapped = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_code = words.nth(1)?.contains('x');
        let path = line.find('/').and_then(|at| line.get(at..))?;
        is_code.then_some(path)
    });
    let mut found: Vec<String> = mapped
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            // Those of name services come when a host's name is looked up.
            *path != own && !name.starts_with("libnss_") && !KNOWN.iter().any(|known| name.starts_with(known))
        })
        .map(str::to_owned)
        .collect();
    found.dedup();
    found
}

/// Whether a process may end the agent in the orderly way: pid 1, and who started it.
fn is_manager(tgid: u32) -> bool {
    tgid == 1 || tgid == std::os::unix::process::parent_id()
}

fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match (signal as usize).checked_sub(1).and_then(|at| NAMES.get(at)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

fn facts(path: &Path, grows: bool) -> Option<Facts> {
    let facts = fs::symlink_metadata(path).ok()?;
    Some(Facts {
        dev: facts.dev(),
        ino: facts.ino(),
        size: facts.size(),
        mtime: (facts.mtime(), facts.mtime_nsec()),
        ctime: (facts.ctime(), facts.ctime_nsec()),
        grows,
    })
}

fn changed(before: Option<Facts>, now: Option<Facts>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) if before.grows => (before.dev, before.ino) != (now.dev, now.ino),
        _ => before != now,
    }
}

fn wall_offset() -> i128 {
    let ns = |clock| {
        let now = clock_gettime(clock);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    ns(ClockId::Realtime) - ns(ClockId::Boottime)
}

/// Who debugs the agent; 0 when nobody does or it cannot be read.
fn tracer() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    line.and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn check(files: &[PathBuf], logs: &[PathBuf]) -> SelfCheck {
        let file = |path: &PathBuf| OwnFile { path: path.clone(), grows: logs.contains(path) };
        SelfCheck::new(&files.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn a_library_that_is_not_the_c_librarys_is_a_stranger() {
        let maps = "\
55d0-55d1 r-xp 00001000 08:01 12 /usr/bin/weighbridge
55d1-55d2 rw-p 00001000 08:01 12 /usr/bin/weighbridge
7f00-7f01 r--p 00000000 08:01 13 /tmp/a hook.so
7f01-7f02 r-xp 00001000 08:01 13 /tmp/a hook.so
7f02-7f03 r-xp 00001000 08:01 13 /tmp/a hook.so
7f10-7f11 r-xp 00000000 08:01 14 /usr/lib/x86_64-linux-gnu/libc.so.6
7f11-7f12 r-xp 00000000 08:01 15 /usr/lib64/ld-linux-x86-64.so.2
7f12-7f13 r-xp 00000000 00:00 0
7f13-7f14 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(strangers(maps, "/usr/bin/weighbridge"), ["/tmp/a hook.so"]);
        assert_eq!(strangers("", ""), Vec::<String>::new());
    }

    fn kinds(check: &mut SelfCheck, now: u64) -> Vec<(ActKind, Option<String>)> {
        check.look(BootNs(now)).into_iter().map(|(_, kind, target)| (kind, target)).collect()
    }

    #[test]
    fn a_quiet_second_says_nothing() {
        let mut check = check(&["/proc/self/exe".into()], &[]);
        assert_eq!(kinds(&mut check, 1), []);
    }

    #[test]
    fn a_file_that_is_replaced_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weighbridge.yaml");
        fs::write(&path, "a").unwrap();
        let mut check = check(from_ref(&path), &[]);
        let new = folder.path().join("new");
        fs::write(&new, "b").unwrap();
        fs::rename(&new, &path).unwrap();
        let told = vec![(ActKind::FilesChanged, Some(path.display().to_string()))];
        assert_eq!(kinds(&mut check, 1), told);
        assert_eq!(kinds(&mut check, 2), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(kinds(&mut check, 3), told);
    }

    #[test]
    fn who_opened_it_was_told_of_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        fs::write(&path, "a").unwrap();
        let mut check = check(from_ref(&path), &[]);
        check.opened.insert(path.clone(), BootNs(1));
        fs::write(&path, "changed").unwrap();
        assert_eq!(kinds(&mut check, 2), []);
        fs::write(&path, "changed again").unwrap();
        assert_eq!(kinds(&mut check, 2 + 2 * FRESH).len(), 1);
    }

    #[test]
    fn a_log_may_grow_and_not_shrink() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.ndjson");
        fs::write(&path, "one\n").unwrap();
        let mut check = check(from_ref(&path), from_ref(&path));
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(kinds(&mut check, 1), []);
        assert!(!check.is_shortened(&path, 8));
        fs::write(&path, "two\n").unwrap();
        assert!(check.is_shortened(&path, 8));
        fs::write(&path, "two\nthree\n").unwrap();
        assert!(!check.is_shortened(&path, 14), "it is told once, whatever is written after it");
        fs::write(&path, "").unwrap();
        assert!(check.is_shortened(&path, 14), "and again when more is gone");
    }

    #[test]
    fn a_pause_and_a_step_of_the_clock_are_seen() {
        let mut check = check(&[], &[]);
        check.slept(Duration::from_secs(1), Duration::from_secs(8));
        check.wall -= 3_600_000_000_000;
        check.clock = Some((HolderId { tgid: 7, exec: 1, start: BootNs(5) }, BootNs(1)));
        let found = check.look(BootNs(2));
        assert_eq!(found[0].1, ActKind::Stopped);
        assert_eq!((found[1].0.tgid, found[1].1), (7, ActKind::ClockSet));
        assert_eq!(found[1].2.as_deref(), Some("the wall clock by +3600.0 s"));
    }

    #[test]
    fn only_grave_losses_are_tampering() {
        let mut check = check(&[], &[]);
        let loss = Loss::from([("path_cut", 5), ("flows_full", 9)]);
        assert_eq!(check.lost(&loss), ["flows_full"]);
        assert_eq!(check.lost(&loss), Vec::<&str>::new());
        assert_eq!(check.lost(&Loss::from([("flows_full", 10)])), ["flows_full"]);
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(
            (signal_name(9), signal_name(31), signal_name(34)),
            ("SIGKILL".into(), "SIGSYS".into(), "signal 34".into())
        );
        assert_eq!(signal_name(0), "signal 0");
    }
}
