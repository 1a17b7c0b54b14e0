//! The agent's only listener: `/metrics`, `/healthz`, `/readyz`. Read only; whoever can connect can only look.
//!
//! Bound before anything else starts, so that a port in use stops the agent early. One request for each connection, few
//! connections, little patience: a scrape is small, and nobody else has business here.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::Metrics;

const MOST_CONNECTIONS: usize = 16;
const MOST_HEADER_BYTES: usize = 8 << 10;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From accept to the end of the request's head.
    head: Duration,
    /// From accept to the last byte of the answer.
    all: Duration,
}

const PATIENCE: Patience = Patience { head: Duration::from_secs(10), all: Duration::from_secs(30) };

/// How long to wait when no connection can be accepted, such as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "address {address} for /metrics is in use: stop what listens there (see `ss -ltnp`), or set `listen` to another address"
    )]
    InUse { address: SocketAddr },
    #[error(
        "address {address} for /metrics is not one of this host: set `listen` to one that is, such as 127.0.0.1:9464"
    )]
    NotOurs { address: SocketAddr },
    #[error(
        "no right to listen on {address} for /metrics: set `listen` to a port above 1023, or run as root"
    )]
    NotPermitted { address: SocketAddr },
    #[error("cannot listen on {address} for /metrics: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

/// Whether the agent weighs everything yet; what `/readyz` answers. Cheap to share.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Readiness {
    /// Not ready, for this reason.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Self(Arc::new(Mutex::new(Some(reason.to_owned()))))
    }

    pub fn set_ready(&self) {
        self.set(None);
    }

    /// Not ready any more, or for another reason.
    pub fn set_not_ready(&self, reason: &str) {
        self.set(Some(reason.to_owned()));
    }

    /// Why it is not ready; `None` when it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// A bound address that does not answer yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds; needs no runtime. Port 0 takes any free one.
    ///
    /// # Errors
    /// When the address cannot be had, with the remedy.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        });
        bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            io::ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
            io::ErrorKind::PermissionDenied => BindError::NotPermitted { address },
            _ => BindError::Other { address, source },
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the listener cannot be handed to the runtime.
    pub async fn serve(self, metrics: Arc<Metrics>, readiness: Readiness) -> io::Result<Infallible> {
        self.serve_within(PATIENCE, metrics, readiness).await
    }

    async fn serve_within(
        self,
        patience: Patience,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> io::Result<Infallible> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        // Dropping the set with this future ends the connections too.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a connection for /metrics: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (metrics, readiness) = (Arc::clone(&metrics), readiness.clone());
            connections.spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(request.method(), request.uri().path(), &metrics, &readiness);
                    async { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(patience.head)
                    .max_buf_size(MOST_HEADER_BYTES)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that goes away or sends no HTTP is its own affair.
                let _ = tokio::time::timeout(patience.all, connection).await;
                drop(permit);
            });
        }
    }
}

