//! What was done against the agent: telling the kernel side what is the agent's own, taking its rows, and checking that the
//! links are what they were.

use std::{
    collections, fs, io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_ebpf::{
    TICK_NS, acts,
    tamper::{
        TAMPER_BPF, TAMPER_CLOCK, TAMPER_FILE, TAMPER_LIMIT, TAMPER_REACH, TAMPER_SIGNAL, TAMPERED_BEYOND,
        TAMPERED_COUNT, TAMPERED_TOLD, TamperKey, TamperValue,
    },
};
use aya::maps::{HashMap, Map, MapData};

use super::{
    Sensor, SensorError,
    adopt::{MAPS, link_name},
    beyond::now,
    born,
    maps::{Hash, Raw, absent_is_fine, rows},
    pins::Pins,
    reading,
};
use crate::{
    event::{BootNs, HolderId},
    host::{itself, patience::Patience},
};

/// Rows of `TAMPERS` looked at; beyond half of its size old ones are removed.
const ROWS: usize = 1 << 13;
const KEPT: usize = 1 << 11;
/// A descriptor's page in `/proc/self/fdinfo` has a few hundred bytes.
const LARGEST_PAGE: usize = 16 << 10;

/// What was done, once or again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// `None`: it found no room to say who.
    pub actor: Option<HolderId>,
    pub what: Tampered,
    pub at: BootNs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tampered {
    /// The agent was sent this signal.
    Signal(u32),
    /// A map was opened, read or changed. Without a name: one that was pinned, while no agent ran.
    Map(Option<String>),
    /// A program or a link was opened or changed.
    Link(String),
    /// A file was opened for writing. Without a name: while no agent ran.
    File(Option<PathBuf>),
    /// A clock was set, to whatever.
    Clock,
    /// Limits of the agent were changed: the resource's number.
    Limit(u32),
    /// Its memory was reached into, or a descriptor of it taken: by which call.
    Reached(&'static str),
    Unknown,
}

/// A link that is not what it was when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedLink {
    pub name: String,
    /// What it was attached for; `None` when an earlier agent loaded its program.
    pub hook: Option<&'static str>,
}

/// By all pins together.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// What the sensor knows of itself.
#[derive(Debug)]
pub(super) struct Own {
    objects: collections::HashMap<u32, Object>,
    files: Vec<PathBuf>,
    counts: collections::HashMap<TamperKey, u64>,
    seen: u64,
    beyond: u64,
    /// When the numbers of objects and files were given out; before that they were those of an earlier agent.
    since: BootNs,
    /// Until when an earlier agent told of what was noted.
    told: BootNs,
    /// Names of what is pinned, as long as it is there.
    pinned: Vec<String>,
    /// They lie where anybody can mount what never answers, and did not answer at the last look.
    patience: Patience<()>,
    pins_hang: bool,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            objects: collections::HashMap::new(),
            files: Vec::new(),
            counts: collections::HashMap::new(),
            seen: 0,
            beyond: 0,
            since: BootNs(0),
            told: BootNs(0),
            pinned: Vec::new(),
            patience: Patience::new(ANSWERED_WITHIN),
            pins_hang: false,
        }
    }
}

#[derive(Debug)]
struct Object {
    kind: Kind,
    name: String,
    /// Of a link: the id of its program, and what the kernel said of it at the start.
    program: u32,
    page: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Map,
    Program,
    Link,
}

