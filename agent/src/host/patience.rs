//! Questions that a disk or a server can leave unanswered for good, each asked on a thread of its own and waited for only so long. It
//! must not know what is asked.
//!
//! A call that waits for a disk cannot be called off. So a thread that got no answer stays until it gets one; until then nothing
//! more is asked of the same, and of everything only so much.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// Threads that wait for an answer which nobody waits for any longer. There are some of these, and the unit allows 64 threads.
const MOST_WAITING: usize = 8;

type Question = Box<dyn FnOnce() + Send>;

/// Who was asked and has not answered, by what tells them apart.
#[derive(Debug)]
pub struct Patience<K> {
    limit: Duration,
    waiting: HashMap<K, JoinHandle<()>>,
    /// It answered the last time and waits for the next question: a thread for each would cost more than most questions.
    idle: Option<Asker>,
    /// That there is no thread is said once.
    is_told: bool,
}

/// A thread that asks what it is given, until nobody can give it anything any more.
struct Asker {
    questions: mpsc::Sender<Question>,
    thread: JoinHandle<()>,
}

impl Asker {
    fn start() -> std::io::Result<Self> {
        let (questions, asked) = mpsc::channel::<Question>();
        let thread = thread::Builder::new().name("question".to_owned()).spawn(move || {
            for question in asked {
                question();
            }
        })?;
        Ok(Self { questions, thread })
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.thread.fmt(f)
    }
}

impl<K: Eq + Hash> Patience<K> {
    /// Each answer is waited for at most `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, waiting: HashMap::new(), idle: None, is_told: false }
    }

    /// The answer of `whom`; `None` when it did not come in time, when an earlier question is still open, when too many are, or when there
    /// is no thread to ask on.
    pub fn ask<T: Send + 'static>(
        &mut self,
        whom: K,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.waiting.retain(|_, thread| !thread.is_finished());
        if self.waiting.contains_key(&whom) || self.waiting.len() >= MOST_WAITING {
            return None;
        }
        let asker = match self.idle.take().map_or_else(Asker::start, Ok) {
            Ok(asker) => asker,
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::warn!(%error, "no thread can be started to ask on: what is asked stays unknown");
                }
                return None;
            }
        };
        let (sender, answer) = mpsc::sync_channel(1);
        let asked = asker.questions.send(Box::new(move || {
            // Nobody may wait any longer.
            let _ = sender.send(question());
        }));
        if asked.is_err() {
            return None;
        }
        match answer.recv_timeout(self.limit) {
            Ok(answer) => {
                self.idle = Some(asker);
                Some(answer)
            }
            // With its end of the questions dropped the thread ends when it has its answer.
            Err(_) => {
                self.waiting.insert(whom, asker.thread);
                None
            }
        }
    }

    /// Whether anybody was asked and has not answered yet.
    pub fn waits(&mut self) -> bool {
        self.waiting.retain(|_, thread| !thread.is_finished());
        !self.waiting.is_empty()
    }

    /// From now on each answer is waited for at most `limit`.
    pub const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Whether `whom` was asked and has not answered yet.
    pub fn waits_for(&mut self, whom: &K) -> bool {
        self.waiting.retain(|_, thread| !thread.is_finished());
        self.waiting.contains_key(whom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_waited_for_once_and_others_are_asked() {
        let mut patience = Patience::new(Duration::from_millis(50));
        let (go, gone) = mpsc::channel::<()>();
        assert_eq!(patience.ask("dead", move || gone.recv().is_ok()), None);
        assert_eq!(patience.ask("dead", || panic!("it is asked again")), None::<bool>);
        assert_eq!(patience.ask("well", || 7), Some(7));
        go.send(()).unwrap();
        // It may take the thread a moment to end.
        let answer = std::iter::repeat_with(|| patience.ask("dead", || 8)).find_map(|answer| answer);
        assert_eq!(answer, Some(8));
    }

    #[test]
    fn so_many_are_left_without_an_answer_and_no_more() {
        let mut patience = Patience::new(Duration::ZERO);
        let (go, gone) = mpsc::channel::<()>();
        let gone = std::sync::Arc::new(std::sync::Mutex::new(gone));
        for whom in 0..MOST_WAITING {
            let gone = std::sync::Arc::clone(&gone);
            assert_eq!(patience.ask(whom, move || gone.lock().unwrap().recv().is_ok()), None);
        }
        assert_eq!(patience.ask(MOST_WAITING, || panic!("there is no room")), None::<()>);
        drop(go);
    }

    #[test]
    fn a_question_that_panics_is_not_answered() {
        let mut patience = Patience::new(Duration::from_secs(10));
        assert_eq!(patience.ask((), || -> u8 { panic!("as it should") }), None);
        assert_eq!(std::iter::repeat_with(|| patience.ask((), || 1)).find_map(|answer| answer), Some(1));
    }
}
