//! A bounded queue of lines between the pipeline and the thread of one sink.
//!
//! A line leaves the queue only when it was delivered, so an error costs time and not lines. Must not know what delivery
//! is.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

/// What one sink has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines delivered.
    pub sent: u64,
    /// Attempts that failed; the line was kept and tried again.
    pub failed: u64,
    /// Lines given up: the queue was full, or the sink does not retry.
    pub dropped: u64,
    /// Lines that wait.
    pub backlog: u64,
    /// Places that cannot be delivered to, or whose spool cannot be written, at the moment.
    pub failing: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, one| Self {
            sent: sum.sent + one.sent,
            failed: sum.failed + one.failed,
            dropped: sum.dropped + one.dropped,
            backlog: sum.backlog + one.backlog,
            failing: sum.failing + one.failing,
        })
    }
}

/// A line that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of a sink is full and one alert is not in it: see why the sink does not take alerts")]
pub struct Full;

/// What the worker finds.
pub(super) enum Turn {
    /// The oldest line, which stays in the queue until [`Queue::delivered`] or [`Queue::give_up`].
    Line(Bytes),
    /// Nothing came before the deadline.
    Idle,
    /// Closed, and empty or out of time.
    Over,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    most_lines: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Bytes>,
    bytes: usize,
    sent: u64,
    failed: u64,
    dropped: u64,
    /// Deliver what is there until then, and stop.
    closing: Option<Instant>,
    over: bool,
}

impl Queue {
    pub(super) fn new(most_lines: usize, most_bytes: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), most_lines, most_bytes }
    }

    pub(super) fn push(&self, line: Bytes) -> Result<(), Full> {
        let mut state = self.lock();
        let fits = state.lines.len() < self.most_lines && state.bytes + line.len() <= self.most_bytes;
        if !fits || state.closing.is_some() {
            state.dropped += 1;
            return Err(Full);
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for a line, until `deadline` at most.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Turn {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.closing.is_some_and(|closing| now >= closing || state.lines.is_empty()) {
                return Turn::Over;
            }
            if let Some(line) = state.lines.front() {
                return Turn::Line(line.clone());
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Turn::Idle;
            }
            state = self.wait(state, deadline);
        }
    }

    /// The line that [`Queue::next`] showed is where it belongs.
    pub(super) fn delivered(&self) {
        let mut state = self.lock();
        state.pop();
        state.sent += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// The line that [`Queue::next`] showed will not be delivered.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.pop();
        state.dropped += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// An attempt failed: waits before the next, less if the queue is being closed.
    pub(super) fn failed(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut state = self.lock();
        state.failed += 1;
        while state.closing.is_none() && Instant::now() < deadline {
            state = self.wait(state, Some(deadline));
        }
        if let Some(closing) = state.closing {
            // While closing, tries again every few milliseconds: there is no later.
            let soon = closing.min(Instant::now() + Duration::from_millis(10));
            while Instant::now() < soon {
                state = self.wait(state, Some(soon));
            }
        }
    }

    /// Takes no more lines; those that are there may be delivered for `patience`.
    pub(super) fn close(&self, patience: Duration) {
        self.lock().closing.get_or_insert_with(|| Instant::now() + patience);
        self.changed.notify_all();
    }

    /// The worker has stopped.
    pub(super) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    /// Whether the worker stopped before `deadline`.
    pub(super) fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.over && Instant::now() < deadline {
            state = self.wait(state, Some(deadline));
        }
        state.over
    }

    /// Whether everything was delivered or given up before `patience` ran out.
    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !state.lines.is_empty() && Instant::now() < deadline {
            state = self.wait(state, Some(deadline));
        }
        state.lines.is_empty()
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            sent: state.sent,
            failed: state.failed,
            dropped: state.dropped,
            backlog: state.lines.len() as u64,
            failing: 0,
        }
    }

    /// The counts stay consistent even if a thread panicked while it held the lock: each is changed in one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Option<Instant>) -> MutexGuard<'a, State> {
        match deadline.or(state.closing) {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl State {
    fn pop(&mut self) {
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len();
        }
    }
}
