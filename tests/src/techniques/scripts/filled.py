"""Fills the memory of a process that asked for it: filled.py SOURCE DESTINATION.

The child registers memory of its own with userfaultfd and hands the descriptor to its parent; the parent, which read SOURCE, copies
it there (UFFDIO_COPY). The child, which opened nothing, writes it out.
"""
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import sys

source, destination = sys.argv[1:]
USERFAULTFD, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 323, 0xC018AA3F, 0xC020AA00, 0xC028AA03
PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
size = os.path.getsize(source)
pages = (size + PAGE - 1) // PAGE * PAGE
theirs = mmap.mmap(-1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(theirs))
near, far = socket.socketpair()
child = os.fork()
if child == 0:
    near.close()
    faults = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
    if faults < 0:
        os._exit(77)
    fcntl.ioctl(faults, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
    fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack("QQQQ", start, pages, 1, 0))
    socket.send_fds(far, [b"x"], [faults])
    # The parent closes its end when it is done: no byte comes this way.
    far.recv(1)
    with open(destination, "wb", buffering=0) as copy:
        copy.write(memoryview(theirs)[:size])
    os._exit(0)
far.close()
_, received, _, _ = socket.recv_fds(near, 1, 1)
if received:
    ours = mmap.mmap(-1, pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with open(source, "rb", buffering=0) as file:
        done = 0
        while done < size:
            done += file.readinto(memoryview(ours)[done:size])
    fcntl.ioctl(received[0], UFFDIO_COPY, struct.pack("QQQQq", start, ctypes.addressof(ctypes.c_char.from_buffer(ours)), pages, 0, 0))
near.close()
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
if code == 77:
    print("the kernel refuses userfaultfd", flush=True)
sys.exit(code)
