"""Takes SOURCE in one process, hands it to another through one kind of channel, which sends it to ADDRESS PORT.

The receiver is forked before anything is taken: only the channel links it to the bytes.
"""

import ctypes
import os
import pty
import select
import socket
import struct
import sys
import tty

KIND, SOURCE, ADDRESS, PORT, WORK = sys.argv[1:6]
# What fits into an attribute of any file system, into a key and into a datagram.
CHUNK = {"attributes": 3000, "attributes_by_requests": 3000, "udp_broadcast": 1400}.get(KIND, 32000)
SIZE = os.stat(SOURCE).st_size
libc = ctypes.CDLL(None, use_errno=True)
connections = []


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def roomy(sock):
    # SO_RCVBUFFORCE, SO_SNDBUFFORCE: nothing is dropped.
    sock.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
    sock.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)
    return sock


def datagrams(receiver, send):
    """A receiver that was bound before the fork, and how the sender sends."""

    def receive():
        left = SIZE
        while left > 0:
            chunk = receiver.recv(1 << 16)
            left -= len(chunk)
            yield chunk

    return receive, send


def unix_bound(address, connect):
    receiver = roomy(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    receiver.bind(address)
    sender = roomy(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    if connect:
        sender.connect(address)
        return datagrams(receiver, lambda chunk: sender.send(chunk))
    return datagrams(receiver, lambda chunk: sender.sendto(chunk, address))


def unix_pair(kind):
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    return datagrams(roomy(theirs), roomy(ours).send)


def unix_watched():
    """Who has a block device open is watched, and what he sends through may bring descriptors; later he holds what he sends there."""
    ours, theirs = socket.socketpair()
    device = os.open("/dev/loop0", os.O_RDONLY)
    ours.send(b".")
    theirs.recv(1)
    os.close(device)
    return datagrams(roomy(theirs), roomy(ours).sendall)


def unix_override():
    """Connected to one, the bytes go to another."""
    decoy = roomy(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    decoy.bind(WORK + "/decoy")
    receiver = roomy(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    receiver.bind(WORK + "/real")
    sender = roomy(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    sender.connect(WORK + "/decoy")
    return datagrams(receiver, lambda chunk: sender.sendmsg([chunk], [], 0, WORK + "/real"))


def udp(family, address, how):
    receiver = roomy(socket.socket(family, socket.SOCK_DGRAM))
    receiver.bind((address, 0) if how != "any" else ("", 0))
    to = (address, receiver.getsockname()[1])
    sender = roomy(socket.socket(family, socket.SOCK_DGRAM))
    if how == "any":
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if how == "connected":
        sender.connect(to)
        return datagrams(receiver, sender.send)
    if how == "sendmsg":
        return datagrams(receiver, lambda chunk: sender.sendmsg([chunk], [], 0, to))
    return datagrams(receiver, lambda chunk: sender.sendto(chunk, to))


def without_a_copy(connection):
    """getsockopt(TCP_ZEROCOPY_RECEIVE): what is too little for whole pages comes into a buffer, which has room for all."""
    room, length = ctypes.create_string_buffer(1 << 24), ctypes.c_uint32(64)
    # struct tcp_zerocopy_receive: address, length, hint, queued, error, buffer, its length and what came into it, flags, …
    asked = ctypes.create_string_buffer(struct.pack("<QIIiiQiIQQII", 0, 0, 0, 0, 0, ctypes.addressof(room), len(room), 0, 0, 0, 0, 0))
    check(libc.getsockopt(connection.fileno(), socket.IPPROTO_TCP, 35, asked, ctypes.byref(length)))
    return room.raw[: struct.unpack_from("<i", asked, 32)[0]]


def tcp(family, source, address, zero_copy=False, spliced=False, to_v6=False):
    listener = socket.socket(socket.AF_INET6 if to_v6 else family, socket.SOCK_STREAM)
    if to_v6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::" if to_v6 else address, 0))
    listener.listen()
    to = (address, listener.getsockname()[1])

    def receive():
        connection, _ = listener.accept()
        left = SIZE if zero_copy else 0
        while left > 0:
            select.select([connection], [], [])
            chunk = without_a_copy(connection)
            left -= len(chunk)
            yield chunk
        out, into = os.pipe() if spliced else (-1, -1)
        while spliced and os.splice(connection.fileno(), into, 1 << 16):
            yield os.read(out, 1 << 16)
        while chunk := connection.recv(1 << 16):
            yield chunk

    def send(chunk):
        if not connections:
            connections.append(socket.socket(family, socket.SOCK_STREAM))
            if source:
                connections[0].bind((source, 0))
            connections[0].connect(to)
        connections[0].sendall(chunk)

    return receive, send


def netlink():
    receiver = roomy(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2))  # NETLINK_USERSOCK
    receiver.bind((0, 0))
    sender = roomy(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2))
    return datagrams(receiver, lambda chunk: sender.sendto(chunk, (receiver.getsockname()[0], 0)))


def posix_queue():
    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_long) for name in ("flags", "most", "size", "now", "a", "b", "c", "d")]

    name = b"/weighbridge-lab-%d" % os.getpid()
    attributes = Attributes(0, 10, 8192)
    queue = check(libc.mq_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, ctypes.byref(attributes)))
    check(libc.mq_unlink(name))

    def receive():
        left, room = SIZE, ctypes.create_string_buffer(8192)
        while left > 0:
            n = check(libc.mq_receive(queue, room, 8192, None))
            left -= n
            yield room.raw[:n]

    def send(chunk):
        for at in range(0, len(chunk), 8192):
            part = chunk[at : at + 8192]
            check(libc.mq_send(queue, part, len(part), 0))

    return receive, send


