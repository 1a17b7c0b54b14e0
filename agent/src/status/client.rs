//! The commands' end of the window.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::SOCKET;

/// For an agent that accepts and then says nothing: snapshots come every second, and a drill is answered within ten.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest line that is read.
const MOST: u64 = 16 << 20;

#[derive(Debug, Error)]
#[error(
    "no agent answers at {}: {error}; is it running (`systemctl status weighbridge`), and is this user root or the agent's?",
    path.display()
)]
pub struct Unreachable {
    path: PathBuf,
    error: io::Error,
}

/// Lines of a running agent, one by one, until it ends.
#[derive(Debug)]
pub struct Watch(BufReader<UnixStream>);

/// Asks the agent of `state_dir` for `word`: `status`, `top` or `tail`.
///
/// # Errors
///
/// When no agent answers.
pub fn watch(state_dir: &Path, word: &str) -> Result<Watch, Unreachable> {
    let path = state_dir.join(SOCKET);
    let asked = UnixStream::connect(&path).and_then(|mut stream| {
        stream.set_write_timeout(Some(PATIENCE))?;
        // Alerts may be long in coming.
        stream.set_read_timeout((word != "tail").then_some(PATIENCE))?;
        stream.write_all(word.as_bytes())?;
        stream.write_all(b"\n")?;
        Ok(stream)
    });
    asked.map(|stream| Watch(BufReader::new(stream))).map_err(|error| Unreachable { path, error })
}

impl Iterator for Watch {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<io::Result<String>> {
        let mut line = String::new();
        match self.0.by_ref().take(MOST).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }
}
