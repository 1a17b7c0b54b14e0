//! The agent's end of the window. One word is read from whoever connects, then only written. Who has left makes room at
//! once, also while there is nothing to write to him; who says more than his word has left.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast, oneshot, watch},
    time::timeout,
};

use super::{SOCKET, Snapshot};
use crate::rules::Severity;

const MOST_CONNECTIONS: usize = 16;
/// To say what is wanted, and to take a line that is written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Alert lines that wait for one who looks on; what is beyond is skipped, and said.
const MOST_LINES: usize = 1024;
/// Longest word that is asked.
const WORD: usize = 32;
/// Between two drills: what is asked for here must not drown what is real.
const DRILL_EVERY: Duration = Duration::from_secs(10);

/// What can be seen. Cheap to share.
#[derive(Clone, Debug)]
pub struct Status {
    snapshots: Arc<watch::Sender<Bytes>>,
    lines: broadcast::Sender<Bytes>,
    drills: Arc<Mutex<Drills>>,
}

/// A drill that somebody asked for.
#[derive(Debug)]
pub struct Drill {
    pub severity: Severity,
    asker: oneshot::Sender<String>,
}

impl Drill {
    /// Tells who asked the uid of its finding.
    pub fn answer(self, finding: String) {
        // Whoever went away does not matter.
        let _ = self.asker.send(finding);
    }
}

#[derive(Debug, Default)]
struct Drills {
    waiting: Option<Drill>,
    last: Option<Instant>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            snapshots: Arc::new(watch::Sender::new(Bytes::new())),
            lines: broadcast::Sender::new(MOST_LINES),
            drills: Arc::default(),
        }
    }
}

impl Status {
    /// Whether anybody waits for a snapshot; nobody else needs one made.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.snapshots.receiver_count() != 0
    }

    /// Shows a snapshot to everybody who waits for one.
    pub fn publish(&self, snapshot: &Snapshot) {
        match serde_json::to_vec(snapshot) {
            Ok(mut line) => {
                line.push(b'\n');
                self.snapshots.send_replace(Bytes::from(line));
            }
            Err(error) => tracing::error!(%error, "a snapshot cannot be written"),
        }
    }

    /// The drill that somebody waits for.
    #[must_use]
    pub fn drill(&self) -> Option<Drill> {
        self.drills.lock().unwrap_or_else(PoisonError::into_inner).waiting.take()
    }

    /// Asks for one; `None` when the last one is too fresh.
    fn ask(&self, severity: Severity) -> Option<oneshot::Receiver<String>> {
        let mut drills = self.drills.lock().unwrap_or_else(PoisonError::into_inner);
        if drills.last.is_some_and(|last| last.elapsed() < DRILL_EVERY) {
            return None;
        }
        let (asker, answer) = oneshot::channel();
        drills.last = Some(Instant::now());
        drills.waiting = Some(Drill { severity, asker });
        Some(answer)
    }

    /// Shows an alert line.
    pub fn alert(&self, line: &Bytes) {
        // Nobody looks: that is no error.
        let _ = self.lines.send(line.clone());
    }
}

/// Listens in `state_dir` and answers until it is dropped.
///
/// # Errors
///
/// When the socket cannot be made.
pub fn serve(state_dir: &Path, status: Status) -> io::Result<impl Future<Output = ()> + use<>> {
    let path = state_dir.join(SOCKET);
    // Of an agent that is gone: whoever runs has the lock of the directory.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(accept(listener, status))
}

async fn accept(listener: UnixListener, status: Status) {
    let own = rustix::process::geteuid().as_raw();
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors left, for instance: whoever looks has to wait.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        if allowed {
            let status = status.clone();
            tokio::spawn(async move {
                // Whoever went away does not matter.
                let _ = answer(stream, &status, PATIENCE).await;
                drop(permit);
            });
        }
    }
}

async fn answer(mut stream: UnixStream, status: &Status, patience: Duration) -> io::Result<()> {
    let mut word = [0; WORD];
    // For the whole word: a byte now and then keeps no place.
    let read = timeout(patience, read_word(&mut stream, &mut word)).await??;
    let word = word[..read].trim_ascii_end();
    if let Some(severity) = word.strip_prefix(b"drill ") {
        let line = drill(status, severity).await.to_string() + "\n";
        return timeout(PATIENCE, stream.write_all(line.as_bytes())).await?;
    }
    match word {
        b"status" => snapshots(stream, status, 1).await,
        b"top" => snapshots(stream, status, u64::MAX).await,
        b"tail" => alerts(stream, status).await,
        _ => timeout(PATIENCE, stream.write_all(b"{\"error\":\"say status, top or tail\"}\n")).await?,
    }
}