def system_v_queue():
    queue = check(libc.msgget(0, 0o1600))

    def receive():
        left, room = SIZE, ctypes.create_string_buffer(8 + 8192)
        while left > 0:
            n = check(libc.msgrcv(queue, room, 8192, 0, 0))
            left -= n
            yield room.raw[8 : 8 + n]
        libc.msgctl(queue, 0, None)

    def send(chunk):
        for at in range(0, len(chunk), 8192):
            part = chunk[at : at + 8192]
            check(libc.msgsnd(queue, struct.pack("q", 1) + part, len(part), 0))

    return receive, send


def in_turns(put, get):
    """One slot that is used again and again; a byte on a pipe says whose turn it is."""
    full_out, full_in = os.pipe()
    empty_out, empty_in = os.pipe()

    def receive():
        left = SIZE
        while left > 0:
            note = os.read(full_out, 64)
            chunk = get(note)
            left -= len(chunk)
            os.write(empty_in, b".")
            yield chunk

    def send(chunk):
        os.write(full_in, put(chunk))
        os.read(empty_out, 1)

    return receive, send


def keys():
    ring = -4  # KEY_SPEC_USER_KEYRING

    def put(chunk):
        serial = libc.syscall(248, b"user", b"weighbridge-lab", chunk, ctypes.c_size_t(len(chunk)), ring)
        return b"%d" % check(serial)

    def get(note):
        room = ctypes.create_string_buffer(1 << 16)
        n = check(libc.syscall(250, ctypes.c_long(11), ctypes.c_long(int(note)), room, ctypes.c_long(1 << 16)))
        # KEYCTL_INVALIDATE: the next one is a key of its own.
        check(libc.syscall(250, ctypes.c_long(21), ctypes.c_long(int(note))))
        return room.raw[:n]

    return in_turns(put, get)


def attributes():
    path = WORK + "/carrier"
    open(path, "w").close()

    def put(chunk):
        os.setxattr(path, "user.weighbridge", chunk)
        return b"."

    return in_turns(put, lambda _: os.getxattr(path, "user.weighbridge"))


def attributes_by_requests():
    """The same by requests of io_uring, of a ring for each process."""
    import uring

    FSETXATTR, FGETXATTR = 41, 43
    name, room = ctypes.create_string_buffer(b"user.weighbridge"), ctypes.create_string_buffer(1 << 16)
    path, rings = WORK + "/carrier", {}
    open(path, "w").close()

    def ask(operation, length):
        ring, file = rings.get(os.getpid()) or rings.setdefault(os.getpid(), (uring.Ring(), os.open(path, os.O_RDWR)))
        return ring.do(operation, file, ctypes.addressof(name), length, ctypes.addressof(room))

    def put(chunk):
        ctypes.memmove(room, chunk, len(chunk))
        ask(FSETXATTR, len(chunk))
        return b"."

    def get(_):
        length = ask(FGETXATTR, len(room))
        return room.raw[:length]

    return in_turns(put, get)


