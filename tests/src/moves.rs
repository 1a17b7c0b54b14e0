//! `e2e move`: moves bytes from a file to a file or a peer by exactly the system calls that are named.
//!
//! `e2e move TAKE PUT SOURCE DESTINATION [--chunk BYTES] [--bytes BYTES] [--pause] [--pause-at BYTES]`
//!
//! TAKE is `read pread readv preadv mmap`, PUT is `write pwrite writev pwritev mmap send sendto sendmsg sendmmsg`; or TAKE is
//! `sendfile splice copy_file_range vmsplice tee` and PUT is `-`. SOURCE is a path or `fd:N`; DESTINATION is a path,
//! `tcp:ADDRESS`, `udp:ADDRESS` (one connected socket) or `unconnected:ADDRESS` (UDP, the address in every call).
//! With `--pause` it says `holding` once the source is open (and mapped), and waits for a line before it goes on; with
//! `--pause-at` it says `halfway` and waits once it has put that many bytes, with the next chunk not taken yet.

use std::{
    fs::{File, OpenOptions},
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    mm::{MapFlags, ProtFlags, mmap},
    net::{SendAncillaryBuffer, SendFlags, send, sendmsg, sendmsg_addr, sendto},
    pipe::{IoSliceRaw, SpliceFlags},
};

/// What the arguments ask for.
struct Order {
    take: String,
    put: String,
    source: String,
    destination: String,
    chunk: usize,
    /// At most this many bytes.
    bytes: u64,
    pause: bool,
    pause_at: Option<u64>,
}

/// Where to, opened.
struct Destination {
    fd: OwnedFd,
    /// For an unconnected socket: whom every call names.
    peer: Option<SocketAddr>,
}

/// Runs `e2e move` with what follows these words.
///
/// # Errors
/// When a call is not known or fails.
pub(crate) fn main(arguments: &[String]) -> Result<()> {
    let order = Order::parse(arguments)?;
    let source = if let Some(number) = order.source.strip_prefix("fd:") {
        let number = number.parse().context("fd: wants a number")?;
        // SAFETY: whoever started this process handed it that descriptor, and nothing else in here owns it.
        File::from(unsafe { OwnedFd::from_raw_fd(number) })
    } else {
        File::open(&order.source).with_context(|| format!("cannot open {}", order.source))?
    };
    let length = source.metadata().context("cannot look at the source")?.len().min(order.bytes);
    let whole = if order.take == "mmap" { Some(map_source(&source, length)?) } else { None };
    if order.pause {
        println!("holding");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("cannot wait")?;
    }
    let destination = Destination::open(&order.destination)?;
    if order.put == "-" {
        return through(&order, &source, &destination, length);
    }
    if order.put == "mmap" {
        let map = map_destination(&destination, length)?;
        let mut filled = 0;
        return each_chunk(&order, &source, whole, length, |bytes| {
            map[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
            Ok(bytes.len())
        });
    }
    let mut offset = 0;
    let mut pause_at = order.pause_at;
    each_chunk(&order, &source, whole, length, |bytes| {
        let n = destination.put(&order.put, bytes, offset)?;
        offset += n as u64;
        if pause_at.is_some_and(|at| offset >= at) {
            pause_at = None;
            println!("halfway");
            std::io::stdin().read_line(&mut String::new()).context("cannot wait")?;
        }
        Ok(n)
    })
}

impl Order {
    fn parse(arguments: &[String]) -> Result<Self> {
        let [take, put, source, destination, flags @ ..] = arguments else {
            bail!("usage: e2e move TAKE PUT SOURCE DESTINATION [--chunk BYTES] [--bytes BYTES] [--pause]");
        };
        let mut order = Self {
            take: take.clone(),
            put: put.clone(),
            source: source.clone(),
            destination: destination.clone(),
            chunk: 1 << 20,
            bytes: u64::MAX,
            pause: false,
            pause_at: None,
        };
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            let mut value = || flags.next().with_context(|| format!("{flag} wants a number"));
            match flag.as_str() {
                "--chunk" => order.chunk = value()?.parse().context("--chunk wants a number")?,
                "--bytes" => order.bytes = value()?.parse().context("--bytes wants a number")?,
                "--pause" => order.pause = true,
                "--pause-at" => order.pause_at = Some(value()?.parse().context("--pause-at wants a number")?),
                other => bail!("unknown flag {other}"),
            }
        }
        Ok(order)
    }
}

