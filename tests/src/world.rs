//! What every end-to-end test starts from: the lab with its two volumes, its outside, and the binary under test.

use std::{
    cell::{Cell, RefCell},
    ffi::OsStr,
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
    agent::{Agent, Config, Fitness, fitness},
    alert::Alert,
    guard::{Undo, Undoing, remove},
    metrics::{Sample, sum},
    outside::{Outside, Received, Receiver},
    process::{Finished, Identity, Running, sha256},
    recording::Recording,
    run,
    volume::Volume,
    wait_for,
    weights::Weights,
    which,
};

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

/// A fresh model, a fresh configuration, and the agent that watches it.
pub(crate) struct Scene<'w> {
    pub(crate) world: &'w World,
    /// Below the controlled volume.
    pub(crate) controlled: PathBuf,
    /// Below the uncontrolled volume.
    pub(crate) uncontrolled: PathBuf,
    /// On neither: state, alerts, configuration, scripts.
    pub(crate) work: PathBuf,
    /// Asset [`ASSET`]: two shards of 12 MiB.
    pub(crate) model: Weights,
    pub(crate) config: Config,
    /// Another than the world's.
    pub(crate) binary: Option<PathBuf>,
    marker: Weights,
    agent: Option<Agent>,
    /// Beside the agent, where the world wants one.
    recording: Option<Recording>,
    /// How often the agent was started.
    pub(crate) starts: u32,
    /// Taken back before the folders are removed.
    mounts: Vec<Undoing>,
    /// What must be equal to what: compared once the agent has ended.
    truth: RefCell<Vec<Truth>>,
}

