//! The commands' end of the window. It must not know what the lines mean, only whether an agent says them.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use thiserror::Error;

use super::SOCKET;

/// For an agent that accepts and then says nothing: snapshots come every second, and a drill is answered within ten.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest line that is read.
const MOST: u64 = 16 << 20;

/// Why there is nothing to show, with the socket and what to do.
#[derive(Debug, Error)]
pub enum Unreachable {
    #[error(
        "no agent answers at {}: {error}; is it running (`systemctl status weighbridge`), and is this user root or the agent's?",
        path.display()
    )]
    Nobody { path: PathBuf, error: io::Error },
    #[error(
        "the agent at {} does not answer: it said nothing for {seconds} s; if it is stopped or hangs (`systemctl status weighbridge`), \
         restart it: the kernel weighs on where `pin` is true",
        path.display()
    )]
    Silent { path: PathBuf, seconds: u64 },
    #[error(
        "the agent at {} went away: {error}; `systemctl status weighbridge` says why",
        path.display()
    )]
    Gone { path: PathBuf, error: io::Error },
    #[error(
        "the agent at {} hung up: it ended (`systemctl status weighbridge`), this user is neither root nor the \
         agent's, or too many look at it already",
        path.display()
    )]
    HungUp { path: PathBuf },
    #[error(
        "what answers at {} makes no sense, {why}: is the agent of another version than `weighbridge --version`, or not the agent \
         (`ss -xlp`)?",
        path.display()
    )]
    Garbage { path: PathBuf, why: String },
}

/// Lines of a running agent, one by one, until it ends.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    reader: BufReader<UnixStream>,
    /// How long it may say nothing.
    patience: Duration,
    /// Silence alone says nothing: alerts may be long in coming.
    may_be_silent: bool,
}

/// Asks the agent of `state_dir` for `word`: `status`, `top` or `tail`.
///
/// # Errors
///
/// When no agent answers.
pub fn watch(state_dir: &Path, word: &str) -> Result<Watch, Unreachable> {
    ask(state_dir.join(SOCKET), word, PATIENCE)
}

fn ask(path: PathBuf, word: &str, patience: Duration) -> Result<Watch, Unreachable> {
    let asked = dial(&path, patience).and_then(|mut stream| {
        stream.set_read_timeout(Some(patience))?;
        match stream.write_all(format!("{word}\n").as_bytes()) {
            // Who hung up at once may have said something before.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(stream),
            written => written.map(|()| stream),
        }
    });
    match asked {
        Ok(stream) => {
            Ok(Watch { path, reader: BufReader::new(stream), patience, may_be_silent: word == "tail" })
        }
        Err(error) if is_timeout(&error) => Err(Unreachable::Silent { path, seconds: patience.as_secs() }),
        Err(error) => Err(Unreachable::Nobody { path, error }),
    }
}

/// Connects within `patience`: who hangs takes nobody from a queue that can be full (`unix_wait_for_peer`, `net/unix/af_unix.c`).
fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Watch {
    /// Why there are no more lines, although nothing failed.
    #[must_use]
    pub fn hung_up(&self) -> Unreachable {
        Unreachable::HungUp { path: self.path.clone() }
    }

    /// For who reads a line and cannot make sense of it.
    #[must_use]
    pub fn garbage(&self, why: impl std::fmt::Display) -> Unreachable {
        Unreachable::Garbage { path: self.path.clone(), why: why.to_string() }
    }

    /// An agent that has no alerts to show still answers others.
    fn still_answers(&self) -> Result<(), Unreachable> {
        match ask(self.path.clone(), "status", self.patience)?.next() {
            Some(Err(error @ (Unreachable::Silent { .. } | Unreachable::Nobody { .. }))) => Err(error),
            // Who refuses one more because many look at it already is well.
            Some(_) | None => Ok(()),
        }
    }
}