impl Destination {
    fn open(text: &str) -> Result<Self> {
        let address =
            |text: &str| text.parse::<SocketAddr>().with_context(|| format!("{text} is no address"));
        let (fd, peer) = match text.split_once(':') {
            Some(("tcp", to)) => {
                (OwnedFd::from(TcpStream::connect(address(to)?).context("cannot connect")?), None)
            }
            Some((kind @ ("udp" | "unconnected"), to)) => {
                let to = address(to)?;
                let any: SocketAddr =
                    if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
                let socket = UdpSocket::bind(any).context("cannot bind")?;
                if kind == "udp" {
                    socket.connect(to).context("cannot connect")?;
                }
                (OwnedFd::from(socket), (kind == "unconnected").then_some(to))
            }
            _ => {
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(text);
                (OwnedFd::from(file.with_context(|| format!("cannot make {text}"))?), None)
            }
        };
        Ok(Self { fd, peer })
    }

    /// Puts some of `bytes` by one call; how many.
    fn put(&self, call: &str, bytes: &[u8], offset: u64) -> Result<usize> {
        let fd = self.fd.as_fd();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let two = [IoSlice::new(first), IoSlice::new(second)];
        let flags = SendFlags::NOSIGNAL;
        let n = match (call, self.peer) {
            ("write", _) => rustix::io::write(fd, bytes)?,
            ("pwrite", _) => rustix::io::pwrite(fd, bytes, offset)?,
            ("writev", _) => rustix::io::writev(fd, &two)?,
            ("pwritev", _) => rustix::io::pwritev(fd, &two, offset)?,
            ("send", _) => send(fd, bytes, flags)?,
            ("sendto", Some(peer)) => sendto(fd, bytes, flags, &peer)?,
            ("sendto", None) => bail!("sendto wants an unconnected: destination"),
            ("sendmsg", None) => sendmsg(fd, &two, &mut SendAncillaryBuffer::default(), flags)?,
            ("sendmsg", Some(peer)) => {
                sendmsg_addr(fd, &peer, &two, &mut SendAncillaryBuffer::default(), flags)?
            }
            ("sendmmsg", _) => self.sendmmsg(bytes)?,
            (other, _) => bail!("unknown call {other}"),
        };
        Ok(n)
    }

    /// Two messages by one call; rustix has no wrapper for it.
    fn sendmmsg(&self, bytes: &[u8]) -> Result<usize> {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut slices = [first, second]
            .map(|half| libc::iovec { iov_base: half.as_ptr().cast_mut().cast(), iov_len: half.len() });
        let (mut name, name_len) = self.peer.map_or_else(|| (Vec::new(), 0), socket_address);
        let mut messages = slices.each_mut().map(|slice| {
            // SAFETY: all zeroes is a valid `mmsghdr`: null pointers with zero lengths.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
            if name_len > 0 {
                message.msg_hdr.msg_name = name.as_mut_ptr().cast();
                message.msg_hdr.msg_namelen = name_len;
            }
            message
        });
        // SAFETY: every pointer in `messages` leads into `slices`, `bytes` or `name`, which all outlive the call.
        let sent =
            unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), 2, libc::MSG_NOSIGNAL) };
        ensure!(sent >= 0, "sendmmsg: {}", std::io::Error::last_os_error());
        Ok(messages.iter().take(sent.unsigned_abs() as usize).map(|message| message.msg_len as usize).sum())
    }
}

/// A `sockaddr` as the kernel reads it.
fn socket_address(peer: SocketAddr) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    match peer {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend([0; 4]);
        }
    }
    let length = bytes.len() as u32;
    (bytes, length)
}

