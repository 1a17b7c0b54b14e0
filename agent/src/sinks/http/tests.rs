//! Against real servers on loopback that answer as badly as servers can.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
    time::Instant,
};

use super::*;
use crate::config::TlsConfig;

/// Answers one request with these bytes and then `after`; gives what it was asked.
fn serve(
    answer: &'static [u8],
    after: impl FnOnce(std::net::TcpStream) + Send + 'static,
) -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut chunk = [0; 4096];
        while !asked.ends_with(b"[1]") {
            match stream.read(&mut chunk).unwrap() {
                0 => break,
                count => asked.extend_from_slice(&chunk[..count]),
            }
        }
        stream.write_all(answer).unwrap();
        after(stream);
        String::from_utf8_lossy(&asked).into_owned()
    });
    (address, server)
}

fn target(url: &str) -> HttpTarget {
    HttpTarget { url: url.parse().unwrap(), bearer_token: None, tls: TlsConfig::default() }
}

fn post(target: &HttpTarget) -> Result<Answer, HttpError> {
    let client = Client::new(target, "/api/v2/alerts").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(client.post(HeaderMap::new(), Bytes::from_static(b"[1]")))
}

#[test]
fn the_request_names_its_host_path_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (address, server) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", drop);
    let target = HttpTarget {
        bearer_token: Some(SecretSource::File(token)),
        ..target(&format!("http://{address}/am/"))
    };
    assert_eq!(post(&target).unwrap(), Answer { status: 200, said: String::new() });
    let asked = server.join().unwrap();
    let mut lines = asked.lines();
    assert_eq!(lines.next(), Some("POST /am/api/v2/alerts HTTP/1.1"));
    let headers: Vec<String> = lines.map(str::to_lowercase).collect();
    for expected in [
        format!("host: {address}"),
        "authorization: bearer s3cret".to_owned(),
        "connection: close".to_owned(),
    ] {
        assert!(headers.contains(&expected), "{expected} is not in {headers:?}");
    }
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let (address, _server) =
        serve(b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", drop);
    let answer = post(&target(&format!("http://{address}"))).unwrap();
    assert_eq!(answer.status, 307);
    assert!(!answer.is_success() && !answer.refuses_content());
    insta::assert_snapshot!(answer.words(), @"it answers 307 Temporary Redirect: it redirects, and no redirect is followed: configure the address that it leads to");
}

#[test]
fn of_a_huge_refusal_only_the_start_is_read() {
    let (address, server) = serve(b"HTTP/1.1 500 Oh\r\ncontent-length: 99999999999\r\n\r\n", |mut stream| {
        let page = vec![b'\x1b'; 1 << 16];
        // Until we hang up.
        while stream.write_all(&page).is_ok() {}
    });
    let answer = post(&target(&format!("http://{address}"))).unwrap();
    assert_eq!(answer.status, 500);
    assert!(answer.said.len() <= MOST_SAID * "\\u{1b}".len(), "{}", answer.said.len());
    assert!(answer.said.starts_with("\\u{1b}"), "safe to print");
    server.join().unwrap();
}

#[test]
fn a_success_whose_body_never_ends_is_a_success_at_once() {
    let (address, server) = serve(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", |mut stream| {
        // Returns when we hang up.
        let _ = stream.read(&mut [0; 1]);
    });
    let start = Instant::now();
    assert_eq!(post(&target(&format!("http://{address}"))).unwrap().status, 200);
    assert!(start.elapsed() < SAYS_WITHIN);
    server.join().unwrap();
}

#[test]
fn what_is_no_http_and_who_is_not_there_are_told_apart() {
    let (address, _server) = serve(b"SSH-2.0-x\r\n", drop);
    assert!(matches!(post(&target(&format!("http://{address}"))), Err(HttpError::Http { .. })));
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    assert!(matches!(post(&target(&format!("http://{free}"))), Err(HttpError::Connect { .. })));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 no\r\n\r\n"));
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, CERTIFICATE).unwrap();
    let tls = TlsConfig { ca: Some(SecretSource::File(ca)), client: None };
    let target = HttpTarget { tls, ..target(&format!("https://{address}")) };
    let error = post(&target).unwrap_err();
    assert!(matches!(error, HttpError::Handshake { .. } | HttpError::Connect { .. }), "{error}");
}

/// A certificate that certifies nothing here; only its form matters.
const CERTIFICATE: &str = include_str!("testdata/ca.pem");

/// A TLS server that wants a certificate of the test authority, and answers one request with 200.
fn serve_tls() -> SocketAddr {
    use std::sync::Arc;

    use rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(include_bytes!("testdata/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            // A client without a certificate is refused here.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut asked = Vec::new();
            while !asked.ends_with(b"[1]") && stream.read_buf(&mut asked).await.is_ok_and(|count| count > 0) {
            }
            // The client may have hung up already.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        });
    });
    address
}

#[test]
fn both_sides_of_a_tls_connection_prove_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        SecretSource::File(path)
    };
    let ca = file("ca.pem", CERTIFICATE);
    let client = (
        file("client.pem", include_str!("testdata/client.pem")),
        file("client.key", include_str!("testdata/client.key")),
    );
    let with = |tls: TlsConfig| post(&HttpTarget { tls, ..target(&format!("https://{}", serve_tls())) });
    let both = TlsConfig { ca: Some(ca.clone()), client: Some(client.clone()) };
    assert_eq!(with(both.clone()).unwrap().status, 200);
    assert!(with(TlsConfig { ca: Some(ca), client: None }).is_err(), "we must prove who we are");
    let other = file("other.pem", include_str!("testdata/client.pem"));
    let error = with(TlsConfig { ca: Some(other), client: Some(client) }).unwrap_err();
    assert!(matches!(error, HttpError::Handshake { .. }), "and so must they: {error}");
    // The name of the server counts too: the certificate is for an address.
    let wrong = format!("https://localhost:{}", serve_tls().port());
    assert!(post(&HttpTarget { tls: both, ..target(&wrong) }).is_err());
}
