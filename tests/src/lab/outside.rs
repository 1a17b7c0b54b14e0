//! The world outside of the host: a network namespace behind a veth pair, with receivers that keep the truth.
//!
//! Must not know what is sent to it.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use ring::digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    http,
    namespace::{self, End},
    process::hex,
    run,
};

/// An address that no configuration of the lab lists (TEST-NET-2).
pub const UNCONTROLLED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// The same, of the other family (the documentation prefix).
pub const UNCONTROLLED_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
/// An address inside of [`CONTROLLED_NETWORK`].
pub const CONTROLLED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 2));
/// The lab's own end of the link to the outside.
pub const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// What the lab's configurations list as controlled.
pub const CONTROLLED_NETWORK: &str = "10.20.0.0/16";

/// How long a receiver waits for the next byte before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A network namespace that only the lab's own interface leads to.
#[derive(Debug)]
pub struct Outside {
    namespace: File,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    /// Lower-case hex of the SHA-256 of all of it, in the order of arrival.
    pub sha256: String,
}

/// Waits in the outside for one connection or one stream of datagrams.
#[derive(Debug)]
pub struct Receiver {
    /// Where to send to.
    pub addr: SocketAddr,
    thread: JoinHandle<Result<Received>>,
}

impl Outside {
    /// Makes the namespace and connects it to the calling process's own, which must be the lab's.
    ///
    /// # Errors
    /// When `ip` is missing, or the kernel has no veth.
    pub fn new() -> Result<Self> {
        let here = End {
            interface: "inside0",
            addresses: &[
                format!("{INSIDE}/24"),
                "10.20.0.1/16".to_owned(),
                "2001:db8::1/64 nodad".to_owned(),
            ],
        };
        let there = End {
            interface: "outside0",
            addresses: &[
                format!("{UNCONTROLLED}/24"),
                format!("{CONTROLLED}/16"),
                format!("{UNCONTROLLED_V6}/64 nodad"),
            ],
        };
        let namespace = namespace::linked(&here, &there)?;
        Ok(Self { namespace })
    }

