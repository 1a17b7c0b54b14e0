//! Keeps the key of the alert log's seal on disk, so that it outlives the agent and the key before it does not.
//!
//! Written by a thread of its own, a little after the lines it belongs to: after a crash the stored key is then one of
//! the past, which can be brought forward, and never one of lines that did not get to the disk.

use std::{
    io::Write as _,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Unfit;
use crate::{
    alerts::{Head, SealKey},
    host::state::StateDir,
};

/// Below the state directory.
pub(crate) const FILE: &str = "chain.key";
const LARGEST: u64 = 4096;
/// The alert log is synced within one second.
const DELAY: Duration = Duration::from_secs(2);

/// A thread that keeps the newest key.
pub(crate) struct Keeper {
    shared: Arc<(Mutex<Slot>, Condvar)>,
    state: StateDir,
}

#[derive(Default)]
struct Slot {
    next: Option<SealKey>,
    trouble: Option<String>,
    over: bool,
}

/// What [`load`] found.
pub(crate) struct Loaded {
    pub(crate) key: Option<SealKey>,
    /// What is wrong with the log or the key: somebody must hear of it.
    pub(crate) fault: Option<String>,
}

/// Reads the key that `weighbridge log init` made, and compares the end of the log with what was sealed.
pub(crate) fn load(state: &StateDir, head: Head) -> Loaded {
    let path = state.path().join(FILE);
    let bytes = match state.read(FILE, LARGEST) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Loaded { key: None, fault: None },
        Err(error) => {
            let fault = format!("{error}: the lines of the alert log are not sealed until it can be read");
            return Loaded { key: None, fault: Some(fault) };
        }
    };
    let key = serde_json::from_slice::<SealKey>(&bytes).ok().filter(SealKey::is_sound);
    let Some(key) = key else {
        let fault = format!(
            "{} is damaged and the lines of the alert log are not sealed: find out who changed it, then remove it and run \
             `weighbridge log init`",
            path.display()
        );
        return Loaded { key: None, fault: Some(fault) };
    };
    let hash: String = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let is_replaced = key.last == head.seq && !key.last_hash.is_empty() && key.last_hash != hash;
    let fault = (key.last > head.seq || is_replaced).then(|| {
        format!(
            "the alert log ends with line {} and line {} was sealed: lines were removed or replaced, or lost in a crash; \
             compare it with its copies and with the anchors in alerts that were sent",
            head.seq, key.last
        )
    });
    Loaded { key: Some(key), fault }
}

/// Writes a key for good, also over the one before it.
///
/// # Errors
/// Those of the filesystem.
pub(crate) fn store(state: &StateDir, key: &SealKey) -> anyhow::Result<()> {
    let bytes = zeroize::Zeroizing::new(serde_json::to_vec(key)?);
    Ok(state.replace(FILE, |file| file.write_all(&bytes))?)
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(state: StateDir) -> Result<Self, Unfit> {
        let shared = Arc::new((Mutex::new(Slot::default()), Condvar::new()));
        let keeper = Self { shared: Arc::clone(&shared), state: state.clone() };
        thread::Builder::new()
            .name("seal-key".to_owned())
            .spawn(move || work(&shared, &state))
            .map_err(|error| Unfit::System("start a thread", error))?;
        Ok(keeper)
    }

    /// The newest key; returns at once.
    pub(crate) fn keep(&self, key: &SealKey) {
        lock(&self.shared.0).next = Some(key.clone());
        self.shared.1.notify_all();
    }

    /// Why the last key could not be stored.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.shared.0).trouble.clone()
    }

    /// The last key, now that every line is on the disk.
    pub(crate) fn close(self, key: &SealKey) {
        lock(&self.shared.0).over = true;
        self.shared.1.notify_all();
        if let Err(error) = store(&self.state, key) {
            tracing::error!("the key of the alert log's seal cannot be stored: {error:#}");
        }
    }
}

fn work(shared: &(Mutex<Slot>, Condvar), state: &StateDir) {
    let (slot, changed) = shared;
    loop {
        let mut guard = lock(slot);
        while guard.next.is_none() && !guard.over {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(key) = guard.next.take() else { return };
        let due = Instant::now() + DELAY;
        while !guard.over && Instant::now() < due {
            let left = due.saturating_duration_since(Instant::now());
            guard = changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if guard.over {
            return;
        }
        drop(guard);
        let trouble = store(state, &key).err().map(|error| {
            format!(
                "the key of the alert log's seal cannot be stored, an older one stays on the disk: {error:#}"
            )
        });
        lock(slot).trouble = trouble;
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