impl Sensor {
    /// From now on what others do to the agent's own BPF objects is noticed. Call it when all of them are there.
    ///
    /// # Errors
    ///
    /// When the agent's own descriptors cannot be listed.
    pub fn watch_self(&mut self) -> Result<(), SensorError> {
        self.wait_no_longer();
        self.own.since = now();
        self.own.told = BootNs(self.maps.tampered.get(&TAMPERED_TOLD, 0)?);
        // What an earlier agent had is gone, and its address may be another's.
        for key in self.maps.own_objects.keys().take(ROWS).collect::<Result<Vec<_>, _>>()? {
            absent_is_fine(self.maps.own_objects.remove(&key))?;
        }
        for (key, _) in rows(&self.maps.own_files, ROWS)? {
            absent_is_fine(self.maps.own_files.remove(&Raw(key)))?;
        }
        let unreadable =
            |error| SensorError::File { what: "cannot list", path: "/proc/self/fd".to_owned(), error };
        for entry in fs::read_dir("/proc/self/fd").map_err(unreadable)? {
            let Ok(entry) = entry else { continue };
            let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok())
            else {
                continue;
            };
            let Some(kind) = fs::read_link(entry.path()).ok().and_then(|target| kind_of(&target)) else {
                continue;
            };
            let Ok((name, program)) = object_name(descriptor, kind) else { continue };
            let page = if kind == Kind::Link { link_page(descriptor) } else { None };
            self.own.objects.insert(descriptor.cast_unsigned(), Object { kind, name, program, page });
        }
        if let Some((keep, _)) = &self.kept {
            let links = self.hooks.iter().filter(|report| report.hook.is_attached() && report.result.is_ok());
            self.own.pinned = MAPS.into_iter().map(str::to_owned).collect();
            self.own.pinned.extend(links.map(|report| link_name(report.hook.name)));
            self.own.pinned.retain(|name| keep.pins.has(name));
        }
        Ok(())
    }

    /// From now on who opens `path` for writing is noticed, whatever its name is then.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or the kernel does not report what was opened.
    pub fn watch_file(&mut self, path: &Path) -> Result<(), SensorError> {
        let identity = self.identify(path, rustix::fs::OFlags::empty())?;
        let number = self.own.files.iter().position(|known| known == path).unwrap_or_else(|| {
            self.own.files.push(path.to_owned());
            self.own.files.len() - 1
        });
        self.maps.own_files.insert(Raw(identity.key), u32::try_from(number).unwrap_or(u32::MAX), 0)?;
        Ok(())
    }

    /// What was done against the agent since the last time. Costs one system call when nothing was.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn tampered(&mut self) -> Result<Vec<Tampering>, SensorError> {
        let count = self.maps.tampered.get(&TAMPERED_COUNT, 0)?;
        if count == self.own.seen {
            return Ok(Vec::new());
        }
        self.own.seen = count;
        let mut found = Vec::new();
        let rows = rows(&self.maps.tampers, ROWS)?;
        let crowded = rows.len() > KEPT;
        for (key, Raw(value)) in rows {
            let at = BootNs(value.last);
            let known = self.own.counts.insert(key, value.count);
            // Of an earlier agent, which told of it; or our own, before the programs knew who we are.
            let is_old = known.is_none() && at <= self.own.told;
            if known != Some(value.count) && !is_old && !is_own(&key, self.born) {
                let what = if at < self.own.since && matches!(key.kind, TAMPER_BPF | TAMPER_FILE) {
                    if key.kind == TAMPER_BPF { Tampered::Map(None) } else { Tampered::File(None) }
                } else {
                    self.own.name(key.kind, key.number)
                };
                found.push(Tampering { actor: Some(reading::holder(&key.actor)), what, at });
            } else if crowded {
                // Told of before. If it comes back it counts from 1, which differs from nothing.
                self.own.counts.remove(&key);
                absent_is_fine(self.maps.tampers.remove(&Raw(key)))?;
            }
        }
        let beyond = self.maps.tampered.get(&TAMPERED_BEYOND, 0)?;
        if beyond != std::mem::replace(&mut self.own.beyond, beyond) {
            found.push(Tampering { actor: None, what: Tampered::Unknown, at: BootNs(0) });
        }
        found.sort_by_key(|tampering| tampering.at);
        if let Some(newest) = found.last() {
            self.own.told = self.own.told.max(newest.at);
            self.maps.tampered.set(TAMPERED_TOLD, self.own.told.0, 0)?;
        }
        Ok(found)
    }

    /// Pins that were removed since they were last looked for, in words: what they name goes when this agent ends. Or that they cannot be
    /// looked for, once for each time.
    pub fn removed_pins(&mut self) -> Vec<String> {
        let Some((keep, _)) = &self.kept else { return Vec::new() };
        let places: Vec<PathBuf> = self.own.pinned.iter().map(|name| keep.pins.place(name)).collect();
        let asked = self.own.patience.ask((), move || {
            places.iter().map(|place| fs::symlink_metadata(place).is_ok()).collect::<Vec<_>>()
        });
        let Some(there) = asked else {
            let is_told = std::mem::replace(&mut self.own.pins_hang, true);
            let text = format!("{} does not answer", keep.pins.path().display());
            return if is_told { Vec::new() } else { vec![text] };
        };
        self.own.pins_hang = false;
        let mut there = there.into_iter();
        let removed = self.own.pinned.extract_if(.., |_| there.next() == Some(false));
        removed.map(|name| format!("{name} was removed")).collect()
    }

    /// The links that are not any more what they were when they were made: detached from below, or with another program.
    pub fn changed_links(&mut self) -> Vec<ChangedLink> {
        let mut changed: Vec<(String, u32)> = Vec::new();
        for (&descriptor, object) in &mut self.own.objects {
            let Some(page) = &object.page else { continue };
            let now = link_page(descriptor.cast_signed());
            if now.as_ref() != Some(page) {
                changed.push((object.name.clone(), object.program));
                // Told once for each change.
                object.page = now;
            }
        }
        changed.into_iter().map(|(name, program)| ChangedLink { name, hook: self.hook_of(program) }).collect()
    }
}

