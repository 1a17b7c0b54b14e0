//! What the agent finds out about itself, once a second: whether it ran, whether its clock, its memory and its limits are its own,
//! and what was lost. It says what, and names a process only where the kernel side saw one.

use std::{collections::BTreeSet, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::{files::Files, is_fresh, posture::Posture};
use crate::{
    event::{ActKind, BootNs, HolderId, Loss},
    host::itself,
    pipeline::own_files::OwnFile,
};

/// Not having run for so long is not the scheduler's doing.
const STOPPED_FOR: Duration = Duration::from_secs(5);
/// What it does itself may take its time, but no such time.
const BUSY_FOR: Duration = Duration::from_secs(15);
/// A wall clock that moved so far against the boot clock was set, and not slewed.
const CLOCK_STEP: Duration = Duration::from_secs(1);
/// Steps that did not sum up to that within so long are forgotten: small corrections of a clock come about by themselves.
const CLOCK_FORGIVES: u64 = 3_600_000_000_000;
/// Losses that make a number or an alert wrong. The others are said in every alert's `loss`, and come about by themselves on a
/// busy host.
const GRAVE: [&str; 11] = [
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
    "copies_unkept",
];

/// What the agent knows of itself between two checks.
#[derive(Debug)]
pub(in crate::pipeline) struct SelfCheck {
    pub(in crate::pipeline) files: Files,
    /// Those that somebody was seen to send.
    pub(super) signals: BTreeSet<String>,
    /// Wall clock minus boot clock, ns.
    wall: i128,
    /// Since when steps are summed up.
    summed_from: BootNs,
    /// How long the agent slept beyond what it meant to.
    overslept: Duration,
    /// How long it was at one thing.
    worked: Duration,
    /// Pid of a debugger.
    tracer: u32,
    /// Code that is mapped and does not belong there.
    strangers: BTreeSet<String>,
    /// Who set a clock last, and when.
    pub(super) clock: Option<(HolderId, BootNs)>,
    /// The agent's resource limits, as `/proc` shows them; `None` before the first look.
    limits: Option<String>,
    /// When the kernel side last saw who changed one.
    pub(super) limited: Option<BootNs>,
    posture: Posture,
    lost: Loss,
}

impl SelfCheck {
    pub(in crate::pipeline) fn new(files: &[OwnFile]) -> Self {
        Self {
            files: Files::new(files),
            signals: BTreeSet::new(),
            wall: wall_offset(),
            // The first look begins to.
            summed_from: BootNs(0),
            overslept: Duration::ZERO,
            worked: Duration::ZERO,
            // Who debugs it from the start is told of too.
            tracer: 0,
            clock: None,
            strangers: BTreeSet::new(),
            limits: None,
            limited: None,
            posture: Posture::new(),
            lost: Loss::new(),
        }
    }

    /// What is not as it was. Call it about once a second.
    pub(super) fn look(&mut self, now: BootNs) -> Vec<(HolderId, ActKind, Option<String>)> {
        let mut found = Vec::new();
        let away = std::mem::take(&mut self.overslept);
        if away >= STOPPED_FOR {
            let text = format!("the agent did not run for {} s", away.as_secs());
            found.push((HolderId::HOST, ActKind::Stopped, Some(text)));
        }
        let worked = std::mem::take(&mut self.worked);
        if worked >= BUSY_FOR {
            let text = format!(
                "the agent told of nothing for {} s, because something that it asked did not answer or it had too much to do",
                worked.as_secs()
            );
            found.push((HolderId::HOST, ActKind::Stopped, Some(text)));
        }
        let wall = wall_offset();
        // Against what was told last or an hour ago, so that many small steps are seen too: a clock that is slewed takes the other one with it.
        let step = wall - self.wall;
        if step.unsigned_abs() >= CLOCK_STEP.as_nanos() {
            (self.wall, self.summed_from) = (wall, now);
            let actor = self.clock.filter(|(_, at)| is_fresh(*at, now)).map(|(actor, _)| actor);
            let seconds = step as f64 / 1e9;
            found.push((
                actor.unwrap_or(HolderId::HOST),
                ActKind::ClockSet,
                Some(format!("the wall clock by {seconds:+.1} s")),
            ));
        } else if now.0.saturating_sub(self.summed_from.0) >= CLOCK_FORGIVES {
            (self.wall, self.summed_from) = (wall, now);
        }
        let tracer = tracer();
        if tracer != std::mem::replace(&mut self.tracer, tracer) && tracer != 0 {
            found.push((HolderId::HOST, ActKind::Signalled, Some(format!("traced by process {tracer}"))));
        }
        for library in strangers(&itself::text("maps"), &own_executable()) {
            if self.strangers.insert(library.clone()) {
                let text = format!("{library} is loaded into the agent");
                found.push((HolderId::HOST, ActKind::FilesChanged, Some(text)));
            }
        }
        let limits = itself::text("limits");
        let is_told = self.limited.is_some_and(|at| is_fresh(at, now));
        if self.limits.replace(limits.clone()).is_some_and(|before| before != limits) && !is_told {
            found.push((HolderId::HOST, ActKind::Signalled, Some("resource limits".to_owned())));
        }
        let changed = self.posture.changed().into_iter();
        found.extend(changed.map(|(kind, what)| (HolderId::HOST, kind, Some(what))));
        let changed = self.files.changed(now).into_iter();
        found.extend(changed.map(|what| (HolderId::HOST, ActKind::FilesChanged, Some(what))));
        found
    }

    /// The agent slept for `took`, and had meant to for `meant`. Only sleep is held against the clock, of the kind that stands
    /// still in suspend: what it does itself may take its time.
    pub(super) fn slept(&mut self, meant: Duration, took: Duration) {
        self.overslept = self.overslept.max(took.saturating_sub(meant));
    }

    /// The agent was at one thing for `took`, without a look at what is new.
    pub(super) fn worked(&mut self, took: Duration) {
        self.worked = self.worked.max(took);
    }

    /// Stages of a loss that grew.
    pub(super) fn lost(&mut self, loss: &Loss) -> Vec<&'static str> {
        let grown = loss.iter().filter(|(stage, count)| {
            GRAVE.contains(stage) && **count > self.lost.get(*stage).copied().unwrap_or(0)
        });
        let grown = grown.map(|(stage, _)| *stage).collect();
        self.lost.clone_from(loss);
        grown
    }
}