/// Takes chunk after chunk by the call that was ordered and hands each on until all of it was put.
fn each_chunk(
    order: &Order,
    source: &File,
    whole: Option<&[u8]>,
    length: u64,
    mut put: impl FnMut(&[u8]) -> Result<usize>,
) -> Result<()> {
    let mut buffer = vec![0; order.chunk];
    let mut offset = 0;
    while offset < length {
        let wanted = order.chunk.min(usize::try_from(length - offset)?);
        let mut taken: &[u8] = if let Some(whole) = whole {
            &whole[usize::try_from(offset)?..][..wanted]
        } else {
            let buffer = &mut buffer[..wanted];
            let n = match order.take.as_str() {
                "read" => rustix::io::read(source, &mut *buffer)?,
                "pread" => rustix::io::pread(source, &mut *buffer, offset)?,
                call @ ("readv" | "preadv") => {
                    let (first, second) = buffer.split_at_mut(wanted / 2);
                    let mut two = [IoSliceMut::new(first), IoSliceMut::new(second)];
                    if call == "readv" {
                        rustix::io::readv(source, &mut two)?
                    } else {
                        rustix::io::preadv(source, &mut two, offset)?
                    }
                }
                other => bail!("unknown call {other}"),
            };
            ensure!(n > 0, "the source ended after {offset} of {length} bytes");
            &buffer[..n]
        };
        offset += taken.len() as u64;
        while !taken.is_empty() {
            let n = put(taken)?;
            ensure!(n > 0, "nothing was put");
            taken = &taken[n..];
        }
    }
    Ok(())
}

/// Calls that take and put at once, or by way of a pipe.
fn through(order: &Order, source: &File, destination: &Destination, length: u64) -> Result<()> {
    let to = destination.fd.as_fd();
    let mut left = length;
    let (pipe_out, pipe_in) = rustix::pipe::pipe()?;
    let (second_out, second_in) = rustix::pipe::pipe()?;
    while left > 0 {
        let wanted = order.chunk.min(usize::try_from(left)?);
        let n = match order.take.as_str() {
            "sendfile" => rustix::fs::sendfile(to, source, None, wanted)?,
            "copy_file_range" => rustix::fs::copy_file_range(source, None, to, None, wanted)?,
            "splice" => {
                let n = splice(source, &pipe_in, wanted)?;
                drain(&pipe_out, to, n)?;
                n
            }
            "tee" => {
                // The copy goes to the destination, the original is thrown away.
                let n = splice(source, &pipe_in, wanted.min(1 << 16))?;
                let teed = rustix::pipe::tee(&pipe_out, &second_in, n, SpliceFlags::empty())?;
                ensure!(teed == n, "tee moved {teed} of {n} bytes");
                drain(&second_out, to, n)?;
                drain(&pipe_out, File::options().write(true).open("/dev/null")?.as_fd(), n)?;
                n
            }
            "vmsplice" => {
                // A socket keeps the very pages until the peer has acknowledged them, so they are never used again.
                let buffer = vec![0; wanted.min(1 << 16)].leak();
                let n = rustix::io::read(source, &mut *buffer)?;
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    // A pipe has room for 16 pages, and a buffer that is not aligned lies on 17.
                    let slice = IoSliceRaw::from_slice(rest);
                    // SAFETY: nothing writes to the leaked buffer after this.
                    let given = unsafe { rustix::pipe::vmsplice(&pipe_in, &[slice], SpliceFlags::empty()) }?;
                    drain(&pipe_out, to, given)?;
                    rest = &rest[given..];
                }
                n
            }
            other => bail!("unknown call {other}"),
        };
        ensure!(n > 0, "the source ended {left} bytes early");
        left -= n as u64;
    }
    Ok(())
}

fn splice(from: impl AsFd, to: impl AsFd, wanted: usize) -> Result<usize> {
    Ok(rustix::pipe::splice(from, None, to, None, wanted, SpliceFlags::empty())?)
}

fn drain(pipe: &OwnedFd, to: impl AsFd, mut left: usize) -> Result<()> {
    while left > 0 {
        left -= splice(pipe, &to, left)?;
    }
    Ok(())
}

fn map_source(source: &File, length: u64) -> Result<&'static [u8]> {
    let length = usize::try_from(length)?;
    // SAFETY: a new mapping at an address of the kernel's choice; it is never unmapped, so the slice may live for ever.
    // Nobody truncates the source while this process runs.
    unsafe {
        let map = mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, source, 0)?;
        Ok(std::slice::from_raw_parts(map.cast(), length))
    }
}

fn map_destination(destination: &Destination, length: u64) -> Result<&'static mut [u8]> {
    rustix::fs::ftruncate(&destination.fd, length)?;
    let length = usize::try_from(length)?;
    // SAFETY: as for the source; this process is the only one that has the destination open.
    unsafe {
        let map = mmap(
            ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &destination.fd,
            0,
        )?;
        Ok(std::slice::from_raw_parts_mut(map.cast(), length))
    }
}