/// Takes out what this process did to the pinned maps before the programs knew that it is the agent.
pub(super) fn forget_own(pins: &Pins) -> Result<(), SensorError> {
    if !pins.has("TAMPERS") {
        return Ok(());
    }
    let mut tampers: Hash<TamperKey, Raw<TamperValue>> =
        HashMap::try_from(Map::from_map_data(MapData::from_pin(pins.place("TAMPERS"))?)?)?;
    let born = born()?;
    for (key, _) in rows(&tampers, ROWS)?.iter().filter(|(key, _)| is_own(key, born)) {
        absent_is_fine(tampers.remove(&Raw(*key)))?;
    }
    Ok(())
}

fn is_own(key: &TamperKey, born: u64) -> bool {
    key.actor.tgid == std::process::id() && key.actor.start / TICK_NS == born
}

impl Own {
    fn name(&self, kind: u32, number: u32) -> Tampered {
        match kind {
            TAMPER_SIGNAL => Tampered::Signal(number),
            TAMPER_BPF => match self.objects.get(&number) {
                Some(Object { kind: Kind::Map, name, .. }) => Tampered::Map(Some(name.clone())),
                Some(Object { name, .. }) => Tampered::Link(name.clone()),
                None => Tampered::Unknown,
            },
            TAMPER_FILE => self
                .files
                .get(number as usize)
                .map_or(Tampered::Unknown, |path| Tampered::File(Some(path.clone()))),
            TAMPER_CLOCK => Tampered::Clock,
            TAMPER_LIMIT => Tampered::Limit(number),
            TAMPER_REACH => Tampered::Reached(match number {
                acts::ACT_PTRACE => "ptrace",
                acts::ACT_VM_READ => "process_vm_readv",
                acts::ACT_VM_WRITE => "process_vm_writev",
                acts::ACT_PROC_MEM => "/proc/PID/mem",
                acts::ACT_PIDFD_GETFD => "pidfd_getfd",
                _ => "another way",
            }),
            _ => Tampered::Unknown,
        }
    }
}

/// What `/proc/self/fd` shows of a BPF object.
fn kind_of(target: &Path) -> Option<Kind> {
    match target.to_str()? {
        "anon_inode:bpf-map" => Some(Kind::Map),
        "anon_inode:bpf-prog" => Some(Kind::Program),
        "anon_inode:bpf_link" | "anon_inode:bpf-link" => Some(Kind::Link),
        _ => None,
    }
}

/// Asks the kernel for the name of one of our own objects, by which the kernel side learns that it is ours.
/// With the id of a link's program.
fn object_name(descriptor: RawFd, kind: Kind) -> io::Result<(String, u32)> {
    /// `BPF_OBJ_GET_INFO_BY_FD`.
    const OBJ_INFO: libc::c_int = 15;
    /// Of `name` in `struct bpf_map_info` and `struct bpf_prog_info`.
    const MAP_NAME: usize = 24;
    const PROGRAM_NAME: usize = 64;
    #[repr(C)]
    struct Attributes {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    // The kernel writes no more than it was offered.
    let mut info = [0_u8; 256];
    let mut attributes = Attributes {
        descriptor: descriptor.cast_unsigned(),
        length: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: both point to memory of the given lengths that outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_INFO, &raw mut attributes, size_of::<Attributes>() as u32)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let text = |at: usize| {
        let name: Vec<u8> = info[at..at + 16].iter().copied().take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&name).into_owned()
    };
    Ok(match kind {
        Kind::Map => (format!("map {}", text(MAP_NAME)), 0),
        Kind::Program => (format!("program {}", text(PROGRAM_NAME)), 0),
        Kind::Link => (format!("link {} of program {}", word(4), word(8)), word(8)),
    })
}

/// What the kernel says of a link; `None` when it cannot be read.
fn link_page(descriptor: RawFd) -> Option<String> {
    let page = itself::text(&format!("fdinfo/{descriptor}"));
    let about_link =
        |line: &&str| !["pos:", "flags:", "mnt_id:", "ino:"].iter().any(|key| line.starts_with(key));
    (1..=LARGEST_PAGE)
        .contains(&page.len())
        .then(|| page.lines().filter(about_link).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_known_by_what_proc_shows() {
        assert_eq!(kind_of(Path::new("anon_inode:bpf-map")), Some(Kind::Map));
        assert_eq!(kind_of(Path::new("anon_inode:[eventpoll]")), None);
        assert_eq!(kind_of(Path::new("/etc/passwd")), None);
    }

    #[test]
    fn a_number_that_nobody_gave_out_is_unknown_and_not_a_panic() {
        let own = Own::default();
        for kind in 0..8 {
            let named = own.name(kind, 99);
            assert_eq!(
                matches!(named, Tampered::Unknown),
                !matches!(kind, TAMPER_SIGNAL | TAMPER_CLOCK | TAMPER_LIMIT | TAMPER_REACH)
            );
        }
    }
}
