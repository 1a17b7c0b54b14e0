//! Alerts for the person who started the agent by hand. Text only; what it says is `alerts::render`'s business.
//!
//! A thread of its own, because a terminal that somebody paused (Ctrl-S) blocks whoever writes to it.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::queue::{Counts, Full, Queue, Turn};

/// More than anybody scrolls back.
const MOST_LINES: usize = 1024;
const MOST_BYTES: usize = 4 << 20;

/// Which of the process's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A running terminal.
#[derive(Debug)]
pub struct TerminalSink {
    queue: Arc<Queue>,
    colour: bool,
}

impl TerminalSink {
    /// A sink on `stream`, or `None` if that is no terminal. No colour if the environment has `NO_COLOR`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn detect(stream: Stream) -> io::Result<Option<Self>> {
        let is_terminal = match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
        if !is_terminal {
            return Ok(None);
        }
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let sink = match stream {
            Stream::Stdout => Self::start(io::stdout(), colour)?,
            Stream::Stderr => Self::start(io::stderr(), colour)?,
        };
        Ok(Some(sink))
    }

    /// A sink that writes to `out` as it is.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut out: impl io::Write + Send + 'static, colour: bool) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(MOST_LINES, MOST_BYTES));
        let worker = Arc::clone(&queue);
        thread::Builder::new().name("terminal".to_owned()).spawn(move || {
            loop {
                match worker.next(None) {
                    // A terminal that went away does not come back: the alert is in the log.
                    Turn::Line(text) => match out.write_all(&text).and_then(|()| out.flush()) {
                        Ok(()) => worker.delivered(),
                        Err(_) => worker.give_up(),
                    },
                    Turn::Idle => {}
                    Turn::Over => break,
                }
            }
            worker.end();
        })?;
        Ok(Self { queue, colour })
    }

    #[must_use]
    pub const fn colour(&self) -> bool {
        self.colour
    }

    /// Queues text as it is.
    ///
    /// # Errors
    /// [`Full`] when the terminal does not keep up; the text is counted as dropped.
    pub fn send(&self, text: String) -> Result<(), Full> {
        self.queue.push(Bytes::from(text))
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.queue.counts()
    }

    /// Writes what is queued and stops. Returns how many alerts were left over after `patience`.
    #[must_use]
    pub fn close(self, patience: Duration) -> u64 {
        self.queue.close(patience);
        self.queue.wait_for_end(Instant::now() + patience);
        self.queue.counts().backlog
    }
}

impl Drop for TerminalSink {
    fn drop(&mut self) {
        self.queue.close(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn text_arrives_in_order() {
        let (mut read, write) = io::pipe().unwrap();
        let sink = TerminalSink::start(write, false).unwrap();
        for n in 0..5 {
            sink.send(format!("{n}\n")).unwrap();
        }
        assert_eq!(sink.close(PATIENCE), 0);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0\n1\n2\n3\n4\n");
    }

    #[test]
    fn a_stalled_terminal_stalls_nobody() {
        let (read, write) = io::pipe().unwrap();
        let sink = TerminalSink::start(write, false).unwrap();
        let text = "x".repeat(1 << 20);
        let refused = (0..20).filter(|_| sink.send(text.clone()) == Err(Full)).count();
        assert!(refused >= 15, "{refused}");
        assert_eq!(sink.counts().dropped, refused as u64);
        drop(read);
        assert_eq!(sink.close(PATIENCE), 0, "a terminal that is gone takes nothing and keeps nothing");
    }
}
