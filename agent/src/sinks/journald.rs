//! Alerts as structured entries of the systemd journal, over its native datagram protocol (systemd's
//! `docs/JOURNAL_NATIVE_PROTOCOL.md`): no library, no subprocess.
//!
//! An entry that is larger than a datagram goes as a sealed memfd, which journald maps and nobody can change any more.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rustix::{
    fs::{MemfdFlags, SealFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix},
};

use super::{
    inbox::Inbox,
    relay::{self, Attempt, Parcel, Transport, Verdict},
};
use crate::{alerts::Alert, rules::Severity};

const SOCKET: &str = "/run/systemd/journal/socket";
/// `journalctl MESSAGE_ID=…` finds all alerts by it.
const MESSAGE_ID: &str = "8e01c3b4e82e4212af7140291f21ea41";
/// A journal that does not read for so long is asked again later.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Journal {
    socket: PathBuf,
}

/// Starts the thread of the journal.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(spools: &Path) -> io::Result<Inbox<Parcel>> {
    relay::start(Journal { socket: PathBuf::from(SOCKET) }, "journald", spools, "journald")
}

/// The entry as it goes over the socket.
pub(super) fn parcel(alert: &Alert) -> Parcel {
    let matched = &*alert.matched;
    let head = alert.head;
    let hash: String = head.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = &alert.line[..alert.line.len().saturating_sub(1)];
    let mut entry = Vec::with_capacity(line.len() + 1024);
    for (name, value) in [
        ("MESSAGE", alert.finding.message.as_bytes()),
        ("MESSAGE_ID", MESSAGE_ID.as_bytes()),
        ("PRIORITY", priority(matched.severity).as_bytes()),
        ("SYSLOG_IDENTIFIER", b"weighbridge"),
        ("WEIGHBRIDGE_RULE", matched.rule.id.as_bytes()),
        ("WEIGHBRIDGE_SEVERITY", matched.severity.as_str().as_bytes()),
        ("WEIGHBRIDGE_ASSET", matched.record.asset.name.as_bytes()),
        ("WEIGHBRIDGE_BOUND_BYTES", matched.bound_bytes.to_string().as_bytes()),
        ("WEIGHBRIDGE_FINDING", alert.finding.finding_info.uid.as_bytes()),
        ("WEIGHBRIDGE_PID", alert.process().pid.to_string().as_bytes()),
        ("WEIGHBRIDGE_EXE", alert.process().exe.as_bytes()),
        ("WEIGHBRIDGE_SEQUENCE", head.seq.to_string().as_bytes()),
        ("WEIGHBRIDGE_HASH", hash.as_bytes()),
        ("WEIGHBRIDGE_OCSF", line),
    ] {
        field(&mut entry, name, value);
    }
    Parcel { severity: matched.severity, payload: Bytes::from(entry) }
}

impl Transport for Journal {
    fn deliver(self: Arc<Self>, payload: Bytes) -> Attempt {
        // Blocks for two seconds at most, on the thread of this sink.
        let verdict = match send(&self.socket, &payload) {
            Ok(()) => Verdict::Taken,
            Err(error) => Verdict::Failed(format!("{}: {error}", self.socket.display())),
        };
        Box::pin(std::future::ready(verdict))
    }
}

fn send(to: &Path, entry: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match socket.send_to(entry, to) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => {
            send_sealed(&socket, to, entry)
        }
        Err(error) => Err(error),
    }
}

fn send_sealed(socket: &UnixDatagram, to: &Path, entry: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("weighbridge-journal", flags)?);
    file.write_all(entry)?;
    // Journald takes only what cannot change under it.
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    let address = SocketAddrUnix::new(to)?;
    let descriptors = [file.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for one descriptor"));
    }
    rustix::net::sendmsg_addr(socket, &address, &[IoSlice::new(&[])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `NAME=value`, or the form with a length when the value has line feeds: a value can never start a field of its own.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// A syslog level: 2 critical, 3 error, 4 warning, 5 notice, 6 informational.
const fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "2",
        Severity::High => "3",
        Severity::Medium => "4",
        Severity::Low => "5",
        Severity::Informational => "6",
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _, io::Seek as _};

    use proptest::prelude::*;

    use super::*;

    /// As journald reads an entry.
    fn parse(mut entry: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|&c| c == b'\n' || c == b'=')?;
            let name = String::from_utf8(entry[..end].to_vec()).ok()?;
            let (value, rest) = if entry[end] == b'=' {
                let feed = entry.iter().position(|&c| c == b'\n')?;
                (&entry[end + 1..feed], &entry[feed + 1..])
            } else {
                let (length, rest) = entry[end + 1..].split_at_checked(8)?;
                let (value, rest) =
                    rest.split_at_checked(u64::from_le_bytes(length.try_into().ok()?) as usize)?;
                (value, rest.strip_prefix(b"\n")?)
            };
            fields.push((name, value.to_vec()));
            entry = rest;
        }
        Some(fields)
    }

    #[test]
    fn a_large_entry_arrives_as_a_sealed_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let large = vec![b'x'; 8 << 20];
        send(&path, &large).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(&journal, &mut [], &mut control, rustix::net::RecvFlags::empty()).unwrap();
        let received = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let mut file = File::from(received.expect("a descriptor"));
        assert!(file.write_all(b"y").is_err(), "sealed");
        let mut read = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == large);
        send(&path, b"MESSAGE=small\n").unwrap();
        let mut small = [0; 64];
        let count = journal.recv(&mut small).unwrap();
        assert_eq!(&small[..count], b"MESSAGE=small\n");
    }

    #[test]
    fn a_journal_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(send(&dir.path().join("socket"), b"MESSAGE=x\n").is_err());
    }

    proptest! {
        #[test]
        fn no_value_makes_a_field_of_its_own(values in prop::collection::btree_map("[A-Z_]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let mut entry = Vec::new();
            for (name, value) in &values {
                field(&mut entry, name, value);
            }
            let read: BTreeMap<String, Vec<u8>> = parse(&entry).unwrap().into_iter().collect();
            prop_assert_eq!(read, values);
        }
    }
}
