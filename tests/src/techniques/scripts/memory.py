"""Takes SOURCE in one process and hands it to another through memory, which sends it to ADDRESS PORT.

Towards the reader there are only loads and stores: it looks at a word in the memory to learn that there is something new. What
it says in return goes over a pipe. With one more argument it says `ready` once the reader is there, and waits for a line
before anything is taken.
"""

import ctypes
import mmap
import os
import socket
import struct
import sys

KIND, SOURCE, ADDRESS, PORT, WORK = sys.argv[1:6]
SIZE = os.stat(SOURCE).st_size
ROOM = 1 << 14 if KIND in ("small_ring", "ordinary_file") else 1 << 20
ALL = 4096 + ROOM
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class Mapped:
    """Reads and writes one piece of memory by loads and stores."""

    def __init__(self, memory):
        self.memory = memory

    def load(self, at, n):
        return bytes(self.memory[at : at + n])

    def store(self, at, data):
        self.memory[at : at + len(data)] = data


class Called:
    """The same by calls on a descriptor."""

    def __init__(self, fd):
        self.fd = fd

    def load(self, at, n):
        return os.pread(self.fd, n, at)

    def store(self, at, data):
        os.pwrite(self.fd, data, at)


def named(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, ALL)
    return fd


def shm(number=0):
    path = "/dev/shm/weighbridge-lab-%d-%d" % (os.getpid(), number)
    fd = named(path)
    os.unlink(path)
    return fd


def attached(id):
    address = libc.shmat(id, None, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmat")
    return Mapped(memoryview((ctypes.c_char * ALL).from_address(address)).cast("B"))


kept = []
private = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ}
# How the reader and the writer come by the memory.
if KIND in ("posix_shm", "small_ring", "grandchild"):
    fd = shm()
    reader = writer = lambda: Mapped(mmap.mmap(fd, ALL))
elif KIND == "private_reader":
    fd = shm()
    reader, writer = lambda: Mapped(mmap.mmap(fd, ALL, **private)), lambda: Mapped(mmap.mmap(fd, ALL))
elif KIND == "stored_then_read":
    fd = shm()
    reader, writer = lambda: Called(fd), lambda: Mapped(mmap.mmap(fd, ALL))
elif KIND == "written_then_loaded":
    fd = shm()
    reader, writer = lambda: Mapped(mmap.mmap(fd, ALL)), lambda: Called(fd)
elif KIND == "many_objects":
    others = [shm(number) for number in range(1, 13)]
    fd = shm()

    def reader():
        kept.extend(mmap.mmap(other, ALL) for other in others)
        return Mapped(mmap.mmap(fd, ALL))

    writer = reader
elif KIND in ("memfd", "late_reader"):
    fd = os.memfd_create("stage")
    os.ftruncate(fd, ALL)
    reader = writer = lambda: Mapped(mmap.mmap(fd, ALL))
elif KIND == "system_v":
    id = libc.shmget(0, ALL, 0o1600)
    reader = writer = lambda: attached(id)
elif KIND == "anonymous":
    memory = Mapped(mmap.mmap(-1, ALL))
    reader = writer = lambda: memory
elif KIND == "zero_device":
    memory = Mapped(mmap.mmap(os.open("/dev/zero", os.O_RDWR), ALL))
    reader = writer = lambda: memory
elif KIND == "ring_of_io_uring":
    # io_uring_setup of 32,768 entries of 64 bytes; their queue is mapped at IORING_OFF_SQES, and whole.
    fd = libc.syscall(425, 32768, ctypes.create_string_buffer(120))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    reader = writer = lambda: Mapped(mmap.mmap(fd, 32768 * 64, offset=0x10000000))
elif KIND == "ordinary_file":
    fd = named(WORK + "/index.db")
    reader = writer = lambda: Mapped(mmap.mmap(fd, ALL))
else:
    sys.exit("unknown kind " + KIND)

ack_out, ack_in = os.pipe()
parent = os.getpid()
child = os.fork()
if child == 0:
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG: it does not outlive a parent that failed.
    if os.getppid() != parent:
        os._exit(1)
    if KIND == "grandchild" and (inner := os.fork()):
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    if KIND == "late_reader":
        while struct.unpack("I", os.pread(fd, 4, 0))[0] == 0:
            os.sched_yield()
    memory = reader()
    os.write(ack_in, b".")
    left, turn, peer = SIZE, 1, None
    while left > 0:
        while True:
            now, n = struct.unpack("II", memory.load(0, 8))
            if now == turn:
                break
            os.sched_yield()
        data = memory.load(4096, n)
        os.write(ack_in, b".")
        turn += 1
        left -= n
        peer = peer or socket.create_connection((ADDRESS, int(PORT)))
        peer.sendall(data)
    os._exit(0)
os.close(ack_in)
memory = writer()
if KIND != "late_reader":
    os.read(ack_out, 1)
if len(sys.argv) > 6:
    print("ready", flush=True)
    sys.stdin.readline()
with open(SOURCE, "rb", buffering=0) as source:
    turn = 0
    while chunk := source.read(ROOM):
        turn += 1
        memory.store(4096, chunk)
        memory.store(0, struct.pack("II", turn, len(chunk)))
        if KIND == "late_reader" and turn == 1:
            os.read(ack_out, 1)
        os.read(ack_out, 1)
if KIND == "system_v":
    libc.shmctl(id, 0, None)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
