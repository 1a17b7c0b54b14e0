//! What comes to the agent's listener that is no scrape: it is refused or hung up on, and neither the weighing nor the next
//! scrape suffers.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use tests::lab::{metrics, wait_for};

use crate::{
    expect::Expected,
    world::{PATIENCE, World},
};

/// Connections that say nothing whole: more than the agent serves at a time.
const IDLE: usize = 24;
/// Somewhat longer than the agent waits for the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// The status of the answer; `None` when it hung up without one.
fn ask(addr: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(addr).expect("the agent listens");
    stream.set_read_timeout(Some(HEAD_WITHIN)).expect("a limit");
    // It may hang up before it has read all of it.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let is_late = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(
        !is_late,
        "it waits for ever on {:?}",
        String::from_utf8_lossy(&request[..request.len().min(40)])
    );
    let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    line.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse().expect("a status"))
}

pub(super) fn pestered(w: &mut World) {
    let mut scene = w.scene();
    let addr = scene.config.listen;
    let open = |scene: &crate::world::Scene<'_>| {
        metrics::sum(&scene.metrics(), "process_open_fds", &[]).expect("it counts its descriptors")
    };
    let before = open(&scene);
    let long = "x".repeat(1 << 20);
    let many: String = (0..10_000).map(|number| format!("h{number}: x\r\n")).collect();
    for request in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
        "\0\0\0\0\r\n\r\n",
        "GET /metrics HTTP/9.9\r\nhost: x\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nhost x\r\n\r\n",
        "GET /met\rrics HTTP/1.1\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\nx",
        "GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "GET /../../etc/shadow HTTP/1.1\r\nhost: x\r\n\r\n",
        &format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        &format!("GET /metrics HTTP/1.1\r\nhost: {long}\r\n\r\n"),
        &format!("GET /metrics HTTP/1.1\r\n{many}\r\n"),
    ] {
        let status = ask(addr, request.as_bytes());
        assert!(
            status.is_none_or(|status| (400..=505).contains(&status)),
            "{status:?} to {:?}",
            request.chars().take(60).collect::<String>()
        );
    }

    let idle: Vec<TcpStream> = (0..IDLE)
        .map(|_| {
            let mut stream = TcpStream::connect(addr).expect("the agent listens");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nho").expect("a part of a head");
            stream
        })
        .collect();
    // All its connections are taken, and what moves is told as soon as ever.
    let (source, copy) = (scene.model.files[0].clone(), scene.uncontrolled.join("w"));
    let thief = scene.run(Command::new("cp").arg(&source).arg(&copy));
    let bytes = scene.arrived(&source, &copy);
    scene.wait_for("the copy", |alert| alert.rule() == "WB-0001" && alert.bound() == bytes);
    // They are hung up on, and the scrape has its turn though they are still there.
    let scraped = wait_for(PATIENCE, || scene.agent().metrics().ok());
    let scraped = scraped.expect("nobody can scrape any more");
    assert_eq!(metrics::sum(&scraped, "weighbridge_assets", &[]), Some(2.0));
    let closed = wait_for(PATIENCE, || (open(&scene) <= before + 4.0).then_some(()));
    assert!(closed.is_some(), "it keeps {} descriptors, and had {before}", open(&scene));
    drop(idle);
    let expected = [Expected::copy(&scene, &thief, &copy, bytes)];
    scene.expect(&expected);
}
