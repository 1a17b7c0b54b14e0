//! Questions that a disk or a server can leave unanswered for good, each asked on a thread of its own and waited for only so long. It
//! must not know what is asked.
//!
//! A call that waits for a disk cannot be called off. So a thread that got no answer stays until it gets one; until then nothing
//! more is asked of the same, and of everything only so much.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// Threads that wait for an answer which nobody waits for any longer.
const MOST_WAITING: usize = 16;

/// Who was asked and has not answered, by what tells them apart.
#[derive(Debug)]
pub struct Patience<K> {
    limit: Duration,
    waiting: HashMap<K, JoinHandle<()>>,
}

impl<K: Eq + Hash> Patience<K> {
    /// Each answer is waited for at most `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, waiting: HashMap::new() }
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
        let (sender, answer) = mpsc::sync_channel(1);
        let asked = thread::Builder::new().name("question".to_owned()).spawn(move || {
            // Nobody may wait any longer.
            let _ = sender.send(question());
        });
        let thread = asked.inspect_err(|error| tracing::warn!(%error, "no thread can be started")).ok()?;
        match answer.recv_timeout(self.limit) {
            Ok(answer) => Some(answer),
            Err(_) => {
                self.waiting.insert(whom, thread);
                None
            }
        }
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
