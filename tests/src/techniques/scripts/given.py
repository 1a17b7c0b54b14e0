"""Puts pages somewhere by reference, and lets the bytes of SOURCE come into them afterwards.

usage: given.py WAY SOURCE ADDRESS PORT FILLED. given_pipe: a child that was forked before sends what it finds in the pipe.
zerocopy_tcp: the peer reads nothing before it sees the file FILLED.
"""

import ctypes
import fcntl
import mmap
import os
import socket
import sys

WAY, SOURCE, ADDRESS, PORT, FILLED = sys.argv[1:6]
SIZE = os.stat(SOURCE).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.vmsplice.restype = ctypes.c_ssize_t
# What a pipe has room for without special rights.
PIPE = 1 << 20


def pages():
    """Of this process alone, and each of its own: what is written to later is not copied before."""
    room = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.write(b"\1" * SIZE)
    return room


def fill(room):
    view = memoryview(room)
    with open(SOURCE, "rb", buffering=0) as source:
        done = 0
        while done < SIZE:
            done += source.readinto(view[done:])


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def given_pipe():
    pipes = [os.pipe() for _ in range(0, SIZE, PIPE)]
    for _, into in pipes:
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE)
    turn, go = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        libc.prctl(1, 9)  # PR_SET_PDEATHSIG: it does not outlive a parent that failed.
        if os.getppid() != parent:
            os._exit(1)
        for _, into in pipes:
            os.close(into)
        os.close(go)
        os.read(turn, 1)
        with socket.create_connection((ADDRESS, int(PORT))) as peer:
            for out, _ in pipes:
                while chunk := os.read(out, 1 << 16):
                    peer.sendall(chunk)
        os._exit(0)
    room = pages()
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for number, (out, into) in enumerate(pipes):
        given, end = number * PIPE, min(number * PIPE + PIPE, SIZE)
        while given < end:
            n = libc.vmsplice(into, ctypes.byref(Vector(address + given, end - given)), 1, 0)
            if n < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            given += n
        # Nothing that it has open leads to the child any more when the bytes come.
        os.close(into)
        os.close(out)
    fill(room)
    os.close(go)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def zerocopy_tcp():
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
    peer.setsockopt(socket.SOL_SOCKET, 32, 256 << 20)  # SO_SNDBUFFORCE
    peer.connect((ADDRESS, int(PORT)))
    room, sent = pages(), 0
    view = memoryview(room)
    while sent < SIZE:
        sent += peer.send(view[sent : sent + (1 << 20)], 0x4000000)  # MSG_ZEROCOPY
    fill(room)
    open(FILLED, "x").close()
    # It closes when it has all.
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)


{"given_pipe": given_pipe, "zerocopy_tcp": zerocopy_tcp}[WAY]()