    /// Names the namespace for other processes of the host, for as long as this one lives.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&self.namespace)).into()
    }

    /// Receives one TCP connection on a free port of `ip`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn tcp(&self, ip: IpAddr) -> Result<Receiver> {
        self.receiver(
            move || TcpListener::bind((ip, 0)),
            TcpListener::local_addr,
            |listener| {
                wait_readable(&listener, PATIENCE).context("nobody connected")?;
                receive_all(listener.accept().context("cannot accept")?.0)
            },
        )
    }

    /// Receives one TCP connection on this very address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn tcp_at(&self, addr: SocketAddr) -> Result<Receiver> {
        self.receiver(
            move || TcpListener::bind(addr),
            TcpListener::local_addr,
            |listener| {
                wait_readable(&listener, PATIENCE).context("nobody connected")?;
                receive_all(listener.accept().context("cannot accept")?.0)
            },
        )
    }

    /// Receives `connections` TCP connections on `port` of every address, one after the other. No hash is kept.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn tcp_many(&self, port: u16, connections: u32) -> Result<Receiver> {
        self.receiver(
            move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
            TcpListener::local_addr,
            move |listener| {
                let mut bytes = 0;
                for connection in 0..connections {
                    let silence = format!("{connection} of {connections} connections came, then nothing");
                    wait_readable(&listener, PATIENCE).context(silence)?;
                    bytes += receive_all(listener.accept().context("cannot accept")?.0)?.bytes;
                }
                Ok(Received { bytes, sha256: String::new() })
            },
        )
    }

    /// Answers one HTTP upload of a known length with 200 on a free port of `ip`; what it received is the body.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn upload(&self, ip: IpAddr) -> Result<Receiver> {
        self.receiver(
            move || TcpListener::bind((ip, 0)),
            TcpListener::local_addr,
            |listener| {
                wait_readable(&listener, PATIENCE).context("nobody connected")?;
                http::receive_upload(listener.accept().context("cannot accept")?.0)
            },
        )
    }

    /// Asks an HTTP server in the inside at `port` for `path`; what is received is the body of its answer.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn download(&self, port: u16, path: &str) -> Result<Receiver> {
        let path = path.to_owned();
        self.receiver(
            move || TcpStream::connect((INSIDE, port)),
            TcpStream::local_addr,
            move |stream| http::download(stream, &path),
        )
    }

    /// Gives the outside one more address of [`UNCONTROLLED`]'s network. It stays for the rest of the run.
    ///
    /// # Errors
    /// When it cannot be set.
    pub fn add_address(&self, ip: Ipv4Addr) -> Result<()> {
        run(self
            .inside_of(&mut Command::new("ip"))
            .args(["addr", "replace"])
            .arg(format!("{ip}/24"))
            .args(["dev", "outside0"]))
    }

    /// Lets `command` run in the outside's network namespace: a real tool at the other end. It stays a process of this host.
    pub fn inside_of<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        use std::os::{fd::AsRawFd, unix::process::CommandExt};
        let namespace = self.namespace.as_raw_fd();
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe; the descriptor belongs to the
        // lab's outside, which lives as long as any test.
        unsafe {
            command.pre_exec(move || {
                if libc::setns(namespace, libc::CLONE_NEWNET) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            })
        }
    }

    /// Receives packets of an IP protocol that are sent to `ip` until their payloads, without IP headers, are `expected`
    /// bytes. No hash is kept: each packet has a header of the protocol's own.
    ///
    /// # Errors
    /// When the kernel refuses a raw socket.
    pub fn raw(&self, protocol: u8, expected: u64) -> Result<Receiver> {
        use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};
        let open = move || {
            let number = std::num::NonZero::new(u32::from(protocol)).map(Protocol::from_raw);
            let socket = socket(AddressFamily::INET, SocketType::RAW, number)?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 256 << 20)?;
            Ok(socket)
        };
        // A raw socket has no port.
        let addr = |_: &std::os::fd::OwnedFd| Ok(SocketAddr::new(UNCONTROLLED, 0));
        self.receiver(open, addr, move |socket| {
            let (mut bytes, mut buffer) = (0, vec![0_u8; 1 << 16]);
            while bytes < expected {
                let silence = format!("{bytes} of {expected} bytes came, then nothing");
                wait_readable(&socket, PATIENCE).context(silence)?;
                let (n, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).context("cannot receive")?;
                // Every packet starts with its IP header, whose length is in 32-bit words.
                bytes += n as u64 - u64::from(buffer[0] & 0xf) * 4;
            }
            Ok(Received { bytes, sha256: String::new() })
        })
    }

    /// Connects from [`UNCONTROLLED`] to a server in the inside at `port` and receives what that sends. The receiver's
    /// address is the connection's outer end, which is the server's peer.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn pull(&self, port: u16) -> Result<Receiver> {
        self.receiver(move || TcpStream::connect((INSIDE, port)), TcpStream::local_addr, receive_all)
    }

    /// Runs `action` in the outside, on a thread of its own, to its end.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or with the action's own.
    pub fn within<T: Send + 'static>(
        &self,
        action: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = self.namespace.try_clone().context("cannot share the outside")?;
        let thread = thread::spawn(move || {
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .context("cannot enter the outside")?;
            action()
        });
        thread.join().map_err(|_| anyhow!("the action in the outside panicked"))?
    }

    /// Receives `expected` bytes of datagrams on a free port of `ip`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn udp(&self, ip: IpAddr, expected: u64) -> Result<Receiver> {
        self.udp_at(SocketAddr::new(ip, 0), expected)
    }

    /// The same on this very address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn udp_at(&self, addr: SocketAddr, expected: u64) -> Result<Receiver> {
        let bind = move || {
            let socket = UdpSocket::bind(addr)?;
            // Room for everything at once: a datagram that is dropped here would look like a miscount of the agent.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 256 << 20)?;
            Ok(socket)
        };
        self.receiver(bind, UdpSocket::local_addr, move |socket| {
            let mut context = digest::Context::new(&digest::SHA256);
            let mut bytes = 0;
            let mut buffer = vec![0; 1 << 16];
            while bytes < expected {
                let silence = format!("{bytes} of {expected} bytes came, then nothing");
                wait_readable(&socket, PATIENCE).context(silence)?;
                let n = socket.recv(&mut buffer).context("cannot receive")?;
                context.update(&buffer[..n]);
                bytes += n as u64;
            }
            Ok(Received { bytes, sha256: hex(context.finish().as_ref()) })
        })
    }

    /// Binds in the outside, says where, and receives in a thread that lives there.
    fn receiver<S: Send + 'static>(
        &self,
        bind: impl FnOnce() -> std::io::Result<S> + Send + 'static,
        addr: impl FnOnce(&S) -> std::io::Result<SocketAddr> + Send + 'static,
        receive: impl FnOnce(S) -> Result<Received> + Send + 'static,
    ) -> Result<Receiver> {
        let namespace = self.namespace.try_clone().context("cannot share the outside")?;
        let (bound, wait_bound) = mpsc::channel();
        let thread = thread::Builder::new().name("receiver".into()).spawn(move || {
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .context("cannot enter the outside")?;
            let socket = bind().context("cannot bind in the outside")?;
            let addr = addr(&socket).context("cannot tell the address")?;
            bound.send(addr).map_err(|_| anyhow!("the lab stopped waiting"))?;
            receive(socket)
        });
        let thread = thread.context("cannot start a receiver")?;
        match wait_bound.recv() {
            Ok(addr) => Ok(Receiver { addr, thread }),
            Err(_) => {
                Err(join(thread).err().unwrap_or_else(|| anyhow!("the receiver ended before it was bound")))
            }
        }
    }
}

impl Receiver {
    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// When the sender stayed away or went silent.
    pub fn finish(self) -> Result<Received> {
        let addr = self.addr;
        join(self.thread).with_context(|| format!("receiver at {addr}"))
    }
}

/// Everything until the other end closes.
fn receive_all(mut stream: TcpStream) -> Result<Received> {
    stream.set_read_timeout(Some(PATIENCE)).context("cannot limit the wait")?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match stream.read(&mut buffer).context("cannot receive")? {
            0 => return Ok(Received { bytes, sha256: hex(context.finish().as_ref()) }),
            n => {
                context.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

fn join(thread: JoinHandle<Result<Received>>) -> Result<Received> {
    thread.join().map_err(|_| anyhow!("the receiver panicked"))?
}

/// Waits until the socket has something to read or to accept.
fn wait_readable(socket: &impl AsFd, limit: Duration) -> Result<()> {
    let limit = Timespec::try_from(limit).context("the wait is too long")?;
    let mut waited = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut waited, Some(&limit)).context("cannot wait")?;
    ensure!(ready > 0, "nothing came for {} s", limit.tv_sec);
    Ok(())
}
