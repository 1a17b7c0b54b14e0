//! The bounded way from the pipeline to the thread of one sink that delivers over something that can stall.
//!
//! The thread takes what comes at once and keeps it in its spool, also while a delivery hangs; so this fills up only
//! when a disk stalls. Must not know what is carried.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{Full, status::Status};

/// What may wait in one inbox.
const MOST_ITEMS: usize = 16_384;
const MOST_BYTES: usize = 16 << 20;

/// The pipeline's end; dropping it stops the thread without waiting for it.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    name: String,
    status: Arc<Status>,
    bytes: Arc<AtomicUsize>,
    sender: mpsc::Sender<(usize, T)>,
    stop: Option<oneshot::Sender<Instant>>,
    over: std::sync::mpsc::Receiver<usize>,
}

/// The thread's end.
pub(super) struct Outbox<T> {
    bytes: Arc<AtomicUsize>,
    receiver: mpsc::Receiver<(usize, T)>,
}

/// When to stop trying: resolves when the inbox is closed.
pub(super) type Stop = oneshot::Receiver<Instant>;

impl<T: Send + 'static> Inbox<T> {
    /// Starts a thread with a runtime of its own. `work` returns how many items it could neither deliver nor keep.
    ///
    /// # Errors
    /// When no thread or no runtime can be made.
    pub(super) fn start<F: Future<Output = usize>>(
        name: &str,
        status: Arc<Status>,
        work: impl FnOnce(Outbox<T>, Stop) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let bytes = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = mpsc::channel(MOST_ITEMS);
        let (stop, stopped) = oneshot::channel();
        let (end, over) = std::sync::mpsc::channel();
        // One thread more at most, for the name lookups that block.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        let outbox = Outbox { bytes: Arc::clone(&bytes), receiver };
        let ending = Ending(Arc::clone(&status), name.to_owned());
        thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let lost = runtime.block_on(work(outbox, stopped));
            // A name lookup that hangs must not keep the agent from ending.
            runtime.shutdown_background();
            // Nobody waits when the sink was only dropped.
            let _ = end.send(lost);
            drop(ending);
        })?;
        Ok(Self { name: name.to_owned(), status, bytes, sender, stop: Some(stop), over })
    }

    /// Hands over an item of about so many bytes; returns at once.
    ///
    /// # Errors
    /// [`Full`] when there is no room; the item is counted as dropped.
    pub(super) fn send(&self, size: usize, item: T) -> Result<(), Full> {
        // Counted first: the thread may take it out before this returns.
        let waiting = self.bytes.fetch_add(size, Ordering::Relaxed);
        if waiting + size > MOST_BYTES || self.sender.try_send((size, item)).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.status.add_dropped(1);
            return Err(Full);
        }
        Ok(())
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks the thread to keep or deliver what it has until `deadline`, and to stop.
    pub(super) fn stop(&mut self, deadline: Instant) {
        if let Some(stop) = self.stop.take() {
            // When the thread is gone already there is nothing to stop.
            let _ = stop.send(deadline);
        }
    }

    /// Waits for the thread; how many items were lost. Call [`Inbox::stop`] first.
    pub(super) fn wait(self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(10));
        match self.over.recv_timeout(left) {
            Ok(lost) => lost as u64,
            // What it had taken may be in its spool; what it had not is lost with this process.
            Err(_) => (MOST_ITEMS - self.sender.capacity()) as u64,
        }
    }
}

impl<T> Outbox<T> {
    /// The next item; `None` when the inbox is gone.
    pub(super) async fn next(&mut self) -> Option<T> {
        let (size, item) = self.receiver.recv().await?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Some(item)
    }

    /// The next item if one is there already.
    pub(super) fn now(&mut self) -> Option<T> {
        let (size, item) = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Some(item)
    }
}

/// Says so when a thread ends by a panic: a sink that is silently gone would be the worst kind.
struct Ending(Arc<Status>, String);

impl Drop for Ending {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set_delivery(Some(format!("the thread of sink {} ended by a mistake of ours", self.1)));
        }
    }
}
