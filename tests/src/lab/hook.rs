//! A small real web server on loopback that keeps what is posted to it and answers as badly as it is told to.
//!
//! It plays the receiver of Alertmanager, the agent's webhook, and an Alertmanager that lies. Must not know what is
//! posted.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{process::boot_ns, wait_for};

/// Posts of the agent and of Alertmanager are far smaller.
const LARGEST_POST: u64 = 16 << 20;
/// For a connection that does not go on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How one request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With this status and a short body.
    Status(u16),
    /// 307, to a place where nobody listens.
    Redirect,
    /// Never, until the other side gives up.
    Hang,
    /// 500 with a body that does not end.
    Endless,
    /// 500 with a body of which one byte comes each second.
    Trickle,
}

/// One request that came.
#[derive(Clone, Debug)]
pub struct Post {
    /// When all of it had come, in ns since boot.
    pub at: u64,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub raw: Vec<u8>,
    /// The body; null when it is no JSON.
    pub body: Value,
    pub manner: Manner,
}

#[derive(Debug, Default)]
struct State {
    posts: Vec<Post>,
    /// For the next requests, one each; then every one is answered with 200.
    manners: VecDeque<Manner>,
    /// Who does not say it is answered with 401.
    bearer: Option<String>,
}

/// A running server.
#[derive(Debug)]
pub struct Hook {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    stopping: Arc<AtomicBool>,
}

impl Hook {
    /// On any free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// At an address.
    ///
    /// # Errors
    /// When it is not free.
    pub fn start_at(addr: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr).with_context(|| format!("cannot listen at {addr}"))?;
        let addr = listener.local_addr().context("a listener has an address")?;
        let hook = Self { addr, state: Arc::default(), stopping: Arc::default() };
        let (state, stopping) = (Arc::clone(&hook.state), Arc::clone(&hook.stopping));
        thread::Builder::new()
            .name("hook".into())
            .spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let state = Arc::clone(&state);
                    // One that breaks off says nothing that a test could use.
                    thread::spawn(move || drop(serve(stream, &state)));
                }
            })
            .context("cannot start a thread")?;
        Ok(hook)
    }

    /// How the next requests are answered, one each.
    pub fn next(&self, manners: impl IntoIterator<Item = Manner>) {
        lock(&self.state).manners.extend(manners);
    }

    /// From now on only who says this token is let in.
    pub fn require(&self, token: &str) {
        lock(&self.state).bearer = Some(format!("Bearer {token}"));
    }

    /// From now on everybody is let in.
    pub fn open(&self) {
        lock(&self.state).bearer = None;
    }

    /// Everything that came so far.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        lock(&self.state).posts.clone()
    }

    /// Waits until `condition` says something about everything that came so far.
    pub fn wait<T>(&self, limit: Duration, mut condition: impl FnMut(&[Post]) -> Option<T>) -> Option<T> {
        wait_for(limit, || condition(&lock(&self.state).posts))
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addr));
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("no HTTP")?.to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').context("no header")?;
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length: u64 = headers.get("content-length").map_or(Ok(0), |text| text.parse())?;
        ensure!(length <= LARGEST_POST, "a post of {length} bytes");
        let mut raw = vec![0; usize::try_from(length)?];
        reader.read_exact(&mut raw)?;
        let at = boot_ns();
        let manner = {
            let mut state = lock(state);
            let is_let_in = state.bearer.is_none() || headers.get("authorization") == state.bearer.as_ref();
            let manner = if is_let_in {
                state.manners.pop_front().unwrap_or(Manner::Status(200))
            } else {
                Manner::Status(401)
            };
            let body = serde_json::from_slice(&raw).unwrap_or_default();
            state.posts.push(Post { at, path, headers, raw, body, manner });
            manner
        };
        answer(reader.get_mut(), manner)?;
    }
}

fn answer(stream: &mut TcpStream, manner: Manner) -> Result<()> {
    match manner {
        Manner::Status(status) => {
            write!(stream, "HTTP/1.1 {status} Because\r\ncontent-length: 2\r\n\r\n{{}}")?
        }
        Manner::Redirect => {
            write!(stream, "HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")?;
        }
        // Ends when the other side hangs up.
        Manner::Hang => drop(stream.read(&mut [0; 1])?),
        Manner::Endless => {
            write!(stream, "HTTP/1.1 500 Oh\r\ncontent-length: 1000000000000\r\n\r\n")?;
            let page = [b'x'; 65536];
            while stream.write_all(&page).is_ok() {}
        }
        Manner::Trickle => {
            write!(stream, "HTTP/1.1 500 Oh\r\ncontent-length: 60\r\n\r\n")?;
            for _ in 0..60 {
                stream.write_all(b"x")?;
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
