//! `weighbridge record` beside whatever else runs: started, and ended in order, so that nothing of its file is missing. It
//! knows the command's contract and nothing of the file.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::guard::{Undo, Undoing};

/// A recording that is being written; its recorder is killed when it is dropped without [`Recording::stop`].
#[derive(Debug)]
pub struct Recording {
    child: Child,
    said: BufReader<ChildStderr>,
    file: PathBuf,
    kill: Undoing,
}

impl Recording {
    /// Starts to record what the configuration at `config` protects into `file`, which must not be there; returns once it
    /// records. With `hide_names` the file names nothing of this machine.
    ///
    /// # Errors
    /// When the recorder ends instead; with what it said.
    pub fn start(binary: &Path, config: &Path, file: &Path, hide_names: bool) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg("record").arg("--config").arg(config);
        command.args(hide_names.then_some("--hide-names")).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let kill = Undoing::new(Undo::Kill(child.id()));
        let mut said = BufReader::new(child.stderr.take().context("the recorder has no stderr")?);
        let mut all = String::new();
        while all.lines().last() != Some("ready") {
            let length = said.read_line(&mut all).context("cannot read what the recorder says")?;
            ensure!(length != 0, "the recorder ended before it was ready:\n{all}");
        }
        Ok(Self { child, said, file: file.to_owned(), kill })
    }

    /// Ends it; the file, which holds everything that happened until now.
    ///
    /// # Errors
    /// When it is gone already or does not end well; with what it said.
    pub fn stop(mut self) -> Result<PathBuf> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("the recorder is gone already")?;
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).context("cannot read what the recorder says")?;
        let status = self.child.wait().context("cannot wait for the recorder")?;
        self.kill.done();
        ensure!(status.success(), "the recorder ended with {status}:\n{rest}");
        Ok(self.file)
    }
}
