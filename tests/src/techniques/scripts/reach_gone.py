"""Kills a server while its memory is being read: reach_gone.py HOW SERVER SOURCE DESTINATION.

The last page of the reader's buffer is there only once the server is gone, so that the call returns later than that.
"""
import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import sys
import threading

how, server, source, destination = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
libc.pread.restype = ctypes.c_ssize_t
libc.process_vm_readv.restype = ctypes.c_ssize_t
USERFAULTFD = 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
PAGE = 4096


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


victim = subprocess.Popen([sys.executable, server, source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
address, size = map(int, victim.stdout.readline().split())
buffer = mmap.mmap(-1, (size + PAGE - 1) // PAGE * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
last = start + len(buffer) - PAGE

faults = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
if faults < 0:
    print("the kernel refuses userfaultfd:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit(77)
fcntl.ioctl(faults, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack("QQQQ", last, PAGE, 1, 0))
memory = os.open(f"/proc/{victim.pid}/mem", os.O_RDONLY) if how == "mem" else -1
result = []


def read():
    if how == "mem":
        result.append(libc.pread(memory, start, size, address))
    else:
        mine, theirs = Vector(start, size), Vector(address, size)
        result.append(libc.process_vm_readv(victim.pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))


reader = threading.Thread(target=read)
reader.start()
os.read(faults, 32)
if how == "exec":
    victim.stdin.write("exec\n")
    victim.stdin.flush()
    victim.stdout.readline()
else:
    victim.kill()
    victim.wait()
fcntl.ioctl(faults, UFFDIO_ZEROPAGE, struct.pack("QQQQ", last, PAGE, 0, 0))
reader.join()
if result != [size]:
    sys.exit(f"read {result} of {size}")
if how == "exec":
    victim.kill()
    victim.wait()
with open(destination, "wb", buffering=0) as copy:
    copy.write(memoryview(buffer)[:size])