fn own_executable() -> String {
    itself::link("exe").map_or_else(String::new, |path| path.to_string_lossy().into_owned())
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

fn wall_offset() -> i128 {
    let ns = |clock| {
        let now = clock_gettime(clock);
        i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
    };
    ns(ClockId::Realtime) - ns(ClockId::Boottime)
}

/// Who debugs the agent; 0 when nobody does or it cannot be read.
fn tracer() -> u32 {
    let status = itself::text("status");
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    line.and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> SelfCheck {
        SelfCheck::new(&[])
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

    #[test]
    fn a_quiet_second_says_nothing() {
        assert_eq!(check().look(BootNs(1)), []);
    }

    #[test]
    fn a_pause_and_a_step_of_the_clock_are_seen() {
        let mut check = check();
        check.slept(Duration::from_secs(1), Duration::from_secs(8));
        check.wall -= 3_600_000_000_000;
        check.clock = Some((HolderId { tgid: 7, exec: 1, start: BootNs(5) }, BootNs(1)));
        let found = check.look(BootNs(2));
        assert_eq!(found[0].1, ActKind::Stopped);
        assert_eq!((found[1].0.tgid, found[1].1), (7, ActKind::ClockSet));
        assert_eq!(found[1].2.as_deref(), Some("the wall clock by +3600.0 s"));
    }

    #[test]
    fn small_steps_sum_up_within_an_hour_and_no_longer() {
        let (mut check, hour) = (check(), CLOCK_FORGIVES);
        let mut told = |at: u64| {
            check.wall -= 600_000_000;
            check.look(BootNs(at)).iter().filter(|(_, kind, _)| *kind == ActKind::ClockSet).count()
        };
        assert_eq!([told(hour), told(2 * hour), told(3 * hour)], [0; 3]);
        assert_eq!([told(3 * hour + 1), told(3 * hour + 2), told(3 * hour + 3)], [0, 1, 0]);
    }

    #[test]
    fn only_grave_losses_are_tampering() {
        let mut check = check();
        let loss = Loss::from([("path_cut", 5), ("flows_full", 9)]);
        assert_eq!(check.lost(&loss), ["flows_full"]);
        assert_eq!(check.lost(&loss), Vec::<&str>::new());
        assert_eq!(check.lost(&Loss::from([("flows_full", 10)])), ["flows_full"]);
    }
}