impl Iterator for Watch {
    type Item = Result<String, Unreachable>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        loop {
            match self.reader.by_ref().take(MOST).read_until(b'\n', &mut line) {
                Ok(0) if line.is_empty() => return None,
                Ok(_) => break,
                Err(error) if !is_timeout(&error) => {
                    return Some(Err(Unreachable::Gone { path: self.path.clone(), error }));
                }
                Err(_) if self.may_be_silent && line.is_empty() => {
                    if let Err(error) = self.still_answers() {
                        return Some(Err(error));
                    }
                }
                Err(_) => {
                    let seconds = self.patience.as_secs();
                    return Some(Err(Unreachable::Silent { path: self.path.clone(), seconds }));
                }
            }
        }
        if line.last() != Some(&b'\n') {
            if line.len() as u64 >= MOST {
                return Some(Err(self.garbage(format_args!("a line is longer than {MOST} bytes"))));
            }
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "in the middle of a line");
            return Some(Err(Unreachable::Gone { path: self.path.clone(), error }));
        }
        Some(String::from_utf8(line).map_err(|error| self.garbage(error.utf8_error())))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    /// What is said to `word` by something that answers each who asks with the next of `answers`, and then hangs up; `None`
    /// never answers and never hangs up.
    fn said(word: &str, answers: Vec<Option<&'static [u8]>>) -> Vec<Result<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        let listener = UnixListener::bind(&path).unwrap();
        let serving = thread::spawn(move || {
            let mut open = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(&stream).read_line(&mut String::new()).unwrap();
                match answer {
                    // Who went away meanwhile is who is tested.
                    Some(answer) => drop(stream.write_all(answer)),
                    None => open.push(stream),
                }
            }
            (listener, open)
        });
        let mut watch = ask(path, word, SOON).unwrap();
        let mut lines = Vec::new();
        let place = folder.path().display().to_string();
        loop {
            match watch.next() {
                Some(Ok(line)) => lines.push(Ok(line)),
                Some(Err(error)) => {
                    lines.push(Err(error.to_string().replace(&place, "")));
                    break;
                }
                None => {
                    lines.push(Err(watch.hung_up().to_string().replace(&place, "")));
                    break;
                }
            }
        }
        serving.join().unwrap();
        lines
    }

    fn last(word: &str, answers: Vec<Option<&'static [u8]>>) -> String {
        said(word, answers).pop().unwrap().unwrap_err()
    }

    #[test]
    fn who_hangs_is_said_to_hang() {
        insta::assert_snapshot!(last("status", vec![None]), @"the agent at /status.sock does not answer: it said nothing for 0 s; if it is stopped or hangs (`systemctl status weighbridge`), restart it: the kernel weighs on where `pin` is true");
        insta::assert_snapshot!(last("top", vec![Some(b"{}\n")]), @"the agent at /status.sock hung up: it ended (`systemctl status weighbridge`), this user is neither root nor the agent's, or too many look at it already");
    }

    #[test]
    fn who_shows_no_alerts_is_asked_whether_he_is_there() {
        // The second asks for the status, is answered, and the first waits on; the third is not answered.
        let error = last("tail", vec![None, Some(b"{}\n"), None]);
        assert_eq!(error, last("status", vec![None]));
    }

    #[test]
    fn half_a_line_and_bytes_that_are_no_text_are_told_apart() {
        insta::assert_snapshot!(last("status", vec![Some(b"{\"schema\"")]), @"the agent at /status.sock went away: in the middle of a line; `systemctl status weighbridge` says why");
        insta::assert_snapshot!(last("status", vec![Some(b"\xff\xfe\n")]), @"what answers at /status.sock makes no sense, invalid utf-8 sequence of 1 bytes from index 0: is the agent of another version than `weighbridge --version`, or not the agent (`ss -xlp`)?");
    }

    /// Nobody takes who connects: when the queue is full, connecting waits.
    #[test]
    fn a_full_queue_is_waited_for_no_longer_than_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut open = Vec::new();
        let error = loop {
            match ask(path.clone(), "status", SOON) {
                Ok(watch) => open.push(watch),
                Err(error) => break error,
            }
            assert!(open.len() < 16, "the queue of one takes everybody");
        };
        assert!(matches!(error, Unreachable::Silent { .. }), "{error}");
    }
}
