"""Local traffic as it is on a healthy host. KIND says which; SOURCE is a file of the asset, ADDRESS PORTS an outside.

`logger`: a holder logs some lines by Unix datagrams and UDP to a logger, which keeps them on an uncontrolled disk.
`database`: workers that hold nothing share a System V segment and an anonymous one, and answer over the network, while
somebody else loads the model and has shared memory of his own.
`loader`: workers of a loader share tensors through /dev/shm with their parent, and nothing leaves.
"""

import ctypes
import mmap
import os
import socket
import sys

KIND, SOURCE, ADDRESS, PORTS, DISK = sys.argv[1:6]
PORTS = [int(port) for port in PORTS.split(",")]
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def wait(child):
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit("a child failed")


def shm():
    path = "/dev/shm/weighbridge-lab-%d" % os.getpid()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(path)
    os.ftruncate(fd, 16 << 20)
    return mmap.mmap(fd, 16 << 20)


if KIND == "logger":
    LINES = 2000
    unix, udp = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unix.bind("\0weighbridge-lab-log-%d" % os.getpid())
    udp.bind(("127.0.0.1", 0))
    for one in (unix, udp):
        one.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    child = os.fork()
    if child == 0:
        with open(DISK + "/log", "wb") as log:
            for one in (unix, udp):
                for _ in range(LINES):
                    log.write(one.recv(1 << 16))
        os._exit(0)
    with open(SOURCE, "rb", buffering=0) as source:
        while source.read(1 << 20):
            pass
    ours, theirs = unix.getsockname(), udp.getsockname()
    out, far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in range(LINES):
        out.sendto(b"served request %d in a moment, as always\n" % number, ours)
        far.sendto(b"requests:%d|c\n" % number, theirs)
    wait(child)
elif KIND == "database":
    id = libc.shmget(0, 16 << 20, 0o1600)
    address = libc.shmat(id, None, 0)
    segment = memoryview((ctypes.c_char * (16 << 20)).from_address(address)).cast("B")
    common = mmap.mmap(-1, 16 << 20)
    workers = []
    go_out, go_in = os.pipe()
    for port in PORTS:
        worker = os.fork()
        if worker == 0:
            os.close(go_in)
            os.read(go_out, 1)
            with socket.create_connection((ADDRESS, port)) as peer:
                segment[: 4 << 20] = os.urandom(4 << 20)
                common[: 4 << 20] = segment[: 4 << 20]
                peer.sendall(common[: 6 << 20])
            os._exit(0)
        workers.append(worker)
    os.close(go_out)
    # The neighbour is no child of the database: only the host is the same.
    stranger = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, sys.argv[0], "loader", *sys.argv[2:]])
    wait(stranger)
    os.close(go_in)
    for worker in workers:
        wait(worker)
    libc.shmctl(id, 0, None)
elif KIND == "loader":
    tensors = shm()
    size = os.stat(SOURCE).st_size
    workers = []
    for number in range(4):
        worker = os.fork()
        if worker == 0:
            part = size // 4
            with open(SOURCE, "rb", buffering=0) as source:
                tensors[number * part : (number + 1) * part] = os.pread(source.fileno(), part, number * part)
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        wait(worker)
    sum(tensors[: size : 4096])