/// Reads up to the end of a line; how much there is.
async fn read_word(stream: &mut UnixStream, word: &mut [u8; WORD]) -> io::Result<usize> {
    let mut read = 0;
    while read < WORD && !word[..read].contains(&b'\n') {
        match stream.read(&mut word[read..]).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// What is answered to who asks for a drill of this severity.
async fn drill(status: &Status, severity: &[u8]) -> serde_json::Value {
    let Some(severity) = Severity::ALL.into_iter().find(|known| known.as_str().as_bytes() == severity) else {
        return serde_json::json!({"error": "no such severity"});
    };
    let Some(answer) = status.ask(severity) else {
        let seconds = DRILL_EVERY.as_secs();
        return serde_json::json!({"error": format!("the last drill is less than {seconds} s ago, try again")});
    };
    match timeout(PATIENCE, answer).await {
        Ok(Ok(finding)) => serde_json::json!({"finding": finding}),
        _ => serde_json::json!({"error": "the agent is too busy for a drill, try again"}),
    }
}

async fn snapshots(mut stream: UnixStream, status: &Status, count: u64) -> io::Result<()> {
    let mut receiver = status.snapshots.subscribe();
    for _ in 0..count {
        let changed = tokio::select! {
            changed = receiver.changed() => changed,
            // Who asks for one and closes his end for writing is still there.
            () = left(&mut stream), if count > 1 => return Ok(()),
        };
        if changed.is_err() {
            return Ok(());
        }
        let line = receiver.borrow_and_update().clone();
        timeout(PATIENCE, stream.write_all(&line)).await??;
    }
    Ok(())
}

async fn alerts(mut stream: UnixStream, status: &Status) -> io::Result<()> {
    let mut receiver = status.lines.subscribe();
    loop {
        let told = tokio::select! {
            told = receiver.recv() => told,
            () = left(&mut stream) => return Ok(()),
        };
        let line = match told {
            Ok(line) => line,
            Err(broadcast::error::RecvError::Lagged(lines)) => {
                Bytes::from(format!("{{\"skipped\":{lines}}}\n"))
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        timeout(PATIENCE, stream.write_all(&line)).await??;
    }
}

/// Returns when the other end was closed, or says what nobody asked for.
async fn left(stream: &mut UnixStream) {
    // Whatever comes: an end, an error or a byte too many.
    let _ = stream.read(&mut [0; 1]).await;
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use super::*;

    fn ask(path: &Path, word: &str) -> std::os::unix::net::UnixStream {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        stream
    }

    fn line(stream: std::os::unix::net::UnixStream) -> String {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    #[tokio::test]
    async fn alerts_and_errors_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::default();
        tokio::spawn(serve(folder.path(), status.clone()).unwrap());
        let path = folder.path().join(SOCKET);
        let (asked, strange) = (path.clone(), path.clone());
        let refused = tokio::task::spawn_blocking(move || line(ask(&strange, "reboot\n"))).await.unwrap();
        assert_eq!(refused, "{\"error\":\"say status, top or tail\"}\n");
        let told = tokio::task::spawn_blocking(move || line(ask(&asked, "tail\n")));
        while status.lines.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        status.alert(&Bytes::from_static(b"{\"n\":1}\n"));
        assert_eq!(told.await.unwrap(), "{\"n\":1}\n");
    }

    /// Many times `tail | head` on a quiet host locked everybody out until the next alert.
    #[tokio::test]
    async fn who_looked_on_and_left_makes_room_while_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let status = Status::default();
        tokio::spawn(serve(folder.path(), status.clone()).unwrap());
        let path = folder.path().join(SOCKET);
        let mut gone = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"tail\n").await.unwrap();
            gone.push(stream);
        }
        while status.lines.receiver_count() < MOST_CONNECTIONS {
            tokio::task::yield_now().await;
        }
        // One talks on, the others hang up.
        gone[0].write_all(b"status\n").await.unwrap();
        let talker = gone.remove(0);
        drop(gone);
        while status.lines.receiver_count() != 0 {
            tokio::task::yield_now().await;
        }
        drop(talker);
        let answer = tokio::task::spawn_blocking(move || line(ask(&path, "reboot\n"))).await.unwrap();
        assert_eq!(answer, "{\"error\":\"say status, top or tail\"}\n");
    }

    #[tokio::test]
    async fn a_word_that_trickles_keeps_no_place() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let status = Status::default();
        let answered = tokio::spawn(async move { answer(server, &status, Duration::from_millis(200)).await });
        // Each well within the patience, all of them together not.
        while !answered.is_finished() && client.write_all(b"t").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answered.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_drill_is_told_its_finding_and_the_next_must_wait() {
        let status = Status::default();
        let asked = status.clone();
        let answer = tokio::spawn(async move { drill(&asked, b"high").await });
        let drill_asked = loop {
            match status.drill() {
                Some(drill) => break drill,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(drill_asked.severity, Severity::High);
        drill_asked.answer("uid".to_owned());
        assert_eq!(answer.await.unwrap(), serde_json::json!({"finding": "uid"}));
        assert!(drill(&status, b"low").await["error"].is_string(), "a second one right after it");
        assert!(status.drill().is_none());
        assert_eq!(drill(&status, b"deadly").await, serde_json::json!({"error": "no such severity"}));
    }

    #[test]
    fn a_socket_that_was_left_is_replaced_and_nobody_else_may_look() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        drop(serve(folder.path(), Status::default()).unwrap());
        drop(serve(folder.path(), Status::default()).unwrap());
        let mode = fs::metadata(folder.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
