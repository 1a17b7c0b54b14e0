//! A scene: what one test has for itself. A fresh model, folders on both volumes, the agent that watches it, and what must be
//! equal to what once that has ended. It must not know what the test is about.

use std::{
    cell::RefCell,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tests::lab::{
    agent::{Agent, Config},
    alert::Alert,
    guard::{Undo, Undoing, remove},
    metrics::{Sample, sum},
    outside::{Received, Receiver},
    process::{Finished, Identity, Running, sha256},
    recording::Recording,
    run, wait_for,
    weights::Weights,
};

use super::{ALERT_WITHIN, MARKER, PATIENCE, SKIPPING, World, size};

/// A fresh model, a fresh configuration, and the agent that watches it.
pub(crate) struct Scene<'w> {
    pub(crate) world: &'w World,
    /// Below the controlled volume.
    pub(crate) controlled: PathBuf,
    /// Below the uncontrolled volume.
    pub(crate) uncontrolled: PathBuf,
    /// On neither: state, alerts, configuration, scripts.
    pub(crate) work: PathBuf,
    /// Asset [`super::ASSET`]: two shards of 12 MiB.
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

impl<'w> Scene<'w> {
    /// Of folders below the controlled volume, the uncontrolled one and neither; its agent does not run yet.
    pub(super) fn new(world: &'w World, folders: [PathBuf; 3], models: [Weights; 2], config: Config) -> Self {
        let [controlled, uncontrolled, work] = folders;
        let [model, marker] = models;
        Self {
            world,
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