def terminal(writer):
    master, slave = pty.openpty()
    tty.setraw(slave)
    ends = (master, slave) if writer == "master" else (slave, master)

    def receive():
        left = SIZE
        while left > 0:
            chunk = os.read(ends[1], 1 << 16)
            left -= len(chunk)
            yield chunk

    def send(chunk):
        while chunk:
            chunk = chunk[os.write(ends[0], chunk) :]

    return receive, send


receive, send = {
    "unix_datagram_pair": lambda: unix_pair(socket.SOCK_DGRAM),
    "unix_watched": unix_watched,
    "unix_seqpacket": lambda: unix_pair(socket.SOCK_SEQPACKET),
    "unix_datagram_path": lambda: unix_bound(WORK + "/socket", False),
    "unix_datagram_abstract": lambda: unix_bound("\0weighbridge-lab-%d" % os.getpid(), False),
    "unix_datagram_connected": lambda: unix_bound(WORK + "/socket", True),
    "unix_datagram_override": unix_override,
    "udp": lambda: udp(socket.AF_INET, "127.0.0.1", "sendto"),
    "udp_sendmsg": lambda: udp(socket.AF_INET, "127.0.0.1", "sendmsg"),
    "udp_connected": lambda: udp(socket.AF_INET, "127.0.0.1", "connected"),
    "udp_own_address": lambda: udp(socket.AF_INET, "198.51.100.1", "sendto"),
    "udp_any": lambda: udp(socket.AF_INET, "127.0.0.1", "any"),
    "udp_broadcast": lambda: udp(socket.AF_INET, "10.20.255.255", "any"),
    "udp_v6": lambda: udp(socket.AF_INET6, "::1", "sendto"),
    "udp_v6_connected": lambda: udp(socket.AF_INET6, "::1", "connected"),
    "tcp_other_loopback": lambda: tcp(socket.AF_INET, None, "127.9.8.7"),
    "tcp_zero_copy": lambda: tcp(socket.AF_INET, None, "127.0.0.1", True),
    "tcp_v6": lambda: tcp(socket.AF_INET6, None, "::1"),
    "tcp_own_address": lambda: tcp(socket.AF_INET, None, "198.51.100.1"),
    "tcp_between_own_addresses": lambda: tcp(socket.AF_INET, "198.51.100.1", "10.20.0.1"),
    "tcp_spliced": lambda: tcp(socket.AF_INET, None, "127.0.0.1", spliced=True),
    "tcp_v4_to_v6": lambda: tcp(socket.AF_INET, None, "127.0.0.1", to_v6=True),
    "tcp_between_own_addresses_v6": lambda: tcp(socket.AF_INET6, "::1", "2001:db8::1"),
    "tcp_own_address_v6": lambda: tcp(socket.AF_INET6, None, "2001:db8::1"),
    "netlink": netlink,
    "posix_queue": posix_queue,
    "system_v_queue": system_v_queue,
    "keys": keys,
    "attributes": attributes,
    "attributes_by_requests": attributes_by_requests,
    "terminal_master": lambda: terminal("master"),
    "terminal_slave": lambda: terminal("slave"),
}[KIND]()
parent = os.getpid()
child = os.fork()
if child == 0:
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG: it does not outlive a parent that failed.
    if os.getppid() != parent:
        os._exit(1)
    peer = None
    for piece in receive():
        peer = peer or socket.create_connection((ADDRESS, int(PORT)))
        peer.sendall(piece)
    os._exit(0)
with open(SOURCE, "rb", buffering=0) as source:
    while chunk := source.read(CHUNK):
        send(chunk)
if KIND.startswith("tcp"):
    # The other end sees the end of it.
    connections.pop().close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
