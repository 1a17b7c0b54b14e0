//! What every end-to-end test starts from: the lab with its two volumes, its outside, and the binary under test.
//! What a single test has for itself is its `scene`.

mod scene;

use std::{
    cell::Cell,
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::Duration,
};

use anyhow::{Context, Result};
use tests::lab::{
    GIB, Lab, MIB,
    agent::{Config, Fitness, fitness},
    outside::Outside,
    volume::Volume,
    weights::Weights,
    which,
};

pub(crate) use self::scene::Scene;

/// Name of the asset under test.
pub(crate) const ASSET: &str = "llm";
/// Name of the asset that only marks a point in time.
pub(crate) const MARKER: &str = "marker";
/// No command of a test takes longer, by far.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A sink's alert is at most this old (2 s after the bytes stopped, by the contract) plus a busy machine's share.
pub(crate) const ALERT_WITHIN: Duration = Duration::from_secs(8);

/// A name and what it runs. A test panics to fail and calls [`skip`] to be skipped.
pub(crate) type Test = (&'static str, Run);
pub(crate) type Run = fn(&mut World);

/// Why a test does not run here: thrown by [`skip`], caught by the runner.
#[derive(Debug)]
pub(crate) struct Skipped(pub(crate) String);

/// Tests under pressure take their full time (`--long`).
pub(crate) static LONG: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The panic that is under way is a skip: no failure that needs explaining.
    static SKIPPING: Cell<bool> = const { Cell::new(false) };
}

/// Ends the test as skipped, with the reason.
pub(crate) fn skip(reason: impl fmt::Display) -> ! {
    SKIPPING.set(true);
    panic_any(Skipped(reason.to_string()))
}

/// Runs a test of something that the agent does not weigh yet, a hole that docs/limits.md names: its failure is listed as a
/// skip, and once it passes it fails until it is a test like the others.
pub(crate) fn hole(world: &mut World, what: &str, test: Run) {
    match catch_unwind(AssertUnwindSafe(|| test(world))) {
        Ok(()) => panic!("this hole is closed, take `hole` away: {what}"),
        Err(payload) if payload.is::<Skipped>() => resume_unwind(payload),
        Err(_) => skip(format_args!("a hole that docs/limits.md names: {what}")),
    }
}

/// One per run; tests are independent of each other because each gets a scene of its own.
pub(crate) struct World {
    pub(crate) controlled: Volume,
    pub(crate) uncontrolled: Volume,
    pub(crate) outside: Outside,
    /// After the volumes: fields are dropped in their order, and the scratch directory goes last.
    pub(crate) lab: Lab,
    pub(crate) binary: PathBuf,
    /// The Debian package under test, if one was given.
    pub(crate) package: Option<PathBuf>,
    /// Where to keep a recording of each test, if anywhere.
    pub(crate) record: Option<PathBuf>,
    /// The test that runs, as a file can be called.
    pub(crate) test: String,
    fitness: Option<Fitness>,
    scenes: u32,
}

impl World {
    /// Sets everything up. Must be called before the process has a second thread.
    ///
    /// # Errors
    /// When a volume or the outside cannot be made.
    pub(crate) fn new(binary: PathBuf, package: Option<PathBuf>) -> Result<Self> {
        let lab = Lab::enter()?;
        let controlled = Volume::ext4(&lab, "controlled", 2 * GIB)?;
        let uncontrolled = Volume::ext4(&lab, "uncontrolled", 2 * GIB)?;
        let outside = Outside::new()?;
        Ok(Self {
            lab,
            controlled,
            uncontrolled,
            outside,
            binary,
            package,
            record: None,
            test: String::new(),
            fitness: None,
            scenes: 0,
        })
    }

    /// A scene whose agent does not run yet.
    pub(crate) fn prepare(&mut self) -> Scene<'_> {
        self.prepare_sized(2, 12 * MIB)
    }

    /// The same with other shards.
    pub(crate) fn prepare_sized(&mut self, shards: u32, bytes: u64) -> Scene<'_> {
        let binary = &self.binary;
        let fitness =
            self.fitness.get_or_insert_with(|| fitness(binary).unwrap_or_else(|error| panic!("{error:#}")));
        if let Fitness::Unfit(reason) = fitness {
            skip(format_args!("weighbridge doctor finds this kernel unfit: {reason}"));
        }
        self.folders(shards, bytes).unwrap_or_else(|error| panic!("the scene cannot be set up: {error:#}"))
    }

    /// A scene for what is refused before anything is loaded: it needs no fit kernel.
    pub(crate) fn prepare_without_ebpf(&mut self) -> Scene<'_> {
        self.folders(1, 2 * MIB).unwrap_or_else(|error| panic!("the scene cannot be set up: {error:#}"))
    }

    /// A scene whose agent is ready.
    pub(crate) fn scene(&mut self) -> Scene<'_> {
        let mut scene = self.prepare();
        scene.start();
        scene
    }

    /// Every scene has folders of its own; those of earlier ones are gone, so that the volumes never fill up.
    fn folders(&mut self, shards: u32, bytes: u64) -> Result<Scene<'_>> {
        self.scenes += 1;
        let name = format!("s{}", self.scenes);
        let seed = u64::from(self.scenes) << 8;
        let [controlled, uncontrolled, work] =
            [self.controlled.path(), self.uncontrolled.path(), self.lab.scratch()]
                .map(|base| base.join(&name));
        for folder in [&controlled, &uncontrolled, &work] {
            fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let model = Weights::safetensors(&controlled.join(ASSET), shards, bytes, seed)?;
        let marker = Weights::safetensors(&controlled.join(MARKER), 1, MIB, seed + 99)?;
        let config =
            Config::new(&work, self.controlled.path())?.asset(ASSET, &model.dir).asset(MARKER, &marker.dir);
        Ok(Scene::new(self, [controlled, uncontrolled, work], [model, marker], config))
    }

    /// A further volume for one test, of a kind whose tools may be missing: then the test is skipped.
    pub(crate) fn volume(&mut self, fstype: &'static str) -> Volume {
        self.volume_made(fstype, &[])
    }

    /// The same, made with these words for its `mkfs` beside the usual ones.
    pub(crate) fn volume_made(&mut self, fstype: &'static str, words: &[&str]) -> Volume {
        Self::needs(&format!("mkfs.{fstype}"));
        let kinds = fs::read_to_string("/proc/filesystems").expect("the kernel's list of filesystems");
        if !kinds.lines().any(|line| line.trim() == fstype) {
            skip(format_args!("this kernel has no {fstype}"));
        }
        self.scenes += 1;
        Volume::of_kind(&self.lab, &format!("{fstype}{}", self.scenes), fstype, words, 320 * MIB)
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The interpreter itself: on some hosts `python3` is a shell script that looks for one.
    pub(crate) fn python() -> PathBuf {
        let found = Command::new("python3")
            .args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"])
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        found.unwrap_or_else(|| skip("needs python3"))
    }

    /// Skips the test when a tool is missing.
    pub(crate) fn needs(tool: &str) {
        if which(tool).is_none() {
            skip(format_args!("needs {tool}"));
        }
    }
}

/// Size of a file in bytes; looks only at the inode.
pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
}
