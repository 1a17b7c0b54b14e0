//! Loading and attaching the programs, and saying what came of it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::Map,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Iter, Program, ProgramError,
        links::FdLink,
    },
};
use ring::digest;

use super::{
    SensorError,
    adopt::{self, Adopted, Adoption, Keep},
    btf::{self, Btf},
    direct::{self, Settled},
    hooks::{HOOKS, Hook, HookKind, HookReport, NAMES, RECEIVES, SENDS, fits, settle_alternatives},
    layout::{self, Layout},
    log::{self, KernelLog},
    offsets,
};

use crate::{config::Limits, host::doctor};

/// The programs, built by `build.rs`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weighbridge-ebpf"));

/// Where the kernel says what it is made of.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Programs that the kernel verifies at a time; there are few that take long.
const MOST_THREADS: usize = 4;

pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) hooks: Vec<HookReport>,
    /// See [`super::Probed`].
    pub(super) reads_directly: bool,
    /// What keeps the hooks attached while nothing is pinned.
    pub(super) links: Vec<FdLink>,
    /// `None` when nobody wants to see it.
    pub(super) log: Option<KernelLog>,
    /// What an earlier agent left was taken over.
    pub(super) adopted: Option<Adopted>,
    /// Of what is loaded now; `None` when nothing is pinned.
    pub(super) layout: Option<Layout>,
}

/// What to do with the programs.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Load and attach none.
    Probe,
    /// Attach; pinned when there is a place for it.
    Run(Option<&'a Keep>),
}

/// What the programs and maps are made for.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Bytes.
    pub propagation_floor: u64,
    pub limits: Limits,
    /// The root of the cgroup2 hierarchy, whose sockets are weighed whoever they belong to; `None` when none is mounted.
    pub cgroup: Option<PathBuf>,
}

/// What the kernel has is not needed in memory again; who asks for it after all has it read from the file.
fn give_back(object: &'static [u8]) {
    let page = rustix::param::page_size();
    let start = object.as_ptr().align_offset(page);
    let whole = object.len().saturating_sub(start) / page * page;
    if whole > 0 {
        // SAFETY: whole pages of a constant, which are mapped from the program's file and were never written.
        let given = unsafe {
            libc::madvise(object.as_ptr().add(start).cast_mut().cast(), whole, libc::MADV_DONTNEED)
        };
        if given != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "the programs stay in memory");
        }
    }
}

