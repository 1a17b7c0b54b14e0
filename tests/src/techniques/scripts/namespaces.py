"""A relay in another network namespace: takes SOURCE here, sends it to a process behind NAMESPACE, which writes COPY.

The receiver is forked before anything is taken: only the connection links it to the bytes. GO is a FIFO that the caller opens once
the connection that is there may be used (kind tcp_older).
"""

import ctypes
import os
import socket
import sys

KIND, NAMESPACE, SOURCE, COPY, GO = sys.argv[1:6]
libc = ctypes.CDLL(None, use_errno=True)
SIZE = os.stat(SOURCE).st_size
V6 = KIND.endswith("_v6")
FAMILY = socket.AF_INET6 if V6 else socket.AF_INET
HERE, THERE = ("2001:db8::1", "2001:db8::2") if V6 else ("10.20.0.1", "10.20.0.2")
CHUNK = 32000 if "fragments" in KIND else 1200


def roomy(sock):
    # SO_RCVBUFFORCE, SO_SNDBUFFORCE.
    sock.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)
    sock.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)
    return sock


def move():
    fd = os.open(NAMESPACE, os.O_RDONLY)
    if libc.setns(fd, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def bound(address, kind=socket.SOCK_STREAM):
    sock = roomy(socket.socket(FAMILY, kind))
    sock.bind((address, 0))
    return sock


def told(sock, into):
    os.write(into, b"%d\n" % sock.getsockname()[1])


def asked(out):
    return int(os.read(out, 16))


def received(sock):
    while chunk := sock.recv(1 << 16):
        yield chunk


def datagrams(sock):
    left = SIZE
    while left > 0:
        chunk = sock.recv(1 << 16)
        left -= len(chunk)
        yield chunk


def listener(address):
    sock = bound(address)
    if "deferred" in KIND:
        # Its end of the connection comes to be with the first bytes: by then the sender has sent them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 20)
    sock.listen()
    return sock


def relay(out, into):
    """The other end: nothing of the model but what comes to it."""
    move()
    if KIND.startswith("udp"):
        sock = bound("", socket.SOCK_DGRAM)
        told(sock, into)
        chunks = datagrams(sock)
    elif "accepted" in KIND:
        sock = roomy(socket.socket(FAMILY))
        sock.connect((HERE, asked(out)))
        chunks = received(sock)
    else:
        sock = listener("" if "deferred" in KIND else THERE)
        told(sock, into)
        chunks = received(sock.accept()[0])
    with open(COPY, "wb") as copy:
        for chunk in chunks:
            copy.write(chunk)


def connection(out, into):
    if KIND.startswith("udp"):
        sock = roomy(socket.socket(FAMILY, socket.SOCK_DGRAM))
        to = (THERE, asked(out))
        return sock, lambda chunk: sock.sendto(chunk, to)
    if "accepted" in KIND:
        sock = listener(HERE)
        told(sock, into)
        sock = sock.accept()[0]
    else:
        sock = roomy(socket.socket(FAMILY))
        sock.connect((THERE, asked(out)))
    return sock, sock.sendall


to_relay, from_relay = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    relay(to_relay[0], from_relay[1])
    os._exit(0)
sock, send = connection(from_relay[0], to_relay[1])
if KIND == "tcp_older":
    print("ready", flush=True)
    open(GO).close()
with open(SOURCE, "rb") as source:
    if "udp" in KIND:
        while chunk := source.read(CHUNK):
            send(chunk)
    else:
        # One call, which the receiver reads from before it returns.
        send(source.read())
sock.close()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