enum Truth {
    Copy { source: PathBuf, copy: PathBuf },
    Received { source: PathBuf, sha256: String },
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
        Ok(Scene {
            world: self,
            controlled,
            uncontrolled,
            work,
            model,
            config,
            binary: None,
            marker,
            agent: None,
            recording: None,
            starts: 0,
            mounts: Vec::new(),
            truth: RefCell::default(),
        })
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

impl Scene<'_> {
    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.starts += 1;
        let file = self.work.join("weighbridge.yaml");
        let agent =
            Agent::start(self.binary.as_ref().unwrap_or(&self.world.binary), self.config.clone(), &file);
        self.agent = Some(agent.unwrap_or_else(|error| panic!("the agent does not start: {error:#}")));
        if self.world.record.is_some() && self.starts == 1 {
            let recording = Recording::start(&self.world.binary, &file, &self.work.join("scene.wbrec"), true);
            self.recording = Some(recording.unwrap_or_else(|error| panic!("{error:#}")));
        }
    }

    /// What the agent says of itself now.
    pub(crate) fn metrics(&self) -> Vec<Sample> {
        let agent = self.agent.as_ref().expect("the scene was started");
        agent.metrics().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until the agent looks up the reads of those only who have something open. Right after its start it looks up everybody's,
    /// so that what a test is about could be found by that alone.
    pub(crate) fn settled(&self) {
        let unsettled = || sum(&self.metrics(), "weighbridge_carriers_unsettled", &[]);
        let settled = wait_for(PATIENCE, || (unsettled() == Some(0.0)).then_some(()));
        assert!(settled.is_some(), "the agent never settles: {:?}", unsettled());
    }

    pub(crate) fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("the scene was started")
    }

    /// Runs a command to its successful end.
    pub(crate) fn run(&self, command: &mut Command) -> Identity {
        self.spawn(command)
            .finish(PATIENCE)
            .and_then(Finished::success)
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Starts a command, in the scene's work folder.
    pub(crate) fn spawn(&self, command: &mut Command) -> Running {
        command.current_dir(&self.work);
        Running::start(command).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// `sh -c` with the text.
    pub(crate) fn shell(&self, text: &str) -> Identity {
        self.run(Command::new("sh").args(["-c", text]))
    }

    /// `e2e move`, the tests' own mover of bytes.
    pub(crate) fn mover(&self, take: &str, put: &str, source: &Path, destination: &str) -> Command {
        let own = std::env::current_exe().expect("a process knows its executable");
        let mut command = Command::new(own);
        command.args(["move", take, put]).arg(source).arg(destination);
        command
    }

    /// A Python script of `techniques/scripts`, with arguments.
    pub(crate) fn python(&self, name: &str, text: &str) -> Command {
        let script = self.work.join(name);
        fs::write(&script, text).expect("a script can be written");
        let mut command = Command::new(World::python());
        command.arg(script);
        command
    }

    /// `mount` with these words and the new folder `place`, which must lie in one of the scene's.
    pub(crate) fn mount(&mut self, words: &[&OsStr], place: &Path) -> Result<()> {
        fs::create_dir(place).with_context(|| format!("cannot make {}", place.display()))?;
        run(Command::new("mount").args(words).arg(place))?;
        self.mounts.push(Undoing::new(Undo::Unmount(place.to_path_buf())));
        Ok(())
    }

    /// Mounts a file by itself: `mount` would set up a loop device.
    pub(crate) fn mount_in_a_file(&mut self, fstype: &str, image: &Path, place: &Path) -> Result<()> {
        fs::create_dir(place).with_context(|| format!("cannot make {}", place.display()))?;
        let text = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                    if libc.mount(*(os.fsencode(word) for word in sys.argv[1:]), 1, None) != 0:\n    \
                    sys.exit(os.strerror(ctypes.get_errno()))";
        run(Command::new(World::python()).args(["-c", text]).arg(image).arg(place).arg(fstype))?;
        self.mounts.push(Undoing::new(Undo::Unmount(place.to_path_buf())));
        Ok(())
    }

    /// The same over a directory that is there.
    pub(crate) fn mount_over(&mut self, words: &[&str], place: &Path) -> Result<()> {
        run(Command::new("mount").args(words).arg(place))?;
        self.mounts.push(Undoing::new(Undo::Unmount(place.to_path_buf())));
        Ok(())
    }

    /// Bytes of `source` that are at `copy`. Their contents are compared only once the agent has ended: a runner that
    /// reads them now would be a holder itself, and so would every process that it starts.
    pub(crate) fn arrived(&self, source: &Path, copy: &Path) -> u64 {
        self.truth.borrow_mut().push(Truth::Copy { source: source.to_path_buf(), copy: copy.to_path_buf() });
        size(copy)
    }

    /// Bytes that the outside received; the contents are compared with `source` once the agent has ended.
    pub(crate) fn received(&self, source: &Path, receiver: Receiver) -> u64 {
        let Received { bytes, sha256 } = receiver.finish().unwrap_or_else(|error| panic!("{error:#}"));
        self.truth.borrow_mut().push(Truth::Received { source: source.to_path_buf(), sha256 });
        bytes
    }

    /// Compares the contents of everything that arrived somewhere. The agent must have ended.
    pub(crate) fn check_truth(&self) {
        assert!(self.agent.is_none(), "the runner may not read an asset while it is watched");
        let hash = |path: &Path| sha256(path).unwrap_or_else(|error| panic!("{error:#}"));
        for truth in self.truth.borrow_mut().drain(..) {
            match truth {
                Truth::Copy { source, copy } => {
                    assert_eq!(hash(&source), hash(&copy), "{} is not a copy", copy.display());
                }
                Truth::Received { source, sha256 } => {
                    assert_eq!(hash(&source), sha256, "the outside received something else");
                }
            }
        }
    }

    /// Ends the recording, if there is one, and keeps it: what the test is about has happened.
    fn keep_recording(&mut self) {
        let Some((recording, dir)) = self.recording.take().zip(self.world.record.as_ref()) else { return };
        let to = dir.join(format!("{}.wbrec", self.world.test));
        let file = recording.stop().unwrap_or_else(|error| panic!("{error:#}"));
        fs::copy(file, &to).unwrap_or_else(|error| panic!("cannot write {}: {error}", to.display()));
    }

    /// Copies the marker asset and waits for its alert. Whatever moved before has been weighed by then. The copy starts
    /// after everything else ended, so a set of alerts without anything else after this is complete.
    pub(crate) fn mark(&mut self) {
        self.keep_recording();
        let copy = self.uncontrolled.join("marker-copy");
        self.run(Command::new("cp").arg(&self.marker.files[0]).arg(copy));
        let came = self
            .agent()
            .wait(ALERT_WITHIN, |alerts| {
                alerts.iter().any(|alert| alert.asset() == MARKER && alert.alarms()).then_some(())
            })
            .unwrap_or_else(|error| panic!("{error:#}"));
        assert!(came.is_some(), "the marker's copy of 1 MiB raised nothing");
    }

    /// Kills the agent, as an attacker or the kernel does: every line it wrote.
    pub(crate) fn kill(&mut self) -> Vec<Alert> {
        let agent = self.agent.take().expect("the scene was started");
        agent.kill().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until the newest line of every finding says what `condition` wants.
    pub(crate) fn wait_for(&mut self, what: &str, condition: impl Fn(&Alert) -> bool) {
        let found = self.agent().wait(ALERT_WITHIN, |alerts| {
            tests::lab::alert::findings(alerts).iter().any(&condition).then_some(())
        });
        assert!(found.unwrap_or_else(|error| panic!("{error:#}")).is_some(), "{what} did not come");
    }

    /// Stops the agent: every line it wrote. It must end well and have said nothing of a panic.
    pub(crate) fn stop(&mut self) -> Vec<Alert> {
        self.keep_recording();
        let agent = self.agent.take().expect("the scene was started");
        let (alerts, stderr) = agent.stop().unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!stderr.contains("panicked at"), "the agent panicked:\n{stderr}");
        alerts
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take()
            && std::thread::panicking()
            && !SKIPPING.replace(false)
        {
            let said = agent.stderr();
            let tail: Vec<&str> = said.lines().rev().take(15).collect();
            for line in tail.iter().rev() {
                eprintln!("    agent: {line}");
            }
        }
        // The lab's own BPF filesystem: what one test leaves there is nothing to the next.
        let _ = fs::remove_dir_all(Path::new(tests::lab::BPFFS).join("weighbridge"));
        // Newest first: one may lie on another.
        while let Some(mount) = self.mounts.pop() {
            drop(mount);
        }
        for folder in [&self.controlled, &self.uncontrolled, &self.work] {
            if let Err(error) = remove(folder) {
                eprintln!("    lab: cannot remove {}: {error}", folder.display());
            }
        }
    }
}

/// Size of a file in bytes; looks only at the inode.
pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
}
