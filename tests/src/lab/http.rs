//! The least HTTP that the lab needs. At the other end of a thief's tools one upload is taken, one file is asked for, and what was
//! received is the body; of the agent and of other servers a page is asked for. Must not know what is in it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ring::digest;

use super::{outside::Received, process::hex};

/// How long the other end may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// A header line, and how many of them: more is no client of the lab.
const LONGEST_LINE: u64 = 8192;
const MOST_LINES: usize = 100;
/// A page of a server of the lab is some hundred kilobytes at most.
const LARGEST_PAGE: u64 = 16 << 20;
const PAGE_WITHIN: Duration = Duration::from_secs(10);

/// Takes one upload with a `Content-Length`, and answers 200.
///
/// # Errors
/// When the other end speaks no such HTTP, or goes silent.
pub(super) fn receive_upload(stream: TcpStream) -> Result<Received> {
    let (mut reader, mut stream) = ends(stream)?;
    let first = line(&mut reader)?;
    ensure!(["POST ", "PUT "].iter().any(|method| first.starts_with(method)), "not an upload: {first}");
    let headers = headers(&mut reader)?;
    let header = |name: &str| {
        headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    };
    let length: u64 =
        header("content-length").context("an upload without a length")?.parse().context("length")?;
    if header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").context("cannot answer")?;
    }
    let received = body(reader.take(length))?;
    ensure!(received.bytes == length, "{} of {length} bytes came", received.bytes);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .context("cannot answer")?;
    Ok(received)
}

/// Asks for `path` and receives what is answered with 200.
///
/// # Errors
/// When the server answers something else, or goes silent.
pub(super) fn download(stream: TcpStream, path: &str) -> Result<Received> {
    let (mut reader, mut stream) = ends(stream)?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").context("cannot ask")?;
    let status = line(&mut reader)?;
    ensure!(status.split(' ').nth(1) == Some("200"), "the server answered {status}");
    headers(&mut reader)?;
    body(reader)
}

/// A page: its status and its text.
///
/// HTTP/1.0, so that the answer ends with the connection and is never chunked.
pub(super) fn get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).with_context(|| format!("nobody listens at {addr}"))?;
    stream.set_read_timeout(Some(PAGE_WITHIN)).context("cannot limit the wait")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").context("cannot ask")?;
    let mut answer = String::new();
    stream.take(LARGEST_PAGE).read_to_string(&mut answer).context("cannot read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    Ok((status, body.to_owned()))
}

fn ends(stream: TcpStream) -> Result<(BufReader<TcpStream>, TcpStream)> {
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait")?;
    let other = stream.try_clone().context("cannot share the connection")?;
    Ok((BufReader::with_capacity(1 << 18, stream), other))
}

fn headers(reader: &mut BufReader<TcpStream>) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for _ in 0..MOST_LINES {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            ensure!(line.is_empty(), "not a header: {line}");
            return Ok(headers);
        };
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    bail!("more than {MOST_LINES} headers")
}

fn line(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    reader.by_ref().take(LONGEST_LINE).read_line(&mut line).context("cannot receive a header")?;
    ensure!(line.ends_with('\n'), "a header line without an end");
    Ok(line.trim_end().to_owned())
}

fn body(mut from: impl Read) -> Result<Received> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut bytes, mut buffer) = (0, vec![0; 1 << 18]);
    loop {
        match from.read(&mut buffer).context("cannot receive")? {
            0 => return Ok(Received { bytes, sha256: hex(context.finish().as_ref()) }),
            n => {
                context.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}