/// Loads the programs into the kernel; attaches them too when they are to run.
pub(super) fn load(setup: &Setup, purpose: Purpose<'_>) -> Result<Loaded, SensorError> {
    raise_memlock();
    let raw = btf_of("vmlinux").map_err(SensorError::NoBtf)?;
    let kernel = Btf::parse(&raw).map_err(offsets::OffsetError::Btf)?;
    let offsets = offsets::resolve(&kernel)?;
    // aya keeps a reading of its own, from which it takes the numbers of tracepoints.
    let btf = aya::Btf::parse(&raw, aya::Endianness::default())
        .map_err(|error| SensorError::Refused(error.into()))?;
    let counts = |hook| u32::from(fits(&kernel, hook).is_ok());
    let (sockets_counted, receives_counted, files_named) = (counts(SENDS), counts(RECEIVES), counts(NAMES));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let overlay_wraps = u32::from(overlay_wraps(&kernel, btf_of("overlay").ok().as_deref(), &release));
    let is_logging = tracing::enabled!(target: log::TARGET, tracing::Level::DEBUG);
    let log_level: u8 = if is_logging { aya_log::Level::Debug as u8 } else { 0 };
    // The interpreter calls no functions of the kernel's.
    let cast = if doctor::interprets() { None } else { direct::function(&kernel) };
    let settled = Settled::new(OBJECT, cast).map_err(|error| SensorError::Refused(error.into()))?;
    let globals = [
        ("READS_DIRECTLY", u32::from(cast.is_some())),
        ("SOCKETS_COUNTED", sockets_counted),
        ("RECEIVES_COUNTED", receives_counted),
        ("FILES_NAMED", files_named),
        ("OVERLAY_WRAPS", overlay_wraps),
    ];
    let mut patched = digest::Context::new(&digest::SHA256);
    patched.update(settled.object());
    patched.update(&setup.propagation_floor.to_ne_bytes());
    for (name, value) in globals.iter().chain(&offsets) {
        patched.update(name.as_bytes());
        patched.update(&value.to_ne_bytes());
    }
    let programs = layout::hex(patched.finish().as_ref());
    let mut adoption = match purpose {
        Purpose::Run(Some(keep)) => Some(adopt::look(keep, programs, is_logging)?),
        _ => None,
    };
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .override_global("PROPAGATION_FLOOR", &setup.propagation_floor, true)
        .override_global(aya_log::LEVEL, &log_level, true);
    for (name, value) in globals.iter().chain(&offsets) {
        loader.override_global(name, value, true);
    }
    let sizes = sizes(&setup.limits);
    for &(name, size) in &sizes {
        loader.map_max_entries(name, size);
    }
    if let Purpose::Run(Some(keep)) = purpose {
        for name in adopt::MAPS {
            loader.map_pin_path(name, keep.pins.place(name));
        }
    }
    let mut ebpf = loader.load(settled.object()).map_err(|error| SensorError::Refused(error.into()))?;
    say_other_sizes(&ebpf, &sizes);
    let relied_on = [(SENDS, sockets_counted), (RECEIVES, receives_counted), (NAMES, files_named)];
    let mut running = Vec::new();
    let mut results = HashMap::new();
    let mut wanted = Vec::new();
    for hook in HOOKS {
        let fitting = match hook.kind {
            HookKind::Tracepoint | HookKind::TracepointAs(_) => fits(&kernel, hook.name),
            HookKind::Iterator(_) | HookKind::Egress => Ok(()),
        };
        let kept = adoption.as_mut().and_then(|adoption| adoption.link(hook));
        match (fitting, kept) {
            (Ok(()), Some(link)) => {
                running.push((hook.name, link));
                results.insert(hook.name, Ok(()));
            }
            (Ok(()), None) => wanted.push(hook),
            (unfit, _) => drop(results.insert(hook.name, unfit)),
        }
    }
    // All are loaded before one is attached: where they replace others, both count for as short a time as can be.
    results.extend(verify(&mut ebpf, &btf, wanted));
    let mut hooks = Vec::new();
    for hook in HOOKS {
        let result = results.remove(hook.name).unwrap_or_else(|| Err("it was not loaded".to_owned()));
        // Where one of these fits, the other programs leave its bytes to it: without it nothing would count them.
        let required = hook.required || relied_on.contains(&(hook.name, 1));
        if required && let Err(reason) = result {
            return Err(SensorError::Hook { hook: hook.name, reason });
        }
        hooks.push(HookReport { hook, result });
    }
    settle_alternatives(&mut hooks);
    let mut gaps = Vec::new();
    let mut links = Vec::new();
    if let Purpose::Run(keep) = purpose {
        for report in hooks.iter_mut().filter(|report| report.hook.is_attached()) {
            let name = report.hook.name;
            if report.result.is_err() {
                continue;
            }
            if let Some(at) = running.iter().position(|(known, _)| *known == name) {
                links.push(running.swap_remove(at).1);
                continue;
            }
            if adoption.as_ref().is_some_and(Adoption::is_adopted)
                && keep.is_some_and(|keep| !keep.pins.has(&adopt::link_name(name)))
            {
                gaps.push(name);
            }
            match attach(&mut ebpf, report.hook, setup.cgroup.as_deref()) {
                Ok(link) => links.push(match keep {
                    Some(keep) => adopt::pin_link(keep, name, link)?,
                    None => link,
                }),
                Err(reason) if report.hook.required || relied_on.contains(&(name, 1)) => {
                    return Err(SensorError::Hook { hook: name, reason });
                }
                Err(reason) => report.result = Err(reason),
            }
        }
    }
    drop(settled);
    give_back(OBJECT);
    let log = if is_logging { Some(KernelLog::start(&mut ebpf)?) } else { None };
    let (adopted, layout) = adoption.map_or((None, None), |adoption| adoption.done(gaps));
    Ok(Loaded { ebpf, hooks, reads_directly: cast.is_some(), links, log, adopted, layout })
}

/// What the kernel or one of its modules says about itself, up to [`btf::LARGEST`] and one byte more, which the parser
/// refuses.
fn btf_of(part: &str) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    File::open(Path::new(KERNEL_BTF).with_file_name(part))?
        .take(btf::LARGEST as u64 + 1)
        .read_to_end(&mut raw)?;
    Ok(raw)
}

/// Whether overlayfs wraps the real file in a `struct ovl_file`, which came in 6.13.
///
/// Where overlayfs is a module, its types are not in the kernel's BTF, and the module's own, which builds on the kernel's, is
/// not parsed yet: that it names the struct is enough. A module that is not loaded says nothing, so that only the release is
/// left, which a distribution's backport can prove wrong.
pub(super) fn overlay_wraps(kernel: &Btf<'_>, module: Option<&[u8]>, release: &str) -> bool {
    const STRUCT: &str = "ovl_file";
    if kernel.structs(STRUCT).next().is_some() {
        return true;
    }
    if let Some(module) = module {
        return module.split(|&byte| byte == 0).any(|name| name == STRUCT.as_bytes());
    }
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 13),
        _ => true,
    }
}

