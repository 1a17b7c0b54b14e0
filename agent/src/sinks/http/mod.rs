//! One small HTTP client for all sinks: a POST over a connection of its own, with a limit on everything.
//!
//! The other side may be slow, wrong or hostile: nothing is followed (a redirect would carry our token elsewhere), of
//! an answer at most [`MOST_SAID`] bytes are read, and each request has one deadline for all of it. Proxies of the
//! environment are not used. Must not know what is posted.

mod secret;
#[cfg(test)]
mod tests;
mod tls;

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri, Version,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use self::tls::Tls;
pub use self::{secret::SecretError, tls::TlsError};
use crate::config::{HttpTarget, SecretSource};

/// From the name lookup to the head of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For the words of a refusal.
const SAYS_WITHIN: Duration = Duration::from_secs(2);
/// How many bytes of them are kept.
const MOST_SAID: usize = 512;
/// The head of an answer.
const MOST_HEAD: usize = 16 << 10;

/// An answer: what it means is the sink's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The start of a refusal's body, safe to print; empty for a success.
    pub(super) said: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{host}:{port} cannot be reached: {source}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("{host}:{port} does not prove who it is: {source}")]
    Handshake { host: String, port: u16, source: io::Error },
    #[error("{host}:{port} does not speak HTTP: {source}")]
    Http { host: String, port: u16, source: hyper::Error },
    #[error("{host}:{port} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { host: String, port: u16 },
    #[error("a secret or address cannot stand in a header: it has a control character")]
    Header,
}

impl HttpError {
    /// Only the service can tell: outside of it systemd gives no credentials.
    #[must_use]
    pub const fn is_for_the_service(&self) -> bool {
        match self {
            Self::Secret(error) | Self::Tls(TlsError::Secret(error)) => error.is_for_the_service(),
            _ => false,
        }
    }
}

/// A client of one address.
#[derive(Debug)]
pub(super) struct Client {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Tls>,
    bearer: Option<SecretSource>,
}

impl Client {
    /// `path` is added to the path of the address, such as `/api/v2/alerts`.
    ///
    /// # Errors
    /// When the address and the path make no address.
    pub(super) fn new(target: &HttpTarget, path: &str) -> Result<Self, hyper::http::Error> {
        let base = target.url.path().trim_end_matches('/');
        let query = target.url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let whole = if path.is_empty() { target.url.path() } else { &format!("{base}{path}") };
        let mut parts = target.url.clone().into_parts();
        parts.path_and_query = Some(format!("{whole}{query}").parse()?);
        let uri = Uri::from_parts(parts)?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self {
            host,
            port,
            uri,
            tls: is_tls.then(|| Tls::new(target.tls.clone())),
            bearer: target.bearer_token.clone(),
        })
    }

    /// Whether everything that it needs of this host can be read.
    ///
    /// # Errors
    /// With the remedy.
    pub(super) fn check(&self) -> Result<(), HttpError> {
        if let Some(bearer) = &self.bearer {
            authorization(bearer)?;
        }
        if let Some(tls) = &self.tls {
            tls.connector()?;
        }
        Ok(())
    }

    /// Posts JSON, with `headers` beside ours.
    ///
    /// # Errors
    /// When there is no answer; an answer of any status is none.
    pub(super) async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<Answer, HttpError> {
        let (host, port) = (self.host.clone(), self.port);
        let late = |_| HttpError::Timeout { host, port };
        let (response, _connection) =
            timeout(TIMEOUT, self.exchange(headers, body)).await.map_err(late)??;
        let status = response.status();
        // A success needs no words: whatever the rest of it is, slow or huge, it is not waited for.
        let said = if status.is_success() { String::new() } else { words(response.into_body()).await };
        Ok(Answer { status: status.as_u16(), said })
    }

    async fn exchange(
        &self,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(hyper::Response<Incoming>, Connection), HttpError> {
        let request = self.request(headers, body)?;
        let (host, port) = (&self.host, self.port);
        let failed = |source| HttpError::Connect { host: host.clone(), port, source };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
        match &self.tls {
            None => self.send(stream, request).await,
            Some(tls) => {
                let connector = tls.connector()?;
                let failed = |source| HttpError::Handshake { host: host.clone(), port, source };
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let stream = connector.connect(name, stream).await.map_err(failed)?;
                self.send(stream, request).await
            }
        }
    }

    async fn send<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::Response<Incoming>, Connection), HttpError> {
        let failed = |source| HttpError::Http { host: self.host.clone(), port: self.port, source };
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MOST_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let connection = Connection(tokio::spawn(connection));
        Ok((sender.send_request(request).await.map_err(failed)?, connection))
    }

    fn request(&self, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
        let target = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = target.parse().map_err(|_| HttpError::Header)?;
        let fields = request.headers_mut();
        *fields = headers;
        fields.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| HttpError::Header)?);
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        fields.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("weighbridge/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(bearer) = &self.bearer {
            fields.insert(header::AUTHORIZATION, authorization(bearer)?);
        }
        Ok(request)
    }
}

/// The task that moves the bytes of one connection; dropped with the answer, so that an endless one ends too.
struct Connection(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answer {
    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// The other side says that this content can never be taken, so that sending it again is no use.
    pub(super) const fn refuses_content(&self) -> bool {
        matches!(self.status, 400 | 413 | 422)
    }

    /// For a message, with the remedy where the status has one.
    pub(super) fn words(&self) -> String {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let remedy = match self.status {
            300..=399 => {
                ": it redirects, and no redirect is followed: configure the address that it leads to"
            }
            401 | 403 => ": see `bearer_token` and `tls` of this sink",
            404 | 405 => ": see the path in the address of this sink",
            _ => "",
        };
        let said = if self.said.is_empty() { String::new() } else { format!(" ({})", self.said) };
        format!("it answers {} {}{said}{remedy}", self.status, reason.unwrap_or("with an unknown status"))
    }
}

fn authorization(bearer: &SecretSource) -> Result<HeaderValue, HttpError> {
    let token = [b"Bearer ".as_slice(), &bearer.read_trimmed()?].concat();
    let mut value = HeaderValue::from_bytes(&token).map_err(|_| HttpError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The start of a refusal's body, as far as it comes in time.
async fn words(mut body: Incoming) -> String {
    let mut said = Vec::new();
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                said.extend_from_slice(&data[..data.len().min(MOST_SAID - said.len())]);
            }
            if said.len() >= MOST_SAID {
                break;
            }
        }
    };
    // What did not come in time is not needed.
    let _ = timeout(SAYS_WITHIN, read).await;
    let text = String::from_utf8_lossy(&said);
    crate::alerts::printable(text.trim())
}
