"""Takes bytes out of another process: reach.py HOW PID ADDRESS SIZE DESTINATION; or puts some there (HOW is `write`).

With `-early` behind HOW it says `ready` and reads PID, ADDRESS and SIZE from a line: it is older than what there is to take, and
nobody who came to hold something since is above it.
"""
import ctypes
import os
import struct
import sys

how, pid, address, size, destination = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
CHUNK = 1 << 20
PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 16, 17


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


if how.endswith("-early"):
    how = how.removesuffix("-early")
    print("ready", flush=True)
    pid, address, size = map(int, sys.stdin.readline().split())


def refused(what):
    print("the kernel refuses", what, os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(77)


def by_vm(at, length):
    local = ctypes.create_string_buffer(length)
    mine, theirs = Vector(ctypes.addressof(local), length), Vector(at, length)
    if libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) != length:
        refused("process_vm_readv")
    return local.raw


def by_mem(at, length):
    return os.pread(memory, length, at)


def by_peek(at, length):
    return b"".join(
        struct.pack("l", libc.ptrace(PTRACE_PEEKDATA, pid, at + offset, 0)) for offset in range(0, length, 8)
    )


if how == "write":
    local = ctypes.create_string_buffer(size)
    mine, theirs = Vector(ctypes.addressof(local), size), Vector(address, size)
    if libc.process_vm_writev(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0) != size:
        refused("process_vm_writev")
    sys.exit()
if how == "mem-opened":
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    print("open", flush=True)
    address, size = map(int, sys.stdin.readline().split())
elif how == "mem":
    # By way of a thread's directory.
    memory = os.open(f"/proc/{pid}/task/{pid}/mem", os.O_RDONLY)
elif how == "uring":
    import uring

    path = ctypes.create_string_buffer(f"/proc/{pid}/mem".encode())
    memory = uring.Ring().do(uring.OPENAT, -100, ctypes.addressof(path), 0, 0)
elif how == "peek":
    if libc.ptrace(PTRACE_ATTACH, pid, 0, 0) != 0:
        refused("ptrace")
    os.waitpid(pid, 0x40000000)
take = {"vm": by_vm, "peek": by_peek}.get(how, by_mem)
with open(destination, "wb", buffering=0) as copy:
    for at in range(address, address + size, CHUNK):
        copy.write(take(at, min(CHUNK, address + size - at)))
if how == "peek":
    libc.ptrace(PTRACE_DETACH, pid, 0, 0)
