"""Reads a little of OTHER, and moves SOURCE without ever opening it: HOW SOURCE OTHER, and where to.

- stored COPY: a child stores it into memory that both have, and this process writes that into COPY by one call;
- spliced ADDRESS PORT: a child puts it into a pipe, out of which this process moves it into a connection, a whole pipe with each call.
"""
import fcntl
import mmap
import os
import socket
import sys

F_SETPIPE_SZ = 1031
ROOM = 1 << 20
how, source, other = sys.argv[1:4]
memory = mmap.mmap(-1, os.stat(source).st_size)
read_end, write_end = os.pipe()
fcntl.fcntl(write_end, F_SETPIPE_SZ, ROOM)

with open(other, "rb", buffering=0) as file:
    file.read(100)


def store():
    with open(source, "rb", buffering=0) as file:
        whole = memoryview(memory)
        while whole:
            whole = whole[file.readinto(whole) :]


def fill():
    with open(source, "rb", buffering=0) as file:
        while os.splice(file.fileno(), write_end, ROOM):
            pass


child = os.fork()
if child == 0:
    store() if how == "stored" else fill()
    os._exit(0)
os.close(write_end)
if how == "stored":
    os.waitpid(child, 0)
    copy = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT, 0o600)
    if os.write(copy, memory) != len(memory):
        sys.exit("it takes more than one call")
else:
    out = socket.create_connection((sys.argv[4], int(sys.argv[5])))
    while os.splice(read_end, out.fileno(), ROOM):
        pass