/// Has the kernel verify programs and load them, several at a time: it takes a second of one processor for all of them, and
/// they do not wait for each other.
fn verify(ebpf: &mut Ebpf, btf: &aya::Btf, wanted: Vec<Hook>) -> Vec<(&'static str, Result<(), String>)> {
    let mut programs: HashMap<String, &mut Program> =
        ebpf.programs_mut().map(|(name, program)| (name.to_owned(), program)).collect();
    let (known, missing): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .map(|hook| (hook, programs.remove(hook.name)))
        .partition(|(_, program)| program.is_some());
    let missing = missing.into_iter().map(|(hook, _)| (hook.name, Err(reason(&ProgramError::NotLoaded))));
    let mut results: Vec<_> = missing.collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS);
    let queue = Mutex::new(known);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || {
        let mut done = Vec::new();
        while let Some((hook, program)) = next() {
            if let Some(program) = program {
                done.push((hook.name, start(program, btf, hook).map_err(|error| reason(&error))));
            }
        }
        done
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        results.extend(work());
        // What a thread that panicked had loaded counts as not loaded.
        results.extend(workers.into_iter().filter_map(|worker| worker.join().ok()).flatten());
    });
    results
}

fn start(program: &mut Program, btf: &aya::Btf, hook: Hook) -> Result<(), ProgramError> {
    match hook.kind {
        HookKind::Tracepoint | HookKind::TracepointAs(_) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook.tracepoint(), btf)
        }
        HookKind::Iterator(over) => {
            let program: &mut Iter = program.try_into()?;
            program.load(over, btf)
        }
        HookKind::Egress => {
            let program: &mut CgroupSkb = program.try_into()?;
            program.load()
        }
    }
}

fn attach(ebpf: &mut Ebpf, hook: Hook, cgroup: Option<&Path>) -> Result<FdLink, String> {
    if hook.kind == HookKind::Egress {
        return attach_egress(ebpf, hook.name, cgroup);
    }
    attach_tracepoint(ebpf, hook.name).map_err(|error| reason(&error))
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &str) -> Result<FdLink, ProgramError> {
    let program: &mut BtfTracePoint = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
    let link = program.attach()?;
    Ok(program.take_link(link)?.into())
}

fn attach_egress(ebpf: &mut Ebpf, name: &str, cgroup: Option<&Path>) -> Result<FdLink, String> {
    let root = cgroup.ok_or("no cgroup2 hierarchy is mounted: mount one, or boot with it")?;
    let root = File::open(root).map_err(|error| format!("cannot open {}: {error}", root.display()))?;
    let attached = || {
        let program: &mut CgroupSkb = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        // A link always shares the cgroup with other programs; the flag that says so is refused for one.
        let link = program.attach(root, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)?;
        program.take_link(link)
    };
    let link = attached().map_err(|error| reason(&error))?;
    // Kernels before 5.7, which have no links of cgroups, do not run the other programs either.
    link.try_into().map_err(|error| format!("the kernel has no link of it: {error}"))
}

/// The maps whose sizes are configured, where they are.
fn sizes(limits: &Limits) -> Vec<(&'static str, u32)> {
    let mut sizes = vec![
        ("HOLDERS", limits.holders),
        ("TAKES", limits.takes),
        ("FLOWS", limits.flows),
        ("OBJECTS", limits.objects),
        ("PEERS", limits.peers),
        ("NETWORKS", limits.peers / 4),
    ];
    sizes.retain(|(_, size)| *size != 0);
    sizes
}

/// A map that was pinned keeps the size that it was made with.
fn say_other_sizes(ebpf: &Ebpf, wanted: &[(&'static str, u32)]) {
    for (name, rows) in wanted {
        if let Some(Map::HashMap(map)) = ebpf.map(name)
            && let Ok(info) = map.info()
            && info.max_entries() != *rows
        {
            tracing::warn!(
                map = name,
                rows = info.max_entries(),
                configured = rows,
                "a map that an earlier agent made keeps its size: `weighbridge unload` makes room for another"
            );
        }
    }
}

/// The kernel's words without the verifier's, which fill pages: the first and the last of its lines say enough.
fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            match lines.as_slice() {
                [] => format!("the kernel refuses to load it: {io_error}"),
                [.., last] => format!("the verifier refuses it: {io_error}: {last}"),
            }
        }
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            text
        }
    }
}

/// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK. Failing is not fatal: later ones charge the cgroup, and an earlier one
/// will refuse the maps in its own words.
fn raise_memlock() {
    let limit = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, limit) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
}