fn answer(method: &Method, path: &str, metrics: &Metrics, readiness: &Readiness) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/metrics" => match metrics.encode() {
            Ok(body) => respond(StatusCode::OK, "text/plain; version=0.0.4", Bytes::from(body)),
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n"))
            }
        },
        "/healthz" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match readiness.reason() {
            None => text(StatusCode::OK, "ready\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::metrics::BuildInfo;

    /// Runs `test` against a real server on loopback.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(SocketAddr, Readiness) -> F) {
        with_patience(PATIENCE, test);
    }

    fn with_patience<F: Future<Output = ()>>(
        patience: Patience,
        test: impl FnOnce(SocketAddr, Readiness) -> F,
    ) {
        let info = BuildInfo { version: "0.1.0", commit: "", kernel_release: "6.12.0" };
        let metrics = Arc::new(Metrics::new(&info).unwrap());
        let readiness = Readiness::new("the canary was not seen");
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.address();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                end = listener.serve_within(patience, metrics, readiness.clone()) => panic!("the server ended: {end:?}"),
                () = test(address, readiness.clone()) => {}
            }
        });
    }

    /// Status line, headers and body.
    async fn ask(address: SocketAddr, request: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        (status.to_owned(), headers.to_lowercase(), body.to_owned())
    }

    #[test]
    fn metrics_come_with_their_content_type() {
        with_server(|address, _| async move {
            let (status, headers, body) = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            assert!(
                headers.lines().any(|line| line == "content-type: text/plain; version=0.0.4"),
                "{headers}"
            );
            assert!(body.lines().any(|line| line == "weighbridge_alert_log_sequence 0"));
        });
    }

    #[test]
    fn readiness_says_why_not() {
        with_server(|address, readiness| async move {
            let readyz = "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
            let (status, _, body) = ask(address, readyz).await;
            assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
            assert_eq!(body, "not ready: the canary was not seen\n");
            readiness.set_ready();
            assert_eq!(ask(address, readyz).await.0, "HTTP/1.1 200 OK");
            readiness.set_not_ready("a hook is gone");
            assert_eq!(ask(address, readyz).await.2, "not ready: a hook is gone\n");
            assert_eq!(ask(address, "GET /healthz HTTP/1.0\r\n\r\n").await.2, "alive\n");
        });
    }

    #[test]
    fn only_looking_is_allowed() {
        with_server(|address, _| async move {
            let (status, headers, _) = ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
            assert!(headers.lines().any(|line| line == "allow: get, head"), "{headers}");
            let (status, _, body) = ask(address, "HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
            let (status, _, _) = ask(address, "GET /../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n").await;
            assert_eq!(status, "HTTP/1.1 404 Not Found");
        });
    }

    #[test]
    fn long_headers_are_refused() {
        with_server(|address, _| async move {
            let long = "x".repeat(2 * MOST_HEADER_BYTES);
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /metrics HTTP/1.1\r\nhost: {long}\r\n\r\n");
            // The server may reset the connection before it has read all of it.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        });
    }

    #[test]
    fn connections_beyond_the_limit_wait_for_their_turn() {
        with_server(|address, _| async move {
            let mut idle = Vec::new();
            for _ in 0..MOST_CONNECTIONS {
                idle.push(TcpStream::connect(address).await.unwrap());
            }
            let mut late = TcpStream::connect(address).await.unwrap();
            late.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            let waiting =
                tokio::time::timeout(Duration::from_millis(50), late.read_to_string(&mut answer)).await;
            assert!(waiting.is_err(), "there is no room yet");
            drop(idle);
            late.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("alive\n"), "{answer}");
        });
    }

    const IMPATIENT: Patience =
        Patience { head: Duration::from_millis(200), all: Duration::from_millis(400) };
    /// For what ends by itself within [`IMPATIENT`], on a busy machine.
    const ENDS_WITHIN: Duration = Duration::from_secs(20);

    /// Reads until the server hangs up, in whatever way.
    async fn hung_up(stream: &mut TcpStream) -> Vec<u8> {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(ENDS_WITHIN, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the server does not hang up");
        answer
    }

    #[test]
    fn a_head_that_trickles_is_hung_up_on() {
        with_patience(IMPATIENT, |address, _| async move {
            let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
            let trickle = async {
                writer.write_all(b"GET /metrics HTTP/1.1\r\nhost: ").await.unwrap();
                // A byte now and then keeps a connection alive that is only watched for silence.
                while writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(ENDS_WITHIN, async {
                tokio::join!(trickle, async {
                    let _ = reader.read_to_end(&mut answer).await;
                })
            });
            assert!(ended.await.is_ok(), "the server does not hang up");
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        });
    }

    #[test]
    fn a_body_is_never_waited_for() {
        with_patience(IMPATIENT, |address, _| async move {
            for length in ["content-length: 1000000000000", "transfer-encoding: chunked"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = format!("POST /metrics HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = hung_up(&mut stream).await;
                assert!(answer.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&answer));
            }
        });
    }

    #[test]
    fn what_is_no_http_is_hung_up_on() {
        with_patience(IMPATIENT, |address, _| async move {
            for odd in [&b"\x16\x03\x01\x02\0\x01"[..], b"GET", b"\r\n\r\n\r\n", &[0xff; 4096]] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(odd).await.unwrap();
                assert!(!hung_up(&mut stream).await.starts_with(b"HTTP/1.1 200"));
            }
        });
    }

    /// Many times more than are served at once, all of them silent: they are hung up on in turn, and a scrape gets through.
    #[test]
    fn a_crowd_that_says_nothing_does_not_keep_a_scrape_out() {
        with_patience(IMPATIENT, |address, _| async move {
            let mut crowd = Vec::new();
            for _ in 0..4 * MOST_CONNECTIONS {
                crowd.push(TcpStream::connect(address).await.unwrap());
            }
            let scrape = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
            let (status, ..) = tokio::time::timeout(ENDS_WITHIN, scrape).await.expect("its turn comes");
            assert_eq!(status, "HTTP/1.1 200 OK");
            for mut one in crowd {
                hung_up(&mut one).await;
            }
        });
    }

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let first = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let error = Listener::bind(first.address()).unwrap_err();
        assert!(matches!(&error, BindError::InUse { address } if *address == first.address()));
        let text = error.to_string().replace(&first.address().to_string(), "127.0.0.1:9464");
        insta::assert_snapshot!(text, @"address 127.0.0.1:9464 for /metrics is in use: stop what listens there (see `ss -ltnp`), or set `listen` to another address");
        let foreign = ([203, 0, 113, 1], 0).into();
        assert!(matches!(Listener::bind(foreign), Err(BindError::NotOurs { .. })));
    }
}
